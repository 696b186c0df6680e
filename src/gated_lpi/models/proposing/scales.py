"""What layers multiply their writes and the residual stream by, and whether their blocks stand in parallel."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn
from transformers import PreTrainedModel

from gated_lpi.models.blocks import BlockKind
from gated_lpi.models.proposing.comparing import CLOSE, close, numbers_of
from gated_lpi.models.proposing.layers import Layer
from gated_lpi.models.proposing.observing import Call, Observation, observe
from gated_lpi.models.proposing.refusing import refusal

_KINDS: dict[BlockKind, str] = {"attention": "attention", "mixer": "the mixer", "ffn": "the FFN"}


def scales(module: PreTrainedModel, parts: list[Layer]) -> dict[str, Any]:
    """What writes, and the stream, are multiplied by, as fields of the row."""
    factors = [part.factors() for part in parts]
    row: dict[str, Any] = {}
    if any(abs(stream - 1.0) > 10 * CLOSE for stream, _ in factors):
        row["stream_scale"] = _stream_scale(module, parts, [stream for stream, _ in factors])
    of_kind = {kind: _one_for_all(module, kind, factors) for kind in _KINDS if any(kind in of for _, of in factors)}
    of_all, *others = of_kind.values()
    if "mixer" in of_kind and any(abs(other - of_all) > 10 * CLOSE * abs(of_all) for other in others):
        return row | _own_scales(module, parts, of_kind)
    ratio = of_kind.get("ffn", of_all) / of_all
    if abs(ratio - 1.0) > 10 * CLOSE:
        whole = round(1.0 / ratio)
        if not whole or abs(whole * ratio - 1.0) > 10 * CLOSE:
            raise refusal(
                module,
                f"what the FFN writes is multiplied by {ratio:.6g} times the number of attention, which is no "
                "number of its config",
            )
        row["ffn_multiplier"] = 1.0 / whole
    return row | _multiplier(module, parts[0].layer, of_all)


def _one_for_all(
    module: PreTrainedModel, kind: BlockKind, factors: list[tuple[float, dict[BlockKind, float]]]
) -> float:
    """What the blocks of a kind are multiplied by in all layers, beside what the stream is."""
    found = [of[kind] / stream for stream, of in factors if kind in of]
    if max(found) - min(found) > 10 * CLOSE * abs(found[0]):
        raise refusal(
            module,
            f"what {_KINDS[kind]} writes is multiplied by different numbers in its layers, {min(found):.4g} to "
            f"{max(found):.4g}",
        )
    return found[0]


def _own_scales(module: PreTrainedModel, parts: list[Layer], of_kind: dict[BlockKind, float]) -> dict[str, Any]:
    """The numbers of layers that multiply what their blocks write, each its own."""
    row: dict[str, Any] = {}
    for kind, factor in of_kind.items():
        if abs(factor - 1.0) <= 10 * CLOSE:
            continue
        layer = next(part for part in parts if kind in part.writes())
        inside = layer.ffn if kind == "ffn" else layer.mixing[kind].path
        for prefix in ("", f"{str(inside)[len(layer.path) + 1 :]}."):
            numbers = vars(layer.layer.get_submodule(prefix.rstrip("."))).items()
            named = [
                f"{prefix}{name}"
                for name, number in numbers
                if isinstance(number, float) and abs(number - factor) <= 10 * CLOSE * abs(factor)
            ]
            if named:
                row.setdefault(f"{kind}_scale", sorted(named, key=lambda name: "out" not in name)[0])
        if f"{kind}_scale" not in row:
            raise refusal(
                module, f"what {_KINDS[kind]} writes is multiplied by {factor:.6g}, which is no number of its layers"
            )
    return row


def _stream_scale(module: PreTrainedModel, parts: list[Layer], scales: list[float]) -> str:
    """The name of the numbers of layers that the stream is multiplied by."""
    saved = parts[0].layer.state_dict()
    for name, value in saved.items():
        if value.numel() == 1 and all(
            abs(part.layer.state_dict()[name].item() - scale) <= 10 * CLOSE * abs(scale)
            for part, scale in zip(parts, scales, strict=True)
        ):
            return str(name)
    raise refusal(
        module,
        f"its layers multiply the residual stream itself, by {scales[0]:.4g} in the first, which is no number that "
        "they hold",
    )


def _multiplier(module: PreTrainedModel, layer: nn.Module, factor: float) -> dict[str, Any]:
    if abs(factor - 1.0) <= 10 * CLOSE:
        return {}
    named = [name for name in numbers_of(module, factor) if "resid" in name]
    if named:
        return {"residual_multiplier_attribute": named[0]}
    for number in vars(layer).values():
        if isinstance(number, float) and abs(number - factor) <= 10 * CLOSE * abs(factor):
            return {"residual_multiplier": number}
    raise refusal(module, f"its layers multiply what they write by {factor:.6g}, which is no number of its config")


def is_parallel(module: PreTrainedModel, ids: Tensor, seen: Observation, parts: list[Layer]) -> bool:
    """Whether the FFN of every layer reads the layer's input.

    What attention and mixers write is changed in all layers at once; each layer's output is then put back, so that each
    layer is seen by itself.

    Raises:
        UnknownFamilyError: some FFNs do and others do not; or attention and mixer of a layer read each other.
    """

    def put_back(states: Tensor) -> Any:
        def hook(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
            if isinstance(output, tuple | list):
                return type(output)((states.to(output[0].device), *output[1:]))
            return states.to(output.device)

        return hook

    changes: dict[str, Any] = {part.path: put_back(cast(Call, seen.called(part.path)).leaving) for part in parts}
    changes |= {one.out: lambda _, __, output: -2.0 * output + 0.5 for part in parts for one in part.mixing.values()}
    after = observe(module, ids, changes)

    def same_input(path: str) -> bool:
        return close(cast(Call, after.called(path)).entering, cast(Call, seen.called(path)).entering)

    for part in parts:
        if len(part.mixing) > 1 and not all(same_input(one.path) for one in part.mixing.values()):
            raise refusal(
                module, f"attention and mixer of {part.path} do not stand beside each other: one reads the other"
            )
    blind = [all(same_input(name) for name in part.down()) for part in parts if part.mixing and part.down()]
    if len(set(blind)) > 1:
        raise refusal(module, "the FFN reads the layer's input in some layers, and what attention wrote in others")
    return bool(blind) and blind[0]
