"""The readout: residual stream → logits, through the final norm and the unembedding.

    logits(h) = softcap( ( W_U · (γ ⊙ C·h / σ(h) + β) + b ) / divisor )

with C the identity for RMSNorm and the centring I − 11ᵀ/d for LayerNorm, and
σ(h) = sqrt(mean((C·h)²) + eps). With σ held at a given value (the *frozen* norm) everything before the softcap is
affine in h, which is what makes a unit's effect on all logits one vector: `directions(v) / σ`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

ROWS = 4096  # of W_U that are multiplied or taken to float64 at a time: a product packs a copy of what it is given


def norm_eps(norm: nn.Module) -> float:
    """The epsilon of a norm of transformers."""
    for name in ("variance_epsilon", "eps", "epsilon"):
        if hasattr(norm, name):
            return float(getattr(norm, name))
    return 1e-5  # OLMo's LayerNorm has it as a literal


@dataclass(frozen=True)
class Readout:
    """Final norm and unembedding of one model.

    Attributes:
        weight: W_U, [V, d].
        bias: b, [V], or None.
        gamma: γ, [d] (the norm's weight with the family's offset already added; ones if it has none).
        beta: β, [d], or None.
        centred: True for LayerNorm.
        eps: the norm's epsilon.
        divisor: what the logits are divided by (1 for most families).
        softcap: c of c·tanh(logits / c), or None.
    """

    weight: Tensor
    bias: Tensor | None
    gamma: Tensor
    beta: Tensor | None
    centred: bool
    eps: float
    divisor: float = 1.0
    softcap: float | None = None

    @property
    def affine(self) -> bool:
        """Whether the logits are affine in the residual stream once σ is frozen."""
        return self.softcap is None

    @property
    def vocabulary(self) -> int:
        """V, the number of logits."""
        return self.weight.shape[0]

    def to(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Readout:
        """This readout on another device or in another dtype."""

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device=device, dtype=dtype)

        return replace(
            self,
            weight=self.weight.to(device=device, dtype=dtype),
            gamma=self.gamma.to(device=device, dtype=dtype),
            bias=move(self.bias),
            beta=move(self.beta),
        )

    def centre(self, vectors: Tensor) -> Tensor:
        """C·v of `vectors` [..., d]; shape kept."""
        return vectors - vectors.mean(dim=-1, keepdim=True) if self.centred else vectors

    def inverse_scale(self, residual: Tensor) -> Tensor:
        """1/σ of `residual` [..., d] → [...]."""
        return torch.rsqrt(self.centre(residual).square().mean(dim=-1) + self.eps)

    def fold(self, vectors: Tensor) -> Tensor:
        """(γ ⊙ C·v)/divisor of `vectors` [..., d]: what W_U is multiplied by; shape kept."""
        return self.centre(vectors) * (self.gamma / self.divisor)

    def directions(self, vectors: Tensor) -> Tensor:
        """W_U·(γ ⊙ C·v)/divisor of `vectors` [..., d] → [..., V]: what v does to the logits, before 1/σ."""
        folded = self.fold(vectors)
        if self.vocabulary <= ROWS or folded.requires_grad:  # pieces are written in place, which has no gradient
            return folded @ self.weight.T
        products = folded.new_empty(*folded.shape[:-1], self.vocabulary)
        for rows, some in zip(self.weight.split(ROWS), products.split(ROWS, dim=-1), strict=True):
            some.copy_(folded @ rows.T)
        return products

    def offset(self) -> Tensor | None:
        """(W_U·β + b)/divisor → [V]: the part of the logits that no residual stream changes; None if there is none."""
        return self._offset

    @cached_property
    def _offset(self) -> Tensor | None:
        return None if self.wide_offset is None else self.wide_offset.to(self.weight.dtype)

    @cached_property
    def wide_offset(self) -> Tensor | None:
        """The offset in float64, [V], or None."""
        parts = [] if self.bias is None else [self.bias.double()]
        if self.beta is not None:
            products = [rows.double() @ self.beta.double() for rows in self.weight.split(ROWS)]
            parts.append(torch.cat(products))
        return sum(parts[1:], parts[0]) / self.divisor if parts else None

    @cached_property
    def longest_row(self) -> float:
        """The largest ‖w_j‖ of W_U's rows, or a little more: no rounding makes it less."""
        longest = [
            torch.linalg.vector_norm(rows, dim=-1, dtype=torch.float64).max() for rows in self.weight.split(ROWS)
        ]
        found = float(torch.stack(longest).max())
        return found * (1 + (self.weight.shape[1] + 2) * float(torch.finfo(self.weight.dtype).eps))

    def assemble(self, directions: Tensor, inverse_scale: Tensor) -> Tensor:
        """Logits [..., V] of a residual stream from its `directions` [..., V] and its 1/σ [...]."""
        logits = directions * inverse_scale.unsqueeze(-1)
        offset = self.offset()
        return self.cap(logits if offset is None else logits + offset)

    def cap(self, logits: Tensor) -> Tensor:
        """Apply the softcap to `logits` [..., V], if the family has one; shape kept."""
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def logits(self, residual: Tensor, inverse_scale: Tensor | None = None) -> Tensor:
        """Logits of `residual` [..., d] → [..., V].

        Args:
            residual: the residual stream.
            inverse_scale: 1/σ to hold, [...] (frozen norm); None recomputes it from `residual`.
        """
        if inverse_scale is None:
            inverse_scale = self.inverse_scale(residual)
        return self.assemble(self.directions(residual), inverse_scale)

    def log_probability(self, residual: Tensor, target: Tensor | int, inverse_scale: Tensor | None = None) -> Tensor:
        """log p(target | residual), in nats.

        Args:
            residual: [..., d], the residual stream.
            target: [...], token ids.
            inverse_scale: 1/σ to hold, [...] (frozen norm); None recomputes it from `residual`.

        Returns:
            [...].
        """
        log_p = torch.log_softmax(self.logits(residual, inverse_scale), dim=-1)
        index = torch.as_tensor(target, device=log_p.device).expand(log_p.shape[:-1])
        return log_p.gather(-1, index.unsqueeze(-1)).squeeze(-1)
