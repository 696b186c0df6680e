"""The index of findings: every claim that any study of a folder judged, what each method says to it, and a figure.

It is made of the studies' findings alone, so that it can be written anew at any time: of those in a folder of studies
or of those that were published. `publish` copies pages to a folder of documentation; what was published there before
and is not in the folder of studies stays, and in the index.

1. A verdict that another study of the same run has alike, number by number, is that study's (`judged_once`).
2. The table is grouped by question, claims are short (`short_claim`), and pages have them in full.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from textwrap import wrap
from typing import NamedTuple

from matplotlib.figure import Figure

from gated_lpi._common.folders import make, unwritten, write_atomically
from gated_lpi.claims import CLAIMS
from gated_lpi.errors import RunError
from gated_lpi.report.by_method import CONTRAST
from gated_lpi.results.files import read_file
from gated_lpi.studies.finding import Cell, StudyResult, Verdict
from gated_lpi.studies.page import claims, column, effect, markdown_table, method_name, page, would_change

RESULT_FILE = "findings.json"
PAGES = "{}.findings/page.md"
PUBLISHED = "{}.md"
INDEX_FILE = "index.md"
FIGURE_FILE = "index.png"
COLOURS = {"supported": "#2c7fb8", "contradicted": "#d95f0e", "undecided": "#9a9a9a"}
FIRST = ("lpi", "grad_x_act")  # methods with a column of their own
CHANCE = 0.05  # of a 95% interval to leave out no effect
WIDE = 72  # letters of a line of a claim in the figure
NAMES = (("the mixture-of-experts model", "the MoE"), ("The mixture-of-experts model", "The MoE"))
UNITS = (("percentage points", "points"),)
NAMED = re.compile(r"(?<=[\],] )[A-Z](?=[a-z]* )")
FOIL = "scored against a foil"
CROSS = "\N{MULTIPLICATION SIGN}"
HEAD = ("claim", "verdict", "effect", "by Gated-LPI", f"by grad {CROSS} act", "what would change our mind")


class Published(NamedTuple):
    """What was published.

    Attributes:
        page: of the index.
        written: names of the studies whose pages were copied.
        kept: names of those that were published before and stay as they were found.
    """

    page: Path
    written: tuple[str, ...]
    kept: tuple[str, ...]


class Line(NamedTuple):
    """One claim of the index.

    Attributes:
        study: which judged it.
        question: which it answers.
        claim: in full.
        verdicts: of each method.
    """

    study: str
    question: str
    claim: str
    verdicts: tuple[Verdict, ...]


def results_in(folder: Path) -> list[StudyResult]:
    """What the studies of a folder found, by name.

    Raises:
        RunError: a file is not what was written.
    """
    return _read(sorted(folder.glob(f"*.findings/{RESULT_FILE}")), "run the study again")


def published_in(folder: Path) -> list[StudyResult]:
    """What was found by the studies whose pages were published to a folder, by name.

    Raises:
        RunError: a file is not what was written.
    """
    files = [file for file in sorted(folder.glob("*.json")) if file.with_suffix(".md").is_file()]
    return _read(files, "publish the study again, or take its page and numbers away")


def _read(files: Sequence[Path], advice: str) -> list[StudyResult]:
    found = [read_file(file, StudyResult, "a study's findings", advice) for file in files]
    return [result for result in found if result is not None]


def write_index(folder: Path) -> Path:
    """Write index.md and index.png of all findings in a folder of studies, and return the page.

    Raises:
        RunError: a study's findings are not what was written, or a file could not be written.
    """
    return _write(results_in(folder), folder, PAGES)


def publish(folder: Path | None, into: Path) -> Published:
    """Write every study's page (NAME.md), figures and findings (NAME.json) to one folder, and an index of all there.

    Studies that were published there before and are not in `folder` keep their findings and figures; their pages are
    laid out anew.

    Args:
        folder: of studies; None: what is published already is all there is.
        into: made if it is not there.

    Returns:
        The index, and which studies were copied and which stayed.

    Raises:
        RunError: a study's findings are not what was written, or a file could not be read or written; there is nothing
            to publish.
    """
    results = [] if folder is None else results_in(folder)
    kept = [result for result in published_in(into) if result.study not in {one.study for one in results}]
    if not results and not kept:
        where = into if folder is None else f"{folder} or {into}"
        raise RunError(f"no study has findings in {where}; carry one out first: gated-lpi study NAME --out FOLDER")
    try:
        make(into)
        for result in results:
            assert folder is not None
            findings = folder / f"{result.study}.findings"
            for name in (name for one in result.analyses for name in one.figures):
                write_atomically(into / f"{result.study}.{name}", (findings / name).read_bytes())
            write_atomically(into / f"{result.study}.json", (findings / RESULT_FILE).read_bytes())
        for result in (*results, *kept):
            write_atomically(into / f"{result.study}.md", _published(result))
    except OSError as error:
        raise unwritten(into, error) from error
    every = sorted([*results, *kept], key=lambda result: result.study)
    names = (tuple(result.study for result in some) for some in (results, kept))
    return Published(_write(every, into, PUBLISHED), *names)


def _published(result: StudyResult) -> str:
    return page(result, f"{result.study}.", index=INDEX_FILE, numbers=f"{result.study}.json")


def _write(results: Sequence[StudyResult], into: Path, pages: str) -> Path:
    write_atomically(into / FIGURE_FILE, _png(_figure(judged_once(results))))
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
    lines = judged_once(results)
    studies = "\n".join(f"- [{result.title}]({pages.format(result.study)})" for result in results)
    rows = [*_rows(lines, pages), *_open(results, pages)]
    parts = [
        "# Findings",
        _reading(lines),
        f"![every claim that some method decides, and what each says to it]({FIGURE_FILE})",
        studies,
        markdown_table(HEAD, rows),
    ]
    return "\n\n".join(parts) + "\n"


def judged_once(results: Sequence[StudyResult]) -> list[Line]:
    """All claims without variations; a verdict that another study of the same run has alike is only in that one.

    The study that the run is named after comes first, then the others by name.
    """
    seen: set[tuple[object, ...]] = set()
    lines = []
    for result in sorted(results, key=lambda result: (result.run, result.study != result.run, result.study)):
        for (question, claim), several in claims(_plain(result)).items():
            fresh = []
            for one in several:
                key = (result.run, claim, one.method, one.verdict, one.effect, one.low, one.high, one.unit)
                if key not in seen:
                    seen.add(key)
                    fresh.append(one)
            if fresh:
                lines.append(Line(result.study, question, claim, tuple(fresh)))
    return lines


def short_claim(claim: str) -> str:
    """A claim as a table has it: the publication's without what they say after a colon."""
    for one in CLAIMS:
        full = one.claim.rstrip(".")
        claim = claim.replace(full, full.split(":")[0])
    for long, short in NAMES:
        claim = claim.replace(long, short)
    return claim.rstrip(".")


def _reading(lines: Sequence[Line]) -> str:
    """How the table is to be read, and how many of its verdicts chance alone would give."""
    verdicts = [verdict for line in lines for verdict in line.verdicts]
    decided = sum(verdict.verdict != "undecided" for verdict in verdicts)
    return (
        "A verdict is one only if all methods give it. The effect is by the first method that measured it, with its "
        "95% interval; the columns of methods have their own words, and their own effects where they differ, and none "
        "where no method has a part in it. Points are percentage points. "
        f"{decided} of {len(verdicts)} verdicts of single methods are decided; chance alone would decide "
        f"about {CHANCE * len(verdicts):.0f}, since each has an interval of its own (those on the publication's "
        "claims and on pruning are corrected within their study). One that stands alone proves little. Pages have the "
        "claims in full, other methods, other units and other facts."
    )


def _plain(result: StudyResult) -> list[Verdict]:
    """The verdicts on a study's claims, without variations of them."""
    return [verdict for verdict in result.verdicts if not verdict.variation]


def _rows(lines: Sequence[Line], pages: str) -> Iterator[list[Cell]]:
    """Claims, below a row for each question with the studies that judge it; what several share is said once above."""
    for question in dict.fromkeys(line.question for line in lines):
        here = [line for line in lines if line.question == question]
        yield _question(question, dict.fromkeys(line.study for line in here), pages)
        above = ""
        texts = _shared([_claim(line) for line in here])
        often = Counter(texts)
        for line, text in zip(here, texts, strict=True):
            shared, own = text
            if shared and shared != above:
                yield [f"*{shared}*", *[""] * (len(HEAD) - 1)]
            above = shared
            yield _row(line, f"{own} ({line.study})" if often[text] > 1 else own)


def _claim(line: Line) -> str:
    """A claim in short, and that it is of scores against a foil where another study has it plainly."""
    claim = short_claim(line.claim)
    return f"{claim}, {FOIL}" if _is_of_foil(line) else claim


def _is_of_foil(line: Line) -> bool:
    return all(verdict.method.endswith(CONTRAST) for verdict in line.verdicts)


def _shared(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Of each claim what it shares with others, before its first colon or behind it, and its own part.

    Of two parts that are shared, the longer one is said once.
    """
    parts = [text.partition(": ") for text in texts]
    heads = Counter(head for head, colon, _ in parts if colon)
    tails = Counter(tail for _, colon, tail in parts if colon)
    found = []
    for text, (head, _, tail) in zip(texts, parts, strict=True):
        if heads[head] > 1 and not (tails[tail] > 1 and len(tail) > len(head)):
            found.append((f"{head}:", tail))
        elif tails[tail] > 1:
            found.append((f"{tail}:", head))
        else:
            found.append(("", text))
    return found


def _question(question: str, studies: Sequence[str] | dict[str, None], pages: str) -> list[Cell]:
    linked = ", ".join(f"[{study}]({pages.format(study)})" for study in studies)
    return [f"**{question}** ({linked})", *[""] * (len(HEAD) - 1)]


def _open(results: Sequence[StudyResult], pages: str) -> Iterator[list[Cell]]:
    """Questions under which nothing is judged. Where a study's claims carry questions of their own, they answer its."""
    for result in results:
        judged = {verdict.question for verdict in result.verdicts}
        if judged <= set(result.question):
            for question in result.question:
                if question not in judged:
                    yield [
                        *_question(question, [result.study], pages)[:1],
                        "no claim judged",
                        *[None] * (len(HEAD) - 2),
                    ]


def _row(line: Line, claim: str) -> list[Cell]:
    plain = _is_of_foil(line)
    by = {verdict.method.removesuffix(CONTRAST) if plain else verdict.method: verdict for verdict in line.verdicts}
    first = next((by[method] for method in ("", *FIRST) if method in by), line.verdicts[0])
    others = [verdict.verdict for method, verdict in by.items() if method not in (*FIRST, "")]
    words = " and ".join(dict.fromkeys(others))
    more = f"; {len(others)} more {'method' if len(others) == 1 else 'methods'}: {words}" if others else ""
    overall = f"{_overall(line.verdicts)}{more}"
    return [claim, overall, _effect(first), *(_by(by.get(method), first) for method in FIRST), _would(line.verdicts)]


def _by(verdict: Verdict | None, first: Verdict) -> str | None:
    """What one method says; its effect where that is not the one that the row has."""
    if verdict is None or verdict is first:
        return None if verdict is None else _word(first)
    shown = _effect(verdict)
    return f"{_word(verdict)}: {shown}" if shown not in (None, _effect(first)) else _word(verdict)


def _word(verdict: Verdict) -> str:
    return f"{verdict.verdict} ({verdict.because})" if verdict.because else verdict.verdict


def _effect(verdict: Verdict) -> str | None:
    if verdict.effect is None:
        return None
    shown = effect(verdict)
    for long, short in UNITS:
        shown = shown.replace(long, short)
    return NAMED.sub(lambda found: found[0].lower(), shown)  # measures are named as sentences begin


def _overall(several: Sequence[Verdict]) -> str:
    words = {verdict.verdict for verdict in several}
    if len(words) == 1:
        return next(iter(words))
    return "depends on the method" if {"supported", "contradicted"} <= words else "undecided"


def _would(several: Sequence[Verdict]) -> str | None:
    """What would change it, up to what is said beyond that."""
    found = would_change(several)
    return None if found is None else found.split(";")[0]


def _figure(lines: Sequence[Line]) -> Figure:
    """Every claim that some method decides: a mark by method, whose colour is what it says."""
    lines = [line for line in lines if any(verdict.verdict != "undecided" for verdict in line.verdicts)]
    methods = list(dict.fromkeys(column(verdict) for line in lines for verdict in line.verdicts))
    labels = ["\n".join(wrap(f"{line.study}: {short_claim(line.claim)}", WIDE)) for line in lines]
    heights = [0.16 + 0.15 * (1 + label.count("\n")) for label in labels]
    figure = Figure(figsize=(8, 1.0 + sum(heights or [0.3])))
    axes = figure.subplots()
    below = 0.0
    places = []
    for line, height in zip(lines, heights, strict=True):
        places.append(below + height / 2)
        below += height
        for verdict in line.verdicts:
            axes.plot(methods.index(column(verdict)), places[-1], "s", color=COLOURS[verdict.verdict], markersize=11)
        axes.axhline(below, color="#e3e6ea", linewidth=0.6)
    for word, colour in COLOURS.items():
        axes.plot([], [], "s", color=colour, label=word)
    axes.set_yticks(places, labels, fontsize=8, parse_math=False)
    axes.tick_params(axis="y", length=0)
    axes.set_xticks(range(len(methods)), [method_name(method) for method in methods], fontsize=8, rotation=20)
    axes.set_xlim(-0.5, max(len(methods), 1) - 0.5)
    axes.set_ylim(max(below, 0.3), 0)
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=len(COLOURS), frameon=False, fontsize=8, borderaxespad=0.2
    )
    return figure


def _png(figure: Figure) -> bytes:
    stream = BytesIO()
    figure.savefig(stream, format="png", dpi=100, bbox_inches="tight", metadata={"Software": None})
    return stream.getvalue()
