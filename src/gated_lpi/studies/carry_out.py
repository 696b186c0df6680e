"""Carrying a study out: its run, then its analyses, then what is read of them.

    DIR/RUN                       the run's folder; of the study whose run it is, if it analyses another's
    DIR/NAME.findings/
      LABEL.json, LABEL.FIGURE.png    what each analysis found, with the digest of what it was made of
      findings.json               all of it (`StudyResult`)
      page.md                     to be read

1. The run is carried out, or taken up where it was left (`run_experiment`). Arms that another run in DIR trained alike
   are not trained again.
2. Every arm is summarised by every method, several arms at once where there are workers.
3. Each analysis is done unless it was, of the same scores, training, records and options, by the same code.
4. The report of the run, findings.json, the page, and the index of all findings in DIR are written.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from io import BytesIO
from pathlib import Path

from matplotlib.figure import Figure
from pydantic import BaseModel

from gated_lpi._common.folders import Folder, make, read_bytes, unwritten, write_atomically
from gated_lpi.errors import FactsError, RunError
from gated_lpi.options.spec import files_of
from gated_lpi.report import build_report
from gated_lpi.results import Run
from gated_lpi.results.files import digest, read_file, write_file
from gated_lpi.results.summaries import summary_file
from gated_lpi.runs import run_experiment
from gated_lpi.runs.progress import Advance, Progress, Silent
from gated_lpi.runs.training_jobs import SECONDS, seconds_of
from gated_lpi.studies._runs import each
from gated_lpi.studies.finding import KeptAnalysis, StudyResult
from gated_lpi.studies.index import RESULT_FILE, write_index
from gated_lpi.studies.page import page
from gated_lpi.studies.study import AnalysisSpec, Study, studies
from gated_lpi.studies.table import analysis_of
from gated_lpi.training.folder import RECORD as ARM_RECORD
from gated_lpi.training.stabilise import RECORD as STABILISE_RECORD
from gated_lpi.version import __version__

FINDINGS = ".findings"
PAGE_FILE = "page.md"
CLOCK_FILE = "clock.json"
DOTS = 110  # per inch of a figure
OF_TRAINING = (ARM_RECORD, STABILISE_RECORD, SECONDS)  # files of an arm's training that analyses read
PACKAGES = ("torch", "transformers", "numpy", "scipy")


class _Clock(BaseModel):
    """How long a study took on the clock, over all attempts.

    Attributes:
        seconds: of them.
    """

    seconds: float = 0.0


def run_study(
    study: Study, out: str | Path, progress: Progress | None = None, *, retry_quarantined: bool = False
) -> StudyResult:
    """Carry a study out in a folder, or take it up where it was left.

    Args:
        study: from `load_study`; `study.experiment.engine` says on what it runs.
        out: a folder of this machine, which several studies may share.
        progress: shown how far it is.
        retry_quarantined: try checkpoints again that an earlier attempt put in quarantine.

    Returns:
        What was found.

    Raises:
        RunExistsError: the folder holds another run of this name.
        FactsError: a text is not there that the arms are trained on, or an analysis reads; nothing is trained.
        GatedLPIError: as `run_experiment`; what was done before is kept.
    """
    refuse_missing_text(study)
    progress = _Once(Silent() if progress is None else progress, {arm.name for arm in study.experiment.arms})
    folder = Path(out)
    findings = folder / f"{study.name}{FINDINGS}"
    try:
        make(findings)
    except OSError as error:
        raise unwritten(findings, error) from error
    with _timed(findings / CLOCK_FILE):
        siblings = [path.parent for path in sorted(folder.glob("*/run.json")) if path.parent.name != study.run]
        run = run_experiment(
            study.experiment,
            folder / study.run,
            progress,
            retry_quarantined=retry_quarantined,
            siblings=siblings,
        )
        run = Run(run.path, study.experiment, run.info)  # whose engine and storage may differ from those of the folder
        _summarise(run, progress)
        kept = [_analysed(run, analysis, findings, progress) for analysis in study.analyses]
        with progress.task("report") as advance:
            build_report(run)
            advance(1, 1)
    result = StudyResult(
        study=study.name,
        title=study.title,
        question=list(study.question),
        design=study.design,
        limits=study.limits,
        run=study.run,
        arms={group: list(arms) for group, arms in run.experiment.groups.items()},
        analyses=kept,
        seconds=_seconds(run, kept) | {"clock": _clock(findings / CLOCK_FILE)},
        machine=_machine(),
        versions=_versions(),
        command=f"gated-lpi study {study.name if study.name in studies() else f'{study.name}.toml'} --out studies",
    )
    progress.close()
    write_file(findings / RESULT_FILE, result.model_dump(mode="json"))
    write_atomically(findings / PAGE_FILE, page(result))
    write_index(folder)
    return result


def missing_text(study: Study) -> str | None:
    """The first text that a study's arms are trained on, or an analysis reads, and that is not there."""
    read = (name for analysis in study.analyses for name in files_of(analysis.options))
    return next((name for name in (*study.experiment.corpus.texts, *read) if not Path(name).is_file()), None)


def refuse_missing_text(study: Study) -> None:
    """Refuse a study of a text that is not there, before hours are spent on its arms.

    Raises:
        FactsError: there is one.
    """
    name = missing_text(study)
    if name is not None:
        raise FactsError(
            f"{name} is not there, which study {study.name!r} reads; what studies of the package read is fetched by "
            "`make text` in a checkout, into its .cache/text: run the study there, or name a text that is there"
        )


class _Once:
    """A `Progress` that says of one arm only what would be said of each; dozens of arms have the same facts."""

    def __init__(self, progress: Progress, arms: set[str]) -> None:
        self._progress = progress
        self._arms = arms
        self._said: set[str] = set()
        self._left_out = 0

    def task(self, label: str) -> AbstractContextManager[Advance]:
        """Show a task."""
        return self._progress.task(label)

    def note(self, text: str) -> None:
        """Show a line, unless it was shown of another arm, at whatever checkpoint."""
        arm, _, rest = text.partition(": ")
        what = rest.partition(": ")[2] or rest
        if arm in self._arms and what in self._said:
            self._left_out += 1
            return
        self._said.add(what)
        self._progress.note(text)

    def close(self) -> None:
        """Say how many lines were not shown."""
        if self._left_out:
            self._progress.note(f"{self._left_out} lines were the same of other arms, and not shown")


def _summarise(run: Run, progress: Progress) -> None:
    """Have the summaries kept that are not there, so that analyses and the report find them."""
    missing = []
    for arm in run.arms:
        methods = run.methods(arm) if run.store(arm).keys() else ()
        if not all(summary_file(run.path, arm, method, methods).is_file() for method in methods):
            missing.append(arm)
    if missing:
        each(run, _summarise_arm, [(run, arm) for arm in missing], "summarise", progress)


def _summarise_arm(run: Run, arm: str, progress: Progress) -> None:
    del progress
    for method in run.methods(arm):
        run.summary(arm, method)


def _analysed(run: Run, analysis: AnalysisSpec, findings: Path, progress: Progress) -> KeptAnalysis:
    """One analysis, from the file that keeps it if that was made of the same."""
    file = findings / f"{analysis.label}.json"
    source = made_of(run, analysis)
    try:
        kept = read_file(file, KeptAnalysis, "an analysis", "delete it")
    except RunError as error:
        progress.note(f"{analysis.label}: analysed again: {error}")
        kept = None
    if kept is not None and kept.made_of == source and all((findings / name).is_file() for name in kept.figures):
        return kept
    began = time.monotonic()
    with progress.task(f"analyse {analysis.label}") as advance:
        advance(0, 1)
        found = analysis_of(analysis.name).analyse(run, analysis.options, progress)
        advance(1, 1)
    figures = {f"{analysis.label}.{name}.png": figure for name, figure in found.figures.items()}
    for name, figure in figures.items():
        write_atomically(findings / name, _png(figure))
    kept = KeptAnalysis(
        label=analysis.label,
        name=analysis.name,
        options=analysis.options.model_dump(mode="json"),
        made_of=source,
        seconds=round(time.monotonic() - began, 3),
        found=found.model_copy(update={"figures": {}}),
        figures=list(figures),
    )
    write_file(file, kept.model_dump(mode="json"))
    return kept


def made_of(run: Run, analysis: AnalysisSpec) -> str:
    """The digest of what an analysis of a run depends on, files that its options name among it.

    Raises:
        RunError: a file of it cannot be read.
    """
    parts = {
        arm: [
            run.store(arm).digest(),
            run.split_store(arm).digest(),
            _file_digest(run.path / "results" / f"{arm}.json"),
            *(_file_digest(run.training_folder(arm) / name) for name in OF_TRAINING),
        ]
        for arm in run.arms
    }
    experiment = run.experiment.model_dump(mode="json", exclude={"engine", "storage"})
    options = analysis.options.model_dump(mode="json")
    files = [_file_digest(Path(name)) for name in files_of(analysis.options)]
    code = analysis_of(analysis.name).code
    return digest([parts, experiment, run.info, analysis.name, options, files, code, __version__])


def _file_digest(file: Folder) -> str | None:
    try:
        content = read_bytes(file)
    except OSError as error:
        raise RunError(f"{file} cannot be read: {error}; expected a file that may be read") from error
    return None if content is None else hashlib.sha256(content).hexdigest()


def _png(figure: Figure) -> bytes:
    """A figure as a small file that is the same whenever it is drawn."""
    stream = BytesIO()
    figure.savefig(stream, format="png", dpi=DOTS, bbox_inches="tight", metadata={"Software": None})
    return stream.getvalue()


@contextmanager
def _timed(file: Path) -> Iterator[None]:
    began = time.monotonic()
    try:
        yield
    finally:
        write_file(file, {"seconds": round(_clock(file) + time.monotonic() - began, 1)})


def _clock(file: Path) -> float:
    try:
        clock = read_file(file, _Clock, "a clock", "delete it")
    except RunError:
        return 0.0
    return 0.0 if clock is None else clock.seconds


def _seconds(run: Run, kept: list[KeptAnalysis]) -> dict[str, float]:
    """What was recorded of the parts: the sum over processes, whenever they ran."""
    training = sum(seconds_of(run.training_folder(arm.name)) for arm in run.experiment.arms if arm.train)
    records = [record for arm in run.arms for record in run.store(arm).records()]
    return {
        "training": round(training, 1),
        "attribution": round(sum(float(record.get("seconds", 0.0)) for record in records), 1),
        "analyses": round(sum(one.seconds for one in kept), 1),
    }


def _machine() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        memory = f", {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB of memory"
    except (ValueError, OSError):
        memory = ""
    return f"{platform.system()} {platform.machine()}, {cores} cores{memory}"


def _versions() -> dict[str, str]:
    found = {"gated-lpi": __version__, "python": platform.python_version()}
    return found | {name: importlib.metadata.version(name) for name in PACKAGES}
