"""What is asked of the modules and tensors of a model whose row is read off it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

CLOSE = 1e-4  # relative difference that rounding explains in float32


def flat(states: Tensor) -> Tensor:
    """States [..., n] as one row for each token, [T, n]."""
    return states.reshape(-1, states.shape[-1])


def close(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors [..., n] are the same but for rounding and for how tokens are laid out."""
    one, other = flat(one), flat(other)
    if one.shape != other.shape:
        return False
    return bool((one - other).abs().max() <= CLOSE * other.abs().max())


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal, whatever their dtypes."""
    return one.shape == other.shape and bool(torch.equal(one, other.to(one.dtype)))


def factor_between(one: Tensor, other: Tensor) -> float | None:
    """The number by which `one` must be multiplied to be `other`; None if there is none."""
    one, other = flat(one).double(), flat(other).double()
    if one.shape != other.shape:
        return None
    factor = float((one * other).sum() / one.square().sum())
    return factor if factor and close(one * factor, other) else None


def is_norm(part: nn.Module) -> bool:
    """Whether a module is a norm, by the name of its class."""
    return "norm" in type(part).__name__.lower()


def width_of(part: nn.Module) -> int:
    """Outputs of a projection; 0 for another module."""
    if isinstance(part, Conv1D):
        return int(part.nf)
    return int(part.out_features) if isinstance(part, nn.Linear) else 0


def class_of(module: nn.Module, path: str) -> str:
    """The name of a part's class."""
    return type(module.get_submodule(path)).__name__


def numbers_of(module: PreTrainedModel, value: float) -> list[str]:
    """Names of the config's numbers that are `value`, but for rounding; dotted in configs inside it."""
    return [
        name
        for name, number in _numbers(module.config)
        if not isinstance(number, bool) and abs(number - value) <= CLOSE * abs(value)
    ]


def _numbers(config: PretrainedConfig) -> Iterator[tuple[str, float]]:
    """Numbers of a config by name, then those of configs inside it, their names dotted."""
    names = set(config.to_dict()) | {n for n, p in vars(type(config)).items() if isinstance(p, property)}
    held = {name: getattr(config, name, None) for name in sorted(names)}
    for name, value in held.items():
        if isinstance(value, int | float):
            yield name, value
    for name, value in held.items():
        if isinstance(value, PretrainedConfig):
            yield from ((f"{name}.{inner}", number) for inner, number in _numbers(value))
