"""Knowledge, or the language model? What silencing an arm's top FFN units costs relations that did not choose them.

Every second relation ranks the units, by each method, from the means over relations that a run keeps; the others look
on. The top shares are silenced, and beside the recall of the ranking relations stand that of the others, the loss on
unrelated text, and all three under random units of the same layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import xarray as xr

from gated_lpi.ablation import ablate
from gated_lpi.experiments.experiment import Experiment
from gated_lpi.facts import FactSet
from gated_lpi.models import Model
from gated_lpi.results.records import Selectivity, SelectivityRow
from gated_lpi.runs.progress import Advance, part
from gated_lpi.runs.scoring import prompting

LAYER_DRAWS = 5
MEASURES = ("hit_k", "logprob", "text_loss", "other_hit_k", "other_logprob")


def selectivity_of(
    model: Model, facts: FactSet, scores: xr.Dataset, methods: Sequence[str], experiment: Experiment, advance: Advance
) -> Selectivity | None:
    """Ablate the top FFN units by each method's ranking on half of the relations; None where there are not two.

    Args:
        model: the arm's last checkpoint.
        facts: what it is asked.
        scores: of that checkpoint, `METHOD (relation, unit)`.
        methods: names of these variables.
        experiment: which shares, which text, how facts are asked.
        advance: called with (evaluations done, in all).

    Raises:
        GatedLPIError: see `ablate`.
    """
    spec, how = experiment.ablation, prompting(experiment)
    ffn = scores["block"].to_numpy().astype(object).astype(str) == "ffn"
    if scores.sizes["relation"] < 2 or not spec.units or not ffn.any():
        return None
    found = {}
    for number, method in enumerate(methods):
        found[method] = ablate(
            model,
            facts,
            scores=scores[method].isel(relation=slice(0, None, 2)),
            share=sorted(spec.units),
            controls=("layer",),
            draws=LAYER_DRAWS,
            text=spec.text,
            k=spec.k,
            answer=experiment.attribution.answer,
            seed=spec.seed,
            templates=how.templates,
            on_error=how.on_error,
            bos=how.bos,
            progress=part(advance, number, len(methods)),
        )
    relations = scores["relation"].to_numpy().astype(object).astype(str)
    first = next(iter(found.values()))
    return Selectivity(
        ranked=tuple(relations[::2].tolist()),
        others=tuple(relations[1::2].tolist()),
        intact=_finite({name: float(first[f"{name}_intact"]) for name in MEASURES}),
        rows=tuple(
            SelectivityRow(
                method=method,
                share=float(one["share"]),
                count=int(one["n_units"]),
                silenced=_finite({name: float(one[name]) for name in MEASURES}),
                same_layers={
                    name: tuple(values.tolist())
                    for name in MEASURES
                    if np.isfinite(values := one[f"{name}_control"].sel(control="layer").to_numpy()).all()
                },
            )
            for method, dataset in found.items()
            for one in (dataset.isel(row=row) for row in range(dataset.sizes["row"]))
        ),
    )


def _finite(values: dict[str, float]) -> dict[str, float]:
    """Those that could be measured: of relations all of whose facts were skipped there is nothing."""
    return {name: value for name, value in values.items() if math.isfinite(value)}
