"""Removed experts: the smaller model computes what the original does with their router logits at −∞."""

import json

import numpy as np
import pytest
import torch

from gated_lpi import load_model
from gated_lpi.errors import ModelError, OptionError, RunExistsError
from gated_lpi.pruning import ExpertRanking, prune_experts, save_pruned
from gated_lpi.trace import last_logits
from tiny_models import MOE_CASES, random_prompts, tiny_model
from tiny_text import speaking_model

PROMPTS = random_prompts(6)
EVERY = [range(len(ids)) for ids in PROMPTS]
FEWEST = {"DeepSeek-V3": 4, "PhiMoE": 2}  # two groups of two; sparsemixer takes two


def ranking(model, seed=0):
    layers = np.array([block.layer for block, _ in model.routed()])
    return ExpertRanking("random", layers, np.random.default_rng(seed).random((len(layers), 8)))


class Forbidding:
    """A router whose removed experts have logits of −∞, whatever its family does with logits."""

    def __init__(self, router, gone):
        self.gone = gone
        self.forward = router.forward

    def __call__(self, hidden):
        linear = torch.nn.functional.linear

        def masked(*args):
            logits = linear(*args)
            return logits.index_fill(-1, self.gone, -torch.inf)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.nn.functional, "linear", masked)
            return self.forward(hidden)


def with_removed_at_minus_infinity(model, pruned, monkeypatch):
    for (_, writer), kept in zip(model.routed(), pruned.kept, strict=True):
        gone = torch.from_numpy(np.setdiff1d(np.arange(8), kept))
        monkeypatch.setattr(writer.router, "forward", Forbidding(writer.router, gone))
        if hasattr(writer.router, "e_score_correction_bias"):
            writer.router.e_score_correction_bias[gone] = -torch.inf


@pytest.mark.parametrize("keep", [6, 1])
@pytest.mark.parametrize("case", MOE_CASES, ids=str)
def test_a_pruned_model_computes_what_the_original_does_without_these_experts(case, keep, monkeypatch):
    keep = max(keep, FEWEST.get(case.name, 1))
    model, generator = tiny_model(case), torch.Generator().manual_seed(1)
    for _, writer in model.routed():
        if hasattr(writer.router, "e_score_correction_bias"):
            writer.router.e_score_correction_bias.uniform_(-0.5, 0.5, generator=generator)
    whole = last_logits(model, PROMPTS, EVERY)
    pruned = prune_experts(model, ranking(model), keep=keep)
    assert torch.equal(last_logits(model, PROMPTS, EVERY), whole)
    smaller = last_logits(pruned.model, PROMPTS, EVERY)
    with_removed_at_minus_infinity(model, pruned, monkeypatch)
    without = last_logits(model, PROMPTS, EVERY)
    assert (smaller - without).abs().max() <= 1e-5 * max(1.0, float(without.abs().max()))
    assert (whole - without).abs().max() > 1e-2
    assert {writer.n_experts for _, writer in pruned.model.routed()} == {keep}
    assert pruned.model.experts_per_token == min(keep, 2)


@pytest.mark.parametrize("case", MOE_CASES, ids=str)
def test_a_pruned_model_is_saved_as_an_ordinary_checkpoint(case, tmp_path):
    """Its files hold experts fused or one by one, as the family's files do."""
    model = speaking_model(case)
    pruned = prune_experts(model, ranking(model), share=0.5)
    save_pruned(pruned, tmp_path / "smaller")
    loaded = load_model(str(tmp_path / "smaller"))
    assert torch.equal(last_logits(loaded, PROMPTS, EVERY), last_logits(pruned.model, PROMPTS, EVERY))
    assert [path.name for path in tmp_path.iterdir()] == ["smaller"]
    assert json.loads((tmp_path / "smaller" / "pruning.json").read_text())["experts_after"] == 4
    again = type(model.module).from_pretrained(tmp_path / "smaller")
    assert getattr(again.config, model.family.experts_attribute) == 4
    with pytest.raises(RunExistsError, match="exists already"):
        save_pruned(pruned, tmp_path / "smaller")


def test_the_experts_of_the_highest_scores_are_kept_and_ties_go_to_the_first():
    model = tiny_model("OLMoE")
    scores = np.array([[0, 5, 1, 1, 1, -1, 9, 2], [3.0] * 8])
    kept = prune_experts(model, ExpertRanking("lpi", np.array([0, 1]), scores), share=0.5).kept
    np.testing.assert_array_equal(kept, [[1, 2, 6, 7], [0, 1, 2, 3]])
    for share, left in ((0.25, 6), (0.3, 6), (0.126, 7)):
        assert prune_experts(model, ranking(model), share=share).kept.shape == (2, left)


def test_groups_of_experts_lose_as_many_each():
    model = tiny_model("DeepSeek-V3")
    scores = np.arange(8.0)[None]
    pruned = prune_experts(model, ExpertRanking("lpi", np.array([1]), scores), share=0.25)
    np.testing.assert_array_equal(pruned.kept, [[1, 2, 3, 5, 6, 7]])


@pytest.mark.parametrize(
    ("case", "options", "message"),
    [
        ("OLMoE", {}, "share=None and keep=None were given; give one"),
        ("OLMoE", {"share": 0.5, "keep": 4}, "share=0.5 and keep=4 were given; give one"),
        ("OLMoE", {"share": 0.1}, "share=0.1 was given, which keeps 8 of 8 experts a layer; expected 1 to 7"),
        ("OLMoE", {"share": 25}, "expected the share of experts to remove, between 0 and 1"),
        ("OLMoE", {"keep": 0}, "keep=0 was given, which keeps 0 of 8"),
        ("PhiMoE", {"keep": 1}, "expected 2 to 7 for a PhiMoE model"),
        ("DeepSeek-V3", {"keep": 2}, "expected 4 to 6 for a DeepSeek-V3 model, a multiple of its 2 groups"),
    ],
)
def test_what_cannot_be_removed_is_refused(case, options, message):
    model = tiny_model(case)
    with pytest.raises(OptionError, match=message):
        prune_experts(model, ranking(model), **options)


def test_other_models_are_refused():
    with pytest.raises(OptionError, match="this Qwen3 model has no routed experts"):
        prune_experts(tiny_model("Qwen3"), ExpertRanking("lpi", np.array([0]), np.ones((1, 8))), keep=2)
    with pytest.raises(OptionError, match="rank the experts of this model"):
        prune_experts(tiny_model("OLMoE"), ExpertRanking("lpi", np.array([0, 1]), np.ones((2, 9))), keep=2)


def test_a_tensor_without_an_axis_of_experts_is_refused():
    model = tiny_model("OLMoE")
    model.blocks[1].writers[0].router.register_buffer("temperature", torch.ones(1))
    with pytest.raises(ModelError, match=r"gate.temperature has shape \[1\], whose first axis is not that of the 8"):
        prune_experts(model, ranking(model), keep=4)
