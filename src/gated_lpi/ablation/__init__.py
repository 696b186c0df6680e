"""Interventions: silencing heads and units, and what that does to the recall of facts."""

from gated_lpi.ablation.evaluate import target_ranks
from gated_lpi.ablation.interventions import head_units, silenced
from gated_lpi.ablation.recall import Recall, recall
from gated_lpi.ablation.study import Outcome, compare_with_random

__all__ = ["Outcome", "Recall", "compare_with_random", "head_units", "recall", "silenced", "target_ranks"]
