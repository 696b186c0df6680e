"""Which method is meant: one row for each class of options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gated_lpi.errors import OptionError
from gated_lpi.methods.contract import Method, PassMethod
from gated_lpi.methods.direct import LinearTerm
from gated_lpi.methods.effects import Silencing
from gated_lpi.methods.gradients import GradXAct, PathIntegral
from gated_lpi.methods.lpi.method import GatedLPI
from gated_lpi.methods.rollout import AttentionRollout
from gated_lpi.options import (
    LPI,
    DirectEffect,
    GradientTimesActivation,
    IntegratedGradients,
    MethodOptions,
    Rollout,
    TrueEffect,
)

AnyMethod = Method[Any] | PassMethod[Any]
METHODS: dict[type[MethodOptions], Callable[[Any], AnyMethod]] = {
    LPI: GatedLPI,
    GradientTimesActivation: GradXAct,
    IntegratedGradients: PathIntegral,
    DirectEffect: LinearTerm,
    TrueEffect: Silencing,
    Rollout: AttentionRollout,
}


def method_for(given: MethodOptions | AnyMethod) -> AnyMethod:
    """The method that options ask for; a method itself as it is.

    Raises:
        OptionError: it is neither.
    """
    if isinstance(given, Method | PassMethod):
        return given
    make = METHODS.get(type(given))
    if make is None:
        known = ", ".join(options.__name__ for options in METHODS)
        raise OptionError(f"method={given!r} was given; expected the options of one ({known}), or a Method of your own")
    return make(given)
