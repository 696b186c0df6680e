"""A hub with faults, alone and in pairs, at random requests: a streamed run has the right arrays or a clear error.

A try is one run over a series of three checkpoints into an empty cache, then the same again once the hub is sound.
Whatever a run holds at any time is equal to what the hub lists, row by row; in the end all of it is there, but for
files that are refused by their hash until somebody asks for them again (`--retry-quarantined`).
"""

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

from huggingface_hub import constants

from alike import complete, same_scores
from gated_lpi.errors import GatedLPIError
from gated_lpi.experiments import Experiment
from gated_lpi.results import Run, open_run
from gated_lpi.runs import run_experiment
from hub_server import KINDS, HubServer, files_in
from tiny_runs import tiny_experiment
from tiny_text import CAPITALS, save_checkpoint, save_facts
from torture.attack import Ground, Outcome, refused_clearly

REPO = "org/tiny"
STEPS = (0, 10, 20)
CODES = (400, 401, 403, 404, 408, 416, 429, 500, 502, 503, 504)
PLACES = (r".*", r"GET .*refs", r".*/revision/.*", r".*config.json", r".*tokenizer.*", r"GET .*safetensors$")
ODD_HEADERS = (
    {"ETag": '"' + "0" * 64 + '"'},
    {"X-Repo-Commit": "0" * 40},
    {"X-Linked-Size": "7"},
    {"X-Linked-Etag": "../../x"},
    {"Content-Encoding": "gzip"},
)
FAULTS: Mapping[str, Callable[[random.Random], dict[str, Any]]] = {
    "status": lambda chance: {
        "code": chance.choice(CODES),
        "headers": chance.choice(({}, {"Retry-After": "0"}, {"X-Error-Code": "EntryNotFound"})),
    },
    "cut": lambda chance: {"after": chance.choice((0, 1, 100, 5000))},
    "wrong": lambda _: {},
    "slow": lambda chance: {"seconds": chance.uniform(0.0, 0.3)},
    "trickle": lambda chance: {"seconds": chance.uniform(0.0, 0.5)},
    "headers": lambda chance: {"headers": chance.choice(ODD_HEADERS)},
    "redirect": lambda chance: {"location": chance.choice(("/", "http://127.0.0.1:9/x", "file:///etc/passwd", ""))},
    "body": lambda chance: {"body": chance.choice((b"", b"{}", b"[]", b"<html>", bytes(10**6)))},
}


def stream(ground: Ground) -> None:
    """Runs, each over a hub with a fault or two."""
    for seed, step in enumerate(STEPS):
        save_checkpoint(ground.folder / "series" / f"step{step}", "Qwen3", seed)
    hit: Counter[str] = Counter()
    branches = {f"step{step}": files_in(ground.folder / "series" / f"step{step}") for step in STEPS}
    with patch.object(constants, "HF_HUB_OFFLINE", False), patch.object(time, "sleep", _briefly(time.sleep)):
        with HubServer({REPO: {"main": {}, **branches}}) as server:
            whole = run_experiment(_experiment(ground.folder / "whole", server.url), ground.folder / "whole" / "run")
        for seed in ground.seeds():
            with HubServer({REPO: {"main": {}, **branches}}) as server:
                chance = random.Random(seed)
                faults = [_fault(chance, server) for _ in range(1 + seed % 2)]
                with ground.judging(seed, " and ".join(faults)):
                    ground.came(_streamed(ground.folder / f"try-{seed}", server, whole))
                hit.update(fault.split()[0] for fault in faults)
            shutil.rmtree(ground.folder / f"try-{seed}", ignore_errors=True)
    ground.remark("faults: " + ", ".join(f"{kind} {hit[kind]}" for kind in KINDS))


def _fault(chance: random.Random, server: HubServer) -> str:
    """Add a fault; what it is, in words."""
    kind, place, times = chance.choice(KINDS), chance.choice(PLACES), chance.choice((1, 1, 2, 5, 10**6))
    if kind in ("slow", "trickle"):
        times = min(times, 5)
    options = FAULTS[kind](chance)
    server.fault(kind, place, times, **options)
    return f"{kind} {options} at {place} {times} times"


def _briefly(sleep: Callable[[float], None]) -> Callable[[float], None]:
    """Waiting for a hub takes a hundredth of the time."""
    return lambda seconds: sleep(seconds if seconds < 0.6 else min(seconds / 100, 0.1))


def _experiment(folder: Path, url: str) -> Experiment:
    storage = {"endpoint": url, "cache_dir": str(folder / "cache")}
    facts = save_facts(folder.parent / "facts", [CAPITALS])
    return tiny_experiment(facts, {"name": "a", "series": REPO}, storage=storage)


def _streamed(folder: Path, server: HubServer, whole: Run) -> Outcome:
    """What comes of a run over a faulty hub, and of the same run over a sound one."""
    folder.mkdir()
    experiment, out = _experiment(folder, server.url), folder / "run"
    try:
        run = run_experiment(experiment, out)
        outcome: Outcome = "refused" if run.quarantined("a") else "survived"
    except GatedLPIError as error:
        refused_clearly(error)
        outcome = "refused"
    if (out / "run.json").exists():
        _rows_are_right(open_run(out), whole)
    _cache_is_right(folder / "cache", server)
    server.faults.clear()
    run = run_experiment(experiment, out, retry_quarantined=True)
    assert run.quarantined("a") == []
    same_scores(run.scores("a").load(), whole.scores("a").load())
    assert run.record("a") == whole.record("a")
    assert not list((folder / "cache").rglob("*.incomplete")), "a half file is left"
    assert not list((folder / "cache").rglob("*.safetensors")), "weights are left"
    return outcome


def _rows_are_right(run: Run, whole: Run) -> None:
    """The checkpoints that are there are those of the whole run."""
    found, wanted = complete(run, "a"), whole.scores("a").load()
    if found is None:
        return
    rows = [wanted["step"].values.tolist().index(step) for step in found["step"].values.tolist()]
    for name in ("lpi", "lpi_mean", "target_rank", "step"):
        assert (found[name].values == wanted[name].values[rows]).all(), f"{name} of a checkpoint is wrong"


def _cache_is_right(cache: Path, server: HubServer) -> None:
    """What the cache gives under a commit's name is what the hub has under it."""
    for snapshot in cache.glob("models--*/snapshots/*"):
        found = server.find(REPO, snapshot.name)
        assert found is not None, snapshot
        for file in snapshot.iterdir():
            if file.name.endswith(".safetensors") or not file.exists():
                continue  # those are verified as they are used; a link to what was deleted is no file
            assert file.read_bytes() == found[1][file.name], f"{file} is not what the hub lists"
