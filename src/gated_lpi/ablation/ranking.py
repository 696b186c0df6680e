"""Which units or heads come first, by the scores of any method."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from gated_lpi import score_schema as schema
from gated_lpi.ablation.controls import Chosen
from gated_lpi.errors import OptionError
from gated_lpi.metrics import top_mask
from gated_lpi.models import Model
from gated_lpi.unit_names import KINDS

Ints = NDArray[np.int64]
NONE = np.empty(0, dtype=np.int64)
_COORDINATES = (("layer", "layer"), ("expert", "expert"), ("head", "head"), ("neuron", "neuron"))


class Ranking(NamedTuple):
    """Units or heads and how important they are.

    Attributes:
        what: "ffn units", "attention units", "mixer units", "units" or "heads".
        members: [n], indices on the model's axis of units, or of its heads.
        importance: [n].
        relations: those that the scores are of; empty if they do not say.
        variable: of what scores.
    """

    what: str
    members: Ints
    importance: NDArray[np.float64]
    relations: frozenset[str]
    variable: str

    def choose(self, share: float, complement: bool) -> Chosen:
        """The top share, ceil(share · n) of them, ties by order; with `complement`, all but these.

        Raises:
            OptionError: `share` is not above 0 and up to 1; with `complement`, not from 0 up to below 1.
        """
        if complement and not 0.0 <= share < 1.0:
            raise OptionError(
                f"share {share} was given with complement; expected a share of 0 (silence all) or more, below 1"
            )
        top = np.zeros(len(self.members), dtype=np.bool_) if share == 0 and complement else None
        if top is None:
            top = top_mask(self.importance, share)
        chosen = self.members[~top if complement else top]
        return Chosen(NONE, chosen) if self.what == "heads" else Chosen(chosen, NONE)


def rank(
    model: Model, scores: xr.Dataset | xr.DataArray | ArrayLike, variable: str | None = None, kind: str = "ffn"
) -> Ranking:
    """Read importance from scores: their mean over prompts.

    Args:
        model: the model that was scored.
        scores: what `attribute` returns, one of its variables, one checkpoint of a run's scores, or an array [N] over
            all units of the model. Scores with a `head_unit` dimension rank heads.
        variable: which one of a dataset; None: `lpi_mean` or `lpi`, or the only one that there is over units.
        kind: "ffn", "attention" or "mixer" units, or "all".

    Raises:
        OptionError: there is no such variable, it is no score of units or heads of this model, it is of several
            checkpoints, or holds NaN or infinity; or `kind` is none of these.
    """
    if kind not in (*KINDS, "all"):
        raise OptionError(f"kind={kind!r} was given; expected {', '.join(map(repr, KINDS))} or 'all'")
    if isinstance(scores, xr.Dataset):
        array = scores[_variable(scores, variable)]
    elif isinstance(scores, xr.DataArray):
        array = scores
    else:
        values = np.asarray(scores, dtype=np.float64)
        if values.shape != (len(model.units),):
            raise OptionError(
                f"scores of shape {values.shape} were given; expected one for each of the model's {len(model.units)} "
                "units, or an xarray of scores"
            )
        return _of_units(model, values, np.arange(len(model.units)), kind, frozenset(), "scores")
    return _of_array(model, array, kind)


def _variable(scores: xr.Dataset, variable: str | None) -> str:
    over_units = [str(name) for name, v in scores.data_vars.items() if {"unit", "head_unit"} & set(v.dims)]
    known = [name for name in (schema.LPI_MEAN, schema.LPI) if name in over_units]
    chosen = variable or (known[0] if known else over_units[0] if len(over_units) == 1 else None)
    if chosen not in over_units:
        given = f"variable={variable!r} was given" if variable else "no variable was given"
        raise OptionError(f"{given}; expected one of the scores of units or heads: {', '.join(over_units) or 'none'}")
    return chosen


def _of_array(model: Model, array: xr.DataArray, kind: str) -> Ranking:
    dim = next((name for name in ("unit", "head_unit") if name in array.dims), None)
    others = set(array.dims) - {dim, "prompt", "relation"}
    if dim is None or any(array.sizes[name] > 1 for name in others):
        raise OptionError(
            f"scores with dimensions {dict(array.sizes)} were given; expected `unit` or `head_unit`, and `prompt` or "
            "`relation` besides: select one checkpoint of a run with .isel(checkpoint=-1)"
        )
    relations = _relations(array)
    weights = array["n_prompts"] if "n_prompts" in array.coords and "relation" in array.dims else None
    array = array.astype(np.float64).squeeze([str(name) for name in others], drop=True)
    mean = array if weights is None else (array * (weights / weights.sum())).sum("relation", skipna=False)
    values = mean.mean([name for name in mean.dims if name != dim], skipna=False).to_numpy()
    name = str(array.name or "scores")
    if dim == "unit":
        return _of_units(model, values, _places(model, array), kind, relations, name)
    if len(values) != len(model.heads):
        raise OptionError(
            f"scores of {len(values)} heads were given, and the model has {len(model.heads)}: give this model's own"
        )
    return Ranking("heads", np.arange(len(values)), values, relations, name)


def _of_units(
    model: Model, values: NDArray[np.float64], places: Ints, kind: str, relations: frozenset[str], name: str
) -> Ranking:
    inside = np.ones(len(places), dtype=np.bool_) if kind == "all" else model.units.block[places] == kind
    if not inside.any():
        raise OptionError(
            f"kind={kind!r} was given, and the scores are of no such units; score them, or choose another"
        )
    missing = int(np.isnan(values[inside]).sum())
    if missing:
        raise OptionError(
            f"{name} has no value for {missing:,} of {int(inside.sum()):,} units, which cannot be ranked then; true "
            "effects are of a sample unless sample=None: give scores of every unit"
        )
    what = "units" if kind == "all" else f"{kind} units"
    return Ranking(what, places[inside], values[inside], relations, name)


def _places(model: Model, array: xr.DataArray) -> Ints:
    """Where the scored units are on the model's axis; all of some kinds are scored, in order."""
    if "block" in array.coords:
        kinds = np.unique(array["block"].to_numpy().astype(object).astype(str))
        places = np.flatnonzero(np.isin(model.units.block, kinds))
    else:
        places = np.arange(len(model.units))
    same = len(places) == array.sizes["unit"] and all(
        np.array_equal(array[name].to_numpy(), getattr(model.units, column)[places])
        for name, column in _COORDINATES
        if name in array.coords
    )
    if not same:
        raise OptionError(
            f"scores of {array.sizes['unit']} units were given, which are not those of this model "
            f"({len(model.units)} units); give scores of the same model"
        )
    return places


def _relations(array: xr.DataArray) -> frozenset[str]:
    for name in ("relation", "prompt_relation"):
        if name in array.coords:
            return frozenset(array[name].to_numpy().astype(object).astype(str).tolist())
    return frozenset()
