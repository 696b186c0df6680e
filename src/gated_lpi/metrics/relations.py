"""From means over the prompts of each relation to the mean over all prompts."""

import numpy as np
import xarray as xr


def over_relations(scores: xr.Dataset, name: str) -> xr.DataArray:
    """A variable's mean over relations, each with the weight of its prompts; as it is if it has no such dimension.

    What routers did was kept without relations by earlier versions.

    Args:
        scores: with `n_prompts` (relation) if the variable is by relation.
        name: of a variable [..., relation, ...].

    Returns:
        The variable without that dimension, in its dtype, computed in float64; NaN where no relation has a value.
    """
    variable = scores[name]
    if "relation" not in variable.dims:
        return variable
    weights = (scores["n_prompts"] / scores["n_prompts"].sum()).astype(np.float64)
    mean = (variable.astype(np.float64) * weights).sum("relation", min_count=1).astype(variable.dtype)
    return mean.assign_attrs(variable.attrs)
