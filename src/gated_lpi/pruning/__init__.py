"""Experts that a model can do without: ranked, really removed, and what that costs and saves.

`rank_experts` scores the experts of every layer: from attributions (`scores`), from the tokens routed to them
(`routed`) or at random. `prune_experts` makes the smaller model (`removing`). `prune` does all of it and measures
recall, loss on text and cost (`cost`) before and after (`trial`). `history` finds earlier checkpoints in a run.
"""

from gated_lpi.pruning.cost import Cost, cost_of, seconds_per_pass
from gated_lpi.pruning.history import past_scores
from gated_lpi.pruning.ranking import RANKINGS, By, rank_experts
from gated_lpi.pruning.removing import Pruned, prune_experts, save_pruned
from gated_lpi.pruning.routed import RoutedTokens, watch_experts
from gated_lpi.pruning.scores import ExpertRanking, expert_stability, rank_from_scores
from gated_lpi.pruning.trial import Trial, prune

__all__ = [
    "RANKINGS",
    "By",
    "Cost",
    "ExpertRanking",
    "Pruned",
    "RoutedTokens",
    "Trial",
    "cost_of",
    "expert_stability",
    "past_scores",
    "prune",
    "prune_experts",
    "rank_experts",
    "rank_from_scores",
    "save_pruned",
    "seconds_per_pass",
    "watch_experts",
]
