import pytest

from gated_lpi.errors import OptionError
from gated_lpi.runs import Experiment, load_experiment, preset, presets


def written(tmp_path, text):
    path = tmp_path / "experiment.toml"
    path.write_text(text)
    return path


ARM = '[[arms]]\nname = "a"\ntrain = "moe"\n'
SERIES = 'name = "x"\n[[arms]]\nname = "a"\nseries = "owner/repo"\n'


def test_the_demo_is_three_arms_that_share_one_training():
    demo = preset("demo")
    assert [arm.train for arm in demo.arms] == ["moe", "dense_active", "dense_total"]
    assert demo.facts.templates == "held_out"
    assert demo.training.checkpoints >= 12
    assert demo.training.size.experts >= 16
    assert demo.training.size.experts_per_token >= 2
    assert demo.training.load_balancing > 0
    assert demo.ablation.random_draws >= 10


@pytest.mark.parametrize("name", presets())
def test_an_experiment_survives_json(name):
    experiment = preset(name)
    assert Experiment.model_validate_json(experiment.model_dump_json()) == experiment


def test_amounts_may_be_written_as_people_say_them(tmp_path):
    text = SERIES + 'tokens = ["20B", "2.5T", 7]\n[storage]\ndisk_budget = "1.5GB"\n[engine]\nmemory = "2GiB"\n'
    experiment = load_experiment(written(tmp_path, text))
    assert experiment.arms[0].tokens == (20 * 10**9, 2_500 * 10**9, 7)
    assert experiment.storage.disk_budget == 1_500_000_000
    assert experiment.engine.memory == 2 * 2**30


def test_settings_change_no_results(tmp_path):
    experiment = load_experiment(written(tmp_path, SERIES))
    other = experiment.with_settings(engine={"kind": "ray"}, storage={"disk_budget": 9})
    assert (other.engine.kind, other.storage.disk_budget) == ("ray", 9)
    assert experiment.differences(other) == []
    with pytest.raises(OptionError, match=r"engine.kind: .*'local' or 'ray'"):
        experiment.with_settings(engine={"kind": "slurm"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = 1\n" + ARM, r"name: .*string.*given: 1"),
        ('name = "x"\n', r"arms: .*required"),
        ('name = "x"\narms = []\n', r"arms: .*at least 1"),
        ('name = "x"\nspeed = 9\n' + ARM, r"speed: there is no such key .*allowed are name, facts"),
        ('name = "x"\n[attribution]\nnrom = "frozen"\n' + ARM, r"attribution.nrom: .*did you mean norm\?"),
        ('name = "x"\n[engine]\nkind = "rai"\n' + ARM, r"engine.kind: .*'local' or 'ray'.*given: 'rai'.*mean ray\?"),
        ('name = "x"\n[engine]\nretries = -1\n' + ARM, r"engine.retries: .*greater than or equal to 0.*given: -1"),
        ('name = "x"\n[storage]\ndisk_budget = "lots"\n' + ARM, r"storage.disk_budget: .*'200GB'.*given: 'lots'"),
        ('name = "x"\n[storage]\ndevice_map = "atuo"\n' + ARM, r"storage.device_map: .*'auto', .*mean auto\?"),
        ('name = "x"\n[storage]\ndevice = "cpu"\ndevice_map = "auto"\n' + ARM, r"storage: .*leave one of them out"),
        ('name = "x"\n[storage]\ndisk_budge = 1\n' + ARM, r"storage.disk_budge: .*did you mean disk_budget\?"),
        ('name = "x"\n[attribution]\nunits = ["ffm"]\n' + ARM, r"attribution.units.0: .*mean ffn\?"),
        ('name = "x"\n[attribution]\nmemory = "1XB"\n' + ARM, r"attribution.memory: .*'512MB'"),
        (SERIES + "sereis = 1\n", r"arms.0.sereis: .*did you mean series\?"),
        (SERIES + 'steps = ["10Q"]\n', r"arms.0.steps.0: '10Q' was given.*1.5T"),
        (SERIES + "steps = [1]\ntokens = [2]\n", r"by steps and tokens at once"),
        (SERIES + 'spacing = "even"\n', r"spacing = 'even' but no `count`"),
        (SERIES + 'count = 3\nspacing = "cubic"\n', r"arms.0.spacing: .*'log' or 'even'.*given: 'cubic'"),
        (SERIES + 'train = "moe"\n', r"it has train and series"),
        (SERIES + 'tokens_aligned_with = "b"\n', r"tokens_aligned_with = 'b'; expected another arm"),
        ('name = "x"\n[[arms]]\nname = "a"\ncheckpoints = "f"\ncount = 3\n', r"has count, .*no `series`"),
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
    with pytest.raises(OptionError, match="there are demo, "):
        preset("nothing")
