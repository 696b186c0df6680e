"""Interventions: a model that runs otherwise inside a `with` block, by hooks; its weights are never changed.

`silence` gives units other coefficients, which `reference` collects; `routing` holds routers frozen: a forward pass
with the routing of another checkpoint. `undisturbed` lends a model that is in training.
"""

from gated_lpi.interventions.reference import Reference, record_coefficients
from gated_lpi.interventions.routing import RecordedRouting, record_routing, replayed, transplanted
from gated_lpi.interventions.silence import head_units, silenced
from gated_lpi.interventions.undisturbed import undisturbed

__all__ = [
    "RecordedRouting",
    "Reference",
    "head_units",
    "record_coefficients",
    "record_routing",
    "replayed",
    "silenced",
    "transplanted",
    "undisturbed",
]
