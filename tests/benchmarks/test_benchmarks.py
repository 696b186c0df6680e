"""The benchmarks measure what they say: the yardstick is the formula, synthetic layers are like what was measured."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from benchmarks.scorer import Scorer
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import (
    before,
    calibrate,
    gradients,
    layers,
    loads,
    plots,
    published,
    run,
    summaries,
    synthetic,
    tables,
    timing,
)
from flat import asked, certified
from gated_lpi.methods import attribute_encoded, block_problems, problem_of
from gated_lpi.trace import trace
from tiny_models import encoded, random_prompts, tiny_model

TINY_DENSE = synthetic.Layer("tiny", d=32, ffn=96, attention=32, vocabulary=700, heads=4)
TINY_MOE = synthetic.Layer(
    "tiny experts", d=32, ffn=24, attention=32, vocabulary=700, heads=4, experts=6, top=2, routing="measured"
)
TINY_ARM = summaries.Work(summaries.TINY, summaries.TINY, (2, 3))


@pytest.mark.parametrize("case", ["Llama", "OLMoE", "GPT-NeoX (Pythia)", "Gemma2", "Qwen2-MoE"])
def test_the_yardstick_gives_the_exact_scores(case):
    model, prompts = tiny_model(case), random_prompts(3)
    options = asked(units=("ffn", "attention"), estimator="exact")
    exact = attribute_encoded(model, encoded(prompts), *options)[0].result("lpi")
    targets = torch.tensor([item.target_id for item in encoded(prompts)])
    traced = trace(model, prompts)
    frozen = model.readout.inverse_scale(traced.final_residual)
    rows = []
    for prompt in range(len(prompts)):
        scores = [
            published.published_scores(
                problem_of(model.readout, block, seen, targets, frozen),
                prompt,
                memory=4000,
            )[0]
            for block, seen in zip(model.blocks, traced.blocks, strict=True)
        ]
        rows.append(torch.cat(scores).numpy())
    assert np.abs(np.stack(rows) - exact).max() < 1e-4
    assert np.abs(exact).max() > 1e-3


@pytest.mark.parametrize("case", ["Llama", "OLMoE", "GPT-NeoX (Pythia)"])
def test_the_yardstick_scores_groups_too(case):
    model, prompts = tiny_model(case), random_prompts(3)
    found = attribute_encoded(model, encoded(prompts), *asked(estimator="exact"))[0]
    exact = {name: found.result(name) for name in ("head_lpi", "block_lpi")}
    for index, (rows, problem) in zip(range(2), block_problems(model, encoded(prompts)), strict=False):
        for row, prompt in enumerate(rows):
            scores = published.published_groups(problem, row).numpy()
            assert scores[-1] == pytest.approx(exact["block_lpi"][prompt, index], abs=1e-4)
            if problem.block.kind == "attention":
                assert np.abs(scores[:-1] - exact["head_lpi"][prompt, :4]).max() < 1e-4
                assert len(scores) == published.group_count(problem) == 5


def test_prompts_are_routed_as_unevenly_as_loads_were_measured():
    found = {}
    for layer in (replace(TINY_MOE, routing="even"), TINY_MOE):
        slabs = synthetic.problems(layer, "middle", 400)["ffn"].slabs
        counts = np.array([len(slab.prompts) for slab in slabs])
        assert counts.sum() == 2 * 400
        found[layer.routing] = counts / 400
    assert np.abs(found["even"] - 1 / 3).max() < 0.08
    wanted = np.array(synthetic.calibration()["expert_load"]["by_rank"])
    assert found["measured"].max() * 3 == pytest.approx(wanted[:3].mean(), rel=0.2)
    assert found["measured"].min() * 3 == pytest.approx(wanted[-3:].mean(), abs=0.15)
    assert (np.diff(found["measured"]) < 0.05).all()


def test_loads_are_those_of_the_prompts_in_order():
    used = np.array([[[0.5, 0.25, 0.0, 0.25, 1.0], [1.0, 0.0, 1.0, 0.0, 1.0]]])  # two relations, the last one shared
    scores = xr.Dataset(
        {"expert_utilisation": (("checkpoint", "relation", "expert_unit"), used)},
        coords={
            "n_prompts": ("relation", [4, 1]),
            "expert_unit_expert": ("expert_unit", [0, 1, 0, 1, -1]),
            "expert_unit_layer": ("expert_unit", [0, 0, 1, 1, 1]),
        },
    )
    assert np.allclose(loads.loads(scores), [[[0.6, 0.2], [0.2, 0.2]]])
    assert loads.exponent(np.array([1.0, 1 / 4, 1 / 9, 0.0])) == pytest.approx(2)


def test_the_yardstick_is_timed_on_as_many_units_as_it_says():
    for problem in synthetic.problems(TINY_MOE, "middle", 5).values():
        scores, done = published.published_scores(problem, 2, limit=30)
        assert done == 30
        assert int((scores != 0).sum()) <= 30
        whole, used = published.published_scores(problem, 2)
        assert used == (48 if problem.n_units == 144 else 32)
        assert torch.allclose(whole[scores != 0], scores[scores != 0], atol=1e-6)


@pytest.mark.parametrize("layer", [TINY_DENSE, TINY_MOE], ids=lambda layer: layer.name)
def test_a_synthetic_layer_is_scored_within_its_bound(layer):
    blocks = synthetic.problems(layer, "last", 12)
    estimator = Scorer(blocks["ffn"].readout, layers.TOLERANCE)
    for problem in blocks.values():
        found = estimator(problem)
        true = torch.stack([published.published_scores(problem, prompt)[0] for prompt in range(12)])
        assert float((found.scores - true).abs().max()) < layers.TOLERANCE + 1e-4
        assert int(found.tiers.sum()) == layers.pairs(problem)


@pytest.mark.slow
def test_a_synthetic_layer_has_the_measured_scales():
    layer = synthetic.Layer("check", d=256, ffn=800, attention=200, vocabulary=16_384)
    problem = synthetic.problems(layer, "middle", 150)["ffn"]
    measured = synthetic.calibration()["blocks"]["middle"]["ffn"]
    found = calibrate.concentration(problem.base_logits.log_p)
    assert found["entropy"] == pytest.approx(measured["entropy"], abs=0.5)
    assert found["likeness"] == pytest.approx(measured["likeness"], abs=0.05)
    strength = calibrate.measure(problem, Scorer(problem.readout, 1e-3).prepared.table)["strength"]
    drawn, true = np.array(strength), np.array(measured["strength"])
    middle = calibrate.QUANTILES.index(0.5)
    assert np.allclose(np.log(drawn[:, middle]), np.log(true[:, middle]), atol=0.4)
    assert np.allclose(np.log(drawn[2:, -8]), np.log(true[2:, -8]), atol=0.4)


def test_operations_are_counted_as_torch_counts_them():
    problem = replace(synthetic.problems(TINY_DENSE, "last", 12)["ffn"])
    with FlopCounterMode(display=False) as true:
        certified(replace(problem), layers.TOLERANCE)
    with timing.Flops() as found:
        certified(replace(problem), layers.TOLERANCE)
    assert found.count == true.get_total_flops() > 0


def test_what_is_prepared_is_not_done_again():
    blocks = synthetic.problems(TINY_DENSE, "middle", 12)
    estimator, counts = Scorer(blocks["ffn"].readout, layers.TOLERANCE), []
    for _ in range(2):
        with timing.Flops() as work:
            layers.score(estimator, layers.fresh(blocks))
        counts.append(work.count)
    assert 0 < counts[1] < counts[0]
    whole = layers.whole_run(blocks, 1)
    assert whole.flops == counts[1]
    assert sum(whole.tiers["ffn"]) == layers.pairs(blocks["ffn"])
    assert layers.whole_run(blocks, 1, once=True)[2:4] == (None, None)


def test_rounds_that_take_long_are_not_repeated(monkeypatch):
    clock = iter(range(0, 10_000, 30))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    assert timing.in_turn({"one": lambda: None}, rounds=3)["one"].runs == 1


def test_gradients_are_those_of_the_target():
    model, (item,) = tiny_model("Llama", torch.float64), encoded(random_prompts(1))
    found = gradients.gradient_scores(model, item)
    assert len(found) == len(model.units)
    last = model.blocks[-1]  # what it writes goes straight to the readout, so a unit can be taken away by hand
    traced = trace(model, [item.ids])
    (slab,) = traced.blocks[-1].slabs(last)
    unit, small = 3, 1e-6
    changed = traced.final_residual + torch.tensor([[0.0], [small]]) * slab.coefficients[0, unit] * slab.values[unit]
    before, after = model.readout.log_probability(changed, item.target_id)
    assert float(found[model.block_units(-1)][unit]) == pytest.approx(float(after - before) / small, rel=1e-4)


@pytest.mark.slow
def test_results_fill_the_page(tmp_path):
    works = tuple((layer, "middle", 8) for layer in (TINY_DENSE, TINY_MOE))
    plan = run.Plan("tiny", works, TINY_DENSE, 8, 0, 0, 0, 256, TINY_ARM)
    said = []
    saved = []
    found = json.loads(json.dumps(run.measure(plan, None, said.append, lambda some: saved.append(len(some["layers"])))))
    assert saved[:2] == [1, 2]  # what was measured is kept part by part
    assert len(said) > 10
    (tmp_path / "full.json").write_text(json.dumps(found), encoding="utf-8")
    page = Path(plots.DOCS, "benchmarks.md").read_text(encoding="utf-8")
    (tmp_path / "benchmarks.md").write_text(page, encoding="utf-8")
    plots.main(tmp_path / "full.json", tmp_path)
    text = (tmp_path / "benchmarks.md").read_text(encoding="utf-8")
    strip = re.compile(r"(<!-- begin: \w+ -->).*?(<!-- end)", re.DOTALL)
    assert strip.sub(r"\1\2", text) == strip.sub(r"\1\2", page)
    assert "one layer of tiny's size, middle-layer scales, 8 prompts" in text
    assert "one layer of tiny experts's size, middle-layer scales, measured routing, 8 prompts" in text
    assert (tmp_path / "benchmarks" / "scaling.svg").is_file()


@pytest.mark.slow
def test_summaries_are_timed_both_ways_and_fill_their_table():
    found = {"summaries": {**summaries.measure(TINY_ARM, lambda _: None), "made": "now", "machine": timing.machine()}}
    lines = tables.summaries(json.loads(json.dumps(found)))
    assert [line.split(" | ")[1] for line in lines[4:]] == ["2", "2", "2", "3"]
    assert "the bootstrap alone, as it was" in lines[4]
    assert "a tiny mixture, 80 units, 12 relations" in lines[7]
    assert tables.summaries({})[0].startswith("Not measured yet")


def test_a_goal_that_is_missed_is_called_missed():
    goal = tables.Goal(100, 500)
    assert tables.verdict(99, goal, at_least=True) == "**missed**"
    assert tables.verdict(100, goal, at_least=True) == "must reached"
    assert tables.verdict(11, tables.LENS_GOAL, at_least=False) == "**missed**"
    assert tables.verdict(3, tables.LENS_GOAL, at_least=False) == "aim reached"


def test_all_that_has_a_goal_is_in_one_table_and_the_default_call_leads():
    run_of = {"prompts": 100, "memory": None, "resident_after_loading": 5e8, "peak": 1e9}
    long = {"prompts": 2, "memory": "1GB", "resident_after_loading": 5e8, "peak": 1.7e9, "result": 1e8, "tokens": 4000}
    real = {
        "prompts": 906,
        "published": {"seconds": 1000.0},
        "fast": 4.0,
        "lens": 1.0,
        "tiers": {},
        "groups": {"prompts": 192, "units": 1.0, "default": 1.15, "beside": 0.15},
        "alone": {"lens": 1.0, "default": 20.0, "over_lens": 20.0},
        "resolved": {"prompts": 8, "over_summed": 1.5},
        "gradient": {"per_prompt": 0.1, "curve": [{"x": 8, "per_prompt": 1.0}, {"x": 100, "per_prompt": 0.04}]},
        "memory": [run_of, run_of, long],
        "before": {
            "commit": 40 * "c",
            "prompts": 5,
            "before": {"all": 2.0, "one": 40.0},
            "now": {"all": 0.1, "one": 20.0},
        },
    }
    size = {"name": "an arm", "relations": 12}
    runs = [
        {"way": way, "size": size, "units": 10, "checkpoints": count, "seconds": 60.0, "peak": peak}
        for way, count, peak in (("whole", 4, 9e9), ("streamed", 4, 1e9), ("streamed", 20, 1.05e9))
    ]
    head, _, *rows, blank, sentence = tables.overview({"smollm2": real, "layers": [], "summaries": {"runs": runs}})
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert head.count("|") == 7
    assert blank == ""
    assert f"**20.0{tables.TIMES}** less" in sentence
    before = [row.pop(1) for row in cells]
    assert [f"{3 - 0.24:.0f}{tables.TIMES}", f"362.4{tables.TIMES}", "", f"40.0{tables.TIMES}"] == before[:4]
    assert "default call" in cells[0][0]
    verdicts = [row[-1] for row in cells]
    aim, must, missed = "aim reached", "must reached", "**missed**"
    assert verdicts == [must, must, must, missed, aim, must, aim, must, must]
    assert [cell.strip("*≥ ") for cell in cells[0][1:4]] == [f"{n}{tables.TIMES}" for n in (250, 200, 400)]
    assert cells[5][1] == f"**1.10{tables.TIMES}**"


def test_where_the_old_commit_is_not_there_the_table_says_why(monkeypatch, tmp_path):
    monkeypatch.setattr(before, "COMMIT", 40 * "0")
    found = before.compare(tmp_path, [("The capital of France is", "Paris")])
    assert set(found) == {"commit", "reason"}
    assert tables._compared({"before": found})[1].startswith("Not run beside the code of before (0000000): ")


@pytest.mark.parametrize(("peak", "verdict"), [(1.09e9, "must reached"), (1.11e9, "**missed**")])
def test_memory_that_grows_with_the_prompts_is_called_out(peak, verdict):
    few = {"prompts": 100, "memory": None, "resident_after_loading": 5e8, "peak": 1e9}
    lines = tables.memory({"smollm2": {"memory": [few, few | {"prompts": 906, "peak": peak}]}})
    assert verdict in lines[-1]


@pytest.mark.slow
def test_peak_memory_is_that_of_the_process_itself():
    ballast = torch.ones(150_000_000)  # 600 MB here, which a new process must not be charged with
    code = "from benchmarks.attribution import peak; print(peak())"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=plots.DOCS.parent, capture_output=True, check=True, text=True
    )
    assert int(found.stdout) < ballast.nbytes


def test_a_page_without_a_section_is_refused():
    found = {"linearity": [{"x": 1, "seconds": 1.0}]}
    text = "<!-- begin: linearity --> old <!-- end: linearity -->"
    only = {"linearity": tables.linearity}
    assert "old" not in plots.filled(text, found, only)
    with pytest.raises(ValueError, match="begin: linearity"):
        plots.filled("nothing", found, only)
