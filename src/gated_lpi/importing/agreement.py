"""Does an imported model do what the trained one did? A comparison with logits or routing that its trainers recorded.

A reference is a safetensors file with `input_ids` [N, T] and, of the trained model on them,
    logits            [N, T, V]   and / or
    routing.LAYER     [N, T, k]   the experts of each token, in any order
Logits are compared by the largest difference over their own largest size, of which rounding of bfloat16 explains a few
per cent; routing by how many experts each token has, and by the share of the recorded ones that the imported model
chooses too, beside chance, k/E. A reference without finite numbers or without experts tells nothing and is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gated_lpi.errors import ModelError, WeightsError
from gated_lpi.models import Model
from gated_lpi.trace import trace_routing

REFERENCE = "reference.safetensors"
WORST_LOGITS = 0.05
LEAST_ROUTING = 0.9
_LAYER = re.compile(r"routing\.(\d{1,6})", re.ASCII)


@dataclass(frozen=True)
class Agreement:
    """How an imported model compares with a reference.

    Attributes:
        tokens: how many were compared.
        logits: largest difference over the largest recorded logit; None without recorded logits.
        routing: by layer, the share of recorded experts that are chosen; empty without recorded routing.
        chance: that share for random experts; None without recorded routing.
    """

    tokens: int
    logits: float | None
    routing: dict[int, float]
    chance: float | None


@torch.no_grad()
def compare(model: Model, file: Path) -> Agreement:
    """Run a model on a reference's tokens and compare.

    Raises:
        WeightsError: the file is no such reference.
        ModelError: the model disagrees with it; says by how much.
    """
    try:
        recorded = load_file(file)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{file} cannot be read as safetensors ({error}); give a reference that can") from error
    ids = recorded.get("input_ids")
    layers = {int(match[1]): tensor for name, tensor in recorded.items() if (match := _LAYER.fullmatch(name))}
    logits = recorded.get("logits")
    if ids is None or ids.dim() != 2 or not ids.numel() or (logits is None and not layers):
        raise WeightsError(
            f"{file} holds {', '.join(sorted(recorded)) or 'nothing'}; expected input_ids [N, T] and logits [N, T, V] "
            "or routing.LAYER [N, T, k]"
        )
    if int(ids.min()) < 0 or int(ids.max()) >= model.n_embeddings:
        raise WeightsError(
            f"{file} has tokens {int(ids.min())} to {int(ids.max())}; the model has {model.n_embeddings}: give the "
            "file of this checkpoint, or compare with none"
        )
    apart = None if logits is None else _apart(model, file, ids, logits)
    routing = _routing(model, ids) if layers else {}
    shares = {layer: _share(file, routing, layer, experts) for layer, experts in sorted(layers.items())}
    chance = max((experts.shape[-1] / routing[layer].n_experts for layer, experts in layers.items()), default=None)
    agreement = Agreement(ids.numel(), apart, shares, chance)
    if (apart is not None and not apart <= WORST_LOGITS) or not all(s >= LEAST_ROUTING for s in shares.values()):
        raise ModelError(
            f"the imported model does not do what {file} records: largest difference of logits {apart}, share of the "
            f"recorded experts by layer {shares} (chance {chance}). The layout or a setting (heads, RoPE, experts per "
            "token) is another one: set it, or choose that layout. Nothing was kept"
        )
    return agreement


def _apart(model: Model, file: Path, ids: Tensor, logits: Tensor) -> float:
    """The largest difference of logits [N, T, V] over the largest recorded one."""
    found = model.module(input_ids=ids.long()).logits.float()
    if logits.shape != found.shape:
        raise WeightsError(
            f"{file} has logits of shape {tuple(logits.shape)}, the model {tuple(found.shape)}: give the file of "
            "this checkpoint, or compare with none"
        )
    recorded = logits.float()
    if not bool(recorded.isfinite().all()) or not bool(recorded.any()):
        held = "0 alone" if bool(recorded.isfinite().all()) else "NaN or infinities"
        raise WeightsError(
            f"{file} has logits that are {held}, with which nothing can be compared: record those of the trained "
            "model, or compare with none"
        )
    return float((found - recorded).abs().max() / recorded.abs().max())


class _Chosen(NamedTuple):
    """The experts that a layer's router chooses, [N, T, k], of how many."""

    experts: Tensor
    n_experts: int


def _routing(model: Model, ids: Tensor) -> dict[int, _Chosen]:
    """What the router of each layer that has one chooses at every position of some token ids [N, T]."""
    layers = [block.layer for block, _ in model.routed()]
    if not layers:
        return {}
    by_prompt = list(trace_routing(model, ids.tolist()))
    return {
        layer: _Chosen(
            torch.stack([prompt[place].experts for prompt in by_prompt]), by_prompt[0][place].logits.shape[-1]
        )
        for place, layer in enumerate(layers)
    }


def _share(file: Path, routing: dict[int, _Chosen], layer: int, experts: Tensor) -> float:
    """The share of a layer's recorded experts [N, T, k] that the model chooses, too."""
    if layer not in routing:
        raise WeightsError(
            f"{file} has routing of layer {layer} that the model does not have; its layers are {sorted(routing)}: give "
            "the file of this checkpoint, or compare with none"
        )
    chosen, n_experts = routing[layer]
    _refuse_no_experts(file, layer, experts, chosen, n_experts)
    if chosen.shape[-1] != experts.shape[-1]:
        raise ModelError(
            f"the imported model sends each token of layer {layer} to {chosen.shape[-1]} experts, and {file} records "
            f"{experts.shape[-1]}. Set the experts per token that it was trained with (--set num_experts_per_tok="
            f"{experts.shape[-1]}). Nothing was kept"
        )
    same = (chosen.unsqueeze(-1) == experts.long().unsqueeze(-2)).any(dim=-2)
    return float(same.float().mean())


def _refuse_no_experts(file: Path, layer: int, experts: Tensor, chosen: Tensor, n_experts: int) -> None:
    """Refuse recorded routing that cannot be the experts [N, T, k] of the tokens that the model chose experts for."""
    if experts.dim() != 3 or chosen.shape[:2] != experts.shape[:2] or not experts.shape[-1]:
        raise WeightsError(
            f"{file} has routing.{layer} of shape {tuple(experts.shape)}; expected the experts of each of "
            f"{tuple(chosen.shape[:2])} tokens: give the file of this checkpoint, or compare with none"
        )
    inside = torch.isfinite(experts) & (experts >= 0) & (experts < n_experts) & (experts == experts.round())
    if experts.dtype == torch.bool or not bool(inside.all()):
        raise WeightsError(
            f"{file} has routing.{layer} that holds something else than numbers of experts, 0 to {n_experts - 1}: "
            "record the indices of the routed experts of every token, or compare with none"
        )
    if bool((experts.sort(dim=-1).values.diff(dim=-1) == 0).any()):
        raise WeightsError(
            f"{file} has routing.{layer} that names an expert twice for one token: record the {experts.shape[-1]} "
            "experts that each was sent to, or compare with none"
        )
