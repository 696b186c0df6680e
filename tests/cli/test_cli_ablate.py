"""`gated-lpi ablate` as it is typed: a table, JSON, what is kept, and what is refused with which exit code."""

import json

import numpy as np
import pytest
import xarray as xr
from test_cli import flat, run

from gated_lpi import ablate, attribute, load_facts, load_model
from gated_lpi.ablation import redundancy
from tiny_text import CAPITALS, save_checkpoint, save_facts


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("model") / "step-1", "Qwen3-MoE")


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    return save_facts(tmp_path_factory.mktemp("facts") / "all")


@pytest.fixture(scope="module")
def scores(checkpoint, tmp_path_factory):
    capitals = save_facts(tmp_path_factory.mktemp("facts") / "capitals", [CAPITALS])
    out = tmp_path_factory.mktemp("scores") / "scores.zarr"
    attribute(load_model(checkpoint), load_facts(capitals)).to_zarr(out, consolidated=False)
    return out


def test_a_curve_as_json_is_what_the_call_gives(monkeypatch, capsys, checkpoint, facts, scores, tmp_path):
    options = ["--scores", scores, "--variable", "lpi", "--top-share", "0.05,0.5", "--how", "mean", "--at", "last"]
    options += ["--routing", "frozen", "--draws", 2, "--controls", "layer", "--k", 3, "--out", tmp_path / "found.zarr"]
    code, out, err = run(monkeypatch, capsys, "ablate", checkpoint, "--facts", facts, *options, "--json")
    assert code == 0, err
    printed = xr.Dataset.from_dict(json.loads(out))
    expected = ablate(
        load_model(checkpoint),
        load_facts(facts),
        scores=xr.open_zarr(scores, consolidated=False),
        share=(0.05, 0.5),
        how="mean",
        at="last",
        routing="frozen",
        draws=2,
        controls=("layer",),
        k=3,
    )
    for name in expected.data_vars:
        np.testing.assert_allclose(printed[name].astype(float), expected[name], atol=1e-6, err_msg=str(name))
    kept = xr.open_zarr(tmp_path / "found.zarr", consolidated=False)
    assert kept["logprob_control"].shape == (2, 1, 2)
    assert printed.attrs["n_other"] == 2


def test_named_units_and_heads_as_a_table(monkeypatch, capsys, checkpoint, facts):
    options = ["--units", "L1 E3 n2, 7", "--units", "L0 n4", "--heads", "L1 head 2", "--draws", 3]
    code, out, err = run(monkeypatch, capsys, "ablate", checkpoint, "--facts", facts, *options)
    assert code == 0, err
    shown = flat(out)
    assert "zero at all positions, free routing; 6 prompts" in shown
    for word in ("layer 1 expert 3 neuron 2", "(19 units)", "same layers", "HIT@10", "loss on text", "mean ± sd of 3"):
        assert word in shown
    assert "no facts of other relations" in shown


def test_a_table_of_whole_answers_says_so(monkeypatch, capsys, checkpoint, facts):
    options = ["--heads", "0", "--controls", "none"]
    for answer, said in (("all", True), ("first", False)):
        _, out, _ = run(monkeypatch, capsys, "ablate", checkpoint, "--facts", facts, *options, "--answer", answer)
        assert ("whole answers: HIT@1 is exact match by greedy decoding" in flat(out)) is said


def test_others_and_no_controls(monkeypatch, capsys, checkpoint, facts):
    options = ["--heads", "0", "--others", facts, "--controls", "none"]
    code, out, err = run(monkeypatch, capsys, "ablate", checkpoint, "--facts", facts, *options)
    assert code == 0, err
    assert "others: HIT@10" in flat(out)
    assert "6 prompts of other relations" in flat(out)
    assert "random" not in out


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ([], 2, "--units or --heads, or --scores, say what is silenced, and none was given"),
        (["--units", "L1 E3 n99"], 2, "'L1 E3 n99' was given, and this model has no such unit: layer 1 has heads 0 to"),
        (["--units", "the first one"], 2, "is no name of units"),
        (["--heads", "99"], 2, "head 99 was given"),
        (["--scores", "nowhere"], 2, "--scores nowhere cannot be read"),
        (["--units", "1", "--how", "loudly"], 2, "how='loudly' was given; expected one of 'zero', 'mean', 'resample'"),
        (["--units", "1", "--routing", "iced"], 2, "routing='iced'"),
        (["--units", "1", "--controls", "fair"], 2, "controls=('fair',) was given"),
        (["--units", "1", "--text", "nowhere.txt"], 2, "the text nowhere.txt cannot be read"),
        (["--units", "1", "--top-share", "much"], 2, "--top-share 'much' was given"),
        (["--units", "1", "--others", "nowhere.jsonl"], 1, "nowhere.jsonl"),
    ],
)
def test_what_is_refused_says_what_to_do(monkeypatch, capsys, checkpoint, facts, options, code, message):
    found, _, err = run(monkeypatch, capsys, "ablate", checkpoint, "--facts", facts, *options)
    assert found == code
    assert message in flat(err)


def test_both_ways_of_saying_what_and_a_folder_that_is_there(monkeypatch, capsys, checkpoint, facts, scores):
    code, _, err = run(monkeypatch, capsys, "ablate", checkpoint, "--facts", facts, "--scores", scores, "--units", 1)
    assert code == 2
    assert "both were given" in flat(err)
    code, _, err = run(monkeypatch, capsys, "ablate", checkpoint, "--facts", facts, "--units", 1, "--out", scores)
    assert code == 1
    assert "not overwritten" in flat(err)


def test_dense_models_have_no_routing_to_freeze(monkeypatch, capsys, tmp_path, facts):
    dense = save_checkpoint(tmp_path / "dense", "Llama")
    code, _, err = run(monkeypatch, capsys, "ablate", dense, "--facts", facts, "--units", 1, "--routing", "frozen")
    assert code == 2
    assert "no routed experts" in flat(err)


def test_experts_are_silenced_with_free_and_with_frozen_routing(
    monkeypatch, capsys, checkpoint, facts, scores, tmp_path
):
    options = ["--scores", scores, "--variable", "lpi", "--top-experts", "1,3", "--draws", 2]
    code, out, err = run(
        monkeypatch,
        capsys,
        "ablate",
        checkpoint,
        "--facts",
        facts,
        *options,
        "--json",
        "--out",
        tmp_path / "found.zarr",
    )
    assert code == 0, err
    printed = xr.Dataset.from_dict(json.loads(out))
    ranking = xr.open_zarr(scores, consolidated=False)
    expected = redundancy(
        load_model(checkpoint), load_facts(facts), scores=ranking, variable="lpi", top=(1, 3), draws=2
    )
    assert printed["row"].values.tolist() == expected["row"].values.tolist()
    for name in ("logprob", "recovered", "recovered_control", "routing_jaccard"):
        np.testing.assert_allclose(printed[name].astype(float), expected[name], atol=1e-6, err_msg=name)
    assert xr.open_zarr(tmp_path / "found.zarr", consolidated=False)["recovered"].shape == (2, 6)
    code, out, err = run(
        monkeypatch, capsys, "ablate", checkpoint, "--facts", facts, "--experts", "L1 E3", "--draws", 2
    )
    assert code == 0, err
    assert "log p that the routers' answer saves" in flat(out)
    assert "L1 E3" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--top-experts", "1"], "--top-experts N takes --scores that rank"),
        (["--experts", "L1 E3", "--units", "1"], "--units was given with --experts or --top-experts"),
        (["--experts", "L1 E3", "--answer", "all"], "--answer was given with --experts or --top-experts"),
        (["--experts", "L1 E99"], "E99"),
        (["--experts", "L1 E3", "--top-experts", "many"], "give one of the two"),
    ],
)
def test_what_cannot_be_asked_of_experts_is_refused(monkeypatch, capsys, checkpoint, facts, options, message):
    code, _, err = run(monkeypatch, capsys, "ablate", checkpoint, "--facts", facts, *options)
    assert code == 2
    assert message in flat(err)
