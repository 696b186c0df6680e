"""What a checkpoint's record says beside its numbers, in words: for the terminal and for the report.

Apart from `runs`, since a report reads records without any model library.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def remarks(record: Mapping[str, Any]) -> Iterator[str]:
    """Notes on the model, skipped facts and answers that look alike, one line each; nothing for a record without them.

    A record counts all skipped facts (`n_skipped`) and names the first of them (`skipped`).
    """
    yield from record.get("notes", ())
    count, named = record.get("n_skipped", 0), record.get("skipped", ())
    if count:
        which = ", the first" if count > len(named) else ""
        yield f"{count:,} {'fact is' if count == 1 else 'facts are'} skipped{which}: {'; '.join(named)}"
    yield from record.get("collisions", ())
