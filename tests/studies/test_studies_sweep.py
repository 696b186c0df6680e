"""Trends in a sweep, held against values that are known by hand, and what cannot be swept."""

import numpy as np
import pytest
import xarray as xr
from scipy.stats import spearmanr

from gated_lpi.errors import OptionError
from gated_lpi.experiments import Experiment
from gated_lpi.studies.sweep import Options, _measure, _places, _values, _verdict, trend

OPTIONS = Options(key="load_balancing", measure="entropy", draws=999, rises=True)


def test_a_trend_is_spearmans_with_a_permutation_p_and_an_interval_over_replicates():
    values = [[1.0, 2.0], [3.0, 2.5], [4.0, 5.0], [6.0, 5.5]]
    found = trend([0.0, 1.0, 2.0, 3.0], values, OPTIONS)
    assert found.rho == pytest.approx(spearmanr([0, 0, 1, 1, 2, 2, 3, 3], np.concatenate(values)).statistic)
    assert found.p < 0.01
    assert 0.8 < found.low <= found.rho + 1e-12
    assert found.rho <= found.high <= 1
    assert _verdict("lpi", found, OPTIONS).verdict == "supported"
    falls = OPTIONS.model_copy(update={"rises": False})
    assert _verdict("lpi", found, falls).verdict == "contradicted"


@pytest.mark.parametrize(("levels", "slope"), [(5, 0.0), (5, 0.5), (3, 0.5)])
def test_the_interval_of_a_trend_holds_the_truth_as_often_as_it_says(levels, slope):
    generator, places = np.random.default_rng(0), np.arange(levels)
    many = np.repeat(places, 20_000)
    truth = spearmanr(many, slope * many + generator.standard_normal(many.size)).statistic
    once = OPTIONS.model_copy(update={"draws": 1})
    held = 0
    for _ in range(400):
        found = trend(places.tolist(), [list(slope * i + generator.standard_normal(3)) for i in places], once)
        held += found.low <= truth <= found.high
    assert 0.93 <= held / 400 <= 1


def test_no_trend_is_undecided_and_no_spread_has_no_number():
    found = trend([0.0, 1.0, 2.0], [[1.0, 3.0], [2.0, 2.1], [3.0, 1.0]], OPTIONS)
    assert found.p > 0.5
    assert _verdict("lpi", found, OPTIONS).verdict == "undecided"
    assert np.isnan(trend([0.0, 1.0], [[1.0], [1.0]], OPTIONS)).all()
    single = trend([0.0, 1.0, 2.0], [[1.0], [2.0], [3.0]], OPTIONS)
    assert single.rho == pytest.approx(1)
    assert np.isnan(single.low)
    assert single.p > 0.2  # of six orders, two are as extreme


def test_a_measure_is_its_last_value_mean_or_mean_height_over_log_tokens():
    tokens = np.array([0, 99, 999])
    summary = xr.Dataset(
        {"entropy": (("kind", "checkpoint"), [[1.0, 2.0, 4.0]]), "stability": (("kind", "pair"), [[0.5, np.nan]])},
        {"kind": ["ffn"], "step": ("checkpoint", [0, 1, 2]), "tokens": ("checkpoint", tokens)},
    )

    def of(measure, at):
        return _measure(summary, OPTIONS.model_copy(update={"measure": measure, "at": at}))

    assert of("entropy", "last") == 4.0
    assert of("entropy", "mean") == pytest.approx(7 / 3)
    assert of("entropy", "area") == pytest.approx(3)  # 0 tokens are not on a log axis
    assert of("stability", "last") == 0.5
    assert np.isnan(of("stability", "area"))
    with pytest.raises(OptionError, match="measure = 'entrpy' was given; summaries have entropy, stability"):
        of("entrpy", "last")


class OneRun:
    def __init__(self, **content):
        self.experiment = Experiment.model_validate({"name": "x", **content})


def test_values_are_those_of_the_arms_whose_kind_has_several():
    arms = [{"train": "moe", "grid": {"load_balancing": [0.0, 0.1]}}, {"train": "dense_active"}]
    run = OneRun(arms=arms, seeds=[0, 1])
    values = _values(run, run.experiment.groups, OPTIONS)
    assert values == {"moe-load_balancing-0.0": 0.0, "moe-load_balancing-0.1": 0.1}
    with pytest.raises(OptionError, match=r"size.experts has one value in each kind of arm"):
        _values(run, run.experiment.groups, OPTIONS.model_copy(update={"key": "size.experts"}))
    with pytest.raises(OptionError, match=r"key = 'experts' was given; options of training are size.hidden"):
        _values(run, run.experiment.groups, OPTIONS.model_copy(update={"key": "experts"}))
    assert _places(["linear", "cosine"]) == {"linear": 0.0, "cosine": 1.0}
    assert _places([0.1, 10]) == {0.1: 0.1, 10: 10.0}
