"""Experiments from checkpoints or training to a run folder; refusal, resumption, damaged checkpoints."""

import numpy as np
import pytest
import xarray as xr

from gated_lpi import attribute, load_facts, load_model, open_run, prompting
from gated_lpi.checkpoints import list_local
from gated_lpi.errors import CheckpointError, OptionError, ReconstructionError, RunError, RunExistsError
from gated_lpi.experiments import Experiment
from gated_lpi.runs import attribute_checkpoint, run_experiment
from gated_lpi.training import ModelSize, TrainingSpec
from tiny_runs import QUICK as QUICKEST
from tiny_text import save_checkpoint, save_facts

QUICK = {"metrics": {"draws": 5}, "ablation": {"random_draws": 3, "top_units": 3}}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Facts and two series of three checkpoints."""
    folder = tmp_path_factory.mktemp("source")
    save_facts(folder / "facts")
    for arm, case in (("moe", "Qwen3-MoE"), ("dense", "Qwen3")):
        for seed, step in enumerate((0, 10, 100)):
            save_checkpoint(folder / arm / f"step-{step}", case, seed)
    return folder


def experiment(source, arms=("moe", "dense"), **changes):
    return Experiment.model_validate(
        {
            "name": "test",
            "facts": {"source": str(source / "facts"), "templates": "first"},
            "arms": [{"name": one, "checkpoints": str(source / one)} if isinstance(one, str) else one for one in arms],
            **QUICK,
            **changes,
        }
    )


def test_the_facts_of_a_checkpoint_are_tokenised_once(source, monkeypatch):
    encode, calls = prompting.encode_or_skip, []
    monkeypatch.setattr(prompting, "encode_or_skip", lambda *given, **how: calls.append(1) or encode(*given, **how))
    checkpoint, facts = list_local(source / "moe")[0], load_facts(source / "facts")
    scores, record = attribute_checkpoint(experiment(source), checkpoint, facts)
    assert calls == [1]
    alone = attribute(load_model(checkpoint.path), facts, keep="relations")
    xr.testing.assert_equal(scores["lpi"], alone["lpi"])
    assert len(record["prompts_sha256"]) == 64


def test_an_arm_is_read_by_its_own_row(source, tmp_path):
    row = tmp_path / "mine.toml"
    row.write_text('final_norm = "model.norm"')
    checkpoint, facts = list_local(source / "dense")[0], load_facts(source / "facts")
    arm = {"name": "dense", "checkpoints": str(source / "dense")}
    asked = experiment(source, arms=[{**arm, "family_row": str(row)}])
    assert asked.arm("dense").family_row == {"name": "mine", "final_norm": "model.norm"}
    row.unlink()  # its content is part of the experiment
    again = Experiment.model_validate(asked.model_dump(mode="json"))
    scores, _ = attribute_checkpoint(again, checkpoint, facts, arm="dense")
    assert scores.attrs["family"] == "mine"
    assert any("the row was given" in note for note in scores.attrs["notes"])
    wrong = experiment(source, arms=[{**arm, "family_row": {"norm": "layer"}}])
    with pytest.raises(ReconstructionError, match="of this dense model is not what"):
        attribute_checkpoint(wrong, checkpoint, facts, arm="dense")
    odd = experiment(source, arms=[{**arm, "family_row": {"norms": "layer"}}])
    with pytest.raises(OptionError, match="family_row of arm 'dense' has the key 'norms', which no row has"):
        run_experiment(odd, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match=r"cannot be read as TOML.*a row of the table of families"):
        experiment(source, arms=[{**arm, "family_row": str(row)}])
    with pytest.raises(ValueError, match="has family_row beside train"):
        experiment(source, arms=[{"name": "a", "train": "moe", "family_row": {}}])


@pytest.fixture(scope="module")
def run(source, tmp_path_factory):
    return run_experiment(experiment(source), tmp_path_factory.mktemp("runs") / "run")


def test_a_run_holds_what_attribute_returns(run, source):
    scores = run.scores("moe")
    assert scores["step"].values.tolist() == [0, 10, 100]
    facts = load_facts(source / "facts")
    alone = attribute(load_model(str(source / "moe" / "step-10")), facts, keep="relations")
    assert np.array_equal(scores["lpi"][1], alone["lpi"])
    assert np.array_equal(scores["target_rank"][1], alone["target_rank"])
    assert scores["relation"].values.tolist() == alone["relation"].values.tolist()
    mean = attribute(load_model(str(source / "moe" / "step-10")), facts, keep="mean")
    assert np.allclose(scores["lpi_mean"][1], mean["lpi"], atol=1e-6)


def test_every_checkpoint_has_its_provenance(run):
    records = run.scores("dense").attrs["checkpoints"]
    assert [r["key"] for r in records] == ["step-0", "step-10", "step-100"]
    assert len({r["weights_sha256"] for r in records}) == 3
    for record in records:
        assert 0 < record["reconstruction_error"] < 1e-5
        assert record["coverage"] == 1.0
        assert record["reconstruction"]["worst_block"].startswith("layer")


def test_the_last_checkpoint_is_ablated_beside_random_sets(run):
    for arm in run.arms:
        table = run.record(arm).ablation
        assert table.step == 100
        names = ["top-1 head", "top-10 heads", "top-1% FFN units"]
        assert [(row.method, row.name) for row in table.rows] == [(m, n) for m in ("lpi", "grad_x_act") for n in names]
        one, ten, units, *others = table.rows
        assert [row.random_hits for row in others] == [one.random_hits, ten.random_hits, units.random_hits]
        assert table.text_loss > 0
        assert (one.asked, one.count, one.available) == (1, 1, 8)
        assert (ten.asked, ten.count) == (10, 4)  # 8 heads are fewer than 20: half of them
        assert units.count == -(-units.available // 100)
        for row in table.rows:
            assert len(row.random_hits) == 3
            assert len(row.chosen) == row.count
            assert 0 <= row.hit <= 1
            assert len(row.random_text_losses) == 3
            assert row.text_loss > 0


def test_top_units_are_those_of_greatest_mean(run):
    scores = run.scores("moe").isel(checkpoint=-1)
    ffn = scores["lpi_mean"].values[scores["block"].values == "ffn"]
    top = run.record("moe").top_ffn
    assert [unit.lpi for unit in top] == pytest.approx(sorted(ffn, reverse=True)[:3])
    assert top[0].label.startswith("layer")
    assert len(top[0].promoted) == 8
    assert set(top[0].promoted).isdisjoint(top[0].suppressed)


def test_a_run_opens_again_and_with_plain_xarray(run):
    again = open_run(run.path)
    assert again.arms == ("moe", "dense")
    xr.testing.assert_identical(again.scores("moe").load(), run.scores("moe").load())
    plain = xr.open_zarr(run.path / "results" / "moe.zarr", consolidated=False, chunks=None)
    assert np.array_equal(plain["lpi"], run.scores("moe")["lpi"])
    with pytest.raises(OptionError, match=r"arm 'other'.*moe, dense"):
        again.scores("other")


def test_another_run_is_refused_and_left_alone(run, source):
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    with pytest.raises(RunExistsError, match=r"attribution\.norm \('frozen' there, 'recomputed' given\)"):
        run_experiment(experiment(source, attribution={"norm": "recomputed"}), run.path)
    with pytest.raises(RunExistsError, match="new or empty folder"):
        run_experiment(experiment(source), source)
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == before


def test_a_finished_run_is_not_done_again(run, source):
    before = {p: p.stat().st_mtime_ns for p in run.path.rglob("*") if p.is_file()}
    run_experiment(experiment(source), run.path)
    assert {p: p.stat().st_mtime_ns for p in run.path.rglob("*") if p.is_file()} == before


class Stop(Exception):
    """Stands for an interruption."""


class StopsAt:
    """A progress that interrupts the run as a task reaches a count."""

    def __init__(self, label, count):
        self.label, self.count = label, count

    def note(self, text):
        pass

    def task(self, label):
        from contextlib import nullcontext

        def advance(done, _total):
            if label == self.label and done == self.count:
                raise Stop

        return nullcontext(advance)


@pytest.fixture(scope="module")
def quick(source):
    return experiment(source, **QUICKEST)


@pytest.fixture(scope="module")
def uninterrupted(quick, tmp_path_factory):
    return run_experiment(quick, tmp_path_factory.mktemp("uninterrupted") / "run")


@pytest.mark.parametrize("where", [("attribute moe", 0), ("attribute dense", 2), ("ablate moe", 3)])
def test_an_interrupted_run_goes_on_where_it_stopped(quick, uninterrupted, tmp_path, where):
    with pytest.raises(Stop):
        run_experiment(quick, tmp_path / "run", StopsAt(*where))
    done = {arm: open_run(tmp_path / "run").store(arm).records() for arm in ("moe", "dense")}
    finished = run_experiment(quick, tmp_path / "run")
    for arm in finished.arms:
        xr.testing.assert_equal(finished.scores(arm).load(), uninterrupted.scores(arm).load())
        assert finished.record(arm) == uninterrupted.record(arm)
        assert finished.store(arm).records()[: len(done[arm])] == done[arm]  # not computed again


def test_a_series_without_checkpoints_is_an_error(source, tmp_path):
    (tmp_path / "empty").mkdir()
    lonely = experiment(source).model_copy(
        update={"arms": (experiment(source).arms[0].model_copy(update={"checkpoints": str(tmp_path / "empty")}),)}
    )
    with pytest.raises(CheckpointError, match="holds no checkpoint folders"):
        run_experiment(lonely, tmp_path / "run")


@pytest.mark.parametrize("content", [None, "{", '{"experiment": {}}', "[]"])
def test_a_folder_without_a_run_is_an_error(tmp_path, content):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(RunError):
        open_run(tmp_path)


def test_an_experiment_trains_its_own_arms(tmp_path):
    spec = TrainingSpec(
        size=ModelSize(hidden=32, layers=2, heads=4, kv_heads=2, experts=4, expert_width=8, vocab_size=400),
        steps=4,
        batch_size=8,
        warmup_steps=1,
        checkpoints=3,
    )
    trained = Experiment.model_validate(
        {
            "name": "trained",
            "facts": {"source": str(save_facts(tmp_path / "facts"))},
            "training": spec,
            "arms": [{"name": "moe", "train": "moe"}, {"name": "dense", "train": "dense_active"}],
            "attribution": {"units": ["ffn", "attention", "heads"]},
            **QUICKEST,
        }
    )
    run = run_experiment(trained, tmp_path / "run")
    for arm in run.arms:
        scores = run.scores(arm)
        assert scores["step"].values[-1] == 4
        assert (np.diff(scores["tokens"].values) > 0).all()
        assert (np.diff(scores["step"].values) > 0).all()
    assert run.record("moe").parameters > run.record("moe").parameters_active
