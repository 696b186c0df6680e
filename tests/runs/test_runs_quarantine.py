"""Checkpoints that cannot be used are put aside with the reason, and the run goes on; duplicates are refused."""

import json
import shutil
import sys

import numpy as np
import pytest

from gated_lpi.cli import main
from gated_lpi.report import build_report
from gated_lpi.results import open_run
from gated_lpi.runs import run_experiment
from tiny_runs import BY_LPI, tiny_experiment
from tiny_text import CAPITALS, save_checkpoint, save_facts


def spoil_values(folder):
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"][0, 0] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def unknown_family(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "nonesuch", "architectures": ["None"]}))


SPOILS = {
    "without weights": (lambda f: (f / "model.safetensors").unlink(), "WeightsError"),
    "not finite": (spoil_values, "WeightsError"),
    "no known model": (unknown_family, "UnknownFamilyError"),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    for seed, step in enumerate((0, 10, 20, 30)):
        save_checkpoint(folder / f"step-{step}", "Qwen3", seed)
    return folder


@pytest.fixture
def series(good, tmp_path):
    return shutil.copytree(good, tmp_path / "series")


def experiment(series, tmp_path, **changes):
    facts = save_facts(tmp_path / "facts", [CAPITALS])
    return tiny_experiment(facts, {"name": "a", "series": str(series)}, attribution=BY_LPI, **changes)


@pytest.mark.parametrize("spoil", SPOILS)
def test_an_unusable_checkpoint_is_put_aside_and_the_run_goes_on(series, tmp_path, spoil):
    breaks, error = SPOILS[spoil]
    breaks(series / "step-10")
    run = run_experiment(experiment(series, tmp_path), tmp_path / "run")
    assert run.scores("a")["step"].values.tolist() == [0, 20, 30]
    (record,) = run.quarantined("a")
    assert (record["key"], record["step"], record["error"]) == ("step-10", 10, error)
    assert record["quarantined"]
    assert run.scores("a").attrs["quarantined"] == [record]
    assert run.record("a").ablation.checkpoint == "step-30"


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_the_report_names_what_is_missing_and_that_pairs_span_it(series, tmp_path):
    SPOILS["not finite"][0](series / "step-10")
    shutil.rmtree(series / "step-30")
    shutil.copytree(series / "step-20", series / "step-30")
    run = run_experiment(experiment(series, tmp_path), tmp_path / "run")
    files = build_report(run)
    page = files.html.read_text()
    assert "step-10 could not be used" in page
    assert "their interval is longer" in page
    assert "hold the same weights under two names" in page
    summary = json.loads(files.summary.read_text())
    assert summary["arms"]["a"]["data_vars"]["stability"]["data"][0][-1] is None  # never a 1 for a duplicate
    assert summary["tables"]["quarantined"]


def test_it_is_tried_again_only_when_asked_to(good, series, tmp_path):
    spec = experiment(series, tmp_path)
    SPOILS["without weights"][0](series / "step-30")
    run = run_experiment(spec, tmp_path / "run")
    assert run.record("a").ablation.checkpoint == "step-20"
    shutil.copy(good / "step-30" / "model.safetensors", series / "step-30")
    assert run_experiment(spec, tmp_path / "run").scores("a").sizes["checkpoint"] == 3
    run = run_experiment(spec, tmp_path / "run", retry_quarantined=True)
    assert run.scores("a")["step"].values.tolist() == [0, 10, 20, 30]
    assert run.quarantined("a") == []
    assert "quarantined" not in run.scores("a").attrs
    assert run.record("a").ablation.checkpoint == "step-30"


def test_duplicates_have_one_digest_and_are_not_compared(series, tmp_path):
    from gated_lpi.metrics import summarise

    shutil.rmtree(series / "step-20")
    shutil.copytree(series / "step-10", series / "step-20")
    run = run_experiment(experiment(series, tmp_path), tmp_path / "run")
    scores = run.scores("a")
    assert scores["weights_sha256"][1] == scores["weights_sha256"][2]
    assert run.duplicates("a") == [("step-10", "step-20")]
    stability = summarise(scores, draws=3)["stability"]
    assert np.isnan(stability).values[:, 1].all()
    assert not np.isnan(stability).values[:, [0, 2]].any()


def command(series, tmp_path, monkeypatch, choice):
    """`gated-lpi run` of an experiment file on the series, to be called."""
    file = tmp_path / "experiment.toml"
    facts = save_facts(tmp_path / "facts", [CAPITALS])
    file.write_text(
        f"""name = "test"
facts = {{source = "{facts}", templates = "first"}}
metrics = {{draws = 3}}
ablation = {{random_draws = 1, top_units = 1, heads = [1], units = [0.1], text = ""}}
[[arms]]
name = "a"
series = "{series}"
{choice}
"""
    )
    monkeypatch.setattr(sys, "argv", ["gated-lpi", "run", str(file), "--out", str(tmp_path / "run")])
    return main


@pytest.mark.usefixtures("undrawn")
def test_the_command_says_so_and_ends_with_3(series, tmp_path, monkeypatch, capsys):
    SPOILS["without weights"][0](series / "step-0")
    run = command(series, tmp_path, monkeypatch, "count = 2")
    for _ in range(2):  # a run that is taken up again says it again
        with pytest.raises(SystemExit) as stop:
            run()
        assert stop.value.code == 3
        assert "quarantined: a step-0 (WeightsError)" in capsys.readouterr().out
    assert open_run(tmp_path / "run").scores("a")["step"].values.tolist() == [30]


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_the_command_says_what_is_a_duplicate_and_what_is_left_out(series, tmp_path, monkeypatch, capsys):
    shutil.copytree(series / "step-10", series / "step-15")
    shutil.copytree(series / "step-10", series / "best-model")
    run = command(series, tmp_path, monkeypatch, "steps = [10, 15]")
    for _ in range(2):
        with pytest.raises(SystemExit) as stop:
            run()
        assert not stop.value.code
        out, err = capsys.readouterr()
        assert "a: left out: best-model: names no step" in err
        assert "a: identical weights: step-10, step-15; J_stab and R_t between them are refused" in out.replace(
            "\n", " "
        )


def test_an_arm_without_any_usable_checkpoint_says_why(series, tmp_path):
    from gated_lpi.errors import RunError

    for folder in series.iterdir():
        (folder / "model.safetensors").unlink()
    run = run_experiment(experiment(series, tmp_path), tmp_path / "run")
    with pytest.raises(RunError, match=r"4 are quarantined: .*holds no weights"):
        run.scores("a")
    assert run.record("a") is None
