"""A full disk, a limit on files, standard output that takes nothing, no memory: one line, a code, and a way on."""

import errno
import io
import os
import re
import resource
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from gated_lpi import open_run
from gated_lpi._common.exhausted import explained, is_of_memory, is_of_the_machine
from gated_lpi.cli import main
from gated_lpi.results import verify_run
from tiny_text import CAPITALS, save_checkpoint, save_facts

# Bytes that a file may have, and the first file of a run that has more.
LIMITS = {
    500: r"run\.json",
    10_000: "training/moe",
    36_000: r"results/a\.",
    70_000: "figures/",
    1_000_000: r"report\.html",
}
EXPERIMENT = """
name = "limits"
[facts]
source = "{facts}"
templates = "first"
[training]
steps = 2
checkpoints = 2
batch_size = 2
warmup_steps = 1
[training.size]
hidden = 8
layers = 1
heads = 2
kv_heads = 2
experts = 2
expert_width = 8
vocab_size = 260
tie_embeddings = true
[metrics]
draws = 3
[ablation]
random_draws = 1
top_units = 1
heads = [1]
units = [0.1]
[[arms]]
name = "a"
checkpoints = "{folder}"
[[arms]]
name = "moe"
train = "moe"
"""


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    facts = save_facts(folder / "facts", [CAPITALS])
    for seed, step in enumerate((0, 10, 20, 30)):
        save_checkpoint(folder / "a" / f"step-{step}", "Qwen3", seed)
    file = folder / "experiment.toml"
    file.write_text(EXPERIMENT.format(facts=facts, folder=folder / "a"))
    return file


def command(*arguments, limit=None):
    """Run a command line in a forked child, whose files may be so long: its exit code, and what it said on stderr."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            sys.stdout, sys.stderr = io.StringIO(), os.fdopen(write, "w", buffering=1)
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            sys.argv = ["gated-lpi", *map(str, arguments)]
            main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_disk_without_room_ends_any_phase_with_one_line_and_the_run_goes_on(experiment, tmp_path):
    out = tmp_path / "run"
    for limit, place in LIMITS.items():
        code, said = command("run", experiment, "--out", out, limit=limit)
        assert code == 1, said
        assert "Traceback" not in said
        lines = [line for line in said.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, said
        assert "could not be written" in lines[0]
        assert re.search(place, lines[0]), (limit, lines[0])
        assert "run the same command again" in lines[0]
    assert command("run", experiment, "--out", out)[0] == 0
    run = open_run(out)
    assert verify_run(run) == []
    assert command("run", experiment, "--out", tmp_path / "whole")[0] == 0
    whole = open_run(tmp_path / "whole")
    for arm in ("a", "moe"):
        for name in ("lpi", "step", "target_rank"):
            assert np.array_equal(run.scores(arm)[name], whole.scores(arm)[name])
    assert run.record("a") == whole.record("a")
    code, said = command("report", out, "--out", tmp_path / "elsewhere", limit=1_000)
    assert code == 1
    assert "elsewhere" in said
    assert [line.split(":")[0] for line in said.splitlines()] == ["error", "next"]


@pytest.mark.slow
def test_standard_output_that_takes_nothing_is_one_line():
    with open("/dev/full", "w") as full:  # noqa: PTH123
        ended = subprocess.run(
            [sys.executable, "-m", "gated_lpi", "families"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: standard output or a file could not be read or written: No space left")
    assert ended.stderr.count("\n") == 1


def test_memory_that_ran_out_is_one_line(monkeypatch, capsys, tmp_path):
    def no_memory(*_arguments, **_options):
        torch.empty(2**60)

    monkeypatch.setattr("gated_lpi.results.open_run", no_memory)
    monkeypatch.setattr("sys.argv", ["gated-lpi", "report", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("error: memory ran out (")
    assert "run the same command again" in said


class PanicException(BaseException):
    """As the Rust of the tokenizers raises it."""


@pytest.mark.parametrize(
    ("error", "memory", "machine"),
    [
        (MemoryError(), True, True),
        (torch.OutOfMemoryError("CUDA out of memory"), True, True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True, True),
        (ImportError("x.so: failed to map segment from shared object"), True, True),
        (RuntimeError("unable to mmap 9 bytes from file <x>: Cannot allocate memory (12)"), True, True),
        (RuntimeError("can't start new thread"), True, True),
        (SafetensorError("Cannot allocate memory (os error 12)"), True, True),
        (SafetensorError("HeaderTooLarge"), False, False),
        (PanicException("ThreadPoolBuildError { kind: IOError(Os { code: 11, kind: WouldBlock }) }"), True, True),
        (ImportError("No module named 'x'"), False, False),
        (OSError(errno.ENOSPC, "No space left on device"), False, True),
        (OSError(errno.EFBIG, "File too large"), False, True),
        (FileNotFoundError(errno.ENOENT, "No such file"), False, False),
        (RuntimeError("shapes do not fit"), False, False),
        (ValueError("no"), False, False),
    ],
)
def test_what_is_no_fault_of_the_work(error, memory, machine):
    assert (is_of_memory(error), is_of_the_machine(error)) == (memory, machine)
    assert (explained(error) is None) == (not machine and not isinstance(error, OSError))
