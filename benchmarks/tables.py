"""The tables of docs/benchmarks.md, from a results file; each a list of Markdown lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from benchmarks.synthetic import GEMMA, OLMO, OLMOE, calibration
from gated_lpi.options import parse_memory

Results = dict[str, Any]
Section = Callable[[Results], list[str]]
TIMES = "\N{MULTIPLICATION SIGN}"


class Goal(NamedTuple):
    """What a ratio must reach, and what is aimed at."""

    must: float
    aim: float


SMOLLM2_GOAL = Goal(200, 400)
LAYER_GOALS = {OLMO.name: Goal(600, 1200), OLMOE.name: Goal(300, 700), GEMMA.name: Goal(200, 500)}
LAST_GOAL = Goal(100, 400)  # with the scales of a last layer
LENS_GOAL = Goal(5, 3.5)  # at most, and so the others:
GROUPS_GOAL = Goal(0.20, 0.10)
ALONE_GOAL = Goal(15, 8)
GRADIENT_GOAL = Goal(1, 0.5)  # over activation × gradient, on 100 prompts
CAP_GOAL = Goal(1.1, 1.0)  # peak beside model and result, over `memory=`
RESOLVED_GOAL = Goal(4, 2)  # over summed positions
SUMMARY_GOAL = Goal(120, 30)  # seconds
SUMMARY_MEMORY = 1.1  # peak of many checkpoints over that of few
MEMORY_GOAL = 1.10
ALONE = "SmolLM2-135M, one prompt alone, default call, in its lenses"


class Work(NamedTuple):
    """One row of the main tables; seconds are of all pairs, preparation included in `fast`.

    `fastest` is the fastest certified run over the fastest lens, where there were several.
    """

    name: str
    published: float
    fast: float
    prepared: float | None
    lens: float
    fastest: float | None
    goal: Goal | None
    tiers: dict[str, dict[str, int]]


def works(found: Results) -> list[Work]:
    """SmolLM2 first, where it was measured, then the synthetic layers."""
    rows = []
    real = found["smollm2"]
    if real:
        rows.append(
            Work(
                f"SmolLM2-135M, {real['prompts']} prompts, default call, forward passes included",
                real["published"]["seconds"],
                real["fast"],
                None,
                real["lens"],
                None,
                SMOLLM2_GOAL,
                real["tiers"],
            )
        )
    for row in found["layers"]:
        rows.append(
            Work(
                _named(row),
                row["published"]["seconds"],
                row["fast"]["seconds"],
                row["prepared"]["seconds"] if "prepared" in row else None,
                row["lens"]["seconds"],
                row["fast"]["least"] / row["lens"]["least"],
                LAST_GOAL if row["depth"] == "last" else LAYER_GOALS.get(row["layer"]["name"]),
                row["tiers"],
            )
        )
    return rows


def _named(row: Results) -> str:
    """How a layer is called."""
    layer = row["layer"]
    routing = f", {layer['routing']} routing" if layer["experts"] > 1 else ""
    return f"one layer of {layer['name']}'s size, {row['depth']}-layer scales{routing}, {row['prompts']} prompts"


def peak(found: Results) -> float:
    """The fastest float32 matrix products seen in the run: the square one, or those of the published formula."""
    rates = [found["peak_flops"]]
    for row in found["layers"]:
        size = 2 * row["layer"]["d"] * row["layer"]["vocabulary"]
        rates += [size * run["units"] / run["least"] for run in row["published"]["runs"].values()]
    return max(rates)


def machine(found: Results) -> list[str]:
    """What it ran on."""
    on = found["machine"]
    instructions = f" ({on['instructions']})" if "instructions" in on else ""
    return [
        f"{on['processor']}{instructions}, {on['cores']} cores, {on['threads']} threads, {on['memory_gb']:.0f} GB; "
        f"{on['system']}; Python {on['python']}, torch {on['torch']} ({on['blas']}). A float32 product of square "
        f"matrices of size {found['peak_size']} ran at {found['peak_flops'] / 1e9:.0f} GFLOP/s, the fastest products "
        f"of the run at {peak(found) / 1e9:.0f}. Made {found['made']} with gated-lpi {found['version']}, tolerance "
        f"{found['tolerance']:g} nats, in {found['seconds'] / 60:.0f} minutes."
    ]


def ratios(found: Results) -> list[str]:
    """Published over certified, beside what it must reach."""
    rows = [
        [
            work.name,
            duration(work.published),
            duration(work.fast),
            f"**{times(work.published / work.fast)}**",
            "" if work.prepared is None else times(work.published / work.prepared),
            *((times(work.goal.must), times(work.goal.aim)) if work.goal else ("", "")),
            verdict(work.published / work.fast, work.goal, at_least=True),
        ]
        for work in works(found)
    ]
    head = ["work", "published (scaled)", "certified", "ratio", "ratio, prepared", "must", "aim", ""]
    return table(head, rows, right=(1, 2, 3, 4, 5, 6))


def lens(found: Results) -> list[str]:
    """Certified over logit lens."""
    rows = [
        [
            work.name,
            duration(work.lens),
            f"**{times(work.fast / work.lens, 1)}**",
            "" if work.fastest is None else times(work.fastest, 1),
            "" if work.prepared is None else times(work.prepared / work.lens, 1),
            f"≤ {times(LENS_GOAL.must)}",
            f"≤ {times(LENS_GOAL.aim)}",
            verdict(work.fast / work.lens, LENS_GOAL, at_least=False),
        ]
        for work in works(found)
    ]
    head = ["work", "lens", "certified / lens", "fastest runs of both", "prepared / lens", "must", "aim", ""]
    return table(head, rows, right=(1, 2, 3, 4, 5, 6))


def overview(found: Results) -> list[str]:
    """Everything that has a goal, in one table; what users call comes first."""
    real = found["smollm2"] or {}
    rows: list[list[str]] = []
    for work in works(found):
        if work.goal is not None:
            rows.append(_goal_row(f"{work.name}: over the published formula", work.published / work.fast, work.goal, 0))
    for work in works(found)[:1] if real else []:
        rows.insert(1, _goal_row("the same, in lenses", work.fast / work.lens, LENS_GOAL, 1))
    if "groups" in real:
        rows.insert(
            2, ["the same, heads and blocks beside units", *_beside({"groups_beside_units": real["groups"]["beside"]})]
        )
    if "alone" in real:
        rows.append(_goal_row(ALONE, real["alone"]["over_lens"], ALONE_GOAL, 1))
    if real:
        rows += _gradient_goal(real) + _cap_goals(real)
    if "resolved" in real:
        name = f'SmolLM2-135M, `positions="resolved"` over summed, {real["resolved"]["prompts"]} prompts of 32 tokens'
        rows.append(_goal_row(name, real["resolved"]["over_summed"], RESOLVED_GOAL, 1))
    if found.get("summaries"):
        rows += _summary_goals(found["summaries"]["runs"])
    then = _then(real, [row[0] for row in rows])
    whole = [[name, then.get(name, ""), *cells] for name, *cells in rows]
    return [*table(["work", "before", "measured", "must", "aim", ""], whole, right=(1, 2, 3, 4)), *_compared(real)]


def _then(real: Results, names: Sequence[str]) -> dict[str, str]:
    """What the old code reached of the rows that it was measured for in this run, by name."""
    old = real.get("before", {}).get("before")
    if old is None:
        return {}
    prompt = old["all"] / real["before"]["prompts"]
    published, lens = real["published"]["seconds"] / real["prompts"], real["lens"] / real["prompts"]
    alone = times(old["one"] / real["alone"]["lens"], 1)
    return {names[0]: times(published / prompt), names[1]: times(prompt / lens, 1), ALONE: alone}


def _compared(real: Results) -> list[str]:
    """A sentence on the old code beside this one, or on why it was not run."""
    if "before" not in real:
        return []
    found = real["before"]
    if "reason" in found:
        return ["", f"Not run beside the code of before ({found['commit'][:7]}): {found['reason']}"]
    old, new = found["before"], found["now"]
    less = times(old["all"] / new["all"], 1)
    return [
        "",
        f"*Before* is commit {found['commit'][:7]}, run in turn with this code on {found['prompts']} prompts: its "
        f"default call took {duration(old['all'])}, this one {duration(new['all'])}, **{less}** less; "
        f"on one prompt alone {duration(old['one'])} and {duration(new['one'])}.",
    ]


def _goal_row(name: str, value: float, goal: Goal, digits: int) -> list[str]:
    """A ratio that is to be large if the aim is above the must, else small."""
    least = goal.aim > goal.must
    limits = [f"{'≥' if least else '≤'} {limit:,g}{TIMES}" for limit in goal]
    return [name, f"**{times(value, digits)}**", *limits, verdict(value, goal, at_least=least)]


def _gradient_goal(real: Results) -> list[list[str]]:
    """The default call over activation × gradient, on the number of prompts nearest to 100."""
    curve = real["gradient"]["curve"]
    point = min(curve, key=lambda row: abs(row["x"] - 100))
    name = f"SmolLM2-135M, {point['x']} prompts, default call, over activation {TIMES} gradient"
    return [_goal_row(name, point["per_prompt"] / real["gradient"]["per_prompt"], GRADIENT_GOAL, 1)]


def _cap_goals(real: Results) -> list[list[str]]:
    """Peak beside model and result over the cap, of runs that have one."""
    rows = []
    for run in (run for run in real["memory"] if run["memory"]):
        name = f'SmolLM2-135M, `memory="{run["memory"]}"`, {_asked(run)}: peak beside model and result, over the cap'
        rows.append(_goal_row(name, over_cap(run), CAP_GOAL, 2))
    return rows


def over_cap(run: Results) -> float:
    """Peak beside model and result, over `memory=`."""
    held = run["peak"] - run["resident_after_loading"] - run.get("result", 0)
    return float(held / parse_memory(run["memory"]))


def _asked(run: Results) -> str:
    """Which prompts a run was given, and by what it scored them."""
    length = f" of {run['tokens']:,} tokens" if run.get("tokens") else ""
    by = "" if run.get("method", "lpi") == "lpi" else f", {run['method']}"
    return f"{run['prompts']} prompt{'s' if run['prompts'] > 1 else ''}{length}{by}"


def _summary_goals(runs: Sequence[Results]) -> list[list[str]]:
    """Seconds of the largest summary, and its peak over that of fewer checkpoints of the same arm."""
    streamed = [run for run in runs if run["way"] == "streamed"]
    many = streamed[-1]
    few = next(run for run in streamed if run["size"] == many["size"])
    name = f"metrics and bootstrap, {many['units']:,} units, {many['size']['relations']} relations"
    grown = many["peak"] / few["peak"]
    limits = [duration(limit) for limit in SUMMARY_GOAL]
    return [
        [
            f"{name}, {many['checkpoints']} checkpoints",
            f"**{duration(many['seconds'])}**",
            *(f"≤ {limit}" for limit in limits),
            verdict(many["seconds"], SUMMARY_GOAL, at_least=False),
        ],
        [
            f"the same, peak memory over that of {few['checkpoints']} checkpoints",
            f"**{times(grown, 2)}**",
            f"≤ {times(SUMMARY_MEMORY, 1)}",
            "",
            "must reached" if grown <= SUMMARY_MEMORY else "**missed**",
        ],
    ]


def groups(found: Results) -> list[str]:
    """Heads, experts and blocks beside the units, and one prompt alone."""
    rows = [
        [_named(row), duration(row["units"]["seconds"]), duration(row["prepared"]["seconds"]), *_beside(row)]
        for row in found["layers"]
        if "units" in row
    ]
    real = found["smollm2"] or {}
    if "groups" in real:
        both = real["groups"]
        name = f"SmolLM2-135M, {both['prompts']} prompts, forward passes included"
        beside = _beside({"groups_beside_units": both["beside"]})
        rows.insert(0, [name, duration(both["units"]), duration(both["default"]), *beside])
    head = ["work", "units", "with heads, experts and blocks", "more", "must", "aim", ""]
    lines = table(head, rows, right=(1, 2, 3, 4, 5))
    if "alone" in real:
        alone = real["alone"]
        over = times(alone["over_lens"], 1)
        lines += [
            "",
            f"One prompt alone, default call, preparation counted: {duration(alone['default'])}, **{over}** the lens "
            f"of it ({duration(alone['lens'])}); at most {times(ALONE_GOAL.must)}, aim {times(ALONE_GOAL.aim)}: "
            f"{verdict(alone['over_lens'], ALONE_GOAL, at_least=False)}.",
        ]
    return lines


def _beside(row: Results) -> list[str]:
    more = row["groups_beside_units"]
    goals = [f"≤ +{goal:.0%}" for goal in GROUPS_GOAL]
    return [f"**{more:+.0%}**", *goals, verdict(more, GROUPS_GOAL, at_least=False)]


def tiers(found: Results) -> list[str]:
    """Share of pairs by tier, and how fast the machine's arithmetic was used."""
    speed = {work.name: "" for work in works(found)}
    for work, row in zip(works(found)[-len(found["layers"]) :], found["layers"], strict=True):
        if "flops" not in row:
            continue
        rate = row["flops"] / row["prepared"]["seconds"]
        speed[work.name] = f"{rate / 1e9:.0f} ({rate / peak(found):.0%})"
    rows = []
    for work in works(found):
        for kind, counts in work.tiers.items():
            total = sum(counts.values())
            shares = [f"{100 * counts[tier] / total:.3g}%" for tier in ("linear", "moments", "exact")]
            rows.append([work.name, kind, f"{total / 1e6:.1f}M", *shares, speed[work.name]])
    head = ["work", "units", "pairs", "linear", "moments", "exact", "GFLOP/s (of peak)"]
    return table(head, rows, right=(2, 3, 4, 5, 6))


def memory(found: Results) -> list[str]:
    """Peak resident memory of `attribute` on SmolLM2."""
    if not found["smollm2"]:
        return ["SmolLM2 was not there."]
    if not found["smollm2"]["memory"]:
        return ["Not measured yet; `python -m benchmarks.run --memory` does it and adds it to the results."]
    first = found["smollm2"]["memory"][0]
    rows = [
        [
            _asked(run),
            run["memory"] or "no cap",
            f"{run['resident_after_loading'] / 1e6:,.0f} MB",
            f"{run['peak'] / 1e6:,.0f} MB",
            f"{(run['peak'] - run['resident_after_loading']) / 1e6:,.0f} MB",
            "" if run.get("tokens") else f"{100 * (run['peak'] / first['peak'] - 1):+.1f}%",
            _grown(run, first),
        ]
        for run in found["smollm2"]["memory"]
    ]
    head = ["asked", "`memory=`", "model loaded", "peak", "beside the model", "peak against the first row", ""]
    made = found["smollm2"].get("memory_made")
    note = ["", f"Measured by itself, {made}."] if made else []
    return [*table(head, rows, right=(2, 3, 4, 5)), *note]


def summaries(found: Results) -> list[str]:
    """Seconds and peak memory of summaries of an arm."""
    measured = found.get("summaries")
    if not measured:
        return ["Not measured yet; `python -m benchmarks.run --summaries` does it and adds it to the results."]
    on = measured["machine"]
    rows = [
        [
            f"{run['size']['name']}, {run['units']:,} units, {run['size']['relations']} relations",
            str(run["checkpoints"]),
            {"whole": "the bootstrap alone, as it was", "streamed": "`summarise`"}[run["way"]],
            f"{run['seconds'] / run['checkpoints']:.2g} s",
            f"{run['processor_seconds'] / run['checkpoints']:.2g} s",
            f"{run['peak'] / 1e6:,.0f} MB",
            f"{(run['peak'] - run['before']) / 1e6:,.0f} MB",
        ]
        for run in measured["runs"]
    ]
    head = ["arm", "checkpoints", "what", "a checkpoint", "of one processor", "peak", "beside Python and its libraries"]
    where = f"{on['processor']}, {on['cores']} cores, {measured['threads']} threads; made {measured['made']}."
    return [where, "", *table(head, rows, right=(1, 3, 4, 5, 6))]


def _grown(run: dict[str, Any], first: dict[str, Any]) -> str:
    """Whether memory grew with the prompts by no more than it may."""
    if run["prompts"] == first["prompts"] or run["memory"]:
        return ""
    return "must reached" if run["peak"] <= MEMORY_GOAL * first["peak"] else "**missed**"


def gradients(found: Results) -> list[str]:
    """Seconds a prompt, against activation × gradient."""
    if not found["smollm2"]:
        return ["SmolLM2 was not there."]
    real = found["smollm2"]
    gradient = real["gradient"]["per_prompt"]
    points = [(row["x"], row["per_prompt"]) for row in real["gradient"]["curve"]]
    rows = [[str(n), f"{1000 * each:.0f} ms", times(each / gradient, 1)] for n, each in points]
    lines = table(["prompts", "certified, a prompt", "over gradients"], rows, right=(0, 1, 2))
    return [f"Activation {TIMES} gradient: {1000 * gradient:.0f} ms a prompt, whatever their number.", "", *lines]


def scaling(found: Results) -> list[str]:
    """What the scaling curves start from."""
    layer = found["curve_layer"]
    return [
        f"One layer with d = {layer['d']}, {layer['ffn']} FFN and {layer['attention']} attention units and "
        f"{layer['vocabulary']:,} tokens, {layer['depth']}-layer scales, {layer['prompts']} prompts; each size is "
        "varied alone, everything prepared, medians of five runs."
    ]


def linearity(found: Results) -> list[str]:
    """The published formula on 1, 2, 4 prompts."""
    rows = found["linearity"]
    one = rows[0]["seconds"]
    cells = [[str(r["x"]), f"{r['seconds']:.2f} s", f"{r['seconds'] / (one * r['x']):.2f}"] for r in rows]
    return table(["prompts", "published formula", "over its share"], cells, right=(0, 1, 2))


def concentrations(found: Results) -> list[str]:
    """p of the synthetic layers beside what was measured."""
    rows = []
    measured = calibration()["blocks"]
    for depth in sorted({row["depth"] for row in found["layers"]}, key=list(measured).index):
        rows.append(_concentration(f"SmolLM2-135M, {depth} layer, FFN", measured[depth]["ffn"]))
        for row in found["layers"]:
            if row["depth"] == depth and row["layer"].get("routing") in (None, "even"):
                rows.append(_concentration(f"{row['layer']['name']}, synthetic", row["concentration"]["ffn"]))
    return table(["", "entropy", "top 10", "top 100", "top 1000", "likeness"], rows, right=(1, 2, 3, 4, 5))


def _concentration(name: str, given: dict[str, Any]) -> list[str]:
    masses = [f"{mass:.0%}" for mass in given["mass_of_top"][1:4]]
    return [name, f"{given['entropy']:.1f}", *masses, f"{given['likeness']:.2f}"]


SECTIONS: dict[str, Section] = {
    "machine": machine,
    "overview": overview,
    "ratios": ratios,
    "lens": lens,
    "groups": groups,
    "tiers": tiers,
    "memory": memory,
    "summaries": summaries,
    "gradients": gradients,
    "scaling": scaling,
    "linearity": linearity,
    "concentrations": concentrations,
}


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> list[str]:
    """A Markdown table; columns in `right` are aligned to the right."""
    rule = ["---:" if column in right else "---" for column in range(len(head))]
    return ["| " + " | ".join(cells) + " |" for cells in (head, rule, *rows)]


def verdict(value: float, goal: Goal | None, *, at_least: bool) -> str:
    """Whether a ratio is where it should be."""
    if goal is None:
        return ""
    reached = [value >= limit if at_least else value <= limit for limit in goal]
    return "aim reached" if reached[1] else "must reached" if reached[0] else "**missed**"


def times(value: float, digits: int = 0) -> str:
    """A ratio with its sign."""
    return f"{value:,.{digits}f}{TIMES}"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, as reads best."""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
