"""Neurons or routing: what of a change between two checkpoints the one explains, and what the other.

`split` has the Shapley split of every unit's change, by forward passes with the routing of the other checkpoint.
"""

from gated_lpi.routing.split import split_change

__all__ = ["split_change"]
