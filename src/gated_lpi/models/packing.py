"""Weights that are stored packed: which form is unpacked on loading, and which are refused.

Value vectors are read from plain floating-point numbers. MXFP4 (OCP Microscaling Formats 1.0, as GPT-OSS is published)
has two 4-bit numbers in a byte and one power of two for 32 of them; each product is a number of bfloat16, so that
unpacking loses nothing. transformers does it, if it is told to.
"""

from __future__ import annotations

import re
from typing import Any

from gated_lpi.errors import ModelError

MXFP4 = "mxfp4"
_PARTS = re.compile(r"_(?:blocks|scales)$")


def unpacking(source: str, settings: Any) -> dict[str, Any] | None:
    """The `quantization_config` by which transformers unpacks weights on loading; None where they are plain.

    Args:
        source: what errors call the checkpoint.
        settings: `quantization_config` of its config, if there is one.

    Raises:
        ModelError: the weights are in a form that is not unpacked; before any of them is read, since reading them may
            need packages and devices that are not there.
    """
    if settings is None:
        return None
    settings = settings if isinstance(settings, dict) else getattr(settings, "to_dict", dict)()
    if settings.get("quant_method") == MXFP4:
        return {"quant_method": MXFP4, "dequantize": True}
    if settings.get("dequantize"):
        return None  # packed tensors, if there are any, are refused by their dtype
    raise ModelError(
        f"the weights of {source!r} are stored quantised ({settings.get('quant_method', 'method not named')}): value "
        "vectors would not be numbers that can be read. Of packed weights MXFP4 and GGUF are unpacked here; dequantise "
        "others with transformers (model.dequantize(), then save_pretrained) and give that folder, or take the "
        "unquantised model"
    )


def is_packed(name: str, dtype: str) -> bool:
    """Whether a tensor is of MXFP4, packed numbers or their scales; its dtype is as safetensors names it."""
    return dtype == "U8" and bool(_PARTS.search(name))
