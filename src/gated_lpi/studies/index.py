"""The index of findings: every claim that any study of a folder judged, what each method says to it, and a figure.

It is made of the studies' findings.json alone, so that it can be written anew at any time. `publish` copies all pages
and the index to a folder of documentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from matplotlib.figure import Figure

from gated_lpi._common.folders import make, unwritten, write_atomically
from gated_lpi.results.files import read_file
from gated_lpi.studies.finding import Cell, StudyResult, Verdict
from gated_lpi.studies.page import claims, escaped, markdown_table, method_name, page, said

RESULT_FILE = "findings.json"
PAGES = "{}.findings/page.md"
INDEX_FILE = "index.md"
FIGURE_FILE = "index.png"
COLOURS = {"supported": "#2c7fb8", "contradicted": "#d95f0e", "undecided": "#9a9a9a"}
FIRST = ("lpi", "grad_x_act")  # methods with a column of their own
CHANCE = 0.05  # of a 95% interval to leave out no effect
LONGEST = 90  # letters of a claim in the figure


def results_in(folder: Path) -> list[StudyResult]:
    """What the studies of a folder found, by name.

    Raises:
        RunError: a file is not what was written.
    """
    files = sorted(folder.glob("*.findings/findings.json"))
    found = [read_file(file, StudyResult, "a study's findings", "run the study again") for file in files]
    return [result for result in found if result is not None]


def write_index(folder: Path) -> Path:
    """Write index.md and index.png of all findings in a folder of studies, and return the page.

    Raises:
        RunError: a study's findings are not what was written, or a file could not be written.
    """
    return _write(results_in(folder), folder, PAGES)


def publish(folder: Path, into: Path) -> Path:
    """Write every study's page (NAME.md), figures and findings (NAME.json) to one folder, and an index of them.

    Args:
        folder: of studies.
        into: made if it is not there.

    Returns:
        The index.

    Raises:
        RunError: a study's findings are not what was written, or a file could not be read or written.
    """
    results = results_in(folder)
    try:
        make(into)
        for result in results:
            findings = folder / f"{result.study}.findings"
            for name in (name for kept in result.analyses for name in kept.figures):
                write_atomically(into / f"{result.study}.{name}", (findings / name).read_bytes())
            write_atomically(into / f"{result.study}.json", (findings / RESULT_FILE).read_bytes())
            write_atomically(into / f"{result.study}.md", _published(result))
    except OSError as error:
        raise unwritten(into, error) from error
    return _write(results, into, "{}.md")


def _published(result: StudyResult) -> str:
    return page(result, f"{result.study}.", index=INDEX_FILE, numbers=f"{result.study}.json")


def _write(results: Sequence[StudyResult], into: Path, pages: str) -> Path:
    write_atomically(into / FIGURE_FILE, _png(_figure(results)))
    write_atomically(into / INDEX_FILE, index(results, pages))
    return into / INDEX_FILE


def index(results: Sequence[StudyResult], pages: str = PAGES) -> str:
    """The index as Markdown: the figure, and one table of all claims and of questions without one.

    Args:
        results: of studies.
        pages: where the page of a study is, with {} for its name.
    """
    if not results:
        return "# Findings\n\nNo study is complete yet.\n"
    head = ["study", "question", "claim", "verdict", *map(method_name, FIRST), "other methods", "would change our mind"]
    rows = [row for result in results for row in _rows(result, f"[{result.study}]({pages.format(result.study)})")]
    parts = ["# Findings", _reading(results)]
    studies = "\n".join(f"- [{result.title}]({pages.format(result.study)})" for result in results)
    parts += [f"![every claim]({FIGURE_FILE})", studies, markdown_table(head, rows)]
    return "\n\n".join(parts) + "\n"


def _reading(results: Sequence[StudyResult]) -> str:
    """How the table is to be read, and how many of its verdicts chance alone would give."""
    verdicts = [verdict for result in results for verdict in _plain(result)]
    decided = sum(verdict.verdict != "undecided" for verdict in verdicts)
    return (
        "Effects are with 95% intervals. A verdict is one only if all methods give it. "
        f"{decided} of {len(verdicts)} verdicts of single methods are decided; chance alone would decide "
        f"about {CHANCE * len(verdicts):.0f}, since each has an interval of its own (those on the publication's "
        "claims and on pruning are corrected within their study). One that stands alone proves little. Pages have the "
        "same claims of other units and over other facts, too."
    )


def _plain(result: StudyResult) -> list[Verdict]:
    """The verdicts on a study's claims, without variations of them."""
    return [verdict for verdict in result.verdicts if not verdict.variation]


def _rows(result: StudyResult, study: str) -> list[list[Cell]]:
    rows: list[list[Cell]] = [
        [study, question, claim, _overall(several), *_by_method(several), _would(several)]
        for (question, claim), several in claims(_plain(result)).items()
    ]
    judged = {verdict.question for verdict in result.verdicts}
    unjudged = [question for question in result.question if question not in judged]
    return rows + [[study, question, None, "no claim judged", None, None, None, None] for question in unjudged]


def _overall(several: Sequence[Verdict]) -> str:
    words = {verdict.verdict for verdict in several}
    if len(words) == 1:
        return next(iter(words))
    return "depends on the method" if {"supported", "contradicted"} <= words else "undecided"


def _by_method(several: Sequence[Verdict]) -> list[str | None]:
    by = {verdict.method: verdict for verdict in several}
    alike = by.get("")
    first = [_said(by.get(method) or alike) for method in FIRST]
    others = [f"{method_name(v.method)}: {_said(v)}" for v in several if v.method not in (*FIRST, "")]
    return [*first, "; ".join(others) or None]


def _said(verdict: Verdict | None) -> str | None:
    return None if verdict is None else said(verdict)


def _would(several: Sequence[Verdict]) -> str | None:
    return next((verdict.would_decide for verdict in several if verdict.would_decide), None)


def _figure(results: Sequence[StudyResult]) -> Figure:
    """Every verdict as a mark, by claim and method: its colour is what it says."""
    lines = [
        (f"{result.study}: {claim}", several)
        for result in results
        for (_, claim), several in claims(_plain(result)).items()
    ]
    methods = list(dict.fromkeys(verdict.method for _, several in lines for verdict in several))
    figure = Figure(figsize=(8, 1.2 + 0.32 * max(len(lines), 1)))
    axes = figure.subplots()
    for row, (_, several) in enumerate(lines):
        for verdict in several:
            axes.plot(methods.index(verdict.method), row, "s", color=COLOURS[verdict.verdict], markersize=11)
    for word, colour in COLOURS.items():
        axes.plot([], [], "s", color=colour, label=word)
    axes.set_yticks(range(len(lines)), [_short(escaped(label)) for label, _ in lines], fontsize=8)
    axes.set_xticks(range(len(methods)), [method_name(method) for method in methods], fontsize=8, rotation=20)
    axes.set_xlim(-0.5, max(len(methods), 1) - 0.5)
    axes.set_ylim(max(len(lines), 1) - 0.5, -0.5)
    figure.legend(loc="upper center", ncols=len(COLOURS), frameon=False, fontsize=8)
    return figure


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _png(figure: Figure) -> bytes:
    stream = BytesIO()
    figure.savefig(stream, format="png", dpi=100, bbox_inches="tight", metadata={"Software": None})
    return stream.getvalue()
