"""The summary of an arm, computed once and kept beside its scores: results/ARM.summary.json.

1. `summarise` makes it of the scores and of the experiment's options for metrics.
2. What it was made of is kept with it: the digest of what is complete in the arm's store, the options, and the version
   of the summary itself. A summary of anything else is computed anew.
3. It is a copy of what can be computed again. So one that is damaged counts as none, and where it cannot be kept (a
   folder that is read-only, an address) the run is read as well without.

Numbers are kept as bytes, so that what is read back is what was computed.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from gated_lpi import score_schema as schema
from gated_lpi._common.folders import Folder, is_remote
from gated_lpi.datasets import as_expected
from gated_lpi.errors import RunError
from gated_lpi.metrics.summary import SUMMARY_VERSION
from gated_lpi.results.files import read_file, write_file


class _Array(BaseModel):
    """One array of a summary.

    Attributes:
        dims: names of its dimensions.
        dtype: as NumPy writes it.
        shape: its lengths.
        data: the bytes of numbers in base64, little end first, in the order of C.
        values: the values of texts.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    dims: list[str]
    dtype: str
    shape: list[int]
    data: str = ""
    values: list[str] = []


class _Content(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    made_of: dict[str, Any]
    attributes: dict[str, Any]
    variables: dict[str, _Array]
    coordinates: list[str]


def summary_file(run: Folder, arm: str, method: str, methods: Sequence[str], facts: str = "all") -> Folder:
    """Where a summary is kept: named after its arm, any method but the first, and any facts but all."""
    first = method == next(iter(methods), schema.LPI)
    parts = [arm, *([] if first else [method]), *([] if facts == "all" else [facts])]
    return run / "results" / f"{'.'.join(parts)}.summary.json"


def made_of(scores: str, options: dict[str, Any]) -> dict[str, Any]:
    """What a summary depends on: the digest of an arm's scores, and the options."""
    return {"scores": scores, "options": options, "version": SUMMARY_VERSION}


def kept_summary(file: Folder, source: dict[str, Any]) -> xr.Dataset | None:
    """The summary that is kept in a file, if it was made of this source; None if not."""
    try:
        content = read_file(file, _Content, "a summary", "delete it")
        if content is None or content.made_of != source:
            return None
        variables = {name: (array.dims, _decoded(array)) for name, array in content.variables.items()}
    except (RunError, ValueError, TypeError):
        return None
    return as_expected(xr.Dataset(variables, attrs=content.attributes).set_coords(content.coordinates))


def keep_summary(file: Folder, source: dict[str, Any], summary: xr.Dataset) -> None:
    """Keep a summary, if the folder can be written to."""
    if is_remote(file):
        return
    variables = {str(name): _encoded(variable) for name, variable in summary.variables.items()}
    content = _Content(
        made_of=source,
        attributes=dict(summary.attrs),
        variables=variables,
        coordinates=[str(name) for name in summary.coords],
    )
    try:
        write_file(file, content.model_dump(mode="json"))
    except RunError:
        return


def _encoded(variable: xr.Variable) -> _Array:
    values = variable.to_numpy()
    plain: dict[str, Any] = {"dims": [str(dim) for dim in variable.dims], "shape": list(values.shape)}
    if values.dtype.kind in "biuf":
        little = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"), copy=False)
        return _Array(dtype=little.dtype.str, data=base64.b64encode(little.tobytes()).decode(), **plain)
    return _Array(dtype="text", values=[str(value) for value in values.ravel().tolist()], **plain)


def _decoded(array: _Array) -> NDArray[Any]:
    if array.dtype == "text":
        return np.array(array.values, dtype=str).reshape(array.shape)
    values = np.frombuffer(base64.b64decode(array.data), dtype=np.dtype(array.dtype))
    return values.reshape(array.shape).copy()
