"""An arm's scores as one netCDF 4 file, ARM.nc, a checkpoint at a time.

xarray writes coordinates, attributes and what does not grow with checkpoints. The rest is added by h5netcdf, a row for
each checkpoint, since xarray would read each variable whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import h5netcdf

from gated_lpi.export.places import arms_asked, target, written

if TYPE_CHECKING:
    import xarray as xr

    from gated_lpi.results import Run

DIM = "checkpoint"


def write_netcdf(run: Run, folder: str | Path, *, arms: Sequence[str] | None = None) -> tuple[Path, ...]:
    """Write ARM.nc of each arm: what `Run.scores` has, which `gated_lpi.open_scores` reads back.

    Args:
        run: the run.
        folder: where to; it is made.
        arms: their names; None for all that have results.

    Returns:
        The files.

    Raises:
        OptionError: an arm that there is not, or a file that is there already.
        RunError: there are no results, or the files cannot be written.
    """
    scores = {arm: run.scores(arm) for arm in arms_asked(run, arms)}
    places = {arm: target(folder, f"{arm}.nc") for arm in scores}
    for arm, place in places.items():
        with written(place) as draft:
            _write(scores[arm], draft)
    return tuple(places.values())


def _write(scores: xr.Dataset, place: Path) -> None:
    rows = [
        str(name)
        for name, variable in scores.data_vars.items()
        if DIM in variable.dims and variable.dtype.kind in "iuf"
    ]
    scores.drop_vars(rows).to_netcdf(place, engine="h5netcdf")
    with h5netcdf.File(place, "a") as file:
        for name, length in scores.sizes.items():
            if name not in file.dimensions:
                file.dimensions[str(name)] = length
        for name in rows:
            variable = scores[name].transpose(DIM, ...)
            chunks = (1, *(max(1, length) for length in variable.shape[1:]))
            kept = file.create_variable(name, variable.dims, variable.dtype, chunks=chunks, compression="gzip")
            kept.attrs.update(variable.attrs)
            for place_of_row in range(variable.sizes[DIM]):
                kept[place_of_row] = variable.isel({DIM: place_of_row}).to_numpy()
