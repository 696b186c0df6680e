"""The logit lens of a block's base, which every estimator starts from: log p(· | base), and how wrong it may be.

Products are cut into pieces whose rounding is bounded (`rounding`), so that log p comes with a bound that holds.
Rows and columns are worked through in tiles, so that nothing of [P, V] in float64 is ever held.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gated_lpi.methods.rounding import PIECE, RUN, BlockedProduct, gamma, product_gamma, sum_in_runs, unit_roundoff
from gated_lpi.methods.tiles import BUSY, at_once
from gated_lpi.models import Readout

COLUMNS = 1024
WIDE, WIDE_PIECE = 1024, 96  # terms of a piece, so that log p of targets needs no float64 in models as wide as 4,096


class BaseLogits(NamedTuple):
    """The readout of the base of P prompts.

    Attributes:
        inverse_scale: [P], 1/σ that the base is read out with.
        log_p: [P, V], log-softmax of the logits.
        log_z: [P], float64, the logarithm of the sum of the logits' exponentials.
        target_log_p: [P], log p(target | base), nats.
        error: [P], float64: no logit is off by more before it is stored.
        storage: [P], float64: what storing adds to that, and how far Σ_j exp(log_p) may be from 1.
    """

    inverse_scale: Tensor
    log_p: Tensor
    log_z: Tensor
    target_log_p: Tensor
    error: Tensor
    storage: Tensor


def base_logits(readout: Readout, base: Tensor, inverse_scale: Tensor | None, targets: Tensor) -> BaseLogits:
    """Read out the base of P prompts.

    Args:
        readout: the model's.
        base: [P, d], the residual stream before the block writes.
        inverse_scale: [P], 1/σ to hold; None finds it from `base`.
        targets: [P], target token ids.
    """
    scale = readout.inverse_scale(base) if inverse_scale is None else inverse_scale
    hidden = readout.fold(base.double()).to(base.dtype)
    weight, offset = readout.weight, readout.offset()
    logits = torch.empty(len(base), readout.vocabulary, dtype=base.dtype, device=base.device)
    step = min(readout.vocabulary, _columns(logits))
    multiply = BlockedProduct(len(base), step, base, _piece(hidden))
    for start in range(0, readout.vocabulary, step):
        columns = slice(start, start + step)
        product = multiply(hidden, weight[columns].T).mul_(scale.unsqueeze(-1))
        if offset is not None:
            product += offset[columns]
        logits[:, columns] = readout.cap(product)
    # Not aminmax, which is several times slower.
    least, largest = logits.amin(dim=-1, keepdim=True), logits.amax(dim=-1, keepdim=True)
    log_z = largest.double() + _sum_of_exponentials(logits, largest).log()
    size = (torch.maximum(-least, largest).double() + log_z.abs()).squeeze(-1)
    logits -= log_z.to(logits.dtype)
    target_log_p = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    error = _error(readout, hidden, scale, offset)
    if offset is not None:
        size += offset.abs().max()
    storage = unit_roundoff(base.dtype) * (6 * size + 8) + gamma(RUN, base.dtype)
    return BaseLogits(scale, logits, log_z.squeeze(-1), target_log_p, error, storage)


def _piece(hidden: Tensor) -> int:
    """How many terms of a product are summed before they are added to the others."""
    return WIDE_PIECE if hidden.shape[1] >= WIDE else PIECE


def _columns(logits: Tensor) -> int:
    """Columns of `logits` [P, V] to work through at a time."""
    return at_once(COLUMNS, logits.device, BUSY // len(logits))


def _sum_of_exponentials(logits: Tensor, largest: Tensor) -> Tensor:
    """Σ_j exp(logit_j − largest), [P, 1], in float64."""
    total = torch.zeros(len(logits), dtype=torch.float64, device=logits.device)
    step = _columns(logits)
    for start in range(0, logits.shape[1], step):
        total += sum_in_runs((logits[:, start : start + step] - largest).exp_())
    return total.unsqueeze(-1)


def _error(readout: Readout, hidden: Tensor, scale: Tensor, offset: Tensor | None) -> Tensor:
    """Bound on the rounding of any logit, [P]: γ·‖h‖·‖w_j‖/σ, and that of the offset."""
    longest = readout.longest_row
    error: Tensor = scale.double() * torch.linalg.vector_norm(hidden.double(), dim=-1)
    error = product_gamma(hidden.shape[1], hidden.dtype, _piece(hidden)) * longest * error
    return error if offset is None else error + 2 * unit_roundoff(hidden.dtype) * offset.abs().max()
