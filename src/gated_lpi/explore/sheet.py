"""A table of a page: what is shown of it, and all of it as CSV or Parquet."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from gated_lpi.errors import OptionError
from gated_lpi.report.tables import Form, show

if TYPE_CHECKING:
    import pandas as pd

NUMERIC = ("count", "number", "share", "percent")
TableFormat = Literal["csv", "parquet"]


class Col(NamedTuple):
    """A column.

    Attributes:
        key: its name in files, and in rows.
        label: its heading.
        form: how its values are written.
        sort: where its heading leads, which sorts by it; None: nowhere.
        sorted: "ascending" or "descending" where the table is sorted by it.
        hint: what it is, in a sentence.
    """

    key: str
    label: str
    form: Form = "text"
    sort: str | None = None
    sorted: str | None = None
    hint: str = ""


@dataclass(frozen=True)
class Sheet:
    """A table.

    Attributes:
        name: what it is called in files and addresses.
        caption: how to read it.
        columns: from left to right; the first names the row.
        rows: values by column.
        links: of the values that lead somewhere, where to, a dict for each row; none for no links at all.
        whole: makes all rows as arrays by column, where those shown are some of them.
        marked: places of rows that are marked as the chosen ones.
    """

    name: str
    caption: str
    columns: tuple[Col, ...]
    rows: Sequence[Mapping[str, Any]]
    links: Sequence[Mapping[str, str]] = ()
    whole: Callable[[], Mapping[str, Any]] | None = None
    marked: frozenset[int] = field(default_factory=frozenset)

    def cell(self, place: int, column: Col) -> str:
        """A value as it is shown."""
        return show(self.rows[place].get(column.key), column.form)

    def link(self, place: int, column: Col) -> str:
        """Where a value leads; "" for nowhere."""
        return self.links[place].get(column.key, "") if self.links else ""

    def numeric(self, column: Col) -> bool:
        """Whether a column is of numbers."""
        return column.form in NUMERIC

    def frame(self) -> pd.DataFrame:
        """All of it as a `pandas.DataFrame`."""
        import pandas as pd

        if self.whole is not None:
            return pd.DataFrame(dict(self.whole()))
        keys = [column.key for column in self.columns]
        return pd.DataFrame({key: [row.get(key) for row in self.rows] for key in keys})


def written(sheet: Sheet, form: TableFormat) -> bytes:
    """A table as the bytes of a CSV or Parquet file.

    Raises:
        OptionError: Parquet is asked for and pyarrow is not there.
    """
    frame = sheet.frame()
    if form == "csv":
        text: str = frame.to_csv(index=False)
        return text.encode()
    buffer = io.BytesIO()
    try:
        frame.to_parquet(buffer, index=False)
    except ImportError as error:
        raise OptionError(
            "Parquet was asked for and pyarrow is not installed; pip install 'gated-lpi[explore]', or export CSV"
        ) from error
    return buffer.getvalue()
