"""A model seen as writers to a residual stream: built from a transformers model and its family's row."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, cast

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gated_lpi.errors import ModelError
from gated_lpi.models.blocks import Block, BlockKind, PostNorm, Writer
from gated_lpi.models.families import Family, find_family
from gated_lpi.models.mixers import mixer_heads, mixes_otherwise
from gated_lpi.models.readout import Readout, norm_eps
from gated_lpi.models.units import (
    GroupTable,
    Ints,
    Places,
    UnitAxis,
    UnitTable,
    WriterUnits,
    expert_table,
    head_table,
    unit_table,
)


@dataclass(frozen=True)
class Reconstruction:
    """How well unit contributions and biases rebuild what the model computed.

    Each number is a largest absolute difference over the largest absolute value of what is rebuilt, on one real
    forward pass.

    Attributes:
        block: worst block output, from its units and biases.
        worst_block: the name of that block.
        layer: worst layer output, from its input and its two blocks.
        residual: final residual stream, from the embedding and all contributions.
        logits: logits of the model, from the final residual stream and the readout.
        tolerance: what each of them may be at most.
    """

    block: float
    worst_block: str
    layer: float
    residual: float
    logits: float
    tolerance: float

    @property
    def worst(self) -> float:
        """The greatest of the four errors."""
        return max(self.block, self.layer, self.residual, self.logits)


@dataclass(frozen=True)
class Model:
    """What `load_model` and `wrap_model` return, and `attribute` takes.

    Attributes:
        module: the transformers model, in evaluation mode.
        tokenizer: its tokenizer, or None where prompts come as token ids.
        family: its row in the table of families.
        blocks: attention and FFN of every layer, in order; block b of layer l is `blocks[2·l + b]`.
        readout: final norm and unembedding.
        units, heads, experts: coordinates of everything that gets a score.
        coverage: share of the parameters outside embeddings and norms whose writes are attributed.
        parallel: True where the FFN reads the layer's input beside attention.
        provenance: source, revision, commit, dtypes and the like, as strings and numbers.
        reconstruction: the check made at load; None before it was made.
        notes: what was replaced, left aside or chosen in loading, one line each.
    """

    module: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    family: Family
    blocks: tuple[Block, ...]
    readout: Readout
    units: UnitTable
    heads: GroupTable
    experts: GroupTable
    coverage: float
    parallel: bool = False
    provenance: Mapping[str, Any] = field(default_factory=dict)
    reconstruction: Reconstruction | None = None
    notes: tuple[str, ...] = ()

    @property
    def n_layers(self) -> int:
        """Number of decoder layers."""
        return 1 + max(block.layer for block in self.blocks)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the model computes in."""
        return self.readout.weight.dtype

    @property
    def n_embeddings(self) -> int:
        """How many token ids the model can be given."""
        return int(self.module.get_input_embeddings().weight.shape[0])

    @property
    def context(self) -> int | None:
        """How many tokens the model can be given at once; None where nothing limits it.

        Learnt positions end there. Rotary ones can be computed beyond, but the model was not made for them: the limit
        is the one that its configuration states, none if they are of the kind that stretches with the text.
        """
        config = self.module.config
        rotary = getattr(config, "rope_parameters", None) or {}
        kinds = [rotary, *(kind for kind in rotary.values() if isinstance(kind, dict))]
        stated = getattr(config, "max_position_embeddings", None)
        return None if stated is None or any(kind.get("rope_type") == "dynamic" for kind in kinds) else int(stated)

    @property
    def device(self) -> torch.device:
        """Where prompts go in."""
        return cast(torch.device, self.module.get_input_embeddings().weight.device)

    @cached_property
    def _axis(self) -> UnitAxis:
        return UnitAxis(self.blocks)

    def locate(self, units: ArrayLike) -> Places:
        """Find the block, writer, expert and column of units, one or an array [...]; their order and repeats are kept.

        Raises:
            OptionError: something is no index on the axis of units.
        """
        return self._axis.locate(units)

    def by_writer(self, units: ArrayLike | None = None) -> Iterator[WriterUnits]:
        """Sort units [n], each of which counts once, by writer; writers without any are left out. None: every unit.

        Raises:
            OptionError: something is no index on the axis of units.
        """
        return self._axis.by_writer(units)

    def block_units(self, index: int) -> slice:
        """The units of `blocks[index]` on the axis of units."""
        return self._axis.of_block(index)

    def head_units(self, head: int) -> Ints:
        """Indices, [n], of the units of the head at this index of `heads`."""
        heads = self.heads
        return self.units.of_head(int(heads.layer[head]), int(heads.index[head]), str(heads.block[head]))

    def label(self, unit: int) -> str:
        """A unit's name, such as "layer 2 expert 5 neuron 17".

        Raises:
            OptionError: there is no such unit.
        """
        return self.units.label(unit)

    def value(self, unit: int) -> Tensor:
        """A unit's value vector, with the block's constant scales folded in: [d].

        Raises:
            OptionError: there is no such unit.
        """
        place = self.locate(unit)
        block = self.blocks[int(place.block)]
        return block.values(block.writers[int(place.writer)], int(place.expert))[int(place.column)]

    def routed(self) -> Iterator[tuple[Block, Writer]]:
        """Every block with routed experts, in order, with the writer that holds them; none for a dense model."""
        for block in self.blocks:
            yield from ((block, writer) for writer in block.writers if writer.kind == "routed")

    @property
    def experts_per_token(self) -> int:
        """k, how many routed experts a token is sent to; 0 for a dense model."""
        return int(_config(self.module, self.family.chosen_experts_attribute, 0)) if any(self.routed()) else 0

    @property
    def n_parameters(self) -> int:
        """Parameters in all."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    @property
    def n_active_parameters(self) -> int:
        """Parameters that one token passes through: all but those of the experts that it is not routed to."""
        total = self.n_parameters
        for _, writer in self.routed():
            idle = 1 - self.experts_per_token / writer.n_experts
            total -= round(idle * sum(parameter.numel() for parameter in writer.module.parameters()))
        return total


def build_model(
    module: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None, family: Family | None = None
) -> Model:
    """Read a transformers model through its family's row. No forward pass: nothing is verified yet.

    Args:
        module: the model.
        tokenizer: its tokenizer.
        family: the row; None: that of the table.

    Raises:
        UnknownFamilyError: no row of the table covers the model's type.
        ModelError: a part that the row names is not there.
    """
    family = find_family(module.config.model_type) if family is None else family
    blocks: list[Block] = []
    layers = cast(nn.ModuleList, _part(module, family.layers, family))
    for path in filter(None, (family.attention_post_norm, family.mixer_post_norm, family.ffn_post_norm)):
        if not any(_has(layer, path) for layer in layers):
            _part(layers[0], path, family)
    for index, (layer, stream) in enumerate(zip(layers, _streams(family, layers), strict=True)):
        blocks += _layer_blocks(module, family, layer, index, stream)
    parallel = family.parallel or bool(_config(module, family.parallel_attribute, False))
    return Model(
        module=module.eval(),
        tokenizer=tokenizer,
        family=family,
        blocks=tuple(blocks),
        readout=_readout(module, family),
        units=unit_table(blocks),
        heads=head_table(blocks),
        experts=expert_table(blocks),
        coverage=_coverage(module, family, blocks),
        parallel=parallel,
        provenance={"family": family.name, "model_type": module.config.model_type},
    )


def _part(root: nn.Module, path: str, family: Family) -> nn.Module:
    try:
        return root.get_submodule(path)
    except AttributeError as error:
        raise ModelError(
            f"the {family.name} row of the table of families expects {path!r} in {type(root).__name__}, which has "
            f"{sorted(name for name, _ in root.named_children())}; the model's code and the row disagree: "
            "check the installed transformers version, or mend the row in gated_lpi/models/families.py"
        ) from error


def _has(root: nn.Module, path: str) -> bool:
    """Whether there is such a module."""
    try:
        root.get_submodule(path)
    except AttributeError:
        return False
    return True


def _config(module: PreTrainedModel, attribute: str | None, default: Any) -> Any:
    return default if attribute is None else getattr(module.config, attribute)


def _multiplier(module: PreTrainedModel, family: Family) -> float:
    return family.residual_multiplier * float(_config(module, family.residual_multiplier_attribute, 1.0))


def _projection_width(projection: nn.Module) -> int:
    """Number of inputs of a Linear [out, in] or a Conv1D [in, out]."""
    shape = cast(Tensor, projection.weight).shape
    return int(shape[1] if isinstance(projection, nn.Linear) else shape[0])


def _streams(family: Family, layers: nn.ModuleList) -> list[float]:
    """What is multiplied by what on its way to the final norm: of each layer, the product of its and later scales."""
    if family.stream_scale is None:
        return [1.0] * len(layers)
    path, _, name = family.stream_scale.rpartition(".")
    scales = []
    for layer in layers:
        scale = getattr(_part(layer, path, family), name, None)
        if not isinstance(scale, Tensor) or scale.numel() != 1:
            raise ModelError(
                f"the {family.name} row of the table of families expects a tensor of one number at "
                f"{family.stream_scale!r} of each layer, and {type(layer).__name__} has none; mend the row"
            )
        scales.append(scale.item())
    return [math.prod(scales[index:]) for index in range(len(scales))]


def _layer_blocks(
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
        return _has(self._layer, out) and not mixes_otherwise(self._part(path))

    def has_mixer(self) -> bool:
        """Whether it mixes positions otherwise; of a module in the attention's place its class says what it is."""
        path, out = self._family.mixer, self._family.mixer_out
        if path is None or out is None or not _has(self._layer, out):
            return False
        return path != self._family.attention or mixes_otherwise(self._part(path))

    def has_ffn(self) -> bool:
        """Whether it has an FFN."""
        path = self._family.ffn
        inside = [".".join(filter(None, (path, part))) for part in (self._family.down, self._family.experts)]
        return any(_has(self._layer, one) for one in inside)

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
        return _part(self._layer, path, self._family)

    def _number(self, path: str | None) -> float:
        """A number that the layer holds, or a part of it; 1 where the row names none."""
        if path is None:
            return 1.0
        owner, _, name = path.rpartition(".")
        number = getattr(self._part(owner), name, None)
        if not isinstance(number, int | float):
            raise ModelError(
                f"the {self._family.name} row of the table of families expects a number at {path!r} of each layer, "
                f"and {type(self._layer).__name__} has none; mend the row"
            )
        return float(number)


def _ffn_writers(module: PreTrainedModel, family: Family, ffn: nn.Module) -> list[Writer]:
    if not _has(ffn, family.experts):
        down = _part(ffn, family.down, family)
        return [Writer("dense", down, 1, _projection_width(down))]
    experts = _part(ffn, family.experts, family)
    down_proj = getattr(experts, "down_proj", None)
    if not isinstance(down_proj, Tensor) or down_proj.dim() != 3:
        raise ModelError(
            f"{type(experts).__name__} holds no 3-D parameter `down_proj` (experts fused as transformers ≥ 5 loads "
            "them), so its units cannot be read; load the model with transformers' own class"
        )
    n_experts, width = down_proj.shape[0], down_proj.shape[1 if experts.is_transposed else 2]
    router = _part(ffn, family.router, family)
    scale = float(_config(module, family.router_scale_attribute, 1.0))
    routed = Writer(
        "routed",
        experts,
        n_experts,
        width,
        router=router,
        router_score=family.router_score,
        router_scale=scale,
        multiplier=float(_config(module, family.routed_multiplier_attribute, 1.0)),
    )
    writers = [routed]
    if family.shared is not None and _has(ffn, family.shared):
        down = _part(ffn, f"{family.shared}.{family.down}", family)
        gate = None if family.shared_gate is None else _part(ffn, family.shared_gate, family)
        writers.append(Writer("shared", down, 1, _projection_width(down), gate=gate))
    return writers


def _norm_weight(family: Family, norm: nn.Module, like: Tensor) -> Tensor:
    weight = getattr(norm, "weight", None)
    if weight is None:
        return torch.ones(like.shape[-1], dtype=like.dtype, device=like.device)
    return cast(Tensor, weight.detach()) + family.norm_offset


def _post_norm(module: PreTrainedModel, family: Family, layer: nn.Module, path: str | None) -> PostNorm | None:
    if path is None or not _has(layer, path):
        return None
    norm = _part(layer, path, family)
    like = cast(Tensor, _part(module, family.head, family).weight)
    return PostNorm(norm, _norm_weight(family, norm, like), norm_eps(norm))


def _readout(module: PreTrainedModel, family: Family) -> Readout:
    """All of it where W_U is: of a model spread over devices the final norm may be on another one."""
    norm = _part(module, family.final_norm, family)
    head = _part(module, family.head, family)
    weight = cast(Tensor, head.weight).detach()
    bias = cast("Tensor | None", getattr(head, "bias", None))
    beta = cast("Tensor | None", getattr(norm, "bias", None))
    softcap = _config(module, family.logit_softcap_attribute, None)
    return Readout(
        weight=weight,
        bias=None if bias is None else bias.detach(),
        gamma=_norm_weight(family, norm, weight),
        beta=None if beta is None else beta.detach(),
        centred=family.norm == "layer",
        eps=norm_eps(norm),
        divisor=family.logit_divisor
        * float(_config(module, family.logit_divisor_attribute, 1.0))
        / float(_config(module, family.logit_multiplier_attribute, 1.0)),
        softcap=None if softcap is None else float(softcap),
    ).to(weight.device)


def _coverage(module: PreTrainedModel, family: Family, blocks: list[Block]) -> float:
    """Share of parameters outside embeddings and norms that feed or form an attributed write.

    Output biases belong to no unit, and a layer's parts that are neither its attention, its FFN nor a norm are
    not seen: both count as not attributed.
    """
    tables = (module.get_input_embeddings(), _part(module, family.head, family))
    embeddings = {id(p) for table in tables for p in table.parameters()}
    norms = {id(p) for m in module.modules() if "norm" in type(m).__name__.lower() for p in m.parameters()}
    positions = {id(p) for name, p in module.named_parameters() if name.endswith("wpe.weight")}
    biases = {id(w.bias_parameter) for block in blocks for w in block.writers}
    seen = {id(p) for block in blocks for p in block.module.parameters()}
    total = attributed = 0
    for parameter in module.parameters():
        if id(parameter) in embeddings | norms | positions:
            continue
        total += parameter.numel()
        if id(parameter) in seen and id(parameter) not in biases:
            attributed += parameter.numel()
    return attributed / total
