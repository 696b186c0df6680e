"""What models cost: parameters, bytes and operations counted by hand; seconds in turns."""

import pytest

from gated_lpi.errors import OptionError
from gated_lpi.pruning import cost as module
from gated_lpi.pruning import cost_of, seconds_per_pass
from tiny_models import random_prompts, tiny_model


def test_operations_are_two_for_each_parameter_that_a_token_passes():
    model = tiny_model("OLMoE")
    cost = cost_of(model)
    expert = 3 * 32 * 16
    assert cost.parameters - cost.parameters_active == 2 * 6 * expert  # two layers, six of eight experts idle
    assert cost.memory == 4 * cost.parameters
    assert cost.flops_per_token == 2 * (cost.parameters_active - 64 * 32)
    tied = cost_of(tiny_model("OLMoE", tie_word_embeddings=True))
    assert tied.parameters == cost.parameters - 64 * 32
    assert tied.flops_per_token == cost.flops_per_token


def test_models_take_turns_and_the_first_does_not_count(monkeypatch):
    models, turns = [tiny_model("OLMoE", seed=seed) for seed in (0, 1)], []
    times = iter([9.0, 9.0, 1.0, 5.0, 3.0, 4.0, 2.0, 6.0])

    def timed(model, _sequences):
        turns.append(models.index(model))
        return next(times)

    monkeypatch.setattr(module, "_seconds", timed)
    assert seconds_per_pass(models, random_prompts(2), repeats=3) == [2.0, 5.0]
    assert turns == [0, 1] * 4
    with pytest.raises(OptionError, match="repeats=0 was given"):
        seconds_per_pass(models, random_prompts(2), repeats=0)


def test_seconds_are_those_of_real_passes():
    assert all(seconds > 0 for seconds in seconds_per_pass([tiny_model("OLMoE")], random_prompts(2), repeats=1))
