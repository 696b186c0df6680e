"""Tables of what a sceptic asks: other methods, routing alone, damage to the whole model, and what routers did.

They stand beside the charts of `doubts`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gated_lpi._common.entries import printable
from gated_lpi.metrics import drop_at_damage
from gated_lpi.report.arms import KIND_NAMES, ArmResults, Results
from gated_lpi.report.by_method import MEASURES, measured, method_name
from gated_lpi.report.estimates import NAN, ablation_damage, ablation_drop, mean_over_pairs, number, read
from gated_lpi.report.explorer_links import Linked, Phrase, units_link, units_links
from gated_lpi.report.routing_share import has_null
from gated_lpi.report.tables import RHO_AVG, SIGMA_REL, Column, Table, show
from gated_lpi.report.token_routes import Route, routes
from gated_lpi.results.records import AblationRow, AblationTable, Selectivity

LAST = -1
MOST_EXPERTS = 4  # of a token in a layer, by name
MOST_TOKENS, MOST_CHARACTERS = 64, 400  # of a prompt, counted from its end


def methods(results: Results) -> Table:
    """J_stab, R_t, ρ_avg and σ_rel by every method."""
    columns = (
        Column("arm"),
        Column("neurons"),
        Column("method"),
        Column("J_stab, last pair", "number"),
        Column("chance", "number"),
        Column("R_t, mean over pairs", "share"),
        Column("R_t, last pair", "share"),
        Column("chance", "share"),
        Column(RHO_AVG, "number"),
        Column(SIGMA_REL, "number"),
    )
    stable, gain, rho, sigma = MEASURES
    rows = tuple(
        (
            arm.name,
            KIND_NAMES[kind],
            method_name(method),
            measured(arm, method, stable, kind),
            number(summary, "stability_chance", kind=kind),
            mean_over_pairs(summary, "gain_top_set", kind),
            measured(arm, method, gain, kind),
            number(summary, "gain_top_set_chance", kind=kind, pair=LAST),
            measured(arm, method, rho, kind).value,
            measured(arm, method, sigma, kind).value,
        )
        for arm, kind in results.arms_and_kinds()
        for method, summary in arm.by_method.items()
    )
    caption = (
        f"The same measures by every method, with 95% bootstrap intervals over relations. {RHO_AVG} and {SIGMA_REL} "
        "are those of the first window, and have no intervals. The methods' intervals rest on the same prompts."
    )
    return Table("methods", caption, columns, rows)


def agreements(results: Results) -> Table:
    """How far the methods' rankings of neurons agree."""
    columns = (
        Column("arm"),
        Column("neurons"),
        Column("methods"),
        Column("Spearman within layers, last", "number"),
        Column("least over checkpoints", "number"),
        Column("top sets shared, last", "share"),
        Column("chance", "share"),
    )
    rows = tuple(
        (
            arm.name,
            KIND_NAMES[kind],
            f"{method_name(str(here['method'].item()))} / {method_name(str(here['other_method'].item()))}",
            read(here, "spearman_within", checkpoint=LAST),
            float(here["spearman_within"].min()),
            number(here, "overlap", checkpoint=LAST),
            number(here, "overlap_chance"),
        )
        for arm in results.arms
        if arm.agreement is not None
        for kind in arm.kinds()
        for i in range(arm.agreement.sizes["comparison"])
        for here in [arm.agreement.isel(comparison=i).sel(kind=kind)]
    )
    caption = (
        "Agreement of the methods' mean scores: Spearman's correlation of ranks within layers, pooled (by chance 0), "
        "with its 95% bootstrap interval over relations at the last checkpoint, and the share of one top set that is "
        "in the other's, beside that of independent sets."
    )
    return Table("method_agreement", caption, columns, rows)


def routing_null(results: Results) -> Table:
    """What routing alone explains of J_stab and R_t in the FFN, by every method."""
    columns = (
        Column("arm"),
        Column("method"),
        Column("J_stab, last pair", "number"),
        Column("routing alone", "number"),
        Column("left open by experts, shared", "share"),
        Column("R_t, last pair", "share"),
        Column("routing alone", "share"),
        Column("J of top experts", "number"),
        Column("chance", "number"),
    )
    here: dict[str, Any] = {"kind": "ffn", "pair": LAST}
    rows = tuple(
        (
            arm.name,
            method_name(method),
            read(summary, "stability", **here),
            read(summary, "stability_routing_null", **here),
            number(summary, "stability_given_counts", **here),
            read(summary, "gain_top_set", **here),
            number(summary, "gain_top_set_routing_null", **here),
            number(summary, "expert_stability", pair=LAST),
            number(summary, "expert_stability_chance"),
        )
        for arm in results.moe
        if has_null(arm)
        for method, summary in arm.by_method.items()
    )
    caption = (
        "Last pair, FFN neurons. Routing alone: neurons permuted within their experts, with 95% of permutations. Left "
        "open by experts: of the overlap of top sets that the experts' numbers of top neurons leave open, the share "
        "that is there; 0% is what routing alone gives, 100% all that it allows. J of top experts: of those of "
        "greatest summed importance."
    )
    return Table("routing_null", caption, columns, rows)


def damage(results: Results) -> Table:
    """What every ablation takes from recall, beside what it does to the loss on unrelated text."""
    columns = (
        Column("arm"),
        Column("silenced"),
        Column("chosen by"),
        Column("drop", "percent"),
        Column("intact loss", "number"),
        Column("loss", "number"),
        Column("rise", "number"),
        Column("random rise, mean", "number"),
        Column("random rise, greatest", "number"),
    )
    rows = []
    for arm, table, row in _every_row(results):
        found = ablation_damage(table, row)
        if found is not None:
            what = arm, row.name, method_name(row.method), ablation_drop(table, row).drop
            randoms = np.array(found.random_rises or (NAN,))
            losses = table.text_loss, row.text_loss, found.rise, float(randoms.mean()), float(randoms.max())
            rows.append((*what, *losses))
    caption = (
        "The drop of HIT@k beside the damage to the model as such: its loss on text that has nothing to do with the "
        "facts, nats per token, and how far that rises above the intact model's; of random sets of as many, too."
    )
    return Table("damage", caption, columns, tuple(rows))


def selectivity(results: Results) -> Table:
    """What silencing the top FFN units costs the relations that chose them, others, and unrelated text."""
    columns = (
        Column("arm"),
        Column("silenced"),
        Column("chosen by"),
        Column("ranking relations: HIT@k intact", "share"),
        Column("silenced", "share"),
        Column("same layers", "share"),
        Column("other relations: HIT@k intact", "share"),
        Column("silenced", "share"),
        Column("same layers", "share"),
        Column("log p lost, ranking", "number"),
        Column("log p lost, other", "number"),
        Column("loss on text, rise", "number"),
        Column("same layers", "number"),
        Column("log p lost at equal damage"),
    )
    rows = tuple(row for arm in results.arms for row in _selectivity(arm))
    caption = (
        "Knowledge, or the language model? Units are ranked on every second relation; the others did not choose them. "
        "Same layers: as many random units of the same layers, mean of the draws. Log p in nats a prompt, loss in nats "
        "a token. At equal damage: what the ranking relations lose where the loss on text has risen as far as every "
        "ranking of the arm raises it, straight between the shares that were silenced."
    )
    return Table("selectivity", caption, columns, rows)


def _selectivity(arm: ArmResults) -> Iterator[tuple[Any, ...]]:
    found = None if arm.record is None else arm.record.selectivity
    if found is None:
        return
    intact = found.intact
    for row in found.rows:
        silenced, layers = row.silenced, {name: float(np.mean(values)) for name, values in row.same_layers.items()}
        hits = [values.get(name, NAN) for name in ("hit_k", "other_hit_k") for values in (intact, silenced, layers)]
        lost = [intact.get(name, NAN) - silenced.get(name, NAN) for name in ("logprob", "other_logprob")]
        rises = [values.get("text_loss", NAN) - intact.get("text_loss", NAN) for values in (silenced, layers)]
        name = f"top {show(row.share, 'share')} of FFN units ({row.count:,})"
        yield (arm.name, name, method_name(row.method), *hits, *lost, *rises, _at_equal_damage(found, row.method))


def _at_equal_damage(found: Selectivity, method: str) -> str | None:
    """What a ranking costs where it has done as much damage to the text as every other one does; None if none does."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in found.rows:
        harm = row.silenced.get("text_loss", NAN) - found.intact.get("text_loss", NAN)
        curves.setdefault(row.method, []).append(
            (harm, found.intact.get("logprob", NAN) - row.silenced.get("logprob", NAN))
        )
    at = min(max(harm for harm, _ in curve) for curve in curves.values())
    if not at > 0 or not np.isfinite(curves[method]).all():
        return None
    damage, drop = zip(*curves[method], strict=True)
    return f"{show(float(drop_at_damage(damage, drop, at)), 'number')} at +{show(at, 'number')}"


def redundancy(results: Results) -> Table:
    """How routing answers when top experts fall silent, beside random experts of the same layers."""
    columns = (
        Column("arm"),
        Column("silenced"),
        Column("chosen by"),
        Column("log p lost, routing frozen", "number"),
        Column("routing free", "number"),
        Column("recovered", "number"),
        Column("recovered for random experts, mean", "number"),
        Column("least to most"),
        Column("HIT@k, routing frozen", "share"),
        Column("routing free", "share"),
        Column("experts kept", "number"),
        Column("for random experts", "number"),
    )
    rows = []
    for arm in results.arms:
        if arm.record is None:
            continue
        for row in arm.record.redundancy:
            frozen, free = (row.logprob_intact - one for one in (row.logprob_frozen, row.logprob_free))
            random = row.random_recovered
            name = units_links(arm.name, row.experts, arm.record.ablation.checkpoint, len(row.experts))
            drawn = float(np.mean(random)), f"{show(min(random), 'number')} to {show(max(random), 'number')}"
            kept = row.jaccard, float(np.mean(row.random_jaccard))
            what = arm.name, name, method_name(row.method)
            rows.append((*what, frozen, free, frozen - free, *drawn, row.hit_frozen, row.hit_free, *kept))
    caption = (
        "Does routing adapt when top experts are silenced? Frozen: every token keeps the experts that the intact model "
        "gives it; free: routers answer. Recovered is what their answer saves, nats a prompt, of the first token of "
        "answers; below 0 it costs. Beside it as many random experts of the same layers, since taking anything away "
        "moves routers. Experts kept: overlap (Jaccard) of a token's experts with those of the intact model; 1: no "
        "answer."
    )
    return Table("redundancy", caption, columns, tuple(rows))


def token_routes(arm: ArmResults) -> list[Table]:
    """Which experts took each token of a few prompts at the last checkpoint, and with which gates; a table a prompt.

    The first line of a caption says which prompt it is.
    """
    return [_route(arm, route, f"routes_{arm.name}_{index}") for index, route in enumerate(routes(arm.scores), 1)]


def _route(arm: ArmResults, route: Route, name: str) -> Table:
    count = len(route.tokens)
    first = max(count - MOST_TOKENS, 0)
    which = f"the last {MOST_TOKENS} of {count:,} tokens" if first else "each token"
    text = route.text if len(route.text) <= MOST_CHARACTERS else f"…{route.text[-MOST_CHARACTERS:]}"
    kept = [Column("text", "tokens")] if route.texts else []
    columns = (Column("position", "count"), *kept, *(Column(f"layer {layer}") for layer in route.layers))
    title = f"{arm.name}, {printable(route.relation)}: “{printable(text)}”".replace("\n", "\\n")
    caption = (
        f"{title}\nLast checkpoint; a row for {which} of the prompt, by position from 0; at the last one the answer is "
        "predicted. Experts by falling gate, which is in brackets."
    )
    key = str(arm.checkpoints[LAST]["key"])
    cells = [
        [_experts(arm.name, layer, gates, key) for layer, gates in zip(route.layers, layers, strict=True)]
        for layers in route.tokens[first:]
    ]
    plain = [tuple(cell.text for cell in row) for row in cells[:-1]]  # links in all rows would be most of the page
    rows: list[tuple[Any, ...]] = [*plain, *map(tuple, cells[-1:])]
    if route.texts:
        rows = [((text,), *row) for text, row in zip(route.texts[first:], rows, strict=True)]
    return Table(name, caption, columns, tuple((place, *row) for place, row in enumerate(rows, first)))


def _experts(arm: str, layer: int, gates: Sequence[tuple[int, float]], checkpoint: str) -> Phrase:
    """Experts of a layer with their gates: L2 E3 (0.61), L2 E7 (0.22) and how many more."""
    parts: list[str | Linked] = []
    for expert, gate in gates[:MOST_EXPERTS]:
        parts += [", " if parts else "", units_link(arm, f"L{layer} E{expert}", checkpoint), f" ({gate:.2f})"]
    more = len(gates) - MOST_EXPERTS
    return Phrase((*(parts or ["none"]), *([f" and {more} more"] if more > 0 else [])))


def _every_row(results: Results) -> Iterator[tuple[str, AblationTable, AblationRow]]:
    for arm in results.arms:
        if arm.record is not None:
            yield from ((arm.name, arm.record.ablation, row) for row in arm.record.ablation.rows)
