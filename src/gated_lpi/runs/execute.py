"""Running an experiment: train, attribute every checkpoint, ablate the last, keep the results.

1. The run's folder is claimed for the experiment; a folder of another run is refused, and one that another process
   writes to. What does not verify in it is left out, said, and made again by what follows.
2. Arms that the experiment trains are trained, each with its options, all on one corpus and with one tokenizer. The
   checkpoints of the others are chosen from their series.
3. If scores over known facts are asked for, each arm's last checkpoint is asked what it knows (`known`).
4. An engine scores the checkpoints, in this process or elsewhere; what it yields is appended here, one after the
   other. What is complete in an arm's store is not done again, so an interrupted run goes on where it was.
5. A checkpoint that cannot be used is put in quarantine and the run goes on. It is not tried again until asked for.
   Two in a row that could not be fetched are no fault of theirs but an outage: neither is put there, and the run ends.
   So it does if, before anything is scored, two in a row meet one error that may be common to all: facts that the
   tokenizer has no tokens for, or an error that nobody foresaw.
6. If it is asked for, the changes between an arm's checkpoints are split into routing and neurons.
7. At each arm's last scored checkpoint the top heads and units are ablated, beside random ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gated_lpi._common.folders import Folder, as_folder, make
from gated_lpi._common.remarks import remarks
from gated_lpi.checkpoints import Checkpoint
from gated_lpi.errors import RunError
from gated_lpi.experiments.experiment import Experiment
from gated_lpi.facts import FactSet
from gated_lpi.results.run import Run, refuse_other_files
from gated_lpi.results.store import MisfitError
from gated_lpi.results.verify import leave_out_damaged
from gated_lpi.results.writer import writing
from gated_lpi.runs.access import family_of, hub_of
from gated_lpi.runs.choose import choose_checkpoints
from gated_lpi.runs.downloads import Ledger
from gated_lpi.runs.failures import quarantine_record
from gated_lpi.runs.finishing import finish_arm, is_finished
from gated_lpi.runs.job import LABELS, Engine, Failure, Job, JobOutcome
from gated_lpi.runs.known import known_at_end
from gated_lpi.runs.local_engine import LocalEngine
from gated_lpi.runs.process_engine import ProcessEngine
from gated_lpi.runs.progress import Progress, Silent
from gated_lpi.runs.train import corpus_of, start_run, train_arms
from gated_lpi.runs.workers import Call, in_workers


def run_experiment(
    experiment: Experiment,
    out: str | Folder,
    progress: Progress | None = None,
    *,
    engine: Engine | None = None,
    retry_quarantined: bool = False,
    siblings: Sequence[Path] = (),
) -> Run:
    """Run an experiment into a folder, or take it up where it was left.

    Args:
        experiment: what to run.
        out: the run's folder, or its fsspec address such as s3://bucket/run.
        progress: shown how far it is.
        engine: what scores checkpoints; default: what `experiment.engine` names.
        retry_quarantined: try checkpoints again that an earlier attempt put in quarantine.
        siblings: folders of other runs on this machine, whose arms are taken where they were trained alike.

    Returns:
        The run; `run.quarantined(arm)` lists what could not be used.

    Raises:
        RunExistsError: the folder holds another run.
        RunBusyError: another process writes to the folder.
        WriteError: it cannot be written to.
        GatedLPIError: facts or series that cannot be used, or a hub that fails; what was computed before is kept.
    """
    progress = Silent() if progress is None else progress
    for arm in experiment.arms:
        family_of(experiment, arm.name)  # a row that is none is refused before anything is done
    facts = experiment.facts.load()
    corpus, asked = corpus_of(experiment, facts), experiment.asked(facts)
    folder = as_folder(out)
    refuse_other_files(folder)
    with writing(folder) as refuse_lost_lease:
        run = start_run(folder, experiment, asked, corpus)
        for text in asked.notes:
            progress.note(f"facts: {text}")
        for lost in leave_out_damaged(run):
            progress.note(f"damaged, and made again: {lost}")

        def note(arm: str, text: str) -> None:
            progress.note(f"{arm}: {text}")

        trained = {}
        if corpus is not None:
            workers = experiment.engine.workers
            trained = train_arms(run, facts, corpus, progress, workers=workers, siblings=siblings)
        chosen = choose_checkpoints(experiment, trained, hub_of(experiment.storage), note, run.path / "series")
        engine = make_engine(experiment, run) if engine is None else engine
        _Scoring(run, experiment, asked, chosen, progress, refuse_lost_lease).carry_out(engine, retry_quarantined)
    return run


def make_engine(experiment: Experiment, run: Run) -> Engine:
    """The engine that an experiment names.

    Raises:
        OptionError: Ray is not installed, or the request is one that Ray cannot meet.
    """
    if experiment.engine.kind == "ray":
        from gated_lpi.runs.ray_engine import RayEngine

        engine: Engine = RayEngine(experiment.engine)
        return engine
    make(run.local)
    ledger = Ledger(run.local / "downloads.json")
    storage, workers = experiment.storage, experiment.engine.workers
    local = LocalEngine(prefetch=experiment.engine.prefetch, disk_budget=storage.disk_budget, ledger=ledger)
    return local if workers is None else ProcessEngine(workers, local)


@dataclass(frozen=True)
class _Scoring:
    """Scoring and studying the chosen checkpoints of all arms.

    Attributes:
        run: where results are kept.
        experiment: what is run.
        facts: what the models are asked.
        chosen: the checkpoints of each arm.
        progress: shown how far it is.
        refuse_lost_lease: raises once another process writes to the run.
        said: what was said of which arm.
    """

    run: Run
    experiment: Experiment
    facts: FactSet
    chosen: dict[str, list[Checkpoint]]
    progress: Progress
    refuse_lost_lease: Callable[[], None]
    said: set[tuple[str, str]] = field(default_factory=set)

    def carry_out(self, engine: Engine, retry_quarantined: bool) -> None:
        """Have the missing checkpoints scored; as soon as an arm is complete, or with workers all are, finish it."""
        missing = {arm: self._missing(arm, retry_quarantined) for arm in self.chosen}
        known = {arm: self._known_at_end(arm) for arm, checkpoints in missing.items() if checkpoints}
        jobs = [
            Job(arm, checkpoint, self.experiment, self.facts, self.experiment.storage, known[arm])
            for arm, checkpoints in missing.items()
            for checkpoint in checkpoints
        ]
        left = {arm: len(checkpoints) for arm, checkpoints in missing.items()}
        with _closed(engine.outcomes(jobs) if jobs else iter(())) as outcomes:
            kept = self._kept(outcomes)
            workers = self.experiment.engine.workers
            for arm in self.chosen:
                latest = self._complete(arm, left, kept)
                if workers is None:
                    self._finish(arm, latest)
        if workers is not None:
            self._finish_in_workers(workers)

    def _missing(self, arm: str, retry_quarantined: bool) -> list[Checkpoint]:
        done = set(self.run.store(arm).keys())
        done |= set() if retry_quarantined else self.run.quarantine(arm).keys()
        return [checkpoint for checkpoint in self.chosen[arm] if checkpoint.key not in done]

    def _known_at_end(self, arm: str) -> tuple[bool, ...] | None:
        if not self.experiment.attribution.known:
            return None
        last, storage = self.chosen[arm][-1], self.experiment.storage
        return known_at_end(self.run, arm, last, self.facts, self.progress, storage)

    def _complete(self, arm: str, left: dict[str, int], kept: Iterator[JobOutcome]) -> JobOutcome | None:
        """Wait until nothing is left of an arm, counting down what comes of others too; its latest outcome."""
        latest: JobOutcome | None = None
        total = len(self.chosen[arm])
        with self.progress.task(f"attribute {arm}") as advance:
            advance(total - left[arm], total)
            while left[arm]:
                outcome = next(kept, None)
                if outcome is None:
                    raise RunError(f"the engine gave up {left[arm]} checkpoints of {arm}; run again to go on")
                left[outcome.arm] -= 1
                latest = outcome if outcome.arm == arm else latest
                advance(total - left[arm], total)
        return latest

    def _kept(self, outcomes: Iterator[JobOutcome]) -> Iterator[JobOutcome]:
        """Append or quarantine each outcome before it is passed on; end the run at a cause that is no checkpoint's."""
        before: JobOutcome | None = None
        fresh = not any(self.run.store(arm).keys() for arm in self.chosen)
        for outcome in outcomes:
            if before is not None:
                self._refuse_common_cause(before, outcome, fresh)
            fresh = not self._keep(outcome) and fresh
            before = None if outcome.failure is None else outcome  # scores of others may be dropped
            yield outcome

    def _refuse_common_cause(self, before: JobOutcome, outcome: JobOutcome, fresh: bool) -> None:
        """End the run if two outcomes in a row failed as no single checkpoint does; fresh: nothing is scored yet."""
        failure, error = outcome.failure, outcome.record.get("error")
        if failure is None or (before.failure, before.record.get("error")) != (failure, error):
            return
        if failure is Failure.FETCH:
            met, advice = "could not be fetched", "what was appended is kept: run again to go on"
        elif failure.may_be_common and fresh:
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

    def _keep(self, outcome: JobOutcome) -> bool:
        """Append an outcome's scores; if it has none, or they do not fit, put it in quarantine and return False."""
        self.refuse_lost_lease()
        quarantine = self.run.quarantine(outcome.arm)
        record = outcome.record
        if outcome.scores is not None:
            try:
                self.run.store(outcome.arm).append(outcome.scores, record)
            except MisfitError as error:
                record = quarantine_record({key: record[key] for key in LABELS if key in record}, error, str(error))
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

    def _finish(self, arm: str, latest: JobOutcome | None) -> None:
        """Split and ablate what an arm has that is complete, given its latest outcome."""
        storage = self.experiment.storage
        finish_arm(self.run, arm, self.chosen[arm], self.facts, storage, latest, self.progress)

    def _finish_in_workers(self, workers: int) -> None:
        """Split and ablate what all arms have, several at once."""
        arms = [arm for arm, chosen in self.chosen.items() if not is_finished(self.run, arm, chosen)]
        rest = self.facts, self.experiment.storage, None
        calls = [Call(finish_arm, (self.run, arm, self.chosen[arm], *rest), arm) for arm in arms]
        with self.progress.task(f"ablate {len(calls)} arms") as advance:
            for done, _ in enumerate(in_workers(calls, workers, self.progress), 1):
                advance(done, len(calls))


@contextmanager
def _closed(outcomes: Iterator[JobOutcome]) -> Iterator[Iterator[JobOutcome]]:
    """Let an engine tidy up however its outcomes end, if it is a generator."""
    try:
        yield outcomes
    finally:
        close = getattr(outcomes, "close", None)
        if close is not None:
            close()
