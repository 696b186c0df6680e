"""LPI and direct effect against foils, LPI of whole answers, and the linear term: against the definitions."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from gated_lpi.errors import FactsError, OptionError
from gated_lpi.facts import EncodedPrompt, Prompt
from gated_lpi.methods import attribute_encoded, block_problems, unit_lpi
from gated_lpi.methods.lpi.reference import _contributions
from gated_lpi.options import ALL_UNITS, LPI, Certified, DirectEffect, Exact, Reference, Scoring
from passes import questions, scores_of, values_of
from tiny_models import CASES, MOE_CASES, tiny_model

TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5}
SOME = ("GPT-2", "Gemma2", "OLMo2", "Qwen2-MoE", "GPT-OSS")
NORMS = [*((case, "frozen") for case in CASES), *((case, "recomputed") for case in SOME)]
OTHERS = [pytest.param(c, "recomputed", marks=pytest.mark.slow) for c in CASES if str(c) not in SOME]


@pytest.mark.parametrize(("case", "norm"), [*NORMS, *OTHERS], ids=str)
def test_every_estimator_of_a_contrast_is_the_reference(case, norm):
    prompts = questions(4)[::2]
    for dtype in (torch.float64, torch.float32):
        model = tiny_model(case, dtype)
        slow = scores_of(model, LPI(norm=norm, foil="relation", estimator=Reference()), prompts)[0]["lpi"]
        assert np.abs(slow).max() > 0.05
        for estimator in (Exact(), Certified()):
            method = LPI(norm=norm, foil="relation", estimator=estimator)
            found, results = scores_of(model, method, prompts)
            assert np.abs(found["lpi"] - slow).max() < TOLERANCE[dtype] * max(1, np.abs(slow).max())
            assert (results.blocks["error_bound"] == 0).all()


@pytest.mark.parametrize("foil", ["fact", "best"])
@pytest.mark.parametrize("case", SOME)
def test_other_foils_too(case, foil):
    model, prompts = tiny_model(case, torch.float64), questions(2)
    slow = scores_of(model, LPI(foil=foil, estimator=Reference()), prompts)[0]["lpi"]
    fast = scores_of(model, LPI(foil=foil), prompts)[0]["lpi"]
    assert np.abs(fast - slow).max() < 1e-9
    # Score by score it is I(target) − I(foil), each by the plain method.
    plain = scores_of(model, LPI(estimator=Exact()), prompts)[0]["lpi"]
    if foil == "fact":
        against = [dataclasses.replace(item, target_id=item.foil_id, answer_ids=(item.foil_id,)) for item in prompts]
        other = scores_of(model, LPI(estimator=Exact()), against)[0]["lpi"]
        assert np.abs(plain - other - fast).max() < 1e-9


def contrast(problem, prompt, contribution):
    """The definition: I of the target less the mean I of the foils."""
    readout = problem.readout.to(dtype=torch.float64)
    scale = None if problem.inverse_scale is None else problem.inverse_scale[prompt].double()
    base = problem.base[prompt].double()
    foils = [] if problem.foils is None else [f for f in problem.foils[prompt].tolist() if f >= 0]
    scores = [unit_lpi(base, contribution, token, readout, scale) for token in (int(problem.targets[prompt]), *foils)]
    return scores[0] - (np.mean(scores[1:]) if foils else 0.0)


@pytest.mark.parametrize(("case", "norm"), NORMS, ids=str)
def test_groups_of_a_contrast_are_the_definition_on_summed_contributions(case, norm):
    model, prompts = tiny_model(case, torch.float64), questions(4)[::2]
    found, results = scores_of(model, LPI(norm=norm, foil="relation"), prompts, units=ALL_UNITS)
    plain = attribute_encoded(model, prompts, LPI(norm=norm))[1]
    assert (results.blocks["base_logprob"] == plain.blocks["base_logprob"]).all()
    assert (results.target_logprob == plain.target_logprob).all()
    assert (results.target_rank == plain.target_rank).all()
    index = -1
    for rows, problem in block_problems(model, prompts, norm=norm, foil="relation"):
        index = (index + 1) % len(model.blocks)
        block, start = problem.block, model.block_units(index).start
        for row, prompt in enumerate(rows[:1]):
            written = dict(_contributions(problem, row))
            whole = contrast(problem, row, sum(written.values()))
            assert abs(found["block_lpi"][prompt, index] - whole) < 1e-9
            groups = model.units.head if block.kind == "attention" else model.units.expert
            table = model.heads if block.kind == "attention" else model.experts
            variable = "head_lpi" if block.kind == "attention" else "expert_lpi"
            for group in np.flatnonzero(table.layer == block.layer):
                inside = [u for u in written if groups[start + u] == table.index[group]]
                expected = contrast(problem, row, sum(written[u] for u in inside)) if inside else 0.0
                assert abs(found[variable][prompt, group] - expected) < 1e-9


def test_a_foil_that_is_not_there_or_may_be_the_target_is_refused():
    model, prompts = tiny_model("Llama"), questions(4)
    without = [dataclasses.replace(item, foil_id=None) for item in prompts]
    with pytest.raises(FactsError, match="4 of 4 prompts have no foil"):
        scores_of(model, LPI(foil="fact"), without)
    with pytest.raises(OptionError, match=r"may be the prediction itself.*target='object'"):
        LPI(foil="fact", target="top1")
    with pytest.raises(OptionError, match="answer='all' was given with foil='best'"):
        DirectEffect(foil="best", answer="all")
    top = scores_of(model, LPI(foil="relation", target="top1"), prompts)
    slow = scores_of(model, LPI(foil="relation", target="top1", estimator=Reference()), prompts)
    assert np.abs(top[0]["lpi"] - slow[0]["lpi"]).max() < 2e-5


def forced(prompts):
    """Each token of an answer as the target of a prompt of its own, after those before it."""
    return [
        EncodedPrompt(item.ids + item.answer_ids[:k], token, "", Prompt("", ""))
        for item in prompts
        for k, token in enumerate(item.answer_ids)
    ]


def added(values, prompts):
    """Sums [P, ...] over the answers' tokens of `values`, one row a token."""
    ends = np.cumsum([0, *(len(item.answer_ids) for item in prompts)])
    return np.stack([values[a:b].sum(axis=0) for a, b in itertools.pairwise(ends)])


@pytest.mark.parametrize("norm", ["frozen", "recomputed"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_score_of_an_answer_is_the_sum_over_its_tokens_each_after_those_before(case, norm):
    model = tiny_model(case, torch.float64)
    prompts = [*questions(2, answer=3), *questions(1, seed=7, answer=1)]  # of 3 tokens, and of 1
    method = {"norm": norm, "estimator": Exact()}
    whole, results = scores_of(model, LPI(answer="all", **method), prompts, units=ALL_UNITS)
    parts, single = scores_of(model, LPI(**method), forced(prompts), units=ALL_UNITS)
    for name in ("lpi", "head_lpi", "block_lpi", *(["expert_lpi"] if len(model.experts) else [])):
        np.testing.assert_allclose(whole[name], added(parts[name], prompts), atol=5e-6, err_msg=name)
    np.testing.assert_allclose(results.target_logprob, added(single.target_logprob, prompts), atol=5e-6)
    np.testing.assert_allclose(results.target_logprob, values_of(model, prompts, answer="all"), atol=5e-6)
    np.testing.assert_allclose(results.blocks["base_logprob"], added(single.blocks["base_logprob"], prompts), atol=5e-6)
    ranks = np.split(single.target_rank, np.cumsum([len(item.answer_ids) for item in prompts])[:-1])
    assert results.target_rank.tolist() == [rank.max() for rank in ranks]
    direct = scores_of(model, DirectEffect(answer="all", norm=norm), prompts)[0]["direct_effect"]
    each = scores_of(model, DirectEffect(norm=norm), forced(prompts))[0]["direct_effect"]
    np.testing.assert_allclose(direct, added(each, prompts), atol=5e-6)


@pytest.mark.parametrize("tolerance", [1e-2, 1e-4])
@pytest.mark.parametrize("positions", ["summed", "resolved"])
@pytest.mark.parametrize("memory", [None, "60MB"])
@pytest.mark.parametrize("case", ["Llama", "GPT-2", "OLMoE", "DeepSeek-V3"])
def test_bounds_of_whole_answers_hold_and_stay_within_the_tolerance(case, positions, tolerance, memory):
    model = tiny_model(case)
    prompts = [*questions(4, answer=3), *questions(2, seed=7, answer=1)]
    exact = scores_of(tiny_model(case, torch.float64), LPI(answer="all", estimator=Exact()), prompts)[0]["lpi"]
    method = LPI(answer="all", estimator=Certified(tolerance=tolerance))
    found, results = scores_of(model, method, prompts, positions=positions, memory=memory)
    bound = results.blocks["error_bound"]
    assert (bound <= tolerance).all()
    widths = [block.n_units for block in model.blocks]
    if positions == "summed":
        error = np.abs(found["lpi"] - exact)
        assert (error <= np.repeat(bound, widths, axis=1) + 2e-5).all()  # what float32 makes of the model itself
        return
    attention = np.flatnonzero(model.units.block == "attention")
    for prompt, item in enumerate(prompts):
        # Source positions: the prompt's, and the answer's but for its last token.
        assert results.positions[prompt].shape == (len(item.full_ids) - 1, len(attention))
        summed = results.positions[prompt].sum(axis=0)
        np.testing.assert_allclose(summed, found["lpi"][prompt, attention], atol=1e-5)
    exactly = scores_of(model, LPI(answer="all", estimator=Exact()), prompts, positions="resolved")[1]
    for prompt in range(len(prompts)):
        assert np.abs(results.positions[prompt] - exactly.positions[prompt]).max() <= tolerance + 2e-5


def by_hand(model, prompts, norm, gate, step=1e-3):
    """The derivative of log p, by differences, as each unit's contribution is added to the base: [P, N]."""
    found = np.zeros((len(prompts), len(model.units)))
    index = -1
    for rows, problem in block_problems(model, prompts, norm=norm, gate=gate):
        index = (index + 1) % len(model.blocks)
        start = model.block_units(index).start
        readout = problem.readout
        for row, prompt in enumerate(rows):
            written = dict(_contributions(problem, row))
            units, parts = np.array(list(written)), torch.stack(list(written.values()))
            scale = None if problem.inverse_scale is None else problem.inverse_scale[row]
            target = int(problem.targets[row])

            def value(factor, problem=problem, row=row, parts=parts, readout=readout, scale=scale, target=target):
                residual = problem.base[row] + factor * parts
                held = None if scale is None else scale.expand(len(parts))
                return readout.log_probability(residual, target, held)

            slope = (8 * (value(step) - value(-step)) - (value(2 * step) - value(-2 * step))) / (12 * step)
            found[prompt, start + units] = slope.numpy()
    return found


@pytest.mark.parametrize("norm", ["frozen", "recomputed"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_direct_effect_is_the_slope_of_lpi_where_the_contribution_begins(case, norm):
    model, prompts = tiny_model(case, torch.float64), questions(2)
    found = scores_of(model, DirectEffect(norm=norm), prompts)[0]["direct_effect"]
    assert np.abs(found - by_hand(model, prompts, norm, "gated")).max() < 1e-7 * max(1, np.abs(found).max())


@pytest.mark.parametrize("gate", ["uniform", "ungated", "open"])
@pytest.mark.parametrize("case", MOE_CASES, ids=str)
def test_so_it_is_for_every_gate(case, gate):
    model, prompts = tiny_model(case, torch.float64), questions(1)
    found = scores_of(model, DirectEffect(gate=gate), prompts)[0]["direct_effect"]
    assert np.abs(found - by_hand(model, prompts, "frozen", gate)).max() < 1e-7 * max(1, np.abs(found).max())
    if str(case) != "PhiMoE" or gate == "open":  # whose gates of chosen experts are 1
        assert np.abs(found - scores_of(model, DirectEffect(), prompts)[0]["direct_effect"]).max() > 1e-3


@pytest.mark.parametrize("case", ["Llama", "GPT-2", "OLMoE", "Granite-MoE"])
def test_under_the_frozen_norm_it_is_the_target_over_the_mean_under_p(case):
    model, prompts = tiny_model(case, torch.float64), questions(3)
    found = scores_of(model, DirectEffect(), prompts)[0]["direct_effect"]
    lpi = scores_of(model, LPI(estimator=Exact()), prompts)[0]["lpi"]
    index = -1
    for rows, problem in block_problems(model, prompts):
        index = (index + 1) % len(model.blocks)
        start = model.block_units(index).start
        p = torch.softmax(problem.readout.logits(problem.base, problem.inverse_scale), dim=-1)
        for row, prompt in enumerate(rows):
            for unit, contribution in _contributions(problem, row)[::7]:
                u = problem.readout.directions(contribution) * problem.inverse_scale[row]
                expected = float(u[problem.targets[row]] - (p[row] * u).sum())
                assert abs(found[prompt, start + unit] - expected) < 1e-9
    # What is left out is of second order, and never adds: I ≤ its linear term.
    assert (lpi <= found + 1e-9).all()
    few = np.abs(found) < 1e-3
    assert np.abs(lpi - found)[few].max() < np.abs(lpi - found).max() / 10


@pytest.mark.parametrize("case", ["Llama", "Qwen2-MoE"])
def test_with_a_foil_and_the_frozen_norm_the_direct_effect_is_lpi(case):
    model, prompts = tiny_model(case, torch.float64), questions(4)[::2]
    for foil in ("fact", "relation", "best"):
        direct = scores_of(model, DirectEffect(foil=foil), prompts)[0]["direct_effect"]
        lpi = scores_of(model, LPI(foil=foil, estimator=Reference()), prompts)[0]["lpi"]
        assert np.abs(direct - lpi).max() < 1e-9


def test_the_direct_effect_by_source_position_adds_up():
    model, prompts = tiny_model("GPT-OSS", torch.float64), questions(3)
    whole = scores_of(model, DirectEffect(), prompts)[0]["direct_effect"]
    collector, results = attribute_encoded(model, prompts, DirectEffect(), Scoring(positions="resolved"))
    assert np.abs(collector.result("direct_effect") - whole).max() < 1e-6
    assert set(results.positions) == {0, 1, 2}


def test_a_method_without_groups_refuses_units_of_groups_alone():
    model, prompts = tiny_model("OLMoE"), questions(2)
    with pytest.raises(OptionError, match=r"direct_effect scores units alone.*none of 'ffn', 'attention'"):
        scores_of(model, DirectEffect(), prompts, units=("heads", "blocks"))
