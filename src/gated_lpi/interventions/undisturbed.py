"""A model that is in training, lent for a while: whatever is done inside the block, training goes on as if not.

Inside, every module is in evaluation mode, gradients are put aside, and no autocast is on; forward passes compute in
the weights' own dtype, though a Trainer may have wrapped the model's `forward` for mixed precision. Afterwards modes
(module by module), gradients (the same tensors, or none), `requires_grad`, buffers, the random numbers of Python, NumPy
and torch (CPU and CUDA) and `forward` are as they were, also after an error. Weights are not looked after: nothing here
changes any. Hooks of others stay in place, and are run by the passes that are made.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Lend a model that is in training, in evaluation mode and without gradients, until the `with` block ends.

    Args:
        module: the model, itself and not a wrapper for many devices around it.
    """
    modes = [(part, part.training) for part in module.modules()]
    gradients = [(weight, weight.grad, weight.requires_grad) for weight in module.parameters()]
    buffers = [
        (part, name, held, held.clone())
        for part in module.modules()
        for name, held in part.named_buffers(recurse=False, remove_duplicate=False)
    ]
    forward = vars(module).get("forward")
    device = next((weight.device.type for weight in module.parameters()), "cpu")
    try:
        with _same_random_numbers(), torch.autocast(device, enabled=False):
            if forward is not None and "_original_forward" in vars(module):  # accelerate's, around it: autocast
                module.forward = vars(module)["_original_forward"]
            module.eval()
            for weight, _, _ in gradients:
                weight.grad = None
            yield
    finally:
        if forward is not None:
            module.forward = forward
        for part, training in modes:
            part.training = training
        for weight, gradient, required in gradients:
            weight.grad = gradient
            weight.requires_grad_(required)
        for part, name, held, content in buffers:
            setattr(part, name, held)
            if not torch.equal(held, content):
                held.copy_(content)


@contextmanager
def _same_random_numbers() -> Iterator[None]:
    """Leave all generators that training may draw from where they were."""
    python = random.getstate()
    legacy = np.random.get_state()  # noqa: NPY002  # the one that others draw from
    cuda = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=list(cuda)):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002
