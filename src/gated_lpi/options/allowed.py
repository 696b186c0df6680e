"""What options may be, for Python, experiment files and the command line alike; nothing of it needs torch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Literal, get_args

from gated_lpi.errors import OptionError

Norm = Literal["frozen", "recomputed"]
Gate = Literal["gated", "uniform", "ungated", "open"]
Target = Literal["object", "top1"]
Foil = Literal["relation", "fact", "best"]
Answer = Literal["first", "all"]
At = Literal["all", "last"]
How = Literal["zero", "mean", "resample"]
MethodName = Literal["lpi", "grad_x_act", "integrated_gradients", "direct_effect", "true_effect", "rollout"]
Positions = Literal["summed", "resolved"]
Routing = Literal["last", "all"]
Keep = Literal["prompts", "relations", "mean"]
DeviceMap = Literal["auto", "balanced", "balanced_low_0", "sequential"]
UnitName = Literal["ffn", "attention", "mixer", "heads", "experts", "blocks"]
ALL_UNITS: tuple[UnitName, ...] = get_args(UnitName)

MEMORY_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
MOST_MEMORY = 2**60  # bytes: more is no machine's memory, but a slip of the pen


def parse_memory(given: int | str) -> int:
    """Bytes from a number, or from text such as "512MB" or "2GiB".

    Raises:
        OptionError: it says no amount of memory.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?I?B)?\s*", str(given), re.IGNORECASE)
    unit = (match[2] or "").upper() if match else None
    amount = float(match[1]) * MEMORY_UNITS[unit] if match and unit in MEMORY_UNITS else math.inf
    if not 1 <= amount <= MOST_MEMORY:
        shown = repr(given) if len(repr(given)) <= 40 else repr(given)[:37] + "..."
        raise OptionError(f"memory={shown} was given; expected bytes, or an amount such as '512MB' or '2GiB'")
    return int(amount)


def refuse_two_places(device: str, device_map: str | Mapping[str, Any] | None) -> None:
    """Refuse a device map that is none, or that is given beside a device.

    Raises:
        OptionError: says what was given and what is allowed.
    """
    if isinstance(device_map, str) and device_map not in get_args(DeviceMap):
        raise OptionError(
            f"device_map {device_map!r} was given; expected one of {', '.join(get_args(DeviceMap))} (or, in Python, "
            "module → device). For one device give `device`"
        )
    if device_map is not None and device != "auto":
        raise OptionError(
            f"device {device!r} and device_map {device_map!r} were given, but a model is put on one device or spread "
            "over those that the map chooses; leave one of them out"
        )
