"""From a run to its report: a page, the same figures as files, and all numbers as JSON.

1. Every arm is read, summarised by every method (`arms`) and diagnosed; then nothing is computed, only laid out.
2. Charts are built once and drawn twice: for the page, and as PNG and SVG.
3. The page is laid out once (`sections`) and written in the forms that are asked for (`page`).
4. Every file is written beside its place and moved there whole; the pages come last but for report.sha256, which has
   the digest of each, in the form that `sha256sum --check` reads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Literal, get_args

from gated_lpi._common.folders import Folder, as_folder, make, read_bytes, refuse_links, unwritten, write_atomically
from gated_lpi.diagnosis import Diagnosis, examine
from gated_lpi.errors import OptionError
from gated_lpi.metrics import summary_to_json
from gated_lpi.report import charts, doubts, heatmaps
from gated_lpi.report.against_chance import against_chance
from gated_lpi.report.arms import Results, load_results
from gated_lpi.report.chart import Chart
from gated_lpi.report.content import Content
from gated_lpi.report.contrast import contrast
from gated_lpi.report.explorer_links import ADDRESS, explorer_at
from gated_lpi.report.grouped import by_group
from gated_lpi.report.page import as_markdown, for_paper, interactive
from gated_lpi.report.pdf import browser, printed
from gated_lpi.report.shared_axes import alike
from gated_lpi.report.static import image, matplotlib_figure
from gated_lpi.report.tables import Table, plain
from gated_lpi.report.tabulate import all_tables
from gated_lpi.report.trajectories import trajectories
from gated_lpi.results import Run

Format = Literal["html", "md", "pdf"]
PAGE_NAME = "report"
SUMMARY_FILE = "summary.json"
FIGURES_FOLDER = "figures"
DIGESTS_FILE = "report.sha256"
PAGES: tuple[Format, ...] = get_args(Format)
FORMATS = ("png", "svg")  # of figures


@dataclass(frozen=True)
class ReportFiles:
    """The files that make a report.

    Attributes:
        pages: report.html, report.md, report.pdf, by format, as far as they were asked for.
        figures: the charts as PNG and SVG.
        summary: summary.json, with all numbers.
    """

    pages: Mapping[Format, Folder]
    figures: tuple[Folder, ...]
    summary: Folder

    @property
    def html(self) -> Folder:
        """report.html.

        Raises:
            OptionError: it was not asked for.
        """
        if "html" not in self.pages:
            raise OptionError(f"the report was written as {', '.join(self.pages)}, not as html; ask for html, too")
        return self.pages["html"]


def build_report(
    run: Run,
    out: str | Folder | None = None,
    *,
    formats: Sequence[Format] = ("html",),
    explorer: str | None = None,
) -> ReportFiles:
    """Write the report of a run: a page in each format, figures/NAME.png and .svg, summary.json.

    Args:
        run: from `open_run`.
        out: folder or fsspec address to write into, made if it is not there; default: the run's own.
        formats: "html", one file that needs none of the others, and no network; "md", Markdown beside its figures;
            "pdf", for which Chromium or Chrome has to be installed.
        explorer: address of the run's explorer, which names of units lead to; "none": they lead nowhere. Default: in
            "html" where `gated-lpi explore` listens by itself, in others none, as they are read on other machines.

    Returns:
        Where the files are.

    Raises:
        RunError: no arm has a complete checkpoint, or what is there is damaged.
        WriteError: a file could not be written, or the browser did not print.
        OptionError: the run's options for metrics do not fit its checkpoints; a format or address that is none; there
            is no browser to make a PDF.
    """
    odd = [one for one in formats if one not in PAGES]
    if odd or not formats:
        raise OptionError(f"format {', '.join(map(repr, odd)) or 'none'} was given; expected {', '.join(PAGES)}")
    program = browser() if "pdf" in formats else ""  # before anything is computed
    leads = {one: explorer_at(explorer or (ADDRESS if one == "html" else None), run.experiment.name) for one in PAGES}
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

    drawn = {name: matplotlib_figure(chart) for name, chart in shown.items()}
    images = {f"{name}.{kind}": image(figure, kind) for name, figure in drawn.items() for kind in FORMATS}
    pictures = [write(f"{FIGURES_FOLDER}/{name}", content) for name, content in images.items()]
    summary = write(SUMMARY_FILE, _summary(run, results, diagnosis, tables).encode())
    written = datetime.now(UTC)
    pages: dict[Format, Folder] = {}
    for one in dict.fromkeys(formats):
        content = Content(run, results, diagnosis, shown, tables, written, explorer=leads[one])
        if one == "html":
            page = interactive(content).encode()
        elif one == "md":
            page = as_markdown(content, FIGURES_FOLDER).encode()
        else:
            page = printed(for_paper(content, {name: image(figure, "svg") for name, figure in drawn.items()}), program)
        pages[one] = write(f"{PAGE_NAME}.{one}", page)
    lines = [*_still_there(folder, set(digests)), *(f"{digest}  {name}" for name, digest in digests.items())]
    write_atomically(folder / DIGESTS_FILE, "".join(f"{line}\n" for line in lines))
    return ReportFiles(pages, tuple(pictures), summary)


def _still_there(folder: Folder, written: set[str]) -> list[str]:
    """The digests of pages in other formats, which were written before and stay as they are."""
    pages = {f"{PAGE_NAME}.{one}" for one in PAGES} - written
    before = (read_bytes(folder / DIGESTS_FILE) or b"").decode(errors="replace").splitlines()
    return [line for line in before if line[64:66] == "  " and line[66:] in pages]


def all_charts(results: Results) -> dict[str, Chart]:
    """Every chart that has something to show, by name, in the order of the report."""
    summaries, scores, grouped, styles = results.summaries, results.scores, by_group(results), results.styles
    first = contrast(results)
    drawn = (
        first if first.panels else against_chance(results),
        trajectories(results),
        charts.stability(grouped, styles),
        heatmaps.layer_profiles(summaries),
        charts.profile_correlation(grouped, styles),
        charts.concentration(grouped, styles),
        charts.evenness(grouped, styles),
        doubts.by_method(results.arms, styles),
        doubts.agreement({arm.name: arm.agreement for arm in results.arms if arm.agreement is not None}, styles),
        charts.ablation(results.records, styles),
        doubts.damage(results.records, styles),
        doubts.routing_null(results.arms, styles),
        doubts.routing_split({arm.name: arm.split for arm in results.arms if arm.split is not None}, styles),
        heatmaps.utilisation(scores),
        charts.routing(grouped, styles),
        heatmaps.utilisation_by_relation(scores),
        heatmaps.attention_positions(scores),
        charts.hits(grouped, styles),
        heatmaps.base_logprob(scores, styles),
    )
    return {chart.name: alike(chart) for chart in drawn if chart.panels}


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
