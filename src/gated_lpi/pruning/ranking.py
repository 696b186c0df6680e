"""Which experts a model can best do without, by six rankings: three from scores, two from routed tokens, and chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import numpy as np
import xarray as xr

from gated_lpi.errors import OptionError
from gated_lpi.facts import FactSet
from gated_lpi.methods import attribute_asked
from gated_lpi.models import Model, require_model
from gated_lpi.options import LPI, GradientTimesActivation, Scoring
from gated_lpi.prompting import Prompting, encode_facts
from gated_lpi.pruning.layers import routed_layers
from gated_lpi.pruning.routed import watch_experts
from gated_lpi.pruning.scores import PAIRS, ExpertRanking, rank_from_scores, refuse_no_past

By = Literal["lpi_stable", "lpi", "frequency", "reap", "grad_x_act", "random"]
RANKINGS: tuple[By, ...] = get_args(By)
PLAIN = Prompting()
FROM_SCORES = ("lpi_stable", "lpi", "grad_x_act")


def rank_experts(
    model: Model,
    by: By = "lpi",
    *,
    facts: FactSet | None = None,
    how: Prompting = PLAIN,
    windows: Sequence[Sequence[int]] | None = None,
    past: Sequence[xr.Dataset] = (),
    pairs: int = PAIRS,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> ExpertRanking:
    """Score the routed experts of every layer; the definitions are in `pruning.scores` and `pruning.routed`.

    Args:
        model: from `load_model` or `wrap_model`.
        by: "lpi", "lpi_stable", "grad_x_act" (these need facts), "frequency", "reap" (text windows, or the prompts of
            facts), or "random" (neither).
        facts: what the model is asked.
        how: how facts become token ids.
        windows: token ids of a text, as `ablation.text_windows` cuts it.
        past: for "lpi_stable": scores of the checkpoints before this one, oldest first, each as `attribute` returns it
            or a row of `Run.scores(arm)`.
        pairs: for "lpi_stable": over how many pairs of consecutive checkpoints.
        seed: of "random".
        progress: called with (prompts or windows done, in all).

    Returns:
        Scores [L, E] over layers with routed experts.

    Raises:
        OptionError: another ranking, or what it needs was not given; a model without routed experts.
        FactsError, ModelError: as for `attribute`.
    """
    if by not in RANKINGS:
        raise OptionError(f"by={by!r} was given; expected one of {', '.join(map(repr, RANKINGS))}")
    require_model(model)
    layers, experts = routed_layers(model)
    if by == "random":
        return ExpertRanking(by, layers, np.random.default_rng(seed).random((len(layers), experts)))
    if by in FROM_SCORES:
        if facts is None:
            raise OptionError(f"by={by!r} was given without facts, whose targets it is about; give facts=")
        if by == "lpi_stable":
            refuse_no_past(past)
        asked = encode_facts(model, facts, how)
        scoring = Scoring(units=("ffn",) if by == "grad_x_act" else ("ffn", "experts"), keep="mean")
        method = GradientTimesActivation() if by == "grad_x_act" else LPI()
        scores = attribute_asked(model, facts, asked, how, method, scoring, progress)
        return rank_from_scores(by, scores, past, pairs=pairs)
    sequences = windows
    if sequences is None:
        if facts is None:
            raise OptionError(f"by={by!r} was given without anything to read; give facts= or windows=")
        sequences = [item.ids for item in encode_facts(model, facts, how).prompts]
    seen = watch_experts(model, sequences, progress=progress)
    return ExpertRanking(by, layers, seen.frequency if by == "frequency" else seen.reap)
