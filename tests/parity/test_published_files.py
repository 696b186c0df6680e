"""The notebooks' files: numbers against the published formulas, transformers' own attention, and loops by hand."""

import json

import numpy as np
import published
import pytest
import torch
from make_parity import CONFIGS, PROMPTS
from test_parity import THROUGHOUT, live, loaded, weights

from gated_lpi import published as ours
from gated_lpi.errors import ModelError, OptionError, RunExistsError
from tiny_text import speaking_model

IDS, _ = PROMPTS[0]
PROMPT = " ".join(f"w{i}" for i in IDS)


@pytest.fixture(scope="module", params=CONFIGS)
def written(request, tmp_path_factory):
    """A network, its model in float64 throughout, what was written of the first prompt, and its likeliest token."""
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        model = loaded(request.param, THROUGHOUT, folder, patch)
        found = ours.write_files(model, PROMPT, folder / "1")
        assert not found.left_out
        content = {name: json.loads(path.read_text()) for name, path in found.files.items()}
        with torch.no_grad():
            top = int(model.module(torch.tensor([IDS])).logits[0, -1].argmax())
        yield request.param, model, content, top


@pytest.fixture
def wanted(written):
    """The published formulas for the model's own likeliest token, with the notebooks' epsilon."""
    network, _, _, top = written
    return published.scores(weights(network), CONFIGS[network], IDS, top, "frozen", readout_eps=1e-6)


def test_there_is_a_file_of_each_name(written):
    network, _, content, top = written
    both = {
        "attn_scores.json",
        "attn_outputs.json",
        "layer_level_increase.json",
        "head_level_increase.json",
        "attn_neuron_increase.json",
        "top_tokens.json",
        "query_FFN_neurons.json",
        "prompt.json",
    }
    moe = {"selected_experts.json", "router.json", "router_logits.json", "experts_FFN_neuron_increase.json"}
    assert set(content) == both | (moe if network == "olmoe" else {"FFN_neuron_increase.json"})
    assert (content["prompt.json"]["target"], content["prompt.json"]["target_id"]) == (f"w{top}", top)


def test_increases_are_those_of_the_published_formulas(written, wanted):
    network, _, content, _ = written
    layers = content["layer_level_increase.json"]
    for place, kind in enumerate(("attn_list", "ffn_list")):
        assert [name for name, _ in layers[kind]] == ["0", "1"]
        np.testing.assert_allclose([value for _, value in layers[kind]], wanted.blocks[:, place], atol=1e-6)
    for name, value in content["head_level_increase.json"]["all_head_increase"]:
        layer, head = map(int, name.split("_"))
        assert value == pytest.approx(wanted.heads[layer, head], abs=5.1e-5)  # of four decimals
    attention = content["attn_neuron_increase.json"]
    assert len(attention) == wanted.positions.size
    for row in attention:
        layer, head, neuron, position = map(int, row["neuron"].split("_"))
        assert row["increase"] == pytest.approx(wanted.positions[layer, position, head, neuron], abs=1e-6)
    name = "experts_FFN_neuron_increase.json" if network == "olmoe" else "FFN_neuron_increase.json"
    for row in content[name]:
        assert row["increase"] == pytest.approx(
            wanted.ffn[row["layer"], row.get("experts", 0), row["neuron"]], abs=1e-6
        )
    for rows in (attention, content[name]):
        assert [row["increase"] for row in rows] == sorted((row["increase"] for row in rows), reverse=True)
    per_layer = 24 if network == "olmo" else 2 * 8  # all, or those of both experts that were chosen
    assert len(content[name]) == 2 * per_layer


def test_attention_is_what_transformers_itself_says(written):
    _, model, content, _ = written
    model.module.set_attn_implementation("eager")
    with torch.no_grad():
        found = model.module(torch.tensor([IDS]), output_attentions=True).attentions
    for layer, weighed in enumerate(found):
        heads = content["attn_scores.json"][f"layer_{layer}"]
        assert list(heads) == [f"head_{i}" for i in range(4)]
        np.testing.assert_allclose(list(heads.values()), weighed[0], atol=1e-6)


def test_attention_s_outputs_are_what_the_heads_read(written):
    network, _, content, _ = written
    for layer, seen in enumerate(published.Network(weights(network), CONFIGS[network]).run(IDS).layers):
        last = np.array(content["attn_outputs.json"][f"layer_{layer}"])[:, -1]
        np.testing.assert_allclose(last, seen.attended.sum(axis=0), atol=1e-6)


def test_routers_are_theirs(written):
    network, model, content, _ = written
    if network == "olmo":
        assert model.experts_per_token == 0
        return
    net = published.Network(weights(network), CONFIGS[network])
    for layer, seen in enumerate(net.run(IDS).layers):
        logits = np.array(content["router_logits.json"][f"layer_{layer}"])
        full = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        chosen, gates = (np.array(content[name][f"layer_{layer}"]) for name in ("selected_experts.json", "router.json"))
        assert chosen.shape == (len(IDS), 2)
        np.testing.assert_array_equal(chosen, np.argsort(-full, axis=1, kind="stable")[:, :2])
        np.testing.assert_allclose(gates, np.take_along_axis(full, chosen, axis=1), atol=1e-6)
        assert set(chosen[-1].tolist()) == set(np.flatnonzero(np.abs(seen.gated).sum(axis=1)).tolist())
    assert model.experts_per_token == 2


def test_top_tokens_are_those_that_a_value_vector_raises(written):
    network, _, content, _ = written
    stored = weights(network)
    for row in content["top_tokens.json"]["FFN"]:
        name = f"model.layers.{row['layer']}.mlp."
        name += f"experts.{row['experts']}.down_proj.weight" if "experts" in row else "down_proj.weight"
        value = stored[name].astype(float)[:, row["neuron"]]
        value = value * stored["model.norm.weight"] if network == "olmoe" else value - value.mean()
        order = np.argsort(-(stored["lm_head.weight"] @ value))
        assert row["top10"] == [f"w{i}" for i in order[:10]]
        assert row["last10"] == [f"w{i}" for i in order[::-1][:10]]


def test_query_neurons_are_what_loops_by_hand_give(written):
    """Σ over 30 attention neurons of increase · ⟨what the neuron wrote there, k ⊙ γ⟩ / ⟨the layer's input, k ⊙ γ⟩."""
    network, _, content, _ = written
    stored, config = weights(network), CONFIGS[network]
    net = published.Network(stored, config)
    inputs, written_there = [], []  # of each layer: [T, d], and a dict of (expert, neuron) -> [T, d]
    x = net.weights["model.embed_tokens.weight"][IDS]
    for layer in range(2):
        inputs.append(x)
        after = x + net.attention(layer, net.norm(f"layers.{layer}.input_layernorm", x))[2]
        normed = net.norm(f"layers.{layer}.post_attention_layernorm", after)
        alone = [net.ffn(layer, normed[: t + 1])[:2] for t in range(len(IDS))]  # gated coefficients at t, values
        written_there.append([gated[..., None] * values for gated, values in alone])
        x = after + net.ffn(layer, normed)[2]
    expected = np.zeros((2, *written_there[0][0].shape[:2]))
    width = 4
    for row in content["attn_neuron_increase.json"][:30]:
        layer, head, neuron, position = map(int, row["neuron"].split("_"))
        shared = config["num_attention_heads"] // config["num_key_value_heads"]
        key = net.weights[f"model.layers.{layer}.self_attn.v_proj.weight"][head // shared * width + neuron]
        key = key * stored[f"model.layers.{layer}.input_layernorm.weight"] if network == "olmoe" else key - key.mean()
        for earlier in range(layer):
            share = written_there[earlier][position] @ key / (inputs[layer][position] @ key)
            expected[earlier] += share * row["increase"]
    found = np.zeros_like(expected)
    for row in content["query_FFN_neurons.json"]:
        found[row["layer"], row.get("experts", 0), row["neuron"]] = row["score"]
    assert np.abs(expected[0]).max() > 1e-3
    np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max() + 1e-7)


def test_an_answer_can_be_given_and_the_model_s_own_epsilon(written, tmp_path):
    network, model, _, _ = written
    target = PROMPTS[0][1]
    found = ours.write_files(model, PROMPT, tmp_path / "1", target=f"w{target}", readout_eps=None)
    layers = json.loads(found.files["layer_level_increase.json"].read_text())
    np.testing.assert_allclose([value for _, value in layers["attn_list"]], live(network, 0).blocks[:, 0], atol=1e-6)


def test_what_a_model_does_not_show_is_left_out_and_said(tmp_path):
    found = ours.write_files(speaking_model("GPT-2"), "The capital of France is", tmp_path / "1")
    assert "v_proj" in found.left_out["query_FFN_neurons.json"]
    assert json.loads(found.files["prompt.json"].read_text())["left_out"] == found.left_out
    assert "query_FFN_neurons.json" not in found.files


def test_folders_in_use_and_prompts_of_nothing_are_refused(tmp_path):
    model = speaking_model("OLMoE")
    (tmp_path / "a").write_text("")
    with pytest.raises(RunExistsError, match="not an empty folder; give a new one"):
        ours.write_files(model, "The capital", tmp_path)
    with pytest.raises(OptionError, match="expected words"):
        ours.write_files(model, " ", tmp_path / "1")
    with pytest.raises(ModelError, match="without a tokenizer"):
        ours.write_files(model.__class__(**{**vars(model), "tokenizer": None}), "The capital", tmp_path / "1")
    with pytest.raises(OptionError, match="no attention neuron"):
        ours.query_neurons(model, [1, 2], [])
