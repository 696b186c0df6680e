"""`Run.plot` and how a run shows itself in a notebook."""

from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from plotly.graph_objects import Figure as PlotlyFigure

from explored_runs import HOSTILE, explored_run
from gated_lpi.errors import OptionError
from gated_lpi.report.plots import CHARTS, RunPlots
from synthetic_run import MOE, SyntheticRun


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return explored_run(tmp_path_factory.mktemp("run") / "run")


@pytest.mark.parametrize("chart", [chart for chart in CHARTS if chart != "ablation"])
def test_every_chart_is_drawn(run, chart):
    figure = getattr(run.plot, chart)()
    assert isinstance(figure, Figure)
    assert [axes for axes in figure.axes if axes.lines or axes.images or axes.collections]


def test_ablations_are_drawn_where_there_are_any(run):
    drawn = SyntheticRun(Path("unused"), {"moe": MOE}).plot.ablation()
    assert drawn.axes[0].lines
    with pytest.raises(OptionError, match="have nothing of it"):
        run.plot.ablation()


def test_arms_methods_and_libraries_can_be_chosen(run):
    both = run.plot.stability()
    one = run.plot("stability", arms=["dense"], method="grad_x_act")
    assert one._repr_png_().startswith(b"\x89PNG")
    shown = one.axes[0].lines[0].get_ydata()
    summary = run.summary("dense", "grad_x_act").sel(kind="ffn")["stability"].values
    assert [float(y) for y in shown] == pytest.approx(summary.tolist())
    assert len(one.axes[0].lines) < len(both.axes[0].lines)
    assert isinstance(run.plot.hits(backend="plotly"), PlotlyFigure)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"chart": "pie"}, "'pie' was asked for; expected one of stability,"),
        ({"backend": "ascii"}, "'ascii' was given; expected one of matplotlib, plotly"),
        ({"arms": ["none"]}, "arm 'none' was asked for"),
        ({"method": "none"}, "method 'none' was asked for"),
        ({"chart": "routing", "arms": ["dense"]}, "a dense model has no routing"),
    ],
)
def test_what_cannot_be_drawn_is_refused(run, asked, said):
    with pytest.raises(OptionError, match=said):
        run.plot(**asked)


def test_a_chart_that_there_is_not_is_told_those_that_there_are(run):
    with pytest.raises(AttributeError, match=r"no chart 'nonsense'; draw one of stability, concentration, .*ablation"):
        run.plot.nonsense()
    assert not hasattr(run.plot, "nonsense")


def test_each_chart_has_a_method_and_a_word(run):
    for chart in CHARTS:
        assert getattr(RunPlots, chart).__doc__
        assert chart in repr(run.plot)


def test_a_notebook_shows_a_run_and_runs_nothing_of_it(run):
    page = run._repr_html_()
    tags = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, _: tags.append(tag)
    parser.feed(page)
    assert HOSTILE not in page
    assert "&lt;script&gt;" in page
    assert set(tags) == {"div", "p", "strong", "code", "br", "table", "tr", "th", "td"}
    assert "4 checkpoints, steps 0 to 40" in page
