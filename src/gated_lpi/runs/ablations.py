"""What is asked of an arm's last checkpoint alone: ablations beside random controls, and its top units."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gated_lpi import score_schema as schema
from gated_lpi.ablation import compare_with_random, hit_by_relation, read_text, recall, text_loss, text_windows
from gated_lpi.ablation.study import Known
from gated_lpi.checkpoints import Checkpoint
from gated_lpi.errors import ModelError, OptionError
from gated_lpi.experiments.experiment import AblationSpec
from gated_lpi.experiments.settings import StorageSpec
from gated_lpi.facts import EncodedPrompt, FactSet
from gated_lpi.metrics import hit_at_k, set_size, top_set
from gated_lpi.models import Model
from gated_lpi.options import Answer
from gated_lpi.prompting import encode_facts
from gated_lpi.results.records import AblationRow, AblationTable, ArmRecord, RedundancyRow
from gated_lpi.results.run import Run
from gated_lpi.runs.access import family_of, load_checkpoint
from gated_lpi.runs.adapting import redundancy_of
from gated_lpi.runs.progress import Advance, Progress
from gated_lpi.runs.scoring import prompting
from gated_lpi.runs.selectivity import selectivity_of
from gated_lpi.runs.top_units import describe_top_units
from gated_lpi.unit_names import KINDS

Indices = NDArray[np.int64]


class _Intervention(NamedTuple):
    """What one row of the table silences.

    Attributes:
        name: as the table shows it.
        kind: "head" or "unit".
        asked: how many were asked for.
        method: by whose scores it was chosen.
        chosen: indices of groups in `pool`.
        pool: the groups that there are, each a set of units.
        label: names a group by its index.
    """

    name: str
    kind: str
    asked: int
    method: str
    chosen: Indices
    pool: list[Indices]
    label: Callable[[int], str]


def study_last_checkpoint(
    run: Run, arm: str, checkpoint: Checkpoint, facts: FactSet, progress: Progress, storage: StorageSpec
) -> None:
    """Ablate and describe an arm's last checkpoint from its stored scores, and keep the record in the run.

    Args:
        run: where scores are and the record goes.
        arm: name of the arm.
        checkpoint: its last one, on this machine.
        facts: what the model is asked.
        progress: shown how far it is.
        storage: what it is computed on.

    Raises:
        ModelError: the model cannot be loaded, or its units do not account for what it computes.
        WeightsError: its weights are missing, damaged or not finite.
        FactsError: facts that cannot be used with its tokenizer.
        RunError: the scores cannot be read, or the record not be written.
    """
    spec = run.experiment.ablation
    model = load_checkpoint(checkpoint, storage, family_of(run.experiment, arm))
    answer = run.experiment.attribution.answer
    encoded = encode_facts(model, facts, prompting(run.experiment), answer=answer).prompts
    scores = run.scores(arm)
    scores = scores.isel(checkpoint=scores["checkpoint_key"].to_numpy().tolist().index(checkpoint.key)).load()
    methods = run.methods(arm) or (schema.LPI,)
    importance = unit_importance(model, scores, methods[0])
    text, untold = _text(model, spec)
    heads = {}
    if "heads" in run.experiment.attribution.scoring.units:
        heads = {name: found for name in methods if (found := head_importance(model, scores, name)) is not None}
    skipped = (*_skipped(model, importance, spec, heads=bool(heads)), *untold)
    for reason in skipped:
        progress.note(f"{arm}: {reason}")
    with progress.task(f"ablate {arm}") as advance:
        rows = [
            row
            for name in methods
            for row in (
                *(_head_rows(model, heads[name], name, spec) if name in heads else ()),
                *_unit_rows(model, unit_importance(model, scores, name), name, spec),
            )
        ]
        ranks = recall(model, encoded, answer).ranks
        measured = _ablate(model, encoded, answer, rows, spec, text, advance)
        table = AblationTable(
            checkpoint=checkpoint.key,
            step=checkpoint.step,
            k=spec.k,
            n_prompts=len(encoded),
            hit=hit_at_k(ranks, spec.k),
            rows=measured,
            skipped=skipped,
            text_loss=text_loss(model, text) if text else None,
            by_relation=hit_by_relation(ranks, encoded, spec.k),
        )
    selective = None
    if text:
        with progress.task(f"selectivity {arm}") as advance:
            ranking = run.methods(arm)
            selective = selectivity_of(model, facts, scores, ranking, run.experiment, advance) if ranking else None
    adapting: tuple[RedundancyRow, ...] = ()
    if run.experiment.routing.redundancy and any(model.routed()):
        with progress.task(f"redundancy {arm}") as advance:
            by_method = {name: unit_importance(model, scores, name) for name in run.methods(arm)}
            adapting = redundancy_of(model, facts, by_method, run.experiment, advance)
    top = describe_top_units(model, encoded, importance, spec.top_units)
    run.write_record(
        ArmRecord(
            arm=arm,
            parameters=model.n_parameters,
            parameters_active=model.n_active_parameters,
            ablation=table,
            top_ffn=top["ffn"],
            top_attention=top["attention"],
            top_mixer=top["mixer"],
            selectivity=selective,
            redundancy=adapting,
        )
    )


def unit_importance(model: Model, scores: xr.Dataset, method: str = schema.LPI) -> NDArray[np.float64]:
    """Mean scores of one checkpoint on the axis of the model's units, [N]; NaN where a kind of unit was not scored."""
    importance = np.full(len(model.units), np.nan)
    name = schema.mean_of(method)
    if name in scores:
        kinds = sorted({str(kind) for kind in scores["block"].to_numpy()})
        importance[np.isin(model.units.block, kinds)] = scores[name].to_numpy()
    return importance


def head_importance(model: Model, scores: xr.Dataset, method: str = schema.LPI) -> NDArray[np.float64] | None:
    """Mean scores of one checkpoint's heads, [H]; None where they were not scored.

    LPI has scores of heads; by other methods a head's is the sum over its units, of whose scaling together it is the
    derivative.
    """
    if method == schema.LPI:
        if schema.HEAD_LPI not in scores:
            return None
        weights = scores["n_prompts"] / scores["n_prompts"].sum()
        found: NDArray[np.float64] = (scores[schema.HEAD_LPI] * weights).sum("relation").to_numpy()
        return found
    importance = unit_importance(model, scores, method)
    if np.isnan(importance[model.units.head >= 0]).any():
        return None
    return np.array([importance[model.head_units(head)].sum() for head in range(len(model.heads))])


def _text(model: Model, spec: AblationSpec) -> tuple[list[list[int]], tuple[str, ...]]:
    """Windows of the text on which damage is measured; and why it is not, if it cannot be."""
    if spec.text == "":
        return [], ()
    try:
        return text_windows(model, read_text(spec.text)), ()
    except (OptionError, ModelError) as error:
        if spec.text is not None:
            raise
        return [], (f"the damage to all else is not measured: {error}",)


def _skipped(model: Model, importance: NDArray[np.float64], spec: AblationSpec, *, heads: bool) -> tuple[str, ...]:
    """What was asked for and cannot be had from these scores, and why."""
    there = {kind: importance[model.units.block == kind] for kind in KINDS}
    unscored = {kind: bool(of.size and np.isnan(of).all()) for kind, of in there.items()}
    rows = {
        "no heads are ablated: attribution.units leaves out heads": bool(spec.heads) and not heads,
        "no FFN units are ablated: attribution.units leaves out ffn": bool(spec.units) and unscored["ffn"],
        "no top FFN units: attribution.units leaves out ffn": bool(spec.top_units) and unscored["ffn"],
        "no top attention units: attribution.units leaves out attention": bool(spec.top_units)
        and unscored["attention"],
        "no top mixer units: attribution.units leaves out mixer": bool(spec.top_units) and unscored["mixer"],
    }
    return tuple(reason for reason, holds in rows.items() if holds)


def _ablate(
    model: Model,
    encoded: Sequence[EncodedPrompt],
    answer: Answer,
    rows: Sequence[_Intervention],
    spec: AblationSpec,
    text: Sequence[Sequence[int]],
    advance: Advance,
) -> tuple[AblationRow, ...]:
    done, total = 0, len(rows) * (1 + spec.random_draws)

    def step() -> None:
        nonlocal done
        done += 1
        advance(done, total)

    measured = []
    known: dict[str, Known] = {"head": {}, "unit": {}}
    for row in rows:
        outcome = compare_with_random(
            model,
            encoded,
            row.pool,
            row.chosen,
            k=spec.k,
            draws=spec.random_draws,
            seed=spec.seed,
            answer=answer,
            text=text,
            known=known[row.kind],
            progress=step,
        )
        measured.append(
            AblationRow(
                name=row.name,
                kind=row.kind,
                asked=row.asked,
                count=len(row.chosen),
                available=len(row.pool),
                chosen=tuple(row.label(group) for group in row.chosen.tolist()),
                hit=outcome.hit,
                random_hits=outcome.random_hits,
                method=row.method,
                text_loss=outcome.text_loss,
                random_text_losses=outcome.random_text_losses,
                by_relation=dict(outcome.by_relation),
                random_by_relation=dict(outcome.random_by_relation),
            )
        )
    return tuple(measured)


def _head_rows(
    model: Model, importance: NDArray[np.float64], method: str, spec: AblationSpec
) -> Iterator[_Intervention]:
    n_heads = len(model.heads)
    pool = [model.head_units(head) for head in range(n_heads)]
    order = np.argsort(-importance, kind="stable")
    for asked in spec.heads:
        count = min(asked, max(1, n_heads // 2))
        name = "top-1 head" if asked == 1 else f"top-{asked} heads"
        yield _Intervention(name, "head", asked, method, order[:count], pool, lambda head: model.heads.label(head))


def _unit_rows(
    model: Model, importance: NDArray[np.float64], method: str, spec: AblationSpec
) -> Iterator[_Intervention]:
    ffn = np.flatnonzero(model.units.block == "ffn")
    if np.isnan(importance[ffn]).all():
        return
    pool = [np.array([unit]) for unit in ffn]
    for fraction in spec.units:
        chosen = top_set(importance[ffn], fraction)
        name = f"top-{percentage(fraction)}% FFN units"
        asked = set_size(len(ffn), fraction)
        yield _Intervention(name, "unit", asked, method, chosen, pool, lambda i: model.label(int(ffn[i])))


def percentage(fraction: float) -> str:
    """A share in %, with the digits that were written: 0.07 gives 7, and different shares different texts."""
    return f"{(100 * Decimal(str(fraction))).normalize():f}"
