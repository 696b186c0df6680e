"""What is said of every run, whatever its arms: what they recall, when they settled, what cannot bear much."""

from __future__ import annotations

import numpy as np

from gated_lpi.experiments.experiment import AttributionSpec
from gated_lpi.report.arms import KIND_NAMES, ArmResults, Results, capital
from gated_lpi.report.clocks import at_step
from gated_lpi.report.estimates import Estimate, number, read
from gated_lpi.report.tables import RHO_AVG, listing, show

LAST = -1
RELIABLE_RECALL = 0.9
FOIL_NAMES = {
    "relation": "the mean over its relation's other objects",
    "fact": "the foil that its fact names",
    "best": "the likeliest other token",
}
SMALL_SET = 10


def recall_sentence(results: Results) -> str:
    """HIT@10 of every arm at its last checkpoint."""
    each = [f"{arm.name} {show(recall(arm), 'share')}" for arm in results.arms]
    own = any(arm.scores.attrs.get("target") == "top1" for arm in results.arms)
    caution = " Targets are the models' own predictions, so this is 100% by construction." if own else ""
    return f"HIT@10 at the last checkpoint, with Wilson's 95% interval: {listing(each)}.{caution}"


def explained_sentence(asked: AttributionSpec) -> str:
    """What of an answer is scored and recalled, against what, and with what gates of routed experts."""
    said = ["Scores and recall are of the first token of each answer."]
    if asked.answer == "all":
        said = [
            "Scores and recall are of whole answers, each token after those before it: scores are summed over the "
            "tokens, a rank is the worst of theirs, so that HIT@1 is exact match by greedy decoding."
        ]
    elif asked.target == "top1":
        said = ["Scores are of the models' own predictions."]
    if asked.foil is not None:
        said.append(f"Scores are of the target against {FOIL_NAMES[asked.foil]}.")
    if asked.contrast is not None:
        said.append(f"Scores “against the foil” are of the target against {FOIL_NAMES[asked.contrast]}.")
    if asked.gate != "gated":
        said.append(f"Neurons of routed experts count with the gate “{asked.gate}”, not as the router weighs them.")
    return " ".join(said)


def smallest_set(results: Results) -> int | None:
    """The size of the smallest top set that is too small for smooth measures; None if none is."""
    sizes = (int(arm.summary["top_units"].sel(kind=kind)) for arm in results.arms for kind in arm.kinds())
    return min((size for size in sizes if size < SMALL_SET), default=None)


def small_sets_note(results: Results) -> str | None:
    """Which top sets are too small for smooth measures; None if none is."""
    small = [
        f"{arm.name}, {KIND_NAMES[kind]}: {size}"
        for arm in results.arms
        for kind in arm.kinds()
        if (size := int(arm.summary["top_units"].sel(kind=kind))) < SMALL_SET
    ]
    if not small:
        return None
    return (
        f"Some top sets are small ({'; '.join(small)}). One neuron more or less moves their measures far, and "
        "intervals over relations can come out without width."
    )


def recall_warning(results: Results) -> str | None:
    """Which arms recall too few facts for their ablations to mean much; None if all recall enough."""
    low = [f"{arm.name} ({show(_lowest_recall(arm), 'share')})" for arm in results.arms if _recalls_too_little(arm)]
    if not low:
        return None
    return (
        f"Below {RELIABLE_RECALL:.0%} of facts recalled (HIT@10): {listing(low)}. An ablation can only take away what "
        "was there: drops, and what importance says of knowledge, mean little for such an arm."
    )


def recall(arm: ArmResults) -> Estimate:
    """HIT@10 at the last checkpoint."""
    return read(arm.summary, "hit", checkpoint=LAST, hit_k=10)


def _lowest_recall(arm: ArmResults) -> float:
    """The lower of the summary's HIT@10 and, at the same k, the intact one of the ablations."""
    intact = arm.record.ablation.hit if arm.record is not None and arm.record.ablation.k == 10 else float("nan")
    return float(np.fmin(recall(arm).value, intact))


def _recalls_too_little(arm: ArmResults) -> bool:
    return _lowest_recall(arm) < RELIABLE_RECALL


def settling(results: Results, kind: str) -> str:
    """From which step on J_stab and the profile stay above their thresholds, and ρ_avg."""
    attributes = results.arms[0].summary.attrs
    window = str(results.arms[0].summary["window"].to_numpy()[0])
    stable = _steps(results, kind, "consolidation_stability")
    profile = _steps(results, kind, "consolidation_profile")
    rho = [
        f"{show(number(arm.summary, 'rho_avg', kind=kind, window=window), 'number')} in {arm.name}"
        for arm in results.arms
    ]
    return (
        f"{capital(KIND_NAMES[kind])}: J_stab stays at or above {attributes['stability_threshold']:g} {stable}; the "
        "layer profile's correlation "
        f"with the last one stays at or above {attributes['profile_threshold']:g} {profile}; {RHO_AVG} over the "
        f"window “{window}” is {listing(rho)}."
    )


def _steps(results: Results, kind: str, name: str) -> str:
    found = [(arm, number(arm.summary, name, kind=kind)) for arm in results.arms]
    return listing(
        [
            f"never in {arm.name}" if np.isnan(step) else f"from {at_step(step, arm.summary.attrs)} in {arm.name}"
            for arm, step in found
        ]
    )
