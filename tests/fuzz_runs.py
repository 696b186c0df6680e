"""Fuzz targets for the files of a run: experiments and records are read as they are meant, or refused by the tree."""

import json
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import xarray as xr

from fuzzing import fuzzed_bytes, fuzzed_json
from gated_lpi._common.flatten import flatten
from gated_lpi.checkpoints import Checkpoint, Hub
from gated_lpi.errors import GatedLPIError
from gated_lpi.experiments import Experiment, load_experiment, preset, presets
from gated_lpi.report import charts, load_results
from gated_lpi.report.arms import KIND_NAMES
from gated_lpi.report.tables import show
from gated_lpi.report.tabulate import ablations, top_units
from gated_lpi.results import ResultStore, open_run
from gated_lpi.results.files import FORMAT_KEY, SEAL, NewerFormatError, unsealed
from gated_lpi.results.quarantine import Quarantine
from gated_lpi.results.run import Run, create_run
from gated_lpi.runs.ablations import percentage
from gated_lpi.runs.choose import choose_checkpoints
from gated_lpi.runs.downloads import Ledger, listed_bytes
from gated_lpi.training import TrainingSpec
from gated_lpi.training.folder import claim
from synthetic_run import DENSE, MOE, SyntheticRun, record

PRESETS = Path(__file__).parents[1] / "src" / "gated_lpi" / "presets"
MAXIMAL = """
name = "everything"
[facts]
source = "builtin"
templates = "held_out"
separator = "auto"
on_error = "skip"
[attribution]
norm = "recomputed"
target = "top1"
estimator = "exact"
tolerance = 1e-4
units = ["ffn", "attention", "heads"]
positions = "resolved"
batch_size = 12
memory = "8GB"
[metrics]
fraction = 0.07
draws = 20
seed = 3
windows = {early = [0, 1000], "late ones" = [1000, 100000]}
[ablation]
heads = [1, 10]
units = [0.01, 0.5]
random_draws = 3
k = 5
top_units = 2
seed = 1
[training]
steps = 30
batch_size = 4
learning_rate = 0.01
warmup_steps = 2
decay = "cosine"
checkpoints = 4
seed = 2
[training.size]
hidden = 64
experts_per_token = 1
normalise_gates = false
[engine]
kind = "ray"
num_cpus = 2.5
num_gpus = 0.5
memory = "64GB"
retries = 1
[storage]
cache_dir = "$HOME/hub"
disk_budget = "1.5TB"
endpoint = "https://hub.test"
offline = true
device_map = "auto"
keep_downloads = true
[[arms]]
name = "trained"
train = "moe"
[[arms]]
name = "folder"
checkpoints = "/data/run"
[[arms]]
name = "several"
series = ["owner/a", "owner/b"]
steps = ["10K", 600000]
stages = ["stage1"]
[[arms]]
name = "suite"
series = "olmoe-0924"
count = 8
spacing = "even"
[[arms]]
name = "aligned"
series = "owner/c"
tokens_aligned_with = "several"
"""


def accepted_or_none(read, message):
    """What reading gives; None if it was refused, in a message that says this."""
    try:
        return read()
    except NewerFormatError:
        return None
    except GatedLPIError as error:
        refused = str(error)
    assert message in refused
    return None


def assert_sane(experiment):
    """What was accepted is the same after being written, and its numbers can be used."""
    again = Experiment.model_validate_json(experiment.model_dump_json())
    assert again == experiment
    assert experiment.differences(again) == []
    json.dumps(experiment.model_dump(mode="json"), allow_nan=False).encode()
    assert all(0 < share <= 1 and percentage(share) for share in experiment.ablation.units)
    assert all(count >= 1 for count in experiment.ablation.heads)
    assert all(0 <= first <= last for first, last in (experiment.metrics.windows or {}).values())
    assert all(len(arm.name) <= 100 for arm in experiment.arms)
    names = [arm.name.casefold() for arm in experiment.arms]
    assert len(set(names)) == len(names)


def experiment_files(folder: Path, first: int, count: int) -> Iterator[str]:
    """Experiment files."""
    file = folder / "experiment.toml"
    samples = [MAXIMAL.encode(), *(path.read_bytes() for path in sorted(PRESETS.glob("*.toml")))]
    assert len(samples) == 1 + len(presets())
    for content in fuzzed_bytes(samples, count, first):
        file.write_bytes(content)
        experiment = accepted_or_none(lambda: load_experiment(file), "experiment")
        if experiment is None:
            yield "refused"
            continue
        assert_sane(experiment)
        yield "taken"


def description():
    return {
        "experiment": Experiment.model_validate(tomllib.loads(MAXIMAL)).model_dump(mode="json"),
        "facts_sha256": "f" * 64,
        "gated_lpi": "0.1.0",
    }


def descriptions_of_runs(folder: Path, first: int, count: int) -> Iterator[str]:
    """Run.json."""
    samples = [description(), description() | {"experiment": preset("demo").model_dump(mode="json")}]
    file = folder / "run.json"
    for content in fuzzed_json(samples, count, first):
        file.write_bytes(content)
        run = accepted_or_none(lambda: open_run(folder), "run.json cannot be read as a run's description")
        if run is None:
            yield "refused"
            continue
        assert_sane(run.experiment)
        json.dumps(run.info)
        assert run.local == folder
        assert (
            accepted_or_none(lambda run=run: create_run(folder, run.experiment, "other facts"), "another run") is None
        )
        yield "taken"


def records_of_arms(folder: Path, first: int, count: int) -> Iterator[str]:
    """Results/ARM.json."""
    plans = {"moe": MOE, "dense": DENSE}
    samples = [json.loads(record("a", plan).model_dump_json()) for plan in plans.values()]
    samples[0]["ablation"]["skipped"] = ["no heads are ablated"]
    results = load_results(SyntheticRun(folder, plans))
    run, file = one_arm(folder), folder / "results" / "a.json"
    for content in fuzzed_json(samples, count, first):
        file.write_bytes(content)
        found = accepted_or_none(lambda: run.record("a"), "a.json cannot be read as ablations and top units of an arm")
        if found is None:
            yield "refused"
            continue
        run.write_record(found)
        assert run.record("a") == found
        arm = replace(results.arms[0], record=found)
        for table in (ablations(replace(results, arms=(arm,))), *(top_units(arm, kind) for kind in KIND_NAMES)):
            for row in table.rows:
                "".join(show(value, column.form) for value, column in zip(row, table.columns, strict=True)).encode()
        charts.ablation({"a": found})
        yield "taken"


def one_arm(folder):
    """A run of one arm of a hub, as it is in its folder."""
    (folder / "results").mkdir()
    (folder / "series").mkdir()
    spec = Experiment.model_validate({"name": "x", "arms": [{"name": "a", "series": "owner/repo"}]})
    return Run(folder, spec, {})


QUARANTINED = {
    "checkpoints": [
        {"key": "step-1", "step": 1, "tokens": None, "stage": "", "commit": "", "quarantined": "no", "error": "E"},
        {"key": "b", "step": 2, "tokens": 5, "stage": "s", "commit": "c" * 40, "quarantined": "é", "error": "F"},
    ]
}


def quarantines(folder: Path, first: int, count: int) -> Iterator[str]:
    """Quarantine."""
    file = folder / "a.quarantine.json"
    quarantine = Quarantine(file)
    for content in fuzzed_json([QUARANTINED], count, first):
        file.write_bytes(content)
        found = accepted_or_none(quarantine.records, "a.quarantine.json cannot be read as a list of quarantined")
        if found is None:
            yield "refused"
            continue
        for one in found:
            f"{one['key']} {one['step']:,} ({one['error']}): {one['quarantined']}".encode()
        quarantine.add(QUARANTINED["checkpoints"][0])
        quarantine.remove("step-1")
        assert quarantine.records() == [one for one in found if one["key"] != "step-1"]
        yield "taken"


CHOSEN = [
    Checkpoint(None, "step-1", 1, None, "", "a" * 40, "owner/repo", "step-1"),
    Checkpoint(None, "stage2-step5", 5, 70, "stage2", "b" * 40, "owner/repo", "stage2-step5", "index"),
]


def chosen_series(folder: Path, first: int, count: int) -> Iterator[str]:
    """Series/ARM.json."""
    run = one_arm(folder)
    hub = Hub(endpoint="https://hub.test", cache_dir=folder / "cache", offline=True)
    file = folder / "series" / "a.json"
    for content in fuzzed_json([{"checkpoints": [asdict(c) for c in CHOSEN]}], count, first):
        file.write_bytes(content)
        found = accepted_or_none(
            lambda: choose_checkpoints(run.experiment, {}, hub, lambda *_: None, file.parent),
            "a.json cannot be read as the chosen checkpoints of an arm",
        )
        if found is None:
            yield "refused"
            continue
        (chosen,) = found.values()
        assert len({c.key for c in chosen}) == len(chosen) > 0
        for c in chosen:
            assert c.path is None
            assert all(isinstance(text, str) for text in (c.key, c.stage, c.revision, c.step_unit))
            assert isinstance(c.step, int)
            assert "/" not in c.commit
            listed_bytes(c, hub)
        yield "taken"


def ledgers_of_downloads(folder: Path, first: int, count: int) -> Iterator[str]:
    """Downloads.json."""
    hub = Hub(endpoint="https://hub.test", cache_dir=folder / "cache")
    file = folder / "downloads.json"
    ledger = Ledger(file)
    for checkpoint in CHOSEN:
        assert ledger.announce(checkpoint, hub)
    samples = [unsealed(json.loads(file.read_text()))]  # what is sealed is refused for its digest, whatever it holds
    for content in fuzzed_json(samples, count, first):
        file.write_bytes(content)
        known = [ledger.announced(checkpoint, hub) for checkpoint in CHOSEN]
        ledger.forget(CHOSEN[0])
        assert [ledger.announced(checkpoint, hub) for checkpoint in CHOSEN] == [False, known[1]]
        assert ledger.announce(CHOSEN[0], hub)
        assert ledger.announced(CHOSEN[0], hub)
        yield "taken" if any(known) else "refused"


def logs_of_stores(folder: Path, first: int, count: int) -> Iterator[str]:
    """The zarr.json of a store."""
    store = ResultStore(folder / "a.zarr")
    for step in (1, 2):
        scores = xr.Dataset({"lpi": ("unit", np.arange(3.0))}, {"layer": ("unit", np.arange(3))})
        shape = {"layers": 1, "experts": 4}
        store.append(scores, {"key": f"s{step}", "step": step, "tokens": None, "shape": shape, "coverage": 1.0})
    file = folder / "a.zarr" / "zarr.json"
    (folder / "a.commit.json").unlink()  # with it, no odd content would be looked at
    sound, unsealed_too = json.loads(file.read_text()), json.loads(file.read_text())
    for key in (FORMAT_KEY, SEAL):
        del unsealed_too["attributes"][key]
    for number, content in enumerate(fuzzed_json([sound, *[unsealed_too] * 3], count, first)):
        file.write_bytes(content)
        keys = accepted_or_none(store.keys, "store of results")
        if keys is None:
            yield "refused"
            continue
        assert all(isinstance(key, str) for key in keys)
        opened = accepted_or_none(store.open, "a.zarr") if number % 10 == 0 else None
        if opened is not None:
            assert opened.sizes["checkpoint"] == len(keys)
            if SEAL in json.loads(content)["attributes"]:  # in format 1, without it, values are what zarr makes of them
                assert np.isfinite(opened["lpi"].to_numpy()).all()
        yield "taken"


def records_of_training(folder: Path, first: int, count: int) -> Iterator[str]:
    """Arm.json of what was trained."""
    identity = {"arm": {"name": "a", "kind": "moe"}, "spec": TrainingSpec().model_dump(), "corpus_sha256": "0" * 64}
    claim(folder / "a", identity)
    file = folder / "a" / "arm.json"
    for content in fuzzed_json([identity], count, first):
        file.write_bytes(content)
        if accepted_or_none(lambda: claim(folder / "a", identity) or True, "") is None:
            yield "refused"
            continue
        assert flatten(json.loads(content)) == flatten(json.loads(json.dumps(identity)))
        yield "taken"


TARGETS = (
    *(experiment_files, descriptions_of_runs, records_of_arms, quarantines),
    *(chosen_series, ledgers_of_downloads, logs_of_stores, records_of_training),
)
