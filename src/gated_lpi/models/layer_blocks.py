"""The blocks of one layer, read through the family's row: which there are, their writers, norms and scales."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from gated_lpi.errors import ModelError
from gated_lpi.models.blocks import Block, BlockKind, PostNorm, Writer
from gated_lpi.models.families import Family
from gated_lpi.models.mixers import mixer_heads, mixes_otherwise
from gated_lpi.models.readout import norm_eps


def layer_blocks(
    module: PreTrainedModel, family: Family, layer: nn.Module, index: int, stream: float
) -> Iterator[Block]:
    """The blocks of a layer, in the order in which they stand on the axis of units.

    Raises:
        ModelError: the layer has none of those that the row names, or lacks one that it must have.
    """
    shape = _LayerShape(module, family, layer, index, stream)
    mixed = family.mixer is not None
    if not mixed or shape.has_attention():
        yield shape.attention()
    if mixed and shape.has_mixer():
        yield shape.mixer()
    if not mixed or shape.has_ffn():
        yield shape.ffn()


class _LayerShape:
    """What a family's row says of one layer."""

    def __init__(self, module: PreTrainedModel, family: Family, layer: nn.Module, index: int, stream: float) -> None:
        self._module, self._family, self._layer, self._index, self._stream = module, family, layer, index, stream

    def has_attention(self) -> bool:
        """Whether it mixes positions by attention."""
        path, out = self._family.attention, self._family.attention_out
        return has_part(self._layer, out) and not mixes_otherwise(self._part(path))

    def has_mixer(self) -> bool:
        """Whether it mixes positions otherwise; of a module in the attention's place its class says what it is."""
        path, out = self._family.mixer, self._family.mixer_out
        if path is None or out is None or not has_part(self._layer, out):
            return False
        return path != self._family.attention or mixes_otherwise(self._part(path))

    def has_ffn(self) -> bool:
        """Whether it has an FFN."""
        path = self._family.ffn
        inside = [".".join(filter(None, (path, part))) for part in (self._family.down, self._family.experts)]
        return any(has_part(self._layer, one) for one in inside)

    def attention(self) -> Block:
        """Its attention."""
        return self._mixing("attention", self._family.attention, self._family.attention_out)

    def mixer(self) -> Block:
        """What mixes positions otherwise."""
        return self._mixing("mixer", cast(str, self._family.mixer), cast(str, self._family.mixer_out))

    def ffn(self) -> Block:
        """Its FFN."""
        ffn = self._part(self._family.ffn)
        return self._block("ffn", ffn, tuple(_ffn_writers(self._module, self._family, ffn)))

    def _mixing(self, kind: Literal["attention", "mixer"], path: str, out: str) -> Block:
        projection, module = self._part(out), self._part(path)
        width = _projection_width(projection)
        heads = self._attention_heads(module, width) if kind == "attention" else mixer_heads(module, width)
        return self._block(kind, module, (Writer(kind, projection, 1, width, n_heads=heads),))

    def _attention_heads(self, attention: nn.Module, width: int) -> int:
        heads = int(self._module.config.num_attention_heads)
        own = [size for name in ("v_head_dim", "head_dim") if isinstance(size := getattr(attention, name, None), int)]
        if own and width % own[0] == 0:
            heads = width // own[0]  # some families have more in some layers
        if width % heads:
            raise ModelError(
                f"the config says num_attention_heads = {heads}, and the attention output projection of layer "
                f"{self._index} has {width} inputs, which is no multiple of it: its heads cannot be told apart; give "
                "one of which they can"
            )
        return heads

    def _block(self, kind: BlockKind, module: nn.Module, writers: tuple[Writer, ...]) -> Block:
        row = self._family
        norm = {"attention": row.attention_post_norm, "mixer": row.mixer_post_norm, "ffn": row.ffn_post_norm}[kind]
        scale = {"attention": row.attention_scale, "mixer": row.mixer_scale, "ffn": row.ffn_scale}[kind]
        multiplier = _multiplier(self._module, row) * self._stream * self._number(scale)
        return Block(
            layer=self._index,
            kind=kind,
            module=module,
            writers=writers,
            post_norm=_post_norm(self._module, row, self._layer, norm),
            multiplier=multiplier * row.ffn_multiplier if kind == "ffn" else multiplier,
            stream=self._stream,
            by_projection=row.by_projection,
        )

    def _part(self, path: str) -> nn.Module:
        return part_of(self._layer, path, self._family)

    def _number(self, path: str | None) -> float:
        """A number that the layer holds, or a part of it; 1 where the row names none."""
        if path is None:
            return 1.0
        owner, _, name = path.rpartition(".")
        number = getattr(self._part(owner), name, None)
        if not isinstance(number, int | float):
            raise ModelError(
                f"{self._family.called} expects a number at {path!r} of each layer, and "
                f"{type(self._layer).__name__} has none; {self._family.remedy}"
            )
        return float(number)


def _ffn_writers(module: PreTrainedModel, family: Family, ffn: nn.Module) -> list[Writer]:
    if not has_part(ffn, family.experts):
        down = part_of(ffn, family.down, family)
        return [Writer("dense", down, 1, _projection_width(down))]
    experts = part_of(ffn, family.experts, family)
    down_proj = getattr(experts, "down_proj", None)
    if not isinstance(down_proj, Tensor) or down_proj.dim() != 3:
        raise ModelError(
            f"{type(experts).__name__} holds no 3-D parameter `down_proj` (experts fused as transformers ≥ 5 loads "
            "them), so its units cannot be read; load the model with transformers' own class"
        )
    n_experts, width = down_proj.shape[0], down_proj.shape[1 if experts.is_transposed else 2]
    router = part_of(ffn, family.router, family)
    scale = float(config_number(module, family.router_scale_attribute, 1.0))
    routed = Writer(
        "routed",
        experts,
        n_experts,
        width,
        router=router,
        router_score=family.router_score,
        router_scale=scale,
        multiplier=float(config_number(module, family.routed_multiplier_attribute, 1.0)),
    )
    writers = [routed]
    if family.shared is not None and has_part(ffn, family.shared):
        down = part_of(ffn, f"{family.shared}.{family.down}", family)
        gate = None if family.shared_gate is None else part_of(ffn, family.shared_gate, family)
        writers.append(Writer("shared", down, 1, _projection_width(down), gate=gate))
    return writers


def norm_weight(family: Family, norm: nn.Module, like: Tensor) -> Tensor:
    """What a norm multiplies by, [d], with the family's offset; ones of the dtype of `like` where it has no weight."""
    weight = getattr(norm, "weight", None)
    if weight is None:
        return torch.ones(like.shape[-1], dtype=like.dtype, device=like.device)
    return cast(Tensor, weight.detach()) + family.norm_offset


def _post_norm(module: PreTrainedModel, family: Family, layer: nn.Module, path: str | None) -> PostNorm | None:
    if path is None or not has_part(layer, path):
        return None
    norm = part_of(layer, path, family)
    like = cast(Tensor, part_of(module, family.head, family).weight)
    return PostNorm(norm, norm_weight(family, norm, like), norm_eps(norm))


def part_of(root: nn.Module, path: str, family: Family) -> nn.Module:
    """The module at a path that a row names.

    Raises:
        ModelError: there is none.
    """
    try:
        return root.get_submodule(path)
    except AttributeError as error:
        fields = ", ".join(name for name, value in vars(family).items() if value == path)
        raise ModelError(
            f"{family.called} expects {path!r}{fields and f' ({fields})'} in {type(root).__name__}, which has "
            f"{sorted(name for name, _ in root.named_children())}; the model's code and the row disagree: "
            f"{family.remedy}"
        ) from error


def has_part(root: nn.Module, path: str) -> bool:
    """Whether there is such a module."""
    try:
        root.get_submodule(path)
    except AttributeError:
        return False
    return True


def config_number(module: PreTrainedModel, attribute: str | None, default: Any) -> Any:
    """What the model's config says under a name that a row gives, dotted in a config inside; else `default`.

    Raises:
        ModelError: it has no such name.
    """
    if attribute is None:
        return default
    try:
        return attrgetter(attribute)(module.config)
    except AttributeError as error:
        raise ModelError(
            f"the config of {type(module).__name__} has no {attribute!r}, by which its row of the table of families "
            "names a number; name one that it has, or leave that field out of the row"
        ) from error


def _multiplier(module: PreTrainedModel, family: Family) -> float:
    return family.residual_multiplier * float(config_number(module, family.residual_multiplier_attribute, 1.0))


def _projection_width(projection: nn.Module) -> int:
    """Number of inputs of a Linear [out, in] or a Conv1D [in, out]."""
    shape = cast(Tensor, projection.weight).shape
    return int(shape[1] if isinstance(projection, nn.Linear) else shape[0])
