"""Controlled experiments: a run with replicates and sweeps, its analyses, and a page with a verdict on each claim.

Read `study` first, what is asked; then `carry_out`, how it is answered. `finding` is what an analysis gives, `table`
has all analyses by name, one a file. `page` and `index` write what was found.
"""

from gated_lpi.studies.finding import Analysis, StudyResult, Table, Verdict

__all__ = ["Analysis", "StudyResult", "Table", "Verdict"]
