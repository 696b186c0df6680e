"""A row for a family that the table does not have, read off the model itself.

1. The model runs over a few tokens, and what every module is given and returns is kept (`observing`).
2. Layers are the longest list of modules each of which is given what the one before returned.
3. In a layer the attention is known by the name of its class, and its output projection as the last one inside that is
   as wide as the residual stream. What else has weights is the FFN: its down projection likewise, or fused experts,
   a router that returns the experts chosen, a shared expert and its gate. A norm that is given what a block computes
   is a post-norm.
4. What the layer adds to the stream must be the two blocks' writes, or both times one number that the config has.
   Whether the FFN reads the layer's input is seen by changing what attention writes.
5. The final norm is the one that is given what the last layer returns; its formula is the one of four that yields what
   it returned. The unembedding is transformers' own; what stands between it and the logits is a number or a softcap.

Nothing here is trusted: the proof at load decides whether the row is right. What does not fit is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from gated_lpi.errors import UnknownFamilyError
from gated_lpi.models.families import Family, NormKind, RouterScore
from gated_lpi.models.observing import Call, Observation, observe

PROMPTS, TOKENS = 2, 8
CLOSE = 1e-4  # relative difference that rounding explains in float32

_ATTENTION = re.compile(r"Attention|Attn|MLA$")
# Words in names of classes that mix positions otherwise than by softmax attention, whatever else they are called.
_OTHER_MIXERS = re.compile(r"Mamba|Rwkv|LSTM|Delta|Lightning|ShortConv|Recurrent|Rglru|LinearAttention|Reformer|LSHSelf")
_SUFFIX = re.compile(r"(For(CausalLM|ConditionalGeneration)|LMHeadModel|Decoder)$")


def propose(module: PreTrainedModel) -> Family:
    """Read a row off a model, in evaluation mode, by a few forward passes over random tokens.

    Raises:
        UnknownFamilyError: it is no decoder that attention and FFN write to alone; says what was found.
    """
    embeddings = cast(Tensor, module.get_input_embeddings().weight)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(embeddings.shape[0], (PROMPTS, TOKENS), generator=generator).to(embeddings.device)
    _refuse_other_mixers(module)
    seen = observe(module, ids)
    layers = _layers(module, seen)
    _refuse_unreached(module, seen)
    _refuse_acausal(module, ids, seen)
    parts = [_Layer(module, seen, f"{layers}.{index}") for index in range(len(_list(module, layers)))]
    row = _merged([part.row() for part in parts])
    return Family(
        name=_SUFFIX.sub("", type(module).__name__),
        model_types=(module.config.model_type,),
        layers=layers,
        parallel=_is_parallel(module, ids, seen, parts),
        **row,
        **_multiplier(module, parts),
        **_end(module, seen, parts[-1]),
        **_routing(module, parts),
    )


def _refusal(module: nn.Module, what: str) -> UnknownFamilyError:
    return UnknownFamilyError(
        f"{type(module).__name__} has no row in the table of families, and none can be read off it: {what}. "
        "`gated-lpi families` lists what can be attributed; a row of your own can be given with --family-row"
    )


def _list(module: nn.Module, path: str) -> nn.ModuleList:
    return cast(nn.ModuleList, module.get_submodule(path))


def _class(module: nn.Module, path: str) -> str:
    return type(module.get_submodule(path)).__name__


def _flat(states: Tensor) -> Tensor:
    return states.reshape(-1, states.shape[-1])


def _close(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors [..., n] are the same but for rounding and for how tokens are laid out."""
    one, other = _flat(one), _flat(other)
    if one.shape != other.shape:
        return False
    return bool((one - other).abs().max() <= CLOSE * other.abs().max())


def _is_norm(part: nn.Module) -> bool:
    return "norm" in type(part).__name__.lower()


def _width(part: nn.Module) -> int:
    """Outputs of a projection; 0 for another module."""
    if isinstance(part, Conv1D):
        return int(part.nf)
    return int(part.out_features) if isinstance(part, nn.Linear) else 0


def _refuse_other_mixers(module: PreTrainedModel) -> None:
    for name, part in module.named_modules():
        if _OTHER_MIXERS.search(type(part).__name__):
            raise _refusal(
                module,
                f"{name} mixes positions by {type(part).__name__}, which is no softmax attention, and units are "
                "defined for attention and FFN alone",
            )


def _layers(module: PreTrainedModel, seen: Observation) -> str:
    """The path of the list of layers."""
    chains = []
    for path, part in module.named_modules():
        if not isinstance(part, nn.ModuleList) or not len(part):
            continue
        calls = [seen.called(f"{path}.{index}") for index in range(len(part))]
        if any(call is None for call in calls):
            continue
        chain = cast("list[Call]", calls)
        if all(_close(later.entering, call.leaving) for call, later in zip(chain, chain[1:], strict=False)):
            chains.append((sum(p.numel() for p in part.parameters()), path, chain[0]))
    if not chains:
        often = {n for n, p in module.named_modules() if isinstance(p, nn.ModuleList) and len(seen.calls(f"{n}.0")) > 1}
        how = f"those of {', '.join(sorted(often))} run more than once" if often else "each passing its output on"
        raise _refusal(module, f"it has no list of layers that run one after the other ({how})")
    _, path, first = max(chains, key=lambda one: one[0])
    if first.entering.dim() != 3 or first.entering.shape[:2] != (PROMPTS, TOKENS):
        raise _refusal(
            module,
            f"its layers pass on a tensor of shape {list(first.entering.shape)} for {PROMPTS} × {TOKENS} tokens: not one "
            "residual stream but several, mixed between blocks",
        )
    return path


def _refuse_unreached(module: PreTrainedModel, seen: Observation) -> None:
    """Refuse a model with weights that a text alone never reaches: encoders of images or sound, cross-attention."""
    for name, part in module.named_modules():
        if not name or isinstance(part, nn.ModuleList | nn.ModuleDict | nn.Sequential) or seen.calls(name):
            continue
        parent = name.rpartition(".")[0]
        reached = not parent or bool(seen.calls(parent))
        own = [parameter for parameter in part.parameters() if parameter.dim() > 1]
        if reached and own and not any(seen.calls(f"{name}.{inner}") for inner, _ in part.named_modules() if inner):
            if _shares_weights(module, part):
                continue
            kind = "cross-attention of a decoder that needs an encoder" if _ATTENTION.search(type(part).__name__) else (
                "a part of a model that is not given text alone"
            )
            raise _refusal(module, f"a text never reaches {name} ({type(part).__name__}): {kind}")


def _shares_weights(module: PreTrainedModel, part: nn.Module) -> bool:
    """Whether all weights of a part are used by another one as well: a second unembedding."""
    mine = {id(parameter) for parameter in part.parameters()}
    embeddings = {id(parameter) for parameter in module.get_input_embeddings().parameters()}
    return mine <= embeddings


def _refuse_acausal(module: PreTrainedModel, ids: Tensor, seen: Observation) -> None:
    other = ids.clone()
    other[:, -1] = (other[:, -1] + 1) % module.get_input_embeddings().weight.shape[0]
    changed = observe(module, other).logits
    if not _close(changed[:, : TOKENS // 2], seen.logits[:, : TOKENS // 2]):
        raise _refusal(
            module,
            "what stands later in a text changes what it computes earlier: it is an encoder, or a decoder whose config "
            "does not say so",
        )


@dataclass(frozen=True)
class _Ffn:
    """Where a layer's FFN has its parts: paths relative to it, the writes of its writers together."""

    paths: dict[str, str]
    written: Tensor
    routing: tuple[Call, Call, str] | None = None


class _Layer:
    """One layer: where its blocks and their parts are, and what they wrote."""

    def __init__(self, module: PreTrainedModel, seen: Observation, path: str) -> None:
        self._module, self._seen, self.path = module, seen, path
        self.layer = module.get_submodule(path)
        call = cast(Call, seen.called(path))
        self.d = call.entering.shape[-1]
        self.added = _flat(call.leaving) - _flat(call.entering)
        self.returned = _flat(call.leaving)
        self.attention, self.attention_out = self._find_attention()
        self.ffn = self._find_ffn()
        self._parts = self._find_ffn_parts()
        self._norms = {
            name: one for name, one in seen.within(path) if name != path and _is_norm(module.get_submodule(name))
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
            writes.append(computed if norm is None else _flat(self._norms[norm].leaving))
        return writes[0], writes[1]

    def multiplier(self) -> float:
        """What both blocks' writes are multiplied by."""
        attention, ffn = self.writes()
        system = torch.stack([attention.flatten(), ffn.flatten()], dim=1).double()
        target = self.added.flatten().double()
        there = system.abs().amax(dim=0) > 0
        factors = torch.ones(2, dtype=torch.float64, device=system.device)
        if bool(there.any()):
            factors[there] = torch.linalg.lstsq(system[:, there].cpu(), target.unsqueeze(1).cpu()).solution[:, 0].to(
                system.device
            )
        left = (target - system @ factors).abs().max()
        if not left <= 10 * CLOSE * self.returned.abs().max():
            raise _refusal(self._module, self._other_writes())
        one, other = factors.tolist()
        if abs(one - other) > 10 * CLOSE * abs(one):
            raise _refusal(
                self._module,
                f"{self.path} adds {one:.4g} times what its attention and {other:.4g} times what its FFN computes; "
                "one number for both is expected",
            )
        return 0.5 * (one + other)

    def down(self) -> list[str]:
        """Modules whose output tells whether the FFN was given another input: what its writers were given."""
        paths = self._parts.paths
        writers = [paths["experts"]] if "experts" in paths else [paths["down"]]
        return [".".join(filter(None, (self.ffn, path))) for path in writers]

    def _other_writes(self) -> str:
        last = [name for name, one in self._norms.items() if _close(one.leaving, self.returned)]
        if last:
            return (
                f"{last[-1]} normalises the residual stream itself, after the block has written to it, so that what a "
                "unit writes does not stay as it was"
            )
        children = ", ".join(f"{name} ({type(part).__name__})" for name, part in self.layer.named_children())
        return (
            f"what {self.path} adds to the residual stream is not what {self._relative(self.attention_out)} and the FFN "
            f"put out; it holds {children}"
        )

    def _relative(self, path: str) -> str:
        return path[len(self.path) + 1 :]

    def _find_attention(self) -> tuple[str, str]:
        """Paths of the attention and of its output projection."""
        named = [
            f"{self.path}.{name}"
            for name, part in self.layer.named_modules()
            if name and _ATTENTION.search(type(part).__name__) and not _is_norm(part)
        ]
        outermost = [
            name for name in named if not any(name.startswith(f"{o}.") for o in named) and list(self._seen.within(name))
        ]
        if len(outermost) != 1:
            raise _refusal(
                self._module,
                f"{self.path} has {len(outermost) or 'no'} attention blocks"
                + (f" ({', '.join(map(self._relative, outermost))})" if outermost else "")
                + "; one in each layer is expected",
            )
        out = self._last_projection(outermost[0])
        if out is None:
            raise _refusal(
                self._module,
                f"{outermost[0]} ({_class(self._module, outermost[0])}) has no output projection as wide as the residual "
                "stream; attention experts have none of their own",
            )
        return max((name for name in named if out.startswith(f"{name}.")), key=len), out

    def _last_projection(self, path: str, but: tuple[str, ...] = ()) -> str | None:
        """The projection as wide as the stream whose call ended last within a path; None if there is none."""
        found = [
            name
            for name, one in self._seen.within(path)
            if _width(self._module.get_submodule(name)) == self.d == one.leaving.shape[-1]
            and not any(name == other or name.startswith(f"{other}.") for other in but)
        ]
        return found[-1] if found else None

    def _find_ffn(self) -> str:
        """Path of the FFN: the one child that is not the attention's; the layer itself if there are several."""
        found = []
        for name, part in self.layer.named_children():
            path = f"{self.path}.{name}"
            if self.attention_out.startswith(f"{path}.") or _is_norm(part):
                continue
            if any(parameter.dim() > 1 for parameter in part.parameters()):
                found.append(path)
        if not found:
            raise _refusal(self._module, f"{self.path} has no FFN beside its attention")
        return found[0] if len(found) == 1 and not _width(self._module.get_submodule(found[0])) else self.path

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
                raise _refusal(self._module, f"{self.ffn} has no projection as wide as the residual stream")
            return _Ffn({"down": down[len(self.ffn) + 1 :]}, _flat(cast(Call, self._seen.called(down)).leaving))
        return self._find_experts(inside, fused)

    def _attention_root(self) -> str:
        return f"{self.path}.{self._relative(self.attention_out).split('.')[0]}"

    def _find_experts(self, inside: nn.Module, fused: Mapping[str, nn.Module]) -> _Ffn:
        name, part = next(iter(fused.items()))
        path = f"{self.ffn}.{name}"
        held = f"{path} ({type(part).__name__})"
        down = getattr(part, "down_proj", None)
        if len(fused) > 1 or not isinstance(down, Tensor) or not hasattr(part, "is_transposed"):
            raise _refusal(
                self._module,
                f"{held} holds experts otherwise than transformers fuses them, so that what each of their units writes "
                "is not known",
            )
        call = self._seen.called(path)
        if call is None or len(call.given) != 3 or call.given[1].is_floating_point() or call.given[2].dim() != 2:
            raise _refusal(
                self._module, f"{held} is not given hidden states, the experts chosen and their gates, in this order"
            )
        paths = {"experts": name}
        router = self._find_router(inside, call)
        if router is None:
            raise _refusal(
                self._module, f"no module of {self.ffn} returns logits, gates and the experts that {held} is given"
            )
        paths["router"] = router[len(self.ffn) + 1 :]
        written = _flat(call.leaving)
        down_path = self._last_projection(self.ffn, (path, router, self._attention_root()))
        if down_path is not None:
            shared, _, last = down_path[len(self.ffn) + 1 :].rpartition(".")
            paths |= {"shared": shared, "down": last}
            output = _flat(cast(Call, self._seen.called(down_path)).leaving)
            gates = [n for n, _ in self._seen.within(self.ffn) if _width(self._module.get_submodule(n)) == 1]
            if len(gates) == 1:
                paths["shared_gate"] = gates[0][len(self.ffn) + 1 :]
                output = output * torch.sigmoid(_flat(cast(Call, self._seen.called(gates[0])).leaving))
            written = written + output
        return _Ffn(paths, written, (cast(Call, self._seen.called(router)), call, path))

    def _find_router(self, inside: nn.Module, experts: Call) -> str | None:
        for name, _ in inside.named_modules():
            path = f"{self.ffn}.{name}"
            call = self._seen.called(path) if name else None
            if call is None or len(call.returned) != 3:
                continue
            logits, gates, chosen = call.returned
            if logits.is_floating_point() and _same(chosen, experts.given[1]) and _same(gates, experts.given[2]):
                return path
        return None

    def _attention(self) -> Tensor:
        return _flat(cast(Call, self._seen.called(self.attention_out)).leaving)

    def _written(self) -> Tensor:
        return self._parts.written

    def _by_modules(self) -> bool:
        """Whether both blocks' modules return what their writers put out."""
        attention, ffn = self._seen.called(self.attention), self._seen.called(self.ffn)
        if attention is None or ffn is None or self.ffn == self.path:
            return False
        return all(
            self._norm_of(computed) is not None or _close(call.leaving, computed)
            for call, computed in ((attention, self._attention()), (ffn, self._written()))
        )

    def _norm_of(self, computed: Tensor) -> str | None:
        """The norm that is given what a block computes."""
        found = [name for name, one in self._norms.items() if _close(one.entering, computed)]
        return found[0] if found else None


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(torch.equal(one, other.to(one.dtype)))


def _merged(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One row of what layers show, each of which may lack some parts."""
    merged: dict[str, Any] = {}
    for index, row in enumerate(rows):
        for field, value in row.items():
            if merged.setdefault(field, value) != value:
                raise UnknownFamilyError(
                    f"no row can be read off this model: {field} is {merged[field]!r} in a layer and {value!r} in layer "
                    f"{index}, and a row has one for all. Give a row of your own with --family-row if one fits"
                )
    return merged


def _is_parallel(module: PreTrainedModel, ids: Tensor, seen: Observation, parts: list[_Layer]) -> bool:
    """Whether the FFN of every layer reads the layer's input.

    What attention writes is changed in all layers at once; each layer's output is then put back, so that each layer is
    seen by itself.
    """

    def put_back(states: Tensor) -> Any:
        def hook(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
            return (states, *output[1:]) if isinstance(output, tuple) else states

        return hook

    changes: dict[str, Any] = {part.path: put_back(cast(Call, seen.called(part.path)).leaving) for part in parts}
    changes |= {part.attention_out: lambda _, __, output: -2.0 * output + 0.5 for part in parts}
    after = observe(module, ids, changes)
    blind = [
        all(_close(cast(Call, after.called(n)).entering, cast(Call, seen.called(n)).entering) for n in part.down())
        for part in parts
    ]
    if len(set(blind)) > 1:
        raise _refusal(module, "the FFN reads the layer's input in some layers, and what attention wrote in others")
    return blind[0]


def _numbers(module: PreTrainedModel, value: float) -> list[str]:
    """Names of the config's numbers that are `value`, but for rounding."""
    names = set(module.config.to_dict()) | {n for n, p in vars(type(module.config)).items() if isinstance(p, property)}
    found = []
    for name in sorted(names):
        number = getattr(module.config, name, None)
        if isinstance(number, int | float) and not isinstance(number, bool) and abs(number - value) <= CLOSE * abs(value):
            found.append(name)
    return found


def _multiplier(module: PreTrainedModel, parts: list[_Layer]) -> dict[str, Any]:
    factors = [part.multiplier() for part in parts]
    if max(factors) - min(factors) > 10 * CLOSE * abs(factors[0]):
        raise _refusal(module, f"its layers multiply what they write by different numbers, {min(factors):.4g} to {max(factors):.4g}")
    factor = factors[0]
    if abs(factor - 1.0) <= 10 * CLOSE:
        return {}
    named = [name for name in _numbers(module, factor) if "resid" in name]
    if named:
        return {"residual_multiplier_attribute": named[0]}
    for number in vars(parts[0].layer).values():
        if isinstance(number, float) and abs(number - factor) <= 10 * CLOSE * abs(factor):
            return {"residual_multiplier": number}
    raise _refusal(module, f"its layers multiply what they write by {factor:.6g}, which is no number of its config")


def _end(module: PreTrainedModel, seen: Observation, last: _Layer) -> dict[str, Any]:
    """Final norm, unembedding, and what the logits are divided or capped by."""
    head = cast("nn.Module | None", module.get_output_embeddings())
    paths = [name for name, part in module.named_modules() if part is head]
    if head is None or not paths or seen.called(paths[0]) is None:
        raise _refusal(module, "it has no unembedding that its logits come from")
    norms = [
        name
        for name, part in module.named_modules()
        if _is_norm(part)
        and (call := seen.called(name)) is not None
        and not name.startswith(last.path.rpartition(".")[0] + ".")
        and _close(call.entering, last.returned)
    ]
    if not norms:
        raise _refusal(module, "no norm is given what its last layer returns")
    norm, given = norms[0], cast(Call, seen.called(paths[0]))
    kind, offset = _norm_kind(module, norm, cast(Call, seen.called(norm)))
    before = _factor(cast(Call, seen.called(norm)).leaving, given.entering)
    if before is None:
        raise _refusal(
            module, f"between {norm} and {paths[0]} stands more than a number that multiplies: logits are not read off "
            "the final norm"
        )
    row: dict[str, Any] = {"final_norm": norm, "head": paths[0], "norm": kind, "norm_offset": offset}
    after = _factor(given.leaving, seen.logits)
    if after is None:
        caps = [name for name in module.config.to_dict() if "cap" in name and _capped(module, name, given, seen)]
        if not caps:
            raise _refusal(module, f"its logits are no multiple of what {paths[0]} returns, and not capped by tanh")
        row["logit_softcap_attribute"], after = caps[0], 1.0
    return row | _divisor(module, 1.0 / (before * after))


def _capped(module: PreTrainedModel, name: str, head: Call, seen: Observation) -> bool:
    cap = getattr(module.config, name)
    if not isinstance(cap, int | float) or isinstance(cap, bool) or cap <= 0:
        return False
    return _close(cap * torch.tanh(head.leaving / cap), seen.logits)


def _factor(one: Tensor, other: Tensor) -> float | None:
    """The number by which `one` must be multiplied to be `other`; None if there is none."""
    one, other = _flat(one).double(), _flat(other).double()
    if one.shape != other.shape:
        return None
    factor = float((one * other).sum() / one.square().sum())
    return factor if factor and _close(one * factor, other) else None


def _divisor(module: PreTrainedModel, divisor: float) -> dict[str, Any]:
    if abs(divisor - 1.0) <= CLOSE:
        return {}
    for field, value in (("logit_divisor_attribute", divisor), ("logit_multiplier_attribute", 1.0 / divisor)):
        named = [name for name in _numbers(module, value) if "logit" in name or "scal" in name or "mult" in name]
        if named:
            return {field: sorted(named, key=lambda name: "logit" not in name)[0]}
    raise _refusal(module, f"its logits are divided by {divisor:.6g}, which is no number of its config")


def _norm_kind(module: PreTrainedModel, path: str, call: Call) -> tuple[NormKind, float]:
    """The formula that makes of a norm's input what it returned."""
    norm = module.get_submodule(path)
    weight, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
    states = _flat(call.entering).double()
    kinds: tuple[NormKind, ...] = ("rms", "layer")
    for kind in kinds:
        centred = states - states.mean(dim=-1, keepdim=True) if kind == "layer" else states
        plain = centred * torch.rsqrt(centred.square().mean(dim=-1, keepdim=True))
        for offset in (0.0, 1.0):
            made = plain if weight is None else plain * (weight.detach().double() + offset)
            made = made if bias is None else made + bias.detach().double()
            # eps is not in it: it is small beside the mean of squares, but not as small as rounding
            if _alike(made, _flat(call.leaving).double()):
                return kind, offset
    raise _refusal(module, f"{path} ({type(norm).__name__}) is neither RMSNorm nor LayerNorm, with its weight or that plus 1")


def _alike(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() <= 0.02 * other.abs().max())


def _routing(module: PreTrainedModel, parts: list[_Layer]) -> dict[str, Any]:
    """What routers make of their logits, and which numbers of the config say how many experts there are."""
    routed = [part.routing for part in parts if part.routing is not None]
    if not routed:
        return {}
    router, experts, path = routed[0]
    number = cast(Tensor, module.get_submodule(path).down_proj).shape[0]
    chosen = experts.given[1].shape[-1]
    row: dict[str, Any] = {}
    default = Family("", ())
    for field, value, hint in (
        ("experts_attribute", number, ("expert",)),
        ("chosen_experts_attribute", chosen, ("tok", "topk", "top_k", "expert_k", "moe_k")),
    ):
        named = [name for name in _numbers(module, value) if any(part in name for part in hint)]
        known = getattr(default, field)
        if known not in named:
            if not named:
                raise _refusal(module, f"no number of its config says that there are {value} experts ({field})")
            row[field] = named[0]
    logits, gates, indices = router.returned
    for field, name in (("router_groups_attribute", "n_group"), ("chosen_groups_attribute", "topk_group")):
        if getattr(module.config, name, None) is not None:
            row[field] = name
    return row | _score(module, _flat(logits), _flat(gates), _flat(indices))


def _score(module: PreTrainedModel, logits: Tensor, gates: Tensor, indices: Tensor) -> dict[str, Any]:
    kinds: tuple[tuple[RouterScore, Tensor], ...] = (
        ("softmax", logits.double().softmax(dim=-1)),
        ("sigmoid", logits.double().sigmoid()),
    )
    for kind, scores in kinds:
        picked, found = scores.gather(-1, indices), gates.double()
        whole = picked / picked.sum(dim=-1, keepdim=True) if gates.shape[-1] > 1 else picked
        for made in (picked, whole):
            factor = _factor(made, found)
            if factor is None:
                continue
            row: dict[str, Any] = {"router_score": kind} if kind != "softmax" else {}
            if abs(factor - 1.0) <= CLOSE:
                return row
            named = [name for name in _numbers(module, factor) if "scal" in name]
            if named:
                return row | {"router_scale_attribute": named[0]}
    return {"router_score": "other"}


def differences(family: Family) -> Iterator[tuple[str, Any]]:
    """Fields of a row that differ from the default, with their values."""
    default = Family("", ())
    for field in default.__dataclass_fields__:
        value = getattr(family, field)
        if value != getattr(default, field):
            yield field, value
