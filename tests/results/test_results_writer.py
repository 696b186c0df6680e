"""One writer at a time: a second run is refused, a killed one leaves nothing in the way, readers need nothing."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid

import fsspec
import pytest

from gated_lpi import open_run
from gated_lpi._common.folders import as_folder, names, sizes, write_atomically
from gated_lpi.errors import RunBusyError, RunError, WriteError
from gated_lpi.experiments import Experiment
from gated_lpi.results import writer, writer_of
from gated_lpi.results.writer import LOCK, OWNER, writing
from gated_lpi.runs import run_experiment
from tiny_runs import tiny_experiment
from tiny_store import filled, record, scores
from tiny_text import CAPITALS, save_checkpoint, save_facts


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    facts = save_facts(folder / "facts", [CAPITALS])
    for seed, step in enumerate((0, 10)):
        save_checkpoint(folder / "a" / f"step-{step}", "Qwen3", seed)
    return tiny_experiment(facts, {"name": "a", "checkpoints": str(folder / "a")})


@pytest.fixture
def address():
    return as_folder(f"memory://{uuid.uuid4().hex}/run")


def held_by_a_child(folder, then):
    """A child that holds the folder until it is killed; what `then` gives meanwhile."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with writing(folder):
            os.write(write, b"x")
            time.sleep(60)
        os._exit(1)
    os.read(read, 1)
    try:
        return then(child)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(read)
        os.close(write)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_second_run_is_refused_and_the_owner_is_named(spec, tmp_path):
    run_experiment(spec, tmp_path / "run")
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*.json") if p.name != OWNER}

    def second(child):
        with pytest.raises(RunBusyError, match=rf"written by process {child} on .*, since 20.*wait until that one"):
            run_experiment(spec, tmp_path / "run")
        assert open_run(tmp_path / "run").scores("a").load().sizes["checkpoint"] == 2  # readers need no lock
        assert writer_of(tmp_path / "run").process == child
        return child

    held_by_a_child(tmp_path / "run", second)
    assert {path: path.read_bytes() for path in before} == before
    assert (tmp_path / "run" / OWNER).exists()  # it was killed
    assert writer_of(tmp_path / "run") is None
    run_experiment(spec, tmp_path / "run")
    assert not (tmp_path / "run" / OWNER).exists()


@pytest.mark.slow
def test_two_runs_at_once_end_with_one_run(spec, tmp_path):
    """Two commands that start together: one does the work, the other says who does, and nothing is broken."""
    import tomllib

    content = spec.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    lines = [f"name = {json.dumps(content.pop('name'))}"]
    arms = content.pop("arms")
    for section, keys in content.items():
        lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
    for arm in arms:
        lines += ["[[arms]]", *(f"{key} = {json.dumps(value)}" for key, value in arm.items())]
    file = tmp_path / "experiment.toml"
    file.write_text("\n".join(lines))
    assert Experiment.model_validate(tomllib.loads(file.read_text())) == spec
    command = [sys.executable, "-m", "gated_lpi", "run", str(file), "--out", str(tmp_path / "run")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ended = [(*process.communicate(timeout=300), process.returncode) for process in both]
    codes = sorted(code for *_, code in ended)
    assert codes in ([0, 1], [0, 0]), ended  # one may have ended before the other looked
    for _, err, code in ended:
        assert code == 0 or "is being written by process" in " ".join(err.split())
    assert open_run(tmp_path / "run").scores("a").load().sizes["checkpoint"] == 2


def test_a_folder_that_is_refused_gets_no_lock(spec, tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(RunError, match="new or empty folder"):
        run_experiment(spec, tmp_path)
    assert names(tmp_path) == ["mine.txt"]


def test_a_folder_in_which_only_a_lock_was_made_is_new(spec, tmp_path):
    with writing(tmp_path):
        pass
    assert names(tmp_path) == [LOCK]
    run_experiment(spec, tmp_path)


# --- leases


def test_a_lease_keeps_others_out_until_it_is_given_back(spec, address, monkeypatch):
    monkeypatch.setattr(writer.socket, "gethostname", lambda: "elsewhere")
    with writing(address):
        monkeypatch.setattr(writer.socket, "gethostname", lambda: "here")
        with pytest.raises(RunBusyError, match=r"on elsewhere.*Its lease is void 10 minutes after.*delete memory:"):
            run_experiment(spec, address)
        monkeypatch.setattr(writer.socket, "gethostname", lambda: "elsewhere")
    assert writer_of(address) is None
    with writing(address):
        pass


def owner(**changes):
    now = time.time()
    plain = {"host": "elsewhere", "process": 1, "command": "x", "token": "t", "since": now, "renewed": now}
    return json.dumps(plain | changes)


def test_a_lease_without_a_sign_of_life_is_void(address):
    write_atomically(address / OWNER, owner(renewed=time.time() - 601))
    with writing(address):
        assert writer_of(address).process == os.getpid()


def test_a_lease_of_a_process_of_this_machine_that_is_gone_is_void(address):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    write_atomically(address / OWNER, owner(host=writer.socket.gethostname(), process=gone.pid))
    with writing(address):
        pass


def test_a_lease_is_renewed_and_a_lost_one_is_noticed(address, monkeypatch):
    monkeypatch.setattr(writer, "RENEW", 0.02)
    with writing(address) as check:
        first = writer_of(address).renewed
        deadline = time.monotonic() + 20
        while writer_of(address).renewed == first:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        check()
        write_atomically(address / OWNER, owner())
        with pytest.raises(RunBusyError, match=r"on elsewhere.*took over"):
            check()
        time.sleep(0.1)
        assert writer_of(address).host == "elsewhere"  # and it is left to its new owner
    assert writer_of(address).host == "elsewhere"


def test_a_lost_lease_ends_a_run_before_it_writes(spec, address):
    class Rival:
        def note(self, _text):
            pass

        def task(self, _label):
            write_atomically(address / OWNER, owner())
            from contextlib import nullcontext

            return nullcontext(lambda _done, _total: None)

    with pytest.raises(RunBusyError, match="took over"):
        run_experiment(spec, address, Rival())
    assert not [name for name in fsspec.filesystem("memory").find(str(address)) if "a.zarr" in name]


def test_a_store_refuses_to_append_to_what_it_did_not_read(tmp_path, monkeypatch):
    store = filled(tmp_path, (0, 2))
    extend = type(store)._refuse_other_axes

    def rival(self, commit, row):
        monkeypatch.undo()
        filled_by_other.append(scores(7), record(7))
        return extend(self, commit, row)

    filled_by_other = type(store)(store.path)
    monkeypatch.setattr(type(store), "_refuse_other_axes", rival)
    with pytest.raises(RunError, match="another process wrote to"):
        store.append(scores(9), record(9))
    assert store.keys() == ["step-0", "step-2", "step-7"]


# --- drafts and errors


def test_writers_of_one_file_do_not_disturb_each_other(tmp_path):
    import threading

    texts = [str(number) * 100_000 for number in range(8)]

    def write(text):
        for _ in range(20):
            write_atomically(tmp_path / "file", text)
            assert (tmp_path / "file").read_text() in texts

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names(tmp_path) == ["file"]


def test_a_draft_that_was_left_long_ago_is_deleted(tmp_path):
    old, new = tmp_path / ".file.0123.draft", tmp_path / ".file.4567.draft"
    for path in (old, new):
        path.write_text("x")
    os.utime(old, (0, 0))
    write_atomically(tmp_path / "file", "y")
    assert sorted(names(tmp_path)) == [".file.4567.draft", "file"]


def test_a_place_that_cannot_be_written_to_is_an_error_with_what_to_do(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(WriteError, match=r"could not be written: .*Free space.*run the same command again"):
        write_atomically(tmp_path / "none" / "x", "y")
    with (
        pytest.raises(WriteError, match=r"could not be written: (File exists|Not a directory)"),
        writing(tmp_path / "file"),
    ):
        pass


def test_a_draft_that_goes_while_a_reader_looks_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "kept").write_bytes(b"12345")
    draft = tmp_path / "draft.partial"
    draft.write_bytes(b"1")
    walk = os.walk

    def gone(folder):
        listed = list(walk(folder))
        draft.unlink()
        return listed

    monkeypatch.setattr(os, "walk", gone)
    assert sizes(tmp_path) == {"kept": 5}
