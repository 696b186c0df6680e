"""What silencing units and heads does to the recall of facts, beside matched controls and the damage to all else."""

from gated_lpi.ablation.ablating import ablate
from gated_lpi.ablation.controls import Chosen, Control, draw
from gated_lpi.ablation.damage import read_text, text_loss, text_windows
from gated_lpi.ablation.evaluate import TargetScores, target_ranks, target_scores
from gated_lpi.ablation.ranking import Ranking, rank
from gated_lpi.ablation.recall import Recall, recall
from gated_lpi.ablation.redundancy import redundancy, routing_jaccard
from gated_lpi.ablation.study import Outcome, compare_with_random, hit_by_relation
from gated_lpi.interventions import head_units, silenced

__all__ = [
    "Chosen",
    "Control",
    "Outcome",
    "Ranking",
    "Recall",
    "TargetScores",
    "ablate",
    "compare_with_random",
    "draw",
    "head_units",
    "hit_by_relation",
    "rank",
    "read_text",
    "recall",
    "redundancy",
    "routing_jaccard",
    "silenced",
    "target_ranks",
    "target_scores",
    "text_loss",
    "text_windows",
]
