"""What layers multiply their writes and the residual stream by, and whether their blocks stand in parallel."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn
from transformers import PreTrainedModel

from gated_lpi.models.proposing.comparing import CLOSE, close, numbers_of
from gated_lpi.models.proposing.layers import Layer
from gated_lpi.models.proposing.observing import Call, Observation, observe
from gated_lpi.models.proposing.refusing import refusal


def scales(module: PreTrainedModel, parts: list[Layer]) -> dict[str, Any]:
    """What writes, and the stream, are multiplied by, as fields of the row."""
    factors = [part.factors() for part in parts]
    row: dict[str, Any] = {}
    if any(abs(stream - 1.0) > 10 * CLOSE for stream, _, _ in factors):
        row["stream_scale"] = _stream_scale(module, parts, [stream for stream, _, _ in factors])
    attention = [one / stream for stream, one, _ in factors]
    ratios = [other / one for _, one, other in factors]
    for found, what in ((attention, "what attention writes"), (ratios, "what the FFN writes, beside that,")):
        if max(found) - min(found) > 10 * CLOSE * abs(found[0]):
            raise refusal(
                module,
                f"{what} is multiplied by different numbers in its layers, {min(found):.4g} to {max(found):.4g}",
            )
    if abs(ratios[0] - 1.0) > 10 * CLOSE:
        whole = round(1.0 / ratios[0])
        if not whole or abs(whole * ratios[0] - 1.0) > 10 * CLOSE:
            raise refusal(
                module,
                f"what the FFN writes is multiplied by {ratios[0]:.6g} times the number of attention, which is no "
                "number of its config",
            )
        row["ffn_multiplier"] = 1.0 / whole
    return row | _multiplier(module, parts[0].layer, attention[0])


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

    What attention writes is changed in all layers at once; each layer's output is then put back, so that each layer is
    seen by itself.
    """

    def put_back(states: Tensor) -> Any:
        def hook(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
            if isinstance(output, tuple | list):
                return type(output)((states.to(output[0].device), *output[1:]))
            return states.to(output.device)

        return hook

    changes: dict[str, Any] = {part.path: put_back(cast(Call, seen.called(part.path)).leaving) for part in parts}
    changes |= {part.attention_out: lambda _, __, output: -2.0 * output + 0.5 for part in parts}
    after = observe(module, ids, changes)
    blind = [
        all(close(cast(Call, after.called(n)).entering, cast(Call, seen.called(n)).entering) for n in part.down())
        for part in parts
    ]
    if len(set(blind)) > 1:
        raise refusal(module, "the FFN reads the layer's input in some layers, and what attention wrote in others")
    return blind[0]
