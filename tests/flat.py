"""Options of methods as flat keywords, as experiment files have them, for tests that cross many of them."""

from typing import Any

from benchmarks.scorer import Scorer

import gated_lpi
from gated_lpi.methods import Room
from gated_lpi.options import LPI, Scoring
from gated_lpi.options.methods import flat_fields, from_flat

METHOD = flat_fields(LPI).keys()


def asked(**flat: Any) -> tuple[LPI, Scoring]:
    """The method and the scoring that flat options say; those of neither are refused."""
    unknown = flat.keys() - METHOD - Scoring.model_fields.keys()
    assert not unknown, unknown
    return from_flat(LPI, flat), from_flat(Scoring, flat)


def attribute(model: Any, facts: Any, **flat: Any) -> Any:
    """`gated_lpi.attribute` with options of the method beside the others."""
    method = from_flat(LPI, flat)
    return gated_lpi.attribute(
        model, facts, method=method, **{name: value for name, value in flat.items() if name not in METHOD}
    )


def certified(problem: Any, tolerance: float, **room: int) -> Any:
    """A problem scored by the certified estimator, with everything to be prepared."""
    return Scorer(problem.readout, tolerance, Room(**room))(problem)
