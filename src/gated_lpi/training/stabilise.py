"""Explore, then stabilise: routers that stop learning at a step that is given, drawn, or found by watching importance.

1. After each optimizer step it is decided whether the routers are to stop: at a step that is given or drawn from the
   seed, or, every so many steps, by how much the importance of the FFN's units has in common with that of the
   observation before: J_stab of their top sets, or the correlation of their layer profiles. It is decided once.
2. *Freeze*: the routers' parameters need no gradient from then on. Without one the optimizer passes them over, so there
   is no weight decay and no momentum either. *Decay*: they are a parameter group of their own from the beginning, whose
   learning rate falls linearly to 0, from the second step after the decision on, since that of the next step is set by
   then. The load-balancing loss stays in the loss: it still reaches what feeds a router.
3. The decision, and what was seen last, go into the Trainer's state of every checkpoint before that checkpoint is
   published. A run that is resumed from it decides as one that was never stopped.
4. The arm's folder keeps stabilise.json: what was seen, and at which step, tokens and value the routers stopped.

Which parameters are routers, the table of families says.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import nn
from torch.optim import Optimizer
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerFast,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from gated_lpi._common.folders import write_atomically
from gated_lpi.errors import OptionError, RunError
from gated_lpi.metrics import layer_profile, profile_correlation, top_set_stability
from gated_lpi.models import build_model
from gated_lpi.training.folder import STATE
from gated_lpi.training.spec import StabiliseSpec, TrainingSpec

RECORD = "stabilise.json"


class Importance(NamedTuple):
    """What was seen of a model in training.

    Attributes:
        scores: [N], mean score of each FFN unit, nats.
        layer: [N], the layer of each.
    """

    scores: NDArray[np.float64]
    layer: NDArray[np.int64]


Watch = Callable[[PreTrainedModel, PreTrainedTokenizerFast], Importance]
"""Measures importance in a model in training, and leaves it as it was; the same weights give the same scores."""


class Observed(BaseModel):
    """What an observation had in common with the one before it.

    Attributes:
        step: optimizer steps done.
        value: of the measure; None at the first observation.
    """

    model_config = ConfigDict(extra="forbid")

    step: int
    value: float | None


class Decision(BaseModel):
    """Whether the routers stopped learning, and why.

    Attributes:
        step: after which step they did; None: not yet.
        tokens: tokens seen by then.
        value: of the measure then; None where nothing was measured.
        observed: all observations.
    """

    model_config = ConfigDict(extra="forbid")

    step: int | None = None
    tokens: int | None = None
    value: float | None = None
    observed: list[Observed] = []


def refuse_unwatched(spec: TrainingSpec, watch: Watch | None) -> None:
    """Refuse a threshold without anything that it could be held against.

    Raises:
        OptionError: `spec.stabilise` waits for a threshold and there is no watch.
    """
    if spec.stabilise is not None and spec.stabilise.when == "threshold" and watch is None:
        raise OptionError(
            "stabilise with when = 'threshold' measures importance on facts, and train_arm was given no `watch`; give "
            "gated_lpi.runs.watch_facts(facts), or when = 'step'"
        )


def stabiliser_of(
    spec: TrainingSpec,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    out: Path,
    state: Path | None,
    watch: Watch | None,
) -> Stabiliser | None:
    """What ends the routers' learning; None if nothing is to, or there are none.

    Args:
        spec: how the arm is trained.
        model: the arm's.
        tokenizer: made for the corpus.
        out: the arm's folder.
        state: the Trainer's state that training is resumed from; None: it begins.
        watch: measures importance.

    Raises:
        RunError: what the state says of the decision cannot be read.
    """
    if spec.stabilise is None:
        return None
    routers = [
        weight for _, writer in build_model(model).routed() if writer.router for weight in writer.router.parameters()
    ]
    return Stabiliser(spec.stabilise, spec.seed, routers, tokenizer, out, state, watch) if routers else None


class Stabiliser(TrainerCallback):  # type: ignore[misc]  # transformers is read as untyped
    """Ends the learning of routers; to be called before what publishes checkpoints.

    Attributes:
        decision: whether and when they stopped.
    """

    def __init__(
        self,
        spec: StabiliseSpec,
        seed: int,
        routers: list[nn.Parameter],
        tokenizer: PreTrainedTokenizerFast,
        out: Path,
        state: Path | None,
        watch: Watch | None,
    ) -> None:
        self._spec, self._routers, self._tokenizer, self._out, self._watch = spec, routers, tokenizer, out, watch
        self._step = spec.step
        if spec.between is not None:
            first, last = spec.between
            self._step = int(np.random.default_rng([spec.seed, seed]).integers(first, last + 1))
        self.decision = Decision()
        self._before: Importance | None = None
        if state is not None:
            self._resume(state)

    def factors(
        self, optimizer: Optimizer, factor: Callable[[int], float]
    ) -> Callable[[int], float] | list[Callable[[int], float]]:
        """What the learning rate is multiplied by after so many steps; for "decay", of each of the optimizer's groups.

        Args:
            optimizer: for "decay", its routers are moved to groups of their own.
            factor: of all else.
        """
        if self._spec.action == "freeze":
            return factor
        mine = {id(weight) for weight in self._routers}
        usual = len(optimizer.param_groups)
        for group in optimizer.param_groups[:usual]:
            routers = [weight for weight in group["params"] if id(weight) in mine]
            group["params"] = [weight for weight in group["params"] if id(weight) not in mine]
            if routers:
                optimizer.add_param_group({**group, "params": routers})
        own = len(optimizer.param_groups) - usual
        return [factor] * usual + [lambda done: factor(done) * self._left(done)] * own

    def on_train_begin(
        self, _args: TrainingArguments, _state: TrainerState, _control: TrainerControl, **_kwargs: Any
    ) -> None:
        """Freeze again what was frozen when training was stopped."""
        self._carry_out()

    def on_step_end(
        self, _args: TrainingArguments, state: TrainerState, _control: TrainerControl, **kwargs: Any
    ) -> None:
        """Decide, unless it is decided."""
        step = state.global_step
        if self.decision.step is not None:
            return
        if self._spec.when != "threshold":
            if step == self._step:
                self._decide(state, None)
        elif step >= self._spec.after and step % self._spec.every == 0:
            value = self._observe(step, kwargs["model"])
            if value is not None and value >= self._spec.threshold:
                self._decide(state, value)

    def on_save(self, _args: TrainingArguments, state: TrainerState, _control: TrainerControl, **_kwargs: Any) -> None:
        """Keep the decision with the state that the Trainer has saved, and at the last step in the arm's folder."""
        folder = self._out / STATE / f"checkpoint-{state.global_step}"
        if self._before is not None:
            np.savez(folder / "stabilise.npz", scores=self._before.scores, layer=self._before.layer)
        write_atomically(folder / RECORD, self.decision.model_dump_json(indent=1) + "\n")
        if state.global_step == state.max_steps:
            content = {
                **self._spec.model_dump(),
                "routers": len(self._routers),
                "fired": self.decision.model_dump(),
            }
            write_atomically(self._out / RECORD, json.dumps(content, indent=1) + "\n")

    def _decide(self, state: TrainerState, value: float | None) -> None:
        found = {"step": state.global_step, "tokens": int(state.num_input_tokens_seen), "value": value}
        self.decision = self.decision.model_copy(update=found)
        self._carry_out()

    def _carry_out(self) -> None:
        if self.decision.step is not None and self._spec.action == "freeze":
            for weight in self._routers:
                weight.requires_grad_(False)
                weight.grad = None

    def _left(self, done: int) -> float:
        """The share of their learning rate that routers have after so many steps."""
        if self.decision.step is None:
            return 1.0
        return max(0.0, 1.0 - max(0, done - self.decision.step) / self._spec.decay_steps)

    def _observe(self, step: int, model: PreTrainedModel) -> float | None:
        """What importance has in common with that of the observation before, which it takes the place of."""
        assert self._watch is not None  # refused before training
        before, self._before = self._before, self._watch(model, self._tokenizer)
        value = None if before is None else _agreement(before, self._before, self._spec)
        seen = [*self.decision.observed, Observed(step=step, value=value)]
        self.decision = self.decision.model_copy(update={"observed": seen})
        return value

    def _resume(self, state: Path) -> None:
        file = state / RECORD
        try:
            self.decision = Decision.model_validate_json(file.read_text(encoding="utf-8"))
            if self.decision.observed:
                with np.load(state / "stabilise.npz", allow_pickle=False) as kept:
                    self._before = Importance(kept["scores"], kept["layer"])
        except (OSError, ValidationError, ValueError, KeyError) as error:
            raise RunError(
                f"{file} cannot be read ({error}), so it is unknown whether the routers of {self._out.name} had "
                f"stopped learning; delete {self._out}, and it is trained from the beginning"
            ) from error


def _agreement(before: Importance, now: Importance, spec: StabiliseSpec) -> float | None:
    """The measure for two observations; None where it is undefined, as for a profile that is even."""
    scores = np.stack([before.scores, now.scores])
    if spec.measure == "j_stab":
        return float(top_set_stability(scores, spec.fraction)[0])
    profiles = layer_profile(scores, now.layer, int(now.layer.max()) + 1)
    value = float(profile_correlation(profiles)[0, 1])
    return value if np.isfinite(value) else None
