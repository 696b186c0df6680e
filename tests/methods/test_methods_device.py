"""Every method on another device, and on a model that is spread over two: GPUs if there are, else emulated."""

import numpy as np
import pytest

import gated_lpi
from gated_lpi.loading import wrap_model
from gated_lpi.options import (
    LPI,
    DirectEffect,
    GradientTimesActivation,
    IntegratedGradients,
    Rollout,
    TrueEffect,
)
from other_device import OTHER, OtherDevice, spread_over_two
from passes import questions, scores_of
from tiny_models import CASES, tiny_module
from tiny_text import FACTS, speaking_model, tiny_tokenizer

METHODS = {
    "contrast": LPI(foil="relation"),
    "contrast, recomputed norm": LPI(foil="relation", norm="recomputed"),
    "whole answers": LPI(answer="all", estimator="exact"),
    "direct effect": DirectEffect(),
    "gradient": GradientTimesActivation(),
    "gradient at the last position, of whole answers": GradientTimesActivation(at="last", answer="all"),
    "integrated": IntegratedGradients(points=2),
    "true effect": TrueEffect(sample=2),
    "true effect, resampled at the last position": TrueEffect(sample=2, how="resample", at="last"),
    "true effect, of the mean": TrueEffect(sample=2, how="mean"),
}
PLACES = {"one": lambda module: module.to(OTHER), "two": spread_over_two}


def agree(here, there):
    for name, scores in here.items():
        assert np.nanmax(np.abs(scores)) > 1e-3
        np.testing.assert_allclose(there[name], scores, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("placed", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("case", ["GPT-2", "Qwen2-MoE", "GPT-OSS"])
def test_scores_are_the_same_on_other_devices(case, placed, method):
    here, _ = scores_of(wrap_model(tiny_module(case)), method, questions(4))
    with OtherDevice():
        there, _ = scores_of(wrap_model(placed(tiny_module(case))), method, questions(4))
    agree(here, there)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_of_every_family_are_the_same_there(case):
    here, _ = scores_of(wrap_model(tiny_module(case)), GradientTimesActivation(), questions(2))
    with OtherDevice():
        there, _ = scores_of(wrap_model(tiny_module(case).to(OTHER)), GradientTimesActivation(), questions(2))
    agree(here, there)


@pytest.mark.parametrize("placed", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("case", ["Llama", "OLMoE", "GPT-OSS"])
def test_rollout_is_the_same_on_other_devices(case, placed):
    here = gated_lpi.attribute(speaking_model(case), FACTS, method=Rollout())["rollout"]
    with OtherDevice():
        model = wrap_model(placed(tiny_module(case)), tiny_tokenizer())
        there = gated_lpi.attribute(model, FACTS, method=Rollout())["rollout"]
    assert here.max() > 1e-2
    np.testing.assert_allclose(there, here, atol=1e-5)
