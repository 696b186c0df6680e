"""Seeing attention position by position: an attention function that records weights and values as it runs.

transformers lets a model's attention be computed by any registered function. The one registered here calls the
family's own eager function, with whatever that family adds (softcap, sinks), and hands weights and values to a
listener. The values are those that really entered the product: not the cache's (which a sliding window cuts) and not
the projection's output (which may be clipped in place).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

from gated_lpi.errors import ModelError

NAME = "gated_lpi_recording"

Listener = Callable[[nn.Module, Tensor, Tensor], None]
"""Called with the attention module, its weights [P, H, S, S] and its values [P, H_kv, S, d_v]."""

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(module: PreTrainedModel, listener: Listener) -> Iterator[None]:
    """Compute the model's attention eagerly and let `listener` see it, until the `with` block ends.

    Raises:
        ModelError: the model's attention does not go through transformers' interface.
    """
    before = module.config._attn_implementation
    token = _listener.set(listener)
    try:
        module.set_attn_implementation(NAME)
        yield
    except KeyError as error:
        raise ModelError(
            f"{type(module).__name__} does not take attention functions from transformers' interface ({error}), so its "
            "attention cannot be resolved by position; use positions='summed'"
        ) from error
    finally:
        module.set_attn_implementation(before)
        _listener.reset(token)


def _record(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, Tensor]:
    eager = sys.modules[type(module).__module__].eager_attention_forward
    output, weights = eager(module, query, key, value, attention_mask, **options)
    listener = _listener.get()
    if listener is not None:
        listener(module, weights, value)
    return output, weights


AttentionInterface.register(NAME, _record)
AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["eager"])
