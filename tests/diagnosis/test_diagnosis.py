"""What is found wrong with arms that were trained into each trouble, and with one that is well."""

import functools
import json
import sys

import numpy as np
import pytest
import torch

from gated_lpi.cli import main
from gated_lpi.diagnosis import THRESHOLDS, diagnose, examine
from gated_lpi.errors import RunError
from gated_lpi.metrics import routing_jaccard, routing_jaccard_chance
from gated_lpi.results import open_run
from ill_arms import ill_run
from synthetic_run import DENSE, ArmPlan, SyntheticRun

KEYS = [f"step-{step}" for step in (0, 1, 2, 3, 7, 12, 23, 43, 80)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Four arms, trained once for all tests, with the routing of every position."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    trained = ill_run(tmp_path_factory.mktemp("ill"), routing="all", units=["ffn", "attention", "experts"])
    torch.set_num_threads(before)
    return open_run(trained.path)


@functools.cache
def diagnosed(run):
    """Findings, of each run once."""
    return tuple(diagnose(run))


def found(run, arm):
    return {finding.name: finding for finding in diagnosed(run) if finding.arm == arm}


def test_an_arm_that_is_well_has_no_finding(run):
    assert found(run, "well") == {}


def test_a_collapsed_router_is_found_at_every_trained_checkpoint(run):
    finding = found(run, "collapsed")["expert collapse"]
    assert set(found(run, "collapsed")) == {"expert collapse"}
    assert finding.checkpoints == tuple(KEYS[1:])
    assert finding.value == 1.0
    assert finding.threshold == THRESHOLDS["expert collapse"].limit
    assert finding.evidence.startswith("100% of the 6 of 8 experts of layer 0 that could be idle")
    assert "(0% would by chance); routing of every position of 6 prompts" in finding.evidence
    assert finding.experts == tuple(f"layer 0 expert {number}" for number in range(2, 8))  # 0 and 1 are what all like


def test_a_router_with_noise_is_unstable(run):
    finding = found(run, "unstable")["routing instability"]
    assert finding.value < 0.15 < finding.threshold
    assert finding.experts == ()
    assert set(finding.checkpoints) <= set(KEYS[4:])
    assert "routing of every position" in finding.evidence
    assert "expert collapse" not in found(run, "unstable")


def test_too_high_a_learning_rate_churns_neurons(run):
    finding = found(run, "churning")["neuron churn"]
    assert finding.value < finding.threshold
    assert set(finding.checkpoints) <= set(KEYS[4:])
    assert "by chance" in finding.evidence


class LastPositions:
    """A run that kept no routing but that of last positions."""

    def __init__(self, run, *, by_relation=True):
        self.run, self.arms, self.by_relation = run, run.arms, by_relation

    def scores(self, arm):
        scores = self.run.scores(arm).drop_vars(["position_gate", "router_logits"])
        if self.by_relation:
            return scores
        shares = scores["n_prompts"] / scores["n_prompts"].sum()
        return scores.assign(expert_utilisation=(scores["expert_utilisation"] * shares).sum("relation"))

    def summary(self, arm):
        return self.run.summary(arm)


@pytest.mark.parametrize("by_relation", [True, False])
def test_last_positions_are_judged_more_strictly_and_it_is_said(run, by_relation):
    last = LastPositions(run, by_relation=by_relation)
    assert found(last, "well") == {}
    finding = found(last, "collapsed")["expert collapse"]
    assert finding.threshold == THRESHOLDS["expert collapse (last positions)"].limit
    said = "the last positions of 6 prompts, by relation" if by_relation else "the last positions of 6 prompts together"
    assert said in finding.evidence


@pytest.mark.parametrize("by_relation", [True, False])
def test_a_router_with_noise_is_unstable_by_its_last_positions_too(run, by_relation):
    finding = found(LastPositions(run, by_relation=by_relation), "unstable")["routing instability"]
    assert -0.2 < finding.value < 0.1


class Shares:
    """The arm that is well, with other shares of the prompts of two relations at its experts."""

    arms = ("well",)

    def __init__(self, run, shares, prompts=64):
        self.run, self.shares, self.prompts = run, shares, prompts

    def scores(self, arm):
        scores = LastPositions(self.run).scores(arm)
        share = scores["expert_utilisation"].transpose("checkpoint", "relation", "expert_unit").copy()
        for layer in (0, 1):
            mine = (scores["expert_unit_layer"] == layer).to_numpy() & (scores["expert_unit_expert"] >= 0).to_numpy()
            for step in range(share.sizes["checkpoint"]):
                share[step, :, mine] = self.shares(step)
        counted = scores["n_prompts"].copy(data=[self.prompts] * scores.sizes["relation"])
        return scores.assign(expert_utilisation=share).assign_coords(n_prompts=counted)

    def summary(self, arm):
        return self.run.summary(arm)


def test_prompts_of_a_relation_that_mostly_keep_their_experts_are_no_instability(run):
    def shares(step):  # of 8 experts; a fifth of the choices goes to another one at every checkpoint
        given = np.zeros(8)
        given[[0, 1, 2 + step % 2]] = 0.8, 0.8, 0.4
        return given

    assert "routing instability" not in {finding.name for finding in diagnose(Shares(run, shares))}
    alike = np.stack([shares(0), shares(1)])[:, None]
    assert routing_jaccard(alike)[0] < routing_jaccard_chance(64, 8, 2)  # the chance of prompts that have no relation


def test_prompts_of_a_relation_that_go_elsewhere_are_an_instability(run):
    elsewhere = Shares(run, lambda step: np.roll([1, 1, 0, 0, 0, 0, 0, 0], 2 * step))
    finding = found(elsewhere, "well")["routing instability"]
    assert -0.3 < finding.value < 0.0


def test_even_shares_tell_nothing_of_instability_and_it_is_said(run):
    result = examine(Shares(run, lambda _step: np.full(8, 0.25)))
    assert result.findings == ()
    assert len(result.unjudged) == 2
    assert result.unjudged[0].startswith("well: routing instability cannot be told in layer 0: ")
    assert "1.00 of their loads" in result.unjudged[0]
    assert 'attribution.routing = "all"' in result.unjudged[0]


def test_dense_arms_and_arms_without_results(tmp_path):
    mixed = SyntheticRun(tmp_path, {"dense": DENSE, "empty": None, "short": ArmPlan(steps=(0, 1, 2))})
    result = examine(mixed)
    assert result.findings == ()
    assert any(line.startswith("empty: no results: empty holds no complete checkpoint") for line in result.unjudged)
    assert any(
        line.startswith("short: routing instability and neuron churn need 4 checkpoints") for line in result.unjudged
    )
    with pytest.raises(RunError, match="no arm has results to judge yet"):
        diagnose(SyntheticRun(tmp_path, {"empty": None}))


def test_units_without_any_order_churn(tmp_path):
    noise = SyntheticRun(tmp_path, {"noise": ArmPlan(spread=0.0, noise=30.0)})
    assert {finding.name for finding in diagnose(noise)} == {"neuron churn"}


def test_every_finding_has_a_threshold_with_a_sentence(run):
    for finding in diagnosed(run):
        assert finding.name in THRESHOLDS
    assert all("found" in t.meaning or "the same" in t.meaning for t in THRESHOLDS.values())


def command(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["gated-lpi", "diagnose", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    captured = capsys.readouterr()
    return stop.value.code or 0, captured.out, captured.err


def test_the_verb_prints_a_table_and_its_exit_code_says_that_something_is_wrong(run, monkeypatch, capsys):
    code, out, _ = command(monkeypatch, capsys, run.path)
    assert code == 3
    assert all(word in " ".join(out.split()) for word in ("collapsed", "unstable", "churning", "evidence"))


def test_json_is_for_scripts(run, monkeypatch, capsys):
    code, out, _ = command(monkeypatch, capsys, run.path, "--json")
    assert code == 3
    content = json.loads(out)
    assert [finding["name"] for finding in content["findings"]] == [finding.name for finding in diagnosed(run)]
    assert content["thresholds"]["neuron churn"]["limit"] == THRESHOLDS["neuron churn"].limit
    assert content["unjudged"] == []


def test_nothing_wrong_is_exit_code_0(run, monkeypatch, capsys):
    monkeypatch.setattr("gated_lpi.results.open_run", lambda _: OnlyWell(run))
    code, out, _ = command(monkeypatch, capsys, run.path)
    assert (code, out.strip().endswith("no expert collapse, routing instability, neuron churn")) == (0, True)
    code, out, _ = command(monkeypatch, capsys, run.path, "--json")
    assert (code, json.loads(out)["findings"]) == (0, [])


class OnlyWell:
    """The run, without its arms that are ill."""

    def __init__(self, run):
        self.path, self.arms, self.scores, self.summary = run.path, ("well",), run.scores, run.summary


def test_a_folder_that_is_no_run_is_exit_code_1(tmp_path, monkeypatch, capsys):
    code, _, err = command(monkeypatch, capsys, tmp_path)
    assert (code, err.startswith("error:")) == (1, True)
