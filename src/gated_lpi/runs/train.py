"""Training the arms that an experiment trains: all on one corpus and with one tokenizer, into the run's folder."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from gated_lpi._common.folders import Folder, as_folder, is_remote
from gated_lpi.checkpoints import Checkpoint, list_local, scan_local
from gated_lpi.errors import OptionError, RunError
from gated_lpi.experiments.experiment import Experiment
from gated_lpi.facts import FactSet
from gated_lpi.facts.teaching import fact_frequencies, taught_facts
from gated_lpi.results.frequencies import FREQUENCIES, keep_frequencies
from gated_lpi.results.run import Run, create_run, refuse_other_files
from gated_lpi.results.verify import leave_out_damaged_training
from gated_lpi.results.writer import writing
from gated_lpi.runs.progress import Progress, Silent
from gated_lpi.runs.scoring import prompting
from gated_lpi.runs.training_jobs import TrainingJob, train_all
from gated_lpi.training import ArmSpec, CorpusSpec
from gated_lpi.training.corpus import Corpus, build_corpus
from gated_lpi.training.folder import RECORD as ARM_RECORD
from gated_lpi.training.stabilise import RECORD as STABILISE_RECORD
from gated_lpi.training.tokenizer import train_tokenizer


def train_experiment(
    experiment: Experiment, out: str | Folder, progress: Progress | None = None, *, only: Collection[str] | None = None
) -> tuple[Run, dict[str, list[Checkpoint]]]:
    """Train arms of an experiment into its run's folder and score nothing; `run_experiment` goes on from there.

    Args:
        experiment: whose arms.
        out: the run's folder, or its fsspec address; the checkpoints are in `run.training_folder(arm)`.
        progress: shown how far it is.
        only: names of the arms to train; None: all that the experiment trains.

    Returns:
        The run, and the checkpoints of the arms that were asked for, by arm.

    Raises:
        OptionError: the experiment trains no arm, or none of a name that is given.
        RunExistsError: the folder holds another run.
        RunBusyError: another process writes to the folder.
        WriteError: it cannot be written to.
        FactsError: facts or texts that cannot be used.
    """
    progress = Silent() if progress is None else progress
    trained = [arm.name for arm in experiment.arms if arm.train is not None]
    unknown = sorted(set(only or ()) - set(trained))
    if not trained or unknown:
        given = (
            f"arm {unknown[0]!r} was to be trained" if unknown else f"experiment {experiment.name!r} was to be trained"
        )
        raise OptionError(
            f"{given}; the arms with `train` in it are {', '.join(trained) or 'none'}"
            + ("" if trained else ": all others have their checkpoints already, and `gated-lpi run` scores them")
        )
    facts = experiment.facts.load()
    corpus, asked = corpus_of(experiment, facts), experiment.asked(facts)
    assert corpus is not None
    folder = as_folder(out)
    refuse_other_files(folder)
    with writing(folder):
        run = start_run(folder, experiment, asked, corpus)
        for text in asked.notes:
            progress.note(f"facts: {text}")
        for name in trained:
            for lost in leave_out_damaged_training(run, name) if only is None or name in only else ():
                progress.note(f"damaged, and made again: {lost}")
        return run, train_arms(run, facts, corpus, progress, only, workers=experiment.engine.workers)


def corpus_of(experiment: Experiment, facts: FactSet) -> Corpus | None:
    """What the arms of an experiment are trained on; None if it trains none.

    Args:
        experiment: whose `corpus` is read.
        facts: those that are asked about, of `experiment.facts`.

    Raises:
        FactsError: the facts give nothing to train on, sets of facts contradict each other, nothing can change in a
            shift, or a file cannot be read.
    """
    if all(arm.train is None for arm in experiment.arms):
        return None
    spec = experiment.corpus
    return build_corpus(
        facts,
        spec.texts,
        more=experiment.more_facts(),
        frequency=spec.frequency,
        seed=spec.seed,
        shift=experiment.shift,
    )


def start_run(folder: Folder, experiment: Experiment, facts: FactSet, corpus: Corpus | None) -> Run:
    """Start an experiment's run in a new or empty folder, or take it up again: `create_run`, with all digests.

    Args:
        folder: the run's.
        experiment: what is run.
        facts: as the models are asked about them, of `experiment.asked`.
        corpus: of `corpus_of`.

    Raises:
        RunExistsError: the folder holds another run, of other facts or another corpus, or other files.
        WriteError: the folder cannot be written to.
        RunError: a folder of the run is a link that leads out of it, or its description cannot be read.
    """
    own = corpus is not None and experiment.corpus != CorpusSpec()
    return create_run(folder, experiment, facts.sha256, corpus.sha256 if corpus is not None and own else None)


def train_arms(
    run: Run,
    facts: FactSet,
    corpus: Corpus,
    progress: Progress,
    only: Collection[str] | None = None,
    *,
    workers: int | None = None,
    siblings: Sequence[Path] = (),
) -> dict[str, list[Checkpoint]]:
    """Train the arms that are not trained yet.

    Args:
        run: whose arms.
        facts: those that are asked about, of `experiment.facts`.
        corpus: what they are trained on, of `corpus_of`.
        progress: shown how far it is.
        only: names of the arms to train; None: all that the run trains.
        workers: how many arms at once, each with one thread; None: one after the other, in this process.
        siblings: folders of other runs on this machine, whose arms are taken where they were trained alike.

    Returns:
        The checkpoints of these arms, by arm.

    Raises:
        RunExistsError: an arm's folder holds something else.
        WriteError: a checkpoint cannot be written.
    """
    trained = [arm for arm in run.experiment.arms if arm.train is not None and (only is None or arm.name in only)]
    if is_remote(run.path):
        progress.note(f"trained checkpoints of {run.path} are kept on this machine, in {run.local}")
    if run.experiment.corpus != CorpusSpec():
        _keep_frequencies(run, facts)
    tokenizer = train_tokenizer(corpus, run.experiment.training.size.vocab_size)
    jobs = []
    for arm in trained:
        assert arm.train is not None
        spec, training = ArmSpec(name=arm.name, kind=arm.train), run.experiment.training_of(arm)
        how, folder = prompting(run.experiment), run.training_folder(arm.name)
        jobs.append(TrainingJob(spec, training, corpus, tokenizer, facts, how, folder))
    others = [arm for sibling in siblings for arm in sorted((sibling / "training").glob("*"))]
    train_all(jobs, progress, workers=workers, others=others)
    series = {}
    for arm in trained:
        folder = run.training_folder(arm.name)
        series[arm.name] = list_local(folder)
        for item in scan_local(folder).excluded:
            if item.name not in (ARM_RECORD, STABILISE_RECORD):
                progress.note(f"{arm.name}: left out: {item.name}: {item.reason}")
    return series


def _keep_frequencies(run: Run, facts: FactSet) -> None:
    """Write how often the corpus has each fact, unless that is there."""
    experiment = run.experiment
    found = fact_frequencies(taught_facts(facts, experiment.more_facts()), experiment.corpus.frequency)
    try:
        there = run.frequencies() == found
    except RunError:  # a damaged file, which is written anew
        there = False
    if not there:
        keep_frequencies(run.path / FREQUENCIES, found)
