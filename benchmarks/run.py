"""All benchmarks: `python -m benchmarks.run [--quick]`, that is `make bench` and `make bench-quick`.

Writes benchmarks/results/full.json or quick.json, and full.partial.json on the way; `python -m benchmarks.plots` turns
the full one into the figures and tables of docs/benchmarks.md. Progress goes to stderr. The quick run is the same code
on small sizes: it shows that the measurement works, and its numbers are not those of the documentation.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks import curves, layers, real, smollm, summaries, synthetic, tables, timing
from benchmarks.layers import Say
from gated_lpi import __version__

RESULTS = Path(__file__).with_name("results")


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        name: of the results file.
        layers: synthetic layers, each with the layer that its scales are from, and on how many prompts.
        curve_layer, curve_prompts: where sizes are varied from.
        real_prompts: on SmolLM2, in all; `real_few` for the runs that need fewer; 0 leaves SmolLM2 out.
        published_prompts: of them that the published formula is timed on.
        peak_size: of the matrices whose product's speed is the machine's peak.
        summary: arms that are summarised.
    """

    name: str
    layers: tuple[tuple[synthetic.Layer, str, int], ...]
    curve_layer: synthetic.Layer
    curve_prompts: int
    real_prompts: int
    real_few: int
    published_prompts: int
    peak_size: int
    summary: summaries.Work


CURVE = synthetic.Layer("scaling", d=768, ffn=3072, attention=768, vocabulary=12288, heads=12)
SOME, FEW = 384, 192  # prompts of a layer: the whole has to fit in 25 minutes; as many as `attribute` takes together
FULL = Plan(
    "full",
    (
        (synthetic.OLMOE, "middle", SOME),
        (synthetic.UNEVEN_OLMOE, "middle", SOME),
        (synthetic.OLMO, "middle", SOME),
        (synthetic.GEMMA, "middle", FEW),
        (synthetic.OLMOE, "last", FEW),
        (synthetic.OLMO, "last", FEW),
    ),
    CURVE,
    256,
    906,
    100,
    2,
    6144,
    summaries.Work(summaries.OLMOE, summaries.SIXTEENTH),
)
QUICK = Plan(
    "quick",
    tuple(
        (layer, depth, 200) for layer in (synthetic.SMALL_DENSE, synthetic.SMALL_MOE) for depth in ("middle", "last")
    ),
    synthetic.Layer("scaling, small", d=256, ffn=512, attention=256, vocabulary=4096, heads=4),
    64,
    0,
    0,
    0,
    2048,
    summaries.Work(summaries.SMALL, summaries.SMALL),
)


def measure(plan: Plan, folder: Path | None, say: Say, save: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Run everything of a plan; SmolLM2 is left out where it is not there, and the result says so.

    The headline comes first, and what is there is saved after each part.
    """
    start = time.perf_counter()
    say("peak of a matrix product")
    found: dict[str, Any] = {
        "plan": plan.name,
        "made": now(),
        "version": __version__,
        "tolerance": layers.TOLERANCE,
        "machine": timing.machine(),
        "peak_flops": timing.peak(plan.peak_size),
        "peak_size": plan.peak_size,
        "layers": [],
        "curves": {},
        "curve_layer": {**plan.curve_layer.__dict__, "prompts": plan.curve_prompts, "depth": curves.DEPTH},
        "linearity": [],
        "summaries": None,
        "smollm2": None,
    }

    def keep(**part: Any) -> None:
        found.update(part, seconds=time.perf_counter() - start)
        save(found)

    if plan.real_prompts and folder is not None:
        keep(smollm2=real.measure(folder, plan.real_prompts, plan.real_few, plan.published_prompts, say))
    for layer, depth, n_prompts in plan.layers:
        keep(layers=[*found["layers"], layers.measure(layer, depth, n_prompts, say)])
    keep(summaries=measure_summaries(plan, say))
    keep(curves=curves.all_curves(plan.curve_layer, plan.curve_prompts, say))
    keep(linearity=curves.linearity(plan.curve_layer))
    return found


def measure_memory(plan: Plan, folder: Path, found: dict[str, Any], say: Say) -> None:
    """Put peak memory on SmolLM2, measured now, into results that are there."""
    whole = real.memory_run(folder, plan.real_prompts, None, say)
    found["smollm2"]["memory"] = real.memory_runs(folder, plan.real_few, whole, say)
    found["smollm2"]["memory_made"] = f"{now()}, {torch.get_num_threads()} threads"


def measure_summaries(plan: Plan, say: Say) -> dict[str, Any]:
    """What summarising takes, and when and where that was measured."""
    return {**summaries.measure(plan.summary, say), "made": now(), "machine": timing.machine()}


def write(file: Path, found: dict[str, Any]) -> None:
    """Write results."""
    RESULTS.mkdir(exist_ok=True)
    file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def now() -> str:
    """The time, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def main() -> None:
    """Read the command line, measure, write, print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, under 2 minutes on two cores")
    parser.add_argument("--threads", type=int, default=None, help="torch threads; default: all cores")
    parser.add_argument("--memory", action="store_true", help="only measure memory again, into the full results")
    parser.add_argument("--summaries", action="store_true", help="only measure summaries again, into results there are")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    console, start = Console(stderr=True), time.perf_counter()
    plan, folder = QUICK if given.quick else FULL, smollm.folder()
    if plan.real_prompts and folder is None:
        console.print("SmolLM2 is not there, so it is left out; `make smollm2` fetches it", style="yellow")
    with console.status("starting") as status:

        def say(text: str) -> None:
            status.update(text)
            console.print(f"{time.perf_counter() - start:7.1f} s  {text}", highlight=False)

        file = RESULTS / f"{plan.name}.json"
        if given.summaries:
            if not file.is_file():
                parser.error(f"--summaries needs {file}; run all benchmarks first")
            found = json.loads(file.read_text(encoding="utf-8"))
            found["summaries"] = measure_summaries(plan, say)
        elif given.memory:
            if folder is None or not file.is_file():
                parser.error(f"--memory needs SmolLM2 and {file}; run `make bench` first")
            found = json.loads(file.read_text(encoding="utf-8"))
            measure_memory(plan, folder, found, say)
        else:
            draft = file.with_suffix(".partial.json")  # what was measured before stays until all is there
            found = measure(plan, folder, say, lambda found: write(draft, found))
            draft.unlink()
    write(file, found)
    for work in tables.works(found):
        ratio, over = tables.times(work.published / work.fast), tables.times(work.fast / work.lens, 1)
        print(f"{work.name}: {ratio} the published formula's speed, {over} the logit lens's cost")
    print(f"{file}, {found['seconds']:.0f} s")


if __name__ == "__main__":
    main()
