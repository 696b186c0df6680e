"""Controlled experiments: a run with replicates and sweeps, its analyses, and a page with a verdict on each claim.

Read `study` first, what is asked; then `carry_out`, how it is answered. `finding` is what an analysis gives, `table`
has all analyses by name, one a file. `page` and `index` write what was found.
"""

from gated_lpi.studies.carry_out import run_study
from gated_lpi.studies.finding import Analysis, StudyResult, Table, Verdict
from gated_lpi.studies.index import publish, write_index
from gated_lpi.studies.study import Study, load_study, studies

__all__ = [
    "Analysis",
    "Study",
    "StudyResult",
    "Table",
    "Verdict",
    "load_study",
    "publish",
    "run_study",
    "studies",
    "write_index",
]
