"""The report's sections in their order, as rows read from top to bottom: first what was found, then each measure.

1. A section is a list of rows. A row is a finding in words, a chart and a table, any of which it may do without.
2. What compares with the publication is one section, which is there where the run has both kinds of arm (`claims`).
3. Nothing is computed here: charts, tables and claims are made before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files

from gated_lpi.diagnosis import NAMES, Finding
from gated_lpi.report import paper
from gated_lpi.report.arms import KIND_NAMES, Results, capital, kinds_there
from gated_lpi.report.by_method import agreement_sentence, method_name, sentences, verdict
from gated_lpi.report.claims import Claim, claims
from gated_lpi.report.content import Content, chart_figure, shown_table
from gated_lpi.report.explorer_links import units_links
from gated_lpi.report.findings import explained_sentence, recall_sentence, settling, small_sets_note
from gated_lpi.report.first_screen import first_screen
from gated_lpi.report.html import Html, folded, items, join, linked, section, tag
from gated_lpi.report.routing_share import routing_sentences
from gated_lpi.report.tables import listing, show
from gated_lpi.report.thinned import kept

NO_PAIRS = "No arm has two checkpoints, so there are no pairs of checkpoints and nothing over time to show."
NOT_POSITIVE = "No neuron of any arm has a positive score."
NO_RECORD = "was not recorded."
MOST_IDLE = 12  # experts, by name


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
    return tag("main", first_screen(content), contents, *(_section(content, part) for part in parts))


def sections(content: Content) -> tuple[Section, ...]:
    """All of the page below its head."""
    results = content.results
    return (
        Section("run", "What was run", (Row(tuple(_what_was_run(content)), table="arms"),)),
        *_publication(results),
        Section("diagnosis", "Diagnosis", tuple(_diagnosis(content))),
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
                Row((recall_sentence(results),), chart="hits", absent=f"The rank of the target {NO_RECORD}"),
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
        yield chart_figure(content, row.chart, row.absent)
    if row.table is not None:
        table = shown_table(content, row.table)
        yield table if row.title is None else folded(row.title, table)


def _what_was_run(content: Content) -> Iterator[str]:
    results = content.results
    described = [f"{arm.name} ({'mixture of experts' if arm.is_moe else 'dense'})" for arm in results.arms]
    others = (
        f" Where no method is named, numbers are those of {method_name(results.methods[0])}."
        if len(results.methods) > 1
        else ""
    )
    yield (
        f"Every FFN and attention neuron was scored by {_by(results)} at every checkpoint of {listing(described)}."
        f"{others}"
    )
    yield explained_sentence(content.run.experiment.attribution)
    scored = sorted({str(arm.scores.attrs["created"]) for arm in results.arms if "created" in arm.scores.attrs})
    begun = f", scored {scored[0]}" if scored else ""
    yield f"Run folder: {content.run.path.name}{begun}; report written {content.written:%Y-%m-%d %H:%M} UTC."
    small = small_sets_note(results)
    if small:
        yield small
    longest = max(len(arm.checkpoints) for arm in results.arms)
    if len(kept(longest)) < longest:
        yield (
            f"Figures that answer the mouse draw {len(kept(longest))} of {longest} checkpoints, evenly many; pictures "
            "in the folder figures, and all numbers, have every one."
        )
    if content.explorer is not None:
        yield (
            "Names of neurons, heads and experts lead to the explorer, while it runs (gated-lpi explore "
            f"{content.run.path.name}), at {content.explorer.address}."
        )


def _by(results: Results) -> str:
    """By which methods neurons were scored, in words."""
    return listing([method_name(method) for method in results.methods]) or "Gated-LPI"


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
    each = folded(f"Measure by measure ({len(claim.sentences)})", items(claim.sentences))
    return tag("article", heading, answer, *decides, each, reported, class_="finding")


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


def _diagnosis(content: Content) -> Iterator[Row]:
    """What is wrong with the arms' training, with its evidence; and what could not be judged."""
    found = content.diagnosis
    if found.findings:
        lines = [
            join(
                tag("strong", f"{one.arm}: {one.name}."),
                f" {capital(one.evidence)}. Measured {show(one.value, 'number')}, threshold "
                f"{show(one.threshold, 'number')}; checkpoints: {_few(one.checkpoints)}.",
                *_idle(content, one),
            )
            for one in found.findings
        ]
        yield Row((items(lines),))
    else:
        yield Row((f"None of {listing(NAMES)} was found.",))
    yield Row(tuple(tag("p", f"Not judged: {line}.", class_="absent") for line in found.unjudged))


def _idle(content: Content, finding: Finding) -> Iterator[str]:
    """The experts that take no part, where they are found not to."""
    named = units_links(finding.arm, finding.experts, finding.checkpoints[-1], MOST_IDLE)
    if named is not None:
        yield from (" Idle where it is worst: ", linked(named, content.explorer), ".")


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
            "neuron usually does the opposite. ␣ is a space. L2 E5 n17 is neuron 17 of expert 5 in layer 2, L2 H3 n4 "
            "neuron 4 of head 3.",
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
    listed = Html(files("gated_lpi.report").joinpath("page_files", "definitions.html").read_text(encoding="utf-8"))
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
