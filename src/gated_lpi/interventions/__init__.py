"""Interventions: what is held or changed while a model runs, by hooks; its weights are never changed.

`routing` has frozen routers: a forward pass with the routing of another checkpoint.
"""

from gated_lpi.interventions.routing import RecordedRouting, record_routing, replayed, transplanted

__all__ = ["RecordedRouting", "record_routing", "replayed", "transplanted"]
