"""The publication's claims, judged on a run: over the whole of training, with what it would take to decide.

Read `publication` first, what was claimed; then `series`, what it rests on; `judge`, how two groups are compared in one
measure; `judged`, how a run is. `words` says it in sentences.

    from gated_lpi import open_run
    from gated_lpi.claims import judge

    for finding in judge(open_run("runs/demo")).findings:
        print(finding.claim.question, finding.answer)
"""

from gated_lpi.claims.judge import Compared, Contrast, contrast
from gated_lpi.claims.judged import Finding, Judged, judge
from gated_lpi.claims.publication import CLAIMS, Claim, Measure
from gated_lpi.claims.series import ArmSeries, arm_series

__all__ = [
    "CLAIMS",
    "ArmSeries",
    "Claim",
    "Compared",
    "Contrast",
    "Finding",
    "Judged",
    "Measure",
    "arm_series",
    "contrast",
    "judge",
]
