"""What routers make of their logits, and which numbers of the config say how many experts there are."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor
from transformers import PreTrainedModel

from gated_lpi.models.families import Family, RouterScore
from gated_lpi.models.proposing.comparing import CLOSE, factor_between, flat, numbers_of
from gated_lpi.models.proposing.layers import Layer
from gated_lpi.models.proposing.refusing import refusal


def routing(module: PreTrainedModel, parts: list[Layer]) -> dict[str, Any]:
    """What routers make of their logits, and which numbers of the config say how many experts there are."""
    routed = [part.routing for part in parts if part.routing is not None]
    if not routed:
        return {}
    router, experts, path = routed[0]
    number = cast(Tensor, module.get_submodule(path).down_proj).shape[0]
    chosen = experts.given[1].shape[-1]
    row: dict[str, Any] = {}
    default = Family("", ())
    for field, value, hint in (
        ("experts_attribute", number, ("expert",)),
        ("chosen_experts_attribute", chosen, ("tok", "topk", "top_k", "expert_k", "moe_k")),
    ):
        named = [name for name in numbers_of(module, value) if any(part in name for part in hint)]
        known = getattr(default, field)
        if known not in named:
            if not named:
                raise refusal(module, f"no number of its config says that there are {value} experts ({field})")
            row[field] = named[0]
    logits, gates, indices = router.returned
    for field, name in (("router_groups_attribute", "n_group"), ("chosen_groups_attribute", "topk_group")):
        if getattr(module.config, name, None) is not None:
            row[field] = name
    if getattr(module.get_submodule(path), "gates_enter", False):
        return row | {"router_score": "other"}  # a gate that nobody was given has no meaning inside an expert
    return row | _score(module, flat(logits), flat(gates), flat(indices))


def _score(module: PreTrainedModel, logits: Tensor, gates: Tensor, indices: Tensor) -> dict[str, Any]:
    kinds: tuple[tuple[RouterScore, Tensor], ...] = (
        ("softmax", logits.double().softmax(dim=-1)),
        ("sigmoid", logits.double().sigmoid()),
    )
    for kind, scores in kinds:
        picked, found = scores.gather(-1, indices), gates.double()
        whole = picked / picked.sum(dim=-1, keepdim=True) if gates.shape[-1] > 1 else picked
        for made in (picked, whole):
            factor = factor_between(made, found)
            if factor is None:
                continue
            row: dict[str, Any] = {"router_score": kind} if kind != "softmax" else {}
            if abs(factor - 1.0) <= CLOSE:
                return row
            named = [name for name in numbers_of(module, factor) if "scal" in name]
            if named:
                return row | {"router_scale_attribute": named[0]}
    return {"router_score": "other"}
