"""How much of p lies above an envelope that is scaled down: a better bound on the tokens not looked at.

p comes near r·q for few tokens only. Where a bound |u| ≤ U on the tokens of T is known (`reach`), p is better cut at a
lower scale s:

    Σ_T p_j·u_j² ≤ s·Σ_T q_j·u_j² + U²·Σ_T max(p_j − s·q_j, 0).

The last sum depends on the prompt and s alone, not on the unit.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from gated_lpi.lpi.distribution import Distribution
from gated_lpi.lpi.envelope import Envelope
from gated_lpi.lpi.rounding import RUN, gamma, sum_in_runs, unit_roundoff

CUTS = (1 / 2, 1 / 4, 1 / 8)  # where p is cut, over the scale
COLUMNS = 1024
HIDDEN = 1e30  # weight of the tokens that are looked at


def with_excess(envelope: Envelope, p: Distribution) -> Envelope:
    """The same envelope with cuts of its scale, and what of p lies above them, for the largest level below the last."""
    dtype, level = p.p.dtype, len(p.levels) - 2
    cuts = torch.stack([envelope.scale[level] * cut for cut in CUTS]).to(dtype)
    weights = torch.full_like(p.log_p[0], envelope.beyond)
    weights[p.order[: len(envelope.weights)]] = envelope.weights
    weights[p.order[: p.levels[level]]] = HIDDEN
    found = torch.zeros_like(cuts, dtype=torch.float64)
    for some, of_tokens in zip(p.log_p.split(COLUMNS, dim=1), weights.split(COLUMNS), strict=True):
        probability = some.exp()
        for total, cut in zip(found, cuts, strict=True):
            total += sum_in_runs(torch.addr(probability, cut, of_tokens, alpha=-1).clamp_min_(0.0))
    outside = (1.0 - p.inside[level]).clamp_min(0.0) + p.storage
    lost = 8 * unit_roundoff(dtype) * outside  # in differences p − s·q of p ≥ s·q
    return replace(envelope, cuts=cuts.double(), excess=found * (1 + 2 * gamma(RUN, dtype)) + lost)
