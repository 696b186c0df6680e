"""What one checkpoint says of some units: the tokens they move, the prompts they serve best, the units they resemble.

For a unit u with value vector v and readout W_U·(γ ⊙ C·v) =: a,

1. tokens: those with the largest and the least of a, what the unit adds to their logits for a coefficient of 1;
2. prompts: those of greatest I(u), LPI summed over the vocabulary (`methods.lpi.exact`), with what the unit has there:
   its activation (scale · m, whatever the router says) and its coefficient (scale · gate · m);
3. neighbours: the units of all kinds with the greatest cosine v·v' / (‖v‖·‖v'‖).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from gated_lpi.experiments.experiment import FollowSpec
from gated_lpi.facts import EncodedPrompt
from gated_lpi.methods import block_problems
from gated_lpi.methods.lpi import exact
from gated_lpi.methods.problem import TracedProblem
from gated_lpi.models import Model
from gated_lpi.options import LPI, Scoring
from gated_lpi.prompting import token_texts
from gated_lpi.trace import BlockTrace, Slab

TEXT = np.dtypes.StringDType()
Floats = NDArray[np.float64]


@torch.no_grad()
def portraits(
    model: Model,
    encoded: Sequence[EncodedPrompt],
    units: NDArray[np.int64],
    spec: FollowSpec,
    lpi: LPI,
    scoring: Scoring,
) -> xr.Dataset:
    """Describe units of a model.

    Args:
        model: the model.
        encoded: the prompts.
        units: [U], indices of units, ascending.
        spec: how much is said of each.
        lpi: how scores are computed; `foil` and `answer` are not looked at.
        scoring: `batch_size` and `memory`.

    Returns:
        `unit (followed)`, their indices, as coordinate, and

        - `promoted`, `suppressed`, texts, and `promoted_logit`, `suppressed_logit`: (followed, token);
        - `coefficient (followed)`, mean over all prompts, `used (followed)`, the share of prompts that reach it, and
          `activation (followed)`, mean over these; NaN where there are none;
        - `prompt`, `answer`, texts, `prompt_score`, nats, `prompt_activation` and `prompt_coefficient`: (followed,
          best), greatest score first; empty and NaN where fewer prompts reach it;
        - `neighbour`, indices of units, and `cosine`: (followed, near); −1 and NaN where there are fewer units.
    """
    vectors = torch.stack([model.value(int(unit)) for unit in units])
    of_token = ("followed", "token")
    promoted, promoted_logit = _tokens(model, vectors, spec.tokens)
    suppressed, suppressed_logit = _tokens(model, -vectors, spec.tokens)
    seen = _by_prompt(model, encoded, units, lpi, scoring)
    best = np.argsort(-np.where(seen.reached, seen.scores, -np.inf), axis=0, kind="stable")[: spec.prompts].T  # [U, B]
    there = np.take_along_axis(seen.reached.T, best, axis=1)

    def at_best(values: Floats) -> Floats:
        return np.where(there, np.take_along_axis(values.T, best, axis=1), np.nan)

    n_reached = seen.reached.sum(axis=0)
    activation = np.where(n_reached > 0, seen.activations.sum(axis=0) / np.maximum(n_reached, 1), np.nan)
    near, cosine = _neighbours(model, vectors, units, spec.neighbours)
    of_prompt = ("followed", "best")
    return xr.Dataset(
        {
            "promoted": (of_token, promoted),
            "promoted_logit": (of_token, promoted_logit),
            "suppressed": (of_token, suppressed),
            "suppressed_logit": (of_token, -suppressed_logit),
            "coefficient": ("followed", seen.coefficients.mean(axis=0)),
            "activation": ("followed", activation),
            "used": ("followed", seen.reached.mean(axis=0)),
            "prompt": (of_prompt, _texts([item.prompt.text for item in encoded], best, there)),
            "answer": (of_prompt, _texts([item.prompt.target for item in encoded], best, there)),
            "prompt_score": (of_prompt, at_best(seen.scores)),
            "prompt_activation": (of_prompt, at_best(seen.activations)),
            "prompt_coefficient": (of_prompt, at_best(seen.coefficients)),
            "neighbour": (("followed", "near"), near),
            "cosine": (("followed", "near"), cosine),
        },
        coords={"unit": ("followed", units)},
    )


def _texts(texts: Sequence[str], chosen: NDArray[np.int64], there: NDArray[np.bool_]) -> NDArray[np.object_]:
    """Those that are chosen, "" where there is none."""
    return np.where(there, np.array(texts, dtype=TEXT)[chosen], np.array("", dtype=TEXT))


def _tokens(model: Model, vectors: Tensor, count: int) -> tuple[NDArray[np.object_], Floats]:
    """The tokens whose logits vectors [U, d] raise most, greatest first: texts and by how much, [U, count]."""
    found = model.readout.directions(vectors.to(model.readout.weight.device)).topk(min(count, model.readout.vocabulary))
    return np.array([token_texts(model, row) for row in found.indices.tolist()], dtype=TEXT), _array(found.values)


class _Seen(NamedTuple):
    """What units did with prompts, [P, U] each: scores, coefficients, activations, and which reach which.

    Activations are coefficients without the router's gate; numbers are 0 where a prompt does not reach a unit.
    """

    scores: Floats
    coefficients: Floats
    activations: Floats
    reached: NDArray[np.bool_]


def _by_prompt(
    model: Model, encoded: Sequence[EncodedPrompt], units: NDArray[np.int64], lpi: LPI, scoring: Scoring
) -> _Seen:
    shape = len(encoded), len(units)
    seen = _Seen(np.zeros(shape), np.zeros(shape), np.zeros(shape), np.zeros(shape, dtype=np.bool_))
    starts = {id(block): model.block_units(index).start for index, block in enumerate(model.blocks)}
    problems = block_problems(model, encoded, norm=lpi.norm, target=lpi.target, gate=lpi.gate, scoring=scoring)
    for prompts, problem in problems:
        start, n_cut = starts[id(problem.block)], 0
        slabs: list[Slab] = []
        columns: list[NDArray[np.intp]] = []
        for slab, ungated in zip(problem.slabs, _without_gates(problem).slabs(problem.block), strict=True):
            first = start + slab.start
            inside = np.flatnonzero((units >= first) & (units < first + len(slab.values)))
            if not inside.size:
                continue
            chosen = torch.from_numpy(units[inside] - first).to(slab.values.device)
            cut = slab._replace(start=n_cut, values=slab.values[chosen], coefficients=slab.coefficients[:, chosen])
            n_cut += len(inside)
            rows = prompts[problem.prompts(cut).cpu().numpy()]
            seen.coefficients[np.ix_(rows, inside)] = _array(cut.coefficients)
            seen.activations[np.ix_(rows, inside)] = _array(ungated.coefficients[:, chosen])
            seen.reached[np.ix_(rows, inside)] = True
            slabs.append(cut)
            columns.append(inside)
        if slabs:
            where = np.concatenate(columns)
            found = exact.score_block(replace(problem, slabs=tuple(slabs), n_units=n_cut))
            seen.scores[np.ix_(prompts, where)] = _array(found.scores)
    return seen


def _without_gates(problem: TracedProblem) -> BlockTrace:
    """What was recorded of a block, as if all gates that it was scored with were 1."""
    writers = (replace(seen.under(problem.gate), gates=None) for seen in problem.traced.writers)
    return replace(problem.traced, writers=tuple(writers))


def _neighbours(
    model: Model, vectors: Tensor, units: NDArray[np.int64], count: int
) -> tuple[NDArray[np.int64], Floats]:
    """The units whose value vectors are most like vectors [U, d] of `units`: indices and cosines, [U, count]."""
    own = torch.from_numpy(units)
    best = torch.full((len(units), count), -torch.inf)
    which = torch.full((len(units), count), -1)
    for first, values in _value_vectors(model):
        cosines = (_unit_length(vectors.to(values.device)) @ _unit_length(values).T).cpu()
        inside = (own >= first) & (own < first + len(values))
        cosines[inside.nonzero().squeeze(1), own[inside] - first] = -torch.inf
        some = cosines.topk(min(count, len(values)))
        best, order = torch.cat([best, some.values], dim=1).topk(count)
        which = torch.cat([which, some.indices + first], dim=1).gather(1, order)
    missing = torch.isinf(best)
    return which.masked_fill(missing, -1).numpy(), _array(best.masked_fill(missing, torch.nan))


def _value_vectors(model: Model) -> Iterator[tuple[int, Tensor]]:
    """Value vectors [n, d] of all units, of one expert at a time, and the index of the first."""
    for index, block in enumerate(model.blocks):
        start = model.block_units(index).start
        for writer, within in block.offsets():
            for expert in range(writer.n_experts):
                yield start + within + expert * writer.width, block.values(writer, expert)


def _unit_length(rows: Tensor) -> Tensor:
    """Rows over their lengths, in float32; 0 where a row is 0."""
    return torch.nn.functional.normalize(rows.float(), dim=-1, eps=torch.finfo(torch.float32).tiny)


def _array(values: Tensor) -> Floats:
    return values.double().cpu().numpy()
