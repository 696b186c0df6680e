"""SIGINT and SIGTERM end the program within seconds, with one line and 128 + the signal, whatever it is doing."""

import functools
import signal
import subprocess
import sys
import time

import pytest

from gated_lpi._common import signals
from gated_lpi.checkpoints import Checkpoint
from gated_lpi.errors import ModelError
from gated_lpi.runs.failures import failed
from gated_lpi.runs.job import Job
from torture.signals import LIMIT, attempt, experiment, verdict

BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
SOON = 1.0  # seconds in which a program that can be interrupted is gone

PROGRAM = """
import os, signal, sys, threading, time
from gated_lpi._common import signals

class Deaf:
    def __del__(self):
        ready()
        time.sleep(60)

def ready():
    print("ready", flush=True)

def program():
    signals.say_at_interruption("what is kept")
    body()

{body}
signals.ended_by_signals(program, leave=True)
"""
BODIES = {
    "waiting": """
def body():
    ready()
    time.sleep(60)
""",
    "in a destructor": """
def body():
    Deaf()
    time.sleep(60)
""",
    "in code that lets nothing pass": """
def body():
    for _ in range(3):
        try:
            ready()
            time.sleep(60)
        except BaseException:
            pass
    time.sleep(60)
""",
    "in code that makes another error of it": """
def body():
    try:
        ready()
        time.sleep(60)
    except BaseException as error:
        raise ValueError("something else")
""",
    "with a thread that goes on": """
def body():
    threading.Thread(target=time.sleep, args=(60,)).start()
    ready()
    time.sleep(60)
""",
}


def started(body):
    """A program that is in the middle of it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a child of a job in the background would ignore it
    command = [sys.executable, "-c", PROGRAM.format(body=body)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "ready\n"
    return child


def end_of(child, limit):
    """What a program says and how it ends, which it has to do in so many seconds."""
    before = time.monotonic()
    with child:
        try:
            _, said = child.communicate(timeout=30)
        finally:
            child.kill()
    assert time.monotonic() - before < limit, said
    return said, child.returncode


@BOTH
@pytest.mark.parametrize("where", BODIES)
def test_a_signal_ends_a_program_soon(where, number):
    child = started(BODIES[where])
    child.send_signal(number)
    assert end_of(child, SOON) == ("what is kept\n", 128 + number)


KEEPER = """
def body():
    signals.GRACE = {grace}
    kept = []
    while True:
        try:
            ready()
            time.sleep(60)
        except BaseException as error:
            kept.append(error)
"""


@BOTH
def test_what_keeps_the_signal_to_itself_is_ended_when_time_is_up(number):
    child = started(KEEPER.format(grace=0.5))
    child.send_signal(number)
    before = time.monotonic()
    assert end_of(child, 0.5 + SOON) == ("what is kept\n", 128 + number)
    assert time.monotonic() - before > 0.4


def test_the_time_to_unwind_is_within_the_limit():
    assert signals.IMPORT_GRACE < signals.GRACE < LIMIT


def test_a_second_signal_ends_it_at_once():
    child = started(KEEPER.format(grace=60))
    child.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert child.poll() is None
    child.send_signal(signal.SIGINT)
    assert end_of(child, SOON) == ("what is kept\n", 130)


@pytest.mark.parametrize(("seconds", "result"), [(0.3, "left by an exception"), (60, "not left")])
def test_a_signal_during_an_import_waits_for_its_end_and_not_for_long(tmp_path, seconds, result):
    (tmp_path / "slow.py").write_text(f"import time\nready()\ntime.sleep({seconds})\nprint('imported', flush=True)")
    body = f"""
import builtins
builtins.ready = ready
sys.path.insert(0, {str(tmp_path)!r})

def body():
    try:
        import slow
        time.sleep(60)
    finally:
        print("left by an exception", flush=True)
"""
    child = started(body)
    child.send_signal(signal.SIGINT)
    with child:
        out, said = child.communicate(timeout=30)
    assert (said, child.returncode) == ("what is kept\n", 130)
    assert ("left by an exception" in out) == (result == "left by an exception")
    assert ("imported" in out) == (result == "left by an exception")


def test_a_child_made_with_fork_is_ended_alone():
    child = started("""
def body():
    process = os.fork()
    if process == 0:
        time.sleep(60)
    time.sleep(0.3)
    os.kill(process, signal.SIGTERM)
    ready()
    status = os.waitpid(process, 0)[1]
    time.sleep(0.3)
    sys.exit(7 if os.WIFSIGNALED(status) else 8)
""")
    assert end_of(child, 2.0) == ("", 7)


def test_an_interruption_that_is_ignored_stays_ignored():
    child = started("""
signal.signal(signal.SIGINT, signal.SIG_IGN)
import importlib
def body():
    ready()
    time.sleep(0.6)
""")
    child.send_signal(signal.SIGINT)
    assert end_of(child, 2.0) == ("", 0)


def test_handlers_are_left_alone_until_the_command_line_runs_and_put_back_after():
    before = [signal.getsignal(number) for number in signals.ENDING]
    inside = []
    signals.ended_by_signals(lambda: inside.extend(signal.getsignal(number) for number in signals.ENDING))
    assert inside[1] not in before
    assert [signal.getsignal(number) for number in signals.ENDING] == before
    assert not signals.interrupted()


@pytest.mark.slow
def test_a_run_in_the_middle_of_a_download_ends_and_says_how_to_go_on(tmp_path):
    with experiment(tmp_path) as (file, environment, hub):
        hub.fault("slow", "GET .*safetensors$", times=9, seconds=60)

        def wait():
            deadline = time.monotonic() + 120
            while not hub.asked("GET .*safetensors$"):
                assert time.monotonic() < deadline
                time.sleep(0.05)

        code, said, seconds = attempt(file, tmp_path / "run", environment, signal.SIGINT, wait)
    assert verdict(signal.SIGINT, 60.0, code, said, seconds) is None
    assert "the same command goes on from there" in said
    assert seconds < signals.GRACE - 0.5  # by itself, without waiting for the download


def test_an_error_that_an_interruption_has_become_is_no_fault_of_the_checkpoint(monkeypatch):
    monkeypatch.setattr("gated_lpi.runs.failures.interrupted", lambda: True)
    job = Job("arm", Checkpoint(None, "step-1", 1, None, ""), None, None)
    with pytest.raises(KeyboardInterrupt):
        failed(job, ModelError("what C code has made of it"))


def test_a_run_in_the_middle_of_its_imports_ends(tmp_path):
    with experiment(tmp_path) as (file, environment, _):
        wait = functools.partial(time.sleep, 1.5)
        code, said, seconds = attempt(file, tmp_path / "run", environment, signal.SIGTERM, wait)
    assert verdict(signal.SIGTERM, 1.5, code, said, seconds) is None
