"""The published scores once more, from the equations alone: plain numpy in float64, nothing of gated_lpi.

Sources: Gated-LPI, arXiv 2601.08383; log-probability increase of a dense model's neurons, arXiv 2312.12141.

1. One forward pass over a prompt: x ← x + attention(norm(x)), x ← x + FFN(norm(x)), layer by layer. OLMoE has
   RMSNorms with weights, also over all queries and all keys of a layer, and takes its FFN from k of E experts, each
   times the probability p_e that the router's softmax over *all* experts gives it. OLMo has LayerNorms without weight
   or bias, and one FFN, here "one expert of probability 1".
2. What the last position's residual stream gets is a sum over neurons:
       neuron n of expert e:    p_e · m_en · v_en     m = SiLU(gate)·up, v_en a column of the down projection
       attention neuron j of head h, read from source position s:    α_hs · value_hsj · o_hj, a column of o_proj
3. A score is I = log p(target | base + contribution) − log p(target | base). The base is the layer's input for
   attention, and that plus attention's output for the FFN; p is the softmax of the unembedding of the final norm,
   whose scale is held at that of the last layer's output ("frozen") or is that of its own input ("recomputed").
4. Attention's contributions are scored source position by source position (as published) and summed over positions;
   heads, experts and blocks by the sums of their neurons' contributions.

Shapes: T tokens, d the width, V the vocabulary; L layers of H heads of D neurons, and of E experts of F neurons.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Config = Mapping[str, Any]
Weights = Mapping[str, NDArray[np.floating]]

OLMO_EPS = 1e-5  # OLMo's LayerNorm has no setting for it


class Layer(NamedTuple):
    """What a layer did at the last position: two bases [d], gated or attended coefficients, and value vectors."""

    attention_base: Array
    attended: Array  # [T, H, D], attention weight · value
    outputs: Array  # [H, D, d]
    ffn_base: Array
    gated: Array  # [E, F], router's probability · coefficient; 0 for experts that were not chosen
    values: Array  # [E, F, d]


class Pass(NamedTuple):
    """A forward pass: its layers, and the last position's residual stream before the final norm, [d]."""

    layers: list[Layer]
    final: Array


class Scores(NamedTuple):
    """Scores of one prompt, nats."""

    positions: Array  # [L, T, H, D]
    attention: Array  # [L, H, D]
    heads: Array  # [L, H]
    ffn: Array  # [L, E, F]
    experts: Array  # [L, E]
    blocks: Array  # [L, 2], attention and FFN
    base: Array  # [L, 2], log p(target | base)


def softmax(x: Array) -> Array:
    """Over the last axis."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    return weight * x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps)


def layer_norm(x: Array, eps: float = OLMO_EPS) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps)


def rotated(x: Array, theta: float) -> Array:
    """RoPE of x [heads, T, D]: pairs (i, i + D/2) turned by position · theta^(−2i/D)."""
    tokens, half = x.shape[1], x.shape[2] // 2
    angle = np.arange(tokens)[:, None] * theta ** (-np.arange(half) / half)
    first, second = x[..., :half], x[..., half:]
    cos, sin = np.cos(angle), np.sin(angle)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


class Network:
    """An OLMoE or an OLMo.

    Args:
        weights: by checkpoint key, as saved (experts one by one); taken to float64.
        config: as in the checkpoint's `config.json`.
        causal: whether a position sees only itself and those before it; False is what the published layers do.
    """

    def __init__(self, weights: Weights, config: Config, *, causal: bool = True) -> None:
        self.weights = {key: value.astype(np.float64) for key, value in weights.items()}
        self.config = config
        self.causal = causal
        self.sparse = config["model_type"] == "olmoe"

    def run(self, ids: list[int]) -> Pass:
        """The forward pass over token ids."""
        x = self.weights["model.embed_tokens.weight"][ids]
        layers = []
        for number in range(self.config["num_hidden_layers"]):
            attended, outputs, attention = self.attention(number, self.norm(f"layers.{number}.input_layernorm", x))
            after = x + attention
            gated, values, ffn = self.ffn(number, self.norm(f"layers.{number}.post_attention_layernorm", after))
            layers.append(Layer(x[-1], attended, outputs, after[-1], gated, values))
            x = after + ffn
        return Pass(layers, x[-1])

    def norm(self, name: str, x: Array) -> Array:
        if not self.sparse:
            return layer_norm(x)
        return rms_norm(x, self.weights[f"model.{name}.weight"], self.config["rms_norm_eps"])

    def attention(self, number: int, x: Array) -> tuple[Array, Array, Array]:
        """Coefficients of the last position [T, H, D], value vectors [H, D, d], the whole output [T, d]."""
        query, key, value = self.projected(number, x)
        scores = query @ key.transpose(0, 2, 1) / np.sqrt(query.shape[-1])
        if self.causal:
            scores = np.where(np.tri(len(x), dtype=bool), scores, -np.inf)
        weights = softmax(scores)  # [H, T, T]
        attended = (weights[:, -1, :, None] * value).transpose(1, 0, 2)
        o_proj = self.weights[f"model.layers.{number}.self_attn.o_proj.weight"]
        outputs = o_proj.T.reshape(len(query), query.shape[-1], -1)
        return attended, outputs, np.einsum("hts,hsj,hjd->td", weights, value, outputs)

    def projected(self, number: int, x: Array) -> tuple[Array, Array, Array]:
        """Queries, keys and values as they enter the product, each [H, T, D]."""
        config, name = self.config, f"layers.{number}.self_attn"
        heads, key_heads = config["num_attention_heads"], config["num_key_value_heads"]
        query, key, value = (x @ self.weights[f"model.{name}.{part}_proj.weight"].T for part in "qkv")
        if self.sparse:
            query, key = self.norm(f"{name}.q_norm", query), self.norm(f"{name}.k_norm", key)
        if config["clip_qkv"] is not None:
            query, key, value = (np.clip(part, -config["clip_qkv"], config["clip_qkv"]) for part in (query, key, value))
        query, key, value = (
            part.reshape(len(x), n, -1).transpose(1, 0, 2)
            for part, n in ((query, heads), (key, key_heads), (value, key_heads))
        )
        theta = config["rope_parameters"]["rope_theta"]
        query, key = rotated(query, theta), rotated(key, theta)
        return query, *(np.repeat(part, heads // key_heads, axis=0) for part in (key, value))

    def ffn(self, number: int, x: Array) -> tuple[Array, Array, Array]:
        """Gated coefficients of the last position [E, F], value vectors [E, F, d], the whole output [T, d]."""
        name = f"model.layers.{number}.mlp"
        experts = [f"{name}.experts.{e}" for e in range(self.config["num_experts"])] if self.sparse else [name]
        gate, up, down = (
            np.stack([self.weights[f"{expert}.{part}_proj.weight"] for expert in experts])
            for part in ("gate", "up", "down")
        )
        coefficients = silu(x @ gate.transpose(0, 2, 1)) * (x @ up.transpose(0, 2, 1))  # [E, T, F]
        gated = self.chosen(number, x).T[:, :, None] * coefficients if self.sparse else coefficients
        values = down.transpose(0, 2, 1)
        return gated[:, -1], values, np.einsum("etf,efd->td", gated, values)

    def chosen(self, number: int, x: Array) -> Array:
        """The router's probabilities [T, E], those outside the top k put to 0 and the rest left as they are."""
        probabilities = softmax(x @ self.weights[f"model.layers.{number}.mlp.gate.weight"].T)
        kth = np.sort(probabilities, axis=-1)[:, -self.config["num_experts_per_tok"], None]
        return np.where(probabilities >= kth, probabilities, 0.0)


class Readout:
    """Residual stream → log-probabilities, through the final norm and the unembedding.

    Args:
        network: whose.
        held: residual stream [d] whose norm's scale is held; None computes each input's own.
        centre: whether OLMo's norm takes the mean out; False is what the published readout does.
        eps: the norm's epsilon; None is the model's.
    """

    def __init__(
        self, network: Network, held: Array | None = None, *, centre: bool = True, eps: float | None = None
    ) -> None:
        self.unembedding = network.weights["lm_head.weight"]
        self.gamma = network.weights["model.norm.weight"] if network.sparse else np.ones(self.unembedding.shape[1])
        self.centred = centre and not network.sparse
        own = network.config["rms_norm_eps"] if network.sparse else OLMO_EPS
        self.eps = own if eps is None else eps
        self.held = None if held is None else self.scale(self.moved(held))

    def moved(self, x: Array) -> Array:
        return x - x.mean(axis=-1, keepdims=True) if self.centred else x

    def scale(self, moved: Array) -> Array:
        return np.sqrt((moved**2).mean(axis=-1, keepdims=True) + self.eps)

    def logits(self, x: Array) -> Array:
        """[..., d] → [..., V]."""
        moved = self.moved(x)
        return (self.gamma * moved / (self.scale(moved) if self.held is None else self.held)) @ self.unembedding.T

    def log_p(self, x: Array, target: int) -> Array:
        """log p(target) of [..., d] → [...], nats."""
        logits = self.logits(x)
        highest = logits.max(axis=-1)
        return logits[..., target] - highest - np.log(np.exp(logits - highest[..., None]).sum(axis=-1))

    def increase(self, base: Array, contributions: Array, target: int) -> Array:
        """I of each contribution [..., d] to `base` [d] → [...], nats."""
        return self.log_p(base + contributions, target) - self.log_p(base, target)


def scores(
    weights: Weights,
    config: Config,
    ids: list[int],
    target: int,
    norm: str,
    *,
    causal: bool = True,
    centre: bool = True,
    readout_eps: float | None = None,
) -> Scores:
    """Every score of one prompt; `norm` is "frozen" or "recomputed".

    `causal`, `centre` and `readout_eps` are there to show what the published code does otherwise (docs/method.md).
    """
    network = Network(weights, config, causal=causal)
    seen = network.run(ids)
    readout = Readout(network, seen.final if norm == "frozen" else None, centre=centre, eps=readout_eps)
    return Scores(*map(np.stack, zip(*(layer_scores(layer, readout, target) for layer in seen.layers), strict=True)))


def layer_scores(layer: Layer, readout: Readout, target: int) -> Scores:
    """One layer's scores, without the axis L."""
    by_position = layer.attended[..., None] * layer.outputs  # [T, H, D, d]
    heads = by_position.sum(axis=(0, 2))
    neurons = layer.gated[..., None] * layer.values  # [E, F, d]
    experts = neurons.sum(axis=1)

    def attention(contributions: Array) -> Array:
        return readout.increase(layer.attention_base, contributions, target)

    def ffn(contributions: Array) -> Array:
        return readout.increase(layer.ffn_base, contributions, target)

    return Scores(
        positions=attention(by_position),
        attention=attention(by_position.sum(axis=0)),
        heads=attention(heads),
        ffn=ffn(neurons),
        experts=ffn(experts),
        blocks=np.stack([attention(heads.sum(axis=0)), ffn(experts.sum(axis=0))]),
        base=np.stack([readout.log_p(base, target) for base in (layer.attention_base, layer.ffn_base)]),
    )
