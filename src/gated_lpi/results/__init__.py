"""What a run found, on disk: stores of scores, records, and the reader of it all. No torch.

Read `run` first: what is in a run's folder, and `open_run`; `whole` has all of it in one dataset or tree, `described`
in a few lines. `store` keeps scores, in the order of writes that its head
gives, with `commit`, `chunks` and `damage`; `files` the small JSON files; `summaries` every metric of an arm; `writer`
who may write. `schema` names all variables.
"""

from gated_lpi import score_schema as schema
from gated_lpi.results.records import (
    AblationRow,
    AblationTable,
    ArmRecord,
    RedundancyRow,
    Selectivity,
    SelectivityRow,
    TopUnit,
)
from gated_lpi.results.run import Run, create_run, open_run
from gated_lpi.results.store import ResultStore
from gated_lpi.results.verify import Finding, verify_run
from gated_lpi.results.whole import summaries
from gated_lpi.results.writer import Owner, writer_of

__all__ = [
    "AblationRow",
    "AblationTable",
    "ArmRecord",
    "Finding",
    "Owner",
    "RedundancyRow",
    "ResultStore",
    "Run",
    "Selectivity",
    "SelectivityRow",
    "TopUnit",
    "create_run",
    "open_run",
    "schema",
    "summaries",
    "verify_run",
    "writer_of",
]
