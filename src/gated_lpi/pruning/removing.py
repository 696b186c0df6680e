"""Experts really removed: a new, smaller transformers model of the same family.

1. Of every layer as many experts are kept, those of the highest scores, in the order in which they stood. Where the
   router chooses among groups of experts first (DeepSeek), as many of every group.
2. A model is built from the config with the number of experts, under the family's own name for it, and experts per
   token changed: never more than the router can choose from.
3. The experts' tensors and the router's (weight, bias, the bias that corrects the choice) are cut along their first
   axis; all else, shared experts too, is copied.
4. The new model is proven to add up, as any model is.

It computes what the original would with the removed experts' logits at −∞ before the softmax, and so does one that
takes the top k first (−∞ is not among them, or has a gate of 0). A sigmoid router gives them a score of 0; where a bias
corrects its choice, theirs is −∞ too.

Experts are cut as they are in memory, fused; `save_pretrained` writes them as the family's files have them, fused or
one by one.
"""

from __future__ import annotations

import copy
import json
import math
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from gated_lpi._common.folders import draft_of, sync, unwritten
from gated_lpi.errors import ModelError, OptionError, RunExistsError
from gated_lpi.loading import wrap_model
from gated_lpi.models import ForeignExperts, Model
from gated_lpi.models.blocks import Writer
from gated_lpi.pruning.layers import routed_layers
from gated_lpi.pruning.scores import ExpertRanking

RECORD = "pruning.json"

Ints = NDArray[np.int64]


class Pruned(NamedTuple):
    """A model without some of its experts.

    Attributes:
        model: the new model; nothing of it is shared with the original.
        by: by which ranking they were chosen.
        layers: [L], the layers with routed experts.
        kept: [L, K], which of the original's experts each layer still has, ascending; the new expert i is `kept[:, i]`.
        experts: E, how many each layer had.
    """

    model: Model
    by: str
    layers: Ints
    kept: Ints
    experts: int

    def record(self) -> dict[str, Any]:
        """What was done, as plain data."""
        return {
            "by": self.by,
            "experts_before": self.experts,
            "experts_after": self.kept.shape[1],
            "experts_per_token": self.model.experts_per_token,
            "kept": {str(layer): row for layer, row in zip(self.layers.tolist(), self.kept.tolist(), strict=True)},
        }


def prune_experts(
    model: Model, ranking: ExpertRanking, *, share: float | None = None, keep: int | None = None
) -> Pruned:
    """Remove the experts of the lowest scores from every layer.

    Args:
        model: from `load_model` or `wrap_model`; it is not changed.
        ranking: from `rank_experts`.
        share: the share of a layer's experts to remove, in (0, 1); rounded down, and to as many of each group.
        keep: how many experts a layer keeps, in its place.

    Raises:
        OptionError: neither or both of share and keep; nothing would be removed, or too much for the router to choose
            from; a ranking of another model; no routed experts; or a model that is spread over devices.
        ModelError: the family's experts or router have a tensor without an axis of experts, or its checkpoints hold
            experts otherwise than transformers fuses them.
        ReconstructionError: the new model does not add up.
    """
    layers, experts = routed_layers(model)
    if any(isinstance(writer.module, ForeignExperts) for _, writer in model.routed()):
        raise ModelError(
            f"checkpoints of {model.family.name} hold experts otherwise than transformers fuses them, and a smaller "
            "one cannot be written; run `gated-lpi ablate`, which silences experts without removing them"
        )
    if ranking.scores.shape != (len(layers), experts) or not np.array_equal(ranking.layers, layers):
        raise OptionError(
            f"the ranking has (layers, experts) {ranking.scores.shape}, and the model {(len(layers), experts)} in "
            f"layers {layers.tolist()}; rank the experts of this model"
        )
    if len(set(getattr(model.module, "hf_device_map", {}).values())) > 1:
        raise OptionError("the model is spread over devices, and is pruned on one; load it without a device map")
    groups = _groups(model)
    kept = _chosen(ranking, _kept_number(model, experts, groups, share, keep), groups)
    module = _smaller(model, kept, groups)
    provenance = {**model.provenance, "pruned_by": ranking.by, "pruned": f"{experts - kept.shape[1]} of {experts}"}
    return Pruned(wrap_model(module, model.tokenizer, provenance=provenance), ranking.by, layers, kept, experts)


def save_pruned(pruned: Pruned, folder: Path) -> None:
    """Save a pruned model as an ordinary checkpoint, with pruning.json beside: which experts it has kept.

    Raises:
        RunExistsError: the folder exists.
        WriteError: it cannot be written to.
    """
    if folder.exists():
        raise RunExistsError(f"{folder} exists already and is not overwritten; give a new folder")
    draft = draft_of(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        pruned.model.module.save_pretrained(draft)
        if pruned.model.tokenizer is not None:
            pruned.model.tokenizer.save_pretrained(draft)
        (draft / RECORD).write_text(json.dumps(pruned.record(), indent=2) + "\n", encoding="utf-8")
        sync(draft)
        draft.replace(folder)
    except OSError as error:
        raise unwritten(folder, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _groups(model: Model) -> int:
    """Among how many groups of consecutive experts the routers choose first; 1 where there are none."""
    name = model.family.router_groups_attribute
    return int((None if name is None else getattr(model.module.config, name)) or 1)


def _kept_number(model: Model, experts: int, groups: int, share: float | None, keep: int | None) -> int:
    if (share is None) == (keep is None):
        raise OptionError(
            f"share={share} and keep={keep} were given; give one: the share of experts to remove, or how many to keep"
        )
    if share is not None and not 0.0 < share < 1.0:
        raise OptionError(f"share={share} was given; expected the share of experts to remove, between 0 and 1")
    wanted = keep if share is None else experts - math.floor(share * experts + 1e-9)
    assert wanted is not None
    least = groups * model.family.fewest_experts
    number = math.ceil(wanted / groups) * groups
    if not least <= number < experts:
        asked = f"share={share}" if keep is None else f"keep={keep}"
        in_groups = f", a multiple of its {groups} groups" if groups > 1 else ""
        raise OptionError(
            f"{asked} was given, which keeps {number} of {experts} experts a layer; expected {least} to "
            f"{experts - groups} for a {model.family.name} model{in_groups}"
        )
    return number


def _chosen(ranking: ExpertRanking, number: int, groups: int) -> Ints:
    """[L, number], ascending."""
    size = ranking.scores.shape[1] // groups
    parts = []
    for group in range(groups):
        inside = ranking._replace(scores=ranking.scores[:, group * size : (group + 1) * size])
        parts.append(inside.order()[:, : number // groups] + group * size)
    return np.sort(np.concatenate(parts, axis=1), axis=1)


@torch.no_grad()
def _smaller(model: Model, kept: Ints, groups: int) -> PreTrainedModel:
    module, number = model.module, kept.shape[1]
    config = copy.deepcopy(module.config)
    setattr(config, model.family.experts_attribute, number)
    chosen = model.family.chosen_groups_attribute
    reachable = number if groups == 1 or chosen is None else number // groups * getattr(config, chosen)
    config.num_experts_per_tok = min(model.experts_per_token, reachable)
    with torch.device("meta"):
        smaller: PreTrainedModel = type(module)._from_config(config, dtype=module.dtype)
    smaller.load_state_dict(_cut(model, kept), strict=True, assign=True)
    for name, buffer in module.named_buffers():  # those that no file holds, such as rotary frequencies
        if smaller.get_buffer(name).is_meta:
            place, _, own = name.rpartition(".")
            smaller.get_submodule(place)._buffers[own] = buffer.clone()
    smaller.tie_weights()
    smaller.generation_config = copy.deepcopy(module.generation_config)
    return smaller.eval()


def _cut(model: Model, kept: Ints) -> dict[str, Tensor]:
    """The model's tensors by name, copies, those of experts and routers cut."""
    names = {id(module): name for name, module in model.module.named_modules()}
    cuts = {
        f"{names[id(part)]}.": (writer, rows)
        for (_, writer), rows in zip(model.routed(), kept, strict=True)
        for part in (writer.module, writer.router)
    }
    state: dict[str, Tensor] = {}
    for name, tensor in model.module.state_dict().items():
        cut = next((cut for prefix, cut in cuts.items() if name.startswith(prefix)), None)
        state[name] = tensor.clone() if cut is None else _rows(name, tensor, *cut)
    return state


def _rows(name: str, tensor: Tensor, writer: Writer, rows: Ints) -> Tensor:
    if tensor.dim() == 0 or tensor.shape[0] != writer.n_experts:
        raise ModelError(
            f"{name} has shape {list(tensor.shape)}, whose first axis is not that of the {writer.n_experts} experts, "
            "so it cannot be cut; experts of this family cannot be removed"
        )
    return tensor[torch.from_numpy(rows).to(tensor.device)]
