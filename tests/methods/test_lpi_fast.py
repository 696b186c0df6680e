"""The certified estimator: no score is off by more than its bound says, and no bound exceeds the tolerance."""

import dataclasses
import gc
import itertools
import math
import weakref

import numpy as np
import pytest
import torch
from benchmarks.scorer import Scorer
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from flat import asked, certified
from gated_lpi.methods import BlockProblem, Tier, attribute_encoded
from gated_lpi.methods.lpi import exact
from gated_lpi.methods.lpi.certified.cascade import first_few
from gated_lpi.methods.lpi.certified.distribution import distribution
from gated_lpi.methods.lpi.certified.envelope import Envelope, fitted, uniform
from gated_lpi.methods.lpi.certified.parts import Part
from gated_lpi.methods.lpi.certified.unembedding import Unembedding
from gated_lpi.models import Readout
from gated_lpi.trace import Slab
from tiny_models import CASES, MOE_CASES, encoded, random_prompts, tiny_model

UNITS = ("ffn", "attention")
TOLERANCE = 1e-3


def run(model, prompts, **options):
    collector, results = attribute_encoded(model, encoded(prompts), *asked(units=UNITS, **options))
    return collector.result("lpi").astype(float), results


def by_unit(model, results):
    """Each unit's bound: that of its block, [P, N]."""
    widths = [block.n_units for block in model.blocks]
    return np.repeat(results.blocks["error_bound"], widths, axis=1)


@pytest.mark.parametrize("target", ["object", "top1"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_no_score_is_off_by_more_than_its_bound(case, dtype, target):
    model, prompts = tiny_model(case, dtype), random_prompts(5)
    tolerance = 1e-3 if dtype == torch.float32 else 1e-7
    found, results = run(model, prompts, estimator="fast", tolerance=tolerance, target=target)
    true, _ = run(model, prompts, estimator="reference", target=target)
    if not model.readout.affine:
        assert (results.tier_pairs[:, :2] == 0).all()
        assert np.abs(found - true).max() < (1e-4 if dtype == torch.float32 else 1e-8)
        return
    bound = by_unit(model, results)
    assert (np.abs(found - true) <= bound).all()
    assert bound.max() <= tolerance
    assert results.tier_pairs[:, :2].sum() > 0


@pytest.mark.parametrize("case", ["Llama", "OLMoE"], ids=str)
def test_a_norm_that_is_recomputed_takes_the_exact_path_and_says_so(case):
    model, prompts = tiny_model(case), random_prompts(3)
    found, results = run(model, prompts, estimator="fast", norm="recomputed")
    true, _ = run(model, prompts, estimator="exact", norm="recomputed")
    assert (found == true).all()
    assert results.tier_pairs[:, Tier.EXACT].sum() == results.tier_pairs.sum() > 0
    assert (results.blocks["error_bound"] == 0).all()


@pytest.mark.parametrize("case", MOE_CASES, ids=str)
def test_every_pair_is_counted_once_and_experts_not_routed_to_are_not(case):
    model, prompts = tiny_model(case), random_prompts(6)
    _, results = run(model, prompts, estimator="fast")
    for block, counted in zip(model.blocks, results.tier_pairs, strict=True):
        used = sum(
            len(prompts) * writer.width * (model.module.config.num_experts_per_tok if writer.kind == "routed" else 1)
            for writer in block.writers
        )
        assert counted.sum() == used


def test_batches_and_padding_change_scores_within_the_bound_only():
    model, prompts = tiny_model("Mixtral"), random_prompts(9)
    whole, one = run(model, prompts, estimator="fast")
    parts, two = run(model, prompts, estimator="fast", batch_size=2)
    assert (np.abs(whole - parts) <= by_unit(model, one) + by_unit(model, two)).all()


def problem_of(weight, base, values, coefficients, targets, *, centred=False, key=""):
    d = weight.shape[1]
    readout = Readout(weight, None, torch.ones(d, dtype=weight.dtype), None, centred=centred, eps=1e-6)
    slab = Slab(0, values, coefficients.double(), None)
    scale = readout.inverse_scale(base)
    return BlockProblem(readout, base, scale, targets, (slab,), len(values), key=key)


def truth(problem):
    """Scores straight from the equation, in float64, [P, n]."""
    readout = problem.readout.to(dtype=torch.float64)
    slab, scale = problem.slabs[0], problem.inverse_scale.double()
    rows = torch.arange(len(problem.targets))
    before = readout.logits(problem.base.double(), scale).log_softmax(-1)[rows, problem.targets]
    scores = torch.empty(len(rows), len(slab.values), dtype=torch.float64)
    for unit, value in enumerate(slab.values.double()):
        changed = problem.base.double() + slab.coefficients[:, unit : unit + 1].double() * value
        scores[:, unit] = readout.logits(changed, scale).log_softmax(-1)[rows, problem.targets] - before
    return scores


@pytest.mark.parametrize("gap", [12, 13, 14])
def test_units_that_move_unlikely_tokens_by_millions_are_within_their_bounds(gap):
    """With p nearly one token, the others are many nats of E_p[y] and next to nothing of log E_p[e^y]."""
    torch.manual_seed(gap)
    weight = torch.randn(60, 16, dtype=torch.float64)
    base = weight[7:8] / weight[7].norm()
    values = base + 0.1 * torch.randn(400, 16, dtype=torch.float64)  # they raise the likeliest token most
    coefficients = torch.logspace(2, 8, 400, dtype=torch.float64).unsqueeze(0)
    problem = problem_of(weight, base, values, coefficients, torch.tensor([11]))
    logits = problem.readout.logits(base, problem.inverse_scale)[0].sort().values
    problem = dataclasses.replace(problem, inverse_scale=problem.inverse_scale * gap / (logits[-1] - logits[-2]))
    found = certified(problem, TOLERANCE)
    assert ((found.scores - truth(problem)).abs() <= found.error_bound.unsqueeze(-1)).all()


def test_a_large_offset_of_the_logits_does_not_widen_exact_bounds():
    torch.manual_seed(2)
    weight, base, values = 300 * torch.randn(50, 16), torch.randn(6, 16), torch.randn(4, 16)
    beta, bias = 30 * torch.randn(16), 100 * torch.randn(50)
    readout = Readout(weight, bias, torch.ones(16), beta, centred=False, eps=1e-6)
    slab = Slab(0, values, (torch.randn(6, 4) * torch.tensor([1e-6, 1e-3, 0.01, 0.1])).double(), None)
    targets = torch.arange(6)
    problem = BlockProblem(readout, base, readout.inverse_scale(base), targets, (slab,), len(values))
    found = certified(problem, 1e-4)
    assert readout.offset().abs().max() * torch.finfo(torch.float32).eps > 1e-3
    assert found.tiers[:, Tier.EXACT].sum() > 0
    assert (found.error_bound <= 1e-4).all()
    assert ((found.scores - truth(problem)).abs() <= found.error_bound.unsqueeze(-1)).all()


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    vocabulary=st.sampled_from([50, 257, 1500, 5000, 50_000]),
    shape=st.sampled_from(["flat", "random", "peaked", "one-hot"]),
    magnitude=st.floats(-8, 7),
    spread=st.sampled_from([0.0, 1.0, 3.0]),
    duplicates=st.booleans(),
    shift=st.sampled_from([0.0, 3.0]),
    centred=st.booleans(),
    envelope=st.sampled_from([uniform, fitted]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
@pytest.mark.slow
def test_the_bound_holds_for_adversarial_inputs(
    seed, vocabulary, shape, magnitude, spread, duplicates, shift, centred, envelope, dtype
):
    generator = torch.Generator().manual_seed(seed)

    def normal(*size):
        return torch.randn(*size, generator=generator, dtype=dtype)

    d, n_prompts, n_units = 16, 3, 12
    weight = normal(vocabulary, d) + shift * normal(d)
    if duplicates:
        weight[vocabulary // 2 :] = weight[: vocabulary - vocabulary // 2].clone()
    base = normal(n_prompts, d)
    if shape in ("peaked", "one-hot"):
        weight *= 4 if shape == "peaked" else 30
    if shape == "flat":
        weight *= 1e-3
    # Coefficients of one problem differ by up to 6 × `spread` orders of magnitude; one unit and one pair are silent.
    coefficients = normal(n_prompts, n_units) * 10 ** (magnitude + spread * normal(n_prompts, n_units))
    coefficients[:, 0] = 0.0
    coefficients[1, 1] = 0.0
    values = normal(n_units, d)
    values[2] = 0.0
    targets = torch.randint(vocabulary, (n_prompts,), generator=generator)
    problem = problem_of(weight, base, values, coefficients, targets, centred=centred)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gated_lpi.methods.lpi.certified.envelope.uniform", envelope)  # what every block starts with
        found = certified(problem, TOLERANCE)
    true = truth(problem)
    moved = coefficients.abs().double() * weight.norm(dim=-1).max() * values.norm(dim=-1)
    size = moved * problem.inverse_scale.unsqueeze(-1)
    rounding = 1e-14 * (1 + size + float(weight.abs().max()) * d)  # of float64, in `truth`
    assert ((found.scores - true).abs() <= found.error_bound.unsqueeze(-1) + rounding).all()
    # Only absurd coefficients come near what float64 can compute, or float32 can store, of such a score.
    digits = (1e-10 * size + 2e-7 * true.abs()).amax(dim=1)
    assert (found.error_bound <= torch.maximum(torch.tensor(TOLERANCE), digits)).all()
    assert (found.scores[:, [0, 2]] == 0).all()
    assert found.scores[1, 1] == 0
    assert int(found.tiers.sum()) == n_prompts * n_units


def middle_layer(vocabulary=20_000, n_prompts=64, n_units=256, d=64, strength=0.01):
    """Coefficients and logits as a middle layer has them: most pairs move the logits little."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(vocabulary, d, generator=generator) / d**0.5
    base = torch.randn(n_prompts, d, generator=generator) * 3 + 3 * torch.randn(d, generator=generator)
    coefficients = torch.randn(n_prompts, n_units, generator=generator) * strength
    values = torch.randn(n_units, d, generator=generator)
    targets = torch.randint(vocabulary, (n_prompts,), generator=generator)
    return problem_of(weight, base, values, coefficients, targets, key="middle")


def flops(call):
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def test_the_work_stays_near_that_of_the_logit_lens():
    problem = middle_layer()
    vocabulary, d = problem.readout.weight.shape
    n_prompts, n_units = problem.slabs[0].coefficients.shape
    estimator = Scorer(problem.readout, TOLERANCE)
    estimator.prepared.table  # noqa: B018 - prepared once, not counted
    work = flops(lambda: estimator(problem))
    lens = 2 * n_prompts * d * vocabulary
    assert lens < work < 6 * lens
    # Every unit through the whole vocabulary would be this much more, once for all prompts or once for each.
    assert work < 0.6 * (2 * n_units * d * vocabulary + 4 * n_prompts * n_units * vocabulary)
    assert work < 0.02 * n_prompts * (2 * n_units * d * vocabulary)


def test_more_prompts_cost_no_more_than_in_proportion():
    few, many = (middle_layer(n_prompts=n) for n in (32, 128))
    estimators = [Scorer(problem.readout, TOLERANCE) for problem in (few, many)]
    costs = [flops(lambda e=e, p=p: e(p)) for e, p in zip(estimators, (few, many), strict=True)]
    assert costs[1] < 4.2 * costs[0]


def test_a_checkpoint_is_prepared_once(monkeypatch):
    prepared, squares = [], []
    start, count = Unembedding.__init__, Envelope.squares
    monkeypatch.setattr(Unembedding, "__init__", lambda self, readout: prepared.append(1) or start(self, readout))
    monkeypatch.setattr(
        Envelope, "squares", lambda self, values: squares.append(self.of_checkpoint) or count(self, values)
    )
    model = tiny_model("Llama")
    run(model, random_prompts(8), estimator="fast", batch_size=2, tolerance=1.0)  # nothing has to be looked at twice
    assert len(prepared) == 1
    assert squares == [True] * len(model.blocks)


def test_the_envelope_is_fitted_where_that_pays(monkeypatch):
    made = []
    monkeypatch.setattr(
        "gated_lpi.methods.lpi.certified.envelope.fitted", lambda table, p: made.append(1) or fitted(table, p)
    )
    for strength in (1e-4, 0.1):
        problem = middle_layer(n_prompts=48, n_units=2000, strength=strength)
        found, true = certified(problem, TOLERANCE), exact.score_block(problem)
        assert ((found.scores - true.scores).abs() <= found.error_bound.unsqueeze(-1) + 1e-5).all()
        assert len(made) == (strength == 0.1)  # once for the block, and not where nothing has to be looked at


def test_nothing_of_a_block_outlives_it(monkeypatch):
    seen = []

    def watched(*given):
        p = distribution(*given)
        seen.append(weakref.ref(p))
        return p

    monkeypatch.setattr("gated_lpi.methods.lpi.certified.prepared.distribution", watched)
    problem = middle_layer(strength=0.3)
    gc.disable()  # what only a collection of cycles would free stays for long, and it is large
    try:
        certified(problem, TOLERANCE)
        assert [p() for p in seen] == [None]
    finally:
        gc.enable()


def test_a_tighter_tolerance_is_kept_too():
    problem = middle_layer(vocabulary=3000, n_prompts=16, n_units=40, strength=0.3)
    true, tiers = truth(problem), []
    for tolerance in (1e-1, 1e-3, 1e-4):
        found = certified(problem, tolerance)
        assert float((found.scores - true).abs().max()) <= float(found.error_bound.max()) <= tolerance
        tiers.append(int(found.tiers[:, Tier.LINEAR].sum()))
    assert tiers[0] > tiers[2]


def test_chunks_of_units_change_nothing():
    problem = middle_layer(vocabulary=3000, n_prompts=16, n_units=40, strength=0.1)
    whole = certified(problem, TOLERANCE)
    parts = certified(problem, TOLERANCE, pairs=100, numbers=7000)
    assert ((whole.scores - parts.scores).abs() <= (whole.error_bound + parts.error_bound).unsqueeze(-1)).all()
    assert (whole.tiers.sum(dim=1) == parts.tiers.sum(dim=1)).all()


@pytest.mark.parametrize("sizes", [[3], [4, 2], [2, 2, 2], [1, 5], [2, 1, 1]])
def test_the_first_few_units_and_the_others(sizes):
    slab = Slab(0, torch.zeros(sum(sizes), 2), torch.zeros(1, sum(sizes), dtype=torch.float64), None)
    ends = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    parts = [Part.of(slab, slice(*pair)) for pair in itertools.pairwise(ends)]
    few, others = first_few(parts, 4)
    assert all(len(part.units) for part in few + others)
    assert sum(len(part.units) for part in few) == min(4, sum(sizes))
    assert torch.cat([part.units for part in few + others]).tolist() == list(range(sum(sizes)))


def test_what_is_not_finite_stays_visible():
    problem = middle_layer(vocabulary=300, n_prompts=4, n_units=5)
    problem.slabs[0].coefficients[2, 3] = math.nan
    found = certified(problem, TOLERANCE)
    assert found.scores[2, 3].isnan()
    assert int(found.scores.isnan().sum()) == 1
    assert found.error_bound[2].isnan()
    assert (found.error_bound[[0, 1, 3]] <= TOLERANCE).all()


def test_the_exact_estimator_agrees_within_the_bound_where_the_reference_is_too_slow():
    problem = middle_layer(strength=0.05)
    found, true = certified(problem, TOLERANCE), exact.score_block(problem)
    assert ((found.scores - true.scores).abs() <= found.error_bound.unsqueeze(-1) + 1e-5).all()
