from collections import Counter

import pytest
import torch
from pydantic import ValidationError

from gated_lpi.errors import OptionError
from gated_lpi.experiments import Experiment
from gated_lpi.loading import verify, wrap_model
from gated_lpi.training import ARMS, ArmSpec, ModelSize, TrainingSpec
from gated_lpi.training.arms import arm_config, new_model

MOE, ACTIVE, TOTAL = ARMS
FFN_KEYS = {
    "intermediate_size",
    "moe_intermediate_size",
    "num_local_experts",
    "num_experts",
    "num_experts_per_tok",
    "norm_topk_prob",
    "output_router_logits",
    "router_aux_loss_coef",
    "decoder_sparse_step",
    "mlp_only_layers",
}
NAMES = {"model_type", "architectures"}
# Only Qwen3 has these; with full attention in every layer they change nothing.
INERT = {"layer_types": ["full_attention"] * 2, "max_window_layers": 28}


SHARED = ArmSpec(name="shared", kind="moe_shared")


def parameter_counts(model):
    """Count parameters by part: embedding, attention, ffn, router, norm; and in total and active.

    "embedding" is the embedding and the unembedding (once if tied). "active" is what one token uses: the
    total less the experts that it is not routed to.
    """
    counts = Counter(dict.fromkeys(("embedding", "attention", "ffn", "router", "norm"), 0))
    for name, parameter in model.named_parameters():
        counts[_part(name)] += parameter.numel()
    total = counts.total()
    experts = getattr(model.config, "num_experts", 1)
    idle = counts["ffn"] * (experts - getattr(model.config, "num_experts_per_tok", 1)) // experts
    return {"total": total, "active": total - idle, **counts}


def _part(name):
    if "norm" in name:
        return "norm"
    if ".mlp.gate." in name or ".mlp.shared_expert_gate." in name:
        return "router"
    if ".mlp." in name:
        return "ffn"
    return "attention" if ".self_attn." in name else "embedding"


@pytest.fixture(scope="module")
def models(spec, tokenizer):
    return {arm.kind: new_model(arm, spec, tokenizer) for arm in ARMS}


def outside_ffn(model):
    return {name: value for name, value in model.state_dict().items() if ".mlp." not in name}


@pytest.mark.parametrize("dense", [ACTIVE, TOTAL], ids=lambda arm: arm.kind)
def test_configs_differ_in_the_ffn_alone(spec, tokenizer, dense):
    ours, theirs = (arm_config(arm, spec, tokenizer).to_dict() for arm in (MOE, dense))
    absent = object()
    differing = {k for k in ours.keys() | theirs.keys() if ours.get(k, absent) != theirs.get(k, absent)}
    assert differing <= FFN_KEYS | NAMES | INERT.keys()
    assert {key: theirs[key] for key in INERT} == INERT
    assert ours["sliding_window"] is None


def test_dense_configs_differ_in_one_width(spec, tokenizer):
    active, total = (arm_config(arm, spec, tokenizer).to_dict() for arm in (ACTIVE, TOTAL))
    assert {key for key in active if active[key] != total[key]} == {"intermediate_size"}
    assert (active["intermediate_size"], total["intermediate_size"]) == (2 * 8, 4 * 8)


@pytest.mark.parametrize("kind", ["dense_active", "dense_total"])
def test_parameters_outside_the_ffn_start_identical(models, kind):
    ours, theirs = outside_ffn(models["moe"]), outside_ffn(models[kind])
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_without_ffn_the_arms_are_one_model(spec, tokenizer):
    ids = torch.tensor([[0, 5, 9, 300, 42]])
    logits = []
    for arm in ARMS:
        model = new_model(arm, spec, tokenizer).eval()
        for layer in model.model.layers:
            layer.mlp.register_forward_hook(lambda _module, _inputs, output: torch.zeros_like(output))
        logits.append(model(ids).logits)
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])


def test_counts_of_parts(models, spec):
    counts = {kind: parameter_counts(model) for kind, model in models.items()}
    moe, active, total = counts["moe"], counts["dense_active"], counts["dense_total"]
    for model, count in zip(models.values(), counts.values(), strict=True):
        assert count["total"] == sum(p.numel() for p in model.parameters())
        parts = ("embedding", "attention", "ffn", "router", "norm")
        assert count["total"] == sum(count[part] for part in parts)
    size = spec.size
    assert moe["router"] == size.layers * size.experts * size.hidden
    assert moe["total"] - moe["router"] == total["total"] == total["active"]
    assert moe["active"] - moe["router"] == active["total"] == active["active"]
    assert moe["ffn"] == size.layers * size.experts * 3 * size.hidden * size.expert_width


def test_seed_and_name_decide_the_initial_weights(spec, tokenizer, models):
    other = new_model(ACTIVE, spec.model_copy(update={"seed": 1}), tokenizer)
    same = new_model(ACTIVE, spec, tokenizer)
    name = "model.layers.0.self_attn.q_proj.weight"
    reference = models["dense_active"].state_dict()
    assert torch.equal(same.state_dict()[name], reference[name])
    assert not torch.equal(other.state_dict()[name], reference[name])
    assert not torch.equal(reference[name], reference[name.replace("layers.0", "layers.1")])
    assert reference[name].std().item() == pytest.approx(spec.init_std, rel=0.1)


def test_tied_embeddings_are_counted_once(spec, tokenizer):
    size = spec.size.model_copy(update={"tie_embeddings": True})
    model = new_model(MOE, spec.model_copy(update={"size": size}), tokenizer)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert parameter_counts(model)["embedding"] == len(tokenizer) * size.hidden


def test_tokenizer_larger_than_the_vocabulary(spec, tokenizer):
    size = spec.size.model_copy(update={"vocab_size": 300})
    with pytest.raises(OptionError, match="tokens, more than vocab_size 300"):
        arm_config(MOE, spec.model_copy(update={"size": size}), tokenizer)


@pytest.mark.parametrize(
    "wrong", [{"hidden": 130}, {"kv_heads": 3}, {"experts_per_token": 17}, {"expert_width": 0}, {"expert": 4}]
)
def test_impossible_sizes_are_refused(wrong):
    with pytest.raises(ValidationError):
        ModelSize(**wrong)


def test_specs_are_frozen_named_data(spec):
    with pytest.raises(ValidationError, match="frozen"):
        spec.seed = 3
    with pytest.raises(ValidationError, match="pattern"):
        ArmSpec(name="../up", kind="moe")
    assert TrainingSpec.model_validate_json(spec.model_dump_json()) == spec
    assert spec.sha256 != spec.model_copy(update={"seed": 1}).sha256


def test_a_router_that_nothing_teaches_is_refused():
    with pytest.raises(ValidationError, match=r"experts_per_token = 1 .*no gradient.*normalise_gates = false"):
        ModelSize(experts_per_token=1)
    assert ModelSize(experts_per_token=1, normalise_gates=False).experts_per_token == 1


@pytest.mark.parametrize("size", [{"experts_per_token": 1, "normalise_gates": False}, {"experts_per_token": 4}])
def test_a_router_that_is_allowed_has_a_gradient_from_the_loss(spec, tokenizer, size):
    content = spec.model_dump() | {"size": spec.size.model_dump() | size, "load_balancing": 0.0}
    model = new_model(MOE, TrainingSpec.model_validate(content), tokenizer)
    ids = torch.arange(2, 10).view(1, -1)
    model(input_ids=ids, labels=ids).loss.backward()
    for layer in model.model.layers:
        assert layer.mlp.gate.weight.grad.abs().max() > 1e-6


@pytest.mark.parametrize(
    "wrong", [{"learning_rate": float("inf")}, {"init_std": float("nan")}, {"steps": True}, {"seed": 2**32}]
)
def test_numbers_are_finite_and_no_booleans(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        TrainingSpec(**wrong)


def test_names_of_arms_fit_into_names_of_files():
    with pytest.raises(ValidationError, match="at most 100"):
        ArmSpec(name="a" * 101, kind="moe")


# With a shared expert


@pytest.fixture(scope="module")
def three(spec):
    """Three experts of four a token."""
    return spec.model_copy(update={"size": spec.size.model_copy(update={"experts_per_token": 3})})


def test_a_shared_expert_takes_the_place_of_one_and_the_parameters_are_as_many(three, tokenizer):
    moe, shared = (new_model(arm, three, tokenizer) for arm in (MOE, SHARED))
    layer, size = shared.model.layers[0].mlp, three.size
    assert (shared.config.num_experts, shared.config.num_experts_per_tok) == (3, 2)
    assert layer.shared_expert.down_proj.weight.shape == (size.hidden, size.expert_width)
    ours, theirs = parameter_counts(moe), parameter_counts(shared)
    assert {part: ours[part] for part in ("embedding", "attention", "ffn", "router")} == {
        part: theirs[part] for part in ("embedding", "attention", "ffn", "router")
    }
    assert ours["norm"] - theirs["norm"] == size.layers * 2 * size.hidden // size.heads  # of queries and keys
    one = size.layers * 3 * size.hidden * size.expert_width  # an expert of every layer
    assert ours["ffn"] == 4 * one
    assert theirs["ffn"] - (3 - 2) * one == ours["ffn"] - (4 - 3) * one  # what a token uses
    assert not any(name.endswith(".bias") for name, _ in shared.named_parameters())
    same = {name: value for name, value in outside_ffn(moe).items() if "q_norm" not in name and "k_norm" not in name}
    assert outside_ffn(shared).keys() == same.keys()
    assert all(torch.equal(value, shared.state_dict()[name]) for name, value in same.items())
    assert layer.shared_expert_gate.weight.abs().max() > 0


def test_the_router_and_the_shared_gate_have_gradients(three, tokenizer):
    model = new_model(SHARED, three.model_copy(update={"load_balancing": 0.0}), tokenizer)
    ids = torch.arange(2, 10).view(1, -1)
    model(input_ids=ids, labels=ids).loss.backward()
    for layer in model.model.layers:
        assert layer.mlp.gate.weight.grad.abs().max() > 1e-6
        assert layer.mlp.shared_expert_gate.weight.grad.abs().max() > 1e-6


def test_what_it_writes_adds_up_and_gates_are_those_of_experts(three, tokenizer):
    model = wrap_model(new_model(SHARED, three, tokenizer).eval(), tokenizer)
    assert verify(model, [[0, 5, 9, 300, 42], [0, 7, 8]]).worst < 6e-6
    assert len(model.units) == 2 * (4 * 8 + 32)


@pytest.mark.parametrize(
    ("size", "left"),
    [
        ({"experts_per_token": 2}, "one whose gate is always 1"),
        ({"experts": 2, "experts_per_token": 2, "normalise_gates": False}, "one whose gate is always 1"),
        ({"experts_per_token": 1, "normalise_gates": False}, "no expert to route to"),
    ],
)
def test_a_shared_expert_that_leaves_nothing_to_route_is_refused(spec, tokenizer, size, left):
    given = TrainingSpec.model_validate(spec.model_dump() | {"size": spec.size.model_dump() | size})
    with pytest.raises(OptionError, match=rf"moe_shared was given with .*leaves {left}.*Give 3 experts or more"):
        arm_config(SHARED, given, tokenizer)
    arm = {"name": "a", "train": "moe_shared", "training": {"size": size}}
    with pytest.raises(ValidationError, match=rf"arm 'a': kind moe_shared .*leaves {left}"):
        Experiment.model_validate({"name": "x", "arms": [arm]})
    able = {"experts_per_token": 2, "normalise_gates": False}
    arm["training"] = {"size": able}
    assert Experiment.model_validate({"name": "x", "arms": [arm]}).arms[0].train == "moe_shared"


# Fine-grained experts


def test_twice_as_many_experts_of_half_the_width_are_an_arm_of_the_same_size(spec, tokenizer):
    finer = {"experts": 8, "expert_width": 8, "experts_per_token": 4}
    size = spec.size.model_dump() | {"expert_width": 16}
    content = {
        "name": "x",
        "training": spec.model_dump() | {"size": size},
        "arms": [{"name": "coarse", "train": "moe"}, {"name": "fine", "train": "moe", "training": {"size": finer}}],
    }
    experiment = Experiment.model_validate(content)
    coarse, fine = (parameter_counts(new_model(MOE, experiment.training_of(arm), tokenizer)) for arm in experiment.arms)
    assert (coarse["ffn"], coarse["active"] - coarse["router"]) == (fine["ffn"], fine["active"] - fine["router"])
    assert fine["router"] == 2 * coarse["router"]
