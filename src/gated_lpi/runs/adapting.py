"""Does routing adapt when top experts fall silent? Asked of an arm's last checkpoint by `[routing] redundancy`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from gated_lpi.ablation import redundancy
from gated_lpi.experiments.experiment import Experiment
from gated_lpi.facts import FactSet
from gated_lpi.models import Model
from gated_lpi.results.records import RedundancyRow
from gated_lpi.runs.progress import Advance, part
from gated_lpi.runs.scoring import prompting

TOP = (1, 4)  # experts, a row each


def redundancy_of(
    model: Model,
    facts: FactSet,
    importance: Mapping[str, NDArray[np.float64]],
    experiment: Experiment,
    advance: Advance,
) -> tuple[RedundancyRow, ...]:
    """Silence the top experts by each method with free and with frozen routing; of a dense model there is nothing.

    Args:
        model: the arm's last checkpoint.
        facts: what it is asked.
        importance: by method, [N], of every unit; NaN where it was not scored. A method without scores of FFN units is
            left out.
        experiment: how facts are asked, and how many random sets stand beside.
        advance: called with (evaluations done, in all).

    Raises:
        GatedLPIError: see `redundancy`.
    """
    spec, how = experiment.ablation, prompting(experiment)
    routed = int((model.experts.index >= 0).sum())
    tops = sorted({min(top, max(routed // 2, 1)) for top in TOP})
    ffn = model.units.block == "ffn"
    importance = {method: scores for method, scores in importance.items() if np.isfinite(scores[ffn]).all()}
    rows = []
    for number, (method, scores) in enumerate(importance.items() if routed else ()):
        found = redundancy(
            model,
            facts,
            scores=np.nan_to_num(scores),
            top=tops,
            draws=spec.random_draws,
            k=spec.k,
            seed=spec.seed,
            templates=how.templates,
            on_error=how.on_error,
            bos=how.bos,
            progress=part(advance, number, len(importance)),
        )
        for row in range(found.sizes["row"]):
            one = found.isel(row=row)
            rows.append(
                RedundancyRow(
                    method=method,
                    experts=tuple(str(one["row"].values).split(", ")),
                    hit_free=float(one["hit_k"].sel(routing="free")),
                    hit_frozen=float(one["hit_k"].sel(routing="frozen")),
                    logprob_intact=float(found["logprob_intact"]),
                    logprob_free=float(one["logprob"].sel(routing="free")),
                    logprob_frozen=float(one["logprob"].sel(routing="frozen")),
                    random_recovered=tuple(one["recovered_control"].values.tolist()),
                    jaccard=float(one["routing_jaccard"].mean()),
                    random_jaccard=tuple(one["routing_jaccard_control"].mean("moe_layer").values.tolist()),
                )
            )
    return tuple(rows)
