"""What bears little weight in a run, or is left out of it: said on the first screen, before anything is believed."""

from __future__ import annotations

from collections.abc import Iterator

from gated_lpi.diagnosis import Diagnosis
from gated_lpi.report.arms import KIND_NAMES, Results, capital, kinds_there
from gated_lpi.report.findings import recall_warning, smallest_set
from gated_lpi.report.html import Html, join, tag
from gated_lpi.report.tables import listing


def caveats(results: Results, diagnosis: Diagnosis, *, trusted: bool) -> list[Html]:
    """The caveats of a run as list items, those that weigh most first.

    Args:
        results: of its arms.
        diagnosis: what is wrong with their training.
        trusted: whether scores were held against true effects.
    """
    return [tag("li", text, **attributes) for text, attributes in _all(results, diagnosis, trusted)]


def _all(results: Results, diagnosis: Diagnosis, trusted: bool) -> Iterator[tuple[str, dict[str, str]]]:
    warning = recall_warning(results)
    if warning:
        yield warning, {"class_": "weighs", "id": "recall-warning"}
    for name, reason in results.missing.items():
        yield join(tag("strong", "No results."), f" Arm {name} is left out: {reason}"), {"class_": "weighs"}
    for text in (*_holes(results), *_refused(results)):
        yield join(tag("strong", "Checkpoints left out."), f" {text}"), {"class_": "weighs"}
    for alarm in dict.fromkeys(one.name for one in diagnosis.findings):
        arms = list(dict.fromkeys(one.arm for one in diagnosis.findings if one.name == alarm))
        about = tag("a", "evidence", href="#diagnosis")
        yield join(tag("strong", capital(alarm)), f" in {listing(arms)} (", about, ")."), {"class_": "weighs"}
    seeds = _seeds(results)
    if seeds:
        yield seeds, {}
    if results.lacks is not None:
        yield f"This run has {results.lacks}: there is nothing to compare with what was published.", {}
    if not trusted:
        about = tag("a", "how to have it measured", href="#method")
        text = "Scores were not held against the true effects of silencing neurons ("
        yield join(text, about, ")."), {}
    least = smallest_set(results)
    if least is not None:
        about = tag("a", "which", href="#run")
        text = f"Some top sets are small, down to {least}: one neuron more or less moves their measures far ("
        yield join(text, about, ")."), {}
    yield from ((text, {}) for text in _unscored(results))


def _seeds(results: Results) -> str | None:
    """Groups are compared over replicates, or a run says nothing of other seeds."""
    compared = [one for judged in results.judged for one in judged.comparisons if one.judged]
    if not compared:
        return None if len(results.groups) < 2 else "No difference has an interval, so nothing is told apart."
    if any(one.contrast.over == "replicates" for one in compared):
        return None
    least = min(min(one.replicates) for one in compared)
    runs = "One training run of each model" if least == 1 else f"As few as {least} training runs of a model"
    return f"{runs}: other seeds may come out otherwise."


def _unscored(results: Results) -> Iterator[str]:
    """Which kinds of neuron have no scores, so that no measure over them is given."""
    for kind, words in KIND_NAMES.items():
        if kind in kinds_there([arm.scores for arm in results.arms]) and kind not in results.kinds:
            why = "attribution.units leaves them out"
            yield f"{capital(words)} were not scored ({why}): no measure over them is given."


def _holes(results: Results) -> Iterator[str]:
    for arm in results.arms:
        if arm.quarantined:
            keys = listing([str(record.get("key")) for record in arm.quarantined])
            yield (
                f"{arm.name}: {keys} could not be used (why: under Provenance). J_stab and R_t are those of the "
                "neighbours that remain, so there their interval is longer."
            )


def _refused(results: Results) -> Iterator[str]:
    for arm in results.arms:
        if arm.refused_pairs:
            yield (
                f"{arm.name}: consecutive checkpoints hold the same weights under two names, so J_stab and R_t between "
                f"them are not given: {'; '.join(arm.refused_pairs)}."
            )
