"""Silencing by means and by draws is what a model edited by hand computes, on every family, and leaves no trace."""

import copy

import numpy as np
import pytest
import torch

from gated_lpi.ablation import target_ranks
from gated_lpi.errors import OptionError
from gated_lpi.facts import encode
from gated_lpi.interventions import record_coefficients, silenced
from gated_lpi.loading import wrap_model
from gated_lpi.trace import expert_coefficients, last_logits, trace
from tiny_models import CASES, random_prompts, tiny_model
from tiny_text import FACTS, speaking_model


def pick(model, n=40, seed=0):
    return np.sort(np.random.default_rng(seed).choice(len(model.units), n, replace=False))


def edited(model, units, value, positions=None):
    """The same model whose projections and experts are replaced by hand: the units' coefficients are values given.

    value: (unit) → what its coefficient becomes; positions: None, or the flat token indices where it does.
    """
    changed = wrap_model(copy.deepcopy(model.module))
    by_writer = {}
    for unit, block, writer, expert, column in zip(units, *changed.locate(units), strict=True):
        by_writer.setdefault((int(block), int(writer)), []).append((int(expert), int(column), float(value(int(unit)))))
    for (block, writer), entries in by_writer.items():
        writer = changed.blocks[block].writers[writer]
        edit = _experts if writer.kind == "routed" else _projection
        writer.module.forward = edit(writer, entries, positions)
    return changed


def _projection(writer, entries, positions):
    plain = writer.module.forward

    def forward(states):
        states = states.clone()
        flat = states.view(-1, states.shape[-1])
        for token in range(len(flat)) if positions is None else positions:
            for _, column, value in entries:
                flat[token, column] = value
        return plain(states)

    return forward


def _experts(writer, entries, positions):
    module = writer.module

    def forward(hidden, experts, gates):
        coefficients = expert_coefficients(module, hidden, experts, gates)
        output = torch.zeros_like(hidden)
        for token in range(len(hidden)):
            for slot, expert in enumerate(experts[token].tolist()):
                m = coefficients[token, slot].clone()
                if positions is None or token in positions:
                    for of, column, value in entries:
                        if of == expert:
                            m[column] = value
                written = m @ writer.raw_values(expert)
                if writer.bias_parameter is not None:
                    written = written + writer.bias_parameter[expert]
                output[token] += gates[token, slot] * written
        return output

    return forward


def coefficients_by_hand(model, prompts, unit):
    """A unit's coefficients at every token of every prompt that has one, from a trace of each prompt alone."""
    block, writer, expert, column = (int(place) for place in model.locate(unit))
    found = []
    for ids in prompts:
        traced = trace(model, [ids], [range(len(ids))]).blocks[block].writers[writer]
        if traced.experts is None:
            found += traced.coefficients[:, column].tolist()
        else:
            token, slot = (traced.experts == expert).nonzero(as_tuple=True)
            found += traced.coefficients[token, slot, column].tolist()
    return np.array(found)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_reference_is_what_traces_say(case):
    model, prompts = tiny_model(case), random_prompts(6)
    units = pick(model, 15)
    reference = record_coefficients(model, prompts, units, samples=1000)
    assert reference.units.tolist() == units.tolist()
    for row, unit in enumerate(units):
        by_hand = coefficients_by_hand(model, prompts, unit)
        assert reference.tokens[row] == reference.kept[row] == len(by_hand)
        samples = reference.samples[row, : len(by_hand)]
        np.testing.assert_allclose(np.sort(samples), np.sort(by_hand), atol=1e-5)
        np.testing.assert_allclose(reference.mean[row], by_hand.mean() if len(by_hand) else 0.0, atol=1e-5)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_means_equal_a_model_edited_by_hand(case):
    model, prompts = tiny_model(case), random_prompts(6)
    units = pick(model)
    reference = record_coefficients(model, random_prompts(8, seed=5), units)
    intact = last_logits(model, prompts)
    with silenced(model, units, "mean", reference):
        silent = last_logits(model, prompts)
    by_hand = edited(model, units, lambda unit: reference.mean[np.flatnonzero(units == unit)[0]])
    assert torch.allclose(silent, last_logits(by_hand, prompts), atol=1e-5)
    assert (silent - intact).abs().max() > 1e-3
    assert torch.equal(last_logits(model, prompts), intact)


@pytest.mark.parametrize("how", ["zero", "mean", "resample"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_last_positions_alone_are_silenced_whatever_the_padding(case, how):
    # A reference of one token: its mean and its only draw are the same number. A unit of an expert that this token
    # was not routed to becomes 0.
    model, prompts = tiny_model(case), random_prompts(6)
    units = pick(model)
    reference = record_coefficients(model, [[3]], units)
    with silenced(model, units, how, reference, at="last"):
        together = last_logits(model, prompts)
    value = (lambda _: 0.0) if how == "zero" else lambda u: reference.mean[np.flatnonzero(units == u)[0]]
    for ids, found in zip(prompts, together, strict=True):
        by_hand = last_logits(edited(model, units, value, positions=[len(ids) - 1]), [ids])[0]
        assert torch.allclose(found, by_hand, atol=1e-5)
    with silenced(model, units, how, reference):
        assert (last_logits(model, prompts) - together).abs().max() > 1e-4


@pytest.mark.parametrize("case", ["OLMoE", "Qwen2-MoE", "DeepSeek-V3", "Gemma2", "GPT-2"])
def test_draws_come_from_the_reference_and_do_not_depend_on_the_batch(case):
    model, prompts = tiny_model(case), random_prompts(6)
    units = pick(model)
    reference = record_coefficients(model, random_prompts(9, seed=7), units)
    with silenced(model, units, "resample", reference, seed=3):
        together = last_logits(model, prompts)
        seen = [coefficients_by_hand_silenced(model, prompts, unit) for unit in units[:6]]
        alone = torch.cat([last_logits(model, [ids]) for ids in prompts])
    assert torch.allclose(together, alone, atol=1e-5)
    for row, found in enumerate(seen):
        assert all(np.isclose(reference.samples[row], value, atol=1e-6).any() for value in found)
    with silenced(model, units, "resample", reference, seed=4):
        assert (last_logits(model, prompts) - together).abs().max() > 1e-4


def coefficients_by_hand_silenced(model, prompts, unit):
    """The unit's coefficients as its projection sees them; nothing where an expert computes them inside."""
    block, writer, _, column = (int(place) for place in model.locate(unit))
    writer = model.blocks[block].writers[writer]
    if writer.kind == "routed":
        return []
    seen = []
    hook = writer.module.register_forward_pre_hook(lambda _, args: seen.append(args[0].flatten(0, -2)[:, column]))
    last_logits(model, prompts)
    hook.remove()
    return torch.cat(seen).tolist()


def test_draws_of_an_experts_units_are_those_of_the_reference():
    # One silenced unit of the last block, at the last position: the final residual moves by gate · (m' − m) · v.
    model, prompts = tiny_model("OLMoE", torch.float64), random_prompts(12)
    traced = trace(model, prompts)
    routed, block = traced.blocks[-1].writers[0], len(model.blocks) - 1
    expert = int(routed.experts[0, 0])
    unit = model.block_units(block).start + expert * model.blocks[-1].writers[0].width + 4
    reference = record_coefficients(model, random_prompts(9, seed=7), [unit])
    with silenced(model, np.array([unit]), "resample", reference):
        moved = trace(model, prompts).final_residual - traced.final_residual
    value = model.value(unit)
    drawn = set()
    for prompt in range(len(prompts)):
        slot = (routed.experts[prompt] == expert).nonzero()
        change = float(moved[prompt] @ value / (value @ value))
        if not len(slot):
            assert change == 0.0
            continue
        slot = int(slot)
        other = change / float(routed.gates[prompt, slot]) + float(routed.coefficients[prompt, slot, 4])
        nearest = np.abs(reference.samples[0, : reference.kept[0]] - other).argmin()
        assert reference.samples[0, nearest] == pytest.approx(other, abs=1e-9)
        drawn.add(int(nearest))
    assert len(drawn) > 1


def test_a_sample_of_tokens_is_kept_and_is_the_same_for_units_of_one_projection():
    model, prompts = tiny_model("Llama"), random_prompts(20)
    everything = record_coefficients(model, prompts, samples=10_000)
    some = record_coefficients(model, prompts, samples=7)
    np.testing.assert_allclose(some.mean, everything.mean)
    assert set(some.kept.tolist()) == {7}
    rows = np.arange(model.block_units(1).start, model.block_units(1).stop)
    columns = [
        np.flatnonzero(np.isclose(everything.samples[rows], some.samples[rows, j : j + 1]).all(axis=0))
        for j in range(7)
    ]
    assert all(len(found) for found in columns)
    assert len({int(found[0]) for found in columns}) > 1
    assert record_coefficients(model, prompts, samples=7).samples.tolist() == some.samples.tolist()
    assert record_coefficients(model, prompts, samples=7, seed=1).samples.tolist() != some.samples.tolist()


def test_an_expert_that_no_reference_token_was_routed_to_falls_silent():
    model, prompts = tiny_model("OLMoE"), random_prompts(6)
    reference = record_coefficients(model, [[3]])
    unseen = reference.units[reference.tokens == 0]
    assert len(unseen)
    with silenced(model, unseen):
        zero = last_logits(model, prompts)
    for how in ("mean", "resample"):
        with silenced(model, unseen, how, reference):
            assert torch.equal(last_logits(model, prompts), zero)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_hooks_are_gone_after_an_error_inside_and_one_of_their_own(case):
    model, prompts = tiny_model(case), random_prompts(3)
    intact, units = last_logits(model, prompts), pick(model)
    reference = record_coefficients(model, prompts, units)
    with pytest.raises(KeyError), silenced(model, units, "resample", reference, at="last"):
        raise KeyError
    ids = torch.tensor([prompts[0]])
    with silenced(model, units, at="last"), pytest.raises(OptionError, match="where its prompts end"):
        model.module(input_ids=ids)
    assert torch.equal(last_logits(model, prompts), intact)
    with silenced(model, units):
        model.module(input_ids=ids)  # all positions: any forward pass will do
    assert torch.equal(last_logits(model, prompts), intact)


def test_ranks_under_silencing_do_not_depend_on_the_batch():
    model = speaking_model("OLMoE")
    encoded = encode(model.tokenizer, FACTS.prompts("all"))
    units = pick(model, 120)
    reference = record_coefficients(model, [item.ids for item in encoded], units)
    with silenced(model, units, "resample", reference, at="last"):
        ranks = [target_ranks(model, encoded, batch_size=size).tolist() for size in (1, 5, 256)]
    assert ranks[0] == ranks[1] == ranks[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"how": "noise"}, "how='noise' was given; expected one of 'zero', 'mean', 'resample'"),
        ({"at": "first"}, "at='first' was given; expected one of 'all', 'last'"),
        ({"how": "mean"}, "without a reference; make one with record_coefficients"),
        ({"how": "resample"}, "without a reference"),
    ],
)
def test_what_cannot_be_silenced_is_refused(options, message):
    with pytest.raises(OptionError, match=message), silenced(tiny_model("OLMoE"), np.array([1]), **options):
        pass


def test_a_reference_of_other_units_is_refused():
    model = tiny_model("OLMoE")
    for units in ([1, 2], []):
        reference = record_coefficients(model, [[1, 2]], np.array(units, dtype=np.int64))
        with pytest.raises(OptionError, match="unit 3 is silenced"), silenced(model, np.array([3]), "mean", reference):
            pass


def test_a_reference_needs_a_sample():
    with pytest.raises(OptionError, match="samples=0"):
        record_coefficients(tiny_model("OLMoE"), [[1, 2]], samples=0)
