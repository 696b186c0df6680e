"""What stands between the last layer and the logits."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from gated_lpi.models.families import NormKind
from gated_lpi.models.proposing.comparing import CLOSE, close, factor_between, flat, is_norm, numbers_of
from gated_lpi.models.proposing.layers import Layer
from gated_lpi.models.proposing.observing import Call, Observation
from gated_lpi.models.proposing.refusing import refusal
from gated_lpi.models.readout import norm_eps

NEAR = 0.02  # relative difference that another epsilon explains; the proof allows none


def end(module: PreTrainedModel, seen: Observation, last: Layer) -> dict[str, Any]:
    """Final norm, unembedding, and what the logits are divided or capped by."""
    head = cast("nn.Module | None", module.get_output_embeddings())
    paths = [name for name, part in module.named_modules() if part is head]
    if head is None or not paths or seen.called(paths[0]) is None:
        raise refusal(module, "it has no unembedding that its logits come from")
    layers = last.path.rpartition(".")[0] + "."
    norms = [
        name
        for name, part in module.named_modules()
        if is_norm(part) and not name.startswith(layers) and _close_call(seen.calls(name), last.returned)
    ]
    if not norms:
        raise refusal(module, "no norm is given what its last layer returns")
    norm, given = norms[0], cast(Call, seen.called(paths[0]))
    normalised = seen.calls(norm)[-1]
    kind, offset = _norm_kind(module, norm, normalised)
    before = factor_between(normalised.leaving, given.entering)
    if before is None:
        raise refusal(
            module,
            f"between {norm} and {paths[0]} stands more than a number that multiplies: logits are not read off "
            "the final norm",
        )
    row: dict[str, Any] = {"final_norm": norm, "head": paths[0], "norm": kind, "norm_offset": offset}
    after = factor_between(given.leaving, seen.logits)
    if after is None:
        caps = [name for name in module.config.to_dict() if "cap" in name and _capped(module, name, given, seen)]
        if not caps:
            raise refusal(module, f"its logits are no multiple of what {paths[0]} returns, and not capped by tanh")
        row["logit_softcap_attribute"], after = caps[0], 1.0
    return row | _divisor(module, 1.0 / (before * after))


def _close_call(calls: list[Call], states: Tensor) -> bool:
    """Whether the last of a module's calls was given `states`; some models use a norm for the embeddings as well."""
    return bool(calls) and close(calls[-1].entering, states)


def _capped(module: PreTrainedModel, name: str, head: Call, seen: Observation) -> bool:
    cap = getattr(module.config, name)
    if not isinstance(cap, int | float) or isinstance(cap, bool) or cap <= 0:
        return False
    return close(cap * torch.tanh(head.leaving / cap), seen.logits)


def _divisor(module: PreTrainedModel, divisor: float) -> dict[str, Any]:
    if abs(divisor - 1.0) <= CLOSE:
        return {}
    for field, value in (("logit_divisor_attribute", divisor), ("logit_multiplier_attribute", 1.0 / divisor)):
        named = [name for name in numbers_of(module, value) if "logit" in name or "scal" in name or "mult" in name]
        if named:
            return {field: sorted(named, key=lambda name: "logit" not in name)[0]}
    raise refusal(module, f"its logits are divided by {divisor:.6g}, which is no number of its config")


def _norm_kind(module: PreTrainedModel, path: str, call: Call) -> tuple[NormKind, float]:
    """The formula that makes of a norm's input what it returned: of four the one that comes closest."""
    norm = module.get_submodule(path)
    given = {name: getattr(norm, name, None) for name in ("weight", "bias")}
    weight, bias = (None if one is None else one.detach().cpu().double() for one in given.values())
    states, returned = flat(call.entering).double(), flat(call.leaving).double()
    errors: dict[tuple[NormKind, float], float] = {}
    kinds: tuple[NormKind, ...] = ("rms", "layer")
    for kind in kinds:
        centred = states - states.mean(dim=-1, keepdim=True) if kind == "layer" else states
        plain = centred * torch.rsqrt(centred.square().mean(dim=-1, keepdim=True) + norm_eps(norm))
        for offset in (0.0, 1.0):
            made = plain if weight is None else plain * (weight + offset)
            made = made if bias is None else made + bias
            errors[kind, offset] = float((made - returned).abs().max() / returned.abs().max())
    best = min(errors, key=lambda one: errors[one])
    if errors[best] > NEAR:
        raise refusal(
            module,
            f"{path} ({type(norm).__name__}) is neither RMSNorm nor LayerNorm, with its weight or that plus 1",
        )
    return best
