"""SmolLM2-135M: the default call, end to end, against the published formula, the lens and gradients."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import attribution, before, layers, smollm
from benchmarks.gradients import score_all
from benchmarks.layers import Say
from benchmarks.published import published_groups, published_scores
from benchmarks.timing import in_turn, timed
from gated_lpi import load_model
from gated_lpi.facts import EncodedPrompt, Prompt, encode
from gated_lpi.methods import attribute_encoded
from gated_lpi.methods.problem import TracedProblem
from gated_lpi.models import Model
from gated_lpi.options import ALL_UNITS, LPI, Positions, Scoring

KINDS = ("attention", "ffn")
CAP = "300MB"
LONG = (("lpi", 8, 800, "300MB"), ("lpi", 2, 4000, "1GB"), ("grad_x_act", 1, 4200, "2GB"))  # prompts, tokens, cap
RESOLVED_PROMPTS, RESOLVED_TOKENS = 4, 32
BATCH = 256  # prompts whose blocks are held for the lens
GROUP_PROMPTS = 96  # on which units are timed with and without groups
GRADIENT_PROMPTS = 32
BEFORE_PROMPTS = 24  # the old code takes a third of a second for each


def measure(folder: Path, n_prompts: int, few: int, published_prompts: int, say: Say) -> dict[str, Any]:
    """Everything about SmolLM2; `few` prompts for the smaller memory runs. Seconds are of all `n_prompts`."""
    whole = memory_run(folder, n_prompts, None, say)
    memory = memory_runs(folder, few, whole, say)
    model = load_model(str(folder))
    prompts = smollm.encoded(model, n_prompts)
    say(f"SmolLM2: logit lens of every block, {n_prompts} prompts")
    floor = lens_seconds(model, prompts)
    say(f"SmolLM2: published formula, {published_prompts} prompts, every layer")
    published = published_seconds(model, prompts[:: max(1, n_prompts // published_prompts)][:published_prompts])
    say("SmolLM2: gradients")
    sample = prompts[:: max(1, n_prompts // GRADIENT_PROMPTS)][:GRADIENT_PROMPTS]
    score_all(model, sample[:2])
    gradient = timed(lambda: score_all(model, sample)).seconds / len(sample)
    groups = beside_units(model, prompts, say)
    alone = one_prompt(model, prompts, say)
    resolved = by_position(model, say)
    curve = break_even(model, prompts, few, say)
    curve += [{"x": run["prompts"], "per_prompt": run["seconds"] / run["prompts"], "runs": 1} for run in memory[:2]]
    say(f"SmolLM2: the default call of before, {BEFORE_PROMPTS} prompts, in processes of their own")
    pairs = [(item.prompt.text, item.prompt.target) for item in prompts[:: max(1, n_prompts // BEFORE_PROMPTS)]]
    old = before.compare(folder, pairs[:BEFORE_PROMPTS])
    fast = whole["seconds"]
    return {
        "before": old,
        "prompts": n_prompts,
        "units": len(model.units),
        "published": {"seconds": published * n_prompts, "per_prompt": published, "prompts": published_prompts},
        "lens": floor,
        "fast": fast,
        "ratio": published * n_prompts / fast,
        "over_lens": fast / floor,
        "groups": groups,
        "alone": alone,
        "resolved": resolved,
        "tiers": whole["tiers"],
        "error_bound": whole["error_bound"],
        "memory": memory,
        "gradient": {"per_prompt": gradient, "prompts": len(sample), "curve": curve},
    }


def memory_run(
    folder: Path, n_prompts: int, memory: str | None, say: Say, tokens: int = 0, method: str = "lpi"
) -> dict[str, Any]:
    """`attribute` in a process of its own: time and peak memory."""
    length = f" of {tokens} tokens" if tokens else ""
    say(f"SmolLM2, {method}, {n_prompts} prompts{length}, memory={memory}: end to end, in a process of its own")
    more = [f"--method={method}", f"--tokens={tokens}", *([f"--memory={memory}"] if memory else [])]
    return attribution.in_process(folder, n_prompts, *more)


def memory_runs(folder: Path, few: int, whole: dict[str, Any], say: Say) -> list[dict[str, Any]]:
    """Fewer prompts, the run `whole` of all, and under caps fewer prompts and long ones."""
    capped = [memory_run(folder, count, cap, say, tokens, method) for method, count, tokens, cap in LONG]
    return [memory_run(folder, few, None, say), whole, memory_run(folder, few, CAP, say), *capped]


def blocks_of(model: Model, prompts: Sequence[EncodedPrompt]) -> list[TracedProblem]:
    """All blocks on these prompts."""
    return list(smollm.problems(model, prompts, KINDS))


@torch.no_grad()
def lens_seconds(model: Model, prompts: Sequence[EncodedPrompt]) -> float:
    """Seconds of the logit lens of every block on all prompts, in batches; the forward passes are not counted."""
    total = 0.0
    for start in range(0, len(prompts), BATCH):
        blocks = blocks_of(model, prompts[start : start + BATCH])
        named = {problem.key: problem for problem in blocks}
        total += timed(lambda named=named: layers.lens(named), runs=1).seconds
    return total


def published_seconds(model: Model, prompts: Sequence[EncodedPrompt]) -> float:
    """Seconds of the published formula for one prompt: every block, unit, head, expert; without the forward pass."""
    blocks = blocks_of(model, prompts)
    published_scores(blocks[0], 0)

    def run() -> None:
        for prompt in range(len(prompts)):
            for problem in blocks:
                published_scores(problem, prompt)
                published_groups(problem, prompt)

    return timed(run).seconds / len(prompts)


def beside_units(model: Model, prompts: Sequence[EncodedPrompt], say: Say) -> dict[str, Any]:
    """In turn: all units, and the default call, which has heads, experts and blocks as well."""
    some = prompts[:: max(1, len(prompts) // GROUP_PROMPTS)][:GROUP_PROMPTS]
    say(f"SmolLM2: units, and the default call, {len(some)} prompts, in turn")

    def call(units: tuple[Any, ...]) -> None:
        attribute_encoded(model, some, LPI(), Scoring(units=units, keep="mean"))

    found = in_turn({"units": lambda: call(KINDS), "default": lambda: call(ALL_UNITS)}, rounds=2)
    units, default = found["units"].seconds, found["default"].seconds
    return {"prompts": len(some), "units": units, "default": default, "beside": default / units - 1}


def one_prompt(model: Model, prompts: Sequence[EncodedPrompt], say: Say) -> dict[str, float]:
    """The default call on one prompt alone, its preparation counted, and the lens of its blocks, in turn."""
    say("SmolLM2: one prompt alone")
    one = prompts[len(prompts) // 2 :][:1]
    named = {problem.key: problem for problem in blocks_of(model, one)}

    def call() -> None:
        attribute_encoded(model, one, LPI(), Scoring(units=ALL_UNITS))

    found = in_turn({"lens": lambda: layers.lens(named), "default": call})
    lens, default = found["lens"].seconds, found["default"].seconds
    return {"lens": lens, "default": default, "over_lens": default / lens}


def by_position(model: Model, say: Say) -> dict[str, float]:
    """In turn: the default call, and the same with attention units scored at every source position."""
    say(f"SmolLM2: by position, {RESOLVED_PROMPTS} prompts of {RESOLVED_TOKENS} tokens")
    pairs = [Prompt(*pair) for pair in smollm.longer(model, RESOLVED_PROMPTS, RESOLVED_TOKENS)]
    some = list(encode(model.tokenizer, pairs))

    def call(positions: Positions) -> None:
        attribute_encoded(model, some, LPI(), Scoring(units=ALL_UNITS, keep="mean", positions=positions))

    calls = {"summed": lambda: call("summed"), "resolved": lambda: call("resolved")}
    found = in_turn(calls, rounds=2)
    summed, resolved = found["summed"].least, found["resolved"].least
    return {"prompts": len(some), "summed": summed, "resolved": resolved, "over_summed": resolved / summed}


def break_even(model: Model, prompts: Sequence[EncodedPrompt], few: int, say: Say) -> list[dict[str, float]]:
    """Seconds a prompt of the certified estimator, against how many prompts are scored; preparation counted."""
    found = []
    for count in (n for n in (8, 32) if n < few):
        say(f"SmolLM2: certified, {count} prompts")
        chosen = prompts[:: max(1, len(prompts) // count)][:count]
        scoring = Scoring(units=ALL_UNITS, keep="mean")
        run = timed(lambda chosen=chosen, scoring=scoring: attribute_encoded(model, chosen, LPI(), scoring))
        found.append({"x": count, "per_prompt": run.seconds / count, "runs": run.runs})
    return found
