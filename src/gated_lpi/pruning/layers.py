"""The layers of a model that have routed experts, and how many each has."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gated_lpi.errors import OptionError
from gated_lpi.models import Model


def routed_layers(model: Model) -> tuple[NDArray[np.int64], int]:
    """The layers with routed experts, [L], and how many each of them has.

    Raises:
        OptionError: there are none, or some layers have more than others.
    """
    routed = [(block.layer, writer.n_experts) for block, writer in model.routed()]
    if not routed:
        raise OptionError(
            f"this {model.family.name} model has no routed experts, so none can be removed; give a mixture-of-experts "
            "model"
        )
    counts = {experts for _, experts in routed}
    if len(counts) > 1:
        raise OptionError(
            f"the layers of this {model.family.name} model have {sorted(counts)} experts; expected as many in each, "
            "since its config has one number for all"
        )
    return np.array([layer for layer, _ in routed], dtype=np.int64), counts.pop()
