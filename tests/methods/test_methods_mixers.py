"""Units of mixers that are not attention: estimators, heads, blocks, gradients, silencing, on layers of every make-up.

| type | its layers |
|---|---|
| mamba | a mixer without heads, and nothing else |
| nemotron_h | a mixer with heads, an FFN of experts, attention, a dense FFN: one in each |
| falcon_h1 | attention and a mixer beside each other, then an FFN; each scaled by a number of its own |
| olmo_hybrid | a mixer or attention, then an FFN; post-norms where there is attention |
| lfm2 | a short convolution or attention, then an FFN |
"""

from contextlib import ExitStack

import numpy as np
import pytest
import torch

from flat import asked
from gated_lpi import LPI, GradientTimesActivation, Rollout, TrueEffect
from gated_lpi.ablation import silenced
from gated_lpi.errors import ModelError, OptionError
from gated_lpi.facts import EncodedPrompt, Prompt
from gated_lpi.loading import wrap_model
from gated_lpi.methods import attribute_encoded
from gated_lpi.methods.dataset import build_dataset
from gated_lpi.methods.lpi.reference import unit_lpi
from gated_lpi.options import Scoring
from gated_lpi.trace import last_logits, trace
from tiny_models import encoded, random_prompts
from tiny_types import TYPES, tiny_of_type

MIXED = tuple(one for one in ("mamba", "nemotron_h", "falcon_h1", "olmo_hybrid", "lfm2") if one in TYPES)
KINDS = {
    "mamba": ["mixer", "mixer"],
    "nemotron_h": ["mixer", "ffn", "attention", "ffn"],
    "falcon_h1": ["attention", "mixer", "ffn"] * 2,
    "olmo_hybrid": ["mixer", "ffn", "attention", "ffn"],
    "lfm2": ["mixer", "ffn", "attention", "ffn"],
}
HEADS = {"mamba": 0, "nemotron_h": 4, "falcon_h1": 4, "olmo_hybrid": 4, "lfm2": 0}
TARGET = 5


@pytest.fixture(scope="module", params=MIXED)
def mixed(request):
    return request.param, wrap_model(tiny_of_type(request.param))


def scored(model, prompts, **flat):
    """Scores by name, and the greatest of the bounds on their errors."""
    collector, results = attribute_encoded(model, encoded(prompts, TARGET), *asked(**flat))
    found = {name: collector.result(name).astype(np.float64) for name in collector.collected}
    return found, results.blocks["error_bound"].max()


def test_layers_have_the_blocks_that_they_have_and_units_say_so(mixed):
    model_type, model = mixed
    assert [block.kind for block in model.blocks] == KINDS[model_type]
    assert model.n_layers == len(model.module.get_submodule(model.family.layers))
    assert model.coverage > 0.98
    for block in model.blocks:
        if block.kind == "mixer":
            assert block.n_heads == HEADS[model_type]
            of_block = (model.units.layer == block.layer) & (model.units.block == "mixer")
            assert of_block.sum() == block.n_units
            assert len(model.units.find(f"L{block.layer} mixer")) == block.n_units
    for unit in range(0, len(model.units), 7):
        for name in (model.label(unit), model.units.short(unit)):
            assert model.units.find(name).tolist() == [unit]
    for head in range(len(model.heads)):
        assert model.heads.find(model.heads.label(head)) == head
        assert set(model.units.block[model.head_units(head)]) == {model.heads.block[head]}


def test_every_layer_reads_what_the_model_reads_at_the_last_position(mixed):
    _, model = mixed
    (prompt,) = random_prompts(1)
    traced = trace(model, [prompt])
    entered = {}
    with ExitStack() as hooks:
        for index, layer in enumerate(model.module.get_submodule(model.family.layers)):

            def keep(_, args, kwargs, index=index):
                entered[index] = (args[0] if args else kwargs["hidden_states"])[0, -1]

            hooks.callback(layer.register_forward_pre_hook(keep, with_kwargs=True).remove)
        model.module(torch.tensor([prompt]), use_cache=False)
    for block, seen in zip(model.blocks, traced.blocks, strict=True):
        if block.kind != "ffn":  # attention and mixer of a layer stand beside each other: both read its input
            assert torch.allclose(seen.base[0], entered[block.layer], atol=1e-6)


@pytest.mark.parametrize("norm", ["frozen", "recomputed"])
def test_estimators_agree_with_the_reference(mixed, norm):
    _, model = mixed
    prompts = random_prompts(3)
    true, _ = scored(model, prompts, estimator="reference", norm=norm)
    for estimator in ("exact", "certified"):
        if (norm, estimator) == ("recomputed", "certified"):
            continue
        found, bound = scored(model, prompts, estimator=estimator, norm=norm)
        for name in ("lpi", "block_lpi", *(("head_lpi",) if len(model.heads) else ())):
            wrong = np.abs(found[name] - true[name]).max()
            assert wrong < (2e-5 if estimator == "exact" else bound + 2e-5), name
            assert np.abs(true[name]).max() > 1e-2


def test_heads_and_blocks_are_scores_of_the_summed_contribution_by_hand(mixed):
    _, model = mixed
    prompts = random_prompts(2)
    found, _ = scored(model, prompts, estimator="exact")
    traced = trace(model, prompts)
    scale, readout = model.readout.inverse_scale(traced.final_residual), model.readout
    head = 0
    for index, (block, seen) in enumerate(zip(model.blocks, traced.blocks, strict=True)):
        if block.kind == "mixer":
            (slab,) = seen.slabs(block)
            each = slab.coefficients.unsqueeze(-1) * slab.values.double()  # [P, n, d]
            wide = readout.to(dtype=torch.float64)
            for prompt in range(len(prompts)):
                given = seen.base[prompt].double(), TARGET, wide, scale[prompt].double()
                whole = unit_lpi(given[0], each[prompt].sum(dim=0), *given[1:])
                assert found["block_lpi"][prompt, index] == pytest.approx(float(whole), abs=1e-5)
                for h, of_head in enumerate(each[prompt].chunk(block.n_heads) if block.n_heads else ()):
                    score = unit_lpi(given[0], of_head.sum(dim=0), *given[1:])
                    assert found["head_lpi"][prompt, head + h] == pytest.approx(float(score), abs=1e-5)
        head += block.n_heads


def test_silencing_equals_a_column_of_zeros_and_goes_through_the_state(mixed):
    model_type, model = mixed
    prompts = random_prompts(4)
    units = np.flatnonzero(model.units.block == "mixer")[::5]
    intact = last_logits(model, prompts)
    with silenced(model, units):
        everywhere = last_logits(model, prompts)
    with silenced(model, units, at="last"):
        last = last_logits(model, prompts)
    assert torch.equal(last_logits(model, prompts), intact)
    assert (everywhere - intact).abs().max() > 1e-3
    assert (everywhere - last).abs().max() > 1e-4  # what was written earlier is read by later layers' states
    without = wrap_model(tiny_of_type(model_type))
    with torch.no_grad():
        for block, writer, expert, column in zip(*without.locate(units), strict=True):
            without.blocks[block].writers[writer].raw_values(expert)[column] = 0.0
    assert torch.allclose(everywhere, last_logits(without, prompts), atol=1e-5)


def test_gradients_are_derivatives_of_the_scaled_unit_and_true_effects_are_what_silencing_takes(mixed):
    _, model = mixed
    prompts = encoded(random_prompts(2), TARGET)
    scoring = Scoring(units=("mixer",))
    gradient = attribute_encoded(model, prompts, GradientTimesActivation(), scoring)[0].result("grad_x_act")
    assert gradient.shape[1] == (model.units.block == "mixer").sum()

    def log_p():
        return last_logits(model, [one.ids for one in prompts]).double().log_softmax(-1)[:, TARGET].numpy()

    mine = np.flatnonzero(model.units.block == "mixer")
    for place in np.argsort(-np.abs(gradient).sum(axis=0))[:2]:
        spot = model.locate(mine[place])
        writer = model.blocks[int(spot.block)].writers[int(spot.writer)]
        sides = []
        for factor in (1.01, 0.99):

            def scale(_, args, factor=factor, column=int(spot.column)):
                changed = args[0].clone()
                changed[..., column] *= factor
                return (changed,)

            handle = writer.module.register_forward_pre_hook(scale)
            sides.append(log_p())
            handle.remove()
        assert (sides[0] - sides[1]) / 0.02 == pytest.approx(gradient[:, place], abs=2e-3)
    effect = attribute_encoded(model, prompts, TrueEffect(sample=2), scoring)[0].result("true_effect")
    for place in np.flatnonzero(~np.isnan(effect[0])):
        with silenced(model, mine[[place]]):
            lost = log_p()
        assert log_p() - lost == pytest.approx(effect[:, place], abs=1e-5)


def test_scores_of_mixers_say_what_they_are_of(mixed):
    model_type, model = mixed
    prompts, scoring = encoded(random_prompts(2), TARGET), Scoring(units=("mixer", "heads", "blocks"))
    collected = attribute_encoded(model, prompts, LPI(), scoring)
    scores = build_dataset(model, prompts, scoring.units, {}, *collected)
    assert set(scores["block"].values.tolist()) == {"mixer"}
    assert scores["block_kind"].values.tolist() == KINDS[model_type]
    if HEADS[model_type]:
        assert scores["head_unit_block"].values.tolist() == model.heads.block.tolist()
        assert scores.sizes["head_unit"] == len(model.heads)


def test_rollout_and_positions_are_refused_where_there_is_no_attention_to_follow():
    model = wrap_model(tiny_of_type("mamba"))
    prompts = [EncodedPrompt((1, 2, 3), TARGET, "", Prompt("", ""))]
    with pytest.raises(ModelError, match="layer 0 mixer of this model mixes positions by MambaMixer"):
        attribute_encoded(model, prompts, Rollout(), Scoring(units=("heads",)))
    with pytest.raises(OptionError, match="has no attention"):
        attribute_encoded(model, prompts, LPI(), Scoring(positions="resolved"))


def test_a_head_of_a_mixer_is_named_apart_from_one_of_attention():
    model = wrap_model(tiny_of_type("falcon_h1"))
    heads = [model.heads.label(head) for head in range(8)]
    assert heads[0] == "layer 0 head 0"
    assert heads[4:6] == ["layer 0 mixer head 0", "layer 0 mixer head 1"]
    assert model.heads.find("L0 mixer H1") == 5
    assert set(model.units.find("L0 H1").tolist()).isdisjoint(model.units.find("L0 mixer H1").tolist())
    with pytest.raises(OptionError, match="layer 0 has heads 0 to 3, mixer heads 0 to 3, neurons of a head 0 to 7"):
        model.units.find("L0 mixer H9 n1")
