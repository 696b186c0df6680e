"""How often a run's corpus has each fact: frequencies.json, written when arms are trained on a corpus of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from gated_lpi._common.folders import Folder
from gated_lpi.facts.teaching import FactFrequency
from gated_lpi.results.files import Number, read_file, write_file

FREQUENCIES = "frequencies.json"
REMEDY = "delete it, and run again: it is written anew"


class _Frequencies(BaseModel):
    """The content of the file: rows of relation, subject, object, rank, sentences, asked."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    facts: tuple[tuple[str, str, str, Number, Annotated[float, Field(ge=0)], bool], ...]


def keep_frequencies(file: Folder, frequencies: Sequence[FactFrequency]) -> None:
    """Write the file.

    Raises:
        WriteError: it could not be written.
    """
    write_file(file, {"facts": [list(fact) for fact in frequencies]})


def kept_frequencies(file: Folder) -> tuple[FactFrequency, ...]:
    """What the file holds; nothing if there is none.

    Raises:
        RunError: it is there but cannot be read.
    """
    content = read_file(file, _Frequencies, "frequencies of facts", REMEDY)
    return () if content is None else tuple(FactFrequency(*fact) for fact in content.facts)
