"""Attention by source position in runs: kept by prompt and layer, and drawn."""

import json

import numpy as np

from gated_lpi import LPI, attribute, load_model
from gated_lpi.report import build_report
from gated_lpi.report.tables import visible
from gated_lpi.runs import run_experiment
from tiny_runs import tiny_experiment
from tiny_text import CAPITALS, COLOURS, save_checkpoint, save_facts


def test_layers_by_source_position_are_kept_whatever_is_kept_of_prompts_and_drawn(tmp_path, monkeypatch):
    save_facts(tmp_path / "facts", [CAPITALS, COLOURS])
    for seed, step in enumerate((0, 10)):
        save_checkpoint(tmp_path / "moe" / f"step-{step}", "Qwen2-MoE", seed)
    arm = {"name": "moe", "checkpoints": str(tmp_path / "moe")}
    run = run_experiment(
        tiny_experiment(tmp_path / "facts", arm, attribution={"positions": "resolved"}), tmp_path / "run"
    )
    scores = run.scores("moe")
    found = scores["layer_position_lpi"]
    assert found.dims == ("checkpoint", "prompt", "position", "attention_block")
    model = load_model(tmp_path / "moe" / "step-10")
    alone = attribute(model, run.experiment.facts.load(), method=LPI(), templates="first", positions="resolved")
    np.testing.assert_array_equal(found.values[1], alone["layer_position_lpi"].values)
    layer = alone["layer"].values[alone["block"].values == "attention"]
    for index, of_block in enumerate(alone["attention_block_layer"].values):
        by_hand = alone["position_lpi"].values[..., layer == of_block].sum(axis=-1)
        np.testing.assert_allclose(found.values[1][..., index], by_hand, atol=1e-5)
    assert np.isnan(found.values[1]).any()  # prompts are of different lengths
    texts = scores["token_text"]
    assert texts.dims == ("prompt", "position")
    words = str(scores["text"].values[0]).split()  # each is a token, and the last is the answer
    assert [token for token in texts.values[0].tolist() if token] == words[:-1]
    np.testing.assert_array_equal(texts.values == "", np.isnan(found.values[1]).all(axis=-1))
    monkeypatch.setattr("gated_lpi.report.build.FORMATS", ())
    page = build_report(run).html.read_text()
    assert "What attention takes from where" in page
    assert json.dumps("attention_positions") in page or "attention_positions" in page
    assert f"position 0 {visible(texts.values[0][0])}" in page
