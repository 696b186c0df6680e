"""Routing in runs: by relation, at every position on request, beside dense arms, and in stores of earlier versions."""

import numpy as np
import pytest
import xarray as xr

from gated_lpi import attribute, load_model
from gated_lpi.metrics import summarise
from gated_lpi.report import build_report
from gated_lpi.results import ResultStore, open_run
from gated_lpi.runs import run_experiment
from tiny_runs import Notes, tiny_experiment
from tiny_text import CAPITALS, COLOURS, save_checkpoint, save_facts

ROUTING = ("expert_utilisation", "expert_gate")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Facts of two relations with four and two prompts, and two series of two checkpoints."""
    folder = tmp_path_factory.mktemp("source")
    save_facts(folder / "facts", [CAPITALS, COLOURS])
    for arm, case in (("moe", "Qwen2-MoE"), ("dense", "Qwen3")):
        for seed, step in enumerate((0, 10)):
            save_checkpoint(folder / arm / f"step-{step}", case, seed)
    return folder


@pytest.fixture(scope="module")
def notes():
    return Notes()


@pytest.fixture(scope="module")
def run(source, notes, tmp_path_factory):
    arms = ({"name": arm, "checkpoints": str(source / arm)} for arm in ("moe", "dense"))
    asked = tiny_experiment(source / "facts", *arms, attribution={"routing": "all", "gate": "uniform"})
    return run_experiment(asked, tmp_path_factory.mktemp("run") / "run", notes)


def test_positions_are_kept_with_their_checkpoints(run, source):
    scores = open_run(run.path).scores("moe")
    dims = ("checkpoint", "prompt", "position", "expert_unit")
    assert scores["router_logits"].dims == scores["position_gate"].dims == dims
    model = load_model(source / "moe" / "step-10")
    asked = run.experiment
    alone = attribute(
        model,
        asked.facts.load(),
        method=asked.attribution.asked()["lpi"],
        routing="all",
        templates=asked.facts.templates,
    )
    for name in ("router_logits", "position_gate"):
        np.testing.assert_array_equal(scores[name].values[1], alone[name].values)
        assert not np.array_equal(scores[name].values[0], scores[name].values[1], equal_nan=True)
    assert list(run.store("moe").damage().lines()) == []


def test_what_routers_did_is_kept_by_relation(run):
    scores = run.scores("moe")
    for name in ROUTING:
        assert scores[name].dims == ("checkpoint", "relation", "expert_unit")
    routed = scores["expert_unit_expert"].values >= 0
    per_layer = scores["expert_utilisation"].values[..., routed].sum(axis=-1)
    np.testing.assert_allclose(per_layer, 2.0, rtol=1e-6)
    assert not np.array_equal(scores["expert_gate"].values[:, 0], scores["expert_gate"].values[:, 1])


def test_a_dense_arm_beside_it_is_scored_as_ever_and_says_so(run, notes):
    scores = run.scores("dense")
    assert not {"router_logits", *ROUTING} & set(scores)
    assert scores.attrs["gate"] == "gated"
    told = "gate = 'uniform' and routing = 'all': left out, since this Qwen3 model has no routed experts"
    assert any(told in line for line in notes.said)
    assert not any("left out" in line for line in notes.said if line.startswith("moe"))
    assert run.scores("moe").attrs["gate"] == "uniform"


def as_before(scores: xr.Dataset) -> xr.Dataset:
    """Scores as an earlier version kept them: what routers did, without relations, and no texts of tokens."""
    weights = (scores["n_prompts"] / scores["n_prompts"].sum()).values.reshape(-1, 1)
    old = {
        name: (
            ("checkpoint", "expert_unit"),
            (scores[name].values.astype(np.float64) * weights).sum(axis=1).astype(np.float32),
        )
        for name in ROUTING
    }
    return scores.drop_vars((*ROUTING, "token_text")).assign(old)


def test_summaries_are_what_they_were(run):
    scores = run.scores("moe").load()
    before, now = (summarise(one, draws=2) for one in (as_before(scores), scores))
    xr.testing.assert_allclose(now, before, rtol=1e-6)
    assert now["utilisation_entropy"].dims == ("checkpoint", "moe_layer")


def test_a_report_is_drawn_of_either(run, monkeypatch):
    monkeypatch.setattr("gated_lpi.report.build.FORMATS", ())
    assert "Expert utilisation" in build_report(run).html.read_text()


def one_checkpoint(scores, number):
    """What `append` takes, of the scores of an arm."""
    row = scores.isel(checkpoint=number).reset_coords(["target_id"])
    return row.drop_vars(["checkpoint_key", "step", "tokens", "stage", "weights_sha256"])


def test_a_store_of_an_earlier_version_goes_on_as_it_began(run, tmp_path):
    scores = run.scores("moe").load()
    store = ResultStore(tmp_path / "old.zarr")
    store.append(one_checkpoint(as_before(scores), 0), {"key": "step-0", "step": 0})
    store.append(one_checkpoint(scores, 1), {"key": "step-10", "step": 10})
    found = store.open().load()
    assert "token_text" in scores.coords
    assert "token_text" not in found.coords
    for name in ROUTING:
        assert found[name].dims == ("checkpoint", "expert_unit")
        np.testing.assert_allclose(found[name].values, as_before(scores)[name].values, rtol=1e-6)
    xr.testing.assert_allclose(
        summarise(found, draws=2)["load_imbalance"].drop_vars(["step", "tokens", "stage"]),
        summarise(scores, draws=2)["load_imbalance"].drop_vars(["step", "tokens", "stage"]),
        rtol=1e-6,
    )
