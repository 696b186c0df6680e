import pytest

from gated_lpi.errors import OptionError
from gated_lpi.runs import Experiment, load_experiment, preset


def written(tmp_path, text):
    path = tmp_path / "experiment.toml"
    path.write_text(text)
    return path


ARM = '[[arms]]\nname = "a"\ntrain = "moe"\n'


def test_the_demo_is_three_arms_that_share_one_training():
    demo = preset("demo")
    assert [arm.train for arm in demo.arms] == ["moe", "dense_active", "dense_total"]
    assert demo.facts.templates == "held_out"
    assert demo.training.checkpoints >= 12
    assert demo.training.size.experts >= 16
    assert demo.training.size.experts_per_token >= 2
    assert demo.training.load_balancing > 0
    assert demo.ablation.random_draws >= 10


def test_an_experiment_survives_json():
    demo = preset("demo")
    assert Experiment.model_validate_json(demo.model_dump_json()) == demo


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = 1\n" + ARM, r"name: .*string.*given: 1"),
        ('name = "x"\n', r"arms: .*required"),
        ('name = "x"\narms = []\n', r"arms: .*at least 1"),
        ('name = "x"\nspeed = 9\n' + ARM, r"speed: .*not permitted"),
        ('name = "x"\n[attribution]\nnorm = "thawed"\n' + ARM, r"attribution.norm: .*'frozen' or 'recomputed'"),
        ('name = "x"\n[metrics]\nfraction = 2\n' + ARM, r"metrics.fraction: .*less than or equal to 1.*given: 2"),
        ('name = "x"\n[[arms]]\nname = "a"\n', r"exactly one of `train`.*`checkpoints`"),
        ('name = "x"\n' + ARM + ARM, r"different names"),
        ('name = "x"\n[[arms]]\nname = "../a"\ntrain = "moe"\n', r"arms.0.name"),
        ("name = ", r"is not TOML"),
    ],
)
def test_errors_name_the_key_and_what_is_allowed(tmp_path, text, message):
    with pytest.raises(OptionError, match=message):
        load_experiment(written(tmp_path, text))


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(OptionError, match="no experiment file"):
        load_experiment(tmp_path / "none.toml")


def test_an_unknown_preset_is_an_error():
    with pytest.raises(OptionError, match="there are demo"):
        preset("nothing")
