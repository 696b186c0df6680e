import os
import pickle

import pytest
from pydantic import ValidationError

from gated_lpi._common.folders import as_folder
from gated_lpi.errors import OptionError
from gated_lpi.experiments import Experiment, load_experiment, preset, presets
from gated_lpi.experiments.experiment import AblationSpec, FollowSpec
from gated_lpi.experiments.settings import EngineSpec
from gated_lpi.options import LPI, Certified, Exact
from gated_lpi.results import Run
from gated_lpi.training.spec import TrainingSpec


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
        ("name = 1\n" + ARM, r"name: expected a text.*given: 1"),
        ('name = "x"\n', r"arms: .*required"),
        ('name = "x"\narms = []\n', r"arms: .*at least 1"),
        ('name = "x"\nspeed = 9\n' + ARM, r"speed: there is no such key .*allowed are name, facts"),
        ('name = "x"\n[attribution]\nnrom = "frozen"\n' + ARM, r"attribution.nrom: .*did you mean norm\?"),
        ('name = "x"\n[engine]\nkind = "rai"\n' + ARM, r"engine.kind: .*'local' or 'ray'.*given: 'rai'.*mean ray\?"),
        ('name = "x"\n[engine]\nretries = -1\n' + ARM, r"engine.retries: .*greater than or equal to 0.*given: -1"),
        ('name = "x"\n[storage]\ndisk_budget = "lots"\n' + ARM, r"storage.disk_budget: .*'64GiB'.*given: 'lots'"),
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


TRAINED = 'name = "x"\n[training]\nseed = 5\nsteps = 20\n[[arms]]\ntrain = "moe"\n'


def test_replicates_are_arms_of_one_group_with_seeds_in_a_row(tmp_path):
    text = TRAINED + "replicates = 3\n" + SERIES.removeprefix('name = "x"\n') + 'group = "small"\n'
    experiment = load_experiment(written(tmp_path, text))
    assert [(arm.name, arm.group) for arm in experiment.arms] == [
        *(("moe-1", "moe"), ("moe-2", "moe"), ("moe-3", "moe")),
        ("a", "small"),
    ]
    assert [experiment.training_of(arm).seed for arm in experiment.arms] == [5, 6, 7, 5]
    assert experiment.groups == {"moe": ("moe-1", "moe-2", "moe-3"), "small": ("a",)}
    assert experiment.training_of(experiment.arms[1]) == experiment.training.model_copy(update={"seed": 6})
    again = Experiment.model_validate_json(experiment.model_dump_json())
    assert again == experiment
    assert again.differences(experiment) == []


def test_seeds_of_a_published_series_are_replicates(tmp_path):
    text = """name = "e"
[[arms]]
name = "pythia"
series = "EleutherAI/pythia-410m-seed{seed}"
steps = [0, 1000]
seeds = [2, 6]

[[arms]]
name = "decide"
series = "allenai/DataDecide-x"
group = "data"
seeds = ["default", "large-aux-2"]
"""
    experiment = load_experiment(written(tmp_path, text))
    assert experiment.groups == {
        "pythia": ("pythia-2", "pythia-6"),
        "data": ("decide-default", "decide-large-aux-2"),
    }
    assert [(arm.series, arm.steps, arm.stages) for arm in experiment.arms] == [
        ("EleutherAI/pythia-410m-seed2", (0, 1000), None),
        ("EleutherAI/pythia-410m-seed6", (0, 1000), None),
        ("allenai/DataDecide-x", None, ("seed-default",)),
        ("allenai/DataDecide-x", None, ("seed-large-aux-2",)),
    ]
    assert Experiment.model_validate(experiment.model_dump(mode="json")) == experiment
    for old, new, words in (
        ("seeds = [2, 6]", "", "no seeds to put there; give `seeds`"),
        ("-seed{seed}", "", "has seeds and stages, and no"),
        ('series = "allenai/DataDecide-x"', 'train = "moe"', "has seeds but no `series`"),
    ):
        broken = text.replace(old, new, 1).replace("steps = [0, 1000]", 'stages = ["stage1"]')
        with pytest.raises(OptionError, match=words):
            load_experiment(written(tmp_path, broken))


def test_replicates_have_the_name_and_the_seed_that_are_given(tmp_path):
    more = 'name = "big"\ngroup = "sizes"\nreplicates = 2\ntraining = {seed = 40, steps = 30}\n'
    experiment = load_experiment(written(tmp_path, TRAINED + more))
    assert experiment.groups == {"sizes": ("big-1", "big-2")}
    assert [(experiment.training_of(arm).seed, experiment.training_of(arm).steps) for arm in experiment.arms] == [
        (40, 30),
        (41, 30),
    ]


def test_an_arm_without_a_group_is_a_group_of_its_own():
    assert preset("demo").groups == {name: (name,) for name in ("moe", "dense-active", "dense-total")}


def test_only_the_keys_that_an_arm_gives_take_the_place_of_the_shared_ones(tmp_path):
    more = 'name = "a"\ntraining = {learning_rate = 0.1, load_balancing = 0.0, size = {experts = 8}}\n'
    experiment = load_experiment(written(tmp_path, TRAINED + more))
    shared, own = experiment.training, experiment.training_of(experiment.arms[0])
    assert own.size == shared.size.model_copy(update={"experts": 8})
    changed = {"learning_rate": 0.1, "load_balancing": 0.0, "size": own.size}
    assert own == shared.model_copy(update=changed)
    assert pickle.loads(pickle.dumps(experiment)) == experiment
    plain = load_experiment(written(tmp_path, TRAINED + 'name = "a"\n'))
    assert plain.training_of(plain.arms[0]) is plain.training
    assert all(line.startswith("arms.a.training.") for line in plain.differences(experiment))
    assert "arms.a.training.learning_rate (None there, 0.1 given)" in plain.differences(experiment)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TRAINED + "training = {learnin_rate = 1}\n", r"arms\.0\.training\.learnin_rate: .*mean learning_rate\?"),
        (TRAINED + "training = {size = {expert = 4}}\n", r"training\.size\.expert: .*did you mean experts\?"),
        (TRAINED + "training = {size = {vocab_size = 300}}\n", r"training\.size\.vocab_size: there is no such key"),
        (
            '[[arms]]\nname = "a"\nseries = "a/b"\ntrust_remote_code = "yes"\n',
            r"arms\.0: trust_remote_code is 'yes'; expected true or false, which are written without quotes",
        ),
        ('[[arms]]\nname = "a"\nseries = "a/b"\ntrust_remote_code = 1\n', r"trust_remote_code is 1; expected true"),
        (TRAINED + "training = {size = {tie_embeddings = 'no'}}\n", r"tie_embeddings is 'no'; expected true or false"),
        (TRAINED + "training = {learning_rate = 0}\n", r"arms\.0\.training\.learning_rate: .*greater than 0"),
        (TRAINED + "training = {steps = 3}\n", r"arm 'a' with its own training: 14 checkpoints asked of 3 training"),
        (
            TRAINED + "training = {size = {kv_heads = 3}}\n",
            r"arm 'a' with its own training: heads 4 must be a",
        ),
        (TRAINED + "training = {seed = 4294967295}\nreplicates = 2\n", r"seed: .*less than 4294967296"),
        (TRAINED + "replicates = 0\n", r"arms\.0\.replicates: .*equal to 1"),
        (TRAINED + "replicates = 99999999999\n", r"arms\.0\.replicates: .*equal to 1000"),
        (SERIES + "replicates = 2\n", r"'a' has replicates but no `train`.*`group`"),
        (SERIES + "training = {seed = 1}\n", r"'a' has training but no `train`"),
        (SERIES + 'group = "../up"\n', r"arms\.0\.group: .*pattern"),
        (TRAINED + 'replicates = 2\n[[arms]]\nname = "moe"\ntrain = "moe"\n', r"group 'moe' has the name of an arm"),
        (TRAINED + 'replicates = 2\n[[arms]]\nname = "moe-2"\ntrain = "moe"\n', r"arms need different names"),
        (
            TRAINED + 'group = "g"\n[[arms]]\nname = "b"\ntrain = "moe"\ngroup = "g"\n',
            r"arms 'a' and 'b' of group 'g' are trained alike, seed and all",
        ),
        ('name = "x"\n[[arms]]\nreplicates = 2\n', r"arms\.0\.name: Field required"),
    ],
    ids=lambda part: part[-70:],
)
def test_what_groups_and_trainings_of_arms_cannot_be_is_refused(tmp_path, text, message):
    if "replicates" not in text and 'name = "a"' not in text:
        text = text.replace("[[arms]]\n", '[[arms]]\nname = "a"\n', 1)
    with pytest.raises(OptionError, match=message):
        load_experiment(written(tmp_path, text))


def section(text):
    return f'name = "x"\n{text}\n{ARM}'


def arms(*names):
    return 'name = "x"\n' + "".join(f'[[arms]]\nname = "{name}"\ntrain = "moe"\n' for name in names)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (section("[ablation]\nheads = [-1]"), r"ablation\.heads\.0: .*greater than or equal to 1 \(given: -1\)"),
        (section("[ablation]\nheads = [0]"), r"ablation\.heads\.0: .*greater than or equal to 1 \(given: 0\)"),
        (section("[ablation]\nheads = [1, 1]"), r"ablation\.heads: 1 is listed twice"),
        (section("[ablation]\nunits = [-0.5]"), r"ablation\.units\.0: .*greater than 0 \(given: -0\.5\)"),
        (section("[ablation]\nunits = [2.0]"), r"ablation\.units\.0: .*less than or equal to 1 \(given: 2\.0\)"),
        (section("[ablation]\nunits = [nan]"), r"ablation\.units\.0: .*finite number \(given: nan\)"),
        (section("[ablation]\nseed = -1"), r"ablation\.seed: .*equal to 0 \(given: -1\)"),
        (section("[metrics]\nseed = -1"), r"metrics\.seed: .*equal to 0 \(given: -1\)"),
        (section("[metrics]\nfraction = nan"), r"metrics\.fraction: .*finite number"),
        (section("[metrics]\nfraction = true"), r"metrics: fraction is true; expected a number"),
        (section("[metrics]\nwindows = {e = [30, 10]}"), r"window 'e' is \[30, 10\], which ends before it begins"),
        (section("[metrics]\nwindows = {e = [-30, 10]}"), r"metrics\.windows\.e\.0: .*\(given: -30\)"),
        (section("[metrics]\nwindows = {}"), r"metrics\.windows: .*at least 1"),
        (section("[attribution]\ntolerance = nan"), r"attribution\.tolerance: .*finite number"),
        (section("[attribution]\nmemory = 0"), r"attribution\.memory: .*equal to 1 \(given: 0\)"),
        (section('[attribution]\nmemory = "0MB"'), r"attribution\.memory: .*'512MB'"),
        (section(f'[attribution]\nmemory = "{"9" * 5000}"'), r"attribution\.memory: expected bytes.{240,280}$"),
        (section("[attribution]\nmemory = 1152921504606846977"), r"attribution\.memory: .*to 1152921504606846976 "),
        (section('[attribution]\nunits = ["ffn", "ffn"]'), r"attribution\.units: 'ffn' is listed twice"),
        (section("[engine]\nnum_cpus = nan"), r"engine\.num_cpus: .*finite number"),
        (section("[engine]\nnum_gpus = inf"), r"engine\.num_gpus: .*finite number"),
        (section(f'[engine]\nmemory = "{"9" * 5000}"'), r"engine\.memory: expected bytes.{240,280}$"),
        (section("[training]\nlearning_rate = inf"), r"training\.learning_rate: .*finite number"),
        (section("[training]\nadam_beta2 = nan"), r"training\.adam_beta2: .*finite number"),
        (section("[training]\nseed = -1"), r"training\.seed: .*equal to 0"),
        (section("[training]\nseed = 4294967296"), r"training\.seed: .*less than 4294967296"),
        (section("[training]\nsteps = 3"), r"training: 14 checkpoints asked of 3 training steps"),
        (section('[facts]\nsource = "a\\u0000b"'), r"facts: source is 'a\\x00b', with a character that no file name"),
        (section('[facts]\nsource = ""'), r"facts\.source: .*at least 1"),
        (section('[facts]\non_error = "skp"'), r"facts\.on_error: .*did you mean skip\?"),
        (section("[facts]\nseparator = 3"), r"facts\.separator: expected a text"),
        (section('[storage]\ndevice = ""'), r"storage\.device: .*at least 1"),
        (section("when = 1979-05-27"), r"when: there is no such key"),
        (SERIES.replace('"owner/repo"', "[]"), r"arms\.0\.series: .*at least 1"),
        (SERIES.replace('"owner/repo"', '""'), r"arms\.0\.series: .*at least 1"),
        (SERIES.replace('"owner/repo"', '["a/b", "a/b"]'), r"arms\.0\.series: 'a/b' is listed twice"),
        (SERIES + "steps = []\n", r"arms\.0\.steps: .*at least 1"),
        (SERIES + "steps = [10, 10]\n", r"arms\.0\.steps: 10 is listed twice"),
        (SERIES + "steps = [99999999999999999999]\n", r"arms\.0\.steps\.0: .*9223372036854775807"),
        (SERIES + "stages = []\n", r"arms\.0\.stages: .*at least 1"),
        (arms("a", "a.quarantine"), r"arms 'a' and 'a\.quarantine' would both keep results in a\.quarantine\.json"),
        (arms("A", "a"), r"arms 'A' and 'a' would both keep results in a\.zarr"),
        (arms("a" * 101), r"arms\.0\.name: .*at most 100 characters"),
        ("name = " + "[" * 5000, r"nested too deeply"),
        (f'name = "x"\ncount = {"9" * 5000}\n', r"is not TOML: .*4300 digits"),
        ('name = "a\x00b"\n', r"is not TOML"),
        ('name = "x"\nname = "y"\n' + ARM, r"is not TOML: Cannot overwrite a value"),
    ],
    ids=lambda part: part[:70],
)
def test_what_would_fail_after_scoring_is_refused_when_the_file_is_read(tmp_path, text, message):
    with pytest.raises(OptionError, match=message):
        load_experiment(written(tmp_path, text))


def test_names_that_share_no_file_may_look_alike():
    names = ["a", "a.zarr", "a.json", "quarantine", "b" * 100]
    content = {"name": "x", "arms": [{"name": name, "train": "moe"} for name in names]}
    assert [arm.name for arm in Experiment.model_validate(content).arms] == names


@pytest.mark.parametrize(("given", "held"), [("1000", 1000), ('"1000"', "1000"), ('"2GiB"', "2GiB")])
def test_memory_is_a_number_or_an_amount(tmp_path, given, held):
    experiment = load_experiment(written(tmp_path, section(f"[attribution]\nmemory = {given}")))
    assert experiment.attribution.memory == held
    assert Experiment.model_validate_json(experiment.model_dump_json()) == experiment


def test_a_byte_order_mark_is_skipped(tmp_path):
    path = tmp_path / "experiment.toml"
    path.write_bytes(b"\xef\xbb\xbf" + SERIES.encode())
    assert load_experiment(path).name == "x"


def test_what_is_no_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "latin").write_bytes(b"name = '\xff'")
    for place, message in ((".", "is no file"), ("pipe", "is no file"), ("a\0b", "null byte"), ("latin", "not TOML")):
        with pytest.raises(OptionError, match=message):
            load_experiment(tmp_path / place)
    with pytest.raises(OptionError, match="no experiment file could be read"):
        load_experiment(tmp_path / ("a" * 300))


def test_half_a_surrogate_pair_is_refused():
    with pytest.raises(ValidationError, match="half a pair"):
        Experiment.model_validate({"name": "\ud800", "arms": [{"name": "a", "train": "moe"}]})


def test_facts_have_options_that_change_results(tmp_path):
    plain = load_experiment(written(tmp_path, section("")))
    other = load_experiment(written(tmp_path, section('[facts]\nseparator = ""\non_error = "skip"')))
    assert (plain.facts.separator, plain.facts.on_error) == (None, "raise")
    assert plain.differences(other) == [
        "facts.on_error ('raise' there, 'skip' given)",
        "facts.separator (None there, '' given)",
    ]


def test_arms_that_differ_are_told_apart_by_name():
    def of(*names):
        return Experiment.model_validate({"name": "x", "arms": [{"name": name, "train": "moe"} for name in names]})

    assert of("a", "b").differences(of("b", "a")) == ["arms (in another order)"]
    assert of("a", "b").differences(of("b", "c", "d")) == ["arms ('a' there only; 'c', 'd' given only)"]
    many = of(*(f"arm-{k}" for k in range(9)))
    assert of("a").differences(many) == [
        "arms ('a' there only; 'arm-0', 'arm-1', 'arm-2', 'arm-3' and 5 more given only)"
    ]


def test_the_folder_of_a_run_at_an_address_keeps_its_name():
    # As it was when the name was written down, when it had these as they are by default.
    sections = {"ablation": AblationSpec(), "follow": FollowSpec(), "training": TrainingSpec(), "engine": EngineSpec()}
    demo = preset("demo").model_copy(update=sections)
    run = Run(as_folder("memory://bucket/run"), demo, {"facts_sha256": "ab"})
    assert run.local.name == "memory-bucket-run-64e2ddefde611968"  # as every version before called it


def test_a_file_with_the_estimator_s_former_name_is_the_same_experiment(tmp_path):
    file = tmp_path / "old.toml"
    base = 'name = "x"\n[[arms]]\nname = "a"\ntrain = "moe"\n[attribution]\nestimator = "{}"\n'
    file.write_text(base.format("fast"))
    old = load_experiment(file)
    file.write_text(base.format("certified"))
    assert old == load_experiment(file)
    assert old.attribution.asked()["lpi"] == LPI(estimator=Certified())
    file.write_text(base.format("exact") + "tolerance = 0.1\n")
    assert load_experiment(file).attribution.asked()["lpi"].estimator == Exact()
