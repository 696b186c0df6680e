"""Experiments on tiny models, made quick: few draws, one share of heads and units to mask."""

from contextlib import nullcontext
from typing import Any

from gated_lpi.runs import Experiment

QUICK = {"metrics": {"draws": 3}, "ablation": {"random_draws": 1, "top_units": 1, "heads": [1], "units": [0.1]}}


def tiny_experiment(facts: object, *arms: dict[str, Any], **changes: Any) -> Experiment:
    """A quick experiment on a folder of facts, each by its first template; `changes` are whole sections or keys."""
    asked = {"source": str(facts), "templates": "first"}
    return Experiment.model_validate({"name": "test", "facts": asked, "arms": arms, **QUICK, **changes})


class Notes:
    """A progress that keeps what was said."""

    def __init__(self):
        self.said = []

    def note(self, text):
        self.said.append(text)

    def task(self, _label):
        return nullcontext(lambda _done, _total: None)
