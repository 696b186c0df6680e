"""The benchmarks are a package at the root of the repository, which not every way to start pytest has on its path."""

import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parent.parent.parent)
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)
