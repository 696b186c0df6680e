"""The tables of docs/findings/methods.md, from the files of docs/findings/data; each a list of Markdown lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import xarray as xr

THIRDS = ("lower third", "middle third", "upper third")
Part = dict[str, Any]


def load(data: Path) -> dict[str, Part]:
    """Every part that was measured, by name."""
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(data.glob("*.json"))}


def dataset(part: Part) -> xr.Dataset:
    """A comparison as `gated_lpi.compare` gave it; None in JSON is NaN."""
    keys = ("coords", "attrs", "dims", "data_vars")
    found = xr.Dataset.from_dict({key: part[key] for key in keys})
    numbers = [name for name, values in found.data_vars.items() if values.dtype == object]
    return found.assign({name: found[name].astype(float) for name in numbers})


def interval(values: Any, digits: int = 2) -> str:
    """Estimate and ends, [3]."""
    estimate, low, high = (float(value) for value in values)
    return "-" if estimate != estimate else f"{estimate:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def table(head: list[str], rows: list[list[str]]) -> Iterator[str]:
    """A Markdown table."""
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    yield from ("| " + " | ".join(row) + " |" for row in rows)


def truth_rows(name: str, found: xr.Dataset, scales: tuple[str, ...]) -> list[list[str]]:
    """Spearman with true effects: over all, within layers, in each third; and by chance."""
    rows = []
    truth, chance = found["truth"].sel(kind="ffn"), found["truth_chance"].sel(kind="ffn")
    for scale in scales:
        for method in found["by"].values.tolist():
            one = truth.sel(scale=scale, by=method)
            null = chance.sel(scale=scale, by=method, part="overall", figure="spearman_within")
            rows.append(
                [
                    *([name] if name else []),
                    {"logprob": "log p", "contrast": "foil"}.get(scale, scale),
                    f"`{method}`",
                    interval(one.sel(part="overall", figure="spearman")),
                    interval(one.sel(part="overall", figure="spearman_within")),
                    *(interval(one.sel(part=third, figure="spearman")) for third in THIRDS),
                    f"±{float(null.sel(end='high') - null.sel(end='low')) / 2:.2f}",
                ]
            )
    return rows


TRUTH = ["effect on", "method", "all units", "within layers", *THIRDS, "chance, within"]


def smollm2_truth(parts: dict[str, Part]) -> Iterator[str]:
    found = dataset(parts["smollm2-truth"])
    yield from table(TRUTH, truth_rows("", found, ("logprob", "margin")))


def smollm2_layers(parts: dict[str, Part]) -> Iterator[str]:
    """Of every layer's sampled units: least and median Spearman over layers."""
    found = dataset(parts["smollm2-truth"])
    layers = [part for part in found["part"].values.tolist() if part.startswith("layer ")]
    rows = []
    for scale in ("logprob", "margin"):
        for method in found["by"].values.tolist():
            one = found["truth"].sel(kind="ffn", scale=scale, by=method, figure="spearman", end="estimate", part=layers)
            worst = layers[int(one.to_numpy().argmin())]
            share = float((one >= 0.95).mean())
            rows.append(
                [
                    {"logprob": "log p"}.get(scale, scale),
                    f"`{method}`",
                    f"{float(one.median()):.2f}",
                    f"{float(one.min()):.2f} ({worst})",
                    f"{share:.0%}",
                ]
            )
    yield from table(["effect on", "method", "median layer", "worst layer", "layers at 0.95 or more"], rows)


def agreement(parts: dict[str, Part]) -> Iterator[str]:
    rows = []
    for name, part in parts.items():
        if "data_vars" not in part or name == "smollm2-curves" or name.startswith("contrast"):
            continue
        found = dataset(part)
        of = found["agreement"].sel(target="plain", kind="ffn")
        for pair in found["pair"].values.tolist():
            one = of.sel(pair=pair)
            figures = ("spearman_within", "spearman", "kendall_within", "overlap")
            chance = float(found["overlap_chance"].sel(kind="ffn", end="estimate"))
            rows.append([title(name), pair, *(interval(one.sel(figure=f)) for f in figures), f"{chance:.3f}"])
    head = ["model", "pair", "Spearman within layers", "over all", "Kendall within layers", "top 1% shared", "chance"]
    yield from table(head, rows)


def title(name: str) -> str:
    """A part's name as tables have it."""
    if name.startswith("smollm2"):
        return "SmolLM2-135M"
    what, arm = name.split("-", 1)
    arm, when = arm.rsplit("-", 1)
    return f"{arm}, {when}" + (" (three shares)" if what == "contrast" else "")


def demo_truth(parts: dict[str, Part]) -> Iterator[str]:
    rows: list[list[str]] = []
    for name, part in parts.items():
        if name.startswith("demo"):
            rows += truth_rows(f"{title(name)} (step {part['step']})", dataset(part), ("logprob", "margin"))
    yield from table(["arm", *TRUTH], rows)


def curve_rows(name: str, found: xr.Dataset) -> list[list[str]]:
    """What is left when the top share is silenced."""
    rows = []
    one = found.sel(kind="ffn", mode="silenced")
    for target in found["target"].values.tolist():
        for share in found["share"].values.tolist():
            for method in found["by"].values.tolist():
                here = one.sel(target=target, share=share, by=method)
                rows.append(
                    [
                        *([name] if name else []),
                        f"{100 * share:.3g}%",
                        f"`{method}`, {target}",
                        interval(here["hit_1_interval"]),
                        interval(here["hit_10_interval"]),
                        f"{float(here['logprob']):.2f}",
                        f"{float(here['text_loss']):.2f}",
                        f"{float(here['other_hit_k']):.2f}",
                        *(
                            f"{float(here['logprob_control'].sel(control=c).mean()):.2f}, "
                            f"{float(here['text_loss_control'].sel(control=c).mean()):.2f}"
                            for c in ("random", "layer")
                        ),
                    ]
                )
    return rows


CURVE = ["silenced", "ranked by", "HIT@1", "HIT@10", "log p", "loss on text", "others' HIT@10"]
CURVE += ["random: log p, loss", "same layers: log p, loss"]


def smollm2_curves(parts: dict[str, Part]) -> Iterator[str]:
    found = dataset(parts["smollm2-curves"])
    intact = ["none", "", *(f"{float(found[f'{name}_intact']):.2f}" for name in ("hit_1", "hit_k", "logprob"))]
    intact += [f"{float(found[f'{name}_intact']):.2f}" for name in ("text_loss", "other_hit_k")]
    yield from table(CURVE, [[*intact, "", ""], *curve_rows("", found)])


def areas(parts: dict[str, Part]) -> Iterator[str]:
    rows = []
    for name, part in parts.items():
        if "area" not in part.get("data_vars", {}):
            continue
        found = dataset(part).sel(kind="ffn")
        for target in found["target"].values.tolist():
            for method in found["by"].values.tolist():
                one = found.sel(target=target, by=method, curve_scale="logprob")
                if bool(one["area"].isnull().all()):
                    continue
                control = one["area_control"].mean("draw")
                drop, cpr = (control.sel(area_of=of) for of in ("drop", "cpr"))
                rows.append(
                    [
                        title(name),
                        f"`{method}`, {target}",
                        interval(one["area"].sel(area_of="drop")),
                        ", ".join(f"{float(drop.sel(control=c)):.2f}" for c in ("random", "layer")),
                        interval(one["area"].sel(area_of="cpr")),
                        interval(one["area"].sel(area_of="cmd")),
                        ", ".join(f"{float(cpr.sel(control=c)):.2f}" for c in ("random", "layer")),
                        *(interval(one["drop_at_damage"].sel(damage=d)) for d in (0.05, 0.2)),
                    ]
                )
    head = ["model", "ranked by", "drop of log p", "of random, same layers", "CPR", "CMD", "CPR of random, same layers"]
    yield from table([*head, "drop at +0.05 nats on text", "at +0.2"], rows)


def contrast(parts: dict[str, Part]) -> Iterator[str]:
    rows = []
    for name, part in parts.items():
        if "target_agreement" not in part.get("data_vars", {}):
            continue
        found = dataset(part).sel(kind="ffn")
        for method in found["by"].values.tolist():
            one = found["target_agreement"].sel(by=method)
            if bool(one.isnull().all()):
                continue
            chance = float(found["overlap_chance"].sel(end="estimate"))
            figures = (interval(one.sel(figure=f)) for f in ("overlap", "spearman_within"))
            rows.append([title(name), f"`{method}`", *figures, f"{chance:.3f}"])
    yield from table(["model", "method", "top 1% shared", "Spearman within layers", "chance of sharing"], rows)


def candidates(parts: dict[str, Part]) -> Iterator[str]:
    rows = []
    for name, part in parts.items():
        if not name.startswith("candidates"):
            continue
        for candidate, found in part["candidates"].items():
            overall, *thirds = (interval(ends) for ends in found["spearman"])
            least = min(ends[0] for ends in found["spearman"][1:])
            rows.append(
                [
                    title(name),
                    candidate,
                    found["backward"],
                    overall,
                    *thirds,
                    f"{least:.2f}",
                    f"{found['by_prompt']:.2f}",
                ]
            )
    head = ["arm", "candidate", "backward passes", "all units", *THIRDS, "worst third", "within one prompt"]
    yield from table(head, rows)


def costs(parts: dict[str, Part]) -> Iterator[str]:
    rows = []
    for name, found in parts["costs"]["models"].items():
        seconds = [f"{1000 * found[key]['least'] / found['prompts']:.1f}" for key in ("pass", "loss", "grad_x_act")]
        size = f"{found['parameters'] / 1e6:.0f}M"
        rows.append([name, size, *seconds, f"{found['passes']:.2f}", f"{found['losses']:.2f}"])
    head = ["model", "parameters", "pass, ms", "pass with all logits, ms", "`grad_x_act`, ms", "of a pass"]
    yield from table([*head, "of a pass with all logits"], rows)


def lens_units(parts: dict[str, Part]) -> Iterator[str]:
    found = parts["lens-units"]
    seconds = {name: 1000 * one["least"] / found["prompts"] for name, one in found["timings"].items()}
    rows = [["the lens itself", f"{seconds['lens']:.0f}", "1"]]
    rows += [[_coded(name), f"{seconds[name]:.0f}", f"{units:.2f}"] for name, units in found["lens_units"].items()]
    yield from table(["method", "ms a prompt", "lens units"], rows)


def _coded(name: str) -> str:
    method, comma, rest = name.partition(",")
    return f"`{method}`{comma}{rest}"


def measured(parts: dict[str, Part]) -> Iterator[str]:
    rows = []
    for name, part in parts.items():
        machine = part["machine"]
        who = f"{machine['processor']}, {machine['threads']} thread, torch {machine['torch']}"
        prompts = part.get("attrs", part).get("n_prompts", part.get("prompts", ""))
        rows.append([f"`{name}`", str(prompts), f"{part.get('seconds', '')}", part["made"], who])
    yield from table(["part", "facts", "seconds", "made", "machine"], rows)


TABLES: dict[str, tuple[str, Callable[[dict[str, Part]], Iterator[str]]]] = {
    "smollm2-truth": ("smollm2-truth", smollm2_truth),
    "smollm2-layers": ("smollm2-truth", smollm2_layers),
    "agreement": ("", agreement),
    "demo-truth": ("", demo_truth),
    "candidates": ("", candidates),
    "smollm2-curves": ("smollm2-curves", smollm2_curves),
    "areas": ("", areas),
    "contrast": ("", contrast),
    "costs": ("costs", costs),
    "lens-units": ("lens-units", lens_units),
    "measured": ("", measured),
}
"""By the name of their marks in the page: the part that each needs, and what writes it."""
