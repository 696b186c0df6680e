"""Methods: ways of giving every unit of a model a score.

`attribute` is the way in. `contract` says what a method is, `problem` what it is given, `table` which there are; each
has a folder or file of its own (`lpi`). `collect`, `dataset` and `memory` are what all of them share.
"""

from gated_lpi.methods.attribution import attribute, attribute_asked, attribute_encoded, block_problems
from gated_lpi.methods.contract import BlockScores, Method, Room, Tier, all_exact
from gated_lpi.methods.lpi.reference import unit_lpi
from gated_lpi.methods.problem import BlockProblem, TracedProblem, problem_of

__all__ = [
    "BlockProblem",
    "BlockScores",
    "Method",
    "Room",
    "Tier",
    "TracedProblem",
    "all_exact",
    "attribute",
    "attribute_asked",
    "attribute_encoded",
    "block_problems",
    "problem_of",
    "unit_lpi",
]
