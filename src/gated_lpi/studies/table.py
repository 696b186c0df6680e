"""The analyses that a study may ask for, by name. Each is a file of this folder, imported when it is asked for.

The file has two names: `Options`, a `Spec` whose fields are the keys of `[[study.analyses]]`, and
`analyse(run, options, progress) -> Analysis`. It reads a run and writes nothing.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from importlib import import_module
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
    "claims": "gated_lpi.studies.claims",
    "density": "gated_lpi.studies.density",
    "prior": "gated_lpi.studies.prior",
    "survival": "gated_lpi.studies.survival",
}


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
    """

    options: type[Spec]
    analyse: Analyse


def analysis_of(name: str) -> Row:
    """The analysis of a name.

    Raises:
        OptionError: there is none.
    """
    if name not in ANALYSES:
        near = difflib.get_close_matches(name, ANALYSES, n=1)
        advice = f"did you mean {near[0]}? " if near else ""
        raise OptionError(f"analysis {name!r} was asked for; {advice}there are {', '.join(ANALYSES)}")
    module = import_module(ANALYSES[name])
    return Row(module.Options, module.analyse)
