"""What a run is, in a few lines: for a prompt, a log or a notebook. It reads what is complete, and no scores."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, NamedTuple

from gated_lpi._common.entries import printable
from gated_lpi.errors import GatedLPIError

if TYPE_CHECKING:
    from gated_lpi.results.run import Run


class ArmLine(NamedTuple):
    """An arm in a line.

    Attributes:
        name: its own.
        checkpoints: how many are complete.
        steps: of the first and the last of them; None where there is none.
        quarantined: how many could not be used.
        problem: why nothing can be said of it; "" where it can.
    """

    name: str
    checkpoints: int
    steps: tuple[int, int] | None
    quarantined: int
    problem: str

    def words(self) -> str:
        """All but the name."""
        if self.problem:
            return f"cannot be read: {self.problem}"
        if self.steps is None:
            said = "no complete checkpoint yet"
        elif self.checkpoints == 1:
            said = f"1 checkpoint, step {self.steps[0]:,}"
        else:
            said = f"{self.checkpoints:,} checkpoints, steps {self.steps[0]:,} to {self.steps[1]:,}"
        return f"{said}; {self.quarantined:,} in quarantine" if self.quarantined else said


def arm_lines(run: Run) -> list[ArmLine]:
    """What each arm has; nothing is raised for one that cannot be read."""
    return [_line(run, arm) for arm in run.arms]


def described(run: Run) -> str:
    """A run's name and place, what it scores by, and a line for each arm."""
    lines = arm_lines(run)
    width = max(len(line.name) for line in lines)
    head = f"<Run {run.experiment.name!r} at {run.path}, scored by {', '.join(run.experiment.attribution.asked())}>"
    return printable("\n".join([head, *(f"  {line.name:<{width}}  {line.words()}" for line in lines)]))


def html_of(run: Run) -> str:
    """The same as HTML, for notebooks; whatever others wrote is text in it."""
    rows = "".join(f"<tr><th>{_html(line.name)}</th><td>{_html(line.words())}</td></tr>" for line in arm_lines(run))
    methods = ", ".join(run.experiment.attribution.asked())
    head = f"<strong>{_html(run.experiment.name)}</strong>, a run at <code>{_html(str(run.path))}</code>"
    source = run.experiment.facts.source
    named = source if isinstance(source, str) else ", ".join(source)
    facts = f"facts: {_html(named)}; scored by {_html(methods)}"
    advice = (
        "<code>run.to_dataset()</code>: metrics; <code>run.scores(arm)</code>: scores; <code>run.plot</code>: charts"
    )
    return f"<div><p>{head}<br>{facts}</p><table>{rows}</table><p>{advice}</p></div>"


def _html(text: str) -> str:
    return html.escape(printable(text))


def _line(run: Run, arm: str) -> ArmLine:
    try:
        steps = [int(record["step"]) for record in run.store(arm).in_training_order()]
        quarantined = len(run.quarantined(arm))
    except GatedLPIError as error:
        return ArmLine(arm, 0, None, 0, str(error))
    return ArmLine(arm, len(steps), (steps[0], steps[-1]) if steps else None, quarantined, "")
