"""Mixers: what passes information from one position to others otherwise than by softmax attention.

State-space layers (Mamba, Mamba-2), linear recurrences (gated delta nets, RG-LRU, mLSTM, linear attention) and short
convolutions. They are known by the names of their classes, as attention is.

A mixer ends, as attention does, in an output projection. What that is given at a position, whatever state led to it,
are the coefficients of the mixer's units there, and its columns are their value vectors. Where the state is kept by
heads, the projection's inputs are theirs, one head after the other.
"""

from __future__ import annotations

import re

from torch import nn

_MIXERS = re.compile(
    r"Mamba|(Bamba|FalconH1)Mixer|Rwkv\w*Attention|mLSTM|xLSTMLayer|Delta|Lightning|ShortConv|RecurrentBlock|Rglru"
    r"|(?<!Kimi)LinearAttention"
)
_HEADS = (("num_v_heads", "head_v_dim"), ("num_heads", "head_dim"), ("num_attention_heads", "head_dim"))


def mixes_otherwise(part: nn.Module) -> bool:
    """Whether a module mixes positions otherwise than by softmax attention, by the name of its class."""
    return bool(_MIXERS.search(type(part).__name__))


def mixer_heads(mixer: nn.Module, width: int) -> int:
    """How many heads share the `width` inputs of a mixer's output projection; 0 where it has no heads.

    Heads are told by the mixer's own numbers: so many of so many channels each, if they make up all inputs.
    """
    for number, size in _HEADS:
        heads, channels = getattr(mixer, number, None), getattr(mixer, size, None)
        if isinstance(heads, int) and isinstance(channels, int) and heads * channels == width:
            return heads
    return 0
