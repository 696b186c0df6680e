"""Neurons or routing? What of J_stab and R_t is left if neurons are permuted within their experts, in words.

What is left is the routing's: which experts carry importance, and how much of it each (`metrics.routing_null`).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gated_lpi.report.arms import ArmResults, Results
from gated_lpi.report.estimates import NAN, Estimate, Verdict, compare, number, read
from gated_lpi.report.tables import listing, show

LAST = -1
ALL = "all"
AGAINST: dict[Verdict, str] = {
    "higher": "The J_stab observed lies above what routing alone gives",
    "lower": "The J_stab observed lies below what routing alone gives",
    "not distinguishable": "The J_stab observed is not distinguishable from what routing alone gives",
    "undefined": "The J_stab observed has no interval to be told from what routing alone gives",
}


def routing_sentences(results: Results) -> list[str]:
    """One for each MoE arm, one more where its changes were split, and one for all dense arms."""
    said = [sentence for arm in results.moe for sentence in (_of_arm(arm), *_of_split(arm))]
    dense = [arm.name for arm in results.dense]
    return [*said, f"Dense arms have no routing to tell from neurons: {listing(dense)}."] if dense else said


def has_null(arm: ArmResults) -> bool:
    """Whether there is something to say of an arm: it has experts, FFN scores by expert, and pairs of checkpoints."""
    return arm.is_moe and arm.pairs > 0 and "ffn" in arm.kinds() and "expert_stability" in arm.summary


def _of_arm(arm: ArmResults) -> str:
    if not has_null(arm):
        return f"{arm.name}: {_why_not(arm)}, so what routing alone explains cannot be said."
    summary = arm.summary
    here = {"kind": "ffn", "pair": LAST}
    observed, alone = read(summary, "stability", **here), read(summary, "stability_routing_null", **here)
    gain, gain_alone = read(summary, "gain_top_set", **here), number(summary, "gain_top_set_routing_null", **here)
    experts = number(summary, "expert_stability", pair=LAST)
    chance = number(summary, "expert_stability_chance")
    return (
        f"{arm.name}, FFN neurons: over all pairs of checkpoints {_alone(arm)}. At the last pair, neurons permuted "
        f"within their experts, so that only routing is left, have a J_stab of {show(alone, 'number')} where "
        f"{show(observed, 'number')} is observed, and an R_t of {show(gain_alone, 'share')} where "
        f"{show(gain, 'share')} is observed. {AGAINST[compare(observed, alone)]}. The top experts themselves overlap "
        f"by {show(experts, 'number')} (chance {show(chance, 'number')})."
    )


def _of_split(arm: ArmResults) -> Iterator[str]:
    """The share of the change of scores that routing explains, where changes were split."""
    if arm.split is None or "routing_share" not in arm.split:
        return
    shares = arm.split["routing_share"].to_numpy()
    last = read(arm.split, "routing_share", checkpoint=LAST)
    known = shares[~np.isnan(shares)]
    if known.size:
        yield (
            f"{arm.name}: of the change of neurons' scores from one checkpoint to the next (Shapley split), routing "
            f"explains {show(last, 'share')} at the last pair, {show(float(known.min()), 'share')} to "
            f"{show(float(known.max()), 'share')} over {known.size} pairs."
        )


def _why_not(arm: ArmResults) -> str:
    if not arm.pairs:
        return "there is one checkpoint, and no pair"
    if "ffn" not in arm.kinds():
        return "FFN neurons were not scored"
    return "its scores do not say which expert a neuron is of"


def _alone(arm: ArmResults) -> str:
    """What routing alone explains. R_t may grow when neurons are permuted, in arms without routing too: two neurons
    differ by more than one does at two times. Then it says nothing of routing.
    """
    gain = _part(arm, "gain_top_set")
    of_gain = "R_t cannot tell (permuted neurons have no less of it)" if gain == ALL else f"{gain} of R_t"
    return f"routing alone explains {_part(arm, 'stability')} of J_stab, and {of_gain}"


def _part(arm: ArmResults, name: str) -> str:
    """The part of a measure that routing gives; "all" from 100% on."""
    share = explained(arm, name)
    if share is None:
        return show(NAN, "share")
    return ALL if share.value >= 1 else show(share, "share")


def explained(arm: ArmResults, name: str) -> Estimate | None:
    """The part of a measure that routing gives, of the sums over the pairs that have both; None where there is none.

    Its interval, where permutations were kept as one, is from all of their low ends to all of their high ones.
    """
    if not has_null(arm):
        return None
    null = f"{name}_routing_null"
    observed, alone = (arm.summary[variable].sel(kind="ffn").to_numpy() for variable in (name, null))
    known = ~(np.isnan(observed) | np.isnan(alone))
    whole = float(observed[known].sum())
    if whole <= 0:
        return None
    ends = (f"{null}_low", f"{null}_high")
    interval = [float(arm.summary[end].sel(kind="ffn").to_numpy()[known].sum()) for end in ends if end in arm.summary]
    return Estimate(*(value / whole for value in (float(alone[known].sum()), *interval)))
