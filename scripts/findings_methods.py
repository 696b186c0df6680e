"""Measure what docs/findings/methods.md says of methods: `make findings-methods`.

    python scripts/findings_methods.py measure smollm2 demo costs   # but for what is there
    python scripts/findings_methods.py write                          # the tables of docs/findings/methods.md

Every part is a file in docs/findings/data. SmolLM2-135M is looked for where `make smollm2` puts it, or where
GATED_LPI_SMOLLM2 says; the arms in the folder that ARMS names, a run of scripts/findings_arms.toml.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import findings_candidates  # noqa: E402
import findings_tables  # noqa: E402

from benchmarks import lens_units, passes, timing  # noqa: E402  # which is no installed package
from gated_lpi import FactSet, compare, load_facts, load_model  # noqa: E402
from gated_lpi.ablation import target_ranks  # noqa: E402
from gated_lpi.metrics import bootstrap, summary_to_json  # noqa: E402
from gated_lpi.models import Model  # noqa: E402
from gated_lpi.prompting import Prompting, encode_facts  # noqa: E402

PAGE = ROOT / "docs" / "findings" / "methods.md"
DATA = ROOT / "docs" / "findings" / "data"
FACTS = 60  # at most: a unit's true effect is a pass over all of them
ARMS = ("moe", "dense-active", "dense-total")
STEPS = ("middle", "last")
K = 10


def smollm2_folder() -> Path:
    return Path(os.environ.get("GATED_LPI_SMOLLM2") or ROOT / ".cache" / "smollm2") / "model"


def arms_folder() -> Path:
    return Path(os.environ.get("ARMS") or ROOT / "findings-run")


def known_facts(model: Model, templates: str, most: int = FACTS, each: int = 8) -> FactSet:
    """Facts whose target is among the model's ten likeliest tokens, some of every relation that has four of them."""
    facts = load_facts("builtin")
    encoded = encode_facts(model, facts, Prompting(templates, None, "skip")).prompts  # type: ignore[arg-type]
    ranks = target_ranks(model, encoded).tolist()
    known = {(one.prompt.relation, one.prompt.subject): one for one, r in zip(encoded, ranks, strict=True) if r < K}
    kept = []
    for relation in facts.relations:
        # As they were asked: which template a held-out fact has depends on its place among the others.
        samples = tuple(
            replace(sample, template=known[relation.name, sample.subject].prompt.template)
            for sample in relation.samples
            if (relation.name, sample.subject) in known
        )
        if len(samples) >= 4:
            kept.append(replace(relation, samples=samples))
    each = min(each, -(-most // max(len(kept), 1)))
    cut = [replace(one, samples=one.samples[:each]) for one in kept]
    cut = [one for one in cut if len({known[one.name, sample.subject].target_id for sample in one.samples}) > 1]
    return replace(facts, relations=tuple(cut))


def compared(model: Model, facts: FactSet, **options: Any) -> dict[str, Any]:
    """`gated_lpi.compare` as JSON, with intervals of HIT in place of ranks by prompt."""
    start = time.perf_counter()
    found = compare(model, facts, progress=told("compare"), seed=1, draws=100, **options)
    seconds = time.perf_counter() - start
    if "tested" in found.dims:
        hits = {f"hit_{n}_interval": hit_intervals(found["target_rank"], n) for n in (1, K)}
        found = found.drop_dims("tested").assign(hits)
    return {"seconds": round(seconds), "relations": {r.name: len(r.samples) for r in facts.relations}, **tidy(found)}


def hit_intervals(ranks: xr.DataArray, k: int) -> xr.DataArray:
    """HIT@k with its interval over tested prompts."""
    hits = (ranks < k).transpose("tested", ...)
    found = bootstrap(lambda mean: mean, hits.to_numpy().astype(float), np.ones(hits.sizes["tested"]))
    return xr.DataArray(np.stack(found[:3], axis=-1), dims=(*hits.dims[1:], "end"))


def tidy(found: xr.Dataset) -> dict[str, Any]:
    """As JSON of four digits after the point, without what holds of this machine's folders alone."""
    plain = summary_to_json(found.round(4))
    plain["attrs"] = {key: value for key, value in plain["attrs"].items() if key not in ("path", "source", "folder")}
    return plain


def told(what: str) -> Callable[[int, int], None]:
    """Progress as lines on standard error, one a minute."""
    last = [time.monotonic()]

    def progress(done: int, total: int) -> None:
        if time.monotonic() - last[0] > 60:
            last[0] = time.monotonic()
            print(f"{what}: {done}/{total}", file=sys.stderr, flush=True)

    return progress


def smollm2_truth() -> dict[str, Any]:
    model = load_model(str(smollm2_folder()), device="cpu")
    methods = ("lpi", "direct_effect", "grad_x_act")
    return compared(model, known_facts(model, "first", most=40), methods=methods, sample=8, shares=())


def smollm2_curves() -> dict[str, Any]:
    model = load_model(str(smollm2_folder()), device="cpu")
    facts = known_facts(model, "first", most=40)
    return compared(model, facts, foil="relation", sample=None, shares=(0.001, 0.01, 0.1), control_draws=2)


def demo_checkpoint(arm: str, when: str) -> Path:
    """The last checkpoint of an arm, or the one whose step is nearest to a third of it."""
    steps = {int(path.name.split("-")[1]): path for path in (arms_folder() / "training" / arm).glob("step-*")}
    last = max(steps)
    return steps[last if when == "last" else min(steps, key=lambda step: abs(step - last / 3))]


def demo(arm: str, when: str) -> dict[str, Any]:
    model = load_model(str(demo_checkpoint(arm, when)), device="cpu")
    known = load_model(str(demo_checkpoint(arm, "last")), device="cpu")
    methods = ("lpi", "grad_x_act", "integrated_gradients")
    facts = known_facts(known, "held_out")
    found = compared(model, facts, methods=methods, sample=16, control_draws=2)
    return {"step": int(demo_checkpoint(arm, when).name.split("-")[1]), **found}


def contrast(arm: str) -> dict[str, Any]:
    model = load_model(str(demo_checkpoint(arm, "last")), device="cpu")
    facts = known_facts(model, "held_out")
    return compared(model, facts, foil="relation", sample=8, shares=(0.001, 0.01, 0.1), control_draws=2)


def candidates(arm: str, when: str) -> dict[str, Any]:
    model = load_model(str(demo_checkpoint(arm, when)), device="cpu", dtype="float64")  # without rounding
    known = load_model(str(demo_checkpoint(arm, "last")), device="cpu")
    return findings_candidates.measure(model, known_facts(known, "held_out"))


def costs() -> dict[str, Any]:
    models = {"SmolLM2-135M": load_model(str(smollm2_folder()), device="cpu"), "mixture of experts": passes.moe()}
    return {"models": {name: passes.measure(one, passes.random_prompts(one)) for name, one in models.items()}}


def in_lens_units() -> dict[str, Any]:
    model = load_model(str(smollm2_folder()), device="cpu")
    prompts = encode_facts(model, load_facts("builtin"), Prompting("first", None, "skip")).prompts
    return lens_units.measure(model, prompts[:: len(prompts) // 8][:8])


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "smollm2-truth": smollm2_truth,
    "smollm2-curves": smollm2_curves,
    **{
        f"demo-{arm}-{when}": (lambda arm=arm, when=when: demo(arm, when))  # type: ignore[misc]
        for arm in ARMS
        for when in STEPS
    },
    **{f"contrast-{arm}-last": (lambda arm=arm: contrast(arm)) for arm in ARMS},  # type: ignore[misc]
    **{
        f"candidates-{arm}-{when}": (lambda arm=arm, when=when: candidates(arm, when))  # type: ignore[misc]
        for arm in ARMS
        for when in STEPS
    },
    "costs": costs,
    "lens-units": in_lens_units,
}


def measure(wanted: list[str]) -> None:
    """Measure the parts whose names begin with one of these, but for those that are there."""
    DATA.mkdir(parents=True, exist_ok=True)
    for name, part in PARTS.items():
        file = DATA / f"{name}.json"
        if file.exists() or not any(name.startswith(one) for one in wanted):
            continue
        print(f"{name} …", file=sys.stderr, flush=True)
        found = {"made": datetime.now(UTC).isoformat(timespec="seconds"), "machine": timing.machine(), **part()}
        draft = file.with_suffix(".draft")
        draft.write_text(json.dumps(found, allow_nan=False) + "\n", encoding="utf-8")
        draft.rename(file)


def write() -> None:
    """Put the tables into the page, between their marks; those of what was not measured stay as they are."""
    parts, page = findings_tables.load(DATA), PAGE.read_text(encoding="utf-8")
    for name, (needs, lines) in findings_tables.TABLES.items():
        if needs and needs not in parts:
            continue
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        content = "\n".join((begin, *lines(parts), end))
        page, count = re.subn(f"{begin}.*?{end}", lambda _, content=content: content, page, flags=re.DOTALL)
        assert count == 1, name
    PAGE.write_text(page, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("measure", "write"))
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=f"of {', '.join(PARTS)}; beginnings of names")
    given = parser.parse_args()
    if given.verb == "write":
        write()
    else:
        measure(given.parts)


if __name__ == "__main__":
    main()
