"""Importance of the FFN's units in a model that a run trains, on a few of the run's facts."""

from __future__ import annotations

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from gated_lpi.facts import Encoded, FactSet
from gated_lpi.loading import borrow_model
from gated_lpi.methods import attribute_asked
from gated_lpi.options import LPI, Scoring
from gated_lpi.prompting import Prompting, encode_facts
from gated_lpi.training.stabilise import Importance, Watch

HELD_OUT = Prompting(templates="held_out")


def watch_facts(facts: FactSet, how: Prompting = HELD_OUT, count: int = 64) -> Watch:
    """What `train_arm(watch=)` takes: scores of FFN units by LPI on some facts, by which stabilising is decided.

    Args:
        facts: those of the run.
        how: how they are put to the model.
        count: prompts, at most; taken evenly from all of them.
    """

    def watch(module: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Importance:
        with borrow_model(module, tokenizer) as model:
            asked = encode_facts(model, facts, how)
            places = np.linspace(0, len(asked.prompts) - 1, min(count, len(asked.prompts))).round().astype(int)
            some = Encoded([asked.prompts[place] for place in places], asked.skipped)
            scores = attribute_asked(model, facts, some, how, LPI(), Scoring(units=("ffn",), keep="mean"))
        return Importance(scores["lpi"].to_numpy().astype(np.float64), scores["layer"].to_numpy().astype(np.int64))

    return watch
