"""What the source reports for its two models, to stand beside a run's own numbers.

From arXiv 2601.08383: OLMoE-1B-7B and OLMo-7B, relational facts, HIT@10.
"""

from __future__ import annotations

from typing import NamedTuple

from gated_lpi.report.tables import RHO_AVG, SIGMA_REL

SOURCE_URL = "https://arxiv.org/abs/2601.08383"
SOURCE_NAME = "arXiv 2601.08383"
MODELS = ("OLMoE-1B-7B", "OLMo-7B")


class Reported(NamedTuple):
    """One measure as the source reports it for `MODELS`.

    Attributes:
        measure: what was measured.
        moe: of the mixture-of-experts model.
        dense: of the dense model.
    """

    measure: str
    moe: str
    dense: str


ABLATIONS = {
    "top-1 head": Reported("HIT@10 lost without the top-1 head", "0.06%", "16.46%"),
    "top-10 heads": Reported("HIT@10 lost without the top-10 heads", "9.44%", "50.43%"),
    "top-1% FFN units": Reported("HIT@10 lost without the top-1% FFN neurons", "35.47%", "96.19%"),
}
GAIN = Reported("R_t", "45% to 52%", "about 6%")
CORRELATION = Reported(RHO_AVG, "0.97", "0.69")
SPREAD = Reported(SIGMA_REL, "0.37", "5.01")
