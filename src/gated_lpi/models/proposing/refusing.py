"""What no row can be read off, and why."""

from __future__ import annotations

import re
from typing import cast

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import __version__ as transformers_version
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from gated_lpi.errors import UnknownFamilyError
from gated_lpi.models.proposing.comparing import close
from gated_lpi.models.proposing.observing import Observation, observe

ATTENTION = re.compile(r"Attention|Attn|MLA$")  # in names of classes
_SOUND = (
    "its config is of an encoder of text, a decoder of codes of sound and what turns these into sound, all together; "
    "there is no causal language model of text in it"
)
_DRAFTS = "it drafts tokens for another model, whose keys and values its attention reads: nothing is read off it alone"
NOT_ALONE = {
    "musicgen": _SOUND,
    "musicgen_melody": _SOUND,
    "gemma4_assistant": _DRAFTS,
    "gemma4_unified_assistant": _DRAFTS,
}
"""Types that transformers lists as causal language models and makes none of, and why."""


def refusal(module: nn.Module, what: str) -> UnknownFamilyError:
    """The error that says what about a model is in the way of a row."""
    return UnknownFamilyError(
        f"{type(module).__name__} has no row in the table of families, and none can be read off it: {what}. "
        "`gated-lpi families` lists what can be attributed; a row of your own can be given with --family-row",
        what,
    )


def refuse_type(model_type: str) -> None:
    """Refuse a type of model that is no causal language model of text, by its name alone.

    Raises:
        UnknownFamilyError: says what transformers takes it for.
    """
    name = cast("str | None", MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model_type))
    if name is None:
        raise UnknownFamilyError(
            f"model type {model_type!r} has no row in the table of families, and transformers {transformers_version} "
            "knows no causal language model of that type, of which one could be read off; "
            "`gated-lpi families` lists what can be attributed"
        )
    if model_type in NOT_ALONE:
        raise UnknownFamilyError(
            f"model type {model_type!r} cannot be attributed: {NOT_ALONE[model_type]}. `gated-lpi families` lists what "
            "can be",
            NOT_ALONE[model_type],
        )
    if name.endswith("ForConditionalGeneration"):
        raise UnknownFamilyError(
            f"model type {model_type!r} is a model of several kinds of input ({name}), and only decoders of text are "
            "attributed: save the part that reads text by itself, and give that folder",
            f"a model of several kinds of input ({name}); its part that reads text can be saved by itself",
        )


def refuse_unreached(module: PreTrainedModel, seen: Observation) -> None:
    """Refuse a model with weights that a text alone never reaches: encoders of images or sound, cross-attention."""
    for name, part in module.named_modules():
        if _owner(name) not in seen.ran | {""} or isinstance(part, nn.ModuleList | nn.ModuleDict):
            continue
        in_layer, leaf = any(step.isdigit() for step in name.split(".")), not any(part.children())
        used = any(f"{name}.{inner}".strip(".") in seen.ran for inner, _ in part.named_modules())
        if not name or used or (in_layer and leaf) or not any(weight.dim() > 1 for weight in part.parameters()):
            continue  # a projection in a layer may be used by its weights alone
        if not _shares_weights(module, part):
            raise refusal(module, f"a text never reaches {name} ({type(part).__name__}): {_unreached(part)}")


def _unreached(part: nn.Module) -> str:
    """What a part is that has weights and is never called."""
    if ATTENTION.search(type(part).__name__):
        return "cross-attention of a decoder that needs an encoder"
    if isinstance(part, nn.Embedding | nn.ParameterList):
        return "embeddings that are read by their weights alone, so that how they enter the stream is not seen"
    return "a part of a model that is not given text alone"


def _owner(name: str) -> str:
    """The module that a module is a part of, itself and not the list that holds it."""
    owner = name.rpartition(".")[0]
    return owner.rpartition(".")[0] if name.rpartition(".")[2].isdigit() else owner


def _shares_weights(module: PreTrainedModel, part: nn.Module) -> bool:
    """Whether all weights of a part are used by another one as well: a second unembedding."""
    mine = {id(parameter) for parameter in part.parameters()}
    embeddings = {id(parameter) for parameter in module.get_input_embeddings().parameters()}
    return mine <= embeddings


def refuse_acausal(module: PreTrainedModel, ids: Tensor, seen: Observation) -> None:
    """Refuse a model of which later tokens change earlier logits: one more pass, over ids [B, S] that end otherwise."""
    other = ids.clone()
    other[:, -1] = (other[:, -1] + 1) % module.get_input_embeddings().weight.shape[0]
    changed = observe(module, other).logits
    half = ids.shape[1] // 2
    if not close(changed[:, :half], seen.logits[:, :half]):
        raise refusal(
            module,
            "what stands later in a text changes what it computes earlier: it is an encoder, lets part of a text see "
            "ahead, or is a decoder whose config does not say so",
        )
