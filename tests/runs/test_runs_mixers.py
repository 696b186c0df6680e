"""A model whose layers mix positions otherwise than by attention goes all the way: run, metrics, report, explorer."""

import html
import re

import pytest
from starlette.testclient import TestClient

from gated_lpi.explore import Workspace, create_app
from gated_lpi.report import build_report
from gated_lpi.runs import run_experiment
from tiny_runs import tiny_experiment
from tiny_text import CAPITALS, save_facts, tiny_tokenizer
from tiny_types import TYPES, tiny_of_type

# A mixer of heads, and experts; a short convolution.
HYBRIDS = [
    pytest.param(one, marks=[] if one == "nemotron_h" else [pytest.mark.slow])
    for one in ("nemotron_h", "lfm2")
    if one in TYPES
]


@pytest.mark.parametrize("model_type", HYBRIDS)
def test_a_hybrid_goes_all_the_way(tmp_path, model_type):
    facts = save_facts(tmp_path / "facts", [CAPITALS])
    for seed, step in enumerate((0, 10)):
        folder = tmp_path / "series" / f"step-{step}"
        tiny_of_type(model_type, seed).save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
    arm = {"name": "hybrid", "series": str(tmp_path / "series")}
    attribution = {"methods": ["lpi", "grad_x_act", "true_effect"], "sample": 2}
    run = run_experiment(tiny_experiment(facts, arm, attribution=attribution, follow={"units": 1}), tmp_path / "run")

    scores, summary = run.scores("hybrid"), run.summary("hybrid")
    mixers = scores["block"].values == "mixer"
    assert mixers.sum() > 0
    assert abs(scores["lpi"].values[..., mixers]).max() > 1e-4
    assert "mixer" in summary["kind"].values
    assert run.record("hybrid").ablation is not None
    assert "mixer" in html.unescape(build_report(run).html.read_text())

    workspace = Workspace(run)
    workspace.settle()
    client = TestClient(create_app(workspace), base_url="http://127.0.0.1")
    listed = client.get("/units", params={"kind": "mixer"}).text
    link = html.unescape(re.search(r'href="(/unit\?[^"]+)"', listed)[1])
    page = client.get(link)
    assert page.status_code == 200
    assert "mixer" in page.text
    workspace.close()
