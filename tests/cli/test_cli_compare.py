"""`gated-lpi compare` as it is typed: tables, JSON, what is kept, and what is refused with which exit code."""

import json

import numpy as np
import pytest
import xarray as xr
from test_cli import flat, run

from gated_lpi import compare, load_facts, load_model
from gated_lpi.cli import console
from tiny_runs import BRIEF
from tiny_text import save_checkpoint, save_facts

CHEAP = ["--sample", 2, "--shares", "0.05,0.5", "--control-draws", 2, "--draws", 5]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("model") / "step-1", "Qwen3-MoE")


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    return save_facts(tmp_path_factory.mktemp("facts") / "all")


def test_json_is_what_the_call_gives_and_is_kept_on_request(monkeypatch, capsys, checkpoint, facts, tmp_path):
    asked = ["--sample", 2, "--shares", "0.05,0.5", "--control-draws", 1, "--draws", 5]
    options = [*asked, "--foil", "relation", "--seed", 3, "--text", BRIEF, "--out", tmp_path / "found.zarr", "--json"]
    code, out, err = run(monkeypatch, capsys, "compare", checkpoint, facts, *options)
    assert code == 0, err
    printed = xr.Dataset.from_dict(json.loads(out))
    expected = compare(
        load_model(checkpoint),
        load_facts(facts),
        foil="relation",
        sample=2,
        shares=(0.05, 0.5),
        control_draws=1,
        draws=5,
        seed=3,
        text=BRIEF,
    )
    assert set(printed.data_vars) == set(expected.data_vars)
    for name in ("agreement", "truth", "area", "logprob", "text_loss_control", "target_agreement"):
        np.testing.assert_allclose(printed[name].astype(float), expected[name], atol=1e-4, err_msg=name)
    kept = xr.open_zarr(tmp_path / "found.zarr", consolidated=False)
    np.testing.assert_allclose(kept["truth"], expected["truth"], atol=1e-4)


def test_tables_have_agreement_truth_curves_and_areas(monkeypatch, capsys, checkpoint, facts):
    monkeypatch.setattr(console.out, "_width", 160)  # whatever the terminal's
    methods = "lpi,grad_x_act,direct_effect"
    options = ["--methods", methods, *CHEAP, "--text", BRIEF]
    code, out, err = run(monkeypatch, capsys, "compare", checkpoint, facts, *options)
    assert code == 0, err
    for text in (
        "FFN units, 6 prompts",
        "lpi, direct_effect",
        "Spearman with the true effect on log p, 4 units silenced one by one",
        "upper third",
        "by chance",
        "all but the top share silenced",
        "5% grad_x_act",
        "50% random",
        "same layers",
        "loss on text is greater by",
    ):
        assert text in flat(out), text
    assert "compare" in err  # the progress bar


def test_a_method_that_fails_is_said_and_the_rest_is_shown(monkeypatch, capsys, checkpoint, tmp_path):
    monkeypatch.setattr(console.out, "_width", 160)  # whatever the terminal's
    (tmp_path / "facts.jsonl").write_text(
        "".join(
            json.dumps({"prompt": f"The capital of {subject} is", "target": target, "relation": "capital"}) + "\n"
            for subject, target in (("France", "Paris"), ("Japan", "Paris"))
        )
    )
    options = ["--sample", 0, "--shares", "none", "--draws", 5, "--foil", "relation"]
    code, out, err = run(monkeypatch, capsys, "compare", checkpoint, tmp_path / "facts.jsonl", *options)
    assert code == 0, err
    assert "failed: lpi (contrast): foil='relation' was asked for" in flat(err)
    assert "lpi, grad_x_act" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--methods", "lpi,rollout"], "'rollout' scores heads"),
        (["--methods", "lpi,lrp"], "'lrp' was given; expected one of"),
        (["--units", "heads"], "no method but rollout and lpi scores heads"),
        (["--shares", "a"], "expected shares joined by commas"),
        (["--foil", "best"], "the margin is always compared"),
    ],
)
def test_what_makes_no_sense_is_refused(monkeypatch, capsys, checkpoint, facts, options, message):
    code, _, err = run(monkeypatch, capsys, "compare", checkpoint, facts, *options)
    assert code == 2
    assert message in flat(err)


def test_a_folder_that_is_there_is_not_overwritten(monkeypatch, capsys, checkpoint, facts, tmp_path):
    code, _, err = run(monkeypatch, capsys, "compare", checkpoint, facts, "--out", tmp_path)
    assert code == 1
    assert "exists already" in flat(err)
    assert not list(tmp_path.iterdir())
