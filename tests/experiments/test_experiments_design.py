"""Seeds and sweeps: the arms that a file's seeds, grid and cells stand for, and what they cannot be."""

import pytest

from gated_lpi.errors import OptionError
from gated_lpi.experiments import Experiment, load_experiment


def loaded(tmp_path, text):
    path = tmp_path / "experiment.toml"
    path.write_text('name = "x"\n' + text)
    return load_experiment(path)


MOE = '[[arms]]\ntrain = "moe"\n'
DENSE = '[[arms]]\nname = "dense"\ntrain = "dense_active"\n'
SERIES = '[[arms]]\nname = "a"\nseries = "owner/repo"\n'


def test_seeds_make_every_trained_arm_a_group_of_replicates(tmp_path):
    experiment = loaded(tmp_path, "seeds = [7, 3]\n" + MOE + DENSE + "replicates = 1\n" + SERIES)
    assert experiment.groups == {"moe": ("moe-1", "moe-2"), "dense": ("dense-1",), "a": ("a",)}
    trained = [arm for arm in experiment.arms if arm.train]
    assert [experiment.training_of(arm).seed for arm in trained] == [7, 3, 0]


def test_a_grid_has_an_arm_for_every_combination_with_replicates_inside(tmp_path):
    grid = "[arms.grid]\nload_balancing = [0.0, 0.01]\nsize.experts = [8, 16]\n"
    experiment = loaded(tmp_path, "seeds = [0, 1]\n" + MOE + grid + DENSE)
    cells = [f"moe-load_balancing-{c}-experts-{e}" for c in ("0.0", "0.01") for e in (8, 16)]
    assert experiment.groups == {cell: (f"{cell}-1", f"{cell}-2") for cell in cells} | {"dense": ("dense-1", "dense-2")}
    options = [experiment.training_of(arm) for arm in experiment.arms[:4]]
    assert [(o.load_balancing, o.size.experts, o.seed) for o in options] == [
        (0, 8, 0),
        (0, 8, 1),
        (0, 16, 0),
        (0, 16, 1),
    ]


def test_a_grid_of_the_experiment_is_that_of_all_trained_arms_without_their_own(tmp_path):
    text = MOE + DENSE + "[arms.grid]\nlearning_rate = [1e-3]\n" + SERIES + '[grid]\n"size.layers" = [1, 2]\n'
    experiment = loaded(tmp_path, text)
    assert list(experiment.groups) == ["moe-layers-1", "moe-layers-2", "dense-learning_rate-0.001", "a"]
    assert all(arm.group is None for arm in experiment.arms)


def test_cells_hold_options_that_belong_together_and_are_crossed_with_a_grid(tmp_path):
    cells = "cells = [{size = {experts = 8, expert_width = 96}}, {name = 'fine', size.experts = 64}]\n"
    experiment = loaded(tmp_path, MOE + cells + "[arms.grid]\ndecay = ['cosine', 'linear']\n")
    names = ["experts-8-expert_width-96", "fine"]
    assert [arm.name for arm in experiment.arms] == [f"moe-{n}-decay-{d}" for n in names for d in ("cosine", "linear")]
    sizes = [experiment.training_of(arm).size for arm in experiment.arms]
    assert [(size.experts, size.expert_width) for size in sizes] == [(8, 96)] * 2 + [(64, 48)] * 2


def test_what_was_expanded_is_an_experiment_that_older_versions_read(tmp_path):
    experiment = loaded(tmp_path, "seeds = [0]\n" + MOE + "[grid]\nload_balancing = [0.5]\n")
    content = experiment.model_dump(mode="json")
    assert not content.keys() & {"seeds", "grid", "cells"}
    assert not content["arms"][0].keys() & {"grid", "cells"}
    again = Experiment.model_validate(content)
    assert again == experiment
    assert again.differences(experiment) == []
    alone = Experiment.model_validate(content | {"seeds": None})
    assert alone.differences(experiment) == []


def test_own_training_of_an_arm_stays_in_its_cells(tmp_path):
    text = MOE + "training = {steps = 50, size = {layers = 2}}\n[arms.grid]\nsize.experts = [4]\n"
    (arm,) = (experiment := loaded(tmp_path, text)).arms
    training = experiment.training_of(arm)
    assert (training.steps, training.size.layers, training.size.experts) == (50, 2, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds = [1, 1]\n" + MOE, r"seeds: 1 is listed twice"),
        ("seeds = []\n" + MOE, r"seeds: .*at least 1"),
        ("seeds = [-1]\n" + MOE, r"seeds\.0: .*greater than or equal to 0"),
        ("seeds = [0]\n" + SERIES, r"seeds was given, which arms with `train` are made by"),
        (
            "seeds = [0]\n" + MOE + "training = {seed = 4}\n",
            r"arm 'moe' has training\.seed = 4 beside .*replicates = 1",
        ),
        (SERIES + "[arms.grid]\nsteps = [9]\n", r"arm 'a' has grid but no `train`"),
        (MOE + "[arms.grid]\nload_balancin = [0.1]\n", r"cell 'load_balancin-0.1' .*did you mean load_balancing\?"),
        (
            MOE + "[arms.grid]\nload_balancing = [-1.0]\n",
            r"cell 'load_balancing--1.0' .*training\.load_balancing: .*equal",
        ),
        (
            MOE + "[arms.grid]\nload_balancing = 0.1\n",
            r"load_balancing is 0\.1; expected a list of values.*\[0\.1, …\]",
        ),
        (MOE + "[arms.grid]\nload_balancing = [0.1, 0.1]\n", r"load_balancing lists 0\.1 twice"),
        (MOE + "[arms.grid]\n", r"arms\.0\.grid: .*at least 1"),
        (MOE + "cells = [{name = 'b'}]\n", r"arms\.0\.cells: cell 0 has no training option"),
        (MOE + "cells = [{steps = 30}]\ngrid = {steps = [40]}\n", r"steps is in grid and in cells"),
        (MOE + "training = {steps = 50}\ngrid = {steps = [40]}\n", r"training\.steps itself and steps in a grid"),
        (MOE + "group = 'g'\ngrid = {steps = [40]}\n", r"group = 'g' beside a grid"),
        (MOE + "grid = {size.vocab_size = [300]}\n", r"vocab_size: there is no such key"),
        (MOE + "grid = {seed = [0, 1]}\nreplicates = 2\n", r"seed is in a grid.*give `seeds`"),
        (
            MOE + f"grid = {{steps = {list(range(20, 60))}, learning_rate = {[i / 99 for i in range(1, 50)]}}}\n",
            r"1000 cells",
        ),
        (
            f"seeds = {list(range(600))}\n" + MOE + "grid = {steps = [40, 50]}\n",
            r"make 1,200 arms; expected at most 1,000",
        ),
        (MOE + "grid = {decay = ['cubic']}\n", r"training\.decay: .*'linear', 'cosine' or 'constant'"),
    ],
    ids=lambda part: part[-60:],
)
def test_what_seeds_and_grids_cannot_be_is_refused_by_name(tmp_path, text, message):
    with pytest.raises(OptionError, match=message):
        loaded(tmp_path, text)
