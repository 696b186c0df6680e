"""Where the layers of a model are, and what attention, mixer and FFN of each are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from operator import attrgetter
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from gated_lpi.models.blocks import BlockKind
from gated_lpi.models.mixers import mixes_otherwise
from gated_lpi.models.proposing.comparing import (
    CLOSE,
    class_of,
    close,
    factor_between,
    flat,
    is_norm,
    numbers_of,
    same,
    width_of,
)
from gated_lpi.models.proposing.explaining import Written, why_it_does_not_add_up
from gated_lpi.models.proposing.observing import Call, Observation
from gated_lpi.models.proposing.refusing import ATTENTION, refusal

_MIXING: tuple[BlockKind, ...] = ("attention", "mixer")


def find_layers(module: PreTrainedModel, seen: Observation) -> str:
    """The path of the list of layers.

    Raises:
        UnknownFamilyError: there is none, or its layers do not pass on one vector for each token.
    """
    chains = []
    for path, part in module.named_modules():
        if not isinstance(part, nn.ModuleList) or not len(part):
            continue
        calls = [seen.called(f"{path}.{index}") for index in range(len(part))]
        if any(call is None for call in calls):
            continue
        chain = cast("list[Call]", calls)
        if all(close(later.entering, call.leaving) for call, later in pairwise(chain)):
            chains.append((sum(p.numel() for p in part.parameters()), path, chain[0]))
    if not chains:
        often = {n for n, p in module.named_modules() if isinstance(p, nn.ModuleList) and len(seen.calls(f"{n}.0")) > 1}
        how = f"those of {', '.join(sorted(often))} run more than once" if often else "each passing its output on"
        raise refusal(module, f"it has no list of layers that run one after the other ({how})")
    _, path, first = max(chains, key=lambda one: one[0])
    tokens = seen.logits.shape[:2]
    if first.entering.dim() != 3 or first.entering.shape[:2] != tokens:
        raise refusal(
            module,
            f"its layers pass on a tensor of shape {list(first.entering.shape)} for {list(tokens)} tokens, where "
            "one vector for each token, one residual stream, is expected",
        )
    streams, odd = divmod(first.entering.shape[-1], int(getattr(module.config, "hidden_size", 0)) or 2**31)
    if streams > 1 and not odd:
        raise refusal(
            module,
            f"its layers pass on {streams} vectors for each token, side by side, where one residual stream is expected",
        )
    return str(path)


@dataclass(frozen=True)
class _Ffn:
    """Where a layer's FFN has its parts: paths relative to it, the writes of its writers together."""

    paths: dict[str, str]
    written: Tensor
    routing: tuple[Call, Call, str] | None = None


@dataclass(frozen=True)
class Mixing:
    """Attention or another mixer: paths of its module and of its output projection."""

    path: str
    out: str


class Layer:
    """One layer: where its blocks and their parts are, and what they wrote.

    Args:
        module: the model.
        seen: a forward pass.
        path: the layer's.
        mixed: whether some layers have mixers other than attention: a layer may then lack any of its blocks.
    """

    def __init__(self, module: PreTrainedModel, seen: Observation, path: str, mixed: bool) -> None:
        self._module, self._seen, self.path, self._mixed = module, seen, path, mixed
        self.layer = module.get_submodule(path)
        call = cast(Call, seen.called(path))
        self.d = call.entering.shape[-1]
        self.entered = flat(call.entering)
        self.returned = flat(call.leaving)
        self.mixing = self._find_mixing()
        self.ffn = self._find_ffn()
        self._parts = None if self.ffn is None else self._find_ffn_parts(self.ffn)
        self._norms = {
            name: one for name, one in seen.within(path) if name != path and is_norm(module.get_submodule(name))
        }

    @property
    def routing(self) -> tuple[Call, Call, str] | None:
        """The calls of the router and of the experts, and the experts' path; None for a dense layer."""
        return None if self._parts is None else self._parts.routing

    def row(self) -> dict[str, Any]:
        """Fields of the row that this layer shows."""
        found: dict[str, Any] = {}
        for kind, one in self.mixing.items():
            found |= {kind: self._relative(one.path), f"{kind}_out": self._relative(one.out)}
        if self.ffn is not None and self._parts is not None:
            found |= {"ffn": self._relative(self.ffn), **self._parts.paths}
        for kind, computed in self._computed().items():
            norm = self._norm_of(computed)
            if norm is not None:
                found[f"{kind}_post_norm"] = self._relative(norm)
        if not self._by_modules():
            found["by_projection"] = True
        return found

    def writes(self) -> dict[BlockKind, Tensor]:
        """What each block writes, [T, d], before what it is multiplied by."""
        writes = {}
        for kind, computed in self._computed().items():
            norm = self._norm_of(computed)
            writes[kind] = computed if norm is None else flat(self._norms[norm].leaving)
        return writes

    def factors(self) -> tuple[float, dict[BlockKind, float]]:
        """What the stream that enters the layer, and what each of its blocks writes, are multiplied by."""
        kinds = self.writes()
        writes = torch.stack([states.flatten() for states in kinds.values()], dim=1).double().cpu()
        entering, leaving = self.entered.flatten().double().cpu(), self.returned.flatten().double().cpu()
        # The stream first as it is: with it as a third unknown, factors of small writes would be found less exactly.
        for unknown, target in ((writes, leaving - entering), (torch.column_stack([entering, writes]), leaving)):
            there = unknown.abs().amax(dim=0) > 0
            factors = torch.ones(unknown.shape[1], dtype=torch.float64)
            if bool(there.any()):
                factors[there] = torch.linalg.lstsq(unknown[:, there], target.unsqueeze(1)).solution[:, 0]
            if bool((target - unknown @ factors).abs().max() <= 10 * CLOSE * leaving.abs().max()):
                stream, *found = [1.0, *factors.tolist()][-1 - len(kinds) :]
                written = dict(zip(kinds, there.tolist()[-len(kinds) :], strict=True))
                known = {kind: factor for kind, factor in zip(kinds, found, strict=True) if written[kind]}
                self._refuse_unwritten(known)
                like = next(iter(known.values()), 1.0)  # what writes nothing as yet is taken for scaled like another
                return stream, {kind: known.get(kind, like) for kind in kinds}
        raise refusal(self._module, why_it_does_not_add_up(self._seen_written()))

    def down(self) -> list[str]:
        """Modules whose output tells whether the FFN was given another input: what its writers were given."""
        if self.ffn is None or self._parts is None:
            return []
        paths = self._parts.paths
        writers = [paths["experts"]] if "experts" in paths else [paths["down"]]
        return [".".join(filter(None, (self.ffn, path))) for path in writers]

    def _refuse_unwritten(self, factors: Mapping[BlockKind, float]) -> None:
        """Refuse blocks whose output is no part of what the layer adds."""
        for kind, factor in factors.items():
            if abs(factor) < 10 * CLOSE:
                what = self.ffn if kind == "ffn" else self.mixing[kind].path
                raise refusal(
                    self._module,
                    f"what {what} puts out is not added to the residual stream: another block of {self.path} reads it, "
                    "so that its units have no contribution of their own",
                )

    def _seen_written(self) -> Written:
        """What was seen of the layer, for whoever says why it does not add up."""
        names = {kind: f"{path} ({class_of(self._module, path)})" for kind, path in self._modules().items()}
        calls = {kind: self._seen.called(path) for kind, path in self._modules().items()}
        returned = {names[k]: flat(c.leaving) for k, c in calls.items() if c is not None}
        whole = len(returned) == len(names) and all(states.shape == self.entered.shape for states in returned.values())
        return Written(
            self.path,
            self.layer,
            self.entered,
            self.returned,
            {name: flat(norm.leaving) for name, norm in self._norms.items()},
            [self._relative(one.out) for one in self.mixing.values()] + ["the FFN"] * (self.ffn is not None),
            {names[kind]: computed for kind, computed in self._computed().items()},
            list(self.writes().values()),
            returned if whole else {},
        )

    def _relative(self, path: str) -> str:
        return path[len(self.path) + 1 :]

    def _find_mixing(self) -> dict[BlockKind, Mixing]:
        """Where positions are mixed: by attention, by another mixer, or by both beside each other.

        Raises:
            UnknownFamilyError: by two of a kind, or by something without an output projection.
        """
        named = [
            f"{self.path}.{name}"
            for name, part in self.layer.named_modules()
            if name and (ATTENTION.search(type(part).__name__) or mixes_otherwise(part)) and not is_norm(part)
        ]
        outermost = [
            name for name in named if not any(name.startswith(f"{o}.") for o in named) and list(self._seen.within(name))
        ]
        found: dict[BlockKind, Mixing] = {}
        for path in outermost:
            out = self._last_projection(path)
            if out is None:
                raise refusal(self._module, self._without_projection(path))
            inner = max((name for name in named if out.startswith(f"{name}.")), key=len)
            kind: BlockKind = "mixer" if mixes_otherwise(self._module.get_submodule(inner)) else "attention"
            if kind in found:
                raise refusal(self._module, self._several(outermost))
            found[kind] = Mixing(inner, out)
        if not found and not self._mixed:
            raise refusal(self._module, self._several(outermost))
        return {kind: found[kind] for kind in _MIXING if kind in found}

    def _several(self, paths: list[str]) -> str:
        listed = f" ({', '.join(map(self._relative, paths))})" if paths else ""
        return f"{self.path} has {len(paths) or 'no'} attention blocks{listed}; one in each layer is expected"

    def _without_projection(self, path: str) -> str:
        held = f"{path} ({class_of(self._module, path)})"
        if mixes_otherwise(self._module.get_submodule(path)):
            return (
                f"{held} mixes positions and has no output projection as wide as the residual stream, whose columns "
                "would be its units"
            )
        return (
            f"{held} has no output projection as wide as the residual stream, whose columns would be its units; "
            "experts of attention, and attention over what earlier layers wrote, have none"
        )

    def _last_projection(self, path: str, but: tuple[str, ...] = ()) -> str | None:
        """The projection as wide as the stream whose call ended last within a path; None if there is none."""
        found = [
            name
            for name, one in self._seen.within(path)
            if width_of(self._module.get_submodule(name)) == self.d == one.leaving.shape[-1]
            and not any(name == other or name.startswith(f"{other}.") for other in but)
        ]
        return found[-1] if found else None

    def _find_ffn(self) -> str | None:
        """Path of the FFN: the one child that mixes no positions; the layer itself if there are several; or None."""
        found = []
        for name, part in self.layer.named_children():
            path = f"{self.path}.{name}"
            if path in self._mixing_roots() or is_norm(part):
                continue
            if any(parameter.dim() > 1 for parameter in part.parameters()):
                found.append(path)
        if not found:
            if self._mixed and self.mixing:
                return None
            raise refusal(self._module, f"{self.path} has no FFN beside its attention")
        return found[0] if len(found) == 1 and not width_of(self._module.get_submodule(found[0])) else self.path

    def _find_ffn_parts(self, ffn: str) -> _Ffn:
        inside = self._module.get_submodule(ffn)
        mixing = [self._module.get_submodule(path) for path in self._mixing_roots() if path.startswith(f"{ffn}.")]
        apart = {id(part) for one in mixing for part in one.modules()}  # a mixer's convolution has three dimensions
        fused = {
            name: part
            for name, part in inside.named_modules()
            if id(part) not in apart and any(p.dim() > 2 and p.shape[0] > 1 for p in part.parameters(recurse=False))
        }
        if not fused:
            down = self._last_projection(ffn, self._mixing_roots())
            if down is None:
                held = sorted({type(part).__name__ for part in inside.modules() if [*part.parameters(recurse=False)]})
                raise refusal(
                    self._module,
                    f"{ffn} has no projection as wide as the residual stream; its weights are in {', '.join(held)}",
                )
            return _Ffn({"down": down[len(ffn) + 1 :]}, flat(cast(Call, self._seen.called(down)).leaving))
        return self._find_experts(ffn, inside, fused)

    def _mixing_roots(self) -> tuple[str, ...]:
        """The children of the layer that attention and mixer are, or are in."""
        return tuple(f"{self.path}.{self._relative(one.out).split('.')[0]}" for one in self.mixing.values())

    def _find_experts(self, ffn: str, inside: nn.Module, fused: Mapping[str, nn.Module]) -> _Ffn:
        name, part = next(iter(fused.items()))
        path = f"{ffn}.{name}"
        held = f"{path} ({type(part).__name__})"
        down = getattr(part, "down_proj", None)
        if len(fused) > 1 or not isinstance(down, Tensor) or not hasattr(part, "is_transposed"):
            raise refusal(
                self._module,
                f"{held} holds experts otherwise than transformers fuses them, so that what each of their units writes "
                "is not known",
            )
        call = self._seen.called(path)
        if call is None or len(call.given) != 3 or call.given[1].is_floating_point() or call.given[2].dim() != 2:
            raise refusal(
                self._module, f"{held} is not given hidden states, the experts chosen and their gates, in this order"
            )
        paths = {"experts": name}
        router = self._find_router(ffn, inside, call)
        if router is None:
            raise refusal(
                self._module,
                f"no module of {ffn} returns logits, gates and experts, these three, of which {held} gets the last two",
            )
        paths["router"] = router[len(ffn) + 1 :]
        written = flat(call.leaving)
        down_path = self._last_projection(ffn, (path, router, *self._mixing_roots()))
        if down_path is not None:
            shared, _, last = down_path[len(ffn) + 1 :].rpartition(".")
            paths |= {"shared": shared, "down": last}
            output = flat(cast(Call, self._seen.called(down_path)).leaving)
            gates = [n for n, _ in self._seen.within(ffn) if width_of(self._module.get_submodule(n)) == 1]
            if len(gates) == 1:
                paths["shared_gate"] = gates[0][len(ffn) + 1 :]
                output = output * torch.sigmoid(flat(cast(Call, self._seen.called(gates[0])).leaving))
            paths |= self._routed_multiplier(ffn, written, output)
            factor = (
                attrgetter(paths[key])(self._module.config) if (key := "routed_multiplier_attribute") in paths else 1.0
            )
            written = factor * written + output
        return _Ffn(paths, written, (cast(Call, self._seen.called(router)), call, path))

    def _routed_multiplier(self, ffn: str, routed: Tensor, shared: Tensor) -> dict[str, str]:
        """The number that multiplies what routed experts write, but not what the shared one does, if there is one."""
        whole = self._seen.called(ffn)
        if whole is None or ffn == self.path:
            return {}
        factor = factor_between(routed, flat(whole.leaving) - shared)
        named = [] if factor is None or abs(factor - 1.0) <= CLOSE else numbers_of(self._module, factor)
        scales = [name for name in named if "scal" in name]
        return {"routed_multiplier_attribute": scales[0]} if scales else {}

    def _find_router(self, ffn: str, inside: nn.Module, experts: Call) -> str | None:
        for name, _ in inside.named_modules():
            path = f"{ffn}.{name}"
            call = self._seen.called(path) if name else None
            if call is None or len(call.returned) != 3:
                continue
            logits, gates, chosen = call.returned
            if logits.is_floating_point() and same(chosen, experts.given[1]) and same(gates, experts.given[2]):
                return path
        return None

    def _computed(self) -> dict[BlockKind, Tensor]:
        """What the projections of each block put out, [T, d]."""
        computed = {kind: flat(cast(Call, self._seen.called(one.out)).leaving) for kind, one in self.mixing.items()}
        return computed if self._parts is None else {**computed, "ffn": self._parts.written}

    def _by_modules(self) -> bool:
        """Whether every block's module returns what its writers put out."""
        if self.ffn == self.path:
            return False
        modules = self._modules()
        return all(
            self._norm_of(computed) is not None or self._returns(modules[kind], computed)
            for kind, computed in self._computed().items()
        )

    def _modules(self) -> dict[BlockKind, str]:
        """Paths of the blocks."""
        paths: dict[BlockKind, str] = {kind: one.path for kind, one in self.mixing.items()}
        return paths if self.ffn is None else {**paths, "ffn": self.ffn}

    def _returns(self, path: str, computed: Tensor) -> bool:
        call = self._seen.called(path)
        return call is not None and close(call.leaving, computed)

    def _norm_of(self, computed: Tensor) -> str | None:
        """The norm that is given what a block computes."""
        found = [name for name, one in self._norms.items() if close(one.entering, computed)]
        return found[0] if found else None
