"""Whether the models of an arm have experts, by what is kept of them."""

import xarray as xr


def is_moe(scores: xr.Dataset) -> bool:
    """Whether an arm has routed experts: by the records of its checkpoints, else by what its scores tell."""
    shapes = [record["shape"] for record in scores.attrs.get("checkpoints", []) if record.get("shape")]
    if shapes:
        return bool(shapes[0].get("experts", 0))
    return "expert_utilisation" in scores or bool("expert" in scores.coords and (scores["expert"] >= 0).any())
