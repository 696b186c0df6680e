"""What is said of a whole run: its measures, its verdicts, and what is wrong with its training.

Summaries are kept by the run itself. Verdicts are judged from draws over all scores, which takes a while, so they are
kept beside what else the explorer derives, with digests of what they are of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from gated_lpi._common.folders import read_bytes
from gated_lpi.diagnosis import examine
from gated_lpi.errors import RunError
from gated_lpi.report.arms import ArmResults, Results, load_results
from gated_lpi.report.by_method import verdict
from gated_lpi.report.claims import claims
from gated_lpi.report.findings import recall_sentence, recall_warning, small_sets_note
from gated_lpi.results import Run
from gated_lpi.results.files import read_file, write_file
from gated_lpi.version import __version__


class SaidClaim(BaseModel):
    """A claim of the publication as a question, and its answer.

    Attributes:
        question, answer, lead, decides: as `report.claims.Claim` has them.
    """

    model_config = ConfigDict(extra="forbid")

    question: str
    answer: str
    lead: str
    decides: str


class Alarm(BaseModel):
    """Something that is wrong with an arm's training.

    Attributes:
        arm, name, value, threshold, evidence, checkpoints: as `diagnosis.Finding` has them.
    """

    model_config = ConfigDict(extra="forbid")

    arm: str
    name: str
    value: float
    threshold: float
    evidence: str
    checkpoints: list[str]


class Said(BaseModel):
    """What is said of a run, in words.

    Attributes:
        made_of: digests of what it is said of.
        claims: the publication's, where the run has both kinds of arm.
        method: whether findings are the method's; None where there are not two methods.
        recall: what arms recall.
        warnings: what cannot bear much.
        lacks: which kind of arm is missing for the claims; None: none.
        alarms: what is wrong with the training.
        unjudged: what of that could not be judged.
    """

    model_config = ConfigDict(extra="forbid")

    made_of: dict[str, str]
    claims: list[SaidClaim]
    method: str | None
    recall: str
    warnings: list[str]
    lacks: str | None
    alarms: list[Alarm]
    unjudged: list[str]


def measured(run: Run, arms: Sequence[str], missing: Mapping[str, str]) -> Results:
    """The summaries of some arms by every method, without verdicts.

    Raises:
        RunError: they cannot be read.
        OptionError: the run's options for metrics do not fit their checkpoints.
    """
    found = []
    for name in arms:
        methods = run.methods(name)
        by_method = {method: run.summary(name, method) for method in methods}
        summary = by_method[methods[0]] if methods else run.summary(name)
        found.append(ArmResults(name, run.scores(name), summary, run.record(name), by_method))
    groups = {group: tuple(name for name in names if name in arms) for group, names in run.experiment.groups.items()}
    return Results(tuple(found), dict(missing), {}, {group: names for group, names in groups.items() if names})


def said(run: Run, arms: Sequence[str], file: Path) -> Said:
    """What is said of a run: read from a file if it is of the same scores, else found out and kept there.

    Raises:
        RunError: a record cannot be read, or no arm has results.
        OptionError: the run's options for metrics do not fit its checkpoints.
    """
    made_of = _made_of(run, arms)
    with suppress(RunError):
        kept = read_file(file, Said, "what the explorer says of a run", "delete it")
        if kept is not None and kept.made_of == made_of:
            return kept
    results, diagnosis = load_results(run), examine(run)
    new = Said(
        made_of=made_of,
        claims=[
            SaidClaim(question=c.question, answer=c.answer, lead=c.lead, decides=c.decides) for c in claims(results)
        ],
        method=verdict(results),
        recall=recall_sentence(results),
        warnings=[text for text in (recall_warning(results), small_sets_note(results)) if text],
        lacks=results.lacks,
        alarms=[
            Alarm(
                arm=one.arm,
                name=one.name,
                value=one.value,
                threshold=one.threshold,
                evidence=one.evidence,
                checkpoints=list(one.checkpoints),
            )
            for one in diagnosis.findings
        ],
        unjudged=list(diagnosis.unjudged),
    )
    with suppress(RunError):  # a copy of what can be found out again
        write_file(file, new.model_dump(mode="json"))
    return new


def _made_of(run: Run, arms: Sequence[str]) -> dict[str, str]:
    """Digests of the scores and records of arms, and the version that speaks."""
    found = {"version": __version__, "metrics": run.experiment.metrics.model_dump_json()}
    for arm in arms:
        record = read_bytes(run.path / "results" / f"{arm}.json")
        found[arm] = f"{run.store(arm).digest()} {sha256(record or b'').hexdigest()}"
    return found
