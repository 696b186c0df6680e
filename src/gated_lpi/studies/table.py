"""The analyses that a study may ask for, by name. Each is a file of this folder, imported when it is asked for.

The file has two names: `Options`, a `Spec` whose fields are the keys of `[[study.analyses]]`, and
`analyse(run, options, progress) -> Analysis`. It reads a run and writes nothing.
"""

from __future__ import annotations

import difflib
import hashlib
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from gated_lpi.errors import OptionError
from gated_lpi.options.spec import Spec

if TYPE_CHECKING:
    from gated_lpi.results import Run
    from gated_lpi.runs.progress import Progress
    from gated_lpi.studies.finding import Analysis

ANALYSES = {  # name → the file that has it
    "recall": "gated_lpi.studies.recall",
    "sweep": "gated_lpi.studies.sweep",
    "ablation_curves": "gated_lpi.studies.ablation_curves",
    "prune": "gated_lpi.studies.prune",
    "routing": "gated_lpi.studies.routing",
    "shift": "gated_lpi.studies.shift",
    "methods": "gated_lpi.studies.methods",
    "tasks": "gated_lpi.studies.tasks",
    "stabilise": "gated_lpi.studies.stabilise",
    "longer": "gated_lpi.studies.longer",
    "text": "gated_lpi.studies.text",
    "claims": "gated_lpi.studies.claims",
    "density": "gated_lpi.studies.density",
    "prior": "gated_lpi.studies.prior",
    "survival": "gated_lpi.studies.survival",
}
_SHOWING = ("finding", "page", "table")
_HOMES = (f"{__package__}.", "gated_lpi.claims.")  # the folders whose files make findings


class Analyse(Protocol):
    """An analysis: what a run shows, under options of its own class."""

    def __call__(self, run: Run, options: Any, progress: Progress) -> Analysis:
        """Analyse a run that is complete, or as far as it is."""
        ...


@dataclass(frozen=True)
class Row:
    """One analysis.

    Attributes:
        options: the class of its options.
        analyse: what does it.
        code: the digest of its file and of those of this folder, and of `claims`, that it uses.
    """

    options: type[Spec]
    analyse: Analyse
    code: str


def analysis_of(name: str) -> Row:
    """The analysis of a name.

    Raises:
        OptionError: there is none.
    """
    if name not in ANALYSES:
        near = difflib.get_close_matches(name, ANALYSES, n=1)
        advice = f"did you mean {near[0]}? " if near else ""
        raise OptionError(
            f"analysis {name!r} was asked for; {advice}there are {', '.join(ANALYSES)}: give one of these"
        )
    module = import_module(ANALYSES[name])
    code = hashlib.sha256(b"".join(Path(file).read_bytes() for file in sorted(_files(module)))).hexdigest()
    return Row(module.Options, module.analyse, code)


def _files(module: ModuleType, known: frozenset[str] = frozenset()) -> frozenset[str]:
    """The files of a module and of what it has from other modules that make findings, but for how they are shown."""
    known |= {str(module.__file__)}
    homes = {str(getattr(value, "__module__", "")) for value in vars(module).values()}
    for name in sorted(homes):
        if name.startswith(_HOMES) and name.rsplit(".", 1)[1] not in _SHOWING:
            other = import_module(name)
            known = known if str(other.__file__) in known else _files(other, known)
    return known
