"""The report's tables, made from results: every number is the summary's or the record's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gated_lpi import score_schema as schema
from gated_lpi._common.remarks import remarks
from gated_lpi.report import paper
from gated_lpi.report.arms import KIND_NAMES, ArmResults, Results, kinds_there
from gated_lpi.report.breakdown import ablations_by_relation, splits, trust, trust_by_layer
from gated_lpi.report.by_method import method_name
from gated_lpi.report.claims import table as claim_table
from gated_lpi.report.clocks import clock_name
from gated_lpi.report.doubt_tables import (
    agreements,
    damage,
    methods,
    redundancy,
    routing_null,
    selectivity,
    token_routes,
)
from gated_lpi.report.estimates import NAN, ablation_drop, mean_over_pairs, number, read
from gated_lpi.report.explorer_links import unit_link, units_links
from gated_lpi.report.routing_share import has_null
from gated_lpi.report.tables import RHO_AVG, SIGMA_REL, Column, Form, Table, show
from gated_lpi.results import Run
from gated_lpi.unit_names import BLOCK_NAMES, short_name

LAST = -1
MOST_HEADS = 10  # of an ablation, by name


def all_tables(run: Run, results: Results) -> dict[str, Table]:
    """Every table of the report by name."""
    tables = [
        arms(results),
        concentration(results),
        windows(results),
        *([methods(results), agreements(results)] if len(results.methods) > 1 else []),
        *([routing_null(results)] if any(has_null(arm) for arm in results.moe) else []),
        *(table for arm in results.moe for table in token_routes(arm)),
        ablations(results),
        *([harm] if (harm := damage(results)).rows else []),
        *([spared] if (spared := selectivity(results)).rows else []),
        *([by_relation] if (by_relation := ablations_by_relation(results)).rows else []),
        *([trusted, trust_by_layer(results)] if (trusted := trust(results)).rows else []),
        *([split] if (split := splits(results)).rows else []),
        *([adapting] if (adapting := redundancy(results)).rows else []),
        *(top_units(arm, kind) for arm in results.arms if arm.record is not None for kind in KIND_NAMES),
        *([claim_table(results), beside_paper(results)] if results.lacks is None else []),
        *(checkpoints(arm) for arm in results.arms),
        *([said(results)] if any(_said(arm) for arm in results.arms) else []),
        *([quarantined(results)] if results.quarantined else []),
        options(run, results),
    ]
    return {table.name: table for table in tables}


def arms(results: Results) -> Table:
    """What each arm is, and how much it recalls."""
    mixed = "mixer" in kinds_there([arm.scores for arm in results.arms])
    columns = (
        Column("arm"),
        Column("FFN"),
        Column("parameters", "count"),
        Column("per token", "count"),
        Column("layers", "count"),
        Column("FFN neurons (top set)"),
        Column("attention neurons (top set)"),
        *([Column("mixer neurons (top set)")] if mixed else []),
        Column("checkpoints", "count"),
        Column("last step", "count"),
        Column("HIT@10", "share"),
    )
    rows = tuple(
        (
            arm.name,
            "experts" if arm.is_moe else "dense",
            arm.record.parameters if arm.record else None,
            arm.record.parameters_active if arm.record else None,
            arm.summary.sizes["layer"],
            _sizes(arm, "ffn"),
            _sizes(arm, "attention"),
            *([_sizes(arm, "mixer")] if mixed else []),
            arm.summary.sizes["checkpoint"],
            arm.last_step,
            read(arm.summary, "hit", checkpoint=LAST, hit_k=10),
        )
        for arm in results.arms
    )
    caption = (
        "The arms. A top set is a share of an arm's neurons, so its size differs where arms do. HIT@10: at the last "
        "checkpoint."
    )
    return Table("arms", caption, columns, rows)


def concentration(results: Results) -> Table:
    """R_t, its variant by gain, and importance shares."""
    columns = (
        Column("arm"),
        Column("neurons"),
        Column("R_t, mean over pairs", "share"),
        Column("R_t, last pair", "share"),
        Column("chance", "share"),
        Column("95% of random sets within"),
        Column("top by gain, last pair", "share"),
        Column("importance share, last", "share"),
        Column("chance", "share"),
    )
    rows = tuple(
        (
            arm.name,
            KIND_NAMES[kind],
            mean_over_pairs(arm.summary, "gain_top_set", kind),
            read(arm.summary, "gain_top_set", kind=kind, pair=LAST),
            number(arm.summary, "gain_top_set_chance", kind=kind, pair=LAST),
            _range(arm, "gain_top_set_chance", kind),
            read(arm.summary, "gain_top_by_gain", kind=kind, pair=LAST),
            read(arm.summary, "importance_share", kind=kind, checkpoint=LAST),
            number(arm.summary, "importance_share_chance", kind=kind, checkpoint=LAST),
        )
        for arm, kind in results.arms_and_kinds()
    )
    caption = (
        "Concentration, with 95% bootstrap intervals over relations. Chance is a random set of as many neurons. The "
        "importance share and the share by gain exceed chance by construction: there it is a floor, not a test."
    )
    return Table("concentration", caption, columns, rows)


def windows(results: Results) -> Table:
    """ρ_avg and σ_rel in each window."""
    columns = (
        Column("arm"),
        Column("neurons"),
        Column("window"),
        Column("steps"),
        Column(f"{RHO_AVG} (Pearson)", "number"),
        Column(f"{RHO_AVG} (Spearman)", "number"),
        Column("pairs", "count"),
        Column(f"{SIGMA_REL} (mean)", "number"),
        Column(f"{SIGMA_REL} (median)", "number"),
    )
    rows = tuple(
        (
            arm.name,
            KIND_NAMES[kind],
            window,
            _window_steps(arm, window),
            *(
                number(arm.summary, name, kind=kind, window=window)
                for name in ("rho_avg", "rho_avg_spearman", "rho_pairs", "sigma_rel", "sigma_rel_median")
            ),
        )
        for arm, kind in results.arms_and_kinds()
        for window in map(str, arm.summary["window"].to_numpy())
    )
    caption = (
        f"Steadiness of the layer profile. {RHO_AVG}: mean correlation over all pairs of checkpoints in the window. "
        f"{SIGMA_REL}: spread over checkpoints relative to a layer's mean, its mean and median over layers; a layer "
        "whose mean is near 0 blows up the mean."
    )
    return Table("windows", caption, columns, rows)


def ablations(results: Results) -> Table:
    """Every ablation with its random control."""
    columns = (
        Column("arm"),
        Column("silenced"),
        Column("chosen by"),
        Column("number"),
        Column("heads"),
        Column("intact HIT@k", "share"),
        Column("HIT@k", "share"),
        Column("drop", "percent"),
        Column("random, mean ± sd"),
        Column("random, least to most"),
        Column("p", "number"),
    )
    rows: list[tuple[Any, ...]] = []
    for arm in results.arms:
        if arm.record is None:
            rows.append((arm.name, "not run", *[None] * (len(columns) - 2)))
            continue
        table = arm.record.ablation
        for row in table.rows:
            drop = ablation_drop(table, row)
            scaled = f" (scaled down from {row.asked:,})" if row.count < row.asked else ""
            extent = (min(drop.random_drops), max(drop.random_drops)) if drop.random_drops else (NAN, NAN)
            rows.append(
                (
                    arm.name,
                    row.name,
                    method_name(row.method),
                    f"{row.count:,} of {row.available:,} available{scaled}",
                    units_links(arm.name, row.chosen if row.kind == "head" else (), table.checkpoint, MOST_HEADS),
                    table.hit,
                    row.hit,
                    drop.drop,
                    f"{show(drop.random.mean, 'percent')} ± {show(drop.random.std, 'percent')}",
                    f"{show(extent[0], 'percent')} to {show(extent[1], 'percent')}",
                    drop.random.p_value,
                )
            )
    caption = (
        "Ablations at the last checkpoint. Drop: in % of the intact HIT@k, with Wilson's 95% interval of the ablated "
        "HIT@k. Random: as many heads or neurons drawn at random. p = (1 + draws at least as bad) / (1 + draws)."
    )
    return Table("ablations", caption, columns, tuple(rows))


def top_units(arm: ArmResults, kind: str) -> Table:
    """An arm's top units of one kind with the tokens that they move."""
    assert arm.record is not None
    units = arm.record.top(kind)
    columns = (
        Column("neuron"),
        Column("mean score, nats", "number"),
        Column("mean coefficient", "number"),
        Column("raises most", "tokens"),
        Column("lowers most", "tokens"),
    )
    last = arm.record.ablation.checkpoint
    rows = tuple(
        (
            unit_link(arm.name, short_name(unit.label), last),
            unit.lpi,
            unit.mean_coefficient,
            unit.promoted,
            unit.suppressed,
        )
        for unit in units
    )
    return Table(f"top_{kind}_{arm.name}", f"{arm.name}: top {KIND_NAMES[kind]} of the last checkpoint.", columns, rows)


def beside_paper(results: Results) -> Table:
    """The publication's figures and this run's, of which some arms are MoE and some dense."""
    columns = (Column("measure"), *map(Column, paper.MODELS), *(Column(f"here: {arm.name}") for arm in results.arms))
    rows: list[tuple[Any, ...]] = [
        (*reported, *(_ablated(arm, name) for arm in results.arms)) for name, reported in paper.ABLATIONS.items()
    ]
    overall: tuple[tuple[paper.Reported, str, Form], ...] = (
        (paper.GAIN, "gain_top_set", "share"),
        (paper.CORRELATION, "rho_avg", "number"),
        (paper.SPREAD, "sigma_rel", "number"),
    )
    for reported, variable, form in overall:
        for kind in results.kinds:
            here = (show(_overall(arm, variable, kind), form) for arm in results.arms)
            rows.append((f"{reported.measure}, {KIND_NAMES[kind]}", *reported[1:], *here))
    caption = (
        "Other models at another scale: the source's columns are not comparable with this run's in level, only in "
        f"which way MoE and dense differ. R_t here is the mean over pairs; {RHO_AVG} and {SIGMA_REL} are those of the "
        "first window. The source gives one value of each of these three, repeated here for both kinds of neuron."
    )
    return Table("beside_paper", caption, columns, tuple(rows))


def checkpoints(arm: ArmResults) -> Table:
    """Provenance of each checkpoint."""
    columns = (
        Column("checkpoint"),
        Column(clock_name("step", arm.scores.attrs), "count"),
        Column("tokens", "count"),
        Column("stage"),
        Column("weights SHA-256"),
        Column("reconstruction error", "number"),
        Column("coverage", "share"),
        Column("largest error bound, nats", "number"),
        Column(f"left open by bounds or ties, {' / '.join(BLOCK_NAMES[kind] for kind in kinds_there([arm.scores]))}"),
        Column("seconds", "number"),
    )
    bounds = _error_bounds(arm)
    rows = tuple(
        (
            record.get("key"),
            record.get("step"),
            record.get("tokens"),
            record.get("stage") or None,
            str(record["weights_sha256"])[:12] if record.get("weights_sha256") else None,
            record.get("reconstruction_error"),
            record.get("coverage"),
            bounds[index],
            _ties(arm, index),
            record.get("seconds"),
        )
        for index, record in enumerate(arm.checkpoints)
    )
    caption = (
        f"{arm.name}: checkpoints. Reconstruction error: the largest relative error when what a block wrote is "
        "rebuilt from its units. Coverage: share of parameters outside embeddings and norms whose writes are "
        "attributed. Ties: neurons left out of the top set by their order alone."
    )
    return Table(f"checkpoints_{arm.name}", caption, columns, rows)


def said(results: Results) -> Table:
    """What the checkpoints' records say in words, each once with the checkpoints that it holds for."""
    columns = (Column("arm"), Column("checkpoints"), Column("what"))
    rows = tuple(
        (arm.name, _which(keys, len(arm.checkpoints)), text)
        for arm in results.arms
        for text, keys in _said(arm).items()
    )
    caption = (
        "What was skipped, cannot be told apart or was changed in loading, and at which checkpoints. Skipped facts are "
        "in no number here."
    )
    return Table("remarks", caption, columns, rows)


def _said(arm: ArmResults) -> dict[str, list[str]]:
    """Each remark on an arm's checkpoints, and the keys of those that it is made on."""
    found: dict[str, list[str]] = {}
    for record in arm.checkpoints:
        for text in remarks(record):
            found.setdefault(text, []).append(str(record.get("key")))
    return found


def _which(keys: Sequence[str], count: int) -> str:
    """Some of an arm's checkpoints, which are `count`, in few words."""
    if len(keys) == count:
        return "all"
    return ", ".join(keys) if len(keys) <= 3 else f"{len(keys)} of {count}, from {keys[0]} to {keys[-1]}"


def quarantined(results: Results) -> Table:
    """The checkpoints that could not be used."""
    columns = (Column("arm"), Column("checkpoint"), Column("step", "count"), Column("error"), Column("why"))
    rows = tuple(
        (arm, record.get("key"), record.get("step"), record.get("error"), record.get("quarantined"))
        for arm, records in results.quarantined.items()
        for record in records
    )
    return Table("quarantined", "Checkpoints that could not be used, and are in no number here.", columns, rows)


def options(run: Run, results: Results) -> Table:
    """Every option of the experiment and of the summaries, and what the run notes of itself."""
    shared = {name: v for name, v in results.arms[0].summary.attrs.items() if name != "refused_pairs"}
    rows = [
        *_flat(run.experiment.model_dump(mode="json"), "experiment."),
        *_flat(run.info, "run."),
        *_flat(shared, "summary."),
        *(row for arm in results.arms for row in _flat(_provenance(arm), f"{arm.name}.")),
    ]
    return Table(
        "options", "Every option and every recorded version and digest.", (Column("key"), Column("value")), tuple(rows)
    )


def _provenance(arm: ArmResults) -> dict[str, Any]:
    return {str(name): value for name, value in arm.scores.attrs.items() if name not in ("checkpoints", "quarantined")}


def _flat(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", "not set" if value is None else str(value)


def _sizes(arm: ArmResults, kind: str) -> str | None:
    if kind not in arm.kinds():
        return None
    units, top = (int(arm.summary[name].sel(kind=kind)) for name in ("units", "top_units"))
    return f"{units:,} ({top:,})"


def _overall(arm: ArmResults, name: str, kind: str) -> float:
    """A measure of a whole arm: the mean over its pairs, or the value of its first window."""
    if name == "gain_top_set":
        return mean_over_pairs(arm.summary, name, kind)
    return number(arm.summary, name, kind=kind, window=str(arm.summary["window"].to_numpy()[0]))


def _range(arm: ArmResults, name: str, kind: str) -> str:
    low, high = (number(arm.summary, f"{name}_{end}", kind=kind, pair=LAST) for end in ("low", "high"))
    return f"{show(low, 'share')} to {show(high, 'share')}"


def _window_steps(arm: ArmResults, window: str) -> str:
    first, last = (int(arm.summary[f"window_{end}_step"].sel(window=window)) for end in ("first", "last"))
    return f"{first:,} to {last:,}"


def _ablated(arm: ArmResults, name: str) -> str:
    if arm.record is None:
        return "not run"
    rows = [row for row in arm.record.ablation.rows if row.name == name]
    if not rows:
        return show(None)
    scaled = f" ({rows[0].count} of {rows[0].asked})" if rows[0].count < rows[0].asked else ""
    return show(ablation_drop(arm.record.ablation, rows[0]).drop.value, "percent") + scaled


def _error_bounds(arm: ArmResults) -> list[float]:
    if schema.ERROR_BOUND not in arm.scores:
        return [NAN] * len(arm.checkpoints)
    return [float(value) for value in arm.scores[schema.ERROR_BOUND].max(("prompt", "block_index")).to_numpy()]


def _ties(arm: ArmResults, checkpoint: int) -> str:
    kinds = kinds_there([arm.scores])
    ties = [number(arm.summary, "undecided", kind=kind, checkpoint=checkpoint) for kind in kinds]
    return " / ".join(show(value, "count") for value in ties)
