"""A run as tables: ARM.units, a row a unit and checkpoint, and metrics, a row a number; Parquet or CSV.

Units are written slice by slice (`gated_lpi.results.frames`): a row group of Parquet each.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from gated_lpi.errors import OptionError
from gated_lpi.export.places import arms_asked, target, written
from gated_lpi.results.frames import metrics_frame, unit_frames

if TYPE_CHECKING:
    import pandas as pd

    from gated_lpi.results import Run

TableFormat = Literal["parquet", "csv"]


class _Writer(Protocol):
    def add(self, frame: pd.DataFrame) -> None: ...

    def close(self) -> None: ...


def write_tables(
    run: Run,
    folder: str | Path,
    form: TableFormat = "parquet",
    *,
    arms: Sequence[str] | None = None,
    steps: str | int = "all",
) -> tuple[Path, ...]:
    """Write ARM.units of each arm that has scores, and metrics.

    Args:
        run: the run.
        folder: where to; it is made.
        form: "parquet" or "csv".
        arms: their names; None for all that have results.
        steps: of units "all" checkpoints, the "last" one, or those of a training step.

    Returns:
        The files.

    Raises:
        OptionError: a format, arm or step that there is not; a file that is there already; Parquet without pyarrow.
        RunError: there are no results, or the files cannot be written.
    """
    if form not in get_args(TableFormat):
        raise OptionError(f"format {form!r} was asked for; expected one of {', '.join(get_args(TableFormat))}")
    units = {arm: unit_frames(run, arm, steps) for arm in arms_asked(run, arms)}
    places = [target(folder, f"{name}.{form}") for name in (*(f"{arm}.units" for arm in units), "metrics")]
    for frames, place in zip(units.values(), places[:-1], strict=True):
        _write(place, form, frames)
    _write(places[-1], form, [metrics_frame(run, arms=list(units))])
    return tuple(places)


def _write(place: Path, form: str, frames: Any) -> None:
    with written(place) as draft:
        writer = _opened(draft, form)
        try:
            for frame in frames:
                writer.add(frame)
        finally:
            writer.close()


def _opened(place: Path, form: str) -> _Writer:
    return _Csv(place) if form == "csv" else _Parquet(place)


class _Csv:
    """Rows after rows, a heading once."""

    def __init__(self, place: Path) -> None:
        self._file = place.open("w", encoding="utf-8", newline="")
        self._begun = False

    def add(self, frame: pd.DataFrame) -> None:
        frame.to_csv(self._file, index=False, header=not self._begun)
        self._begun = True

    def close(self) -> None:
        self._file.close()


class _Parquet:
    """A row group for each slice; the first one's types are those of the file."""

    def __init__(self, place: Path) -> None:
        try:
            import pyarrow.parquet
        except ImportError as error:
            raise OptionError(
                "Parquet was asked for and pyarrow is not installed; pip install 'gated-lpi[parquet]', or ask for csv"
            ) from error
        self._arrow = pyarrow
        self._place = place
        self._writer: Any = None

    def add(self, frame: pd.DataFrame) -> None:
        schema = None if self._writer is None else self._writer.schema
        table = self._arrow.Table.from_pandas(frame, schema=schema, preserve_index=False)
        if self._writer is None:
            self._writer = self._arrow.parquet.ParquetWriter(self._place, table.schema, compression="zstd")
        self._writer.write_table(table)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
