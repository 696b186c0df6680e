"""Why what a layer adds to the residual stream is not what its blocks' projections put out: the likeliest reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gated_lpi.models.proposing.comparing import CLOSE, close


@dataclass(frozen=True)
class Written:
    """What was seen of one layer over T tokens; every tensor is [T, d].

    Attributes:
        path: the layer's.
        layer: the layer.
        entered, returned: the stream before and after it.
        norms: what its norms returned, by path.
        outs: the parts that put something out, as messages name them.
        computed: what the projections of its blocks put out, by the path and class of the block's module.
        written: the same, after post-norms.
        modules: what the blocks' modules returned; empty if some were not seen.
    """

    path: str
    layer: nn.Module
    entered: Tensor
    returned: Tensor
    norms: Mapping[str, Tensor]
    outs: list[str]
    computed: Mapping[str, Tensor]
    written: list[Tensor]
    modules: Mapping[str, Tensor]


def why_it_does_not_add_up(seen: Written) -> str:
    """The reason, as messages give it; what the layer holds, where none is found."""
    last = [name for name, states in seen.norms.items() if close(states, seen.returned)]
    if last:
        return (
            f"{last[-1]} normalises the residual stream itself, after the block has written to it, so that what a "
            "unit writes does not stay as it was"
        )
    said = f"what {seen.path} adds to the residual stream is not what {' and '.join(seen.outs)} put out"
    carried = [name for name, states in seen.norms.items() if _carries_on(seen, states)]
    if carried:
        return (
            f"{carried[-1]} normalises the residual stream itself: what it returns is passed on, so that what a unit "
            "wrote does not stay as it was"
        )
    changed = _changing(seen)
    if changed:
        return (
            f"{said}: {' and '.join(changed)} changes it, dimension by dimension or across positions, before it is "
            "written, so that a unit has no one value vector"
        )
    fitted = _by_dimension(seen)
    if fitted is not None:
        numbers = "each dimension of it and of the stream times a number of its own, which is no one scale of a unit"
        return f"{said}, but {numbers if fitted else 'that and a vector beside it, a bias that stands elsewhere'}"
    named = [name for name, _ in seen.layer.named_children() if "per_layer" in name]
    if named:
        return f"{said}: per-layer embeddings are added besides ({', '.join(named)}), which no row has"
    children = ", ".join(f"{name} ({type(part).__name__})" for name, part in seen.layer.named_children())
    return f"{said}; it holds {children}"


def _carries_on(seen: Written, norm: Tensor) -> bool:
    """Whether the layer passes on what a norm returned, with what its blocks wrote, each times a number."""
    if norm.shape != seen.returned.shape:
        return False
    unknown = torch.stack([states.flatten() for states in (norm, *seen.written)], dim=1).double().cpu()
    target = seen.returned.flatten().double().cpu()
    found = torch.linalg.lstsq(unknown, target.unsqueeze(1)).solution[:, 0]
    return bool((target - unknown @ found).abs().max() <= 10 * CLOSE * target.abs().max())


def _changing(seen: Written) -> list[str]:
    """Modules of blocks whose outputs, added up, are what is written, but not what their projections put out."""
    if not seen.modules:
        return []
    total = torch.stack(list(seen.modules.values())).sum(dim=0)
    streams = [seen.entered, *seen.norms.values()]
    if not any(one.shape == total.shape and close(one + total, seen.returned) for one in streams):
        return []
    return [name for name, states in seen.modules.items() if not close(states, seen.computed[name])]


def _by_dimension(seen: Written) -> bool | None:
    """Whether each dimension is the stream's and the writes' own times numbers, plus one number; None if not.

    False where the numbers that multiply are 1, and only one vector is added.
    """
    given = [seen.entered, *seen.written, torch.ones_like(seen.entered)]
    unknown = torch.stack(given, dim=-1).transpose(0, 1).double().cpu()  # [d, T, unknowns]
    target = seen.returned.T.unsqueeze(-1).double().cpu()
    if unknown.shape[1] <= unknown.shape[2]:
        return None
    found = torch.linalg.lstsq(unknown, target, driver="gelsd").solution
    if not bool((unknown @ found - target).abs().max() <= 10 * CLOSE * target.abs().max()):
        return None
    return bool((found[:, :-1] - 1.0).abs().max() > 0.01)
