"""Training checkpoints become models that compute what the trained ones did."""

import json

import pytest
import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from gated_lpi.checkpoints import list_local
from gated_lpi.errors import ModelError, OptionError, WeightsError
from gated_lpi.importing import import_checkpoint, layouts
from gated_lpi.importing.agreement import compare
from gated_lpi.importing.layouts import layout_named
from gated_lpi.importing.naming import Naming
from gated_lpi.trace import trace_routing
from tiny_models import tiny_model
from training_checkpoints import (
    EXPERTS,
    LAYERS,
    SETTINGS,
    TOP,
    VOCABULARY,
    WIDTH,
    computed,
    megatron,
    write,
    write_in_parts,
)

IDS = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6])


def logits_of(folder, ids=IDS):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, experts_implementation="eager").eval()
    with torch.no_grad():
        return model(input_ids=ids[None]).logits[0]


def with_clutter(tensors):
    """What stands beside the weights of a training checkpoint."""
    return {
        **tensors,
        "optimizer.state.exp_avg.output_layer.weight": torch.ones(4),
        "decoder.layers.0.self_attention.linear_qkv._extra_state": [1, 2],
        "rng_state": {"seed": 5},
    }


def by_expert(tensors):
    """Each expert in a tensor of its own."""
    given = dict(tensors)
    for name in [name for name in tensors if ".experts.experts." in name]:
        layer, end = name.split("experts.experts.")
        stacked = given.pop(name)
        given |= {f"{layer}experts.local_experts.{e}.{end}": stacked[e].clone() for e in range(EXPERTS)}
    return given


@pytest.mark.parametrize("form", ["dcp", "parts", "prefixed", "safetensors", "by expert", "merged"])
def test_flame_moe_computes_what_it_computed(tmp_path, form):
    """The layout's proof: logits of the folder against those of the formulas, over Megatron's own tensors."""
    tensors = megatron(seed=1)
    source = tmp_path / "iter_0000100"
    if form == "dcp":
        write(source, with_clutter(tensors))
    elif form == "parts":
        write_in_parts(source, tensors)
    elif form == "prefixed":
        write(source, {f"model.module.{name}": tensor for name, tensor in tensors.items()})
    else:
        given = dict(tensors)
        if form == "by expert":
            given = by_expert(tensors)
        elif form == "merged":  # attention of all layers in one tensor, with the layer as first axis
            for end in ("linear_qkv.layer_norm_weight", "linear_qkv.weight", "linear_proj.weight"):
                parts = [given.pop(f"decoder.layers.{layer}.self_attention.{end}") for layer in range(LAYERS)]
                given[f"decoder.layers.self_attention.{end}"] = torch.stack(parts)
        source.mkdir()
        save_file(given, source / "weights.safetensors")
    out = tmp_path / "models" / "step-100"
    found = import_checkpoint(source, out, settings=SETTINGS, tokens=209_715_200)
    expected, _ = computed(tensors, IDS)
    assert torch.allclose(logits_of(out), expected, atol=1e-6)
    assert found.parameters == sum(tensor.numel() for tensor in tensors.values())
    assert found.reconstruction.logits < found.reconstruction.tolerance
    assert found.agreement is None
    assert len(found.aside) == (3 if form == "dcp" else 0)
    assert found.config["mlp_only_layers"] == [0]
    (checkpoint,) = list_local(out.parent)
    assert (checkpoint.step, checkpoint.tokens) == (100, 209_715_200)


def test_bfloat16_stays_as_it_was_stored(tmp_path):
    tensors = megatron(dtype=torch.bfloat16)
    write(tmp_path / "iter", tensors)
    import_checkpoint(tmp_path / "iter", tmp_path / "out", settings=SETTINGS)
    state = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").state_dict()
    assert {tensor.dtype for tensor in state.values()} == {torch.bfloat16}
    shared = tensors["decoder.layers.1.mlp.shared_experts.linear_fc2.weight"]
    assert torch.equal(state["model.layers.1.mlp.shared_expert.down_proj.weight"], 2 * shared)
    assert not state["model.layers.1.mlp.shared_expert_gate.weight"].any()
    assert not state["model.layers.1.self_attn.q_proj.bias"].any()


class Shapes:
    """A source that has shapes and no values."""

    def __init__(self, shapes):
        self.shapes, self.objects = shapes, ()


def test_the_layout_has_the_published_number_of_parameters():
    """FLAME-MoE 290M: 9 layers of width 1024, f = 704, dense first FFN 5472, vocabulary 50304: 1,300,024,320 in all."""
    width, f, dense, vocabulary, experts = 1024, 704, 5472, 50304, 64
    shapes = {"embedding.word_embeddings.weight": (vocabulary, width), "output_layer.weight": (vocabulary, width)}
    shapes["decoder.final_layernorm.weight"] = (width,)
    for layer in range(9):
        own = f"decoder.layers.{layer}."
        shapes |= {f"{own}self_attention.linear_qkv.layer_norm_weight": (width,)}
        shapes |= {f"{own}self_attention.linear_qkv.weight": (3 * width, width)}
        shapes |= {f"{own}self_attention.linear_proj.weight": (width, width)}
        if layer == 0:
            shapes |= {
                f"{own}mlp.linear_fc1.layer_norm_weight": (width,),
                f"{own}mlp.linear_fc2.weight": (width, dense),
            }
            shapes |= {f"{own}mlp.linear_fc1.weight": (2 * dense, width)}
            continue
        shapes |= {f"{own}pre_mlp_layernorm.weight": (width,), f"{own}mlp.router.weight": (experts, width)}
        shapes |= {f"{own}mlp.experts.experts.linear_fc1.weight": (experts, 2 * f, width)}
        shapes |= {f"{own}mlp.experts.experts.linear_fc2.weight": (experts, width, f)}
        shapes |= {f"{own}mlp.shared_experts.linear_fc1.weight": (4 * f, width)}
        shapes |= {f"{own}mlp.shared_experts.linear_fc2.weight": (width, 2 * f)}
    layout = layout_named("flame-moe")
    naming = Naming(Shapes(shapes), layout)
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 1_300_024_320
    assert {key: naming.shape(pattern)[axis] for key, (pattern, axis) in layout.sizes.items()} == {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": dense,
        "moe_intermediate_size": f,
        "shared_expert_intermediate_size": 2 * f,
        "num_experts": experts,
    }
    assert naming.layers(layout.layer) == tuple(range(9))


def test_a_reference_is_compared_with(tmp_path):
    tensors = megatron(seed=2)
    source = write(tmp_path / "iter", tensors)
    expected, routed = computed(tensors, IDS)
    record = {"input_ids": IDS[None], "logits": expected[None].float()}
    record |= {f"routing.{layer}": experts[None].contiguous() for layer, experts in routed.items()}
    save_file(record, source / "reference.safetensors")
    found = import_checkpoint(source, tmp_path / "out", settings=SETTINGS).agreement
    assert found.tokens == len(IDS)
    assert found.logits < 1e-4
    assert found.routing == {1: 1.0, 2: 1.0}
    assert found.chance == TOP / EXPERTS
    assert json.loads((tmp_path / "out" / "import.json").read_text())["agreement"]["chance"] == TOP / EXPERTS


def test_what_is_no_reference(tmp_path):
    source = write(tmp_path / "iter", megatron())
    logits, routed = torch.ones(1, 8, VOCABULARY), torch.arange(TOP).expand(1, 8, TOP)
    for record, words in (
        ({"input_ids": IDS[None]}, r"expected input_ids \[N, T\] and logits"),
        ({"logits": logits}, r"expected input_ids"),
        ({"input_ids": 100 * IDS[None], "logits": logits}, "tokens 100 to 900; the model has 64"),
        ({"input_ids": IDS[None], "logits": logits[:, :3]}, r"logits of shape \(1, 3, 64\)"),
        ({"input_ids": IDS[None], "logits": torch.zeros(1, 8, VOCABULARY)}, "logits that are 0 alone"),
        ({"input_ids": IDS[None], "logits": logits + torch.nan}, "logits that are NaN or infinities"),
        ({"input_ids": IDS[None], "routing.1": torch.zeros(1, 8, 0)}, r"routing.1 of shape \(1, 8, 0\)"),
        ({"input_ids": IDS[None], "routing.1": routed + torch.nan}, "something else than numbers of experts, 0 to 7"),
        ({"input_ids": IDS[None], "routing.1": routed + EXPERTS}, "something else than numbers of experts, 0 to 7"),
        ({"input_ids": IDS[None], "routing.1": routed - 1}, "something else than numbers of experts, 0 to 7"),
        ({"input_ids": IDS[None], "routing.1": 0 * routed}, "names an expert twice for one token"),
        ({"input_ids": IDS[None], "routing.0": IDS[None, :, None]}, "routing of layer 0 that the model does not have"),
    ):
        save_file(
            {name: tensor.clone().contiguous() for name, tensor in record.items()}, tmp_path / "recorded.safetensors"
        )
        with pytest.raises(WeightsError, match=words):
            import_checkpoint(source, tmp_path / "out", settings=SETTINGS, reference=tmp_path / "recorded.safetensors")
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrong", [{"rope_theta": 100.0}, {"norm_topk_prob": True}, {"num_key_value_heads": 4}])
def test_a_model_that_does_not_do_what_was_recorded_is_not_kept(tmp_path, wrong):
    """Settings that no shape tells give a model that adds up and is another one; a reference tells."""
    tensors = megatron(seed=2)
    source = write(tmp_path / "iter", tensors)
    expected, _ = computed(tensors, IDS)
    save_file({"input_ids": IDS[None], "logits": expected[None].float()}, tmp_path / "recorded.safetensors")
    with pytest.raises((ModelError, WeightsError), match=r"does not do what|A setting is another one|do not divide"):
        import_checkpoint(
            source, tmp_path / "out", settings=SETTINGS | wrong, reference=tmp_path / "recorded.safetensors"
        )
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []


def test_routing_alone_can_reject(tmp_path):
    tensors = megatron(seed=2)
    source = write(tmp_path / "iter", tensors)
    _, routed = computed(tensors, IDS)
    record = {"input_ids": IDS[None]} | {f"routing.{n}": experts[None].contiguous() for n, experts in routed.items()}
    save_file(record, tmp_path / "right.safetensors")
    found = import_checkpoint(source, tmp_path / "step-1", settings=SETTINGS, reference=tmp_path / "right.safetensors")
    assert found.agreement.logits is None
    record["routing.2"] = (record["routing.2"] + 1) % EXPERTS
    save_file(record, tmp_path / "wrong.safetensors")
    with pytest.raises(ModelError, match=r"share of the recorded experts by layer \{1: 1.0, 2: 0\.\d+\}"):
        import_checkpoint(source, tmp_path / "step-2", settings=SETTINGS, reference=tmp_path / "wrong.safetensors")


@pytest.mark.parametrize("chosen", [TOP - 1, TOP + 1, EXPERTS])
def test_another_number_of_experts_is_no_agreement(tmp_path, chosen):
    """With more experts than were recorded, all recorded ones are among them."""
    tensors = megatron(seed=2)
    source = write(tmp_path / "iter", tensors)
    _, routed = computed(tensors, IDS)
    record = {"input_ids": IDS[None]} | {f"routing.{n}": experts[None].contiguous() for n, experts in routed.items()}
    save_file(record, tmp_path / "recorded.safetensors")
    words = rf"layer 1 to {chosen} experts, and .* records {TOP}\. .*--set num_experts_per_tok={TOP}\)"
    with pytest.raises(ModelError, match=words):
        import_checkpoint(
            source,
            tmp_path / "out",
            settings=SETTINGS | {"num_experts_per_tok": chosen},
            reference=tmp_path / "recorded.safetensors",
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["GPT-OSS", "Granite-MoE", "DeepSeek-V3"])
def test_routing_of_other_families_is_compared(tmp_path, kind):
    """Their routers have other names, their configs other words for the number of experts."""
    model = tiny_model(kind)
    ids = IDS[None]
    (layers,) = trace_routing(model, ids.tolist())
    named = [block.layer for block, _ in model.routed()]
    record = {f"routing.{n}": one.experts[None].clone() for n, one in zip(named, layers, strict=True)}
    save_file({"input_ids": ids, **record}, tmp_path / "recorded.safetensors")
    found = compare(model, tmp_path / "recorded.safetensors")
    assert found.routing == dict.fromkeys(named, 1.0)
    assert found.chance == layers[0].experts.shape[-1] / layers[0].logits.shape[-1]


def test_olmo_core(tmp_path):
    config = transformers.Olmo2Config(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    renamed = {
        "embed_tokens": "embeddings",
        "model.norm": "lm_head.norm",
        "layers.": "blocks.",
        "self_attn.o_proj": "attention.w_out",
        "self_attn.q_norm": "attention.q_norm",
        "self_attn.k_norm": "attention.k_norm",
        "mlp.gate_proj": "feed_forward.w1",
        "mlp.down_proj": "feed_forward.w2",
        "mlp.up_proj": "feed_forward.w3",
        "post_attention_layernorm": "attention_norm",
        "post_feedforward_layernorm": "feed_forward_norm",
        **{f"self_attn.{part}_proj": f"attention.w_{part}" for part in "qkv"},
    }
    content = {}
    for name, tensor in model.state_dict().items():
        short = name
        for theirs, own in renamed.items():
            short = short.replace(theirs, own)
        short = "model.lm_head.w_out.weight" if name == "lm_head.weight" else short
        content[short if short.startswith("model.") else f"model.{short}"] = tensor
    source = write(tmp_path / "model_and_optim", content | {"optim.step": torch.ones(3)})
    found = import_checkpoint(source, tmp_path / "step-1", layout="olmo-core", settings={"num_attention_heads": 4})
    assert found.made == 0
    assert len(found.aside) == 1
    with torch.no_grad():
        expected = model.double()(input_ids=IDS[None]).logits[0]
    assert torch.allclose(logits_of(tmp_path / "step-1"), expected, atol=1e-6)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("before", ["", "model.", "app.model._fsdp_wrapped_module.", "module."])
def test_names_of_transformers_under_fsdp(tmp_path, tied, before):
    """accelerate puts "model." before all names, many of which begin with it themselves."""
    config, model = llama(tied)
    state = {f"{before}{n}": t for n, t in model.state_dict().items() if not (tied and n == "lm_head.weight")}
    source = write(tmp_path / "dcp", state | {"optimizer.state.step": torch.ones(2)})
    config.save_pretrained(tmp_path / "config")
    found = import_checkpoint(source, tmp_path / "step-1", layout="transformers", config=tmp_path / "config")
    assert len(found.aside) == 1
    with torch.no_grad():
        expected = model.double()(input_ids=IDS[None]).logits[0]
    assert torch.allclose(logits_of(tmp_path / "step-1"), expected, atol=1e-6)


def llama(tied):
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    config.tie_word_embeddings = tied
    torch.manual_seed(0)
    return config, AutoModelForCausalLM.from_config(config).eval()


def test_a_config_is_read_from_the_file_that_is_named(tmp_path):
    config, model = llama(tied=False)
    source = write(tmp_path / "dcp", model.state_dict())
    folder = tmp_path / "config"
    config.rope_parameters["rope_theta"] = 777.0
    config.save_pretrained(folder)
    (folder / "config.json").rename(folder / "mine.json")
    config.rope_parameters["rope_theta"] = 10.0
    config.save_pretrained(folder)
    for given, theta in ((folder / "mine.json", 777.0), (folder / "config.json", 10.0), (folder, 10.0)):
        found = import_checkpoint(source, tmp_path / f"out-{given.name}", layout="transformers", config=given)
        assert found.config["rope_parameters"]["rope_theta"] == theta
    for given, kind, words in (
        (tmp_path / "nowhere.json", OptionError, r"config='.*nowhere.json' was given, and there is no such file"),
        (tmp_path, ModelError, r"^\S*/config.json cannot be used \(\[Errno 2\][^()]*\)\. Fetch the file again"),
        (source / ".metadata", ModelError, r"\.metadata cannot be used"),
    ):
        with pytest.raises(kind, match=words):
            import_checkpoint(source, tmp_path / "none", layout="transformers", config=given)


def test_a_head_that_is_kept_beside_its_embeddings_is_the_same(tmp_path):
    config, model = llama(tied=True)
    config.save_pretrained(tmp_path / "config")
    state = {f"model.{name}": tensor.clone() for name, tensor in model.state_dict().items()}
    assert "model.lm_head.weight" in state
    source = write(tmp_path / "dcp", state)
    import_checkpoint(source, tmp_path / "step-1", layout="transformers", config=tmp_path / "config")
    apart = write(tmp_path / "apart", state | {"model.lm_head.weight": torch.ones(VOCABULARY, WIDTH)})
    with pytest.raises(WeightsError, match=r"lm_head.weight differs from model.embed_tokens.weight.*--set tie_word"):
        import_checkpoint(apart, tmp_path / "step-2", layout="transformers", config=tmp_path / "config")
    with pytest.raises(OptionError, match=r"needs the model's config.json"):
        import_checkpoint(source, tmp_path / "step-3", layout="transformers")


def test_a_bias_that_chooses_experts_is_not_dropped(tmp_path):
    """Its checkpoint is of another model unless the bias is 0, as it is where balancing by it was off."""
    name = "decoder.layers.1.mlp.router.expert_bias"
    source = write(tmp_path / "off", megatron() | {name: torch.zeros(EXPERTS)})
    assert import_checkpoint(source, tmp_path / "step-1", settings=SETTINGS).aside == (name,)
    source = write(tmp_path / "on", megatron() | {name: torch.ones(EXPERTS)})
    with pytest.raises(WeightsError, match=r"router.expert_bias is not 0, and models of the layout flame-moe"):
        import_checkpoint(source, tmp_path / "step-2", settings=SETTINGS)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("decoder.layers.2.mlp.router.weight"), r"model.layers.2.mlp.gate.weight \(from decoder"),
        (lambda t: t.pop("decoder.layers.1.self_attention.linear_proj.weight"), r"of layers 0, 1, …"),
        (lambda t: t.update({"decoder.layers.1.mlp.extra.weight": torch.ones(2)}), r"extra.weight\). Nothing is left"),
        (lambda t: t.update({"decoder.layers.1.mlp.router.bias": torch.ones(8)}), r"1 of the checkpoint are not read"),
        (
            lambda t: t.update({"decoder.layers.1.mlp.router.weight": torch.ones(7, WIDTH)}),
            r"of shape \(8, |needs \(7, ",
        ),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, change, words):
    tensors = megatron()
    change(tensors)
    source = write(tmp_path / "iter", tensors)
    with pytest.raises(WeightsError, match=words):
        import_checkpoint(source, tmp_path / "out", settings=SETTINGS)
    assert not (tmp_path / "out").exists()


LOCAL = "decoder.layers.1.mlp.experts.local_experts"


def merged(tensors, end):
    """Tensors of some layers as one, with these layers as its first axis."""
    names = [name for name in tensors if name.endswith(end)]
    stacked = torch.stack([tensors.pop(name) for name in names])
    return tensors | {f"decoder.layers.{end}": stacked}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda t: merged(t, "mlp.experts.experts.linear_fc1.weight"),
            r"layers.mlp.experts.experts.linear_fc1.weight, of shape \[2, 8, 32, 32\], holds 2 layers in one tensor, "
            r"and the model has 3: .* such as decoder.layers.2.mlp.experts.experts.linear_fc1.weight",
        ),
        (lambda t: merged(t, "mlp.router.weight"), "router.weight, .* holds 2 layers in one tensor"),
        (
            lambda t: merged(merged(t, "mlp.linear_fc1.weight"), "mlp.linear_fc2.weight"),
            "holds 1 layers in one tensor, and the model has 3",
        ),
        (lambda t: {n: v.to(torch.float8_e4m3fn) for n, v in t.items()}, "and dtype float8_e4m3fn; expected weights"),
        (
            lambda t: t | {"decoder.layers.1.mlp.router.weight": torch.ones(EXPERTS, WIDTH).to(torch.int8)},
            r"model.layers.1.mlp.gate.weight is made of a tensor of shape \[8, 32\] and dtype int8",
        ),
        (
            lambda t: t | {"decoder.layers.1.mlp.experts.experts.linear_fc2.weight": torch.ones(16, WIDTH)},
            r"has shape \[16, 32\]; the layout flame-moe reads moe_intermediate_size off axis 2 of it",
        ),
        (lambda t: t | {"decoder.final_layernorm.weight": torch.tensor(1.0)}, r"of shape \[\] and dtype float32"),
        (
            lambda t: (
                by_expert(t) | {"decoder.layers.1.mlp.experts.local_experts.3.linear_fc1.weight": torch.ones(2, 2)}
            ),
            r"local_experts.\{expert\}.linear_fc1.weight are of 2 forms \(\[2, 2\] float32, \[32, 32\] float32\)",
        ),
    ],
)
def test_forms_that_no_layout_reads_are_refused(tmp_path, change, words):
    (tmp_path / "iter").mkdir()
    save_file(change(megatron()), tmp_path / "iter" / "w.safetensors")
    with pytest.raises(WeightsError, match=words):
        import_checkpoint(tmp_path / "iter", tmp_path / "out", settings=SETTINGS)
    assert not (tmp_path / "out").exists()


def test_wrong_options(tmp_path):
    source = write(tmp_path / "iter", megatron())
    for options, words in (
        ({"layout": "nemo"}, "expected one of flame-moe, olmo-core, transformers"),
        ({"settings": {"heads": 4}}, "heads is no setting of qwen2_moe"),
        ({"tokens": -1}, "tokens=-1 was given"),
        *(
            (
                {"settings": SETTINGS | {"num_experts_per_tok": k}},
                f"num_experts_per_tok = {k} was given, of 8 experts",
            )
            for k in (0, 9, 100, -1)
        ),
        ({"config": tmp_path}, "makes its own"),
    ):
        with pytest.raises(OptionError, match=words):
            import_checkpoint(source, tmp_path / "out", **{"settings": SETTINGS, **options})
    (tmp_path / "out").mkdir()
    with pytest.raises(OptionError, match="exists already"):
        import_checkpoint(source, tmp_path / "out", settings=SETTINGS)
    with pytest.raises(WeightsError, match=r"neither .metadata with .distcp files nor safetensors"):
        import_checkpoint(tmp_path / "out", tmp_path / "new")
    with pytest.raises(WeightsError, match="nowhere does not exist; give the folder of one checkpoint"):
        import_checkpoint(tmp_path / "nowhere", tmp_path / "new")
    with pytest.raises(WeightsError, match=r"\.metadata is no folder; give the folder of one checkpoint"):
        import_checkpoint(source / ".metadata", tmp_path / "new")
    assert [layout.name for layout in layouts()] == ["flame-moe", "olmo-core", "transformers"]
