"""Analyses that judge claims: verdicts over replicates, at several densities, against a foil, and of what stays."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr

from gated_lpi.claims import judge
from gated_lpi.claims.groups import pairs
from gated_lpi.experiments import Experiment
from gated_lpi.results import open_run
from gated_lpi.runs import run_experiment
from gated_lpi.runs.progress import Silent
from gated_lpi.studies import claims, density, prior, survival
from gated_lpi.studies._known import known_and_unknown
from gated_lpi.studies.finding import Analysis
from gated_lpi.studies.table import analysis_of
from synthetic_run import DENSE, MOE, ArmPlan, SyntheticRun, scores
from tiny_runs import TRAINING, UNABLATED, tiny_experiment
from tiny_text import CAPITALS, save_facts

SIZE = {"hidden": 16, "layers": 1, "heads": 2, "kv_heads": 1, "experts": 2, "expert_width": 8, "vocab_size": 270}


@dataclass
class Replicated(SyntheticRun):
    """Groups of replicates; what is added to the exponent of the MoE's importances at some steps."""

    bump: Mapping[int, float] = field(default_factory=dict)
    contrast: bool = False

    @property
    def experiment(self) -> Experiment:
        kinds = {"moe": "moe", "dense": "dense_active"}
        arms = [
            {"name": name, "group": name[:-2], "train": kinds[name[:-2]], "training": {"seed": int(name[-1])}}
            for name in self.plans
        ]
        attribution = {"contrast": "relation"} if self.contrast else {}
        return Experiment.model_validate(
            {"name": "r", "metrics": self.metrics, "arms": arms, "attribution": attribution}
        )

    def scores(self, arm: str):
        found = scores(self.plans[arm], self.arms.index(arm))
        if arm.startswith("moe") and self.bump:
            power = 1 + np.array([self.bump.get(int(step), 0.0) for step in found["step"].to_numpy()])
            lpi = np.sign(found["lpi"]) * np.abs(found["lpi"]) ** power[:, None, None]
            found = found.assign(lpi=lpi.astype(np.float32), lpi_mean=lpi.mean("relation").astype(np.float32))
        if self.contrast:
            found = found.assign(lpi_contrast=-found["lpi"], lpi_contrast_mean=-found["lpi_mean"])
        return found

    def store(self, arm: str):
        return SimpleNamespace(keys=lambda: [arm])


def replicated(n=4, **changes) -> Replicated:
    plans: dict[str, ArmPlan] = {f"moe-{i}": replace(MOE, noise=0.05) for i in range(n)}
    plans |= {f"dense-{i}": replace(DENSE, noise=0.05) for i in range(n)}
    return Replicated(Path("unused"), plans, **changes)


def ask(analysis, run, **options) -> Analysis:
    return analysis.analyse(run, analysis.Options(**options), Silent())


BUMP = {5: 0.8, 10: 1.0, 20: 0.8}


@pytest.fixture(scope="module")
def bumped() -> Analysis:
    return ask(claims, replicated(bump=BUMP))


def test_a_bump_in_mid_training_is_a_verdict_over_replicates(bumped):
    assert [verdict.method for verdict in bumped.verdicts] == ["lpi"] * 3
    backbone = bumped.verdicts[0]
    assert backbone.claim.endswith("its entropy is lower (against dense)")
    assert "over 4 replicates each, in pairs of one seed and order of data" in backbone.detail
    assert "is higher in moe than in dense from step 5 to step 20" in backbone.detail
    assert backbone.verdict == "supported"
    (table,) = bumped.tables
    shares = next(row for row in table.rows if row[1] == "The top set's share of importance")
    assert shares[table.columns.index("told apart")] == "higher from step 5 to step 20"
    assert shares[table.columns.index("in the family")] == "yes"
    assert bumped.figures["trajectories"].axes


def test_a_rise_that_stays_is_supported_and_a_fall_contradicted():
    later = dict.fromkeys((20, 50, 100, 200), 0.8)
    up = ask(claims, replicated(bump=later)).verdicts[0]
    down = ask(claims, replicated(bump=dict.fromkeys(later, -0.5))).verdicts[0]
    assert (up.verdict, down.verdict) == ("supported", "contradicted")
    assert up.low > 0 or up.high < 0
    assert "more replicates, another size or other data would undo it" in up.would_decide


def test_single_runs_decide_nothing_about_arms():
    rise = {1: 0.3, 2: 0.4, 5: 0.5, 10: 0.6, 20: 0.7, 50: 0.8, 100: 0.9, 200: 1.0}
    found = ask(claims, replicated(1, bump=rise)).verdicts[0]
    assert found.verdict == "undecided"
    assert found.detail.startswith("Supported for these runs alone. ")
    assert "3 replicates or more of each, instead of 1" in found.would_decide


def test_findings_are_made_again_when_the_rules_of_claims_change(monkeypatch):
    before = {name: analysis_of(name).code for name in ("claims", "recall")}
    read = Path.read_bytes

    def changed(file):
        return read(file) + (b"#" if file.parts[-2:] == ("claims", "judge.py") else b"")

    monkeypatch.setattr(Path, "read_bytes", changed)
    assert analysis_of("claims").code != before["claims"]
    assert analysis_of("recall").code == before["recall"]


def test_replicates_pair_by_seed_if_they_have_the_same():
    run = replicated(3)
    assert pairs(run.experiment, ["moe-2", "moe-0"], ["dense-0", "dense-2"]) == (
        ["moe-0", "moe-2"],
        ["dense-0", "dense-2"],
    )
    assert pairs(run.experiment, ["moe-2", "moe-0"], ["dense-0", "dense-1"]) is None


def test_a_verdict_that_hangs_on_single_checkpoints_is_not_one_of_every_density():
    analysis = ask(density, replicated(bump={5: 1.2, 100: 1.2}))  # every 2nd checkpoint from the last misses both
    table = next(table for table in analysis.tables if table.name == "densities")
    by = {row[4]: row for row in table.rows if row[0] == "backbone"}
    assert by["all"][6] == "supported"
    assert by["every 2nd"][6] == "undecided"
    assert by["every 2nd"][5] == 5
    verdict = next(v for v in analysis.verdicts if "Importance is more concentrated" in v.claim)
    assert verdict.verdict == "undecided"
    assert "supported on all checkpoints, otherwise on every 2nd (undecided)" in verdict.detail
    lives = next(table for table in analysis.tables if table.name == "half-lives")
    assert [row[1] for row in lives.rows] == ["moe", "dense"]


def test_a_verdict_at_every_density_is_supported():
    analysis = ask(density, replicated(bump=dict.fromkeys((2, 5, 10, 20, 50, 100, 200), 0.8)))
    verdict = next(v for v in analysis.verdicts if "Importance is more concentrated" in v.claim)
    assert verdict.verdict == "supported"
    assert verdict.detail.startswith("supported on all checkpoints, and on each of ")


def test_a_foil_that_turns_every_score_round_shares_no_top_neuron():
    analysis = ask(prior, replicated(3, contrast=True), methods=["lpi"])
    overlap = next(table for table in analysis.tables if table.name == "overlap")
    assert [row[5] for row in overlap.rows] == [0.0, 0.0]
    same = analysis.verdicts[-1]
    assert same.claim == "At the end most of the top set is the same neurons: J above one third (against the foil)"
    assert same.effect == 0.0


def test_without_a_foil_or_known_facts_the_prior_is_not_judged():
    analysis = ask(prior, replicated(1))
    assert not analysis.verdicts
    assert "attribution.contrast = 'relation'" in analysis.notes[-1]


def test_known_facts_are_held_against_all():
    class Known(Replicated):
        def scores(self, arm: str):
            found = super().scores(arm)
            counts = np.tile(found["n_prompts"].to_numpy(), (found.sizes["checkpoint"], 1))
            return found.assign(lpi_known=found["lpi"]).assign_coords(n_known=(("checkpoint", "relation"), counts))

    run = Known(Path("unused"), replicated(3).plans, bump=BUMP)
    overlap = next(table for table in ask(prior, run).tables if table.name == "overlap")
    assert {row[0] for row in overlap.rows} == {"Gated-LPI, facts known at the checkpoint"}
    assert [row[5] for row in overlap.rows] == [1.0, 1.0]
    verdicts = ask(claims, run).verdicts
    known = [verdict for verdict in verdicts if "facts known at the checkpoint" in verdict.claim]
    assert [v.effect for v in known] == pytest.approx([v.effect for v in verdicts[:2]], rel=1e-4)


def test_units_of_known_facts_are_held_against_those_of_unknown_ones():
    """Of two relations one is known: means over unknown facts are those of the other."""
    units, relations = 400, ("known", "unknown")
    generator = np.random.default_rng(0)
    lpi = generator.standard_normal((2, 2, units)) ** 2
    lpi[1, 1, :4] += 90  # of the facts that are not known
    lpi[1, 0, 2:6] += 90
    counts = np.array([[0, 0], [6, 0]])
    dims = ("checkpoint", "relation", "unit")
    scores = xr.Dataset(
        {"lpi": (dims, lpi), "lpi_known": (dims, np.where(counts[..., None] > 0, lpi, np.nan))},
        {
            "block": ("unit", np.array(["ffn"] * units, dtype=object)),
            "relation": list(relations),
            "n_prompts": ("relation", [6, 4]),
            "n_known": (("checkpoint", "relation"), counts),
            "step": ("checkpoint", [0, 8]),
        },
    )
    found = known_and_unknown(scores, "lpi", "ffn", 0.01)
    assert (found.step, found.known) == (8, 60.0)
    assert found.overlap == pytest.approx(2 / 6)
    assert found.share_known == pytest.approx(100 * np.sort(lpi[1, 0])[-4:].sum() / lpi[1, 0].sum())
    assert found.share_unknown == pytest.approx(100 * np.sort(lpi[1, 1])[-4:].sum() / lpi[1, 1].sum())
    assert known_and_unknown(scores.isel(checkpoint=[0]), "lpi", "ffn", 0.01) is None  # none is known
    assert known_and_unknown(scores.drop_vars("lpi_known"), "lpi", "ffn", 0.01) is None


def test_neurons_that_stay_are_told_from_those_that_do_not():
    plans = {f"moe-{i}": replace(MOE, noise=0.01) for i in range(3)} | {
        f"dense-{i}": replace(DENSE, noise=0.9) for i in range(3)
    }
    analysis = ask(survival, Replicated(Path("unused"), plans))
    stay, _ = analysis.verdicts
    assert stay.claim == "Neurons stay longer in the top set of moe than of dense"
    assert stay.verdict == "supported"
    (table,) = analysis.tables
    moe, dense = table.rows
    churn, chance = table.columns.index("churn, %"), table.columns.index("churn by chance, %")
    assert moe[churn] < dense[churn] < dense[chance] + 5
    backbone = table.columns.index("backbone, units")
    assert moe[backbone] > moe[backbone + 1]


def test_where_no_neuron_stays_there_is_no_backbone_to_compare():
    plans = {
        f"{kind}-{i}": replace(plan, noise=40.0) for kind, plan in (("moe", MOE), ("dense", DENSE)) for i in range(3)
    }
    _, backbone = ask(survival, Replicated(Path("unused"), plans), share=1.0, after=0.0).verdicts
    assert (backbone.verdict, backbone.effect, backbone.because) == ("undecided", None, "no backbone in either")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A real run of two kinds of arm, three seeds each."""
    folder = tmp_path_factory.mktemp("claims")
    facts = save_facts(folder / "facts", [CAPITALS])
    experiment = tiny_experiment(
        facts,
        {"train": "moe"},
        {"name": "dense", "train": "dense_active"},
        training=TRAINING | {"size": SIZE},
        seeds=[0, 1, 2],
        ablation=UNABLATED,
    )
    return run_experiment(experiment, folder / "run")


@pytest.mark.parametrize("name", ["claims", "density", "survival"])
def test_a_real_run_is_analysed(trained, name):
    row = analysis_of(name)
    found = row.analyse(open_run(trained.path), row.options(), Silent())
    assert {verdict.method for verdict in found.verdicts} == {"lpi", "grad_x_act"}
    assert Analysis.model_validate_json(found.model_dump_json()).verdicts == found.verdicts
    assert found.tables
    assert found.figures


def test_a_real_run_is_judged_like_its_summaries(trained):
    judged = judge(open_run(trained.path))
    assert [group.name for group in judged.groups] == ["moe", "dense"]
    share = next(one for one in judged.comparisons if one.measure.name == "importance_share")
    means = [
        np.mean([trained.summary(arm)["importance_share"].sel(kind="ffn").to_numpy() for arm in group.arms], axis=0)
        for group in judged.groups
    ]
    assert share.contrast.estimate == pytest.approx(means[0] - means[1])
