"""`Run.plot`: the report's charts of a run, one at a time, for notebooks and papers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from gated_lpi.errors import OptionError
from gated_lpi.report import charts, heatmaps
from gated_lpi.report.chart import Chart
from gated_lpi.report.figures import plotly_figure
from gated_lpi.report.static import matplotlib_figure
from gated_lpi.results.whole import summaries

if TYPE_CHECKING:
    import xarray as xr

    from gated_lpi.results import Run

Backend = Literal["matplotlib", "plotly"]
DRAWN: dict[str, Callable[[Chart], Any]] = {"matplotlib": matplotlib_figure, "plotly": plotly_figure}
OF_SUMMARIES: dict[str, Callable[[Any], Chart]] = {
    "stability": charts.stability,
    "concentration": charts.concentration,
    "evenness": charts.evenness,
    "profile_correlation": charts.profile_correlation,
    "hits": charts.hits,
    "routing": charts.routing,
    "layer_profiles": heatmaps.layer_profiles,
}
OF_SCORES: dict[str, Callable[[Any], Chart]] = {
    "base_logprob": heatmaps.base_logprob,
    "utilisation": heatmaps.utilisation,
    "attention_positions": heatmaps.attention_positions,
}
CHARTS = (*OF_SUMMARIES, "ablation", *OF_SCORES)


class RunPlots:
    """Charts of a run: `run.plot.stability()`, or by name, `run.plot("stability")`.

    Each method takes `arms` (names; None for all that have results), `method` (whose scores; None for each arm's first)
    and `backend` ("matplotlib" or "plotly"), and returns a figure of that library, which a notebook shows.

    Args:
        run: the run.
    """

    def __init__(self, run: Run) -> None:
        self._run = run

    def __repr__(self) -> str:
        """What can be drawn."""
        return f"charts of {self._run.path}: {', '.join(CHARTS)}; such as run.plot.stability()"

    def __getattr__(self, name: str) -> NoReturn:
        """Refuse charts that there are not, by naming those that there are."""
        raise AttributeError(f"there is no chart {name!r}; draw one of {', '.join(CHARTS)}")

    def __call__(
        self,
        chart: str = "stability",
        arms: Sequence[str] | None = None,
        method: str | None = None,
        backend: Backend = "matplotlib",
    ) -> Any:
        """Draw a chart by its name.

        Args:
            chart: one of `CHARTS`.
            arms: names of arms; None: all that have results.
            method: by whose scores, one of `Run.methods`; None: each arm's first. Charts of ablations and of recall,
                routing and base log-probabilities are of no method.
            backend: "matplotlib" or "plotly".

        Returns:
            A figure of that library.

        Raises:
            OptionError: there is no such chart, arm, method or backend, or nothing of it to show.
            RunError: there are no results.
        """
        if chart not in CHARTS:
            raise OptionError(f"chart {chart!r} was asked for; expected one of {', '.join(CHARTS)}")
        if backend not in DRAWN:
            raise OptionError(f"backend={backend!r} was given; expected one of {', '.join(DRAWN)}")
        names = list(summaries(self._run).found) if arms is None else list(arms)
        made = self._chart(chart, names, method)
        if not made.panels:
            raise OptionError(
                f"chart {chart!r} was asked for; {', '.join(names)} have nothing of it (a dense model has no routing, "
                "and some charts need what the run was not asked to keep): draw another, or give other arms"
            )
        return DRAWN[backend](made)

    def _chart(self, chart: str, names: Sequence[str], method: str | None) -> Chart:
        if chart == "ablation":
            return charts.ablation({name: self._run.record(name) for name in names})
        if chart in OF_SCORES:
            return OF_SCORES[chart]({name: self._run.scores(name) for name in names})
        found: dict[str, xr.Dataset] = {name: self._run.summary(name, method) for name in names}
        return OF_SUMMARIES[chart](found)

    def stability(self, **how: Any) -> Any:
        """J_stab of consecutive top sets."""
        return self("stability", **how)

    def concentration(self, **how: Any) -> Any:
        """R_t, its variant by gain, and the top set's share of importance."""
        return self("concentration", **how)

    def evenness(self, **how: Any) -> Any:
        """Entropy, effective number of units and Gini coefficient of importance."""
        return self("evenness", **how)

    def profile_correlation(self, **how: Any) -> Any:
        """Correlation of each checkpoint's layer profile with the last one's."""
        return self("profile_correlation", **how)

    def hits(self, **how: Any) -> Any:
        """HIT@k."""
        return self("hits", **how)

    def routing(self, **how: Any) -> Any:
        """How even routing is and how much it changes."""
        return self("routing", **how)

    def layer_profiles(self, **how: Any) -> Any:
        """Each layer's share of importance."""
        return self("layer_profiles", **how)

    def ablation(self, **how: Any) -> Any:
        """The drop of HIT@k under each ablation, beside random ones."""
        return self("ablation", **how)

    def base_logprob(self, **how: Any) -> Any:
        """log p(target | base) of every block."""
        return self("base_logprob", **how)

    def utilisation(self, **how: Any) -> Any:
        """How much each expert is used."""
        return self("utilisation", **how)

    def attention_positions(self, **how: Any) -> Any:
        """What attention adds from each source position."""
        return self("attention_positions", **how)
