"""The table of model families: what each one calls its parts, and how it departs from the default.

A family is a row, not a class. The default row is a pre-RMSNorm transformer with `model.layers[i]`,
`model.norm`, `lm_head`, `self_attn.o_proj` and a gated `mlp.down_proj`, sequential residual, no scales; a
mixture-of-experts layer has its router in `mlp.gate` and its experts, fused into 3-D parameters, in
`mlp.experts`. Every row names only its differences. Whether a layer is dense or mixture-of-experts is read
off the layer itself, so that families with both (DeepSeek, Qwen-MoE) need no rule; so is whether a layer mixes
positions by attention or by another mixer, in families that have both (Jamba, Bamba).

Paths are relative: `layers`, `final_norm` and `head` to the model; `attention_out`, `mixer_out`, `ffn` and the
post-norms to a layer; `down`, `router`, `experts`, `shared` and `shared_gate` to the layer's FFN. Fields that end in
`_attribute` name an attribute of the model's config.

Families without a row here get one that is read off the model itself (`proposing`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from gated_lpi.errors import UnknownFamilyError

NormKind = Literal["rms", "layer"]
RouterScore = Literal["softmax", "sigmoid", "other"]


@dataclass(frozen=True)
class Family:
    """One row of the table.

    Attributes:
        name: the family's name as its authors write it.
        model_types: the `config.model_type` values that this row covers.
        layers, final_norm, head: paths from the model.
        attention, attention_out, ffn: paths from a layer: the attention module, its output projection, the FFN; "" for
            an FFN whose parts stand in the layer itself.
        mixer, mixer_out: paths from a layer: what mixes positions otherwise than by softmax attention, and its output
            projection; None where the family has none. In a family that has, a layer may lack any of its blocks.
        down, router, experts, shared, shared_gate: paths from a layer's FFN: the down projection, what chooses experts,
            the fused routed experts, the shared expert and what gates it; None where the family has none.
        router_score: what the router makes of its logits before it chooses: "softmax", "sigmoid" of each alone, or
            "other", of which the gates of experts that were not chosen are not known.
        router_scale_attribute: config number that multiplies the gates of routed experts.
        experts_attribute: config number of routed experts of a layer.
        chosen_experts_attribute: config number of them that a token is sent to.
        router_groups_attribute: config number of groups, of equally many consecutive experts, that the router chooses
            from first; None where the family has none.
        chosen_groups_attribute: config number of these groups that it then takes experts from.
        fewest_experts: how many experts a group, or a layer without groups, must have for the router to work at all.
        norm: "rms" or "layer" (mean-centred), for the final norm and the post-norms.
        norm_offset: added to a norm's weight before use (Gemma stores weight − 1).
        attention_post_norm, mixer_post_norm, ffn_post_norm: norms that act on a block's output before it is written;
            some layers may lack them.
        attention_scale, mixer_scale, ffn_scale: paths from a layer to a number that multiplies what a block's
            projections put out; None: nothing does.
        by_projection: what a block writes is what its projections put out, since its module adds the residual stream
            by itself, or is none.
        parallel: the FFN always reads the layer's input, beside attention.
        parallel_attribute: config flag under which it does so.
        residual_multiplier_attribute: config number that multiplies what a block writes.
        residual_multiplier: a number that multiplies it besides.
        ffn_multiplier: a number that multiplies what the FFN writes besides.
        routed_multiplier_attribute: config number that multiplies what routed experts write together, beside their
            gates.
        stream_scale: path from a layer to a tensor of one number that multiplies the residual stream as the layer ends.
        logit_divisor_attribute: config number that divides the logits.
        logit_multiplier_attribute: config number that multiplies them.
        logit_divisor: a number that divides them besides.
        logit_softcap_attribute: config number `c` in logits = c·tanh(logits / c); None there means no cap.
        norms_in_float32: the family's norms cast to float32 inside, whatever the model's dtype, which limits what a
            float64 check can reach.
        source: where a row that a user gave is from, such as a file; "" for rows of the table and those that are read
            off a model. It is no part of what the row says.
    """

    name: str
    model_types: tuple[str, ...]
    layers: str = "model.layers"
    final_norm: str = "model.norm"
    head: str = "lm_head"
    attention: str = "self_attn"
    attention_out: str = "self_attn.o_proj"
    mixer: str | None = None
    mixer_out: str | None = None
    ffn: str = "mlp"
    down: str = "down_proj"
    router: str = "gate"
    experts: str = "experts"
    router_score: RouterScore = "softmax"
    router_scale_attribute: str | None = None
    experts_attribute: str = "num_experts"
    chosen_experts_attribute: str = "num_experts_per_tok"
    router_groups_attribute: str | None = None
    chosen_groups_attribute: str | None = None
    fewest_experts: int = 1
    shared: str | None = None
    shared_gate: str | None = None
    attention_post_norm: str | None = None
    mixer_post_norm: str | None = None
    ffn_post_norm: str | None = None
    norm: NormKind = "rms"
    norm_offset: float = 0.0
    by_projection: bool = False
    parallel: bool = False
    parallel_attribute: str | None = None
    residual_multiplier_attribute: str | None = None
    residual_multiplier: float = 1.0
    attention_scale: str | None = None
    mixer_scale: str | None = None
    ffn_scale: str | None = None
    ffn_multiplier: float = 1.0
    routed_multiplier_attribute: str | None = None
    stream_scale: str | None = None
    logit_divisor_attribute: str | None = None
    logit_multiplier_attribute: str | None = None
    logit_divisor: float = 1.0
    logit_softcap_attribute: str | None = None
    norms_in_float32: bool = True
    source: str = field(default="", compare=False, repr=False)

    @property
    def called(self) -> str:
        """How messages name the row."""
        if self.source:
            return f"the row {self.name!r} that was given ({self.source})"
        return f"the {self.name} row of the table of families"

    @property
    def remedy(self) -> str:
        """What messages say is to be done where the row and the model's code disagree."""
        if self.source:
            return f"mend it in {self.source}, or give no row"
        return "check the installed transformers version, or mend the row in gated_lpi/models/families.py"


_AFTER_ATTENTION = "post_attention_layernorm"
_AFTER_FFN = "post_feedforward_layernorm"

FAMILIES: tuple[Family, ...] = (
    Family("OLMoE", ("olmoe",)),
    Family("OLMo", ("olmo",), norm="layer"),
    Family("OLMo2", ("olmo2",), attention_post_norm=_AFTER_ATTENTION, ffn_post_norm=_AFTER_FFN),
    Family("OLMo3", ("olmo3",), attention_post_norm=_AFTER_ATTENTION, ffn_post_norm=_AFTER_FFN),
    Family("FlexOlmo", ("flex_olmo",), attention_post_norm=_AFTER_ATTENTION, ffn_post_norm=_AFTER_FFN),
    Family(
        "GPT-NeoX (Pythia)",
        ("gpt_neox",),
        layers="gpt_neox.layers",
        final_norm="gpt_neox.final_layer_norm",
        attention="attention",
        attention_out="attention.dense",
        down="dense_4h_to_h",
        norm="layer",
        parallel_attribute="use_parallel_residual",
        norms_in_float32=False,
    ),
    Family(
        "GPT-2",
        ("gpt2",),
        layers="transformer.h",
        final_norm="transformer.ln_f",
        attention="attn",
        attention_out="attn.c_proj",
        down="c_proj",
        norm="layer",
        norms_in_float32=False,
    ),
    Family("Llama", ("llama",)),
    Family("Mistral", ("mistral",)),
    Family("SmolLM3", ("smollm3",)),
    Family("Qwen2", ("qwen2",)),
    Family("Qwen3", ("qwen3",)),
    Family("Mixtral", ("mixtral",), experts_attribute="num_local_experts"),
    Family("Qwen2-MoE", ("qwen2_moe",), shared="shared_expert", shared_gate="shared_expert_gate"),
    Family("Qwen3-MoE", ("qwen3_moe",)),
    Family(
        "DeepSeek-V2",
        ("deepseek_v2",),
        shared="shared_experts",
        router_scale_attribute="routed_scaling_factor",
        experts_attribute="n_routed_experts",
        router_groups_attribute="n_group",
        chosen_groups_attribute="topk_group",
    ),
    Family(
        "DeepSeek-V3",
        ("deepseek_v3",),
        shared="shared_experts",
        router_score="sigmoid",
        router_scale_attribute="routed_scaling_factor",
        experts_attribute="n_routed_experts",
        router_groups_attribute="n_group",
        chosen_groups_attribute="topk_group",
        fewest_experts=2,  # groups are ranked by the sum of their two best
    ),
    Family("GPT-OSS", ("gpt_oss",), router="router", experts_attribute="num_local_experts"),
    Family(
        "Granite-MoE",
        ("granitemoe",),
        ffn="block_sparse_moe",
        router="router",
        experts_attribute="num_local_experts",
        residual_multiplier_attribute="residual_multiplier",
        logit_divisor_attribute="logits_scaling",
    ),
    Family(
        "PhiMoE",
        ("phimoe",),
        router="router",
        experts_attribute="num_local_experts",
        fewest_experts=2,  # sparsemixer takes two, whatever the config says
        norm="layer",
        norms_in_float32=False,
    ),
    Family(
        "Gemma2",
        ("gemma2",),
        norm_offset=1.0,
        logit_softcap_attribute="final_logit_softcapping",
        attention_post_norm=_AFTER_ATTENTION,
        ffn_post_norm=_AFTER_FFN,
    ),
    Family(
        "Gemma3",
        ("gemma3_text",),
        norm_offset=1.0,
        logit_softcap_attribute="final_logit_softcapping",
        attention_post_norm=_AFTER_ATTENTION,
        ffn_post_norm=_AFTER_FFN,
    ),
)


def has_row(model_type: str) -> bool:
    """Whether a row covers `config.model_type`."""
    return any(model_type in family.model_types for family in FAMILIES)


def find_family(model_type: str) -> Family:
    """The row that covers `config.model_type`.

    Raises:
        UnknownFamilyError: no row covers it.
    """
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    known = ", ".join(sorted(t for family in FAMILIES for t in family.model_types))
    raise UnknownFamilyError(
        f"model type {model_type!r} has no row in the table of families; covered are: {known}. "
        "load_model and wrap_model read a row off the model itself, and the check at load tells whether it is right"
    )
