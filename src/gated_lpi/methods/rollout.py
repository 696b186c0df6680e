"""Attention rollout: the share of what the last position takes from the subject that goes through each head.

1. With A_l the mean of layer l's attention weights over its heads, R = Π_l (½·A_l + ½·I) says how much of each source
   position the last one holds, if attention were all that mixes positions and half of the residual stream passed it
   by (Abnar & Zuidema, arXiv 2005.00928).
2. Of the mass R[last, subject], the part whose path takes head h at layer l is
   Σ_{i,j} R_{>l}[last, i] · A_{l,h}[i, j]/(2H) · R_{<l}[j, subject]. Divided by the mass it is the head's score. The
   heads of one layer and the residual path beside them add up to 1.

It says where a head looks, not what it writes, nor whether that helps. Attention sinks that some families add to the
softmax take no part: rows are normalised over the positions.

Check: rows of every A sum to 1, and so do a layer's shares with the residual path; toy weights by hand.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gated_lpi import score_schema as schema
from gated_lpi.errors import ModelError
from gated_lpi.facts import EncodedPrompt, subject_positions
from gated_lpi.methods.contract import GivenPass, PassMethod, PassScores
from gated_lpi.methods.objective import Question
from gated_lpi.models import Model
from gated_lpi.options import Rollout
from gated_lpi.trace import record_final, run
from gated_lpi.trace.attention import listening

Subjects = dict[EncodedPrompt, tuple[int, ...]]


class AttentionRollout(PassMethod[Subjects]):
    """The method that `gated_lpi.Rollout` asks for."""

    name = schema.ROLLOUT
    scores_heads = True
    sees_attention = True

    def __init__(self, options: Rollout) -> None:
        del options

    def prepare(self, model: Model, asked: Sequence[Question]) -> Subjects:
        """Where the subject stands in every prompt.

        Raises:
            ModelError: the model came without a tokenizer, or mixes positions otherwise than by attention.
            FactsError: a prompt names no subject.
        """
        others = [block for block in model.blocks if block.kind == "mixer"]
        if others:
            raise ModelError(
                f"rollout follows what each position takes from others through attention alone, and {others[0].name} "
                f"of this model mixes positions by {type(others[0].module).__name__}; take another method"
            )
        if model.tokenizer is None:
            raise ModelError(
                "rollout asks where a prompt's subject is, and the model came without a tokenizer; pass one to "
                "wrap_model"
            )
        return {one.encoded: subject_positions(model.tokenizer, one.encoded) for one in asked}

    @torch.no_grad()
    def score(self, state: Subjects, given: GivenPass) -> PassScores:
        """Score the heads of all layers on the prompts of one forward pass."""
        model, batch = given.model, given.batch
        weights: dict[nn.Module, Tensor] = {}

        def hear(module: nn.Module, seen: Tensor, _: Tensor) -> None:
            apart = seen[..., : batch.ids.shape[1]].float().to(batch.ids.device)
            weights[module] = apart / apart.sum(dim=-1, keepdim=True)

        with record_final(model, batch) as recording, listening(model.module, hear):
            run(model, batch)
        unseen = [b.name for b in model.blocks if b.kind == "attention" and b.module not in weights]
        if unseen:
            raise ModelError(
                f"the attention of {unseen[0]} does not go through transformers' interface, so its weights are not "
                "seen and rollout cannot be had for this model; take another method"
            )
        of_blocks = {i: weights[block.module] for i, block in enumerate(model.blocks) if block.kind == "attention"}
        subject = torch.zeros(batch.ids.shape, device=batch.ids.device)
        for row, one in enumerate(given.asked):
            subject[row, list(state[one.encoded])] = 1.0
        last = torch.tensor([one.positions[0] for one in given.asked], device=batch.ids.device)
        shares = head_shares(list(of_blocks.values()), last, subject)
        logits = model.readout.logits(recording.inputs["final"])
        return PassScores(logits, {self.name: dict(zip(of_blocks, shares, strict=True))})


def head_shares(weights: Sequence[Tensor], last: Tensor, subject: Tensor) -> list[Tensor]:
    """The share of the mass from `last` to the subject that each head carries.

    Args:
        weights: of each layer, [B, H, S, S], rows that sum to 1.
        last: [B], the position that looks.
        subject: [B, S], 1 at the subject's positions, else 0.

    Returns:
        For each layer [B, H]; 0 where the mass is 0.
    """
    mixed = [0.5 * layer.mean(dim=1) + 0.5 * torch.eye(layer.shape[-1], device=layer.device) for layer in weights]
    below = [subject.unsqueeze(-1)]  # R_{<l} · subject, [B, S, 1]
    for layer in mixed:
        below.append(layer @ below[-1])
    rows = torch.arange(len(last), device=last.device)
    above = torch.zeros_like(subject).index_put_((rows, last), torch.ones(len(last), device=last.device)).unsqueeze(1)
    mass = below[-1][rows, last]  # [B, 1]
    shares: list[Tensor] = []
    for index in reversed(range(len(weights))):
        n_heads = weights[index].shape[1]
        carried = torch.einsum("bi,bhij,bj->bh", above.squeeze(1), weights[index], below[index].squeeze(-1))
        shares.append(torch.where(mass > 0, carried / (2 * n_heads * mass.clamp_min(1e-30)), 0.0))
        above = above @ mixed[index]
    return shares[::-1]
