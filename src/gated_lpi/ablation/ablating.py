"""Ablation: what silencing units or heads costs, beside what random ones cost, and beside the damage to all else.

1. What is silenced: units and heads by index or name, or the top shares of a ranking (or all but these).
2. The model is asked its facts intact, with each of these sets silenced, and with random sets that are matched to them
   (`controls`).
3. Each time it is also asked the facts of other relations, those that the ranking has not seen, and reads a text that
   has nothing to do with any (`damage`): a drop that comes with as much damage says little about the facts.
4. With `routing="frozen"` every token keeps the experts and gates that the intact model gives it, so that what is left
   is the neurons' part, without the routers' answer to it.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from gated_lpi.ablation.controls import Chosen, Control, draw, shared
from gated_lpi.ablation.damage import read_text, text_loss, text_windows
from gated_lpi.ablation.evaluate import TargetScores, given_ids, target_scores
from gated_lpi.ablation.ranking import NONE, Ranking, rank
from gated_lpi.datasets import as_expected, texts
from gated_lpi.errors import OptionError
from gated_lpi.facts import Answer, EncodedPrompt, FactSet, OnError
from gated_lpi.facts.types import Templates
from gated_lpi.interventions import (
    RecordedRouting,
    Reference,
    record_coefficients,
    record_routing,
    replayed,
    silenced,
)
from gated_lpi.models import Model, require_model
from gated_lpi.options import At, How
from gated_lpi.prompting import Prompting, encode_facts
from gated_lpi.version import __version__

Routing = Literal["free", "frozen"]
Names = Sequence[int | str] | NDArray[np.integer[Any]]
CONTROLS: tuple[Control, ...] = get_args(Control)
SHOWN = 4  # names of what is silenced that a row carries

MEASURES = {
    "hit_1": "",
    "hit_k": "",
    "logprob": "nats",
    "margin": "nats",
    "text_loss": "nats per token",
    "other_hit_1": "",
    "other_hit_k": "",
    "other_logprob": "nats",
}
"""What is measured each time, and its unit: recall of the facts, loss on the text, recall of other relations."""


def ablate(
    model: Model,
    facts: FactSet,
    *,
    units: Names | None = None,
    heads: Names | None = None,
    scores: xr.Dataset | xr.DataArray | ArrayLike | None = None,
    share: float | Sequence[float] = (0.01,),
    variable: str | None = None,
    kind: str = "ffn",
    complement: bool = False,
    how: How = "zero",
    routing: Routing = "free",
    at: At = "all",
    controls: Sequence[Control] = CONTROLS,
    draws: int = 20,
    others: FactSet | None = None,
    text: str | Path | None = None,
    reference: Reference | None = None,
    k: int = 10,
    answer: Answer = "first",
    seed: int = 0,
    templates: Templates = "first",
    separator: str | None = None,
    on_error: OnError = "raise",
    bos: bool | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """Silence units or heads and measure what is lost, of the facts and of all else, beside random sets.

    Args:
        model: from `load_model` or `wrap_model`.
        facts: what it is asked.
        units, heads: what is silenced, all at once: indices (of `model.units`, `model.heads`) or names, such as
            "L12 E37 n114" and "L3 head 2"; a unit's name without a neuron means every unit of that expert or head.
        scores: in their place a ranking: what `attribute` returns, a variable of it, or an array [N] over all units.
        share: of the ranked units or heads, the top of which is silenced; several make a curve.
        variable: of the scores; None: their only one.
        kind: which units are ranked: "ffn", "attention", "mixer" or "all".
        complement: silence all ranked units but the top share; a share of 0 is all of them.
        how: what coefficients become: "zero", their "mean" or a "resample" over the prompts of `facts`.
        routing: "free", or "frozen": experts and gates are those of the intact model.
        at: "all" positions, or "last": those where the model is read (of the text, all that predict something).
        controls: "random", "layer", "expert": which random sets it is held against.
        draws: how many of each.
        others: facts of other relations. None: where scores say which relations they are of, the rest of `facts`.
        text: a file to read, in place of the built-in one.
        reference: coefficients for "mean" and "resample", in place of those over the prompts.
        k: the k of HIT@k.
        answer: recall is that of the "first" token of an answer, or of "all": the worst rank and the least margin of
            its tokens, and log p of the whole, so that `hit_1` is the share of answers that greedy decoding gives.
        seed: of random sets and of "resample".
        templates, separator, on_error, bos: as for `attribute`.
        progress: called with (evaluations done, in all).

    Returns:
        For each row, a set that is silenced (`row`: what it is, `share`, `n_units`), for the intact model (`…_intact`)
        and for the random sets (`…_control`, over control and draw): `hit_1`, `hit_k`, `logprob` and `margin`, mean
        over prompts (the margin is the target's logit less the greatest other); `text_loss`; `other_hit_1`,
        `other_hit_k` and `other_logprob`, NaN where there are no facts of other relations. By prompt, `target_rank`,
        `target_logprob` and `target_margin`. `control_shared` is the share of a control that is the chosen set itself.

    Raises:
        OptionError: what is silenced is not there, is nothing, or is given twice over; another option is outside what
            it may be; or routing is to be frozen in a model without routed experts.
        FactsError, ModelError: as for `attribute`.
    """
    require_model(model)
    _refuse(routing, controls, draws, k)
    rows, ranking = _rows(model, units, heads, scores, share, variable, kind, complement)
    encoded = encode_facts(model, facts, Prompting(templates, separator, on_error, bos), answer=answer).prompts
    asked, elsewhere = _split(encoded, ranking)
    if others is not None:
        elsewhere = encode_facts(model, others, Prompting(templates, separator, on_error, bos), answer=answer).prompts
    bench = Bench(model, asked, elsewhere, text_windows(model, read_text(text)), routing, answer)
    if how != "zero" and reference is None:
        reference = record_coefficients(model, given_ids(asked, answer), _pool(model, rows, controls), seed=seed)
    total = 1 + len(rows) * (1 + len(controls) * draws)
    done = 0

    def measure(units: NDArray[np.int64], seed: int) -> Measured:
        nonlocal done
        with silenced(model, units, how, reference, at, seed=seed):
            found = bench.measure(k)
        done += 1
        if progress is not None:
            progress(done, total)
        return found

    intact = measure(NONE, seed)
    measured = [measure(row.chosen.indices(model), seed) for row in rows]
    random = [_controls(model, row.chosen, controls, draws, seed, measure) for row in rows]
    found = _dataset(rows, asked, intact, measured, random, controls)
    found = found.assign_attrs(
        how=how,
        routing=routing,
        at=at,
        k=k,
        answer=answer,
        draws=draws,
        seed=seed,
        complement=int(complement),
        ranked="" if ranking is None else f"{ranking.what} by {ranking.variable}",
        facts=facts.source,
        text="built-in" if text is None else str(text),
        n_text_tokens=sum(len(ids) - 1 for ids in bench.windows),
        n_other=len(elsewhere),
        gated_lpi=__version__,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **model.provenance,
    )
    return as_expected(found)


class Measured(NamedTuple):
    """What is found each time.

    Attributes:
        asked: of the facts, by prompt.
        means: of `MEASURES`, by name.
    """

    asked: TargetScores
    means: dict[str, float]


class Bench:
    """What a model is asked each time: facts, facts of other relations, a text; with its own routing, or frozen.

    Attributes:
        windows: token ids of the text.
        recorded: the intact model's routing on all of it; None where routing is free.
    """

    def __init__(
        self,
        model: Model,
        asked: Sequence[EncodedPrompt],
        others: Sequence[EncodedPrompt],
        windows: list[list[int]],
        routing: Routing,
        answer: Answer,
    ) -> None:
        self._model = model
        self._asked = asked
        self._others = others
        self._answer = answer
        self.windows = windows
        self.recorded: RecordedRouting | None = None
        if routing == "frozen":
            self.recorded = record_routing(model, [*given_ids([*asked, *others], answer), *windows])

    def measure(self, k: int) -> Measured:
        """Ask everything once."""
        with self._routing():
            asked = target_scores(self._model, self._asked, self._answer)
            means = asked.means(k)
            means["text_loss"] = text_loss(self._model, self.windows)
            if self._others:
                others = target_scores(self._model, self._others, self._answer).means(k)
                means |= {f"other_{name}": value for name, value in others.items()}
        return Measured(asked, means)

    @contextmanager
    def _routing(self) -> Iterator[None]:
        with ExitStack() as stack:
            if self.recorded is not None:
                stack.enter_context(replayed(self._model, self.recorded))
            yield


class _Row(NamedTuple):
    """One set that is silenced.

    Attributes:
        name: as tables show it.
        share: of the ranking; NaN where it was named.
        chosen: the set.
        size: how many units it is, those of heads included.
    """

    name: str
    share: float
    chosen: Chosen
    size: int


def _rows(
    model: Model,
    units: Names | None,
    heads: Names | None,
    scores: Any,
    share: float | Sequence[float],
    variable: str | None,
    kind: str,
    complement: bool,
) -> tuple[list[_Row], Ranking | None]:
    named = units is not None or heads is not None
    if named == (scores is not None):
        given = "both" if named else "none"
        raise OptionError(
            f"units or heads, or scores that rank them, say what is silenced; {given} were given: give one of the two"
        )
    if named:
        if complement:
            raise OptionError(
                "complement=True was given without scores; it silences all that a ranking leaves: give scores"
            )
        chosen = Chosen(_units(model, () if units is None else units), _heads(model, () if heads is None else heads))
        if not len(chosen.units) + len(chosen.heads):
            raise OptionError("no unit and no head was given; name at least one")
        return [_Row(_named(model, chosen), float("nan"), chosen, len(chosen.indices(model)))], None
    ranking = rank(model, scores, variable, kind)
    rows = []
    for part in [share] if isinstance(share, int | float) else share:
        chosen = ranking.choose(float(part), complement)
        name = f"{'all but ' if complement else ''}top {100 * float(part):.6g}% {ranking.what}"
        rows.append(_Row(name, float(part), chosen, len(chosen.indices(model))))
    if not rows:
        raise OptionError("share is empty; give one share of the ranked units at least, such as 0.01")
    return rows, ranking


def _units(model: Model, given: Names) -> NDArray[np.int64]:
    found = [model.units.find(one) if isinstance(one, str) else np.array([one]) for one in _listed(given)]
    chosen = np.unique(np.concatenate([NONE, *found]))
    model.locate(chosen)  # refuses what is not there
    return chosen.astype(np.int64)


def _heads(model: Model, given: Names) -> NDArray[np.int64]:
    found = [model.heads.find(one) if isinstance(one, str) else int(one) for one in _listed(given)]
    outside = [head for head in found if not 0 <= head < len(model.heads)]
    if outside:
        raise OptionError(
            f"head {outside[0]} was given; this model's heads are 0 to {len(model.heads) - 1}: give some of these"
        )
    return np.unique(np.array(found, dtype=np.int64))


def _listed(given: Names) -> list[Any]:
    return [given] if isinstance(given, str) else list(given)


def _named(model: Model, chosen: Chosen) -> str:
    labels = [model.heads.label(head) for head in chosen.heads.tolist()]
    labels += [model.label(unit) for unit in chosen.units[:SHOWN].tolist()]
    rest = len(chosen.heads) + len(chosen.units) - len(labels[:SHOWN])
    return ", ".join(labels[:SHOWN]) + (f" and {rest:,} more" if rest else "")


def _split(
    encoded: Sequence[EncodedPrompt], ranking: Ranking | None
) -> tuple[list[EncodedPrompt], list[EncodedPrompt]]:
    """Prompts of the relations that were ranked on, and of others; all are asked where it is not known or none is."""
    ranked = frozenset() if ranking is None else ranking.relations
    inside = [item for item in encoded if item.prompt.relation in ranked]
    if not inside:
        return list(encoded), []
    return inside, [item for item in encoded if item.prompt.relation not in ranked]


def _pool(model: Model, rows: Sequence[_Row], controls: Sequence[Control]) -> NDArray[np.int64]:
    """All units that may be silenced: those of the rows, and their kinds where random sets are drawn."""
    chosen = np.unique(np.concatenate([row.chosen.indices(model) for row in rows]))
    if not controls:
        return chosen
    return np.flatnonzero(np.isin(model.units.block, np.unique(model.units.block[chosen])))


def _controls(
    model: Model,
    chosen: Chosen,
    controls: Sequence[Control],
    draws: int,
    seed: int,
    measure: Callable[[NDArray[np.int64], int], Measured],
) -> dict[Control, tuple[list[Measured], float]]:
    """What each control costs, draw by draw, and how far it is the chosen set itself."""
    found = {}
    for control in controls:
        generator = np.random.default_rng([seed, CONTROLS.index(control)])
        sets = [draw(model, chosen, control, generator).indices(model) for _ in range(draws)]
        costs = [measure(units, seed + 1 + index) for index, units in enumerate(sets)]
        found[control] = costs, shared(chosen.indices(model), sets)
    return found


def _dataset(
    rows: Sequence[_Row],
    asked: Sequence[EncodedPrompt],
    intact: Measured,
    measured: Sequence[Measured],
    random: Sequence[dict[Control, tuple[list[Measured], float]]],
    controls: Sequence[Control],
) -> xr.Dataset:
    variables: dict[str, Any] = {}

    def value(found: Measured, name: str) -> float:
        return found.means.get(name, float("nan"))

    for name, unit in MEASURES.items():
        attrs = {"units": unit} if unit else {}
        variables[name] = ("row", [value(one, name) for one in measured], attrs)
        variables[f"{name}_intact"] = ((), value(intact, name), attrs)
        if controls:
            drawn = [[[value(one, name) for one in row[control][0]] for control in controls] for row in random]
            variables[f"{name}_control"] = (("row", "control", "draw"), drawn, attrs)
    if controls:
        variables["control_shared"] = (
            ("row", "control"),
            [[row[control][1] for control in controls] for row in random],
        )
    for field in TargetScores._fields:
        variables[f"target_{field}"] = (("row", "prompt"), [getattr(one.asked, field) for one in measured])
        variables[f"target_{field}_intact"] = ("prompt", getattr(intact.asked, field))
    coords: dict[str, Any] = {
        "row": texts([row.name for row in rows]),
        "share": ("row", [row.share for row in rows]),
        "n_units": ("row", [row.size for row in rows]),
        "relation": ("prompt", texts([item.prompt.relation for item in asked])),
        "subject": ("prompt", texts([item.prompt.subject for item in asked])),
        "object": ("prompt", texts([item.prompt.object for item in asked])),
        "target_id": ("prompt", [item.target_id for item in asked]),
    }
    if controls:
        coords["control"] = texts(controls)
    return xr.Dataset(variables, coords)


def _refuse(routing: str, controls: Sequence[str], draws: int, k: int) -> None:
    if routing not in get_args(Routing):
        raise OptionError(f"routing={routing!r} was given; expected 'free' or 'frozen'")
    odd = [name for name in controls if name not in CONTROLS] if not isinstance(controls, str) else [controls]
    if odd or len(set(controls)) < len(controls):
        raise OptionError(
            f"controls={controls!r} was given; expected some of {', '.join(map(repr, CONTROLS))}, each once"
        )
    for name, value in (("draws", draws), ("k", k)):
        if value < 1:
            raise OptionError(f"{name}={value} was given; expected a whole number of at least 1")
