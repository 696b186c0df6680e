"""Training the arms that an experiment trains: all on one corpus and with one tokenizer, into the run's folder."""

from __future__ import annotations

from gated_lpi._common.folders import is_remote
from gated_lpi.checkpoints import Checkpoint, list_local, scan_local
from gated_lpi.facts import FactSet
from gated_lpi.results.run import Run
from gated_lpi.runs.progress import Progress
from gated_lpi.runs.scoring import prompting
from gated_lpi.runs.watching import watch_facts
from gated_lpi.training import ArmSpec
from gated_lpi.training.corpus import Corpus, build_corpus
from gated_lpi.training.folder import RECORD as ARM_RECORD
from gated_lpi.training.stabilise import RECORD as STABILISE_RECORD
from gated_lpi.training.tokenizer import train_tokenizer
from gated_lpi.training.trainer import train_arm


def train_arms(run: Run, facts: FactSet, progress: Progress) -> dict[str, list[Checkpoint]]:
    """Train the arms that are not trained yet.

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
    series = {}
    for arm in trained:
        assert arm.train is not None
        folder = run.training_folder(arm.name)
        with progress.task(f"train {arm.name}") as advance:
            spec = ArmSpec(name=arm.name, kind=arm.train)
            training = run.experiment.training_of(arm)
            watched = 1 if training.stabilise is None else training.stabilise.facts
            watch = watch_facts(facts, prompting(run.experiment), watched)
            train_arm(spec, training, corpus, tokenizer, folder, progress=advance, watch=watch)
        series[arm.name] = list_local(folder)
        for item in scan_local(folder).excluded:
            if item.name not in (ARM_RECORD, STABILISE_RECORD):
                progress.note(f"{arm.name}: left out: {item.name}: {item.reason}")
    return series
