"""Freeze weights, prompts and published scores: `python tests/parity/make_parity.py` writes `parity.npz`.

1. Two tiny networks, an OLMoE and an OLMo. Their weights are uniform numbers from the raw output of a PCG64 seeded by
   the weight's name, rounded to float32, so that every precision reads the same numbers. They are stored, so that no
   library has to make them again.
2. Prompts are token ids, drawn once and written here; each has a target token.
3. Scores are those of `published.py`, in float64, of every neuron, head, expert and block, under both norms.

Keys of the file: `network/weights/name`, and `network/norm/prompt/kind` with a kind of `published.Scores`.
"""

import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))  # published, when this file is run by itself

import published

FILE = Path(__file__).with_name("parity.npz")
NORMS = ("frozen", "recomputed")
PROMPTS = (([31, 4, 17, 44, 8, 25, 39, 12, 2], 21), ([6, 29, 48, 13, 35], 40), ([22], 9))

COMMON: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_act": "silu",
    "attention_bias": False,
    "tie_word_embeddings": False,
    "max_position_embeddings": 64,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "olmoe": COMMON
    | {
        "model_type": "olmoe",
        "architectures": ["OlmoeForCausalLM"],
        "intermediate_size": 8,
        "num_key_value_heads": 4,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "norm_topk_prob": False,
        "rms_norm_eps": 1e-5,
        "clip_qkv": None,
    },
    "olmo": COMMON
    | {
        "model_type": "olmo",
        "architectures": ["OlmoForCausalLM"],
        "intermediate_size": 24,
        "num_key_value_heads": 2,
        "clip_qkv": 1.5,
    },
}


def shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight, as a checkpoint saves them."""
    vocabulary, width, inner = config["vocab_size"], config["hidden_size"], config["intermediate_size"]
    narrow = width // config["num_attention_heads"] * config["num_key_value_heads"]
    sparse = config["model_type"] == "olmoe"
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, width)}
    for layer in (f"model.layers.{i}" for i in range(config["num_hidden_layers"])):
        for part, rows in (("q", width), ("k", narrow), ("v", narrow), ("o", width)):
            found[f"{layer}.self_attn.{part}_proj.weight"] = (rows, width)
        experts = [f"{layer}.mlp"]
        if sparse:
            found |= {f"{layer}.self_attn.q_norm.weight": (width,), f"{layer}.self_attn.k_norm.weight": (narrow,)}
            found |= {f"{layer}.{name}_layernorm.weight": (width,) for name in ("input", "post_attention")}
            found[f"{layer}.mlp.gate.weight"] = (config["num_experts"], width)
            experts = [f"{layer}.mlp.experts.{e}" for e in range(config["num_experts"])]
        for expert in experts:
            found |= {f"{expert}.{part}_proj.weight": (inner, width) for part in ("gate", "up")}
            found[f"{expert}.down_proj.weight"] = (width, inner)
    found |= {"model.norm.weight": (width,)} if sparse else {}
    return found | {"lm_head.weight": (vocabulary, width)}


def weight(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Numbers that name and shape alone decide: norms about 1, embeddings of variance 1, the rest by fan-in."""
    raw = np.random.PCG64(zlib.crc32(name.encode())).random_raw(int(np.prod(shape)))
    uniform = ((raw >> np.uint64(11)).astype(np.float64) / 2.0**53 * 2 - 1) * 3**0.5  # mean 0, variance 1
    if len(shape) == 1:
        uniform = 1 + 0.3 * uniform
    elif "embed_tokens" not in name:
        uniform = uniform * 1.6 / shape[1] ** 0.5
    return uniform.reshape(shape).astype(np.float32)


def built() -> dict[str, NDArray[Any]]:
    """What `parity.npz` holds."""
    arrays: dict[str, NDArray[Any]] = {}
    for network, config in CONFIGS.items():
        weights = {name: weight(f"{network} {name}", shape) for name, shape in shapes(config).items()}
        arrays |= {f"{network}/weights/{name}": values for name, values in weights.items()}
        for norm in NORMS:
            for number, (ids, target) in enumerate(PROMPTS):
                found = published.scores(weights, config, ids, target, norm)
                arrays |= {f"{network}/{norm}/{number}/{kind}": values for kind, values in found._asdict().items()}
    return arrays


if __name__ == "__main__":
    np.savez_compressed(FILE, **built())
