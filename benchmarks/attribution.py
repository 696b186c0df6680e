"""`attribute` with its default units on SmolLM2 in a process of its own: how long it takes and how much memory.

python -m benchmarks.attribution MODEL PROMPTS [--memory 300MB] [--tokens 800] [--method grad_x_act]    # prints JSON

Prompts of so many tokens are made by putting other facts before each one.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import xarray as xr

ROOT = Path(__file__).resolve().parent.parent


def in_process(folder: Path, n_prompts: int, *more: str) -> dict[str, Any]:
    """Run this file as a program, with `more` of its arguments; raises `subprocess.CalledProcessError` if it fails."""
    command = [sys.executable, "-m", "benchmarks.attribution", str(folder.resolve()), str(n_prompts), *more]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(folder: str, n_prompts: int, memory: str | None, tokens: int, method: str) -> None:
    """Load, attribute, report: seconds without loading, peak resident memory before and after."""
    from benchmarks import smollm
    from gated_lpi import attribute, load_model
    from gated_lpi.options import METHODS_BY_NAME

    model = load_model(folder)
    facts: Any = smollm.longer(model, n_prompts, tokens) if tokens else smollm.built_in(n_prompts)
    loaded, loading = resident(), peak()
    forget_peak()
    start = time.perf_counter()
    scores = attribute(model, facts, method=METHODS_BY_NAME[method](), keep="relations", memory=memory)
    seconds = time.perf_counter() - start
    found = {
        "prompts": n_prompts,
        "tokens": tokens,
        "method": method,
        "memory": memory,
        "seconds": seconds,
        "resident_after_loading": loaded,
        "peak_of_loading": loading,
        "result": scores.nbytes,
        "peak": peak(),
    }
    if method == "lpi":
        found["error_bound"] = float(scores["error_bound"].max())
        found["tiers"] = {kind: tiers(scores, kind) for kind in ("attention", "ffn")}
    print(json.dumps(found))


def tiers(scores: xr.Dataset, kind: str) -> dict[str, int]:
    """Pairs of a kind of block by how their score was found."""
    inside = scores["block_kind"].values.astype(str) == kind
    counts = scores["tier_pairs"].values[inside].sum(axis=0).tolist()
    return dict(zip(scores["tier"].values.tolist(), counts, strict=True))


def forget_peak() -> None:
    """Have `peak` count from what is held now, where the system can do that."""
    file = Path("/proc/self/clear_refs")
    if file.is_file():
        file.write_text("5")


def peak() -> int:
    """Bytes: the most that this process has held."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would count the process that this one was forked from
        return int(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def resident() -> int | None:
    """Bytes that it holds now; None where the system does not say."""
    file = Path("/proc/self/statm")
    return int(file.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if file.is_file() else None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("prompts", type=int)
    parser.add_argument("--memory")
    parser.add_argument("--tokens", type=int, default=0)
    parser.add_argument("--method", default="lpi")
    given = parser.parse_args()
    main(given.folder, given.prompts, given.memory, given.tokens, given.method)
