"""The report's sections in their order, as rows read from top to bottom: first what was found, then each measure.

1. A section is a list of rows. A row is a finding in words, a chart and a table, any of which it may do without.
2. What compares with the publication is one section, which is there where the run has both kinds of arm (`claims`).
3. Nothing is computed here: charts, tables and claims are made before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files

from gated_lpi.diagnosis import NAMES, Diagnosis
from gated_lpi.report import paper
from gated_lpi.report.arms import KIND_NAMES, Results, capital, kinds_there
from gated_lpi.report.by_method import agreement_sentence, method_name, sentences, verdict
from gated_lpi.report.chart import Chart
from gated_lpi.report.claims import Claim, claims
from gated_lpi.report.findings import explained_sentence, recall_sentence, recall_warning, settling, small_sets_note
from gated_lpi.report.html import Html, data_table, figure, folded, items, join, section, tag
from gated_lpi.report.routing_share import routing_sentences
from gated_lpi.report.tables import Table, listing, show
from gated_lpi.results import Run

NO_PAIRS = "No arm has two checkpoints, so there are no pairs of checkpoints and nothing over time to show."
NOT_POSITIVE = "No neuron of any arm has a positive score."
NO_RECORD = "was not recorded."


@dataclass(frozen=True)
class Content:
    """What the sections are made of.

    Attributes:
        run: the run that is reported.
        results: of its arms.
        diagnosis: what is wrong with their training.
        charts: by name, those that have something to show, in order of their numbers.
        tables: by name.
        heights: of charts, by name, in pixels.
        written: when the report is made.
    """

    run: Run
    results: Results
    diagnosis: Diagnosis
    charts: Mapping[str, Chart]
    tables: Mapping[str, Table]
    heights: Mapping[str, int]
    written: datetime


@dataclass(frozen=True)
class Row:
    """One step of a section: what is said first, then a chart, then a table.

    Attributes:
        finding: paragraphs, text or markup.
        chart: its name, or None.
        absent: what is said where the chart has nothing to show.
        table: its name, or None.
        title: what the table opens by on a click; None: it is open.
    """

    finding: tuple[str, ...] = ()
    chart: str | None = None
    absent: str = NO_PAIRS
    table: str | None = None
    title: str | None = None


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        anchor: what a link goes to.
        title: its heading.
        rows: from top to bottom.
    """

    anchor: str
    title: str
    rows: tuple[Row, ...]


def body(content: Content) -> Html:
    """The whole page inside `<body>`."""
    parts = sections(content)
    links = [tag("li", tag("a", part.title, href=f"#{part.anchor}")) for part in parts]
    contents = tag("nav", tag("h2", "Contents"), tag("ol", *links), aria_label="Contents")
    return tag("main", _head(content), contents, *(_section(content, part) for part in parts))


def sections(content: Content) -> tuple[Section, ...]:
    """All of the page below its head."""
    results = content.results
    return (
        *_publication(results),
        Section("diagnosis", "Diagnosis", tuple(_diagnosis(content.diagnosis))),
        Section("stability", "Stability of the top sets", (Row(tuple(_settled(results)), chart="stability"),)),
        Section(
            "profiles",
            "Layer profiles",
            (
                Row(chart="layer_profiles"),
                Row(chart="profile_correlation", absent="No profile varies over layers, so none can be correlated."),
            ),
        ),
        Section(
            "concentration",
            "Concentration",
            (Row(chart="concentration", absent=NOT_POSITIVE, table="concentration"),),
        ),
        Section("steadiness", "Steadiness of the profile", (Row(table="windows"),)),
        Section("entropy", "Entropy of importance", (Row(chart="entropy", absent=NOT_POSITIVE),)),
        Section("method", "Is it the method?", tuple(_methods(content))),
        Section(
            "ablations",
            "Ablations",
            (
                Row(chart="ablation", absent="No head and no neuron was ablated.", table="ablations"),
                *([Row(chart="damage", table="damage")] if "damage" in content.tables else []),
                *([Row(table="selectivity")] if "selectivity" in content.tables else []),
                *([Row(table="ablations_by_relation")] if "ablations_by_relation" in content.tables else []),
                Row(tuple(_unablated(results))),
            ),
        ),
        Section("neurons-or-routing", "Neurons or routing?", tuple(_neurons_or_routing(content))),
        Section("routing", "Routing", tuple(_routing(content))),
        Section(
            "recall",
            "Recall and the logit lens",
            (
                Row(chart="hits", absent=f"The rank of the target {NO_RECORD}"),
                Row(tuple(_norms(results)), chart="base_logprob", absent=f"The base log-probability {NO_RECORD}"),
                *_positions(content),
            ),
        ),
        Section("units", "Top neurons and their tokens", tuple(_units(results))),
        Section("definitions", "Definitions and caveats", (_definitions(results),)),
        Section("provenance", "Provenance", tuple(_provenance(content))),
    )


def _section(content: Content, part: Section) -> Html:
    return section(part.anchor, part.title, *(piece for row in part.rows for piece in _row(content, row)))


def _row(content: Content, row: Row) -> Iterator[Html]:
    yield from (text if isinstance(text, Html) else tag("p", text) for text in row.finding)
    if row.chart is not None:
        yield _figure(content, row.chart, row.absent)
    if row.table is not None:
        table = data_table(content.tables[row.table])
        yield table if row.title is None else folded(row.title, table)


def _figure(content: Content, name: str, absent: str) -> Html:
    """A chart's place with its number, or a paragraph that says why there is none."""
    if name not in content.charts:
        return tag("p", absent, class_="absent")
    chart = content.charts[name]
    number = list(content.charts).index(name) + 1
    return figure(number, name, chart.title, chart.caption, content.heights[name])


def _head(content: Content) -> Html:
    results = content.results
    warning = recall_warning(results)
    lines = [
        tag("h1", f"Gated-LPI report: {content.run.experiment.name}"),
        tag("p", _when(content), class_="soft"),
        tag("p", _what_this_is(results)),
        tag("p", explained_sentence(content.run.experiment.attribution)),
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
    results = content.results
    found = claims(results)
    short = [
        join(
            tag("strong", f"{claim.question} {claim.answer}."),
            f" {claim.lead} ",
            tag("span", claim.decides, class_="soft"),
        )
        for claim in found
    ]
    by_method = verdict(results)
    if by_method is not None:
        short.append(join(tag("strong", "Is it the method?"), f" {by_method}"))
    yield tag("div", items([*short, recall_sentence(results)]), class_="short")
    if results.lacks is not None:
        yield tag("p", f"This run has {results.lacks}: there is nothing to compare with what was published.")
    small = small_sets_note(results)
    if small:
        yield tag("p", small, class_="soft")
    yield data_table(content.tables["arms"])


def _when(content: Content) -> str:
    scored = sorted({str(arm.scores.attrs["created"]) for arm in content.results.arms if "created" in arm.scores.attrs})
    parts = [f"Run folder: {content.run.path.name}"]
    parts += [f"scored {scored[0]}"] if scored else []
    return " · ".join([*parts, f"report written {content.written:%Y-%m-%d %H:%M} UTC"])


def _what_this_is(results: Results) -> str:
    described = [f"{arm.name} ({'mixture of experts' if arm.is_moe else 'dense'})" for arm in results.arms]
    compared = (
        " Below is what this run shows of three claims made for mixture-of-experts (MoE) models, whichever way it "
        "falls."
        if results.lacks is None
        else ""
    )
    others = (
        f" Where no method is named, numbers are those of {method_name(results.methods[0])}."
        if len(results.methods) > 1
        else ""
    )
    return (
        "Which neurons raise the log-probability of known facts, and when in training they came to: scores of "
        f"every FFN and attention neuron by {_by(results)} at every checkpoint of "
        f"{listing(described)}.{others}{compared} Square brackets hold 95% intervals; of differences over training, "
        f"bands "
        "that hold at all checkpoints at once."
    )


def _by(results: Results) -> str:
    """By which methods neurons were scored, in words."""
    return listing([method_name(method) for method in results.methods]) or "Gated-LPI"


def _missing(results: Results) -> list[str]:
    return [f"Arm {name} is left out: {reason}" for name, reason in results.missing.items()]


def _unscored(results: Results) -> list[str]:
    """Which kinds of neuron have no scores, so that no measure over them is given."""
    return [
        f"{capital(words)} were not scored (attribution.units leaves them out): no measure over them is given."
        for kind, words in KIND_NAMES.items()
        if kind in kinds_there([arm.scores for arm in results.arms]) and kind not in results.kinds
    ]


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


def _publication(results: Results) -> Iterator[Section]:
    """What this run shows of the publication's claims; nothing where it cannot show anything."""
    found = claims(results)
    if not found:
        return
    link = tag("a", paper.SOURCE_NAME, href=paper.SOURCE_URL)
    about = tag(
        "p",
        Html(
            f"{link} compares {listing(paper.MODELS)}: other models, other data, another scale. Read the rows for "
            "which way MoE and dense differ, not for their level."
        ),
    )
    rows = (
        Row(chart="trajectories", absent="No measure can be compared over training."),
        *(Row((_claim(claim),)) for claim in found),
        Row(table="claims", title="Every measure by every method"),
        Row((about,), table="beside_paper"),
    )
    yield Section("source", "The publication's claims", rows)


def _claim(claim: Claim) -> Html:
    heading, reported = tag("h3", claim.question), tag("p", claim.reported, class_="soft")
    answer = tag("p", tag("strong", f"{claim.answer}."), f" {claim.lead}")
    decides = [tag("p", claim.decides)] if claim.decides else []
    return tag("article", heading, answer, *decides, items(claim.sentences), reported, class_="finding")


def _settled(results: Results) -> Iterator[str]:
    """When arms settled, unless that is said among the claims."""
    if results.lacks is not None and any(arm.pairs for arm in results.arms):
        yield from (settling(results, kind) for kind in results.kinds)


def _unablated(results: Results) -> Iterator[Html]:
    """Which ablations are not there, and why."""
    for arm in results.arms:
        if arm.record is None:
            yield tag("p", f"{arm.name}: ablations not run.", class_="absent")
        elif arm.record.ablation.skipped:
            yield tag("p", f"{arm.name}: {'; '.join(arm.record.ablation.skipped)}.", class_="absent")


def _diagnosis(found: Diagnosis) -> Iterator[Row]:
    """What is wrong with the arms' training, with its evidence; and what could not be judged."""
    if found.findings:
        lines = [
            join(
                tag("strong", f"{one.arm}: {one.name}."),
                f" {capital(one.evidence)}. Measured {show(one.value, 'number')}, threshold "
                f"{show(one.threshold, 'number')}; checkpoints: {_few(one.checkpoints)}.",
            )
            for one in found.findings
        ]
        yield Row((items(lines),))
    else:
        yield Row((f"None of {listing(NAMES)} was found.",))
    yield Row(tuple(tag("p", f"Not judged: {line}.", class_="absent") for line in found.unjudged))


def _few(keys: Sequence[str]) -> str:
    return ", ".join(keys) if len(keys) <= 4 else f"{keys[0]} to {keys[-1]} ({len(keys)} of them)"


def _methods(content: Content) -> Iterator[Row]:
    results = content.results
    said = verdict(results)
    if said is None:
        yield Row((f"Neurons were scored by {_by(results)} alone, so there is no other method to hold against it.",))
        yield from _trust(content)
        return
    agreement = agreement_sentence(results)
    yield Row((said, items(list(sentences(results))), *([agreement] if agreement else [])))
    yield Row(chart="methods", table="methods")
    yield Row(chart="method_agreement", absent="No two methods rank the neurons.", table="method_agreement")
    yield from _trust(content)


def _trust(content: Content) -> Iterator[Row]:
    """How far the methods agree with true effects, or how to have that measured."""
    if "trust" in content.tables:
        yield Row(table="trust")
        yield Row(table="trust_by_layer", title="By layer")
        return
    yield Row(
        (
            "No true effects were measured in this run, so it does not say which method to trust: "
            "name true_effect in attribution.methods, or run gated-lpi compare on a checkpoint.",
        )
    )


def _neurons_or_routing(content: Content) -> Iterator[Row]:
    yield Row(tuple(routing_sentences(content.results)))
    if "routing_null" in content.tables:
        yield Row(chart="routing_null", table="routing_null")
    if "routing_split" in content.charts:
        yield Row(chart="routing_split", table="splits")
    if "redundancy" in content.tables:
        yield Row(table="redundancy")


def _routing(content: Content) -> Iterator[Row]:
    results = content.results
    dense = [arm.name for arm in results.dense]
    if dense:
        yield Row((f"Dense arms have no routing: {listing(dense)}.",))
    if results.moe:
        for chart in ("expert_utilisation", "routing"):
            yield Row(chart=chart, absent=f"Expert utilisation {NO_RECORD}")
        yield Row(chart="utilisation_by_relation", absent=f"Expert utilisation by relation {NO_RECORD}")
    routes = [name for name in content.tables if name.startswith("routes_")]
    if routes:
        yield Row(
            (
                "Which experts took each token, and with which gate: the first prompt of each of the first relations, "
                "at the last checkpoint.",
            )
        )
    for name in routes:
        yield Row(table=name, title=content.tables[name].caption.split("\n")[0])


def _positions(content: Content) -> Iterator[Row]:
    if "attention_positions" in content.charts:
        yield Row(chart="attention_positions")


def _norms(results: Results) -> Iterator[str]:
    norms = sorted({str(arm.scores.attrs["norm"]) for arm in results.arms if "norm" in arm.scores.attrs})
    if norms:
        yield f"The readout's norm in this run: {listing(norms)}."


def _units(results: Results) -> Iterator[Row]:
    yield Row(
        (
            "The neurons of greatest mean score at the last checkpoint, and the tokens whose logits their value vector "
            "raises and lowers most where its coefficient is positive. Where the mean coefficient is negative, the "
            "neuron usually does the opposite. ␣ is a space.",
        )
    )
    for arm in results.arms:
        if arm.record is None:
            yield Row((f"{arm.name}: not run.",))
            continue
        for kind in kinds_there([arm.scores]):
            units = arm.record.top(kind)
            title = f"{arm.name}: {KIND_NAMES[kind]}"
            if not units:
                yield Row((f"{title} are not listed: none was scored or asked for.",))
            else:
                yield Row(table=f"top_{kind}_{arm.name}", title=None if kind == "ffn" else title)


def _definitions(results: Results) -> Row:
    fraction = results.arms[0].summary.attrs["fraction"]
    listed = Html(files("gated_lpi.report").joinpath("definitions.html").read_text(encoding="utf-8"))
    return Row((f"The top set's fraction in this run is {show(float(fraction), 'share')}.", listed))


def _provenance(content: Content) -> Iterator[Row]:
    yield Row((_dropped(content.results),))
    for arm in content.results.arms:
        yield Row(table=f"checkpoints_{arm.name}", title=f"{arm.name}: {len(arm.checkpoints)} checkpoints")
    if "remarks" in content.tables:
        count = len(content.tables["remarks"].rows)
        yield Row(table="remarks", title=f"Remarks on the checkpoints: {count}")
    if "quarantined" in content.tables:
        yield Row(table="quarantined")
    yield Row(table="options", title="Every option, version and digest")


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
