"""`gated-lpi checkpoints`: which checkpoints a series has, which to take, and whether they can be trusted."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from gated_lpi.cli.console import ConsoleProgress, print_json
from gated_lpi.cli.console import out as console
from gated_lpi.errors import OptionError

if TYPE_CHECKING:
    from gated_lpi.checkpoints import Checkpoint, Continuity, Hub, Integrity, Selection, Series

NAME = "checkpoints"
INTERRUPTED = "interrupted; what was listed is kept in the cache: run the command again"


def command(
    source: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SUITE|REPO|DIR]...", help="A suite, a repository, a folder, or the repositories of one series."
        ),
    ] = None,
    steps: Annotated[
        str | None, typer.Option(help="The checkpoints nearest to these steps, such as 0,1000,5k.")
    ] = None,
    tokens: Annotated[str | None, typer.Option(help="Those nearest to these tokens, such as 20B,1.5T.")] = None,
    words: Annotated[
        str | None, typer.Option(help="Those nearest to these words, where the series counts words.")
    ] = None,
    bytes_: Annotated[str | None, typer.Option("--bytes", help="Those nearest to these bytes, likewise.")] = None,
    count: Annotated[int | None, typer.Option(help="So many of them, from the first to the last.")] = None,
    spacing: Annotated[str | None, typer.Option(help="With --count: log (the default) or even.")] = None,
    every: Annotated[int | None, typer.Option(help="Those nearest to each multiple of so many steps.")] = None,
    stage: Annotated[list[str] | None, typer.Option(help="Only this stage; may be given several times.")] = None,
    integrity: Annotated[
        bool, typer.Option("--integrity", help="Compare the weight files by their hashes, without downloading them.")
    ] = False,
    continuity: Annotated[
        bool,
        typer.Option(
            "--continuity",
            help="Compare the weights of neighbours with the series' own trend; downloads each, and deletes it again.",
        ),
    ] = False,
    against: Annotated[
        list[str] | None, typer.Option(help="Compare with this series, too; may be given several times.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Ask no hub; use what was listed before.")] = False,
    cache_dir: Annotated[Path | None, typer.Option(help="Where downloads are kept.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """List the checkpoints of a public suite, a hub repository or a folder; without an argument, the known suites.

    Example: `gated-lpi checkpoints allenai/OLMoE-1B-7B-0924 --count 8 --spacing log --integrity`
    """
    from gated_lpi.checkpoints import Hub, inspect_series, list_series, parse_counts, select

    choice: dict[str, Any] = {
        "steps": None if steps is None else parse_counts(steps),
        "tokens": None if tokens is None else parse_counts(tokens),
        "words": None if words is None else parse_counts(words),
        "bytes": None if bytes_ is None else parse_counts(bytes_),
        "count": count,
        "spacing": spacing,
        "every": every,
        "stages": stage or None,
    }
    if not source:
        if integrity or continuity or against or any(value is not None for value in choice.values()):
            raise OptionError("There is nothing to choose from: give a suite, a repository or a folder.")
        _print_suites(json)
        return
    hub = Hub(cache_dir=cache_dir, offline=offline)
    series = list_series(source[0] if len(source) == 1 else source, hub=hub)
    selection = select(series, **choice)
    report = None
    if integrity or against:
        others = [list_series(other, hub=hub) for other in against or []]
        with ConsoleProgress().task("compare files") as advance:
            report = inspect_series(series, selection.checkpoints, against=others, hub=hub, progress=advance)
    course = _continuity(selection, hub) if continuity else None
    if json:
        found = {} if course is None else {"continuity": dataclasses.asdict(course)}
        print_json(_as_json(series, selection, report) | found)
        return
    _print_series(series, selection, report)
    if course is not None:
        _print_continuity(course)


def _continuity(selection: Selection, hub: Hub) -> Continuity:
    from gated_lpi.checkpoints import Signature, check_continuity, evict, fetch, signature

    def reach(checkpoint: Checkpoint) -> Signature:
        fetched = fetch(checkpoint, hub=hub)
        try:
            return signature(fetched.path, checkpoint.key, checkpoint.step)
        finally:
            if checkpoint.path is None:
                evict(fetched, hub=hub)

    with ConsoleProgress().task("read weights") as advance:
        return check_continuity(selection.checkpoints, reach, advance)


def _print_continuity(course: Continuity) -> None:
    table = _table("after", "checkpoint", "distance of the median kind of matrix")
    for i, distance in enumerate(course.distances):
        table.add_row(course.keys[i], course.keys[i + 1], f"{distance:.3g}")
    console.print(table)
    for found in course.breaks:
        console.print(f"breaks off: {found}", markup=False)
    if course.apart:
        console.print(f"not in all of them, and not compared: {len(course.apart)} matrices, first {course.apart[0]}")
    if course.untold:
        console.print(course.untold, markup=False)
    told = f"{len(course.breaks)} kinds of matrices break off" if course.breaks else "no matrix breaks off"
    console.print(f"continuity: {told} the series' own trend; 0: equal weights, 1.41: two independent draws")


def _print_suites(json: bool) -> None:
    from gated_lpi.checkpoints import suites

    if json:
        print_json([suite.model_dump(mode="json") for suite in suites()])
        return
    table = _table("suite", "repositories", "what to know")
    for suite in suites():
        repos = suite.repos or tuple(point.repo for point in suite.points)
        known = [f"known defect: {defect}" for defect in suite.defects]
        main = [f"main: {suite.main}"] if suite.main else []
        kind = f"{suite.name} (MoE)" if suite.moe else suite.name
        seeds = [f"replicates: {repo}" for repo in suite.replicates]
        obstacle = [suite.obstacle] if suite.obstacle else []
        told = "\n".join([*obstacle, *suite.notes, *main, *seeds, *known])
        table.add_row(kind, "\n".join(repos), told, end_section=True)
    console.print(table)


def _print_series(series: Series, selection: Selection, report: Integrity | None) -> None:
    from gated_lpi.checkpoints.types import BYTES, WORDS

    chosen, there = len(selection.checkpoints), len(series.checkpoints)
    suite = f", suite {series.suite.name}" if series.suite is not None else ""
    console.print(f"{series.source}{suite}: {chosen} of {there} checkpoints", markup=False)
    counted = series.step_unit if series.step_unit in (WORDS, BYTES) else "step"
    columns = ["key", *(["stage"] if series.stages != ("",) else []), counted, "tokens", "commit"]
    table = _table(*columns, *(["flags"] if report is not None else []))
    for c in selection.checkpoints:
        cells = {"key": c.key, "stage": c.stage, counted: f"{c.step:,}", "tokens": _tokens(c), "commit": c.commit[:8]}
        flags = [] if report is None else ["\n".join(report.flags[c.key]) or "none found"]
        table.add_row(*(Text(cell) for cell in (*(cells[column] for column in columns), *flags)))
    console.print(table)
    for line in _lines(series, selection, report):
        console.print(line, markup=False)


def _table(first: str, *others: str) -> Table:
    """A table that shows every cell in full: only columns of words are folded, names and numbers are to be copied."""
    table = Table()
    for header in (first, *others):
        table.add_column(
            header, no_wrap=header in (first, "step", "words", "bytes", "tokens", "commit"), overflow="fold"
        )
    return table


def _tokens(checkpoint: Checkpoint) -> str:
    if checkpoint.tokens is None:
        return "?"
    return f"{checkpoint.tokens / 1e9:,.1f}B" if checkpoint.tokens >= 10**9 else f"{checkpoint.tokens:,}"


def _lines(series: Series, selection: Selection, report: Integrity | None) -> list[str]:
    from gated_lpi.checkpoints.types import SHOWN, shortened

    lines = [f"note: {note}" for note in series.notes]
    mismatches = selection.mismatches
    lines += [
        f"asked for {m.asked:,} {m.axis}: nearest is {m.found:,} ({m.key}, {m.mismatch:+,})" for m in mismatches[:SHOWN]
    ]
    if len(mismatches) > SHOWN:
        lines.append(f"and {len(mismatches) - SHOWN} more that are not exact; --json lists them")
    if selection.unmet:
        lines.append(f"{selection.unmet} multiples of the asked-for distance have no checkpoint near them")
    lines += series.left_out
    for defect in series.known:
        keys = [c.key for c in selection.checkpoints if defect.afflicts(c)]
        lines.append(f"known of this suite: {defect} ({defect.source}){': ' if keys else ''}{shortened(keys)}")
    return lines if report is None else lines + _integrity_lines(report)


def _integrity_lines(report: Integrity) -> list[str]:
    lines = [f"identical weights: {', '.join(group)}" for group in report.duplicates]
    lines += [f"identical files {', '.join(shared.files)}: {', '.join(shared.keys)}" for shared in report.shared]
    lines += [
        f"gap{f' in {gap.stage}' if gap.stage else ''}: about {gap.absent} absent between {gap.after} and {gap.before}"
        for gap in report.gaps
    ]
    lines += _aside_lines(report)
    lines += [report.main] if report.main else []
    flagged = sum(bool(flags) for flags in report.flags.values())
    return [*lines, f"{len(report.inspected)} inspected by hash before any download, {flagged} of them flagged"]


def _aside_lines(report: Integrity) -> list[str]:
    from gated_lpi.checkpoints.types import shortened

    holders: dict[tuple[str, ...], list[str]] = {}
    for key, names in report.aside.items():
        holders.setdefault(names, []).append(key)
    return [
        f"no part of the weights, left aside: {', '.join(names)} of {shortened(keys)}"
        for names, keys in holders.items()
    ]


def _as_json(series: Series, selection: Selection, report: Integrity | None) -> dict[str, Any]:
    return {
        "source": series.source,
        "suite": None if series.suite is None else series.suite.name,
        "available": len(series.checkpoints),
        "checkpoints": [
            dataclasses.asdict(c) | {"path": None if c.path is None else str(c.path)} for c in selection.checkpoints
        ],
        "matches": [dataclasses.asdict(match) | {"mismatch": match.mismatch} for match in selection.matches],
        "unmet": selection.unmet,
        "excluded": [dataclasses.asdict(item) for item in series.excluded],
        "notes": list(series.notes),
        "known": [defect.model_dump(mode="json") for defect in series.known],
        "integrity": None if report is None else report.as_json(),
    }
