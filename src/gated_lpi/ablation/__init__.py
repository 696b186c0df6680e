"""What silencing heads and units does to the recall of facts."""

from gated_lpi.ablation.evaluate import target_ranks
from gated_lpi.ablation.study import Outcome, compare_with_random
from gated_lpi.interventions import head_units, silenced

__all__ = ["Outcome", "compare_with_random", "head_units", "silenced", "target_ranks"]
