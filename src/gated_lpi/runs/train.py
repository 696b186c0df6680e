"""Training the arms that an experiment trains: all on one corpus and with one tokenizer, into the run's folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gated_lpi._common.folders import is_remote
from gated_lpi.checkpoints import Checkpoint, list_local, scan_local
from gated_lpi.facts import FactSet
from gated_lpi.results.run import Run
from gated_lpi.runs.progress import Progress
from gated_lpi.runs.training_jobs import TrainingJob, train_all
from gated_lpi.training import ArmSpec
from gated_lpi.training.corpus import Corpus, build_corpus
from gated_lpi.training.folder import RECORD as ARM_RECORD
from gated_lpi.training.tokenizer import train_tokenizer


def train_arms(
    run: Run, facts: FactSet, progress: Progress, *, workers: int | None = None, siblings: Sequence[Path] = ()
) -> dict[str, list[Checkpoint]]:
    """Train the arms that are not trained yet.

    Args:
        run: whose arms.
        facts: which they learn.
        progress: shown how far it is.
        workers: how many arms at once, each with one thread; None: one after the other, in this process.
        siblings: folders of other runs on this machine, whose arms are taken where they were trained alike.

    Returns:
        The checkpoints of all arms that the run trains, by arm.

    Raises:
        FactsError: the facts give nothing to train on.
        RunExistsError: an arm's folder holds something else.
        WriteError: a checkpoint cannot be written.
    """
    trained = [arm for arm in run.experiment.arms if arm.train is not None]
    if not trained:
        return {}
    if is_remote(run.path):
        progress.note(f"trained checkpoints of {run.path} are kept on this machine, in {run.local}")
    corpus: Corpus = build_corpus(facts)
    tokenizer = train_tokenizer(corpus, run.experiment.training.size.vocab_size)
    jobs = []
    for arm in trained:
        assert arm.train is not None
        spec, training = ArmSpec(name=arm.name, kind=arm.train), run.experiment.training_of(arm)
        jobs.append(TrainingJob(spec, training, corpus, tokenizer, run.training_folder(arm.name)))
    others = [arm for sibling in siblings for arm in sorted((sibling / "training").glob("*"))]
    train_all(jobs, progress, workers=workers, others=others)
    series = {}
    for arm in trained:
        folder = run.training_folder(arm.name)
        series[arm.name] = list_local(folder)
        for item in scan_local(folder).excluded:
            if item.name != ARM_RECORD:
                progress.note(f"{arm.name}: left out: {item.name}: {item.reason}")
    return series
