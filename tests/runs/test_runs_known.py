"""Scores over known facts: means over the prompts whose target a checkpoint, or the last one, holds likely."""

import json

import numpy as np
import pytest
import xarray as xr

from gated_lpi import GradientTimesActivation, attribute, load_model
from gated_lpi.errors import OptionError, RunError
from gated_lpi.experiments import Experiment
from gated_lpi.options import LPI
from gated_lpi.results import open_run
from gated_lpi.results.files import write_file
from gated_lpi.results.known import KnownAtEnd, read_known, write_known
from gated_lpi.results.verify import verify_run
from gated_lpi.runs import run_experiment
from tiny_runs import Notes, tiny_experiment
from tiny_text import CAPITALS, COLOURS, save_checkpoint, save_facts

K = 10
METHODS = {"lpi": LPI(), "lpi_contrast": LPI(foil="relation"), "grad_x_act": GradientTimesActivation()}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    save_facts(folder / "facts", [CAPITALS, COLOURS])
    for seed, step in enumerate((0, 10, 20)):
        save_checkpoint(folder / "a" / f"step-{step}", "OLMoE", seed)
    return folder


def experiment(source, **attribution):
    asked = {"methods": ["lpi", "grad_x_act"], "contrast": "relation", "known": True, **attribution}
    return tiny_experiment(
        source / "facts", {"name": "a", "checkpoints": str(source / "a")}, attribution=asked, metrics={"draws": 5}
    )


@pytest.fixture(scope="module")
def run(source, tmp_path_factory):
    return run_experiment(experiment(source), tmp_path_factory.mktemp("run") / "run")


def by_prompt(source, step, method):
    facts = experiment(source).facts.load()
    return attribute(load_model(source / "a" / f"step-{step}"), facts, method=method, templates="first")


def test_they_are_the_means_of_the_prompts_scores(run, source):
    scores = open_run(run.path).scores("a")
    last = by_prompt(source, 20, LPI())["target_rank"].values < K
    seen = set()
    for row, step in enumerate((0, 10, 20)):
        for name, method in METHODS.items():
            alone = by_prompt(source, step, method)
            ranks, values = alone["target_rank"].values, alone[name.removesuffix("_contrast")].values
            for part, inside in (("known", ranks < K), ("known_last", last)):
                for place, relation in enumerate(scores["relation"].values):
                    members = inside & (alone["prompt_relation"].values == relation)
                    assert int(scores[f"n_{part}"][row, place]) == members.sum()
                    found = scores[f"{name}_{part}"].values[row, place]
                    expected = values[members].mean(axis=0) if members.any() else np.full(found.shape, np.nan)
                    np.testing.assert_allclose(found, expected, atol=1e-6)
                    seen.add((part, bool(members.any()), bool(members.all())))
        np.testing.assert_array_equal(scores["known_last"].values[row], last)
    assert {("known", True, False), ("known_last", True, False)} <= seen  # else this would show nothing


def test_their_summaries_are_kept_apart(run):
    full, known, end = (run.summary("a", facts=facts) for facts in ("all", "known", "known_last"))
    assert "facts" not in full.attrs
    assert (known.attrs["facts"], end.attrs["facts"]) == ("known", "known_last")
    counts = run.scores("a")["n_known"].sum("relation")
    np.testing.assert_array_equal(known["known_prompts"], counts)
    assert len(set(end["known_prompts"].values.tolist())) == 1
    xr.testing.assert_identical(known["hit"], full["hit"])
    assert not known["layer_profile"].equals(full["layer_profile"])
    assert not known["layer_profile"].equals(end["layer_profile"])
    again = open_run(run.path)
    for method, facts in (("lpi", "known"), ("grad_x_act", "known_last")):
        xr.testing.assert_identical(again.summary("a", method, facts), run.summary("a", method, facts))
    kept = {file.name for file in (run.path / "results").glob("*.summary.json")}
    assert {"a.known.summary.json", "a.grad_x_act.known_last.summary.json"} <= kept


@pytest.mark.slow
def test_it_is_taken_up_with_the_same_facts(source, tmp_path):
    first = run_experiment(experiment(source), tmp_path / "whole")
    begun = tmp_path / "begun"
    run_experiment(experiment(source), begun)
    store = open_run(begun).store("a")
    chunk = store.path / "lpi_known" / "c" / "1" / "0" / "0"
    chunk.write_bytes(b"damaged")  # so that one checkpoint is scored again
    notes = Notes()
    again = run_experiment(experiment(source), begun, notes)
    assert any("damaged, and made again" in text for text in notes.said)
    assert not any("asked again" in text for text in notes.said)
    name = "lpi_known_last"
    np.testing.assert_array_equal(
        again.scores("a").sortby("step")[name].values, first.scores("a").sortby("step")[name].values
    )
    assert verify_run(again) == []


def test_a_damaged_file_is_found_and_made_again(source, tmp_path):
    run = run_experiment(experiment(source), tmp_path / "run")
    file = run.known_file("a")
    content = file.read_bytes()
    file.write_bytes(content.replace(b"false", b"true ", 1) if b"false" in content else b"{")
    (finding,) = verify_run(run)
    assert finding.remedy == "delete it, and the arm's last checkpoint is asked again"
    chunk = run.store("a").path / "lpi" / "c" / "0" / "0" / "0"
    chunk.write_bytes(b"")
    notes = Notes()
    run_experiment(experiment(source), tmp_path / "run", notes)
    assert any("is asked again for what it knows" in text for text in notes.said)
    assert file.read_bytes() == content


def test_a_last_checkpoint_that_cannot_be_used_leaves_them_out(source, tmp_path):
    folder = tmp_path / "series"
    for seed, step in enumerate((0, 10, 20)):
        save_checkpoint(folder / f"step-{step}", "OLMoE", seed)
    (folder / "step-20" / "model.safetensors").unlink()
    asked = tiny_experiment(
        source / "facts",
        {"name": "a", "checkpoints": str(folder)},
        attribution={"methods": ["lpi"], "known": True},
    )
    notes = Notes()
    run = run_experiment(asked, tmp_path / "run", notes)
    assert [text for text in notes.said if "known at the end are left out" in text]
    scores = run.scores("a")
    assert scores.sizes["checkpoint"] == 2
    assert "lpi_known" in scores
    assert "lpi_known_last" not in scores
    assert "step-20" in read_known(run.known_file("a")).checkpoint
    with pytest.raises(OptionError, match=r"no lpi_known_last: its last checkpoint could not be used .*a\.known\.json"):
        run.summary("a", facts="known_last")
    with pytest.raises(OptionError, match="expected one of all, known, known_last"):
        run.summary("a", facts="unknown")


def test_runs_without_them_say_how_to_have_them(source, tmp_path):
    run = run_experiment(experiment(source, known=False, methods=["lpi"], contrast=None), tmp_path / "run")
    assert "n_known" not in run.scores("a")
    assert not run.known_file("a").exists()
    with pytest.raises(OptionError, match=r"set known = true in the experiment's \[attribution\]"):
        run.summary("a", facts="known")
    content = json.loads((run.path / "run.json").read_text())
    del content["experiment"]["attribution"]["known"], content["sha256"], content["format"]
    write_file(run.path / "run.json", content)  # as versions before wrote it
    before = open_run(run.path)
    assert before.experiment.attribution.known is False
    run_experiment(experiment(source, known=False, methods=["lpi"], contrast=None), run.path)


def test_what_a_model_would_say_itself_is_always_known(source):
    with pytest.raises(ValueError, match="which it always knows"):
        experiment(source, target="top1", contrast=None)
    assert isinstance(experiment(source, known=False, target="top1", contrast=None), Experiment)


@pytest.mark.parametrize("content", [{}, {"known": [True], "left_out": "gone"}, {"known": [1]}])
def test_a_file_that_says_nothing_is_refused(tmp_path, content):
    write_file(tmp_path / "a.known.json", {"checkpoint": "step-1", **content})
    with pytest.raises(RunError, match="delete it, and the arm's last checkpoint is asked again"):
        read_known(tmp_path / "a.known.json")
    known = KnownAtEnd(checkpoint="step-1", known=[True, False])
    write_known(tmp_path / "a.known.json", known)
    assert read_known(tmp_path / "a.known.json") == known
