"""Watching a model while it trains: which neurons carry a fact set, how settled they are, and whether training is well.

`LiveMonitor` scores a model that is in training and appends to a run's folder; `GatedLPICallback` does so from
`transformers.Trainer`. Read `monitor` first. What is shown of scores is in `observation`, what is alarming in `alarms`.
"""

from gated_lpi.live.callback import GatedLPICallback
from gated_lpi.live.monitor import ARM, LiveMonitor
from gated_lpi.live.observation import METRICS, Observation

__all__ = ["ARM", "METRICS", "GatedLPICallback", "LiveMonitor", "Observation"]
