"""What the fast estimator prepares once for a checkpoint: the unembedding's mean row, its spread and its rows' norms.

log p does not change when one vector is taken from all rows of W_U, so rows are centred here: w_j − w̄. With
C = Σ_j (w_j − w̄)(w_j − w̄)ᵀ, a value vector v moves the logits by u_j = (w_j − w̄)·v, and Σ_j u_j² = vᵀCv is known for
every unit without going through the vocabulary (`envelope`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from gated_lpi.methods.rounding import (
    GRAM_ROWS,
    frobenius,
    gamma,
    gram,
    gram_gamma,
    lengths,
    quadratic_gamma,
    underflow,
)
from gated_lpi.models import Readout


class Unembedding:
    """Prepared from a readout; tensors stay on its device.

    Attributes:
        mean: w̄, [d], in the weights' dtype.
        norms: ‖w_j − w̄‖, [V], float64, rounded up; the `longest` of them, and their `root_mean_square`.
        raw_norms: ‖w_j‖, [V], in the weights' dtype.
        spread: C, [d, d], in the weights' dtype, as `gram` leaves it.
        slack: what vᵀCv may be larger by than the computed C and a product with it say, over ‖v‖²: rounding of C is
            at most γ·Σ_j ‖w_j − w̄‖², that of the product γ·‖C‖_F.
    """

    def __init__(self, readout: Readout) -> None:
        weight = readout.weight
        self.weight = weight
        self.dtype = weight.dtype
        pieces = weight.split(GRAM_ROWS)
        total = torch.zeros(weight.shape[1], dtype=torch.float64, device=weight.device)
        for rows in pieces:
            total += rows.sum(dim=0)
        self.mean = (total / len(weight)).to(weight.dtype)
        self.norms = torch.cat([lengths(rows - self.mean) for rows in pieces]) * (1 + gamma(2, weight.dtype))
        self.raw_norms = torch.cat([lengths(rows) for rows in pieces]).to(weight.dtype)
        self.longest = float(self.norms.max())
        self.root_mean_square = float(self.norms.square().mean().sqrt())
        spread = gram((rows - self.mean for rows in pieces), total.new_zeros(len(total), len(total)))
        self.spread = spread.to(weight.dtype)
        trace = float(self.norms.square().sum())
        rounding = (gram_gamma(self.dtype) + gamma(4, self.dtype)) * trace
        self.slack = (rounding + quadratic_gamma(self.dtype) * frobenius(spread)) * 1.01
        self.slack += underflow(self.dtype, len(total) * (len(weight) + 1))

    def rows(self, tokens: Tensor) -> Tensor:
        """w_j − w̄ of `tokens` [n], [n, d]."""
        return self.weight.index_select(0, tokens).sub_(self.mean)

    def centred(self, tokens: slice, out: Tensor) -> Tensor:
        """w_j − w̄ of a range of n tokens, [n, d], in the first rows of `out` [≥ n, d]."""
        rows = self.weight[tokens]
        return torch.sub(rows, self.mean, out=out[: len(rows)])
