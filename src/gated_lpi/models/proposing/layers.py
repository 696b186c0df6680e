"""Where the layers of a model are, and what attention and FFN of each are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

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
from gated_lpi.models.proposing.observing import Call, Observation
from gated_lpi.models.proposing.refusing import ATTENTION, refusal


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
    return str(path)


@dataclass(frozen=True)
class _Ffn:
    """Where a layer's FFN has its parts: paths relative to it, the writes of its writers together."""

    paths: dict[str, str]
    written: Tensor
    routing: tuple[Call, Call, str] | None = None


class Layer:
    """One layer: where its blocks and their parts are, and what they wrote."""

    def __init__(self, module: PreTrainedModel, seen: Observation, path: str) -> None:
        self._module, self._seen, self.path = module, seen, path
        self.layer = module.get_submodule(path)
        call = cast(Call, seen.called(path))
        self.d = call.entering.shape[-1]
        self.entered = flat(call.entering)
        self.returned = flat(call.leaving)
        self.attention, self.attention_out = self._find_attention()
        self.ffn = self._find_ffn()
        self._parts = self._find_ffn_parts()
        self._norms = {
            name: one for name, one in seen.within(path) if name != path and is_norm(module.get_submodule(name))
        }

    @property
    def routing(self) -> tuple[Call, Call, str] | None:
        """The calls of the router and of the experts, and the experts' path; None for a dense layer."""
        return self._parts.routing

    def row(self) -> dict[str, Any]:
        """Fields of the row that this layer shows."""
        found: dict[str, Any] = {
            "attention": self._relative(self.attention),
            "attention_out": self._relative(self.attention_out),
            "ffn": self._relative(self.ffn),
            **self._parts.paths,
        }
        for field, computed in (("attention_post_norm", self._attention()), ("ffn_post_norm", self._written())):
            norm = self._norm_of(computed)
            if norm is not None:
                found[field] = self._relative(norm)
        if not self._by_modules():
            found["by_projection"] = True
        return found

    def writes(self) -> tuple[Tensor, Tensor]:
        """What attention and FFN write, [T, d] each, before what both are multiplied by."""
        writes = []
        for computed in (self._attention(), self._written()):
            norm = self._norm_of(computed)
            writes.append(computed if norm is None else flat(self._norms[norm].leaving))
        return writes[0], writes[1]

    def factors(self) -> tuple[float, float, float]:
        """What the stream that enters the layer, what attention writes and what the FFN writes are multiplied by."""
        writes = torch.stack([states.flatten() for states in self.writes()], dim=1).double().cpu()
        entering, leaving = self.entered.flatten().double().cpu(), self.returned.flatten().double().cpu()
        # The stream first as it is: with it as a third unknown, factors of small writes would be found less exactly.
        for unknown, target in ((writes, leaving - entering), (torch.column_stack([entering, writes]), leaving)):
            there = unknown.abs().amax(dim=0) > 0
            factors = torch.ones(unknown.shape[1], dtype=torch.float64)
            if bool(there.any()):
                factors[there] = torch.linalg.lstsq(unknown[:, there], target.unsqueeze(1)).solution[:, 0]
            if bool((target - unknown @ factors).abs().max() <= 10 * CLOSE * leaving.abs().max()):
                stream, attention, ffn = [1.0, *factors.tolist()][-3:]
                written = there.tolist()[-2:]  # what writes nothing as yet is taken for scaled like the other
                return stream, attention if written[0] else ffn, ffn if written[1] else attention
        raise refusal(self._module, self._other_writes())

    def down(self) -> list[str]:
        """Modules whose output tells whether the FFN was given another input: what its writers were given."""
        paths = self._parts.paths
        writers = [paths["experts"]] if "experts" in paths else [paths["down"]]
        return [".".join(filter(None, (self.ffn, path))) for path in writers]

    def _other_writes(self) -> str:
        last = [name for name, one in self._norms.items() if close(one.leaving, self.returned)]
        if last:
            return (
                f"{last[-1]} normalises the residual stream itself, after the block has written to it, so that what a "
                "unit writes does not stay as it was"
            )
        children = ", ".join(f"{name} ({type(part).__name__})" for name, part in self.layer.named_children())
        return (
            f"what {self.path} adds to the residual stream is not what {self._relative(self.attention_out)} and the "
            f"FFN put out; it holds {children}"
        )

    def _relative(self, path: str) -> str:
        return path[len(self.path) + 1 :]

    def _find_attention(self) -> tuple[str, str]:
        """Paths of the attention and of its output projection."""
        named = [
            f"{self.path}.{name}"
            for name, part in self.layer.named_modules()
            if name and ATTENTION.search(type(part).__name__) and not is_norm(part)
        ]
        outermost = [
            name for name in named if not any(name.startswith(f"{o}.") for o in named) and list(self._seen.within(name))
        ]
        if len(outermost) != 1:
            raise refusal(
                self._module,
                f"{self.path} has {len(outermost) or 'no'} attention blocks"
                + (f" ({', '.join(map(self._relative, outermost))})" if outermost else "")
                + "; one in each layer is expected",
            )
        out = self._last_projection(outermost[0])
        if out is None:
            raise refusal(
                self._module,
                f"{outermost[0]} ({class_of(self._module, outermost[0])}) has no output projection as wide as the "
                "residual stream; attention experts have none of their own",
            )
        return max((name for name in named if out.startswith(f"{name}.")), key=len), out

    def _last_projection(self, path: str, but: tuple[str, ...] = ()) -> str | None:
        """The projection as wide as the stream whose call ended last within a path; None if there is none."""
        found = [
            name
            for name, one in self._seen.within(path)
            if width_of(self._module.get_submodule(name)) == self.d == one.leaving.shape[-1]
            and not any(name == other or name.startswith(f"{other}.") for other in but)
        ]
        return found[-1] if found else None

    def _find_ffn(self) -> str:
        """Path of the FFN: the one child that is not the attention's; the layer itself if there are several."""
        found = []
        for name, part in self.layer.named_children():
            path = f"{self.path}.{name}"
            if self.attention_out.startswith(f"{path}.") or is_norm(part):
                continue
            if any(parameter.dim() > 1 for parameter in part.parameters()):
                found.append(path)
        if not found:
            raise refusal(self._module, f"{self.path} has no FFN beside its attention")
        return found[0] if len(found) == 1 and not width_of(self._module.get_submodule(found[0])) else self.path

    def _find_ffn_parts(self) -> _Ffn:
        inside = self._module.get_submodule(self.ffn)
        fused = {
            name: part
            for name, part in inside.named_modules()
            if any(parameter.dim() > 2 for parameter in part.parameters(recurse=False))
        }
        if not fused:
            down = self._last_projection(self.ffn, (self._attention_root(),))
            if down is None:
                raise refusal(self._module, f"{self.ffn} has no projection as wide as the residual stream")
            return _Ffn({"down": down[len(self.ffn) + 1 :]}, flat(cast(Call, self._seen.called(down)).leaving))
        return self._find_experts(inside, fused)

    def _attention_root(self) -> str:
        return f"{self.path}.{self._relative(self.attention_out).split('.')[0]}"

    def _find_experts(self, inside: nn.Module, fused: Mapping[str, nn.Module]) -> _Ffn:
        name, part = next(iter(fused.items()))
        path = f"{self.ffn}.{name}"
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
        router = self._find_router(inside, call)
        if router is None:
            raise refusal(
                self._module, f"no module of {self.ffn} returns logits, gates and the experts that {held} is given"
            )
        paths["router"] = router[len(self.ffn) + 1 :]
        written = flat(call.leaving)
        down_path = self._last_projection(self.ffn, (path, router, self._attention_root()))
        if down_path is not None:
            shared, _, last = down_path[len(self.ffn) + 1 :].rpartition(".")
            paths |= {"shared": shared, "down": last}
            output = flat(cast(Call, self._seen.called(down_path)).leaving)
            gates = [n for n, _ in self._seen.within(self.ffn) if width_of(self._module.get_submodule(n)) == 1]
            if len(gates) == 1:
                paths["shared_gate"] = gates[0][len(self.ffn) + 1 :]
                output = output * torch.sigmoid(flat(cast(Call, self._seen.called(gates[0])).leaving))
            paths |= self._routed_multiplier(written, output)
            factor = (
                self._module.config.to_dict()[paths[key]] if (key := "routed_multiplier_attribute") in paths else 1.0
            )
            written = factor * written + output
        return _Ffn(paths, written, (cast(Call, self._seen.called(router)), call, path))

    def _routed_multiplier(self, routed: Tensor, shared: Tensor) -> dict[str, str]:
        """The number that multiplies what routed experts write, but not what the shared one does, if there is one."""
        whole = self._seen.called(self.ffn)
        if whole is None or self.ffn == self.path:
            return {}
        factor = factor_between(routed, flat(whole.leaving) - shared)
        named = [] if factor is None or abs(factor - 1.0) <= CLOSE else numbers_of(self._module, factor)
        scales = [name for name in named if "scal" in name]
        return {"routed_multiplier_attribute": scales[0]} if scales else {}

    def _find_router(self, inside: nn.Module, experts: Call) -> str | None:
        for name, _ in inside.named_modules():
            path = f"{self.ffn}.{name}"
            call = self._seen.called(path) if name else None
            if call is None or len(call.returned) != 3:
                continue
            logits, gates, chosen = call.returned
            if logits.is_floating_point() and same(chosen, experts.given[1]) and same(gates, experts.given[2]):
                return path
        return None

    def _attention(self) -> Tensor:
        return flat(cast(Call, self._seen.called(self.attention_out)).leaving)

    def _written(self) -> Tensor:
        return self._parts.written

    def _by_modules(self) -> bool:
        """Whether both blocks' modules return what their writers put out."""
        attention, ffn = self._seen.called(self.attention), self._seen.called(self.ffn)
        if attention is None or ffn is None or self.ffn == self.path:
            return False
        return all(
            self._norm_of(computed) is not None or close(call.leaving, computed)
            for call, computed in ((attention, self._attention()), (ffn, self._written()))
        )

    def _norm_of(self, computed: Tensor) -> str | None:
        """The norm that is given what a block computes."""
        found = [name for name, one in self._norms.items() if close(one.entering, computed)]
        return found[0] if found else None
