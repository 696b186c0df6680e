"""A tiny random model of every type that transformers calls a causal language model, by names of settings.

A config gets the sizes of `SIZES` whose names it has, and those of its parts likewise; `OVERRIDES` says what else a
type needs. Scales are other than 1, so that one that is forgotten shows, and so are weights of norms, biases, scalars.
"""

import copy
import dataclasses
import inspect
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tiny_text import tiny_tokenizer

TYPES = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
LAYERS, HIDDEN, FFN, HEADS, KV_HEADS, EXPERTS, CHOSEN = 2, 32, 48, 4, 2, 8, 2
TOKENS = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "decoder_start_token_id": 0}
WIDTHS = {"hidden_size": HIDDEN, "n_embd": HIDDEN, "d_model": HIDDEN, "dim": HIDDEN, "emb_dim": HIDDEN}
DEPTHS = {
    **dict.fromkeys(
        ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"), LAYERS
    ),
    **dict.fromkeys(("num_decoder_layers", "num_encoder_layers", "depth"), LAYERS),
}
BLOCKS = {
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), HEADS),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), HEADS),
    **dict.fromkeys(("num_encoder_attention_heads", "num_decoder_attention_heads"), HEADS),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "dim_ff"), FFN),
    **dict.fromkeys(("decoder_ffn_dim", "encoder_ffn_dim", "d_inner", "moe_intermediate_size"), FFN),
    "num_key_value_heads": KV_HEADS,
    "head_dim": 8,
    "rotary_dim": 4,
    "sliding_window": 4,
    "max_position_embeddings": 64,
    "n_positions": 64,
    "max_seq_len": 64,
}
MIXTURES = {
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), EXPERTS),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "moe_topk", "moe_top_k"), CHOSEN),
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 24,
    "moe_shared_expert_intermediate_size": 24,
    "shared_intermediate_size": 24,
    "shared_experts_intermediate_size": 24,
    "n_shared_experts": 2,
    "num_shared_experts": 1,
    "first_k_dense_replace": 1,
    "n_group": 2,
    "topk_group": 1,
}
LATENT = {"kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16}
SCALES = {
    "residual_multiplier": 0.5,
    "embedding_multiplier": 2.0,
    "attention_multiplier": 0.3,
    "logits_scaling": 3.0,
    "logit_scale": 0.4,
    "routed_scaling_factor": 1.5,
    "router_scaling_factor": 1.7,
    "route_scale": 1.6,
    "attention_bias": True,
    "mlp_bias": True,
    "use_bias": True,
}
MIXERS = {
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "linear_num_value_heads", "linear_num_heads"), HEADS),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim", "linear_value_head_dim", "linear_head_dim"), 16),
    **dict.fromkeys(("mamba_d_state", "ssm_state_size", "state_size", "linear_key_head_dim"), 8),
    **dict.fromkeys(("mamba_n_groups", "n_groups"), 1),
    **dict.fromkeys(("mamba_expand", "expand", "linear_num_key_heads"), 2),
    **dict.fromkeys(("mamba_chunk_size", "chunk_size"), 4),
    "mamba_d_ssm": 64,
    "lru_width": HIDDEN,
}
IMAGES = {"image_size": 16, "patch_size": 8, "num_mel_bins": 8, "embed_dim": HIDDEN, "out_hidden_size": HIDDEN}
SIZES = {"vocab_size": 64, **TOKENS, **WIDTHS, **DEPTHS, **BLOCKS, **MIXTURES, **LATENT, **SCALES, **MIXERS, **IMAGES}
ALL_HEADS = {"num_key_value_heads": HEADS}
INDEXED = {**ALL_HEADS, "index_n_heads": 2, "index_head_dim": 16, "index_topk": 64}
LINEAR = {"layer_types": ["linear_attention", "full_attention"]}
BLT = {"hidden_size": HIDDEN, "intermediate_size": FFN, "num_attention_heads": HEADS, "num_hidden_layers": LAYERS}
PLAIN_GEMMA4 = {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0, "global_head_dim": 8}
OVERRIDES: dict[str, dict[str, Any]] = {
    "axk1": ALL_HEADS,
    "axk2": INDEXED,
    "bailing_hybrid": {**LINEAR, **ALL_HEADS},
    "bamba": {"attn_layer_indices": [1]},
    "blt": {
        **{f"{part}_config": {**BLT, "hidden_size_global": HIDDEN} for part in ("encoder", "decoder", "patcher")},
        "global_config": BLT,
        "encoder_hash_byte_group_vocab": 64,
    },
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}},
    "ctrl": {"dff": FFN},
    "dbrx": {
        "attn_config": {"kv_n_heads": KV_HEADS, "clip_qkv": 8.0, "rope_theta": 10000.0},
        "ffn_config": {"hidden_size": HIDDEN, "ffn_hidden_size": FFN, "moe_num_experts": EXPERTS, "moe_top_k": CHOSEN},
    },
    "deepseek_v2": ALL_HEADS,
    "deepseek_v3": ALL_HEADS,
    "deepseek_v32": INDEXED,
    "dots3_note": {
        "text_config": {"model_type": "dots3_note_text", **INDEXED},
        "vision_config": {
            "model_type": "dots3_note_vision_encoder",
            "hidden_size": HIDDEN,
            "intermediate_size": FFN,
            "num_attention_heads": HEADS,
            "num_hidden_layers": LAYERS,
            "pyramid_num_routed": [-1] * LAYERS,
            "adapter_in_dim": HIDDEN,
            "adapter_out_dim": HIDDEN,
        },
        "audio_config": {
            "model_type": "dots3_note_audio_encoder",
            "adapter_input_size": HIDDEN,
            "adapter_out_dim": HIDDEN,
        },
    },
    "dots3_note_text": INDEXED,
    "falcon_h1": {
        "attention_out_multiplier": 0.6,
        "attention_in_multiplier": 1.2,
        "ssm_out_multiplier": 0.7,
        "mlp_multipliers": [1.3, 0.8],
        "lm_head_multiplier": 0.4,
        "key_multiplier": 0.9,
        "ssm_in_multiplier": 1.1,
    },
    "gemma3n_text": {"num_kv_shared_layers": 0, "vocab_size_per_layer_input": 64},
    "gemma4_assistant": {"text_config": {"model_type": "gemma4_text", **PLAIN_GEMMA4, "num_kv_shared_layers": LAYERS}},
    "gemma4_text": PLAIN_GEMMA4,
    "gemma4_unified_assistant": {"text_config": {"model_type": "gemma4_unified_text", "num_kv_shared_layers": LAYERS}},
    "gemma4_unified_text": {"global_head_dim": 8},
    "glm4_moe_lite": ALL_HEADS,
    "glm_moe_dsa": INDEXED,
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": {**LINEAR, **ALL_HEADS},
    "laguna": {"num_attention_heads_per_layer": [HEADS, 2 * HEADS]},
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "lfm3": {"layer_types": ["conv", "full_attention"]},
    "longcat_flash": {"ffn_hidden_size": FFN, "expert_ffn_hidden_size": 16, "zero_expert_num": 2},
    "mamba2": {"num_heads": 4, "head_dim": 16},
    "minimax": {"layer_types": ["linear_attention", "full_attention"]},
    "minicpm3": ALL_HEADS,
    "mllama": {"text_config": {"model_type": "mllama_text_model", "cross_attention_layers": [1]}},
    "olmo_hybrid": LINEAR,
    "qwen3_5_moe_text": LINEAR,
    "qwen3_5_text": LINEAR,
    "qwen3_next": LINEAR,
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "reformer": {"is_decoder": True, "axial_pos_embds_dim": [16, 16], "axial_pos_shape": [8, 8]},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid"] * 2},
    "zamba2": {"layers_block_type": ["mamba", "hybrid"]},
    "youtu": ALL_HEADS,
    "xlstm": {"num_heads": 4, "qk_dim_factor": 0.5},
    "zaya": {"num_experts_per_tok": 1},
}


def sizes(config_class: type, changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """Arguments for a config of this class at a tiny size; its parts have theirs as dictionaries."""
    names = (
        {field.name for field in dataclasses.fields(config_class)}
        if dataclasses.is_dataclass(config_class)
        else set(inspect.signature(config_class.__init__).parameters)
    )
    aliases = getattr(config_class, "attribute_map", {})
    given = {
        name: size for name, size in SIZES.items() if name in names and aliases.get(name) not in SIZES.keys() & names
    }
    changes = copy.deepcopy(changes or {})
    for name in set(getattr(config_class, "sub_configs", None) or {}) & names:
        if "model_type" in changes.get(name, {}):
            part = CONFIG_MAPPING[changes[name].pop("model_type")]
        elif name in changes:
            continue
        else:
            part = type(getattr(config_class(), name))
        if part is not type(None):
            given[name] = {"model_type": part.model_type, **sizes(part, changes.pop(name, None))}
    return given | changes


def tiny_config(model_type: str) -> Any:
    """The config of a type at a tiny size."""
    config_class = CONFIG_MAPPING[model_type]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return config_class(**sizes(config_class, OVERRIDES.get(model_type)))


def tiny_of_type(model_type: str, seed: int = 0) -> Any:
    """A tiny model of a type, as transformers builds it from its config, with random weights, norms and scalars."""
    transformers.utils.logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = AutoModelForCausalLM.from_config(tiny_config(model_type))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in [*module.named_parameters(), *_scalars(module)]:
            noise = torch.randn(weight.shape, generator=generator)
            if "norm" in name or ".ln_" in name or weight.dim() == 0:
                weight.copy_(weight + 0.3 * noise)
            elif weight.dim() == 1:
                weight.copy_(0.3 * noise)
            else:
                weight.copy_(noise / weight.shape[-1] ** 0.5)
    return module.eval()


def save_tiny(model_type: str, folder: Path) -> Any:
    """Save a tiny model of a type with its config and a tokenizer, as a checkpoint is; the model."""
    module = tiny_of_type(model_type)
    module.save_pretrained(folder)
    tiny_config(model_type).save_pretrained(folder)  # the whole one: some models are given a part of it
    tiny_tokenizer().save_pretrained(folder)
    return module


def _scalars(module: Any) -> list[tuple[str, torch.Tensor]]:
    """Buffers that are saved and hold one number: scales that a model learnt."""
    saved = module.state_dict()
    return [
        (name, b) for name, b in module.named_buffers() if name in saved and b.numel() == 1 and b.is_floating_point()
    ]
