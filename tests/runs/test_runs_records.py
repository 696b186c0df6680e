"""Files of a run that were damaged or edited: an error that says which and what to do, or work that is done again."""

import json
import re

import pytest

from gated_lpi.checkpoints import Hub
from gated_lpi.cli import main
from gated_lpi.errors import OptionError, RunError, RunExistsError
from gated_lpi.experiments import Experiment
from gated_lpi.results import create_run, open_run
from gated_lpi.runs import run_experiment
from gated_lpi.runs.choose import choose_checkpoints
from synthetic_run import MOE, record
from tiny_runs import Notes, tiny_experiment
from tiny_text import CAPITALS, save_checkpoint, save_facts

DAMAGE = {
    "cut off": lambda text: text[: len(text) // 2],
    "empty": lambda text: text[:0],
    "not UTF-8": lambda text: text[:-10] + b"\xff" + text[-10:],
    "null": lambda _: b"null",
    "a list": lambda _: b"[]",
    "an empty object": lambda _: b"{}",
    "a key twice": lambda text: text.replace(
        b"{", b'{"attributes": {}, "checkpoints": [], "arm": "a", "experiment": {}, ', 1
    ),
    "nested too deeply": lambda _: b"[" * 100_000,
    "a long integer": lambda _: b'{"checkpoints": ' + b"9" * 5000 + b"}",
}
FILES = {
    "run.json": "a run's description.*run again into a new folder",
    "results/a.json": "ablations and top units of an arm.*delete it, and run again",
    "results/a.quarantine.json": "a list of quarantined checkpoints.*delete it",
    "results/a.zarr/zarr.json": "store of results.*run again",
}


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    """An experiment on two checkpoints, one of which cannot be used."""
    folder = tmp_path_factory.mktemp("source")
    facts = save_facts(folder / "facts", [CAPITALS])
    for seed, step in enumerate((0, 10)):
        save_checkpoint(folder / "a" / f"step-{step}", "Qwen3", seed)
    (folder / "a" / "step-0" / "model.safetensors").unlink()
    return tiny_experiment(facts, {"name": "a", "checkpoints": str(folder / "a")})


@pytest.fixture(scope="module")
def run(spec, tmp_path_factory):
    return run_experiment(spec, tmp_path_factory.mktemp("runs") / "run")


def unsealed(content):
    """What a file held before there were digests."""
    return {key: value for key, value in content.items() if key not in ("format", "sha256")}


def read_all(folder):
    opened = open_run(folder)
    opened.quarantined("a")
    opened.scores("a")
    opened.record("a")


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_with_what_to_do(run, name, damage):
    file, copy = run.path / name, run.path / "results" / "a.commit.json"
    sound = file.read_bytes()
    read_all(run.path)
    try:
        file.write_bytes(DAMAGE[damage](sound))
        if file.name == "zarr.json":
            read_all(run.path)  # it is kept twice
            copy.write_bytes(DAMAGE[damage](sound))
        with pytest.raises(RunError, match=FILES[name]) as refused:
            read_all(run.path)
        assert name.removesuffix("/zarr.json") in str(refused.value)
    finally:
        file.write_bytes(sound)
        if file.name == "zarr.json":
            copy.write_bytes(sound)
    read_all(run.path)


def test_a_damaged_record_is_made_again(run, spec):
    file = run.path / "results" / "a.json"
    sound = run.record("a")
    file.write_bytes(file.read_bytes()[:100])
    notes = Notes()
    assert run_experiment(spec, run.path, notes).record("a") == sound
    assert any(said.startswith("a: the last checkpoint is ablated again: ") for said in notes.said)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"hit": 2.0}, "ablation.hit"),
        ({"n_prompts": 0}, "ablation.n_prompts"),
        ({"step": None}, "ablation.step"),
        ({"hit": float("nan")}, "ablation.hit: .*finite"),
        ({"checkpoint": "\ud800"}, "surrogate pair"),
    ],
)
def test_a_record_holds_what_can_be_reported(run, changes, why):
    file = run.path / "results" / "a.json"
    sound = file.read_text()
    content = unsealed(json.loads(sound))
    content["ablation"] |= changes
    file.write_text(json.dumps(content))
    with pytest.raises(RunError, match=why):
        run.record("a")
    file.write_text(sound)


def test_a_record_of_another_arm_is_refused(run):
    file = run.path / "results" / "a.json"
    sound = file.read_text()
    file.write_text(record("b", MOE).model_dump_json())
    with pytest.raises(RunError, match="it is of an arm 'b'"):
        run.record("a")
    file.write_text(sound)


def test_a_record_of_before_says_nothing_of_what_was_skipped(run):
    file = run.path / "results" / "a.json"
    sound = file.read_text()
    content = unsealed(json.loads(sound))
    del content["ablation"]["skipped"]
    file.write_text(json.dumps(content))
    assert run.record("a").ablation.skipped == ()
    file.write_text(sound)


def test_a_description_of_before_is_taken_up(run, spec):
    file = run.path / "run.json"
    content = unsealed(json.loads(file.read_text()))
    del content["experiment"]["facts"]["separator"]
    del content["experiment"]["facts"]["on_error"]
    file.write_text(json.dumps(content))
    before = (run.path / "results" / "a.zarr" / "zarr.json").stat().st_mtime_ns
    assert open_run(run.path).experiment == spec
    run_experiment(spec, run.path)
    assert (run.path / "results" / "a.zarr" / "zarr.json").stat().st_mtime_ns == before


def test_a_run_at_an_address_keeps_its_folder_here_when_options_are_new(monkeypatch, tmp_path):
    monkeypatch.setenv("GATED_LPI_CACHE", str(tmp_path))
    content = {"name": "x", "arms": [{"name": "a", "train": "moe"}]}
    plain = create_run("memory://folder-of-before", Experiment.model_validate(content), "f")
    digest = "4f7d7c763bbb5f0c"  # as the versions before any of them called it
    assert plain.local.name.endswith(digest)
    other = Experiment.model_validate(content | {"facts": {"on_error": "skip"}})
    assert create_run("memory://folder-of-others", other, "f").local.name[-16:] != digest
    grouped = Experiment.model_validate({"name": "x", "arms": [content["arms"][0] | {"group": "g"}]})
    assert create_run("memory://folder-of-groups", grouped, "f").local.name[-16:] != digest


def test_a_run_of_before_arms_had_groups_and_training_goes_on(tmp_path):
    spec = Experiment.model_validate({"name": "x", "arms": [{"name": "a", "train": "moe"}]})
    file = create_run(tmp_path, spec, "f").path / "run.json"
    content = json.loads(file.read_text())
    for key in ("training", "group", "replicates"):
        del content["experiment"]["arms"][0][key]
    del content["experiment"]["corpus"]
    for key in ("spacing", "shift"):
        del content["experiment"]["training"][key]
    for key in ("format", "sha256"):  # as an earlier version wrote it
        del content[key]
    file.write_text(json.dumps(content))
    assert create_run(tmp_path, spec, "f").experiment == spec
    grouped = Experiment.model_validate({"name": "x", "arms": [{"name": "a", "train": "moe", "group": "g"}]})
    with pytest.raises(RunExistsError, match=r"differs in arms"):
        create_run(tmp_path, grouped, "f")


ENTRY = {"path": None, "key": "s", "step": 1, "tokens": None, "stage": "", "commit": "a" * 40, "repo": "owner/repo"}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ({"checkpoints": []}, "at least 1"),
        ({"checkpoints": [ENTRY, ENTRY]}, "'s' is listed twice"),
        ({"checkpoints": [ENTRY | {"step": "1"}]}, "checkpoints.0.step: .*whole number"),
        ({"checkpoints": [ENTRY | {"step": 2**63}]}, "checkpoints.0.step: "),
        ({"checkpoints": [ENTRY | {"commit": "../../home"}]}, "checkpoints.0.commit: .*pattern"),
        ({"checkpoints": [ENTRY | {"path": "/etc"}]}, "checkpoints.0.path"),
        ({"checkpoints": [{"key": "s"}]}, "checkpoints.0.step: Field required"),
    ],
)
def test_chosen_checkpoints_are_read_strictly(tmp_path, content, why):
    (tmp_path / "a.json").write_text(json.dumps(content))
    spec = Experiment.model_validate({"name": "x", "arms": [{"name": "a", "series": "owner/repo"}]})
    with pytest.raises(RunError, match=rf"a\.json cannot be read as the chosen .*{why}.*delete it"):
        choose_checkpoints(spec, {}, Hub(cache_dir=tmp_path, offline=True), lambda *_: None, tmp_path)


@pytest.mark.parametrize(
    ("series", "suite"),
    [
        ("ling-mini", "ling-mini"),
        (["inclusionAI/Ling-mini-base-2.0-5T", "inclusionAI/Ling-mini-base-2.0-10T"], "ling-mini"),
        ("allenai/DataDecide-c4-1B", "datadecide"),
        ("allenai/OLMo-7B", "olmo"),
    ],
)
def test_a_series_that_cannot_be_run_is_refused_before_anything_is_listed(tmp_path, series, suite):
    spec = Experiment.model_validate({"name": "x", "arms": [{"name": "a", "series": series}]})
    words = rf"arm 'a' has series = .*suite {suite}, whose models CANNOT BE RUN: .*Choose"
    with pytest.raises(OptionError, match=words):
        choose_checkpoints(spec, {}, Hub(cache_dir=tmp_path, offline=True), lambda *_: None, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_rows_that_are_gone_are_an_error(run):
    zarr_json = run.path / "results" / "a.zarr" / "zarr.json"
    sound = zarr_json.read_text()
    content = json.loads(sound)
    for key in ("format", "sha256", "digests"):  # as an earlier version wrote it
        del content["attributes"][key]
    content["attributes"]["checkpoints"].append({"key": "more", "step": 20})
    copy = run.path / "results" / "a.commit.json"
    copy.unlink()
    zarr_json.write_text(json.dumps(content))
    with pytest.raises(RunError, match=r"lists 2 checkpoints, of which \w+ has not as many rows.*run again"):
        run.scores("a")
    zarr_json.write_text(sound)
    copy.write_text(sound)


def test_the_command_ends_with_a_message(run, monkeypatch, capsys):
    file = run.path / "results" / "a.json"
    sound = file.read_bytes()
    file.write_bytes(b"{")
    monkeypatch.setattr("sys.argv", ["gated-lpi", "report", str(run.path)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    assert "a.json cannot be read" in " ".join(capsys.readouterr().err.split())
    file.write_bytes(sound)


def test_metrics_reads_summaries_alone(run, monkeypatch, capsys):
    file = run.path / "results" / "a.json"
    sound = file.read_bytes()
    file.write_bytes(b"{")
    monkeypatch.setattr("sys.argv", ["gated-lpi", "metrics", str(run.path), "--json"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    assert list(json.loads(capsys.readouterr().out)) == ["a"]
    file.write_bytes(sound)


def test_metrics_of_a_run_without_results_says_what_to_do(tmp_path, monkeypatch, capsys):
    create_run(tmp_path, Experiment.model_validate({"name": "x", "arms": [{"name": "a", "train": "moe"}]}), "f")
    monkeypatch.setattr("sys.argv", ["gated-lpi", "metrics", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(r"has no results to measure yet \(.*a\.zarr holds no complete checkpoint yet", said)
    assert "run the experiment until a checkpoint is complete" in said
