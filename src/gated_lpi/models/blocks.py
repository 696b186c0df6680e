"""A decoder as writers to a residual stream.

A layer has *blocks*: attention and FFN as a rule; a *mixer* in the place of attention or beside it, where positions are
mixed otherwise than by softmax attention (state-space layers, linear recurrences, short convolutions); or one of the
three alone. What a block writes is a sum over its *writers*:

- the output projection of attention or of a mixer, or a dense FFN's down projection, or a shared expert's: one expert,
  all prompts;
- the routed experts, fused into one module of 3-D parameters: `n_experts` value matrices, each used by the
  prompts that the router sends to it.

Each writer holds value vectors (columns of the projection), one per unit. A block may scale its whole output
before it is written: by a post-norm, `weight ⊙ y / rms(y)`, and by a residual multiplier. The part of that scale
that depends on the prompt is one number (1/rms), the rest is folded into the value vectors here, so that for
every family a unit's contribution is

    scale(prompt) · gate(prompt) · coefficient(prompt, unit) · value(unit).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from gated_lpi.errors import OptionError
from gated_lpi.models.families import RouterScore

BlockKind = Literal["attention", "mixer", "ffn"]
WriterKind = Literal["attention", "mixer", "dense", "routed", "shared"]


@dataclass(frozen=True)
class Writer:
    """One projection into the residual stream, or one stack of routed experts.

    Attributes:
        kind: "attention", "mixer", "dense", "routed" or "shared".
        module: the projection, or the module that holds the fused experts.
        n_experts: how many value matrices it holds (1 unless routed).
        width: units per value matrix.
        n_heads: heads that the units belong to, 0 where there are none: in FFNs, and in mixers without heads.
        gate: the module whose sigmoid scales a shared expert, or None.
        router: what chooses among routed experts; None unless routed. Called with hidden states, it returns logits
            [T, E], the final gates [T, k] and the experts chosen [T, k].
        router_score: what the router makes of its logits before it chooses: "softmax", "sigmoid" of each alone, or
            "other".
        router_scale: what the router multiplies its gates by in the end.
        multiplier: what the FFN multiplies all of its output by; counts as a part of gates.
    """

    kind: WriterKind
    module: nn.Module
    n_experts: int
    width: int
    n_heads: int = 0
    gate: nn.Module | None = None
    router: nn.Module | None = None
    router_score: RouterScore = "softmax"
    router_scale: float = 1.0
    multiplier: float = 1.0

    @property
    def n_units(self) -> int:
        """Units in all, `n_experts · width`, in the order expert, neuron."""
        return self.n_experts * self.width

    def raw_values(self, expert: int) -> Tensor:
        """Value vectors of one expert as the weights hold them, one row per unit: [width, d]."""
        if self.kind == "routed":
            down = cast(Tensor, self.module.down_proj).detach()[expert]
            return down if self.module.is_transposed else down.T
        weight = cast(Tensor, self.module.weight).detach()
        return weight if isinstance(self.module, Conv1D) else weight.T

    def full_gates(self, logits: Tensor) -> Tensor:
        """The gates that all experts have before any is chosen: scores over their sum, times the router's scale.

        Args:
            logits: [..., E], of the router.

        Returns:
            [..., E].

        Raises:
            OptionError: the router makes something else of its logits.
        """
        if self.router_score == "other":
            raise OptionError(
                "gates of experts that were not chosen were asked for (gate='open'), which this family does not have: "
                "its router is neither a softmax nor a sigmoid of its logits, or its gates multiply what goes into "
                "experts too; take gate='gated', 'uniform' or 'ungated'"
            )
        scores = logits.sigmoid() if self.router_score == "sigmoid" else logits.softmax(dim=-1)
        return scores * (self.router_scale / scores.sum(dim=-1, keepdim=True))

    @property
    def bias_parameter(self) -> nn.Parameter | None:
        """What the module adds that belongs to no unit: [d], [n_experts, d] if routed, or None."""
        name = "down_proj_bias" if self.kind == "routed" else "bias"
        return cast("nn.Parameter | None", getattr(self.module, name, None))


@dataclass(frozen=True)
class PostNorm:
    """A norm on a block's output: y ↦ weight ⊙ y · rsqrt(mean(y²) + eps).

    Attributes:
        module: the norm.
        weight: [d], with the family's offset already added.
        eps: the norm's epsilon.
    """

    module: nn.Module
    weight: Tensor
    eps: float

    def scale(self, output: Tensor) -> Tensor:
        """rsqrt(mean(y²) + eps) of `output` [P, d] → [P]."""
        return torch.rsqrt(output.square().mean(dim=-1) + self.eps)


@dataclass(frozen=True)
class Block:
    """The attention, the mixer or the FFN of one layer, with all that writes through it.

    Attributes:
        layer: the layer's number, from 0.
        kind: "attention", "mixer" or "ffn".
        module: the attention, the mixer or the FFN.
        writers: what writes to the residual stream.
        post_norm: a norm on the output, or None.
        multiplier: what the output is multiplied by before it is written, and on its way to the final norm.
        stream: what the residual stream that enters the layer is multiplied by on its way to the final norm.
        by_projection: the output is what the writers put out together; the module's own is another.
    """

    layer: int
    kind: BlockKind
    module: nn.Module
    writers: tuple[Writer, ...]
    post_norm: PostNorm | None = None
    multiplier: float = 1.0
    stream: float = 1.0
    by_projection: bool = False

    @property
    def n_units(self) -> int:
        """Units of all writers together."""
        return sum(writer.n_units for writer in self.writers)

    @property
    def n_heads(self) -> int:
        """Heads that its units belong to; 0 where there are none."""
        return sum(writer.n_heads for writer in self.writers)

    @property
    def name(self) -> str:
        """How messages name this block."""
        return f"layer {self.layer} {self.kind}"

    def _fold(self, vectors: Tensor) -> Tensor:
        if self.post_norm is not None:
            vectors = vectors * self.post_norm.weight
        return vectors * self.multiplier if self.multiplier != 1.0 else vectors

    def values(self, writer: Writer, expert: int = 0) -> Tensor:
        """Value vectors of one expert, with the block's constant scales folded in: [width, d]."""
        return self._fold(writer.raw_values(expert))

    def bias(self, writer: Writer) -> Tensor | None:
        """The writer's bias, with the block's constant scales folded in: [d], [n_experts, d] if routed, or None."""
        bias = writer.bias_parameter
        return None if bias is None else self._fold(bias.detach())

    def offsets(self) -> Iterator[tuple[Writer, int]]:
        """Each writer with the index of its first unit within the block."""
        start = 0
        for writer in self.writers:
            yield writer, start
            start += writer.n_units
