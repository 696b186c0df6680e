"""Summary metrics: pure functions on arrays of scores, and one dataset that holds them all.

Scores are nats, mean over prompts: [T, N] for T checkpoints and N units of one kind. FFN and attention units
are summarised separately. Undefined values are NaN; arguments outside what they may be raise `OptionError`.
"""

from gated_lpi.metrics._members import top_sets
from gated_lpi.metrics.agreement import (
    Agreement,
    AgreementInterval,
    OverlapChance,
    agreement,
    agreement_chance,
    agreement_interval,
    overlap_chance,
    sampled_agreement_interval,
    spearman_within,
)
from gated_lpi.metrics.bands import (
    Band,
    Parting,
    difference_band,
    draws_band,
    hierarchical_band,
    hierarchical_difference_band,
    replicate_band,
    where_apart,
)
from gated_lpi.metrics.comparisons import (
    GroupDifference,
    compare_groups,
    holm,
    power,
    replicates_needed,
    smallest_detectable,
)
from gated_lpi.metrics.concentration import (
    Entropy,
    GainConcentration,
    entropy,
    gain_concentration,
    importance_share,
)
from gated_lpi.metrics.consolidation import consolidation_step
from gated_lpi.metrics.decide import Decision, DecisionOverTime, decide, decide_groups, decide_over_time
from gated_lpi.metrics.density import AcrossDensities, Density, across_densities, densities, every, token_grid
from gated_lpi.metrics.faithfulness import (
    AreaIntervals,
    Areas,
    curve_area,
    drop_at_damage,
    drop_at_damage_interval,
    faithfulness_areas,
    faithfulness_intervals,
)
from gated_lpi.metrics.gaps import GapOverlap, HalfLife, half_life, overlap_by_gap, overlap_matrix
from gated_lpi.metrics.hierarchical import (
    HierarchicalInterval,
    hierarchical_difference,
    hierarchical_interval,
    replicate_values,
)
from gated_lpi.metrics.hits import RandomControl, hit_at_k, hit_interval, random_control, relative_drop
from gated_lpi.metrics.layers import (
    PairwiseMean,
    RelativeSpread,
    layer_profile,
    mean_pairwise,
    profile_correlation,
    relative_spread,
)
from gated_lpi.metrics.method_agreement import method_agreement
from gated_lpi.metrics.routing import load_imbalance, routing_stability, utilisation_entropy
from gated_lpi.metrics.routing_health import (
    co_activation,
    dead_experts,
    dead_experts_chance,
    gate_entropy,
    router_saturation,
    routing_jaccard,
    routing_jaccard_chance,
    routing_jaccard_exchanged,
)
from gated_lpi.metrics.routing_null import (
    RoutingNull,
    expert_stability,
    gain_routing_null,
    routing_null,
)
from gated_lpi.metrics.routing_split import routing_share
from gated_lpi.metrics.size_matched import SizeMatched, at_set_size, at_units, size_matched
from gated_lpi.metrics.stability import jaccard, jaccard_chance, jaccard_chance_interval, top_set_stability
from gated_lpi.metrics.statistics import Bounds, Chance, Interval, bootstrap, random_share_chance
from gated_lpi.metrics.summary import summarise, summary_to_json
from gated_lpi.metrics.survival import Backbone, BackboneNull, Churn, Survival, backbone, churn, membership_survival
from gated_lpi.metrics.topset import set_size, top_mask, top_set, top_set_ties, top_set_undecided
from gated_lpi.metrics.trajectory import Peak, TrajectoryArea, peak, time_to_consolidation, trajectory_area

__all__ = [
    "AcrossDensities",
    "Agreement",
    "AgreementInterval",
    "AreaIntervals",
    "Areas",
    "Backbone",
    "BackboneNull",
    "Band",
    "Bounds",
    "Chance",
    "Churn",
    "Decision",
    "DecisionOverTime",
    "Density",
    "Entropy",
    "GainConcentration",
    "GapOverlap",
    "GroupDifference",
    "HalfLife",
    "HierarchicalInterval",
    "Interval",
    "OverlapChance",
    "PairwiseMean",
    "Parting",
    "Peak",
    "RandomControl",
    "RelativeSpread",
    "RoutingNull",
    "SizeMatched",
    "Survival",
    "TrajectoryArea",
    "across_densities",
    "agreement",
    "agreement_chance",
    "agreement_interval",
    "at_set_size",
    "at_units",
    "backbone",
    "bootstrap",
    "churn",
    "co_activation",
    "compare_groups",
    "consolidation_step",
    "curve_area",
    "dead_experts",
    "dead_experts_chance",
    "decide",
    "decide_groups",
    "decide_over_time",
    "densities",
    "difference_band",
    "draws_band",
    "drop_at_damage",
    "drop_at_damage_interval",
    "entropy",
    "every",
    "expert_stability",
    "faithfulness_areas",
    "faithfulness_intervals",
    "gain_concentration",
    "gain_routing_null",
    "gate_entropy",
    "half_life",
    "hierarchical_band",
    "hierarchical_difference",
    "hierarchical_difference_band",
    "hierarchical_interval",
    "hit_at_k",
    "hit_interval",
    "holm",
    "importance_share",
    "jaccard",
    "jaccard_chance",
    "jaccard_chance_interval",
    "layer_profile",
    "load_imbalance",
    "mean_pairwise",
    "membership_survival",
    "method_agreement",
    "overlap_by_gap",
    "overlap_chance",
    "overlap_matrix",
    "peak",
    "power",
    "profile_correlation",
    "random_control",
    "random_share_chance",
    "relative_drop",
    "relative_spread",
    "replicate_band",
    "replicate_values",
    "replicates_needed",
    "router_saturation",
    "routing_jaccard",
    "routing_jaccard_chance",
    "routing_jaccard_exchanged",
    "routing_null",
    "routing_share",
    "routing_stability",
    "sampled_agreement_interval",
    "set_size",
    "size_matched",
    "smallest_detectable",
    "spearman_within",
    "summarise",
    "summary_to_json",
    "time_to_consolidation",
    "token_grid",
    "top_mask",
    "top_set",
    "top_set_stability",
    "top_set_ties",
    "top_set_undecided",
    "top_sets",
    "trajectory_area",
    "utilisation_entropy",
    "where_apart",
]
