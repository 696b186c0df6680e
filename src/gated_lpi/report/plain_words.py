"""What measures are, for who meets them first: a few words each, with the name that the rest of the report uses."""

from __future__ import annotations

from gated_lpi.claims import Measure
from gated_lpi.report.tables import RHO_AVG, SIGMA_REL

WORDS = {
    "gain_top_set": ("the top neurons' share of what importance gains", "R_t"),
    "importance_share": ("the top neurons' share of importance", ""),
    "entropy": ("evenness of importance", "entropy"),
    "stability": ("overlap of consecutive sets of top neurons", "J_stab"),
    "profile_with_last": ("likeness of the layer profile to the last one", "correlation"),
    "half_life": ("time until half of a top set has changed", "half-life"),
    "time_stability": ("time until top sets settle", ""),
    "time_profile": ("time until the layer profile settles", ""),
    "rho_avg": ("steadiness of the layer profile", RHO_AVG),
    "sigma_rel": ("spread of the layer profile over time", SIGMA_REL),
}
ABLATION = "The drop of recall"


def measured_in_words(measure: Measure) -> str:
    """A measure in plain words, as a sentence goes on with them, and its name in brackets."""
    if measure.words.startswith(ABLATION):
        return "recall lost" + measure.words.removeprefix(ABLATION)
    return named_in_words(measure.name) if measure.name in WORDS else measure.words


def named_in_words(name: str) -> str:
    """The same of a measure by the name of its variable, which is in `WORDS`."""
    words, short = WORDS[name]
    return f"{words} ({short})" if short else words


def briefly(measure: Measure) -> str:
    """A measure where it was named in the same sentence before."""
    words, name = WORDS.get(measure.name, ("", ""))
    return name or words or measured_in_words(measure)
