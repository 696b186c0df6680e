"""What an analysis of a run finds, as plain data: verdicts on claims, tables and figures. JSON there and back.

A verdict is what one method says to one claim, with an effect and its interval; a claim that several methods were asked
about has a verdict of each. Figures are drawn by matplotlib and kept as PNG files: JSON holds their names.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from matplotlib.figure import Figure
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SkipValidation, model_validator

Answer = Literal["supported", "contradicted", "undecided"]


def _plain(given: object) -> object:
    """A number of NumPy's as Python's, and one that is not finite as None, which JSON has."""
    item = getattr(given, "item", None)
    value = item() if callable(item) else given
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_plain)]
Cell = Annotated[str | float | int | None, BeforeValidator(_plain)]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]


class Found(BaseModel):
    """The base of all that is found: it cannot change, and has no key that means nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class Verdict(Found):
    """What one method says to one claim.

    Attributes:
        question: the question of the study that it answers.
        claim: what was claimed, as a sentence that can be false.
        method: by whose scores, as results name it ("lpi", "grad_x_act"); "" where no method has a part in it.
        verdict: "supported" if the interval is on the side of the claim, "contradicted" if on the other, else
            "undecided".
        effect: what was measured; None where it could not be.
        low, high: the 95% interval of the effect.
        unit: of these three: "percentage points", "nats", "ρ".
        detail: over what it was measured, and how.
        would_decide: what would change our mind, or decide what is undecided.
        because: in a few words, why it is undecided although the interval leaves out no effect; "" elsewhere.
        variation: in what it differs from the claim of the study: "attention neurons"; "" for the claim itself. The
            index has claims alone.
    """

    question: str
    claim: str
    method: str = ""
    verdict: Answer
    effect: Number = None
    low: Number = None
    high: Number = None
    unit: str = ""
    detail: str = ""
    would_decide: str = ""
    because: str = ""
    variation: str = ""


class Table(Found):
    """A table of a findings page.

    Attributes:
        name: of its file and heading, without blanks.
        caption: what it shows, in a sentence.
        columns: their heads.
        rows: a cell for each column; None is shown as a dash.
    """

    name: FileName
    caption: str
    columns: list[str]
    rows: list[list[Cell]]

    @model_validator(mode="after")
    def _rectangular(self) -> Table:
        odd = next((i for i, row in enumerate(self.rows) if len(row) != len(self.columns)), None)
        if odd is not None:
            raise ValueError(
                f"row {odd} of table {self.name!r} has {len(self.rows[odd])} cells for {len(self.columns)} columns; "
                "give each column one"
            )
        return self


class Analysis(Found):
    """What one analysis found.

    Attributes:
        verdicts: on the claims that it judges.
        tables: what was measured.
        figures: drawn by matplotlib, by name; not in its JSON.
        notes: what was left out or should be known, a sentence each.
    """

    verdicts: list[Verdict] = []
    tables: list[Table] = []
    figures: dict[FileName, Annotated[Figure, SkipValidation]] = Field(default_factory=dict, exclude=True)
    notes: list[str] = []


class KeptAnalysis(Found):
    """An analysis as it is kept in a study's folder.

    Attributes:
        label: how the study calls it, which its files are named after.
        name: which analysis.
        options: its options.
        made_of: the digest of what it was made of: scores, training, options.
        seconds: what it took.
        found: what it found, without figures.
        figures: names of its PNG files.
    """

    label: str
    name: str
    options: dict[str, Any]
    made_of: str
    seconds: float
    found: Analysis
    figures: list[str] = []


class StudyResult(Found):
    """All that a study found, as findings.json has it.

    Attributes:
        study, title, question, design, limits: as the study's file has them.
        run: name of the run's folder, beside that of the findings.
        arms: the names of the arms of each group.
        analyses: what each found, in the order of the study's file.
        seconds: of the run's parts ("training", "attribution", "analyses"), as recorded.
        machine: what it ran on.
        versions: of this package and what it computes with.
        command: what makes all of it.
    """

    study: str
    title: str
    question: list[str]
    design: str
    limits: str
    run: str
    arms: dict[str, list[str]]
    analyses: list[KeptAnalysis]
    seconds: dict[str, float] = {}
    machine: str = ""
    versions: dict[str, str] = {}
    command: str = ""

    @property
    def verdicts(self) -> list[Verdict]:
        """Those of all analyses."""
        return [verdict for kept in self.analyses for verdict in kept.found.verdicts]


def judged(
    low: float | None, high: float | None, *, against: float = 0.0, claimed: Literal["above", "below"]
) -> Answer:
    """The verdict on a claim that an effect lies above or below a value, by its interval."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)) or low <= against <= high:
        return "undecided"
    return "supported" if (low > against) == (claimed == "above") else "contradicted"
