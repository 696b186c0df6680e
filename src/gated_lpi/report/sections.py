"""The report's sections in their order: first what was found, then each measure, then where it all comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files

from gated_lpi.report import paper
from gated_lpi.report.arms import KIND_NAMES, Results
from gated_lpi.report.chart import Chart
from gated_lpi.report.findings import Finding, findings, recall_sentence, recall_warning, small_sets_note
from gated_lpi.report.html import Html, data_table, figure, folded, items, join, section, tag
from gated_lpi.report.tables import Table, listing, show
from gated_lpi.results import Run

NO_PAIRS = "No arm has two checkpoints, so there are no pairs of checkpoints and nothing over time to show."


@dataclass(frozen=True)
class Content:
    """What the sections are made of; `charts` holds those that have something to show, in order of their numbers."""

    run: Run
    results: Results
    charts: Mapping[str, Chart]
    tables: Mapping[str, Table]
    heights: Mapping[str, int]
    written: datetime

    def figure(self, name: str, absent: str = NO_PAIRS) -> Html:
        """A chart's place with its number, or a paragraph that says why there is none."""
        if name not in self.charts:
            return tag("p", absent, class_="absent")
        chart = self.charts[name]
        number = list(self.charts).index(name) + 1
        return figure(number, name, chart.title, chart.caption, self.heights[name])

    def table(self, name: str) -> Html:
        """A table."""
        return data_table(self.tables[name])


def body(content: Content) -> Html:
    """The whole page inside `<body>`."""
    sections: tuple[tuple[str, str, Callable[[Content], Iterable[str]]], ...] = (
        ("stability", "Stability of the top sets", _stability),
        ("profiles", "Layer profiles", _profiles),
        ("concentration", "Concentration", _concentration),
        ("steadiness", "Steadiness of the profile", _steadiness),
        ("entropy", "Entropy of importance", _entropy),
        ("ablations", "Ablations", _ablations),
        ("routing", "Routing", _routing),
        ("recall", "Recall and the logit lens", _recall),
        ("units", "Top neurons and their tokens", _units),
        ("source", "Beside the source's figures", _source),
        ("definitions", "Definitions and caveats", _definitions),
        ("provenance", "Provenance", _provenance),
    )
    links = [tag("li", tag("a", title, href=f"#{anchor}")) for anchor, title, _ in sections]
    contents = tag("nav", tag("h2", "Contents"), tag("ol", *links), aria_label="Contents")
    return tag(
        "main",
        _head(content),
        contents,
        *(section(anchor, title, *make(content)) for anchor, title, make in sections),
    )


def _head(content: Content) -> Html:
    results = content.results
    warning = recall_warning(results)
    lines = [
        tag("h1", f"Gated-LPI report: {content.run.experiment.name}"),
        tag("p", _when(content), class_="soft"),
        tag("p", _what_this_is(results)),
        *(
            tag("div", tag("p", tag("strong", "No results. "), text), class_="warning", role="note")
            for text in _missing(results)
        ),
        *([tag("div", tag("p", warning), class_="warning", id="recall-warning", role="note")] if warning else []),
        *(tag("p", text, class_="absent") for text in _unscored(results)),
        *(
            tag("div", tag("p", tag("strong", "Checkpoints left out. "), text), class_="warning", role="note")
            for text in (*_holes(results), *_refused(results))
        ),
        section("found", "What was found here", *_found(content)),
    ]
    return tag("header", *lines)


def _found(content: Content) -> Iterable[str]:
    found = findings(content.results)
    short = (join(tag("strong", finding.question), f" {finding.outcome}") for finding in found)
    yield tag("div", items([*short, recall_sentence(content.results)]), class_="short")
    small = small_sets_note(content.results)
    if small:
        yield tag("p", small, class_="soft")
    yield from (_finding(finding) for finding in found)
    yield content.table("arms")


def _finding(finding: Finding) -> Html:
    heading, source = tag("h3", finding.question), tag("p", finding.source, class_="soft")
    return tag("article", heading, items(finding.sentences), source, class_="finding")


def _when(content: Content) -> str:
    scored = sorted({str(arm.scores.attrs["created"]) for arm in content.results.arms if "created" in arm.scores.attrs})
    parts = [f"Run folder: {content.run.path.name}"]
    parts += [f"scored {scored[0]}"] if scored else []
    return " · ".join([*parts, f"report written {content.written:%Y-%m-%d %H:%M} UTC"])


def _what_this_is(results: Results) -> str:
    described = [f"{arm.name} ({'mixture of experts' if arm.is_moe else 'dense'})" for arm in results.arms]
    return (
        "Which neurons raise the log-probability of known facts, and when in training they came to: Gated-LPI scores "
        f"of every FFN and attention neuron at every checkpoint of {listing(described)}. Below is what this run shows "
        "of three claims made for mixture-of-experts (MoE) models, whichever way it falls. Square brackets hold 95% "
        "intervals; values are told apart when their intervals do not overlap."
    )


def _missing(results: Results) -> list[str]:
    return [f"Arm {name} is left out: {reason}" for name, reason in results.missing.items()]


def _unscored(results: Results) -> list[str]:
    """Which kinds of neuron have no scores, so that no measure over them is given."""
    return [
        f"{_capital(words)} were not scored (attribution.units leaves them out): no measure over them is given."
        for kind, words in KIND_NAMES.items()
        if kind not in results.kinds
    ]


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def _holes(results: Results) -> list[str]:
    return [
        f"{arm.name}: {listing([str(record.get('key')) for record in arm.quarantined])} could not be used (why: under "
        "Provenance). J_stab and R_t are those of the neighbours that remain, so there their interval is longer."
        for arm in results.arms
        if arm.quarantined
    ]


def _refused(results: Results) -> list[str]:
    return [
        f"{arm.name}: consecutive checkpoints hold the same weights under two names, so J_stab and R_t between them "
        f"are not given: {'; '.join(arm.refused_pairs)}."
        for arm in results.arms
        if arm.refused_pairs
    ]


def _stability(content: Content) -> Iterable[str]:
    yield content.figure("stability")


def _profiles(content: Content) -> Iterable[str]:
    yield content.figure("layer_profiles")
    yield content.figure("profile_correlation", "No profile varies over layers, so none can be correlated.")


def _concentration(content: Content) -> Iterable[str]:
    yield content.figure("concentration", "No neuron of any arm has a positive score.")
    yield content.table("concentration")


def _steadiness(content: Content) -> Iterable[str]:
    yield content.table("windows")


def _entropy(content: Content) -> Iterable[str]:
    yield content.figure("entropy", "No neuron of any arm has a positive score.")


def _ablations(content: Content) -> Iterable[str]:
    yield content.figure("ablation", "No head and no neuron was ablated.")
    yield content.table("ablations")
    for arm in content.results.arms:
        if arm.record is not None and arm.record.ablation.skipped:
            yield tag("p", f"{arm.name}: {'; '.join(arm.record.ablation.skipped)}.", class_="absent")


def _routing(content: Content) -> Iterable[str]:
    dense = [arm.name for arm in content.results.dense]
    if dense:
        yield tag("p", f"Dense arms have no routing: {listing(dense)}.")
    if content.results.moe:
        yield content.figure("expert_utilisation", "Expert utilisation was not recorded.")
        yield content.figure("routing", "Expert utilisation was not recorded.")


def _recall(content: Content) -> Iterable[str]:
    yield content.figure("hits", "The rank of the target was not recorded.")
    norms = sorted({str(arm.scores.attrs["norm"]) for arm in content.results.arms if "norm" in arm.scores.attrs})
    if norms:
        yield tag("p", f"The readout's norm in this run: {listing(norms)}.")
    yield content.figure("base_logprob", "The base log-probability was not recorded.")


def _units(content: Content) -> Iterable[str]:
    yield tag(
        "p",
        "The neurons of greatest mean score at the last checkpoint, and the tokens whose logits their value vector "
        "raises and lowers most where its coefficient is positive. Where the mean coefficient is negative, the "
        "neuron usually does the opposite. ␣ is a space.",
    )
    for arm in content.results.arms:
        if arm.record is None:
            yield tag("p", f"{arm.name}: not run.")
            continue
        for kind, units in (("ffn", arm.record.top_ffn), ("attention", arm.record.top_attention)):
            table = f"top_{kind}_{arm.name}"
            if not units:
                yield tag("p", f"{arm.name}: {KIND_NAMES[kind]} are not listed: none was scored or asked for.")
            elif kind == "ffn":
                yield content.table(table)
            else:
                yield folded(f"{arm.name}: {KIND_NAMES[kind]}", content.table(table))


def _source(content: Content) -> Iterable[str]:
    link = tag("a", paper.SOURCE_NAME, href=paper.SOURCE_URL)
    yield tag(
        "p",
        Html(
            f"{link} compares {listing(paper.MODELS)}: other models, other data, another scale. Read the rows for "
            "which way MoE and dense differ, not for their level."
        ),
    )
    yield content.table("beside_paper")


def _definitions(content: Content) -> Iterable[str]:
    fraction = content.results.arms[0].summary.attrs["fraction"]
    yield tag("p", f"The top set's fraction in this run is {show(float(fraction), 'share')}.")
    yield Html(files("gated_lpi.report").joinpath("definitions.html").read_text(encoding="utf-8"))


def _provenance(content: Content) -> Iterable[str]:
    yield tag("p", _dropped(content.results))
    for arm in content.results.arms:
        title = f"{arm.name}: {len(arm.checkpoints)} checkpoints"
        yield folded(title, content.table(f"checkpoints_{arm.name}"))
    if "remarks" in content.tables:
        count = len(content.tables["remarks"].rows)
        yield folded(f"Remarks on the checkpoints: {count}", content.table("remarks"))
    if "quarantined" in content.tables:
        yield content.table("quarantined")
    yield folded("Every option, version and digest", content.table("options"))


def _dropped(results: Results) -> str:
    """What the numbers rest on, and what is not in them."""
    parts = []
    for arm in results.arms:
        undefined = sum(
            int(arm.summary[name].isnull().sum())
            for name in ("gain_top_set", "importance_share", "profile_pearson")
            if name in arm.summary
        )
        prompts, relations = (arm.scores.sizes.get(dim, 0) for dim in ("prompt", "relation"))
        skipped = max((int(record.get("n_skipped", 0)) for record in arm.checkpoints), default=0)
        left = f"{skipped:,} {'fact' if skipped == 1 else 'facts'} skipped, " if skipped else ""
        parts.append(f"{arm.name}: {prompts:,} prompts of {relations} relations, {left}{undefined} undefined values")
    left_out = f" Arms left out for lack of results: {listing(list(results.missing))}." if results.missing else ""
    return (
        f"{'; '.join(parts)}. Undefined values (of R_t, importance shares and profile correlations) arise where "
        f"nothing is positive or a profile is constant; they are shown as gaps and left out of means.{left_out}"
    )
