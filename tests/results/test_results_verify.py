"""Damage to a finished run: found by `verify_run`, never used, and made good by running again."""

import json
import random
import shutil
import threading

import numpy as np
import pytest
import xarray as xr

from gated_lpi import open_run
from gated_lpi.cli import main
from gated_lpi.errors import DamagedError, GatedLPIError, RunError
from gated_lpi.report import build_report
from gated_lpi.results import ResultStore, verify_run
from gated_lpi.results.commit import read_commit, write_commit
from gated_lpi.results.files import NewerFormatError
from gated_lpi.runs import run_experiment
from tiny_runs import BY_LPI, Notes, tiny_experiment
from tiny_store import filled, record, scores
from tiny_text import CAPITALS, save_checkpoint, save_facts

FLIPS = 60


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    facts = save_facts(folder / "facts", [CAPITALS])
    for seed, step in enumerate((0, 10, 20, 30)):
        save_checkpoint(folder / "a" / f"step-{step}", "Qwen3", seed)
    (folder / "a" / "step-20" / "model.safetensors").unlink()
    return tiny_experiment(facts, {"name": "a", "checkpoints": str(folder / "a")}, attribution=BY_LPI)


@pytest.fixture(scope="module")
def sound(spec, tmp_path_factory):
    run = run_experiment(spec, tmp_path_factory.mktemp("runs") / "run")
    build_report(run)
    return run


@pytest.fixture
def copied(sound, tmp_path):
    shutil.copytree(sound.path, tmp_path / "run")
    return open_run(tmp_path / "run")


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place // 8] ^= 1 << place % 8
    path.write_bytes(content)


def seen(run):
    """Everything that the tool reads of a run."""
    return run.scores("a").load(), run.record("a"), run.quarantined("a"), run.experiment, dict(run.info)


def same(one, other):
    xr.testing.assert_identical(one[0].drop_attrs(), other[0].drop_attrs())
    assert one[0].attrs == other[0].attrs
    assert one[1:] == other[1:]


def test_a_sound_run_verifies(sound):
    assert verify_run(sound) == []


@pytest.mark.slow
def test_a_flipped_bit_is_found_or_harmless_never_used(sound):
    expected = seen(sound)
    files = sorted(path for path in sound.path.rglob("*") if path.is_file() and path.stat().st_size)
    picked = random.Random(0)
    harmless = []
    for _ in range(FLIPS):
        file = picked.choice(files)
        content = file.read_bytes()
        flip(file, picked.randrange(8 * len(content)))
        try:
            found = verify_run(open_run(sound.path))
        except GatedLPIError as error:
            refused = str(error)
            assert file.name in refused
        else:
            if not found:
                harmless.append(file)
                same(seen(open_run(sound.path)), expected)
            elif file.parent.parent.name == "results" or "report" in found[0].what:
                # A digest of the report that is damaged itself names the file that it is of.
                assert file.name == "report.sha256" or any(file.name in finding.why for finding in found)
        finally:
            file.write_bytes(content)
    # Only the arrays' own metadata, which are in the group's as well, and spaces in JSON are harmless.
    assert all(file.suffix == ".json" for file in harmless)
    same(seen(open_run(sound.path)), expected)


def chunk(run, name):
    return min(path for path in (run.path / "results" / "a.zarr" / name / "c").rglob("*") if path.is_file())


@pytest.mark.parametrize("name", ["lpi", "step", "relation", "layer", "head_lpi"])
@pytest.mark.parametrize("how", ["flipped", "missing", "array deleted"])
def test_damage_is_never_read_and_running_again_makes_it_good(spec, sound, copied, name, how):
    file = chunk(copied, name)
    if how == "flipped":
        flip(file, 8 * file.stat().st_size // 2)
    elif how == "missing":
        file.unlink()
    else:
        shutil.rmtree(copied.path / "results" / "a.zarr" / name)
    if name == "step" and how == "flipped":  # what records say of checkpoints is read from them, which are sealed
        assert open_run(copied.path).scores("a")["step"].equals(sound.scores("a")["step"])
    else:
        with pytest.raises(DamagedError, match=rf"{name}/c/.*Run the same experiment again"):
            open_run(copied.path).scores("a").load()
    assert any(name in finding.why for finding in verify_run(copied))
    notes = Notes()
    again = run_experiment(spec, copied.path, notes)
    assert any(said.startswith("damaged, and made again: a: ") and f"{name}/c/" in said for said in notes.said)
    assert verify_run(again)[1:] == []
    for variable in ("lpi", "lpi_mean", "head_lpi", "step", "relation", "layer", "target_rank"):
        assert np.array_equal(again.scores("a")[variable], sound.scores("a")[variable]), variable


def test_only_what_is_damaged_is_made_again(spec, copied):
    rows = copied.path / "results" / "a.zarr" / "lpi" / "c"
    for row in ("0", "1"):
        flip(next(path for path in (rows / row).rglob("*") if path.is_file()), 100)
    notes = Notes()
    again = run_experiment(spec, copied.path, notes)
    assert len([said for said in notes.said if said.startswith("damaged, and made again: a: ")]) == 2
    # What was kept comes first in the records, then what was made again.
    assert [record["key"] for record in again.store("a").records()] == ["step-30", "step-0", "step-10"]
    assert again.scores("a")["step"].values.tolist() == [0, 10, 30]


def test_a_trained_checkpoint_that_is_damaged_is_trained_again(tmp_path):
    size = {"hidden": 8, "layers": 1, "heads": 2, "kv_heads": 2, "experts": 2, "expert_width": 8, "vocab_size": 300}
    facts = save_facts(tmp_path / "facts", [CAPITALS])
    training = {"size": size, "steps": 2, "checkpoints": 2, "batch_size": 2, "warmup_steps": 1}
    spec = tiny_experiment(facts, {"name": "t", "train": "moe"}, training=training, attribution=BY_LPI)
    run = run_experiment(spec, tmp_path / "run")
    weights = run.training_folder("t") / "step-2" / "model.safetensors"
    content = weights.read_bytes()
    flip(weights, 8 * len(content) - 3)
    [finding] = verify_run(run)
    assert "model.safetensors is not what was written" in finding.why
    assert "trained again" in finding.remedy
    notes = Notes()
    run_experiment(spec, tmp_path / "run", notes)
    assert any("step-2: model.safetensors is not what was written" in said for said in notes.said)
    assert weights.read_bytes() == content
    assert verify_run(run) == []


def test_the_command_says_what_is_damaged(copied, monkeypatch, capsys):
    def verify(*options):
        monkeypatch.setattr("sys.argv", ["gated-lpi", "verify", str(copied.path), *options])
        try:
            main()
        except SystemExit as ended:
            return ended.code or 0, capsys.readouterr().out
        return 0, capsys.readouterr().out

    assert verify() == (0, f"{copied.path}: all is what was written\n")
    flip(chunk(copied, "lpi"), 50)
    (copied.path / "summary.json").write_text("{}")
    code, out = verify()
    assert code == 4
    assert "damaged: a: step-0" in out
    assert "summary.json is not what was written; write it again: gated-lpi report" in out
    assert "2 parts are damaged" in out
    code, out = verify("--json")
    assert (code, json.loads(out)["damaged"]) == (4, 2)


def test_either_copy_of_the_commit_serves_and_the_other_is_made_again(tmp_path):
    for name in ("arm.zarr/zarr.json", "arm.commit.json"):
        store = filled(tmp_path / name.replace("/", "-"))
        expected = store.open().load()
        file = store.path.parent / name
        text = file.read_bytes()
        file.write_bytes(text.replace(b'"step": 5', b'"step": 6'))
        assert store.open()["step"].values.tolist() == [0, 2, 5]
        assert [str(file) in line for line in store.damage().lines()] == [True]
        assert store.heal(store.damage()) == []
        assert list(store.damage().lines()) == []
        xr.testing.assert_identical(store.open().load(), expected)


def test_a_file_that_cannot_be_read_is_damage(tmp_path):
    store = filled(tmp_path)
    file = store.path / "lpi" / "c" / "1" / "0" / "0"
    file.unlink()
    file.mkdir()
    assert list(store.damage().rows) == ["step-2"]


# --- other formats


def as_format_1(store):
    """What an earlier version would have written."""
    commit = read_commit(store.path)
    write_commit(store.path, type(commit)(commit.group, commit.records, commit.arrays, {}, None))
    (store.path.parent / "arm.commit.json").unlink()
    assert "sha256" not in json.loads((store.path / "zarr.json").read_text())["attributes"]


def test_a_store_of_an_earlier_version_opens_is_extended_and_sealed(tmp_path):
    store, new = filled(tmp_path / "old", (0, 2)), filled(tmp_path / "new", (0, 2, 5))
    (store.path / "step" / "c" / "0").unlink()  # such stores lack chunks that hold nothing but the fill value
    as_format_1(store)
    assert store.open()["step"].values.tolist() == [0, 2]
    assert store.damage().unsealed == 2
    more = scores(5).assign_coords(text=("unit", np.arange(6)))  # a coordinate that there was not yet
    store.append(more, record(5, weights_sha256=f"{5:064x}"))
    xr.testing.assert_identical(
        store.open().load().drop_vars("weights_sha256"), new.open().load().drop_vars("weights_sha256")
    )
    assert store.damage().unsealed == 0
    assert list(store.damage().lines()) == []
    flip(store.path / "lpi" / "c" / "0" / "0" / "0", 77)
    assert list(store.damage().rows) == ["step-0"]


def test_a_store_without_the_shapes_of_its_arrays_opens(tmp_path):
    store = filled(tmp_path, (0, 2))
    as_format_1(store)
    content = json.loads((store.path / "zarr.json").read_text())
    del content["consolidated_metadata"]
    (store.path / "zarr.json").write_text(json.dumps(content))
    assert store.open()["step"].values.tolist() == [0, 2]


def test_what_a_later_version_wrote_is_refused(copied):
    (copied.path / "run.json").write_text((copied.path / "run.json").read_text().replace('"format": 2', '"format": 3'))
    with pytest.raises(NewerFormatError, match=r"run\.json was written by a later version.*format 3.*upgrade"):
        open_run(copied.path)


def test_a_store_of_a_later_version_is_refused(tmp_path):
    store = filled(tmp_path)
    text = (store.path / "zarr.json").read_text()
    (store.path / "zarr.json").write_text(text.replace('"format": 2', '"format": 3'))
    for action in (store.open, store.keys, lambda: store.append(scores(9), record(9))):
        with pytest.raises(NewerFormatError, match="later version"):
            action()


def test_a_sealed_file_that_was_edited_is_refused(copied):
    text = (copied.path / "run.json").read_text()
    (copied.path / "run.json").write_text(text.replace('"draws": 3', '"draws": 4'))
    with pytest.raises(RunError, match=r"run\.json.*damaged or edited after it was written"):
        open_run(copied.path)


# --- snapshots


@pytest.mark.slow
def test_a_reader_sees_whole_checkpoints_while_some_are_added(tmp_path):
    store = filled(tmp_path, (0,))
    ended = threading.Event()

    def add():
        for step in range(1, 25):
            store.append(scores(step), record(step))
        ended.set()

    thread = threading.Thread(target=add)
    thread.start()
    polls = 0
    reader = ResultStore(store.path)
    first = reader.open()
    while not ended.is_set() or not polls:
        opened = reader.open()
        seen = opened.load()
        steps = seen["step"].values.tolist()
        assert steps == list(range(len(steps)))
        assert np.array_equal(seen["lpi"][-1], scores(steps[-1])["lpi"])
        assert len(seen.attrs["checkpoints"]) == len(steps)
        polls += 1
    thread.join()
    assert first.load()["step"].values.tolist() == [0]  # as it was when it was opened
    assert polls > 3
