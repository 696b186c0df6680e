"""The default call as it was before it was made faster, on the same machine in the same run.

The old commit is checked out into a folder of its own, and the same program calls `attribute(model, facts)` with the
package of either: in a process each, in turn, on the same prompts and on one of them alone. Where there is no git, or
the commit is not in the clone, nothing is compared, and the result says why.

python -m benchmarks.before MODEL < pairs.json    # prints seconds as JSON; the package is the one on PYTHONPATH
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

COMMIT = "023ab1d6e260e2b3601bd5c90d5b1ce6e0719277"  # heads, experts and blocks by rows, no bounds for them
ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 2


def compare(folder: Path, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Seconds of the default call on prompts and their answers by the old code and by this one.

    Returns:
        `commit`, `prompts`, and for "before" and "now" the least seconds `all` of the prompts take and `one` of them;
        or `commit` and `reason`, why there is no comparison.
    """
    with tempfile.TemporaryDirectory() as parent:
        old = Path(parent) / "old"
        made = _git("worktree", "add", "--quiet", "--detach", str(old), COMMIT)
        if made.returncode:
            return {"commit": COMMIT, "reason": made.stderr.strip() or "git failed"}
        try:
            runs = [(_called(old / "src", folder, pairs), _called(ROOT / "src", folder, pairs)) for _ in range(ROUNDS)]
        finally:
            _git("worktree", "remove", "--force", str(old))
    found = {
        name: {key: min(run[key] for run in these) for key in ("all", "one")}
        for name, these in zip(("before", "now"), zip(*runs, strict=True), strict=True)
    }
    return {"commit": COMMIT, "prompts": len(pairs), **found}


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError as error:
        return subprocess.CompletedProcess(arguments, 1, "", str(error))


def _called(source: Path, folder: Path, pairs: Sequence[tuple[str, str]]) -> dict[str, float]:
    """Run this file as a program with the package in `source`; raises `subprocess.CalledProcessError` if it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONPATH": str(source)}
    command = [sys.executable, __file__, str(folder.resolve())]
    done = subprocess.run(
        command, env=environment, check=True, stdout=subprocess.PIPE, text=True, input=json.dumps(pairs)
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(folder: str) -> None:
    """Time the default call; only what users have had in all versions is used."""
    from gated_lpi import attribute, load_model

    model = load_model(folder)
    pairs = [(prompt, answer) for prompt, answer in json.load(sys.stdin)]
    found = {}
    for name, some in (("one", pairs[:1]), ("all", pairs)):
        if name == "one":
            attribute(model, some)  # what is set up once in a process
        start = time.perf_counter()
        attribute(model, some)
        found[name] = time.perf_counter() - start
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
