"""What the page is made of, and its figures and tables as the page has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from gated_lpi.diagnosis import Diagnosis
from gated_lpi.report.arms import Results
from gated_lpi.report.chart import Chart
from gated_lpi.report.chart_words import described
from gated_lpi.report.explorer_links import Explorer
from gated_lpi.report.html import Html, data_table, figure, tag
from gated_lpi.report.tables import Table
from gated_lpi.results import Run


@dataclass(frozen=True)
class Content:
    """What the sections are made of.

    Attributes:
        run: the run that is reported.
        results: of its arms.
        diagnosis: what is wrong with their training.
        charts: by name, those that have something to show, in order of their numbers.
        tables: by name.
        written: when the report is made.
        heights: of charts that a script draws, by name, in pixels.
        pictures: addresses of charts that are drawn already, by name.
        explorer: where names of units, heads and experts lead to; None: nowhere.
    """

    run: Run
    results: Results
    diagnosis: Diagnosis
    charts: Mapping[str, Chart]
    tables: Mapping[str, Table]
    written: datetime
    heights: Mapping[str, int] = field(default_factory=dict)
    pictures: Mapping[str, str] = field(default_factory=dict)
    explorer: Explorer | None = None


def chart_figure(content: Content, name: str, absent: str) -> Html:
    """A chart with its number and caption, or a paragraph that says why there is none."""
    if name not in content.charts:
        return tag("p", absent, class_="absent")
    chart = content.charts[name]
    number = list(content.charts).index(name) + 1
    words = f"{chart.title}. {described(chart)}"
    place: Html
    if name in content.pictures:
        place = tag("img", src=content.pictures[name], alt=words)
    else:
        place = tag(
            "div",
            id=f"plot-{name}",
            class_="plot",
            role="application",
            aria_roledescription="figure; arrow keys go from point to point",
            aria_label=words,
            tabindex="0",
            style=f"min-height:{content.heights.get(name, 0)}px",
        )
    return figure(number, name, chart.title, chart.caption, place)


def shown_table(content: Content, name: str) -> Html:
    """A table by name, whose names lead to the explorer."""
    return data_table(content.tables[name], content.explorer)
