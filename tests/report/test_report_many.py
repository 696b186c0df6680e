"""A report of hundreds of checkpoints stays small: figures of the page draw some of them, and share what they can."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from gated_lpi.diagnosis import Diagnosis
from gated_lpi.experiments.experiment import MetricsSpec
from gated_lpi.report import all_charts, load_results
from gated_lpi.report.arms import ArmResults
from gated_lpi.report.chart import ArmStyle, Axis, Chart, Heat, Line, Panel, category_axis
from gated_lpi.report.content import Content
from gated_lpi.report.explorer_links import ADDRESS, explorer_at
from gated_lpi.report.figure_json import figure_json, with_shared_lists
from gated_lpi.report.page import interactive
from gated_lpi.report.tabulate import all_tables
from gated_lpi.report.thinned import MOST_TIMES, kept, thinned
from synthetic_run import DENSE, MOE, STEPS, SyntheticRun

COUNT = 244  # as OLMoE's
TIMES = np.round(10 * 1.035 ** np.arange(COUNT)).astype(np.int64) + np.arange(COUNT)


def lengthened(dataset: xr.Dataset) -> xr.Dataset:
    """The same with many checkpoints, which repeat those that are there at other steps."""
    lengths = {"checkpoint": COUNT, "other_checkpoint": COUNT, "pair": COUNT - 1}
    places = {dim: np.arange(n) % dataset.sizes[dim] for dim, n in lengths.items() if dim in dataset.dims}
    longer = dataset.drop_indexes([name for name in dataset.xindexes if set(dataset[name].dims) & set(places)])
    longer = longer.isel(places)
    for name, times in {"step": TIMES, "tokens": 8192 * TIMES, "pair_step": TIMES[1:]}.items():
        if name in longer.coords:
            longer = longer.assign_coords({name: (longer[name].dims, times)})
    records = dataset.attrs.get("checkpoints")
    more = {} if records is None else {"checkpoints": [records[i % len(records)] for i in range(COUNT)]}
    return longer.assign_attrs(more)


def lengthened_arm(arm: ArmResults) -> ArmResults:
    by_method = {method: lengthened(summary) for method, summary in arm.by_method.items()}
    assert arm.agreement is not None
    many = {"scores": lengthened(arm.scores), "summary": lengthened(arm.summary), "by_method": by_method}
    return replace(arm, **many, agreement=lengthened(arm.agreement))


@pytest.fixture(scope="module")
def content() -> Content:
    """Three arms of 16 layers by two methods."""
    of_all: dict[str, Any] = {"steps": STEPS[:4], "layers": 16, "other": {}, "damage": 0.1}
    dense = replace(DENSE, width=16, **of_all)
    plans = {"moe": replace(MOE, experts=16, width=1, positions=True, **of_all), "dense": dense}
    plans["dense-total"] = replace(dense, width=32)
    run = SyntheticRun(Path("unused"), plans, metrics=MetricsSpec(draws=2, fraction=0.05))
    results = load_results(run)
    results = replace(results, arms=tuple(map(lengthened_arm, results.arms)))
    charts, tables = all_charts(results), all_tables(run, results)
    explorer = explorer_at(ADDRESS, run.name)
    return Content(run, results, Diagnosis((), ()), charts, tables, datetime.now(UTC), explorer=explorer)


def restored(value: Any, lists: list[Any]) -> Any:
    """A figure with its shared lists in their places, as the page's script puts them."""
    if isinstance(value, dict):
        return lists[value["shared"]] if "shared" in value else {k: restored(v, lists) for k, v in value.items()}
    return [restored(item, lists) for item in value] if isinstance(value, list) else value


def test_a_report_of_hundreds_of_checkpoints_of_three_arms_is_small(content: Content) -> None:
    page = interactive(content)
    assert len(page.encode()) < 3_000_000
    assert f"draw {len(kept(COUNT))} of {COUNT} checkpoints" in page
    data = json.loads(page.split('id="figure-data">')[1].split("</script>")[0])
    assert next(iter(data)) == "lists"  # which the script reads first
    stability = restored(data["figures"]["plot-stability"], data["lists"])
    assert stability == figure_json(content.charts["stability"])
    curve = next(trace for trace in stability["data"] if trace.get("name") == "moe")
    assert len(curve["x"]) == len(curve["text"]) == len(kept(COUNT - 1))
    assert len(content.charts["stability"].panels[0].lines[0].x) == COUNT - 1  # as it is drawn in files


@pytest.mark.parametrize("count", [0, 1, 2, MOST_TIMES, MOST_TIMES + 1, COUNT, 1000])
def test_the_first_and_the_last_checkpoint_are_drawn(count: int) -> None:
    places = kept(count).tolist()
    assert len(places) == count if count <= MOST_TIMES else MOST_TIMES / 2 <= len(places) <= MOST_TIMES
    assert (places[0], places[-1]) == (0, count - 1) if count else not places


def test_only_what_is_over_training_is_thinned() -> None:
    values = np.arange(2.0 * COUNT).reshape(2, COUNT)
    names = tuple(f"step {i}" for i in range(COUNT))
    x = tuple(map(float, range(COUNT)))
    line = Line("a", "a", ArmStyle("#000000", "circle"), x, x, names, low=x, high=x)
    heat = Heat(values, ("layer 0", "layer 1"), names, (0.0, 1.0), "nats", over_training=True)
    experts = replace(heat, over_training=False)
    axis, columns = Axis("step", scale="step"), category_axis("step", names)
    panels = (
        Panel("", axis, Axis("J"), (line, replace(line, drawn="points"))),
        Panel("", Axis("depth"), Axis("J"), (line,)),
        Panel("", columns, Axis("layer"), heat=heat),
        Panel("", columns, Axis("layer"), heat=experts),
    )
    over, depth, by_time, by_expert = thinned(Chart("c", "", "", panels)).panels
    places = kept(COUNT)
    assert over.lines[0].x == over.lines[0].low == tuple(places.astype(float).tolist())
    assert over.lines[0].hover == tuple(names[i] for i in places)
    assert (over.lines[1], depth, by_expert) == (panels[0].lines[1], panels[1], panels[3])
    assert by_time.heat is not None
    np.testing.assert_array_equal(by_time.heat.values, values[:, places])
    assert by_time.heat.columns == over.lines[0].hover
    assert by_time.x.ticks[-1] == (float(len(places) - 1), names[-1])
    for at, text in by_time.x.ticks:
        before, after = by_time.heat.columns[int(np.floor(at))], by_time.heat.columns[int(np.ceil(at))]
        assert int(before[5:]) <= int(text[5:]) <= int(after[5:])


def test_lists_that_are_in_figures_twice_are_written_once() -> None:
    long, other = list(range(20)), [f"step {i}" for i in range(20)]
    figures = {"a": {"x": long, "text": other, "z": [long, [1, 2]]}, "b": {"y": long, "few": [1, 2]}}
    found = with_shared_lists(figures)
    assert found["lists"] == [long]
    assert found["figures"]["a"]["text"] == other
    assert restored(found["figures"], found["lists"]) == figures
