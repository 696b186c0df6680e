"""What the fast estimator prepares once for a checkpoint: the unembedding's mean row, its spread and its rows' norms.

log p does not change when one vector is taken from all rows of W_U, so rows are centred here: w_j − w̄. With
C = Σ_j (w_j − w̄)(w_j − w̄)ᵀ, a value vector v moves the logits by u_j = (w_j − w̄)·v, and Σ_j u_j² = vᵀCv is known for
every unit without going through the vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gated_lpi.lpi.rounding import gamma, split_gamma, split_matmul
from gated_lpi.models import Readout
from gated_lpi.models.readout import ROWS


class Unembedding:
    """Prepared from a readout; tensors stay on its device.

    Attributes:
        mean: w̄, [d], in the weights' dtype.
        norms: ‖w_j − w̄‖, [V], float64, and the `longest` of them.
        raw_norms: ‖w_j‖, [V], in the weights' dtype.
        spread: C, [d, d], in the weights' dtype.
    """

    def __init__(self, readout: Readout) -> None:
        weight = readout.weight
        self.weight = weight
        self.dtype = weight.dtype
        total = torch.zeros(weight.shape[1], dtype=torch.float64, device=weight.device)
        for rows in weight.split(ROWS):
            total += rows.double().sum(dim=0)
        self.mean = (total / len(weight)).to(weight.dtype)
        norms, raw_norms = [], []
        spread = torch.zeros(weight.shape[1], weight.shape[1], dtype=torch.float64, device=weight.device)
        for rows in weight.split(ROWS):
            centred = rows - self.mean
            norms.append(torch.linalg.vector_norm(centred.double(), dim=-1))
            raw_norms.append(torch.linalg.vector_norm(rows, dim=-1))
            spread += split_matmul(centred.T, centred)
        self.norms = torch.cat(norms)
        self.longest = float(self.norms.max())
        self.raw_norms = torch.cat(raw_norms)
        self.spread = spread.to(weight.dtype)
        trace = float(self.norms.square().sum())
        self._slack = (split_gamma(self.dtype) + gamma(4, self.dtype)) * (trace + float(spread.norm())) * 1.01

    def rows(self, tokens: Tensor) -> Tensor:
        """w_j − w̄ of these tokens, [n, d]."""
        return self.weight[tokens] - self.mean

    def centred(self, tokens: slice) -> Tensor:
        """The same for a range of tokens."""
        return self.weight[tokens] - self.mean

    def squares(self, values: Tensor) -> Tensor:
        """Upper bound on Σ_j u_j² = vᵀCv of folded value vectors [n, d], [n] in float64.

        Rounding of C is at most γ·Σ_j ‖w_j − w̄‖², that of the product γ·‖C‖_F, both times ‖v‖².
        """
        found = torch.empty(len(values), dtype=torch.float64, device=values.device)
        for start in range(0, len(values), ROWS):
            some = values[start : start + ROWS]
            quadratic = (split_matmul(some, self.spread) * some).sum(dim=-1)
            found[start : start + ROWS] = quadratic + self._slack * some.double().square().sum(dim=-1)
        return found.clamp_min_(0.0)
