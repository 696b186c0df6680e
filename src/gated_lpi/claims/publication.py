"""The publication's three claims (arXiv 2601.08383) as data: what was claimed, of which measures, which way, where.

A claim is judged by its *counted* measures; the others are shown beside them and decide nothing. `smallest` is the
least difference that would matter: where a band lies within it, a difference of that size is excluded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

RHO_AVG, SIGMA_REL = "\N{GREEK SMALL LETTER RHO}_avg", "\N{GREEK SMALL LETTER SIGMA}_rel"
Direction = Literal["higher", "lower"]
Unit = Literal["share", "number", "doublings", "factors", "percent", "neurons"]
UNIT_WORDS: dict[Unit, str] = {
    "share": "percentage points",
    "number": "",
    "doublings": "doublings of tokens",
    "factors": "factors of two",
    "percent": "percentage points",
    "neurons": "neurons",
}


_CORRELATIONS = ("profile_with_last", "profile_with_last_area", "profile_with_last_peak", "rho_avg")


@dataclass(frozen=True)
class Measure:
    """One measure of a claim.

    Attributes:
        name: of the series or number (`series`), or of the row of the ablations.
        words: what it is called in sentences.
        claimed: which way the mixture-of-experts model was claimed to lie.
        unit: of its values and differences.
        smallest: the least difference that would matter, in that unit.
        over_time: whether it is a series over training, or one number of a whole training.
        counted: whether it decides the claim.
    """

    name: str
    words: str
    claimed: Direction
    unit: Unit
    smallest: float
    over_time: bool = True
    counted: bool = True

    @property
    def widest(self) -> float:
        """The greatest difference that two values can have: 2 of correlations, 1 of other shares and coefficients."""
        if self.unit in ("doublings", "factors", "neurons"):
            return math.inf
        return {"percent": 100.0}.get(self.unit, 2.0 if self.name in _CORRELATIONS else 1.0)


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes:
        key: a word for it.
        claim: a sentence that can be false.
        question: the same, asked of a run.
        reported: what the publication reports, and of which models.
        measures: what it is judged by; of ablations, those that a run has.
    """

    key: str
    claim: str
    question: str
    reported: str
    measures: tuple[Measure, ...]


BACKBONE = Claim(
    "backbone",
    "Importance is more concentrated in the mixture-of-experts model: its top neurons hold more of it, its entropy is "
    "lower.",
    "Is importance more concentrated in the MoE?",
    "Reported (arXiv 2601.08383) for OLMoE against OLMo, another scale: top-1% neurons take 45% to 52% of positive "
    "gain in the MoE, about 6% in the dense one.",
    (
        Measure("gain_top_set", "R_t", "higher", "share", 0.05),
        Measure("importance_share", "The top set's share of importance", "higher", "share", 0.05),
        Measure("entropy", "Entropy of importance", "lower", "number", 0.05),
        Measure("gain_top_by_gain", "R_t by gain", "higher", "share", 0.05, counted=False),
        Measure("effective_units", "The effective number of neurons", "lower", "neurons", 1.0, counted=False),
    ),
)
CONSOLIDATION = Claim(
    "consolidation",
    "The mixture-of-experts model settles earlier: its top sets overlap more and for longer, its layer profile is "
    "steady from earlier on.",
    "Do top sets and layer profiles settle earlier in the MoE?",
    "Reported (arXiv 2601.08383) for OLMoE against OLMo: a stable profile within 100K steps, "
    f"{RHO_AVG} 0.97 against 0.69, {SIGMA_REL} 0.37 against 5.01.",
    (
        Measure("stability", "J_stab", "higher", "number", 0.05),
        Measure("profile_with_last", "The layer profile's correlation with the last", "higher", "number", 0.05),
        Measure("half_life", "The half-life of overlap", "higher", "doublings", 0.5, over_time=False),
        Measure("time_stability", "The time at which J_stab settles", "lower", "doublings", 0.5, over_time=False),
        Measure("time_profile", "The time at which the profile settles", "lower", "doublings", 0.5, over_time=False),
        Measure("rho_avg", RHO_AVG, "higher", "number", 0.05, over_time=False),
        Measure("sigma_rel", SIGMA_REL, "lower", "factors", 0.5, over_time=False),
    ),
)
ROBUSTNESS = Claim(
    "robustness",
    "The mixture-of-experts model is more robust: it loses less recall without its top heads and top neurons.",
    "Is recall more robust in the MoE?",
    "Reported (arXiv 2601.08383) for OLMoE against OLMo: without the top-10 heads HIT@10 falls by 9.4% against 50.4%.",
    (),
)
CLAIMS = (BACKBONE, CONSOLIDATION, ROBUSTNESS)


def ablation(row: str) -> Measure:
    """The measure of one row of the ablations, such as "top-10 heads"."""
    return Measure(row, f"The drop of recall without the {row}", "lower", "percent", 5.0, over_time=False)


def area(measure: Measure) -> Measure:
    """The mean of a series over log tokens, as a measure that decides nothing."""
    words = (
        f"The mean over training of {measure.words[:1].lower() if measure.words[1:2].islower() else measure.words[:1]}"
    )
    return Measure(
        f"{measure.name}_area",
        words + measure.words[1:],
        measure.claimed,
        measure.unit,
        measure.smallest,
        over_time=False,
        counted=False,
    )


def highest(measure: Measure) -> Measure:
    """The greatest value of a series, as a measure that decides nothing."""
    peaked = area(measure)
    words = peaked.words.replace("The mean over training of", "The greatest value of", 1)
    return Measure(
        f"{measure.name}_peak", words, measure.claimed, measure.unit, measure.smallest, over_time=False, counted=False
    )
