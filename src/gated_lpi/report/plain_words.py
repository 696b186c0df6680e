"""What measures are, for who meets them first: a few words each, with the name that the rest of the report uses."""

from __future__ import annotations

from gated_lpi.claims import Measure

WORDS = {
    "gain_top_set": "the top neurons' share of what importance grows (R_t)",
    "importance_share": "the top neurons' share of importance",
    "entropy": "the evenness of importance (entropy: 1 if all neurons carry the same)",
    "stability": "the overlap of consecutive sets of top neurons (J_stab)",
    "profile_with_last": "the likeness of the layer profile to the last one (correlation)",
    "half_life": "the time until half of a top set has changed (half-life)",
    "time_stability": "the time until top sets settle",
    "time_profile": "the time until the layer profile settles",
    "rho_avg": "the steadiness of the layer profile (ρ_avg)",
    "sigma_rel": "the spread of the layer profile over time (σ_rel)",
}
ABLATION = "The drop of recall"


def measured_in_words(measure: Measure) -> str:
    """A measure in plain words, as a sentence goes on with them."""
    if measure.words.startswith(ABLATION):
        return "recall lost" + measure.words.removeprefix(ABLATION)
    return WORDS.get(measure.name, measure.words)
