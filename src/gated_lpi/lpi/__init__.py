"""Gated-LPI: how much each neuron, head, expert and block raises the log-probability of a fact's target."""

from gated_lpi.lpi.attribute import ESTIMATORS, Options, attribute, attribute_asked, attribute_encoded
from gated_lpi.lpi.problem import BlockProblem, BlockScores, Estimator
from gated_lpi.lpi.reference import unit_lpi
from gated_lpi.options import ALL_UNITS

__all__ = [
    "ALL_UNITS",
    "ESTIMATORS",
    "BlockProblem",
    "BlockScores",
    "Estimator",
    "Options",
    "attribute",
    "attribute_asked",
    "attribute_encoded",
    "unit_lpi",
]
