"""How long a call takes, how much work it does, and on what machine."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gated_lpi.methods.lpi.certified.eight_bit import described

SHORT = 5.0  # seconds; what takes longer is not run five times
RUNS = 3
ROUNDS = 3
LONG = 40.0  # seconds; rounds that take longer are not repeated


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: the median of `runs` of them, the least and the most."""

    seconds: float
    runs: int
    least: float
    most: float

    def json(self) -> dict[str, float]:
        """For the results file."""
        return asdict(self)


def timed(call: Callable[[], object], *, runs: int = RUNS) -> Timing:
    """Time `call`: the median of `runs` where it is short, one run where it is not."""
    found = [_seconds(call)]
    if found[0] < SHORT:
        found += [_seconds(call) for _ in range(runs - 1)]
    return _summary(found)


def in_turn(calls: Mapping[str, Callable[[], object]], *, rounds: int = ROUNDS) -> dict[str, Timing]:
    """Time calls that are to be compared, in rounds: all of them meet the machine in the states it goes through.

    A call that is short runs twice in each round; no round is begun after `LONG` seconds.
    """
    found: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + LONG
    for index in range(rounds):
        if index and time.perf_counter() > end:
            break
        for name, call in calls.items():
            found[name].append(_seconds(call))
            if found[name][-1] < SHORT:
                found[name].append(_seconds(call))
    return {name: _summary(seconds) for name, seconds in found.items()}


def _summary(seconds: Sequence[float]) -> Timing:
    return Timing(statistics.median(seconds), len(seconds), min(seconds), max(seconds))


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter() - start


class Flops(TorchFunctionMode):
    """Counts the floating-point operations of the products of two matrices inside the `with` block, as `count`.

    torch.utils.flop_counter counts the same, but what it does at every operation of every kind would show in the times;
    tests/benchmarks holds the two against each other.
    """

    PRODUCTS = (torch.mm, torch.matmul, torch.bmm, Tensor.mm, Tensor.matmul, Tensor.bmm, Tensor.__matmul__)

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        if func in self.PRODUCTS and args[1].dim() > 1:
            self.count += 2 * found.numel() * args[0].shape[-1]
        return found


def peak(size: int, device: str = "cpu") -> float:
    """Floating-point operations a second of a square float32 matrix product, the best of seven."""
    left, right = torch.randn(size, size, device=device), torch.randn(size, size, device=device)
    out = torch.empty(size, size, device=device)
    return 2 * size**3 / min(_seconds(lambda: torch.mm(left, right, out=out)) for _ in range(7))


def machine() -> dict[str, Any]:
    """What the results depend on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "blas": "MKL" if torch.backends.mkl.is_available() else "other",
        "instructions": instructions(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else False,
    }


def instructions() -> str:
    """Which of those that decide speed the processor has, and how 8-bit products are made with them."""
    names = {"AVX-512": "_is_avx512_supported", "VNNI": "_is_vnni_supported", "AMX": "_is_amx_tile_supported"}
    has = [f"{'' if getattr(torch.cpu, check, lambda: False)() else 'no '}{name}" for name, check in names.items()]
    return f"{', '.join(has)}; {described('cpu')}"


def _processor() -> str:
    """The processor's name, with family and model where the name alone says little."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor() or platform.machine()
    fields = dict(
        (part.strip() for part in line.split(":", 1)) for line in info.read_text().splitlines() if ":" in line
    )
    parts = [fields.get("model name", platform.machine())]
    if "cpu family" in fields and "model" in fields:
        parts.append(f"(family {fields['cpu family']}, model {fields['model']})")
    return " ".join(parts)
