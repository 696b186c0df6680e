"""Runs to be explored, made of random numbers: two arms with everything that a run can keep, and names that attack."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from gated_lpi.experiments import Experiment
from gated_lpi.results import ArmRecord, Run, TopUnit, create_run
from gated_lpi.results.records import AblationTable

STEPS = (0, 10, 20, 40)
HOSTILE = "<script>alert('x')</script>"
RELATIONS = (HOSTILE, "=cmd|' /C calc'!A0", "cost in $ of $x$ </script> & \u202e\"'")
EACH = 4
LAYERS, EXPERTS, WIDTH, HEADS, HEAD_WIDTH = 2, 4, 5, 2, 3
POSITIONS = 3
TOKENS = (HOSTILE, " $x$ \u202e", " is")


def explored_run(
    folder: Path, steps: Sequence[int] = STEPS, arms: Sequence[str] = ("moe", "dense"), group: str | None = None
) -> Run:
    """A run of a mixture of experts and a dense model by two methods, with a checkpoint for each step.

    Dense arms may be replicates: `group` is the name of their group.
    """
    listed = [
        {"name": name, "checkpoints": f"checkpoints/{name}"} | ({"group": group} if group and name != "moe" else {})
        for name in arms
    ]
    asked = {"name": HOSTILE, "arms": listed, "metrics": {"draws": 3, "fraction": 0.1}}
    run = create_run(folder, Experiment.model_validate(asked), "ab" * 32)
    for name in arms:
        for step in steps:
            add(run, name, step)
            if name == "moe":
                run.follow_store(name).append(followed(step), {"key": f"step-{step}", "step": step})
        if steps:
            run.write_record(_record(run, name))
    return run


def add(run: Run, arm: str, step: int, key: str | None = None) -> None:
    """Append a checkpoint to an arm, called after its step unless `key` says otherwise."""
    run.store(arm).append(scores(arm, step), {"key": key or f"step-{step}", "step": step, "tokens": 100 * step})


def followed(step: int) -> xr.Dataset:
    """What is kept of two units that are followed: the first FFN unit of layer 0 but one, and the first of layer 1."""
    units = [HEADS * HEAD_WIDTH + 1, HEADS * HEAD_WIDTH + EXPERTS * WIDTH]
    text, of_token, of_prompt = np.dtypes.StringDType(), ("followed", "token"), ("followed", "best")
    there = np.array([[True, True], [step > 0, False]])  # whether prompts reach them

    def of(*values: str) -> Any:
        return np.array([list(values)] * 2, dtype=text)

    return xr.Dataset(
        {
            "promoted": (of_token, of(f" at {step}", HOSTILE)),
            "promoted_logit": (of_token, np.ones((2, 2))),
            "suppressed": (of_token, of("\u202e", "b")),
            "suppressed_logit": (of_token, -np.ones((2, 2))),
            "coefficient": ("followed", np.array([-0.5, 0.25])),
            "activation": ("followed", np.array([-2.0, 0.5])),
            "used": ("followed", there.mean(axis=1)),
            "prompt": (of_prompt, np.where(there, of(f"{HOSTILE} is at", "Of"), np.array("", dtype=text))),
            "answer": (of_prompt, np.where(there, of(" home", " late"), np.array("", dtype=text))),
            "prompt_score": (of_prompt, np.where(there, [[0.5, 0.125]], np.nan)),
            "prompt_activation": (of_prompt, np.where(there, [[8.0, -4.0]], np.nan)),
            "prompt_coefficient": (of_prompt, np.where(there, [[2.0, -1.0]], np.nan)),
            "neighbour": (("followed", "near"), np.array([[0, -1], [units[0], 0]])),
            "cosine": (("followed", "near"), np.array([[0.75, np.nan], [0.5, -0.25]])),
        },
        coords={"unit": ("followed", units)},
    )


def scores(arm: str, step: int) -> xr.Dataset:
    """One checkpoint's scores, as a run keeps them."""
    random = np.random.default_rng(step + 1000 * (arm == "dense"))
    moe, relations, prompts = arm == "moe", len(RELATIONS), len(RELATIONS) * EACH
    axis = _axis(moe)
    n = axis["layer"][1].size
    variables: dict[str, Any] = {}
    for method in ("lpi", "grad_x_act"):
        values = (random.standard_normal((relations, n)) * (1 + step)).astype(np.float32)
        variables |= {method: (("relation", "unit"), values), f"{method}_mean": (("unit",), values.mean(axis=0))}
    effect = np.where(np.arange(n) % 2, random.standard_normal((relations, n)), np.nan).astype(np.float32)
    depth = np.sort(random.normal(-6, 2, (prompts, 2 * LAYERS)), axis=1)
    variables |= {
        "true_effect": (("relation", "unit"), effect),
        "head_lpi": (("relation", "head_unit"), random.random((relations, LAYERS * HEADS))),
        "target_rank": (("prompt",), random.integers(0, 5 if step >= 20 else 100, prompts)),
        "target_logprob": (("prompt",), depth[:, -1] + 0.5),
        "base_logprob": (("prompt", "block_index"), depth),
        "error_bound": (("prompt", "block_index"), random.random((prompts, 2 * LAYERS)) * 1e-4),
        "layer_position_lpi": (
            ("prompt", "position", "attention_block"),
            random.standard_normal((prompts, POSITIONS, LAYERS)),
        ),
    }
    coords = axis | {
        "relation": ("relation", np.array(RELATIONS, dtype=object)),
        "n_prompts": ("relation", np.full(relations, EACH)),
        "prompt_relation": ("prompt", np.array([RELATIONS[i // EACH] for i in range(prompts)], dtype=object)),
        "text": ("prompt", np.array([f"{HOSTILE} is number {i}" for i in range(prompts)], dtype=object)),
        "subject": ("prompt", np.array([HOSTILE] * prompts, dtype=object)),
        "object": ("prompt", np.array([f"<b>{i}</b>" for i in range(prompts)], dtype=object)),
        "token_text": (("prompt", "position"), np.array([TOKENS] * prompts, dtype=object)),
        "block_layer": ("block_index", np.repeat(np.arange(LAYERS), 2)),
        "block_kind": ("block_index", np.array(["attention", "ffn"] * LAYERS, dtype=object)),
        "head_unit_layer": ("head_unit", np.repeat(np.arange(LAYERS), HEADS)),
        "head_unit_head": ("head_unit", np.tile(np.arange(HEADS), LAYERS)),
        "attention_block_layer": ("attention_block", np.arange(LAYERS)),
    }
    if moe:
        variables |= _routing(random, relations, prompts)
        coords |= {
            "expert_unit_layer": ("expert_unit", np.repeat(np.arange(LAYERS), EXPERTS)),
            "expert_unit_expert": ("expert_unit", np.tile(np.arange(EXPERTS), LAYERS)),
        }
    return xr.Dataset(variables, coords, attrs={"norm": "frozen", "target": "object"})


def _routing(random: np.random.Generator, relations: int, prompts: int) -> dict[str, Any]:
    weights = random.random((prompts, POSITIONS, LAYERS, EXPERTS))
    gates = np.where(weights >= np.sort(weights, axis=-1)[..., -2:-1], weights, 0.0)
    groups = LAYERS * EXPERTS
    return {
        "position_gate": (
            ("prompt", "position", "expert_unit"),
            gates.reshape(prompts, POSITIONS, groups).astype(np.float32),
        ),
        "expert_lpi": (("relation", "expert_unit"), random.random((relations, groups))),
        "expert_utilisation": (("relation", "expert_unit"), random.random((relations, groups))),
        "expert_gate": (("relation", "expert_unit"), random.random((relations, groups))),
    }


def _axis(moe: bool) -> dict[str, Any]:
    """Of each layer the attention neurons, then the FFN's."""
    attention, ffn = HEADS * HEAD_WIDTH, EXPERTS * WIDTH
    expert = np.repeat(np.arange(EXPERTS), WIDTH) if moe else np.full(ffn, -1)
    neuron = np.tile(np.arange(WIDTH), EXPERTS) if moe else np.arange(ffn)
    columns = {
        "head": np.concatenate([np.repeat(np.arange(HEADS), HEAD_WIDTH), np.full(ffn, -1)]),
        "expert": np.concatenate([np.full(attention, -1), expert]),
        "neuron": np.concatenate([np.tile(np.arange(HEAD_WIDTH), HEADS), neuron]),
        "block": np.array(["attention"] * attention + ["ffn"] * ffn, dtype=object),
    }
    tiled = {name: ("unit", np.tile(column, LAYERS)) for name, column in columns.items()}
    units = LAYERS * (attention + ffn)
    return tiled | {
        "layer": ("unit", np.repeat(np.arange(LAYERS), attention + ffn)),
        "shared": ("unit", np.zeros(units, dtype=np.bool_)),
    }


def _record(run: Run, arm: str) -> ArmRecord:
    last = run.store(arm).records()[-1]
    expert = 0 if arm == "moe" else -1
    label = "layer 0 expert 0 neuron 1" if arm == "moe" else "layer 0 neuron 1"
    table = AblationTable(checkpoint=last["key"], step=last["step"], k=10, n_prompts=12, hit=1.0, rows=())
    top = TopUnit(
        label=label,
        block="ffn",
        layer=0,
        expert=expert,
        head=-1,
        neuron=1,
        lpi=0.5,
        mean_coefficient=-1.0,
        promoted=(" Paris", HOSTILE),
        suppressed=("\u202e",),
    )
    return ArmRecord(arm=arm, parameters=10, parameters_active=5, ablation=table, top_ffn=(top,), top_attention=())
