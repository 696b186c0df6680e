"""A model seen as writers to a residual stream: built from a transformers model and its family's row."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePath
from typing import Any, cast

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gated_lpi._common.entries import printable
from gated_lpi.errors import ModelError, OptionError
from gated_lpi.models.blocks import Block, Writer
from gated_lpi.models.families import Family, find_family
from gated_lpi.models.layer_blocks import config_number, has_part, layer_blocks, norm_weight, part_of
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


def require_model(given: object) -> None:
    """Refuse what is no `Model`, before anything is asked of it.

    Raises:
        OptionError: names what was given, and what makes a model of it.
    """
    if isinstance(given, Model):
        return
    if isinstance(given, str | PurePath):
        raise OptionError(
            f"{str(given)!r} was given as the model; expected a loaded one: give gated_lpi.load_model({str(given)!r})"
        )
    if isinstance(given, nn.Module):
        raise OptionError(
            f"a {type(given).__name__} was given as the model; expected one that is prepared: give "
            "gated_lpi.wrap_model(model, tokenizer)"
        )
    raise OptionError(
        f"a {type(given).__name__} was given as the model; expected what gated_lpi.load_model or wrap_model returns: "
        "give one of these"
    )


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

    def __repr__(self) -> str:
        """What it is, where it is from, its sizes, and how well its units add up; a line each."""
        source, commit = self.provenance.get("source"), str(self.provenance.get("commit") or "")[:8]
        origin = (f" from {source}" if source else "") + (f" at {commit}" if commit else "")
        sizes = {"units": len(self.units), "heads": len(self.heads), "experts": len(self.experts)}
        counts = ", ".join(f"{size:,} {name}" for name, size in sizes.items())
        check = self.reconstruction
        proof = "not checked" if check is None else f"reconstruction error {check.worst:.1g} of {check.tolerance:.1g}"
        computed = f"{str(self.dtype).removeprefix('torch.')} on {self.device}"
        lines = (
            f"<Model {type(self.module).__name__} ({self.family.name}){origin}",
            f"  {self.n_layers} layers, {counts}",
            f"  {computed}, {self.coverage:.1%} of its parameters covered, {proof}",
            *([f"  {len(self.notes)} in .notes"] if self.notes else []),
        )
        return printable("\n".join(lines)) + ">"

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
        return int(config_number(self.module, self.family.chosen_experts_attribute, 0)) if any(self.routed()) else 0

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
    layers = _layers(module, family)
    for path in filter(None, (family.attention_post_norm, family.mixer_post_norm, family.ffn_post_norm)):
        if not any(has_part(layer, path) for layer in layers):
            part_of(layers[0], path, family)
    for index, (layer, stream) in enumerate(zip(layers, _streams(family, layers), strict=True)):
        blocks += layer_blocks(module, family, layer, index, stream)
    parallel = family.parallel or bool(config_number(module, family.parallel_attribute, False))
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


def _layers(module: PreTrainedModel, family: Family) -> nn.ModuleList:
    found = part_of(module, family.layers, family)
    if not isinstance(found, nn.ModuleList | nn.Sequential) or not len(found):
        raise ModelError(
            f"{family.called} expects a list of layers at {family.layers!r} (layers), and "
            f"{type(found).__name__} is none; {family.remedy}"
        )
    return cast(nn.ModuleList, found)


def _streams(family: Family, layers: nn.ModuleList) -> list[float]:
    """What is multiplied by what on its way to the final norm: of each layer, the product of its and later scales."""
    if family.stream_scale is None:
        return [1.0] * len(layers)
    path, _, name = family.stream_scale.rpartition(".")
    scales = []
    for layer in layers:
        scale = getattr(part_of(layer, path, family), name, None)
        if not isinstance(scale, Tensor) or scale.numel() != 1:
            raise ModelError(
                f"{family.called} expects a tensor of one number at {family.stream_scale!r} (stream_scale) of each "
                f"layer, and {type(layer).__name__} has none; {family.remedy}"
            )
        scales.append(scale.item())
    return [math.prod(scales[index:]) for index in range(len(scales))]


def _readout(module: PreTrainedModel, family: Family) -> Readout:
    """All of it where W_U is: of a model spread over devices the final norm may be on another one."""
    norm = part_of(module, family.final_norm, family)
    head = part_of(module, family.head, family)
    weight = cast(Tensor, head.weight).detach()
    bias = cast("Tensor | None", getattr(head, "bias", None))
    beta = cast("Tensor | None", getattr(norm, "bias", None))
    softcap = config_number(module, family.logit_softcap_attribute, None)
    return Readout(
        weight=weight,
        bias=None if bias is None else bias.detach(),
        gamma=norm_weight(family, norm, weight),
        beta=None if beta is None else beta.detach(),
        centred=family.norm == "layer",
        eps=norm_eps(norm),
        divisor=family.logit_divisor
        * float(config_number(module, family.logit_divisor_attribute, 1.0))
        / float(config_number(module, family.logit_multiplier_attribute, 1.0)),
        softcap=None if softcap is None else float(softcap),
    ).to(weight.device)


def _coverage(module: PreTrainedModel, family: Family, blocks: list[Block]) -> float:
    """Share of parameters outside embeddings and norms that feed or form an attributed write.

    Output biases belong to no unit, and a layer's parts that are neither its attention, its FFN nor a norm are
    not seen: both count as not attributed.
    """
    tables = (module.get_input_embeddings(), part_of(module, family.head, family))
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
