"""The same on a GPU: `python -m benchmarks.gpu [--quick]`, that is `make bench-gpu`.

The default call on SmolLM2 and single layers of the size of large models, against the published formula and the logit
lens on the same GPU. Writes benchmarks/results/gpu.json after each part. Fails where there is no GPU.

`reads` is how often the host waited for a number or a shape in one call: on a GPU it waits for all work before it.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import layers, real, smollm, synthetic, timing
from benchmarks.layers import Say
from benchmarks.run import RESULTS, now
from gated_lpi import __version__, attribute, load_model
from gated_lpi.facts import EncodedPrompt
from gated_lpi.methods import attribute_encoded
from gated_lpi.models import Model
from gated_lpi.options import ALL_UNITS, LPI, Scoring

PEAK_SIZE = 8192
SAME = 24  # prompts that are scored on both


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        layers: each with the layer that its scales are from, and on how many prompts.
        prompts: on SmolLM2; `published` of them for the published formula.
    """

    layers: tuple[tuple[synthetic.Layer, str, int], ...]
    prompts: int
    published: int


FULL = Plan(
    (
        (synthetic.OLMOE, "middle", 906),
        (synthetic.OLMO, "middle", 906),
        (synthetic.UNEVEN_OLMOE, "middle", 906),
        (synthetic.OLMOE, "last", 906),
        (synthetic.GEMMA, "middle", 906),
        (synthetic.OLMO, "last", 453),
    ),
    smollm.N_FACTS,
    4,
)
QUICK = Plan(((synthetic.OLMOE, "middle", 192), (synthetic.OLMO, "middle", 192)), 96, 2)


def measure_smollm2(folder: Path, plan: Plan, say: Say) -> dict[str, Any]:
    """The default call on SmolLM2, end to end but for loading, beside the published formula and the lens."""
    model = load_model(str(folder), device="cuda")
    prompts = smollm.encoded(model, plan.prompts)
    facts = smollm.built_in(plan.prompts)
    say("SmolLM2: logit lens of every block")
    real.lens_seconds(model, prompts[:2])
    floor = real.lens_seconds(model, prompts)
    say("SmolLM2: published formula")
    step = max(1, len(prompts) // plan.published)
    published = real.published_seconds(model, prompts[::step][: plan.published])
    say(f"SmolLM2: the default call, {plan.prompts} prompts")
    attribute(model, smollm.built_in(8))
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    default = timing.timed(lambda: attribute(model, facts, keep="relations"), runs=2)
    peak = torch.cuda.max_memory_allocated() - held
    say(f"SmolLM2: {SAME} prompts there and on the CPU")
    same = beside_cpu(folder, model, prompts[:: max(1, len(prompts) // SAME)][:SAME])
    groups = real.beside_units(model, prompts, say)
    alone = real.one_prompt(model, prompts, say)
    return {
        "prompts": plan.prompts,
        "published": {"seconds": published * plan.prompts, "per_prompt": published, "prompts": plan.published},
        "lens": floor,
        "default": default.json(),
        "ratio": published * plan.prompts / default.seconds,
        "over_lens": default.seconds / floor,
        "peak_beside_model": peak,
        "groups": groups,
        "alone": alone,
        "beside_cpu": same,
        "waits": waits(model, prompts[:48]),
    }


def beside_cpu(folder: Path, there: Model, prompts: Sequence[EncodedPrompt]) -> dict[str, float]:
    """The same prompts on the CPU: by how much scores differ, over what their bounds allow, and both times."""
    here = load_model(str(folder), device="cpu")
    scores, bounds, seconds = [], [], []
    for model in (there, here):
        start = time.perf_counter()
        collector, results = attribute_encoded(model, prompts, LPI(), Scoring(units=ALL_UNITS))
        seconds.append(time.perf_counter() - start)
        scores.append(collector.result("lpi").astype(float))
        bounds.append(np.repeat(results.blocks["error_bound"], [block.n_units for block in model.blocks], axis=1))
    apart = np.abs(scores[0] - scores[1])
    return {
        "prompts": len(prompts),
        "largest_difference": float(apart.max()),
        "over_bounds": float((apart / (bounds[0] + bounds[1])).max()),
        "gpu_seconds": seconds[0],
        "cpu_seconds": seconds[1],
        "cpu_threads": torch.get_num_threads(),
    }


def waits(model: Model, prompts: Sequence[EncodedPrompt]) -> dict[str, int]:
    """How often the host waits for the GPU in a default call on these prompts, as PyTorch itself counts it."""
    return {
        "prompts": len(prompts),
        "waits": counted(lambda: attribute_encoded(model, prompts, LPI(), Scoring(units=ALL_UNITS))),
    }


def counted(call: Callable[[], object]) -> int:
    """Synchronising operations that a call makes."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            call()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in found)


def main() -> None:
    """Read the command line, measure, write, print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer prompts, into gpu-quick.json")
    parser.add_argument("--out", type=Path, help="file to write in place of benchmarks/results/gpu.json")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("no GPU was found: torch.cuda.is_available() is false. `make bench` measures on the CPU")
    plan, name = (QUICK, "gpu-quick") if given.quick else (FULL, "gpu")
    file, start = given.out or RESULTS / f"{name}.json", time.perf_counter()

    def say(text: str) -> None:
        print(f"{time.perf_counter() - start:7.1f} s  {text}", flush=True)

    found: dict[str, Any] = {
        "plan": name,
        "made": now(),
        "version": __version__,
        "tolerance": layers.TOLERANCE,
        "machine": timing.machine(),
        "peak_flops": timing.peak(PEAK_SIZE, "cuda"),
        "smollm2": None,
        "layers": [],
    }

    def save() -> None:
        found["seconds"] = time.perf_counter() - start
        file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

    folder = smollm.folder()
    if folder is None:
        say("SmolLM2 is not there, so it is left out; `make smollm2` fetches it")
    else:
        found["smollm2"] = measure_smollm2(folder, plan, say)
        save()
        say(f"{found['smollm2']['ratio']:.1f} times the published formula's speed")
    for layer, depth, n_prompts in plan.layers:
        found["layers"].append(layers.measure(layer, depth, n_prompts, say, "cuda"))
        save()
        say(f"{found['layers'][-1]['ratio']:.1f} times the published formula's speed")
    save()


if __name__ == "__main__":
    main()
