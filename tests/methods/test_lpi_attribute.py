"""`attribute` from text to a dataset: layout, reductions, groups, targets, provenance, errors."""

import numpy as np
import pytest
import torch

import gated_lpi
from flat import attribute
from gated_lpi.errors import FactsError, ModelError, OptionError
from gated_lpi.facts import encode
from gated_lpi.methods import Method, all_exact, block_problems, unit_lpi
from gated_lpi.methods.lpi.certified import eight_bit
from gated_lpi.options import Scoring
from gated_lpi.prompting import encode_facts
from gated_lpi.trace import trace
from tiny_models import CASES, tiny_model, tiny_module
from tiny_text import FACTS, speaking_model, tiny_tokenizer


@pytest.fixture(scope="module")
def model():
    return speaking_model("Qwen3-MoE")


@pytest.fixture(scope="module")
def scores(model):
    return attribute(model, FACTS, templates="all")


def test_layout(model, scores):
    n = len(FACTS.prompts("all"))
    assert dict(scores.sizes) == {
        "prompt": n,
        "unit": len(model.units),
        "head_unit": 8,
        "expert_unit": 8,
        "block_index": 4,
        "tier": 3,
    }
    assert scores["lpi"].attrs["units"] == "nats"
    assert set(scores["block"].values.tolist()) == {"ffn", "attention"}
    assert scores["expert_unit_layer"].values.tolist() == [1] * 8
    assert scores["head_unit_head"].values.tolist() == [0, 1, 2, 3] * 2
    assert scores["block_kind"].values.tolist() == ["attention", "ffn"] * 2
    assert scores["prompt_relation"].values[0] == "capital"
    assert scores["object"].values[0] == "Paris"
    assert (scores["error_bound"] > 0).all()
    assert (scores["error_bound"] <= 1e-3).all()
    assert scores["tier"].values.tolist() == ["linear", "moments", "exact"]
    assert int(scores["tier_pairs"].sum()) > 0


def test_provenance(scores):
    attrs = scores.attrs
    assert attrs["family"] == "Qwen3-MoE"
    assert attrs["facts_sha256"] == FACTS.sha256
    assert {"norm", "target", "estimator", "templates", "units", "coverage", "gated_lpi", "created", "torch"} <= set(
        attrs
    )
    assert attrs["reconstruction_error"] < 1e-5


def test_the_products_that_were_chosen_for_this_processor_are_said(model, scores):
    assert scores.attrs["products"] == eight_bit.described("cpu")
    largest = eight_bit.largest_code("cpu")
    assert (f"codes up to {largest}" if largest else "no 8-bit products") in scores.attrs["products"]
    assert "products" not in attribute(model, FACTS, estimator="exact").attrs


def test_means_are_means_of_the_prompts(model):
    scores = attribute(model, FACTS, templates="all", estimator="exact")
    by_relation = attribute(model, FACTS, templates="all", estimator="exact", keep="relations", batch_size=3)
    mean = attribute(model, FACTS, templates="all", estimator="exact", keep="mean", batch_size=5)
    assert by_relation["relation"].values.tolist() == ["capital", "colour"]
    assert by_relation["n_prompts"].values.tolist() == [12, 4]
    for name in ("lpi", "head_lpi", "expert_lpi", "block_lpi", "expert_utilisation", "expert_gate"):
        whole = scores[name].values
        groups = np.stack([whole[:12].mean(0), whole[12:].mean(0)])
        assert np.allclose(by_relation[name], groups, atol=1e-6)
        assert np.allclose(mean[name], whole.mean(0), atol=1e-6)
    assert by_relation["target_rank"].sizes == {"prompt": 16}


@pytest.mark.parametrize("estimator", ["fast", "exact"])
@pytest.mark.parametrize("case", ["GPT-2", "OLMoE"])
def test_facts_score_the_same_in_batches_of_any_size(case, estimator):
    model, rounding = (
        speaking_model(case),
        5e-6,
    )  # of the forward pass, which no bound covers
    whole = attribute(model, FACTS, templates="all", estimator=estimator)
    widths = [block.n_units for block in model.blocks]
    for size in (1, 3, 4):
        parts = attribute(model, FACTS, templates="all", estimator=estimator, batch_size=size)
        assert parts["text"].values.tolist() == whole["text"].values.tolist()
        bounds = np.repeat(whole["error_bound"].values + parts["error_bound"].values, widths, axis=1)
        assert bounds.max() <= (2e-3 if estimator == "fast" else 0)
        assert (np.abs(parts["lpi"].values - whole["lpi"].values) <= bounds + rounding).all(), size
        for name in ("base_logprob", "target_logprob"):
            np.testing.assert_allclose(parts[name], whole[name], rtol=0, atol=rounding, err_msg=f"{name}, {size}")
        bounds = whole["error_bound"].values + parts["error_bound"].values
        heads = bounds[:, [2 * layer for layer in whole["head_unit_layer"].values]]
        for name, bound in (("block_lpi", bounds), ("head_lpi", heads)):
            assert (np.abs(parts[name].values - whole[name].values) <= bound + rounding).all(), f"{name}, {size}"
        assert (parts["target_rank"].values == whole["target_rank"].values).all()


@pytest.mark.parametrize("norm", ["frozen", "recomputed"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_groups_are_scored_with_their_summed_contribution(case, norm):
    model = speaking_model(case, dtype=torch.float64)
    found = attribute(model, FACTS, norm=norm, estimator="exact")
    encoded = encode(model.tokenizer, FACTS.prompts("first"))
    traced = trace(model, [item.ids for item in encoded])
    for index, (block, seen) in enumerate(zip(model.blocks, traced.blocks, strict=True)):
        written = seen.written - seen.bias(block)
        for prompt, item in enumerate(encoded):
            held = model.readout.inverse_scale(traced.final_residual[prompt]) if norm == "frozen" else None
            true = unit_lpi(seen.base[prompt], written[prompt], item.target_id, model.readout, held)
            assert float(found["block_lpi"][prompt, index]) == pytest.approx(true, abs=1e-6)
    # A head is all of its units: with the other heads' coefficients at zero the block is the head.
    block, seen = model.blocks[0], traced.blocks[0]
    slab = next(iter(seen.slabs(block)))
    width = slab.values.shape[0] // 4
    contribution = slab.coefficients[0, width : 2 * width] @ slab.values[width : 2 * width]
    held = model.readout.inverse_scale(traced.final_residual[0]) if norm == "frozen" else None
    true = unit_lpi(seen.base[0], contribution, encoded[0].target_id, model.readout, held)
    assert float(found["head_lpi"][0, 1]) == pytest.approx(true, abs=1e-6)


def test_expert_scores_and_routing_agree(scores):
    routed = scores["expert_utilisation"].values
    assert (routed.sum(axis=1) == 2).all()
    assert ((scores["expert_gate"].values > 0) == (routed == 1)).all()
    assert (scores["expert_lpi"].values[routed == 0] == 0).all()
    assert (scores["expert_lpi"].values[routed == 1] != 0).all()


def test_ranks_and_log_probabilities_are_the_models_own(model, scores):
    encoded = encode(model.tokenizer, FACTS.prompts("all"))
    with torch.no_grad():
        for i, item in enumerate(encoded):
            logits = model.module(torch.tensor([item.ids])).logits[0, -1]
            assert scores["target_id"][i] == item.target_id
            assert scores["target_rank"][i] == int((logits > logits[item.target_id]).sum())
            log_p = float(torch.log_softmax(logits, -1)[item.target_id])
            assert float(scores["target_logprob"][i]) == pytest.approx(log_p, abs=1e-5)


def test_base_log_probabilities_lead_up_to_the_models_own(model, scores):
    block = attribute(model, FACTS, templates="all", units=("blocks",))["block_lpi"]
    last = scores["base_logprob"].isel(block_index=-1) + block.isel(block_index=-1)
    bound = scores["error_bound"].isel(block_index=-1)
    assert (np.abs(last - scores["target_logprob"]) <= bound + 1e-5).all()


def test_top1_takes_the_models_prediction(model):
    found = attribute(model, FACTS, target="top1")
    assert (found["target_rank"] == 0).all()


def test_units_selects_what_is_computed(model, scores):
    only = attribute(model, FACTS, templates="all", units=("ffn",))
    assert set(only["block"].values.tolist()) == {"ffn"}
    assert np.allclose(only["lpi"], scores["lpi"].values[:, scores["block"].values == "ffn"], atol=1e-6)
    assert {"head_lpi", "expert_lpi", "block_lpi"}.isdisjoint(only.data_vars)
    heads = attribute(model, FACTS, units=("heads",))
    assert "lpi" not in heads
    assert "head_lpi" in heads


def test_pairs_are_facts_too(model):
    found = attribute(model, [("The capital of France is", "Paris"), ("The sky is", "blue")])
    assert found["object"].values.tolist() == ["Paris", "blue"]


def test_progress_reaches_the_end(model):
    seen = []
    attribute(model, FACTS, batch_size=4, units=("blocks",), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(3, 6), (6, 6)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "thawed"}, r"norm: .*'frozen' or 'recomputed' \(given: 'thawed'\)"),
        ({"target": "best"}, r"target: .*'object' or 'top1' \(given: 'best'\)"),
        ({"estimator": "magic"}, r"estimator: expected one of 'certified', 'exact', 'reference' \(given: 'magic'\)"),
        ({"keep": "some"}, r"keep: .*\(given: 'some'\)"),
        ({"units": ("neurons",)}, r"units.0: .*'ffn', .*\(given: 'neurons'\)"),
        ({"units": ()}, r"units: .*at least 1 item"),
        ({"templates": "last"}, r"templates='last'"),
        ({"batch_size": 0}, r"batch_size: .*greater than or equal to 1 \(given: 0\)"),
    ],
)
def test_options_that_mean_nothing_are_named(model, options, message):
    with pytest.raises(OptionError, match=message):
        attribute(model, FACTS, **options)


def test_a_model_without_a_tokenizer_is_an_error():
    with pytest.raises(ModelError, match="tokenizer"):
        attribute(tiny_model("Llama"), FACTS)


def test_an_object_without_tokens_is_an_error(model):
    with pytest.raises(FactsError, match="visible character"):
        attribute(model, [("The sky is", "   ")])


def test_scores_that_are_not_finite_are_an_error():
    module = tiny_module("Llama")
    with torch.no_grad():
        module.model.layers[1].mlp.up_proj.weight.mul_(1e30)
        module.model.layers[1].mlp.down_proj.weight.mul_(1e-30)
    from gated_lpi import wrap_model

    model = wrap_model(module, tiny_tokenizer())
    with torch.no_grad():
        module.model.layers[1].mlp.up_proj.weight.mul_(1e10)
    with pytest.raises(ModelError, match="not finite"):
        attribute(model, FACTS)


@pytest.mark.parametrize(
    ("option", "place"),
    [
        ({"norm": "recomputed"}, r"gated_lpi\.LPI\(norm='recomputed'\)"),
        ({"tolerance": 1e-4}, r"gated_lpi\.LPI\(estimator=Certified\(tolerance=0\.0001\)\)"),
        ({"unit": "ffn"}, "no such option"),
    ],
)
def test_options_in_the_wrong_place_are_refused_with_the_right_one(model, option, place):
    with pytest.raises(OptionError, match=place):
        gated_lpi.attribute(model, FACTS, **option)


def test_a_method_of_ones_own_is_scored_kept_and_named(model):
    class Coefficients(Method):
        """The plain coefficients."""

        name = "coefficient"

        def prepare(self, readout, room):
            return len(readout.weight), room

        def score(self, state, problem):
            assert state[0] == problem.readout.vocabulary
            scores = torch.zeros(len(problem.targets), problem.n_units)
            for slab in problem.slabs:
                units = slice(slab.start, slab.start + len(slab.values))
                scores[problem.prompts(slab), units] = slab.coefficients.float()
            return all_exact(problem, scores)

    found = gated_lpi.attribute(model, FACTS, method=Coefficients(), units=("ffn", "attention"))
    assert found["coefficient"].dims == ("prompt", "unit")
    assert "units" not in found["coefficient"].attrs
    assert found.attrs["method"] == "coefficient"
    assert "lpi" not in found
    asked_of = encode_facts(model, FACTS).prompts
    by_hand = np.zeros(found["coefficient"].shape, dtype=np.float32)
    start = 0
    for rows, problem in block_problems(model, asked_of, scoring=Scoring(batch_size=2)):
        start = 0 if problem.block is model.blocks[0] else start
        assert not any(slab.values.requires_grad for slab in problem.slabs)  # no graph grows behind the reader's back
        for slab in problem.slabs:
            some = rows[problem.prompts(slab).numpy()]
            by_hand[np.ix_(some, start + slab.start + np.arange(len(slab.values)))] = slab.coefficients.float()
        start += problem.n_units
    assert np.abs(by_hand - found["coefficient"].values).max() < 1e-5
    with pytest.raises(
        OptionError, match=r"method='lpi' was given; expected the options of one \(LPI, .*\), or a Method"
    ):
        gated_lpi.attribute(model, FACTS, method="lpi")
