"""Charts: what they hold, that both backends draw all of it, and that arms keep their look."""

from pathlib import Path

import numpy as np
import pytest

from gated_lpi.report import all_charts, charts, load_results, matplotlib_figure, plotly_figure
from gated_lpi.report.arms import Results
from gated_lpi.report.chart import GREY, ArmStyle, Chart, StepScale, arm_styles, category_axis, short_number
from gated_lpi.report.html import escape, tag
from gated_lpi.report.static import image
from gated_lpi.report.tables import Column, Form, Table, plain, show, visible
from synthetic_run import DENSE, MOE, ArmPlan, SyntheticRun


@pytest.fixture(scope="module")
def results() -> Results:
    other = ArmPlan(layers=5, steps=(0, 7, 30), tokens=False)
    return load_results(SyntheticRun(Path("unused"), {"dense": DENSE, "moe": MOE, "deep": other}))


@pytest.fixture(scope="module")
def drawn(results: Results) -> dict[str, Chart]:
    return all_charts(results)


@pytest.mark.parametrize("name", ["stability", "base_logprob", "ablation"])
def test_both_backends_draw_every_panel_and_line(drawn: dict[str, Chart], name: str) -> None:
    chart = drawn[name]
    interactive, printed = plotly_figure(chart), matplotlib_figure(chart)
    shown = [axes for axes in printed.axes if axes.get_title()]
    assert [axes.get_title() for axes in shown] == [panel.title for panel in chart.panels]
    assert [note.text for note in interactive.layout.annotations] == [panel.title for panel in chart.panels]
    names = [line.label for panel in chart.panels for line in panel.lines]
    assert sorted(t.name for t in interactive.data if t.name in set(names)) == sorted(names)
    assert sum(len(axes.lines) for axes in shown) >= len(names)
    heats = sum(panel.heat is not None for panel in chart.panels)
    assert sum(trace.type == "heatmap" for trace in interactive.data) == heats
    assert sum(len(axes.images) for axes in shown) == heats


def test_values_drawn_are_the_summary_s(results: Results) -> None:
    panel = charts.stability(results.summaries).panels[0]
    line = next(line for line in panel.lines if line.label == "moe")
    here = results.summaries["moe"].sel(kind="ffn")
    assert line.y == pytest.approx(here["stability"].to_numpy())
    assert line.low == pytest.approx(here["stability_low"].to_numpy())
    chance = next(line for line in panel.lines if line.label == "moe, chance")
    assert set(chance.y) == {float(here["stability_chance"])}
    assert line.hover[-1] == "moe, step 200"


def test_a_series_that_counts_words_says_so_on_its_axis(results: Results) -> None:
    counted = {name: summary.assign_attrs(step_unit="words") for name, summary in results.summaries.items()}
    panel = charts.stability(counted).panels[0]
    assert (panel.title, panel.x.label) == ("FFN neurons, by words", "training words (log scale)")
    assert next(line for line in panel.lines if line.label == "moe").hover[-1] == "moe, words 200"
    mixed = charts.stability(results.summaries | {"moe": counted["moe"]}).panels[0]
    assert set(mixed.x.label.removesuffix(" (log scale)").split(" or ")) == {"training step", "training words"}
    assert charts.stability(results.summaries).panels[0].x.label == "training step (log scale)"


def test_arms_without_tokens_are_left_out_by_tokens(results: Results) -> None:
    panels = charts.stability(results.summaries).panels
    by_clock = {panel.title: {line.group for line in panel.lines} for panel in panels}
    assert by_clock["FFN neurons, by step"] == {"dense", "moe", "deep"}
    assert by_clock["FFN neurons, by tokens"] == {"dense", "moe"}


def test_an_arm_looks_the_same_everywhere(drawn: dict[str, Chart]) -> None:
    styles: dict[str, set[object]] = {}
    for chart in drawn.values():
        for panel in chart.panels:
            for line in panel.lines:
                styles.setdefault(line.group, set()).add(line.style)
    assert styles.pop("nil") | styles.pop("routing alone") <= {ArmStyle(GREY, "circle"), ArmStyle(GREY, "square")}
    assert {name: len(looks) for name, looks in styles.items()} == {"dense": 1, "moe": 1, "deep": 1}
    assert len(set.union(*styles.values())) == 3


def test_each_arm_is_named_once_in_a_legend(drawn: dict[str, Chart]) -> None:
    figure = plotly_figure(drawn["concentration"])
    assert sorted(t.name for t in figure.data if t.showlegend) == ["deep", "dense", "moe"]


def test_long_names_in_a_printed_legend_stay_inside(results: Results) -> None:
    long = {f"an arm with a long name, {name} {i}": s for i in range(2) for name, s in results.summaries.items()}
    figure = matplotlib_figure(charts.stability(long))
    legend = figure.legends[0].get_window_extent()
    assert legend.x1 <= figure.bbox.x1


def test_many_arms_still_differ() -> None:
    styles = arm_styles([f"arm {i}" for i in range(12)])
    assert len(set(styles.values())) == 12


def test_images_are_the_same_each_time(drawn: dict[str, Chart]) -> None:
    assert image(matplotlib_figure(drawn["ablation"]), "svg") == image(matplotlib_figure(drawn["ablation"]), "svg")


def test_step_scale_is_logarithmic_only_for_steps_spaced_by_factors() -> None:
    spread = StepScale([0, 1, 2, 5, 10, 100, 1000])
    even = StepScale([0, 100, 200, 300, 400])
    assert spread.logarithmic
    assert not even.logarithmic
    assert spread.position(0) == 0.0
    assert spread.position(9) == pytest.approx(1.0)
    assert even.position(300) == 300.0
    axis = spread.axis("training step")
    assert axis.label == "training step (log scale)"
    assert axis.ticks[-1] == (pytest.approx(np.log10(1001)), "1k")


def test_single_checkpoint_has_an_axis() -> None:
    assert StepScale([100]).axis("training step").ticks == ((100.0, "100"),)


def test_category_axis_thins_its_labels() -> None:
    assert len(category_axis("layer", [str(i) for i in range(4)]).ticks) == 4
    many = category_axis("layer", [str(i) for i in range(64)]).ticks
    assert 4 <= len(many) <= 9
    assert many[-1] == (63.0, "63")


@pytest.mark.parametrize(
    ("value", "written"), [(0, "0"), (999, "999"), (1200000, "1.2M"), (5.033e12, "5.03T"), (8192, "8.19k")]
)
def test_short_number(value: float, written: str) -> None:
    assert short_number(value) == written


@pytest.mark.parametrize(
    ("value", "form", "written"),
    [
        (0.3141, "share", "31.4%"),
        (0.000514, "share", "0.051%"),
        (-3.25, "percent", "\N{MINUS SIGN}3.2%"),
        (1234567, "count", "1,234,567"),
        (0.99, "number", "0.990"),
        (12345.6, "number", "12,346"),
        (3e-7, "number", "3.00e-07"),
        (float("inf"), "number", "∞"),
        (float("nan"), "share", "\N{EN DASH}"),
        (None, "count", "\N{EN DASH}"),
        ("a", "text", "a"),
    ],
)
def test_show(value: object, form: Form, written: str) -> None:
    assert show(value, form) == written


def test_visible_tokens() -> None:
    assert visible(" a\tb\x00") == "␣a\\tb\\x00"


def test_plain_tables_have_no_nan() -> None:
    table = Table("t", "caption", (Column("a"), Column("b")), ((float("nan"), (1.0, float("inf"))),))
    assert plain(table) == {"caption": "caption", "columns": ["a", "b"], "rows": [[None, [1.0, None]]]}


def test_markup_is_escaped_once() -> None:
    assert tag("p", "a < b", tag("b", "&")) == "<p>a &lt; b<b>&amp;</b></p>"
    assert escape(escape("<")) == "&lt;"
    assert tag("p", class_='"x"', aria_label="y") == '<p class="&quot;x&quot;" aria-label="y"></p>'
