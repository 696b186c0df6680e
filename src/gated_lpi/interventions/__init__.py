"""Interventions: a model that runs otherwise inside a `with` block, by hooks; its weights are never changed."""

from gated_lpi.interventions.reference import Reference, record_coefficients
from gated_lpi.interventions.silence import At, How, head_units, silenced

__all__ = ["At", "How", "Reference", "head_units", "record_coefficients", "silenced"]
