"""What the weight files of a checkpoint hold, and whether the model uses all of it.

A tensor that no part of the model takes is the sign of a config that belongs to another model: a layer too many, a
bias whose flag is off, the scale of packed weights. transformers loads such a checkpoint without a word, every score
would be finite, and the check of `loading.verify` passes, since it compares the model with itself. Refused are
therefore tensors that the model has no place for, but for those of `HARMLESS`, and dtypes that are not plain
floating-point numbers, as they stand in the file (loading casts them to such).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import NamedTuple, cast

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from gated_lpi._common.quiet import quiet_transformers
from gated_lpi._common.weight_files import refuse_long_headers
from gated_lpi.errors import GatedLPIError, ModelError, WeightsError
from gated_lpi.models.tokenizer import first_line

MAX_NAMED = 4
SPARE = 1 << 24  # values that a model may have beyond its file's, whatever its size: other checks say more of those
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
HARMLESS = (
    r"rotary_emb\.inv_freq",  # rotary frequencies, which the model computes from its config
    r"(?:^|\.)(?:attn|attention)\.(?:masked_)?bias",  # the causal mask of GPT-2 and GPT-NeoX, and its value
)


class Stored(NamedTuple):
    """A tensor in a file.

    Attributes:
        dtype: as safetensors names it, such as "BF16".
        size: number of its values.
    """

    dtype: str
    size: int


def stored_tensors(files: Sequence[Path]) -> dict[str, Stored]:
    """Names, dtypes and sizes of the tensors in safetensors files, from their headers alone.

    Raises:
        WeightsError: a file is cut short or damaged, has a header of absurd length, or two files hold one name.
    """
    found: dict[str, Stored] = {}
    refuse_long_headers(files)
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.offset_keys():
                    if name in found:
                        raise WeightsError(
                            f"tensor {name!r} is in {path.name} and in another file of {path.parent}; which one is "
                            "meant? Download the checkpoint again"
                        )
                    part = file.get_slice(name)
                    found[name] = Stored(part.get_dtype(), prod(part.get_shape()))
        except (SafetensorError, OSError) as error:
            raise WeightsError(
                f"{path} cannot be read as safetensors ({error}): the file is cut short or damaged; download or save "
                "it again"
            ) from error
    return found


def main_dtype(tensors: Mapping[str, Stored]) -> str:
    """The dtype of most values, as torch names it."""
    sizes: dict[str, int] = {}
    for tensor in tensors.values():
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.size
    return DTYPES.get(main := max(sizes, key=sizes.__getitem__, default=""), main)


def refuse_dtypes(source: str, tensors: Mapping[str, Stored]) -> None:
    """Refuse weights that are stored as anything but plain floating-point numbers.

    Raises:
        ModelError: names the tensors and their dtypes.
    """
    packed = [f"{name} ({t.dtype})" for name, t in tensors.items() if t.dtype not in DTYPES and not harmless(name)]
    if packed:
        raise ModelError(
            f"{len(packed)} of {len(tensors)} tensors of {source!r} are stored packed or quantised (first: "
            f"{', '.join(packed[:MAX_NAMED])}); expected {', '.join(DTYPES.values())}, which value vectors are read "
            "from. Loading would cast them without their scales. Save a dequantised copy and give that folder"
        )


def refuse_misfit(source: str, config: PreTrainedConfig, stored: int) -> PreTrainedModel:
    """Refuse a config whose model is far larger than its file of `stored` values, before memory for it is asked for.

    The model is laid out without memory and its values counted, buffers by themselves: more than twice those of the
    file cannot be filled from it. Smaller differences are found on loading, which names the tensors.

    Returns:
        The model as it was laid out, without values.

    Raises:
        WeightsError: says both numbers.
        ModelError: the config contradicts itself.
    """
    try:
        with quiet_transformers(), torch.device("meta"):
            laid_out = AutoModelForCausalLM.from_config(copy.deepcopy(config), trust_remote_code=False)
        values = sum(parameter.numel() for parameter in laid_out.parameters())
        buffers = sum(buffer.numel() for buffer in laid_out.buffers())
    except (GatedLPIError, MemoryError):
        raise
    except Exception as error:  # whatever a config that contradicts itself makes a model's constructor raise
        raise ModelError(
            f"transformers could not lay out {source!r} ({type(error).__name__}: {first_line(error)}); its config.json "
            "contradicts itself. Save or download the model again"
        ) from error
    if max(values, buffers) > 2 * stored + SPARE:
        raise WeightsError(
            f"the config of {source!r} is that of a model of {values:,} values and {buffers:,} in buffers, but its "
            f"weights hold {stored:,}: config.json belongs to another model, or the files to another checkpoint. "
            "Put those that belong together into one folder"
        )
    return cast(PreTrainedModel, laid_out)


def refuse_unused(source: str, unused: Iterable[str]) -> None:
    """Refuse a checkpoint with tensors that the model has no place for.

    Raises:
        WeightsError: names them.
    """
    names = sorted(name for name in unused if not harmless(name))
    if names:
        raise WeightsError(
            f"{source!r} holds {len(names)} tensors that the model does not use (first: "
            f"{', '.join(names[:MAX_NAMED])}); expected a model that uses all of them, or its scores are those of "
            "another one. config.json belongs to another model, or a setting of it is wrong (number of layers, "
            "biases, quantisation): mend it, or save the model again"
        )


def set_aside(tensors: Iterable[str], patterns: Iterable[str], used: Iterable[str]) -> list[str]:
    """Names that the model's own class leaves out by `patterns`, such as layers for predicting several tokens."""
    patterns, used = list(patterns), set(used)
    return [
        name
        for name in tensors
        if name not in used and not harmless(name) and any(re.search(pattern, name) for pattern in patterns)
    ]


def harmless(name: str) -> bool:
    """Whether a tensor's name is one of those that models compute themselves."""
    return any(re.search(rf"{pattern}$", name) for pattern in HARMLESS)
