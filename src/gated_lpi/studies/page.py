"""A study's page: what was asked, how, what was found by each method, what it does not show, and what it took."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from gated_lpi.report.by_method import CONTRAST, METHOD_NAMES
from gated_lpi.studies.finding import Cell, KeptAnalysis, StudyResult, Table, Verdict

ALIKE = "methods together"
WORDS = {"supported": "**supported**", "contradicted": "**contradicted**", "undecided": "undecided"}
DASH = "-"
NOTHING = 1e-12  # what differences of equal numbers may leave, of shares, points and nats
MOST_ROWS = 100  # of a table on a page
OPEN = re.compile(r"until the interval leaves (-?[0-9.]+) out")  # what would decide what an interval does not
ALIKE_NOTE = (
    "Where both ends of an interval are the same number, all replicates gave that number: they say nothing of how far "
    "others would be from it."
)
FIGURES = {  # name → what a figure shows, for whoever does not see it
    "recall": "share of the facts recalled over steps of training, by group of arms, with bands over replicates",
    "last": "drop of recall against the share of FFN units silenced at the last checkpoint, beside random units",
    "middle": "drop of recall against the share of FFN units silenced at half of the training, beside random units",
    "sweep": "the measure of every arm against the option that is swept, by method, with means and intervals",
    "trajectories": "measures of the claims over training, by group of arms, with bands over replicates",
    "survival": "share of a checkpoint's top units that are in the top set later, by group of arms, beside chance",
    "gaps": "overlap of top sets against the tokens between two checkpoints, by group of arms, beside chance",
    "method-agreement": "rank correlation of the scores of two methods over steps, by group of arms",
    "overlap": "overlap of top sets by plain scores and by other targets or facts over steps, by group of arms",
    "routing-split": "how much of the change of scores routing alone explains over steps, by method",
    "frozen-router": "recall of every checkpoint's weights with the routing of other checkpoints",
    "shift": "recall over steps of facts that are kept, old answers and new ones, by group of arms",
    "longer": "concentration, cost of silencing and redundancy at the end against the steps of training",
    "stabilise": "recall over steps by when routers stop to learn",
    "tasks": "cost of silencing units chosen for one task on every task, by method",
    "text-loss": "loss on held-out text over steps, by group of arms",
    "pruning-moe": "log p and recall against the share of experts removed, by what they were ranked by",
}


def page(result: StudyResult, prefix: str = "", *, index: str = "../index.md", numbers: str = "findings.json") -> str:
    """The page of a study as Markdown; its figures lie beside it, their names with a prefix.

    Args:
        result: what was found.
        prefix: of figures' names.
        index, numbers: where, from the page, the index of all findings and the study's findings as JSON are.
    """
    parts = [
        f"# {result.title}",
        f"[All findings]({index}) · [these as JSON]({numbers})",
        "\n".join(f"**{question}**  " for question in result.question),
        "## Design",
        result.design,
        _arms(result),
        "## What was found",
        *_verdicts(result.verdicts),
        *(part for kept in result.analyses for part in _analysis(kept, prefix)),
        "## What this does not show",
        result.limits,
        "## How to have it again",
        f"```bash\n{result.command}\n```",
        _cost(result),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def claims(verdicts: Iterable[Verdict]) -> dict[tuple[str, str], list[Verdict]]:
    """Verdicts by question and claim, in their order: what each method says to it."""
    found: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in verdicts:
        found.setdefault((verdict.question, verdict.claim), []).append(verdict)
    return found


def effect(verdict: Verdict) -> str:
    """An effect with its interval and unit; a dash where there is none."""
    if verdict.effect is None:
        return DASH
    interval = (
        "" if verdict.low is None or verdict.high is None else f" [{_number(verdict.low)}, {_number(verdict.high)}]"
    )
    return f"{_number(verdict.effect)}{interval}{f' {verdict.unit}' if verdict.unit else ''}"


def said(verdict: Verdict, word: str | None = None) -> str:
    """A verdict, in another word for it if one is given, and its effect, where it has one."""
    shown = effect(verdict)
    reason = f" ({verdict.because})" if verdict.because else ""
    return (word or verdict.verdict) + reason + (f": {shown}" if shown != DASH else "")


def would_change(several: Sequence[Verdict]) -> str | None:
    """What would change what methods say to a claim; of one that an interval decides, how far that is from it."""
    first = next((verdict for verdict in several if verdict.would_decide), None)
    if first is None:
        return None
    open_until = OPEN.search(first.would_decide)
    if first.verdict == "undecided" or open_until is None:
        return first.would_decide
    against = float(open_until[1])
    ends = [abs(end - against) for end in (first.low, first.high) if end is not None]
    off = f", {_number(min(ends))}{f' {first.unit}' if first.unit else ''} away" if ends else ""
    return f"Other replicates whose interval holds {against:g}{off}."


def method_name(method: str) -> str:
    """How a page calls a method."""
    plain = method.removesuffix(CONTRAST)
    name = METHOD_NAMES.get(plain, plain.replace("_", " "))
    return f"{name} against a foil" if plain != method else name or ALIKE


def column(verdict: Verdict) -> str:
    """The method whose column a verdict stands in; "" of what is said of no method, or of several together."""
    return verdict.method if verdict.method.removesuffix(CONTRAST) in METHOD_NAMES else ""


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """A table of Markdown; numbers are aligned to the right, None is a dash."""
    lists = [list(row) for row in rows]
    numeric = [
        any(isinstance(row[i], int | float) for row in lists) and not any(isinstance(row[i], str) for row in lists)
        for i in range(len(columns))
    ]
    lines = [columns, ["--:" if right else "---" for right in numeric]]
    lines += [[_cell(value) for value in row] for row in lists]
    return "\n".join(f"| {' | '.join(escaped(str(cell)) for cell in line)} |" for line in lines)


def escaped(text: str) -> str:
    """A text as one cell of a table holds it."""
    return text.replace("|", "\\|").replace("\n", " ")


def _arms(result: StudyResult) -> str:
    return markdown_table(
        ["group", "arms", "replicates"], [[group, ", ".join(arms), len(arms)] for group, arms in result.arms.items()]
    )


def _verdicts(verdicts: Sequence[Verdict]) -> list[str]:
    if not verdicts:
        return ["No claim is judged; what was measured is below."]
    plain = [verdict for verdict in verdicts if not verdict.variation]
    varied = [verdict for verdict in verdicts if verdict.variation]
    details = [f"- {_named(verdict)}: {verdict.detail}" for verdict in verdicts if verdict.detail]
    shown = [_judged(plain), "Effects are with 95% intervals."]
    shown += ["The same claims of other units, or over other facts:", _judged(varied)] if varied else []
    return [*shown, "\n".join(details)]


def _named(verdict: Verdict) -> str:
    """The claim, and the method that it is judged by where it is by one."""
    claim = escaped(verdict.claim.removesuffix("."))
    return f"{claim} ({method_name(verdict.method)})" if verdict.method else claim


def _judged(verdicts: Sequence[Verdict]) -> str:
    """A table of verdicts, methods side by side; what is said of several methods together has one column."""
    methods = list(dict.fromkeys(map(column, verdicts)))
    rows = []
    for (question, claim), several in claims(verdicts).items():
        by = {column(verdict): verdict for verdict in several}
        cells = [said(by[m], WORDS[by[m].verdict]) if m in by else None for m in methods]
        rows.append([question, claim, *cells, would_change(several)])
    head = ["question", "claim", *map(method_name, methods), "what would change our mind"]
    return markdown_table(head, rows)


def _analysis(kept: KeptAnalysis, prefix: str) -> list[str]:
    parts = [f"### {kept.label.replace('_', ' ').capitalize()}"]
    parts += [f"![{kept.label.replace('_', ' ')}: {shows(name)}]({prefix}{name})" for name in kept.figures]
    parts += [_table(table) for table in kept.found.tables]
    parts += [ALIKE_NOTE] if any(map(_has_alike, kept.found.tables)) else []
    notes = "\n".join(f"- {note}" for note in kept.found.notes)
    return [*parts, notes] if notes else parts


def shows(name: str) -> str:
    """What a figure of a name such as LABEL.sweep.png shows, in words."""
    own = name.removesuffix(".png").rpartition(".")[2]
    return FIGURES.get(own, own.replace("-", " "))


def _has_alike(table: Table) -> bool:
    """Whether some interval of a table has no width."""
    ends = [
        (low, low + 1)
        for low, head in enumerate(table.columns)
        if head.endswith("low") and low + 1 < len(table.columns)
    ]
    return any(row[low] is not None and row[low] == row[high] for row in table.rows for low, high in ends)


def _table(table: Table) -> str:
    shown = table.rows[:MOST_ROWS]
    left = len(table.rows) - len(shown)
    more = f"\n\n{left:,} more rows are in the findings as JSON." if left else ""
    return f"{table.caption}\n\n{markdown_table(table.columns, shown)}{more}"


def _cell(value: Cell) -> str:
    if value is None:
        return DASH
    return value if isinstance(value, str) else _number(value)


def _number(value: float) -> str:
    value = 0 if abs(value) < NOTHING else value
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value):,}" if abs(value) < 1e15 else f"{value:.3g}"
    return f"{value:,.0f}" if 1e3 <= abs(value) < 1e15 else f"{value:.3g}"


def _cost(result: StudyResult) -> str:
    parts: Mapping[str, float] = {key: value for key, value in result.seconds.items() if key != "clock"}
    spent = ", ".join(f"{key} {value / 3600:.2f}" for key, value in parts.items())
    hours = f"Hours of one thread: {sum(parts.values()) / 3600:.2f} ({spent})" if parts else ""
    clock = f"; {result.seconds['clock'] / 3600:.2f} on the clock" if "clock" in result.seconds else ""
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    return f"{hours}{clock}. {result.machine}. {versions}."
