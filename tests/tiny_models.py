"""Tiny random models of every family: the case table that the tests cross with estimators, norms and dtypes.

Weights are larger than a fresh model's, so that logits differ, attention is not uniform and experts differ; norm
weights and biases are random too, since a norm of ones or a bias of zeros would hide a missing factor.
"""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers

from gated_lpi import models
from gated_lpi.facts import EncodedPrompt, Prompt
from gated_lpi.loading import wrap_model

SHARED = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
GQA = {**SHARED, "num_key_value_heads": 2, "intermediate_size": 48}
EXPERTS = {"num_experts_per_tok": 2, "intermediate_size": 16}
MOE = {**GQA, **EXPERTS, "num_experts": 8}
LOCAL_MOE = {**GQA, **EXPERTS, "num_local_experts": 8}
MIXED_MOE = {**MOE, "intermediate_size": 48, "moe_intermediate_size": 16, "mlp_only_layers": [0]}
MLA = {
    **GQA,
    "num_key_value_heads": 4,
    "moe_intermediate_size": 16,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
    "head_dim": 8,
}
GRANITE = {"residual_multiplier": 0.5, "embedding_multiplier": 2.0, "logits_scaling": 3.0, "attention_multiplier": 0.3}


@dataclass(frozen=True)
class Case:
    """A family at a tiny size: its config and causal-LM class by name, with the config's arguments."""

    name: str
    config: str
    model: str
    options: dict[str, Any] = field(default_factory=dict)
    variant: str = ""

    def __str__(self) -> str:
        return f"{self.name} {self.variant}".strip()


CASES = (
    Case("OLMoE", "OlmoeConfig", "OlmoeForCausalLM", {**MOE, "clip_qkv": 2.0}),
    Case("OLMo", "OlmoConfig", "OlmoForCausalLM", {**GQA, "clip_qkv": 2.0}),
    Case("OLMo2", "Olmo2Config", "Olmo2ForCausalLM", GQA),
    Case("OLMo3", "Olmo3Config", "Olmo3ForCausalLM", {**GQA, "sliding_window": 4}),
    Case("FlexOlmo", "FlexOlmoConfig", "FlexOlmoForCausalLM", MOE),
    Case("GPT-NeoX (Pythia)", "GPTNeoXConfig", "GPTNeoXForCausalLM", {**SHARED, "intermediate_size": 48}),
    Case(
        "GPT-NeoX (Pythia)",
        "GPTNeoXConfig",
        "GPTNeoXForCausalLM",
        {**SHARED, "intermediate_size": 48, "use_parallel_residual": False},
        variant="sequential",
    ),
    Case(
        "GPT-2",
        "GPT2Config",
        "GPT2LMHeadModel",
        {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48, "n_positions": 64},
    ),
    Case("Llama", "LlamaConfig", "LlamaForCausalLM", {**GQA, "attention_bias": True, "mlp_bias": True}),
    Case("Mistral", "MistralConfig", "MistralForCausalLM", {**GQA, "sliding_window": 4}),
    Case("SmolLM3", "SmolLM3Config", "SmolLM3ForCausalLM", GQA),
    Case("Qwen2", "Qwen2Config", "Qwen2ForCausalLM", GQA),
    Case("Qwen3", "Qwen3Config", "Qwen3ForCausalLM", {**GQA, "head_dim": 16}),
    Case("Mixtral", "MixtralConfig", "MixtralForCausalLM", LOCAL_MOE),
    Case("Qwen2-MoE", "Qwen2MoeConfig", "Qwen2MoeForCausalLM", {**MIXED_MOE, "shared_expert_intermediate_size": 24}),
    Case("Qwen3-MoE", "Qwen3MoeConfig", "Qwen3MoeForCausalLM", {**MIXED_MOE, "head_dim": 16}),
    Case("DeepSeek-V2", "DeepseekV2Config", "DeepseekV2ForCausalLM", {**MLA, "routed_scaling_factor": 1.5}),
    Case("DeepSeek-V3", "DeepseekV3Config", "DeepseekV3ForCausalLM", {**MLA, "n_group": 2, "topk_group": 1}),
    Case("GPT-OSS", "GptOssConfig", "GptOssForCausalLM", {**LOCAL_MOE, "head_dim": 8}),
    Case("Granite-MoE", "GraniteMoeConfig", "GraniteMoeForCausalLM", {**LOCAL_MOE, **GRANITE}),
    Case("PhiMoE", "PhimoeConfig", "PhimoeForCausalLM", {**LOCAL_MOE, "attention_bias": True, "lm_head_bias": True}),
    Case("Gemma2", "Gemma2Config", "Gemma2ForCausalLM", {**GQA, "head_dim": 8}),
    Case("Gemma3", "Gemma3TextConfig", "Gemma3ForCausalLM", {**GQA, "head_dim": 8}),
)
MOE_CASES = tuple(case for case in CASES if "num_experts_per_tok" in case.options)
BY_NAME = {str(case): case for case in CASES}
TOKEN_IDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}


def tiny_module(case: Case | str, dtype: torch.dtype = torch.float32, seed: int = 0, **changes: Any) -> Any:
    """Build the family's transformers model with random weights, norms and biases; `changes` go to its config."""
    case = BY_NAME[case] if isinstance(case, str) else case
    options = {**copy.deepcopy(case.options), **TOKEN_IDS, **changes}
    config = getattr(transformers, case.config)(**options)
    module = getattr(transformers, case.model)(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name or ".ln_" in name:
                parameter.copy_(parameter + 0.3 * noise)
            elif parameter.dim() == 1:
                parameter.copy_(0.3 * noise)
            else:
                parameter.copy_(noise / parameter.shape[-1] ** 0.5)
    if dtype == torch.float64:  # the grouped matrix product for experts has no float64 version
        module.set_experts_implementation("eager")
    return module.to(dtype).eval()


def tiny_model(case: Case | str, dtype: torch.dtype = torch.float32, seed: int = 0, **changes: Any) -> models.Model:
    """Build `tiny_module` and wrap it for attribution, which checks it."""
    return wrap_model(tiny_module(case, dtype, seed, **changes))


def random_prompts(n: int = 5, seed: int = 1, vocabulary: int = 64) -> list[list[int]]:
    """Token ids of `n` prompts of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(vocabulary, (3 + i % 5,), generator=generator).tolist() for i in range(n)]


def encoded(prompts: Iterable[Sequence[int]], target: int = 5) -> list[EncodedPrompt]:
    """Token ids as `attribute_encoded` takes them, all with one target."""
    return [EncodedPrompt(tuple(ids), target, "", Prompt("", "")) for ids in prompts]
