"""Which experts took each token of a prompt, and with which gate: of a few prompts, at the last checkpoint.

The prompts are the first of each of the first relations in the order of the run's facts, so that a report made again
shows the same ones. Tokens have their place, and their text where the run kept it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gated_lpi import score_schema as schema
from gated_lpi.report.tables import visible

MOST_PROMPTS = 4


class Route(NamedTuple):
    """The way of one prompt's tokens through the experts.

    Attributes:
        relation, text: the prompt's.
        layers: those with routed experts.
        tokens: for each token and layer, (expert, gate) of the experts that took it, by falling gate.
        texts: of each token; empty where the run kept none.
    """

    relation: str
    text: str
    layers: tuple[int, ...]
    tokens: tuple[tuple[tuple[tuple[int, float], ...], ...], ...]
    texts: tuple[str, ...] = ()


def routes(scores: xr.Dataset) -> list[Route]:
    """Those of an arm's first few prompts of different relations; none where gates were kept of last positions only."""
    if schema.POSITION_GATE not in scores or "prompt_relation" not in scores.coords:
        return []
    relations = scores["prompt_relation"].to_numpy().astype(object).astype(str)
    chosen = sorted(np.unique(relations, return_index=True)[1].tolist())[:MOST_PROMPTS]
    return [route(scores.isel(checkpoint=-1, prompt=index)) for index in chosen]


def route(one: xr.Dataset) -> Route:
    """That of one prompt at one checkpoint: scores without these two dimensions, with gates at every position."""
    layer, expert = one["expert_unit_layer"].to_numpy(), one["expert_unit_expert"].to_numpy()
    layers = sorted(set(layer[expert >= 0].tolist()))
    gates = one[schema.POSITION_GATE].transpose("position", "expert_unit").to_numpy()
    tokens = tuple(
        tuple(tuple(_taken(row, np.flatnonzero((layer == number) & (expert >= 0)), expert)) for number in layers)
        for row in gates
        if not np.isnan(row[expert >= 0]).any()
    )
    texts = token_texts(one, len(tokens))
    return Route(str(one["prompt_relation"].item()), str(one["text"].item()), tuple(layers), tokens, texts)


def token_texts(one: xr.Dataset | xr.DataArray, count: int) -> tuple[str, ...]:
    """Texts of the first tokens of a prompt, of which scores are given; none where the run kept none."""
    if schema.TOKEN_TEXT not in one.coords:
        return ()
    return tuple(one[schema.TOKEN_TEXT].to_numpy().astype(object).astype(str)[:count].tolist())


def positions(one: xr.Dataset | xr.DataArray, count: int) -> list[str]:
    """The first positions of a prompt by number, from 0, and by text where the run kept it: position 3 ␣Paris."""
    texts = token_texts(one, count) or ("",) * count
    return [f"position {number} {visible(text)}".rstrip() for number, text in enumerate(texts)]


def _taken(
    gates: NDArray[np.floating], units: NDArray[np.int64], expert: NDArray[np.int64]
) -> Iterator[tuple[int, float]]:
    """The experts among some units with a gate above 0, by falling gate."""
    order = units[np.argsort(-gates[units], kind="stable")]
    return ((int(expert[unit]), float(gates[unit])) for unit in order if gates[unit] > 0)
