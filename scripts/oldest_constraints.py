"""Write constraints-oldest.txt: all direct dependencies in the oldest versions that pyproject.toml allows.

1. Every lower bound, of the package, of its extras and of the tests, becomes an exact requirement.
2. `uv pip compile` finds the newest versions of everything else that go with them. If there are none, some bound is
   void: it allows a version that can never be installed. uv says which, and this ends with an error.

What ruff, mypy and import-linter look at, and the site is built with, is the newest set alone; the bounds of `dev` and
`docs` are left out.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
FILE = ROOT / "constraints-oldest.txt"
COMMAND = "make constraints-oldest"
BOUND = re.compile(r"(?P<name>[A-Za-z0-9_-]+)(?:\[[a-z,]+\])?>=(?P<version>[0-9.]+)")


def main() -> None:
    """Compile and write the file; `sys.argv[1]` is uv."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [name for name in project["optional-dependencies"] if name not in ("dev", "docs")]
    wanted = {*project["dependencies"], *(one for name in extras for one in project["optional-dependencies"][name])}
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as exact:
        exact.write("\n".join(map(exactly, sorted(wanted))))
        exact.flush()
        asked = ["--constraint", exact.name, *(part for name in extras for part in ("--extra", name))]
        form = ["--no-annotate", "--no-header", "--quiet", "--python-version", "3.11"]
        command = [sys.argv[1], "pip", "compile", str(ROOT / "pyproject.toml"), *asked, *form]
        found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    FILE.write_text(f"# Made by `{COMMAND}`: the oldest versions that pyproject.toml allows, on Python 3.11.\n{found}")


def exactly(requirement: str) -> str:
    """A requirement with its lower bound as the only version; fails on one without a lower bound."""
    bound = BOUND.match(requirement)
    if bound is None:
        raise SystemExit(f"{requirement!r} in pyproject.toml has no lower bound; expected NAME>=VERSION")
    return f"{bound['name']}=={bound['version']}"


if __name__ == "__main__":
    main()
