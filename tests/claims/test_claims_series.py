"""The series that claims rest on are those of summaries; draws, known facts and equal numbers are what they say."""

from pathlib import Path

import numpy as np
import pytest

from gated_lpi.claims.series import Asked, arm_series, facts_kept, stretches, units_of
from gated_lpi.errors import OptionError
from gated_lpi.metrics import at_units, overlap_by_gap, top_sets
from synthetic_run import DENSE, MOE, RELATIONS, SyntheticRun

ASKED = Asked(fraction=0.05, draws=8)


@pytest.fixture(scope="module")
def run():
    return SyntheticRun(Path("unused"), {"moe": MOE, "dense": DENSE})


@pytest.mark.parametrize("kind", ["ffn", "attention"])
def test_the_first_row_is_the_summary(run, kind):
    found = arm_series("moe", run.scores("moe"), Asked(fraction=0.05, draws=8, kind=kind))
    here = run.summary("moe").sel(kind=kind)
    for name in ("stability", "gain_top_set", "gain_top_by_gain", "importance_share", "entropy", "effective_units"):
        assert found.series[name].shape[0] == 9
        assert found.series[name][0] == pytest.approx(here[name].to_numpy(), rel=1e-6)
    assert found.series["profile_with_last"][0] == pytest.approx(here["profile_pearson"].to_numpy()[:-1, -1])
    assert found.numbers["rho_avg"][0] == pytest.approx(float(here["rho_avg"][0]))
    assert 2 ** found.numbers["sigma_rel"][0] == pytest.approx(float(here["sigma_rel"][0]))
    settled = float(here["consolidation_stability"])
    if np.isnan(settled):
        assert "time_stability" in found.censored
        assert 2 ** found.numbers["time_stability"][0] == pytest.approx(found.at[-1])
    else:
        assert 2 ** found.numbers["time_stability"][0] == pytest.approx(max(settled * 8192, 8192))


def test_pairs_lie_at_their_later_checkpoint(run):
    found = arm_series("moe", run.scores("moe"), ASKED)
    assert found.axis("gain_top_set")[1].tolist() == run.scores("moe")["step"].to_numpy()[1:].tolist()
    assert found.axis("importance_share")[1].tolist() == run.scores("moe")["step"].to_numpy().tolist()
    assert found.axis("profile_with_last")[1].tolist() == run.scores("moe")["step"].to_numpy()[:-1].tolist()


def test_the_half_life_is_that_of_the_top_sets(run):
    scores = run.scores("dense")
    inside = units_of(scores, "ffn")
    sets = top_sets(scores["lpi_mean"].to_numpy()[:, inside], 0.05)
    life = overlap_by_gap(sets, scores["tokens"].to_numpy(), inside.size).half_life.gap
    found = arm_series("dense", scores, ASKED)
    if np.isnan(life):
        assert "half_life" in found.censored
    else:
        assert 2 ** found.numbers["half_life"][0] == pytest.approx(life)


def test_both_arms_have_the_same_draws(run):
    scores = run.scores("moe")
    one = arm_series("moe", scores, ASKED)
    scaled = arm_series("moe", scores.assign(lpi=2 * scores["lpi"], lpi_mean=2 * scores["lpi_mean"]), ASKED)
    for name, values in one.series.items():
        assert scaled.series[name] == pytest.approx(values, rel=1e-5)  # measures of shares do not know the scale
    other = arm_series("moe", scores, Asked(fraction=0.05, draws=8, seed=1))
    assert not np.allclose(other.series["entropy"][1:], one.series["entropy"][1:])
    assert np.array_equal(other.series["entropy"][0], one.series["entropy"][0])


def test_checkpoints_that_are_chosen_make_pairs_of_their_own(run):
    scores = run.scores("moe")
    chosen = arm_series("moe", scores, ASKED, np.array([0, 4, 8]))
    alone = arm_series("moe", scores.isel(checkpoint=[0, 4, 8]), ASKED)
    for name, values in alone.series.items():
        assert np.array_equal(chosen.series[name], values)


def test_equal_numbers_are_those_of_size_matched(run):
    scores = run.scores("moe")
    found = arm_series("moe", scores, Asked(fraction=0.05, draws=4, units=50, subsets=6))
    values = scores["lpi_mean"].to_numpy()[:, units_of(scores, "ffn")]
    for name in ("stability", "gain_top_set", "importance_share", "entropy"):
        expected = at_units(values, 50, name, fraction=0.05, draws=6).mean
        assert found.series[name][0] == pytest.approx(expected, rel=1e-6)
    assert "profile_with_last" not in found.series
    with pytest.raises(OptionError, match="subsets of 999 units were asked for; the arm has 120"):
        arm_series("moe", scores, Asked(units=999))


def with_known(scores, known):
    """Scores over known facts beside the others: `known` [T, R] prompts, with the scores of all of the relation."""
    kept = scores["lpi"].where(known[..., None] > 0)
    return scores.assign(lpi_known=kept).assign_coords(n_known=(("checkpoint", "relation"), known))


def test_over_known_facts_relations_weigh_as_many_as_are_known(run):
    scores = run.scores("moe")
    times = scores.sizes["checkpoint"]
    known = np.tile(np.arange(RELATIONS), (times, 1))  # the first relation has none
    known[0] = 0
    both = with_known(scores, known)
    assert facts_kept(both, "lpi") == ["all", "known"]
    found = arm_series("moe", both, Asked(fraction=0.05, draws=8, facts="known"))
    inside = units_of(scores, "ffn")
    mean = np.average(scores["lpi"].to_numpy()[..., inside], axis=1, weights=np.arange(RELATIONS))
    positive = np.maximum(mean, 0)
    top = np.sort(positive, axis=1)[:, -6:].sum(axis=1) / positive.sum(axis=1)
    assert np.isnan(found.series["importance_share"][:, 0]).all()  # nothing is known yet
    assert np.isnan(found.series["gain_top_set"][:, 0]).all()
    assert found.series["importance_share"][0, 1:] == pytest.approx(top[1:], rel=1e-5)
    chosen = arm_series("moe", both, Asked(fraction=0.05, draws=8, facts="known"), np.arange(1, times))
    assert found.numbers["half_life"] == pytest.approx(chosen.numbers["half_life"])  # from when on any is known
    assert found.numbers["rho_avg"] == pytest.approx(chosen.numbers["rho_avg"])
    nothing = arm_series("moe", with_known(scores, 0 * known), Asked(fraction=0.05, draws=8, facts="known"))
    assert all(np.isnan(values).all() for values in (*nothing.series.values(), nothing.numbers["half_life"]))
    with pytest.raises(OptionError, match="the scores have no lpi_known_last"):
        arm_series("moe", both, Asked(facts="known_last"))


def test_of_two_layers_a_correlation_is_only_a_sign_and_is_not_given():
    scores = SyntheticRun(Path("unused"), {"flat": DENSE}).scores("flat")
    flat = arm_series("flat", scores.isel(unit=scores["layer"].to_numpy() < 2), ASKED)
    assert np.isnan(flat.series["profile_with_last"]).all()
    assert np.isnan(flat.numbers["rho_avg"]).all()
    assert np.isfinite(flat.numbers["sigma_rel"]).all()


def test_stretches_of_a_mask():
    assert list(stretches(np.array([True, False, True, True, False, True]))) == [(0, 0), (2, 3), (5, 5)]
    assert list(stretches(np.zeros(3, dtype=bool))) == []
