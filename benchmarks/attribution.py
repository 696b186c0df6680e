"""`attribute` with its default units on SmolLM2 in a process of its own: how long it takes and how much memory.

python -m benchmarks.attribution MODEL PROMPTS [MEMORY]     # prints one line of JSON
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent


def in_process(folder: Path, n_prompts: int, memory: str | None = None) -> dict[str, Any]:
    """Run this file as a program; raises `subprocess.CalledProcessError` if it fails."""
    command = [sys.executable, "-m", "benchmarks.attribution", str(folder.resolve()), str(n_prompts)]
    command += [memory] if memory else []
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(folder: str, n_prompts: int, memory: str | None) -> None:
    """Load, attribute, report: seconds without loading, peak resident memory before and after."""
    from benchmarks import smollm
    from gated_lpi import attribute, load_model

    model = load_model(folder)
    facts = smollm.built_in(n_prompts)
    loaded, loading = resident(), peak()
    start = time.perf_counter()
    scores = attribute(model, facts, keep="relations", memory=memory)
    seconds = time.perf_counter() - start
    tiers = scores["tier_pairs"]
    kinds = scores["block_kind"].values.tolist()
    found = {
        "prompts": n_prompts,
        "memory": memory,
        "seconds": seconds,
        "resident_after_loading": loaded,
        "peak_of_loading": loading,
        "peak": peak(),
        "error_bound": float(scores["error_bound"].max()),
        "tiers": {
            kind: {
                str(tier): int(tiers.values[[k == kind for k in kinds], i].sum())
                for i, tier in enumerate(tiers["tier"].values)
            }
            for kind in ("attention", "ffn")
        },
    }
    print(json.dumps(found))


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
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None)
