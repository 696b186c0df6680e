"""Datasets as xarray and pandas expect them, whoever makes or opens one. No torch.

1. Attributes are what netCDF keeps: numbers, texts, lists of either, and `Records`. What is not set is not there, so
   that `attrs.get("foil")` says None where `attrs["foil"]` raises.
2. Texts are `str` in arrays of objects; zarr's own strings (NumPy's StringDType) are taken to these as they are read.
   What netCDF cannot keep in a text, as tokens may hold it, stands as something that it can: `plain_text`.
3. `step` has an index where checkpoints are a dimension, so `sel(step=1000)` and `sel(step=slice(0, 1000))` work; and
   whatever lines up arrays lines them up by training step.
4. `open_scores` gives back a file of scores so, whoever wrote it.
5. `index_units` gives units an index of their coordinates, for `sel(layer=3, expert=5)` and for pandas.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from gated_lpi._common.entries import writable
from gated_lpi.errors import OptionError

UNIT_COORDS = ("layer", "block", "expert", "shared", "head", "neuron")
"""What tells a unit from all others, in the order of `index_units`."""

STEPS = {"step": "checkpoint", "pair_step": "pair"}
"""Coordinates that have an index, and the dimension that they are of."""

RECORDS = ("checkpoints", "quarantined")
"""Attributes that are `Records`."""

_VLEN_TEXT = np.dtype("O", metadata={"vlen": str})  # how h5py is told that objects are texts

NUL, SHOWN_NUL = "\0", "␀"

Labelled = TypeVar("Labelled", xr.Dataset, xr.DataArray)


class Records(list[dict[str, Any]]):
    """A list of dicts as an attribute: netCDF files keep each as a JSON text, zarr groups keep them as they are."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """What netCDF writers make of it: [n] texts."""
        del dtype, copy
        texts = np.empty(len(self), dtype=_VLEN_TEXT)
        texts[:] = [json.dumps(record) for record in self]
        return texts


def plain_attributes(attributes: Mapping[Any, Any]) -> dict[str, Any]:
    """Attributes that every store keeps.

    Args:
        attributes: by name; values as a caller's options or a zarr group have them.

    Returns:
        The same without what is None; truths are 0 or 1, tuples lists, dicts JSON texts, and lists of dicts `Records`.
    """
    return {str(name): _plain(value) for name, value in attributes.items() if value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, bool | np.bool_):
        return int(value)
    if isinstance(value, Mapping):
        return json.dumps(dict(value))
    if isinstance(value, list | tuple):
        if value and all(isinstance(item, Mapping) for item in value):
            return Records(value)
        return [_plain(item) for item in value]
    return plain_text(value) if isinstance(value, str) else value


def plain_text(text: str) -> str:
    """A text that every store keeps, as plain `str` (torch's version is a class of its own, which h5py refuses).

    NUL, which is a token of many tokenizers, is shown as ␀, and halves of surrogate pairs are spelt out.
    """
    return writable(text).replace(NUL, SHOWN_NUL)


def texts(values: Iterable[str]) -> NDArray[np.object_]:
    """Texts that every store keeps at any length, as an array of objects."""
    return np.array([plain_text(value) for value in values], dtype=object)


def as_expected(dataset: xr.Dataset) -> xr.Dataset:
    """A dataset with plain attributes, texts that are `str`, and an index on training steps.

    Args:
        dataset: as `attribute`, a store or a summary has it. Values that are read lazily stay so, but for the
            coordinates that have an index.

    Returns:
        The same values under the same names.
    """
    as_texts = {name: _as_text(variable) for name, variable in dataset.variables.items() if variable.dtype.kind == "T"}
    of_dims = {name: variable for name, variable in as_texts.items() if name in dataset.dims}
    found = dataset.drop_indexes([name for name in of_dims if name in dataset.xindexes]).assign(as_texts)
    found = found.set_coords([name for name in as_texts if name in dataset.coords])
    for name in of_dims:
        found = found.set_xindex([name])
    for name, dim in STEPS.items():
        if name in found.coords and found[name].dims == (dim,) and name not in found.xindexes:
            found = found.set_xindex(name)
    found.attrs = plain_attributes(dataset.attrs)
    return found


def open_scores(path: str | Path) -> xr.Dataset:
    """Scores in a file, lazily: a zarr folder that `gated-lpi attribute` or `to_zarr` wrote, or a netCDF file.

    xarray's own `open_zarr` gives texts as NumPy's StringDType, for which `.astype(str)` fails; here they are `str`.

    Args:
        path: the folder or file.

    Returns:
        The dataset, with records of checkpoints as they were before they were written.

    Raises:
        OptionError: there is nothing, or it is neither.
    """
    place = Path(path)
    if not place.exists():
        raise OptionError(
            f"{place} was given, and is not there; give a folder that `gated-lpi attribute --out` wrote, or a netCDF "
            "file"
        )
    try:
        found = xr.open_zarr(place, consolidated=False, chunks=None) if place.is_dir() else xr.open_dataset(place)
    except (OSError, ValueError, KeyError) as error:
        raise OptionError(
            f"{place} cannot be read as scores ({error}); expected a zarr folder or a netCDF file: write it again with "
            "`gated-lpi attribute` or `to_netcdf`"
        ) from error
    return as_expected(
        found.assign_attrs({name: _records(found.attrs[name]) for name in RECORDS if name in found.attrs})
    )


def _records(kept: Any) -> Any:
    """Records as they were, from texts that netCDF keeps of them."""
    texts = [kept] if isinstance(kept, str) else list(kept)
    return Records(json.loads(one) if isinstance(one, str) else one for one in texts)


def index_units(scores: Labelled) -> Labelled:
    """Scores whose units are found by their coordinates, in xarray and in pandas.

    `index_units(scores).sel(layer=3, block="ffn", expert=5)` are the units of an expert, and
    `index_units(scores["lpi_mean"]).to_series()` has a pandas MultiIndex of these levels. xarray writes no MultiIndex
    to files: `reset_index("unit")` takes it away again.

    Args:
        scores: a dataset or array with a `unit` dimension and coordinates of units, from `attribute` or a run.

    Returns:
        The same with `unit` as an index of `layer`, `block`, `expert`, `shared`, `head` and `neuron`, those of them
            that are there.

    Raises:
        OptionError: there is no `unit` dimension, or it has no coordinates; or two units have the same ones.
    """
    if "unit" not in scores.dims:
        given = ", ".join(map(str, scores.dims)) or "none"
        raise OptionError(
            f"scores with dimensions {given} were given; expected a `unit` dimension, as scores of units have: select "
            "a variable such as scores['lpi']"
        )
    if "unit" in scores.xindexes:
        return scores
    levels = [name for name in UNIT_COORDS if name in scores.coords and scores[name].dims == ("unit",)]
    if not levels:
        raise OptionError(
            "the units have no coordinates; expected some of "
            f"{', '.join(UNIT_COORDS)}: give scores as `attribute` or `run.scores(arm)` return them"
        )
    found = scores.set_index(unit=levels)
    if not found.indexes["unit"].is_unique:
        raise OptionError(
            f"units share their {', '.join(levels)}; expected other coordinates for each: index the scores of one model"
        )
    return found


def _as_text(variable: xr.Variable) -> xr.Variable:
    """The same texts as `str`, read when they are asked for."""
    lazy = indexing.MemoryCachedArray(indexing.LazilyIndexedArray(_Texts(variable)))  # type: ignore[no-untyped-call]
    return xr.Variable(variable.dims, lazy, variable.attrs)


class _Texts(BackendArray):
    """Texts of a store as arrays of `str`.

    Args:
        variable: of NumPy's StringDType, perhaps not read yet.
    """

    def __init__(self, variable: xr.Variable) -> None:
        self.variable = variable.to_base_variable()
        self.shape = variable.shape
        self.dtype = np.dtype(object)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> NDArray[np.object_]:
        found: NDArray[np.object_] = indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._read
        )
        return found

    def _read(self, key: Sequence[Any]) -> NDArray[np.object_]:
        found = np.asarray(self.variable[tuple(key)].to_numpy().astype(object))
        return np.array([plain_text(text) for text in found.ravel()], dtype=object).reshape(found.shape)
