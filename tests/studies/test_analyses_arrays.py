"""What analyses compute, by hand: means over replicates, shares of a null, crossings, what a shift does."""

import json
import math
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.stats import t

from gated_lpi.ablation import Recall
from gated_lpi.facts import FactSet, Relation, Sample
from gated_lpi.interventions import RecordedRouting
from gated_lpi.studies import methods, recall, shift, stabilise
from gated_lpi.studies._frozen_router import permuted_experts, serves_from
from gated_lpi.studies._intervals import Estimate, difference, over_replicates
from gated_lpi.studies._models import at_shares, spread
from gated_lpi.studies._replicates import rank_correlation
from gated_lpi.studies.methods import flips, some_of
from gated_lpi.studies.routing import change_split, null_share, null_verdict
from gated_lpi.studies.tasks import Drop, drops, task_of
from gated_lpi.trace import LayerRouting
from gated_lpi.training import TrainingSpec

NAN = float("nan")


def test_a_mean_over_replicates_has_students_interval():
    found = over_replicates([1.0, 2.0, 3.0, NAN])
    half = 4.302653 / math.sqrt(3)  # t of 2 degrees of freedom at 97.5%
    assert (found.value, found.n, found.over) == (2.0, 3, "replicates")
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half))
    assert found.scaled(10).low == pytest.approx(10 * (2 - half))


def test_one_replicate_has_the_interval_it_is_given_or_none_and_says_so():
    given, none = over_replicates([4.0], (3.0, 6.0)), over_replicates([4.0])
    assert given[:3] == (4.0, 3.0, 6.0)
    assert "over relations" in given.basis
    assert none.value == 4.0
    assert math.isnan(none.low)
    assert none.basis == "1 replicate, no interval"
    assert over_replicates([NAN]).n == 0


def test_differences_are_of_pairs_with_one_seed():
    paired = difference({0: 5.0, 1: 7.0, 2: NAN}, {1: 4.0, 0: 3.0, 2: 1.0, 9: 50.0})
    assert (paired.value, paired.n) == (2.5, 2)


def test_groups_without_a_common_seed_are_compared_by_welch():
    found = difference({0: 1.0, 1: 3.0}, {2: 10.0, 3: 14.0})
    freedom = (1 + 4) ** 2 / (1 + 16)
    assert found.value == -10.0
    assert found.high - found.value == pytest.approx(t.ppf(0.975, freedom) * math.sqrt(5))


def test_a_rank_correlation_has_the_p_value_of_its_permutations():
    found = rank_correlation([1, 2, 3, 4, NAN], [10, 20, 30, 40, 0], draws=4000)
    assert found.rho == pytest.approx(1.0)
    assert found.n == 4
    assert found.p == pytest.approx(2 / 24, abs=0.02)  # of 24 orders one and its mirror are as extreme
    assert math.isnan(rank_correlation([1, 2, 3], [5, 5, 5]).rho)


def test_items_are_chosen_evenly_and_by_their_share_of_the_steps():
    assert spread([0, 1, 2, 3, 4], 3) == [0, 2, 4]
    assert spread([0, 1, 2], 5) == [0, 1, 2]
    assert spread("abc", 1) == ["c"]
    assert at_shares("abcd", [0, 10, 45, 100], [0.5, 1.0, 0.45]) == ["c", "d"]


def test_the_share_of_a_null_is_of_what_is_above_chance():
    found = null_share([0.6, 0.4, NAN], [0.3, 0.2, 0.9], [0.1, 0.1, 0.1])
    assert found.share == pytest.approx(100 * 0.15 / 0.4)
    assert found.observed == pytest.approx(0.5)
    assert math.isnan(null_share([0.1], [0.3], [0.2]).share)


@pytest.mark.parametrize(
    ("values", "dense", "word", "because"),
    [
        ([80.0, 81.0, 82.0], [3.0], "supported", ""),
        ([80.0, 81.0, 82.0], [3.0, 140.0, NAN], "undecided", "arms without routing keep as much"),
        ([120.0, 121.0, 122.0], [], "undecided", "permuted neurons have no less than the observed"),
        ([10.0, 11.0, 12.0], [140.0], "contradicted", ""),
    ],
)
def test_what_arms_without_routing_keep_as_well_is_not_the_routings(values, dense, word, because):
    found = null_verdict(over_replicates(values), "moe", "R_t", "lpi", "ffn", dense)
    assert (found.verdict, found.because) == (word, because)
    assert ("140% in arms without routing." in found.detail) == (because.startswith("arms"))


def test_a_change_is_split_over_pairs_and_units():
    dims = ("checkpoint", "relation", "unit")
    split = xr.Dataset(
        {
            "routing_part": (dims, [[[1.0, -1.0]], [[0.0, 2.0]]]),
            "neurons_part": (dims, [[[3.0, 3.0]], [[0.0, 0.0]]]),
        },
        {"n_prompts": ("relation", [5]), "step": ("checkpoint", [10, 20])},
    )
    found = change_split(split)
    assert found.shares == pytest.approx([25.0, 100.0])
    assert found.whole == pytest.approx(40.0)
    assert found.interval == pytest.approx((40.0, 40.0))  # one relation is every draw


def test_a_routing_serves_from_where_recall_stays_good():
    done, needed = [0.0, 0.1, 0.5, 1.0], [0.9] * 4
    assert serves_from(done, [0.95, 0.2, 0.9, 1.0], needed) == pytest.approx(0.5)
    assert serves_from(done, [0.95, 0.8, 1.0, 1.0], needed) == pytest.approx(0.3)  # between two checkpoints on a line
    assert serves_from(done, [0.9, 0.9, 0.9, 0.9], needed) == 0.0
    assert serves_from(done, [0.9, 0.9, 0.9, 0.9], [0.0, *needed[1:]]) == 0.1
    assert math.isnan(serves_from(done, [1.0, 1.0, 1.0, 0.1], needed))
    assert math.isnan(serves_from([1.0], [0.0], [0.0]))


def test_exchanged_experts_keep_their_gates_and_logits():
    logits = torch.tensor([[1.0, 5.0, 3.0, 4.0]])
    own = LayerRouting(logits=logits, gates=torch.tensor([[0.7, 0.3]]), experts=torch.tensor([[1, 3]]), shared=None)
    recorded = RecordedRouting((0,), (4,), 2, {(1,): (own,)})
    for seed in range(3):
        other = permuted_experts(recorded, np.random.default_rng(seed)).prompts[1,][0]
        assert torch.equal(other.gates, own.gates)
        assert other.logits.gather(-1, other.experts).tolist() == [[5.0, 4.0]]  # each expert took its logit along
    assert recorded.prompts[1,][0].experts.tolist() == [[1, 3]]


def shifted_scores() -> xr.Dataset:
    """Two facts that are kept and two that change after step 20, over five checkpoints."""
    ranks = np.array(
        [  # kept, kept, before, before, after, after
            [90, 90, 90, 90, 90, 90],
            [0, 3, 0, 0, 90, 90],
            [0, 0, 0, 0, 90, 90],
            [0, 40, 5, 0, 4, 40],
            [0, 5, 9, 0, 2, 3],
        ]
    )
    logprob = np.zeros((5, 6))
    logprob[-1] = [0, 0, -4.0, -1.0, -1.0, -2.0]
    relations = [f"capital {kind}" for kind in ("(kept)", "(before)", "(after)") for _ in range(2)]
    return xr.Dataset(
        {"target_rank": (("checkpoint", "prompt"), ranks), "target_logprob": (("checkpoint", "prompt"), logprob)},
        {
            "step": ("checkpoint", [0, 10, 20, 30, 40]),
            "tokens": ("checkpoint", [0, 100, 200, 300, 400]),
            "prompt_relation": ("prompt", np.array(relations, dtype=object)),
            "subject": ("prompt", np.array(list("ABCDDC"), dtype=object)),
        },
    )


def test_a_shift_is_measured_on_kept_old_and_new_answers():
    found = shift.measure(shifted_scores(), 20)
    assert found.forgotten == 50.0  # of two kept facts one fell below the ten likeliest
    assert found.forgotten_1 == 50.0
    assert found.lost == 0.0
    assert found.steps == pytest.approx(18.0)  # HIT@10 of new objects is 50% at 30 and 100% at 40: 90% at 38
    assert found.tokens == pytest.approx(180.0)
    assert found.learnt == 100.0
    assert found.residue == pytest.approx(((-4.0 - -2.0) + (-1.0 - -1.0)) / 2)
    assert found.prefers_old == 50.0
    late = shift.measure(shifted_scores(), 20, target=1.0)
    assert late.steps == pytest.approx(20.0)
    never = shift.measure(shifted_scores().isel(checkpoint=slice(0, 4)), 20)
    assert math.isinf(never.tokens)


def test_recall_asks_for_what_is_true_by_then():
    old, new = [True] * 4 + [False] * 2, [True] * 2 + [False] * 2 + [True] * 2
    assert shift.true_at(shifted_scores(), 20).tolist() == [old] * 3 + [new] * 2
    assert shift.true_at(shifted_scores(), None).tolist() == [old] * 5
    assert shift.true_at(shifted_scores().drop_vars("prompt_relation"), 20).all()
    run = SimpleNamespace(
        scores=lambda _: shifted_scores(),
        experiment=SimpleNamespace(
            arm=lambda name: name,
            training_of=lambda _: SimpleNamespace(shift=SimpleNamespace(share=0.5), steps_before_shift=20),
        ),
    )
    hits, count = recall.hits_of(run, "moe", (1, 10))
    assert count == 4
    assert [hits[step][10] for step in (10, 20, 30, 40)] == [1.0, 1.0, 0.5, 1.0]


def test_a_level_is_crossed_between_points():
    x, y = np.array([0.0, 1.0, 2.0, 3.0]), np.array([0.9, 0.0, 0.5, 1.0])
    assert shift.crossed(x, y, 0.75, since=1) == pytest.approx(2.5)
    assert shift.crossed(x, y, 0.75) == 0.0
    assert math.isnan(shift.crossed(x, y, 2.0))


class ShiftedRun:
    """A run of two groups of replicates, made of arrays: MoE forgets and learns at other paces than the dense arm.

    A third, "moe-still", is trained as the MoE but for its facts, which stay.
    """

    def __init__(self, slower: dict[str, int]):
        self.slower = slower
        kinds = ("moe", "dense", "moe-still")
        names = [f"{group}-{i}" for group in kinds for i in range(1, 6)]
        arms = [SimpleNamespace(name=name, train=name.split("-")[0]) for name in names]
        groups = {group: tuple(name for name in names if name[:-2] == group) for group in kinds}
        by_name = {arm.name: arm for arm in arms}
        self.experiment = SimpleNamespace(arms=arms, arm=by_name.__getitem__, groups=groups, training_of=self._training)

    def _training(self, arm):
        share = 0.0 if "still" in arm.name else 0.5
        return TrainingSpec(steps=40, seed=int(arm.name[-1]), shift={"at": 0.5, "share": share})

    def store(self, _arm):
        return SimpleNamespace(keys=lambda: ["step-0"])

    def methods(self, _arm):
        return ("lpi", "grad_x_act")

    def scores(self, arm):
        scores = shifted_scores()
        number = int(arm[-1])
        ranks = scores["target_rank"].values.copy()
        if arm.startswith("dense"):
            ranks[3, :2] = 60  # forgets both that are kept
        if "still" in arm:
            ranks[3:, :2] = 0  # forgets nothing
        ranks[4, 5] = 3 if self.slower.get(arm, 0) < 4 else 50
        experts = np.array([0, 1] if arm.startswith("moe") else [-1, -1])
        tokens = np.array([0, 100, 200, 300 + 10 * number, 400 + 20 * number])
        return scores.assign(target_rank=(("checkpoint", "prompt"), ranks)).assign_coords(
            expert=("unit", experts), tokens=("checkpoint", tokens)
        )

    def summary(self, arm, method):
        stability = [[0.9, 0.1 * int(arm[-1]) * (1 if method == "lpi" else -1), 0.0, 0.0]]
        coords = {"kind": ["ffn"], "pair_next_step": ("pair", [10, 20, 30, 40])}
        return xr.Dataset({"stability": (("kind", "pair"), stability)}, coords)


def test_groups_are_compared_over_a_shift_and_consolidation_is_judged_by_each_method():
    names = [f"{group}-{i}" for group in ("moe", "dense") for i in range(1, 6)]
    run = ShiftedRun({name: 9 if name == "dense-5" else 0 for name in names})
    found = shift.analyse(run, shift.Options(draws=200), None)
    by_claim = {(verdict.claim, verdict.method): verdict for verdict in found.verdicts}
    forgets = by_claim["moe forgets less of what is kept than dense.", ""]
    assert (forgets.effect, forgets.verdict) == (-50.0, "supported")
    learnt = by_claim["moe has learnt the new answers by the end.", ""]
    assert (learnt.effect, learnt.verdict) == (100.0, "undecided")  # of two prompts, one may be another in a replicate
    control = by_claim["moe forgets more of what is kept than moe-still, whose facts stay.", ""]
    assert (control.effect, control.verdict) == (50.0, "supported")
    assert by_claim["moe forgets more of what is kept than moe-still, whose facts stay (HIT@1).", ""].effect == 50.0
    assert ["moe-still", "forgotten (HIT@10), pp", 0.0] in [row[:3] for row in found.tables[0].rows]
    claim = "Replicates of moe that were more consolidated before the shift re-learn more slowly."
    assert by_claim[claim, "lpi"].verdict == "supported"
    assert by_claim[claim, "grad_x_act"].verdict == "contradicted"
    assert by_claim[claim, "lpi"].effect == pytest.approx(1.0)
    assert any(note.startswith("dense-5 never reaches 90%") for note in found.notes)
    assert [len(table.rows) for table in found.tables] == [18, 10]
    assert set(found.figures) == {"shift"}


def test_a_conclusion_flips_only_if_methods_are_sure_of_different_signs():
    above, below = Estimate(1.0, 0.5, 1.5, 3, "replicates"), Estimate(-1.0, -1.5, -0.5, 3, "replicates")
    unsure = Estimate(1.0, -0.5, 2.5, 3, "replicates")
    assert flips({"a": above, "b": above}) == "supported"
    assert flips({"a": above, "b": below, "c": unsure}) == "contradicted"
    assert flips({"a": above, "b": unsure}) == "undecided"
    assert flips({"a": above}) == "undecided"


def test_some_facts_are_asked_as_they_are_among_all_of_them():
    samples = tuple(Sample(f"s{i}", f"o{i}") for i in range(7))
    facts = FactSet((Relation("r", ("{} a", "{} b", "{} c"), samples), Relation("q", ("{} d",), samples[:2])), "test")
    some, templates = some_of(facts, "held_out", 6)
    assert [len(one.samples) for one in some.relations] == [3, 2]
    whole = {(one.relation, one.subject): one.text for one in facts.prompts("held_out")}
    for prompt in some.prompts(templates):
        assert prompt.text == whole[prompt.relation, prompt.subject]


def test_a_relations_task_is_that_of_the_longest_beginning_of_its_name():
    names = ["two-hop capital, bridge", "needle 200", "gsm8k 2 steps", "country_capital", "needle-like"]
    assert [task_of(name, {}) for name in names] == ["two-hop", "retrieval", "arithmetic", "facts", "retrieval"]
    assert task_of("two-hop capital, bridge", {"two-hop capital": "capitals", "t": "other"}) == "capitals"
    assert task_of("people birthplace", {"people": "people"}) == "people"


def test_drops_are_of_each_tasks_prompts():
    intact = Recall(np.array([0, 0, 5, 20]), np.array([-1.0, -1.0, -2.0, -3.0]), None)
    without = Recall(np.array([0, 12, 5, 3]), np.array([-1.0, -4.0, -2.5, -2.0]), None)
    found = drops(intact, without, np.array(["a", "a", "b", "b"]), 10)
    assert found == {"a": Drop(50.0, 50.0, 1.5), "b": Drop(0.0, -50.0, -0.25)}


class StabilisedRun:
    """Three groups of MoE arms: routers never stopped, at a threshold, and at random steps."""

    HOW: ClassVar[dict] = {
        "never": None,
        "settled": {"when": "threshold", "action": "freeze", "measure": "j_stab", "threshold": 0.8},
        "random": {"when": "random", "action": "freeze", "between": [5, 30]},
    }

    def __init__(self, folder):
        self.folder = folder
        names = [f"{group}-{i}" for group in self.HOW for i in range(1, 4)]
        arms = [SimpleNamespace(name=name, train="moe") for name in names]
        self.experiment = SimpleNamespace(
            arms=arms,
            arm={arm.name: arm for arm in arms}.__getitem__,
            groups={group: tuple(name for name in names if name.startswith(group)) for group in self.HOW},
            training_of=self._training,
        )

    def _training(self, arm):
        return TrainingSpec(steps=40, seed=int(arm.name[-1]), stabilise=self.HOW[arm.name[:-2]])

    def store(self, _arm):
        return SimpleNamespace(keys=lambda: ["step-0"])

    def training_folder(self, arm):
        return self.folder / arm

    def scores(self, arm):
        ranks = np.full((4, 2), 90)
        ranks[2:] = 3
        ranks[1] = {"never": 50, "settled": 5, "random": 50}[arm[:-2]]
        ranks[2, 0] = 50 if arm == "never-3" else 3
        tokens = np.array([0, 200, 300, 400]) + 4 * int(arm[-1])
        over = ("checkpoint", "prompt")
        return xr.Dataset(
            {"target_rank": (over, ranks), "target_logprob": (over, np.full((4, 2), -1.0 * len(arm)))},
            {
                "step": ("checkpoint", [0, 20, 30, 40]),
                "tokens": ("checkpoint", tokens),
                "expert": ("unit", [0, 1]),
                "prompt_relation": ("prompt", np.array(["capital", "capital"], dtype=object)),
            },
        )


def test_stopped_routers_are_compared_with_never_and_with_controls(tmp_path):
    run = StabilisedRun(tmp_path)
    for number in (1, 2, 3):
        folder = tmp_path / f"settled-{number}"
        folder.mkdir()
        note = {"when": "threshold", "fired": {"step": 10 * number, "tokens": 100 * number, "value": 0.9}}
        (folder / "stabilise.json").write_text(json.dumps(note))
        (folder / ".seconds").write_text("80.0\n")
    (tmp_path / "random-1").mkdir()
    (tmp_path / "random-1" / "stabilise.json").write_text("[]")
    found = stabilise.analyse(run, stabilise.Options(), None)
    differences = {(row[0], row[1], row[2]): row[3:] for row in found.tables[1].rows}
    assert {pair[:2] for pair in differences} == {("settled", "never"), ("settled", "random"), ("random", "never")}
    at = {"never": [29, 29, 38], "settled": [18, 18, 18], "random": [29, 29, 29]}  # steps to 90%

    def tokens(group):
        return [
            np.interp(step, [0, 20, 30, 40], np.array([0, 200, 300, 400]) + 4 * seed)
            for step, seed in zip(at[group], (1, 2, 3), strict=True)
        ]

    expected = np.mean(np.subtract(tokens("settled"), tokens("never")))
    assert differences["settled", "never", "tokens to HIT@10"][0] == pytest.approx(expected)
    rows = {(row[0], row[3]): row for row in found.tables[0].rows}
    assert rows["settled", "tokens to HIT@10"][2] == 20.0  # mean step at which routers stopped
    assert rows["settled", "seconds to HIT@10"][4] == pytest.approx(80 * 18 / 40)
    assert rows["never", "HIT@10 at the end"][4] == 100.0
    free = [one for one in found.verdicts if "gives up less than 2 points of HIT@10" in one.claim]
    assert [(one.claim.split()[0], one.verdict, one.effect) for one in free] == [
        ("settled", "undecided", 0.0),  # of two prompts, one may be another in a replicate
        ("random", "undecided", 0.0),
    ]
    assert differences["settled", "never", "HIT@10 at the end"][1] == pytest.approx(-t.ppf(0.975, 2) * 50 / 3)
    settled = next(one for one in found.verdicts if one.claim.startswith("settled takes fewer tokens to learn"))
    assert (settled.verdict, settled.effect) == ("supported", pytest.approx(-140.0))
    assert (settled.low, settled.high) == pytest.approx((-269.08, -10.92), abs=0.01)  # of −110, −110, −200
    assert not any("re-learn" in one.claim or "shift" in one.claim for one in found.verdicts)
    assert any(note.startswith("Of random-1, random-2, random-3") for note in found.notes)


def test_groups_that_are_trained_otherwise_are_not_compared():
    named = {"a": "never", "b": "step 9, freeze", "c": "j_stab 0.8, freeze", "d": "never"}
    alike = {"a": "x", "b": "x", "c": "x", "d": "y"}
    assert stabilise.pairs_of(named, alike) == [("b", "a"), ("c", "a"), ("c", "b")]


def held_against(*overall):
    """Agreement with true effects of one method in replicates, made of numbers."""
    return [
        xr.Dataset(
            {"truth": (("part", "end"), [[value, value - 0.1, value + 0.1]])},
            {"part": ["overall"], "end": ["estimate", "low", "high"]},
        )
        for value in overall
    ]


def test_two_methods_are_held_against_true_effects_of_the_same_replicates():
    ours, theirs = held_against(0.6, 0.2, 0.4), held_against(0.9, 0.5, 0.72)
    found = methods._closer_verdict("moe", "lpi", "grad_x_act", ours, theirs, methods.Options())
    assert found.claim == "grad_x_act ranks the ffn units of moe more as silencing them does than lpi."
    assert found.effect == pytest.approx((0.3 + 0.3 + 0.32) / 3)
    assert found.verdict == "supported"  # though both spread over replicates by more than they differ
    swapped = methods._closer_verdict("moe", "grad_x_act", "lpi", theirs, ours, methods.Options())
    assert (swapped.verdict, swapped.effect) == ("contradicted", pytest.approx(-found.effect))
