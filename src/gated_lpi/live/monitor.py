"""A model that is in training, scored every now and then, in a run's folder that can be read meanwhile.

1. The folder is that of an experiment of one arm (`results.create_run`), whose checkpoints are named "step-N".
   Everything that reads runs reads it: `open_run`, `gated-lpi metrics`, `report`, `diagnose`, at any time.
2. The model is lent (`loading.borrow_model`): training goes on, bit for bit, as if it had not been looked at. Blocks
   and readout are prepared anew each time, since the weights have changed.
3. A step that is in the folder already is not scored again. Its weights' digest says whether it is of this training;
   scores of another one are refused.
4. What is shown of it (`observation`) is read back from the store, and so is the same after an interruption.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from pydantic import ValidationError
from torch import nn
from transformers import PreTrainedTokenizerBase

from gated_lpi import score_schema as schema
from gated_lpi._common.folders import Folder, as_folder
from gated_lpi.errors import OptionError, RunExistsError
from gated_lpi.experiments import Experiment
from gated_lpi.facts import FactSet, load_facts
from gated_lpi.facts.types import Templates
from gated_lpi.live.alarms import WINDOW, alarms
from gated_lpi.live.observation import Observation, measure
from gated_lpi.loading import borrow_model, unwrapped
from gated_lpi.options import MethodName
from gated_lpi.options.explain import describe
from gated_lpi.prompting import encode_facts
from gated_lpi.results import Run, create_run
from gated_lpi.results.writer import writing
from gated_lpi.runs.scoring import prompting, score_model

ARM = "live"


class LiveMonitor:
    """Scores a model that is in training on a fact set whenever it is asked to.

    Args:
        model: the transformers model that is trained, as it is or as torch wrapped it.
        tokenizer: its tokenizer.
        facts: a `FactSet`, anything that `load_facts` takes, or (prompt, target) pairs. An observation scores them all.
        out: the run's folder or fsspec address, new or of this training. None: one that goes with the monitor.
        methods: by which methods; metrics and alarms are of the first.
        templates: through which of a fact's templates it is asked.
        fraction: share of the units in a top set.
        attribution: further options, with the keys of an experiment file's `[attribution]`: `units`, `estimator`,
            `batch_size` … `routing` is "all" unless "last" is given, which needs less room: alarms over routing then
            rest on the prompts' last positions alone, and do not judge instability where these are spread evenly.
        training: what tells this training from others with the same model and facts, such as its seed, in words.
        device: where a copy of the model is scored; None: where the model is, without a copy if it is in float32.

    Attributes:
        run: the run, as `open_run` would open it.
        seconds: what observations took until now.

    Raises:
        OptionError: options that cannot be used.
        FactsError: facts that cannot be used with the tokenizer.
        ModelError: a model that cannot be attributed, or came without a tokenizer.
        RunExistsError: the folder is of another training, or holds other files.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase | None,
        facts: FactSet | str | Path | Sequence[tuple[str, str]],
        *,
        out: str | Folder | None = None,
        methods: Sequence[MethodName] = ("lpi",),
        templates: Templates = "first",
        fraction: float = 0.01,
        attribution: Mapping[str, Any] | None = None,
        training: str = "",
        device: str | None = None,
    ) -> None:
        self.seconds = 0.0
        self._began = time.perf_counter()
        self._model, self._tokenizer, self._device = model, tokenizer, device
        self.facts = facts if isinstance(facts, FactSet) else load_facts(facts)
        with borrow_model(model, tokenizer, device=device) as lent:
            routing = "all" if any(lent.routed()) else "last"
            label = f"{type(unwrapped(model)).__name__} in training" + (f", {training}" if training else "")
            content = {
                "name": "live",
                "facts": {"source": self.facts.source or "facts", "templates": templates},
                "attribution": {"routing": routing, **(attribution or {}), "methods": tuple(methods)},
                "metrics": {"fraction": fraction},
                "arms": [{"name": ARM, "checkpoints": label}],
            }
            try:
                self._experiment = Experiment.model_validate(content)
            except ValidationError as error:
                raise OptionError(f"options of a live run: {describe(error, Experiment)}") from error
            # Met now rather than at every observation: facts that cannot be used with this tokenizer.
            encode_facts(lent, self.facts, prompting(self._experiment), answer=self._experiment.attribution.answer)
        self._fraction = fraction
        self._folder: Folder = _temporary(self) if out is None else as_folder(out)
        with writing(self._folder):
            self.run: Run = create_run(self._folder, self._experiment, self.facts.sha256)
        self._in_force: frozenset[str] = frozenset()

    @property
    def share_of_training_time(self) -> float:
        """Of the time since the monitor was made, the share that observations took; of this session's if resumed."""
        return self.share_with(0.0)

    def share_with(self, seconds: float) -> float:
        """What `share_of_training_time` would be after an observation of so many seconds."""
        return (self.seconds + seconds) / max(time.perf_counter() - self._began + seconds, 1e-9)

    def begin(self, step: int) -> None:
        """Refuse a folder whose scores are of another training than one that begins, or goes on, at this step.

        Raises:
            RunExistsError: at this step it has scores of other weights; or training begins at step 0, and there are
                later steps of which nothing says that they are this training's.
        """
        records = self._records()
        if self._key(step) in records:
            self._refuse_other_weights(records[self._key(step)], self._digest())
        elif step == 0 and records:
            last = max(int(record["step"]) for record in records.values())
            raise RunExistsError(
                f"{self._folder} holds scores up to step {last} of a training, and this one begins at step 0; give "
                "another folder, or resume that training from a checkpoint"
            )

    def observe(self, step: int, tokens: int | None = None) -> Observation:
        """Score the model as it is now, unless this step is in the store already.

        Args:
            step: optimizer steps done, 0 or more.
            tokens: tokens seen, if they are counted.

        Raises:
            OptionError: a step that is no whole number from 0 on.
            RunExistsError: the store has scores of other weights at this step.
            ModelError: scores are not finite, as where training diverged.
            WriteError: the store cannot be written to; what was there stays readable.
        """
        started = time.perf_counter()
        if isinstance(step, bool) or not isinstance(step, int) or step < 0:
            raise OptionError(f"step={step!r} was given; expected the number of optimizer steps done, 0 or more")
        try:
            records, digest, key = self._records(), self._digest(), self._key(step)
            if key in records:
                self._refuse_other_weights(records[key], digest)
            else:
                self._score({"key": key, "step": step, "tokens": tokens, "stage": "train"}, digest, started)
            scores = self._until(key)
            asked = self._experiment.attribution.asked()
            method = next((name for name in asked if schema.mean_of(name) in scores), schema.LPI)
            metrics = measure(scores.isel(checkpoint=slice(-2, None)), method, self._fraction)
            found = alarms(ARM, scores, method, self._fraction)
        finally:
            took = time.perf_counter() - started
            self.seconds += took
        before, self._in_force = self._in_force, frozenset(finding.name for finding in found)
        return Observation(
            step=step,
            tokens=tokens,
            key=key,
            metrics=metrics,
            scored=key not in records,
            seconds=took,
            share_of_training_time=self.share_of_training_time,
            alarms=found,
            new_alarms=tuple(finding for finding in found if finding.name not in before),
        )

    def _score(self, labels: dict[str, Any], digest: str, started: float) -> None:
        with borrow_model(self._model, self._tokenizer, device=self._device) as model:
            scores, said = score_model(model, self.facts, self._experiment)
        record = {
            **labels,
            "commit": "",
            "weights_sha256": digest,
            **said,
            "seconds": round(time.perf_counter() - started, 3),
        }
        with writing(self._folder):
            self.run.store(ARM).append(scores, record)

    def _records(self) -> dict[str, dict[str, Any]]:
        return {str(record["key"]): record for record in self.run.store(ARM).records()}

    def _until(self, key: str) -> xr.Dataset:
        """The last checkpoints up to this one, as many as alarms look at."""
        scores = self.run.store(ARM).open()
        place = [str(record["key"]) for record in scores.attrs["checkpoints"]].index(key)
        return scores.isel(checkpoint=slice(max(0, place + 1 - WINDOW), place + 1))

    @torch.no_grad()
    def _digest(self) -> str:
        """SHA-256 of the weights as they are in memory, names, types and shapes included."""
        found = hashlib.sha256()
        for name, weight in unwrapped(self._model).named_parameters():
            found.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
            found.update(weight.detach().contiguous().reshape(-1).view(torch.uint8).cpu().numpy().data)
        return found.hexdigest()

    def _refuse_other_weights(self, record: Mapping[str, Any], digest: str) -> None:
        if record.get("weights_sha256") != digest:
            raise RunExistsError(
                f"{self._folder} has scores of {record['key']} that are of other weights than this training has there: "
                "they are another training's, or this one was resumed and did not repeat itself bit for bit. They are "
                "kept; give another folder to score it again"
            )

    @staticmethod
    def _key(step: int) -> str:
        return f"step-{step}"


def _temporary(owner: object) -> Path:
    """A folder that goes with its owner."""
    folder = Path(tempfile.mkdtemp(prefix="gated-lpi-live-"))
    weakref.finalize(owner, shutil.rmtree, folder, ignore_errors=True)
    return folder
