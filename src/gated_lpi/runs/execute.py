"""Running an experiment: train, attribute every checkpoint, ablate the last, keep the results.

1. The run's folder is claimed for the experiment; a folder of another run is refused, and one that another process
   writes to. What does not verify in it is left out, said, and made again by what follows.
2. Arms that the experiment trains are trained, all on one corpus and with one tokenizer. The checkpoints of the
   others are chosen from their series.
3. An engine scores the checkpoints, in this process or elsewhere; what it yields is appended here, one after the
   other. What is complete in an arm's store is not done again, so an interrupted run goes on where it was.
4. A checkpoint that cannot be used is put in quarantine and the run goes on. It is not tried again until asked for.
   Two in a row that could not be fetched are no fault of theirs but an outage: neither is put there, and the run ends.
   So it does if, before anything is scored, two in a row meet one error that may be common to all: facts that the
   tokenizer has no tokens for, or an error that nobody foresaw.
5. At each arm's last scored checkpoint the top heads and units are ablated, beside random ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gated_lpi.checkpoints import Checkpoint, Fetched, evict, fetch, list_local, scan_local
from gated_lpi.errors import FetchError, RunError
from gated_lpi.experiments.experiment import Experiment
from gated_lpi.facts import FactSet
from gated_lpi.folders import Folder, as_folder, is_remote, make
from gated_lpi.remarks import remarks
from gated_lpi.results.run import Run, create_run, refuse_other_files
from gated_lpi.results.store import MisfitError
from gated_lpi.results.verify import leave_out_damaged
from gated_lpi.results.writer import writing
from gated_lpi.runs.ablations import study_last_checkpoint
from gated_lpi.runs.choose import choose_checkpoints
from gated_lpi.runs.downloads import Ledger
from gated_lpi.runs.job import (
    IDENTITY,
    Engine,
    Job,
    Outcome,
    Storage,
    attribute_checkpoint,
    with_overall_means,
)
from gated_lpi.runs.local_engine import LocalEngine
from gated_lpi.runs.progress import Progress, Silent
from gated_lpi.training import ArmSpec
from gated_lpi.training.corpus import Corpus, build_corpus
from gated_lpi.training.folder import RECORD as ARM_RECORD
from gated_lpi.training.tokenizer import train_tokenizer
from gated_lpi.training.trainer import train_arm

__all__ = ["attribute_checkpoint", "make_engine", "run_experiment", "storage_of", "with_overall_means"]


def run_experiment(
    experiment: Experiment,
    out: str | Folder,
    progress: Progress | None = None,
    *,
    engine: Engine | None = None,
    retry_quarantined: bool = False,
) -> Run:
    """Run an experiment into a folder, or take it up where it was left.

    Args:
        experiment: what to run.
        out: the run's folder, or its fsspec address such as s3://bucket/run.
        progress: shown how far it is.
        engine: what scores checkpoints; default: what `experiment.engine` names.
        retry_quarantined: try checkpoints again that an earlier attempt put in quarantine.

    Returns:
        The run; `run.quarantined(arm)` lists what could not be used.

    Raises:
        RunExistsError: the folder holds another run.
        RunBusyError: another process writes to the folder.
        WriteError: it cannot be written to.
        GatedLPIError: facts or series that cannot be used, or a hub that fails; what was computed before is kept.
    """
    progress = Silent() if progress is None else progress
    facts = experiment.facts.load()
    folder = as_folder(out)
    refuse_other_files(folder)
    with writing(folder) as refuse_lost_lease:
        run = create_run(folder, experiment, facts.sha256)
        for note in facts.notes:
            progress.note(f"facts: {note}")
        for lost in leave_out_damaged(run):
            progress.note(f"damaged, and made again: {lost}")
        storage = storage_of(experiment)
        trained = _train_arms(run, facts, progress)
        series = choose_checkpoints(experiment, trained, storage.hub(), progress.note, run.path / "series")
        engine = make_engine(experiment, run) if engine is None else engine
        attribution = _Attribution(run, experiment, facts, series, storage, progress, refuse_lost_lease)
        attribution.carry_out(engine, retry_quarantined)
    return run


def storage_of(experiment: Experiment) -> Storage:
    """Where an experiment's checkpoints come from and are kept."""
    spec = experiment.storage
    return Storage(spec.cache_dir, spec.endpoint, spec.offline, not spec.keep_downloads, spec.device, spec.device_map)


def make_engine(experiment: Experiment, run: Run) -> Engine:
    """The engine that an experiment names."""
    if experiment.engine.kind == "ray":
        from gated_lpi.runs.ray_engine import RayEngine

        engine: Engine = RayEngine(experiment.engine)
        return engine
    ledger = Ledger(_ledger_file(run))
    return LocalEngine(prefetch=experiment.engine.prefetch, disk_budget=experiment.storage.disk_budget, ledger=ledger)


def _ledger_file(run: Run) -> Path:
    make(run.local)
    return run.local / "downloads.json"


def _train_arms(run: Run, facts: FactSet, progress: Progress) -> dict[str, list[Checkpoint]]:
    trained = [arm for arm in run.experiment.arms if arm.train is not None]
    if not trained:
        return {}
    if is_remote(run.path):
        progress.note(f"trained checkpoints of {run.path} are kept on this machine, in {run.local}")
    corpus: Corpus = build_corpus(facts)
    tokenizer = train_tokenizer(corpus, run.experiment.training.size.vocab_size)
    series = {}
    for arm in trained:
        assert arm.train is not None
        folder = run.training_folder(arm.name)
        with progress.task(f"train {arm.name}") as advance:
            spec = ArmSpec(name=arm.name, kind=arm.train)
            train_arm(spec, run.experiment.training, corpus, tokenizer, folder, progress=advance)
        series[arm.name] = list_local(folder)
        for item in scan_local(folder).excluded:
            if item.name != ARM_RECORD:
                progress.note(f"{arm.name}: left out: {item.name}: {item.reason}")
    return series


@dataclass(frozen=True)
class _Attribution:
    """Scoring and studying the checkpoints of all arms."""

    run: Run
    experiment: Experiment
    facts: FactSet
    series: dict[str, list[Checkpoint]]
    storage: Storage
    progress: Progress
    refuse_lost_lease: Callable[[], None]
    said: set[tuple[str, str]] = field(default_factory=set)

    def carry_out(self, engine: Engine, retry_quarantined: bool) -> None:
        """Have the missing checkpoints scored; as soon as an arm is complete, study its last one."""
        waiting = {arm: self._missing(arm, retry_quarantined) for arm in self.series}
        jobs = [
            Job(arm, checkpoint, self.experiment, self.facts, self.storage)
            for arm, checkpoints in waiting.items()
            for checkpoint in checkpoints
        ]
        left = {arm: len(checkpoints) for arm, checkpoints in waiting.items()}
        before: Outcome | None = None
        fresh = not any(self.run.store(arm).keys() for arm in self.series)
        with _closed(engine.outcomes(jobs) if jobs else iter(())) as outcomes:
            for arm, checkpoints in self.series.items():
                latest: Outcome | None = None
                with self.progress.task(f"attribute {arm}") as advance:
                    advance(len(checkpoints) - left[arm], len(checkpoints))
                    while left[arm]:
                        outcome = next(outcomes, None)
                        if outcome is None:
                            raise RunError(f"the engine gave up {left[arm]} checkpoints of {arm}; run again to go on")
                        self._refuse_common_cause(before, outcome, fresh)
                        fresh = not self._keep(outcome) and fresh
                        before = outcome if outcome.scores is None else None  # the scores of others may be dropped
                        left[outcome.arm] -= 1
                        latest = outcome if outcome.arm == arm else latest
                        advance(len(checkpoints) - left[arm], len(checkpoints))
                self._study(arm, latest)

    def _missing(self, arm: str, retry_quarantined: bool) -> list[Checkpoint]:
        done = set(self.run.store(arm).keys())
        done |= set() if retry_quarantined else self.run.quarantine(arm).keys()
        return [checkpoint for checkpoint in self.series[arm] if checkpoint.key not in done]

    def _refuse_common_cause(self, before: Outcome | None, outcome: Outcome, fresh: bool) -> None:
        """End the run if two outcomes in a row failed as no single checkpoint does; fresh: nothing is scored yet."""
        error = outcome.record.get("error")
        if before is None or before.record.get("error") != error:
            return
        if error == FetchError.__name__:
            met, advice = "could not be fetched", "what was appended is kept: run again to go on"
        elif fresh and before.suspect and outcome.suspect:
            met = f"failed with {error}"
            advice = "before anything was scored, which the facts, the options or this program may be the cause of"
        else:
            return
        self.run.quarantine(before.arm).remove(before.key)
        raise RunError(
            f"{before.key} of {before.arm} and {outcome.key} of {outcome.arm} {met}, one after the "
            f"other ({outcome.record['quarantined']}). They are not quarantined for that, and the run ends "
            f"here; {advice}"
        )

    def _keep(self, outcome: Outcome) -> bool:
        """Append an outcome's scores; if it has none, or they do not fit, put it in quarantine and return False."""
        self.refuse_lost_lease()
        quarantine = self.run.quarantine(outcome.arm)
        record = outcome.record
        if outcome.scores is not None:
            try:
                self.run.store(outcome.arm).append(outcome.scores, record)
            except MisfitError as error:
                record = {key: value for key, value in record.items() if key in IDENTITY}
                record |= {"quarantined": str(error), "error": type(error).__name__}
            else:
                quarantine.remove(outcome.key)
                self._say(outcome.arm, record)
                return True
        quarantine.add(record)
        self.progress.note(f"{outcome.arm}: {outcome.key} is quarantined: {record['quarantined']}")
        return False

    def _say(self, arm: str, record: Mapping[str, Any]) -> None:
        """Say of an arm's checkpoint what was not said of those before it: what was skipped, replaced, left aside."""
        for note in remarks(record):
            if (arm, note) not in self.said:
                self.said.add((arm, note))
                self.progress.note(f"{arm}: {record['key']}: {note}")

    def _study(self, arm: str, latest: Outcome | None) -> None:
        """Ablate and describe the last checkpoint that has scores, unless that was done."""
        scored = set(self.run.store(arm).keys())
        last = next((checkpoint for checkpoint in reversed(self.series[arm]) if checkpoint.key in scored), None)
        if last is None:
            count = len(self.run.quarantine(arm).keys())
            self.progress.note(f"{arm}: none of its checkpoints could be used, {count} are quarantined: no results")
            return
        try:
            record = self.run.record(arm)
        except RunError as error:  # a damaged file, which is written anew
            self.progress.note(f"{arm}: the last checkpoint is ablated again: {error}")
            record = None
        if record is not None and record.ablation.checkpoint == last.key:
            return
        fetched = None if latest is None or latest.key != last.key else latest.fetched
        with self._here(last if fetched is None else _at(last, fetched)) as local:
            study_last_checkpoint(self.run, arm, local, self.facts, self.progress, self.storage)

    @contextmanager
    def _here(self, checkpoint: Checkpoint) -> Iterator[Checkpoint]:
        """Bring a checkpoint to this machine for as long as the `with` block runs."""
        if checkpoint.path is not None:
            yield checkpoint
            return
        fetched = fetch(checkpoint, hub=self.storage.hub())
        try:
            yield _at(checkpoint, fetched)
        finally:
            if self.storage.evict:
                evict(fetched, hub=self.storage.hub())


def _at(checkpoint: Checkpoint, fetched: Fetched) -> Checkpoint:
    return replace(checkpoint, path=fetched.path)


@contextmanager
def _closed(outcomes: Iterator[Outcome]) -> Iterator[Iterator[Outcome]]:
    """Let an engine tidy up however its outcomes end, if it is a generator."""
    try:
        yield outcomes
    finally:
        close = getattr(outcomes, "close", None)
        if close is not None:
            close()
