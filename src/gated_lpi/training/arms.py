"""Arms as models: the same transformer each time, with nothing different but the FFN.

1. One dict of settings is shared by all arms; to it each adds its FFN's own. MoE and dense are Qwen3-MoE and
   Qwen3 as `transformers` has them, which are the same architecture but for the FFN. The MoE with a shared expert is
   Qwen2-MoE, without biases; it also lacks the norms of queries and keys, which start as ones.
2. Every weight matrix is drawn from a generator seeded by the seed and *its own name*: arms start from
   identical embeddings, attention and unembedding, so that any later difference is the FFN's doing.
"""

import hashlib
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2MoeConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)

from gated_lpi.errors import OptionError
from gated_lpi.training.spec import ArmSpec, TrainingSpec, refuse_kind

# The fastest on CPUs for training at these sizes.
EXPERTS_IMPLEMENTATION = "grouped_mm"


def arm_config(
    arm: ArmSpec, spec: TrainingSpec, tokenizer: PreTrainedTokenizerFast
) -> Qwen3Config | Qwen3MoeConfig | Qwen2MoeConfig:
    """Build the arm's configuration.

    Raises:
        OptionError: the tokenizer is larger than `spec.size.vocab_size`, or the kind cannot have this size.
    """
    size = spec.size
    refuse_kind(arm.kind, size)
    if len(tokenizer) > size.vocab_size:
        raise OptionError(
            f"The tokenizer has {len(tokenizer)} tokens, more than vocab_size {size.vocab_size}. "
            "Train it with that size, or raise vocab_size."
        )
    shared: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": size.hidden,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "head_dim": size.hidden // size.heads,
        "max_position_embeddings": spec.context,
        "initializer_range": spec.init_std,
        "tie_word_embeddings": size.tie_embeddings,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "use_cache": False,
        "dtype": "float32",
    }
    if arm.kind == "dense_active":
        return Qwen3Config(**shared, intermediate_size=size.experts_per_token * size.expert_width)
    if arm.kind == "dense_total":
        return Qwen3Config(**shared, intermediate_size=size.experts * size.expert_width)
    n_shared = int(arm.kind == "moe_shared")
    shared |= {
        "intermediate_size": size.experts_per_token * size.expert_width,
        "moe_intermediate_size": size.expert_width,
        "num_experts": size.experts - n_shared,
        "num_experts_per_tok": size.experts_per_token - n_shared,
        "norm_topk_prob": size.normalise_gates,
        "output_router_logits": True,
        "router_aux_loss_coef": spec.load_balancing,
    }
    if n_shared:
        return Qwen2MoeConfig(**shared, shared_expert_intermediate_size=size.expert_width, qkv_bias=False)
    return Qwen3MoeConfig(**shared)


def new_model(arm: ArmSpec, spec: TrainingSpec, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """Build the arm's model with its initial weights, in float32 on the CPU.

    Raises:
        OptionError: the tokenizer is larger than `spec.size.vocab_size`, or the kind cannot have this size.
    """
    config = arm_config(arm, spec, tokenizer)
    extra = {"experts_implementation": EXPERTS_IMPLEMENTATION} if arm.kind in ("moe", "moe_shared") else {}
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, **extra)
    initialise(model, spec.seed, spec.init_std)
    return model


@torch.no_grad()
def initialise(model: torch.nn.Module, seed: int, std: float) -> None:
    """Draw every weight matrix from N(0, std²) by its name and the seed; norms keep their ones."""
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2:
            digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
            parameter.normal_(0.0, std, generator=generator)
