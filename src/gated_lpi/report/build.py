"""From a run to its report: one HTML file, the same figures as files, and all numbers as JSON.

1. Every arm is read, summarised by every method (`arms`) and diagnosed; then nothing is computed, only laid out.
2. Charts are built once and drawn twice: for the page, and as PNG and SVG.
3. Every file is written beside its place and moved there whole; the page comes last but for report.sha256, which has
   the digest of each, in the form that `sha256sum --check` reads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from importlib.resources import files
from string import Template
from typing import Any

import plotly.offline

from gated_lpi._common.folders import Folder, as_folder, make, refuse_links, unwritten, write_atomically
from gated_lpi.diagnosis import Diagnosis, examine
from gated_lpi.metrics import summary_to_json
from gated_lpi.report import charts, doubts, heatmaps
from gated_lpi.report.arms import Results, load_results
from gated_lpi.report.chart import Chart
from gated_lpi.report.figures import DARK, LIGHT, plotly_figure, template
from gated_lpi.report.grouped import by_group
from gated_lpi.report.html import escape
from gated_lpi.report.sections import Content, body
from gated_lpi.report.static import image, matplotlib_figure
from gated_lpi.report.tables import Table, plain
from gated_lpi.report.tabulate import all_tables
from gated_lpi.report.trajectories import trajectories
from gated_lpi.results import Run

PAGE_FILE = "report.html"
SUMMARY_FILE = "summary.json"
FIGURES_FOLDER = "figures"
DIGESTS_FILE = "report.sha256"
FORMATS = ("png", "svg")


@dataclass(frozen=True)
class ReportFiles:
    """The files that make a report.

    Attributes:
        html: report.html.
        figures: the charts as PNG and SVG.
        summary: summary.json, with all numbers.
    """

    html: Folder
    figures: tuple[Folder, ...]
    summary: Folder


def build_report(run: Run, out: str | Folder | None = None) -> ReportFiles:
    """Write the report of a run: report.html, figures/NAME.png and .svg, summary.json.

    Args:
        run: from `open_run`.
        out: folder or fsspec address to write into, made if it is not there; default: the run's own.

    Returns:
        Where the files are. report.html needs none of the others, and no network.

    Raises:
        RunError: no arm has a complete checkpoint, or what is there is damaged.
        WriteError: a file could not be written.
        OptionError: the run's options for metrics do not fit its checkpoints.
    """
    folder = run.path if out is None else as_folder(out)
    results, diagnosis = load_results(run), examine(run)
    shown = all_charts(results)
    tables = all_tables(run, results)
    refuse_links(folder / FIGURES_FOLDER)
    try:
        make(folder / FIGURES_FOLDER)
    except OSError as error:
        raise unwritten(folder / FIGURES_FOLDER, error) from error
    digests = {}

    def write(name: str, content: bytes) -> Folder:
        write_atomically(folder / name, content)
        digests[name] = sha256(content).hexdigest()
        return folder / name

    pictures = []
    for name, chart in shown.items():
        drawn = matplotlib_figure(chart)
        pictures += [write(f"{FIGURES_FOLDER}/{name}.{kind}", image(drawn, kind)) for kind in FORMATS]
    summary = write(SUMMARY_FILE, _summary(run, results, diagnosis, tables).encode())
    page = write(PAGE_FILE, _page(run, results, diagnosis, shown, tables).encode())
    write_atomically(folder / DIGESTS_FILE, "".join(f"{digest}  {name}\n" for name, digest in digests.items()))
    return ReportFiles(page, tuple(pictures), summary)


def all_charts(results: Results) -> dict[str, Chart]:
    """Every chart that has something to show, by name, in the order of the report."""
    summaries, scores, grouped = results.summaries, results.scores, by_group(results)
    drawn = (
        trajectories(results),
        charts.stability(grouped),
        heatmaps.layer_profiles(summaries),
        charts.profile_correlation(grouped),
        charts.concentration(grouped),
        charts.evenness(grouped),
        doubts.by_method(results.arms),
        doubts.agreement({arm.name: arm.agreement for arm in results.arms if arm.agreement is not None}),
        charts.ablation(results.records),
        doubts.damage(results.records),
        doubts.routing_null(results.arms),
        doubts.routing_split({arm.name: arm.split for arm in results.arms if arm.split is not None}),
        heatmaps.utilisation(scores),
        charts.routing(grouped),
        heatmaps.utilisation_by_relation(scores),
        heatmaps.attention_positions(scores),
        charts.hits(grouped),
        heatmaps.base_logprob(scores),
    )
    return {chart.name: chart for chart in drawn if chart.panels}


def _summary(run: Run, results: Results, diagnosis: Diagnosis, tables: Mapping[str, Table]) -> str:
    content = {
        "run": run.experiment.name,
        "arms": {arm.name: summary_to_json(arm.summary) for arm in results.arms},
        "by_method": {
            arm.name: {method: summary_to_json(summary) for method, summary in arm.by_method.items()}
            for arm in results.arms
        },
        "diagnosis": asdict(diagnosis),
        "missing": dict(results.missing),
        "tables": {name: plain(table) for name, table in tables.items()},
    }
    return json.dumps(content, allow_nan=False, ensure_ascii=False, indent=1) + "\n"


def _page(
    run: Run, results: Results, diagnosis: Diagnosis, shown: Mapping[str, Chart], tables: Mapping[str, Table]
) -> str:
    drawn = {name: plotly_figure(chart) for name, chart in shown.items()}
    heights = {name: int(figure.layout.height) for name, figure in drawn.items()}
    content = Content(run, results, diagnosis, shown, tables, heights, datetime.now(UTC))
    figures = {f"plot-{name}": _without_template(json.loads(figure.to_json())) for name, figure in drawn.items()}
    templates = {"light": template(LIGHT).to_plotly_json(), "dark": template(DARK).to_plotly_json()}
    page = Template(files("gated_lpi.report").joinpath("template.html").read_text(encoding="utf-8"))
    return page.substitute(
        title=escape(f"{run.experiment.name}: Gated-LPI report"),
        body=body(content),
        plotly=plotly.offline.get_plotlyjs(),
        figures=json.dumps({"figures": figures, "templates": templates}).replace("<", "\\u003c"),
    )


def _without_template(figure: dict[str, Any]) -> dict[str, Any]:
    """A figure without its colours for one scheme: the page brings both."""
    figure["layout"].pop("template")
    return figure
