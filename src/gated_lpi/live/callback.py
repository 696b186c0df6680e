"""Watching from `transformers.Trainer`: scores every so many steps, logs, alarms, and what it cost.

    trainer = Trainer(model, arguments, train_dataset=..., processing_class=tokenizer)
    GatedLPICallback(facts, every=200, out="live").attach(trainer)
    trainer.train()

1. A Trainer's callbacks are told of logs after those of `report_to`, and not who the Trainer is: what they add then
   comes too late. So `attach` remembers `trainer.log`, and calls it at the end of a step, outside of any logging;
   whether the Trainer is to log its loss at this step is left as it was.
2. A monitor that fails must not cost a training: after it has begun, what goes wrong is said in the log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from transformers import (
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from gated_lpi._common.folders import Folder
from gated_lpi.diagnosis import Finding
from gated_lpi.errors import GatedLPIError, OptionError
from gated_lpi.facts import FactSet
from gated_lpi.live.monitor import LiveMonitor
from gated_lpi.live.observation import Observation

if TYPE_CHECKING:
    from transformers import Trainer

logger = logging.getLogger("gated_lpi.live")


class GatedLPICallback(TrainerCallback):  # type: ignore[misc]  # transformers is read as untyped
    """Scores a fact set on the model that a `Trainer` trains, which ends with the same weights as without, bit for bit.

    Args:
        facts: a `FactSet`, anything that `load_facts` takes, or (prompt, target) pairs.
        every: steps between observations. None, with a budget: as often as that allows.
        budget: the share of the time since training began that observations may take, such as 0.05. An observation that
            would take more, judged by the dearest until now, is left out.
        at_begin: score the weights that training begins with (or is resumed with).
        at_end: score the weights that it ends with.
        out: the run's folder or fsspec address. None: none is kept.
        tokenizer: None: the Trainer's `processing_class`.
        errors: "warn": once training has begun, what goes wrong here is logged and training goes on; "raise": it ends.
            What is wrong at the beginning always ends it.
        on_alarm: called with each new finding and the observation that it was made at.
        options: further ones of `LiveMonitor`: methods, templates, fraction, attribution, device.

    Attributes:
        monitor: made when training begins.
        observations: those of this session, in their order.

    Raises:
        OptionError: neither `every` nor `budget`, or values that mean nothing.
    """

    def __init__(
        self,
        facts: FactSet | str | Path | Sequence[tuple[str, str]],
        *,
        every: int | None = None,
        budget: float | None = None,
        at_begin: bool = True,
        at_end: bool = True,
        out: str | Folder | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        errors: Literal["warn", "raise"] = "warn",
        on_alarm: Callable[[Finding, Observation], None] | None = None,
        **options: Any,
    ) -> None:
        if every is None and budget is None:
            raise OptionError(
                "neither every= (steps) nor budget= (a share of training time) was given; give one or both"
            )
        if every is not None and (isinstance(every, bool) or every < 1):
            raise OptionError(f"every={every!r} was given; expected a number of steps, 1 or more")
        if budget is not None and not 0 < budget < 1:
            raise OptionError(f"budget={budget!r} was given; expected a share of training time, between 0 and 1")
        if errors not in ("warn", "raise"):
            raise OptionError(f"errors={errors!r} was given; expected 'warn' or 'raise'")
        self.every, self.budget = every or 1, budget
        self.at_begin, self.at_end, self.errors, self.on_alarm = at_begin, at_end, errors, on_alarm
        self.monitor: LiveMonitor | None = None
        self.observations: list[Observation] = []
        self._facts, self._out, self._tokenizer, self._options = facts, out, tokenizer, options
        self._log: Callable[[dict[str, float]], None] | None = None
        self._dearest = 0.0
        self._latest = -1

    def attach(self, trainer: Trainer) -> GatedLPICallback:
        """Join a Trainer's callbacks, and log what is measured to whatever its `report_to` names."""
        if self not in trainer.callback_handler.callbacks:
            trainer.add_callback(self)
        self._log = trainer.log
        return self

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Make the monitor, refuse what can never work, and score the first weights."""
        if not state.is_world_process_zero:
            return
        tokenizer = self._tokenizer if self._tokenizer is not None else kwargs.get("processing_class")
        training = {"training": f"seed {args.seed}, data seed {args.data_seed}"} | self._options
        self.monitor = LiveMonitor(kwargs["model"], tokenizer, self._facts, out=self._out, **training)
        self.monitor.begin(state.global_step)
        self.observations, self._dearest, self._latest = [], 0.0, -1
        if self._log is None and args.report_to:
            logger.warning(
                "what is measured is not sent to %s: a callback cannot reach the Trainer's loggers by itself; use "
                "GatedLPICallback(...).attach(trainer) instead of Trainer(callbacks=[...])",
                ", ".join(args.report_to),
            )
        if self.at_begin:
            self._observe(self.monitor, args, state, control, "raise")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_kwargs: Any
    ) -> None:
        """Score the weights, if it is time."""
        if self.monitor is None:
            return
        last = self.at_end and (state.global_step >= state.max_steps or control.should_training_stop)
        if last or (state.global_step % self.every == 0 and self._affordable(self.monitor)):
            self._observe(self.monitor, args, state, control, self.errors)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_kwargs: Any
    ) -> None:
        """Score the last weights where training was stopped between observations; its loggers are closed by now."""
        if self.monitor is not None and self.at_end and self._latest != state.global_step:
            self._log = None
            self._observe(self.monitor, args, state, control, self.errors)

    def _affordable(self, monitor: LiveMonitor) -> bool:
        if self.budget is None:
            return True
        return monitor.share_with(self._dearest) <= self.budget

    def _observe(
        self, monitor: LiveMonitor, args: TrainingArguments, state: TrainerState, control: TrainerControl, errors: str
    ) -> None:
        step = state.global_step
        counted = args.include_num_input_tokens_seen != "no"
        try:
            seen = monitor.observe(step, int(state.num_input_tokens_seen) if counted else None)
        except (GatedLPIError, torch.OutOfMemoryError, MemoryError) as error:
            if errors == "raise":
                raise
            logger.warning("step %d is not scored, training goes on: %s: %s", step, type(error).__name__, error)
            return
        self._latest, self._dearest = step, max(self._dearest, seen.seconds)
        self.observations.append(seen)
        self._tell(seen, state, control)
        for finding in seen.new_alarms:
            logger.warning("step %d: %s: %s", step, finding.name, finding.evidence)
            if self.on_alarm is not None:
                self.on_alarm(finding, seen)

    def _tell(self, seen: Observation, state: TrainerState, control: TrainerControl) -> None:
        logs = seen.logs()
        if self._log is None:
            state.log_history.append({**logs, "step": seen.step})
            return
        wanted = control.should_log  # which logging ends, and the Trainer's own for this step is still to come
        self._log(logs)
        control.should_log = wanted
