"""Methods that follow a unit's effect through all later layers by gradients: `grad_x_act` and `integrated`.

`taps` is what both share: activation times gradient of every unit, added up while a backward pass runs.
"""

from gated_lpi.methods.gradients.grad_x_act import GradXAct
from gated_lpi.methods.gradients.integrated import PathIntegral

__all__ = ["GradXAct", "PathIntegral"]
