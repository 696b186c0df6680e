"""`gated-lpi` alone: what to do first."""

from __future__ import annotations

from collections.abc import Iterable

from gated_lpi.cli.console import out

FIRST = """\
Which neurons carry a language model's knowledge, and when in pre-training they came to carry it.

First, in this order:
  gated-lpi demo --out demo-run        three small models, trained, scored and reported: a few minutes, no download
  gated-lpi explore demo-run           look at it in the browser
  gated-lpi check MODEL                can your own model be scored? a folder or a hub repository
  gated-lpi attribute MODEL --out scores.zarr    score its neurons on built-in facts
  gated-lpi run FILE --out runs/mine   a series of checkpoints, from an experiment file (docs/runs.md)

All commands: {verbs}.
gated-lpi --help says what each does, gated-lpi COMMAND --help explains one with an example.
gated-lpi --install-completion makes your shell complete commands and options; gated-lpi --version prints the version.
"""


def show_first(verbs: Iterable[str]) -> None:
    """Print it, with the names of all verbs."""
    out.print(FIRST.format(verbs=", ".join(verbs)).rstrip(), markup=False)
