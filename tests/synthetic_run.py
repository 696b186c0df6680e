"""A run made of random numbers whose outcome is set: how concentrated, settled and robust each arm is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from gated_lpi.errors import RunError
from gated_lpi.experiments.experiment import Experiment, MetricsSpec
from gated_lpi.metrics import summarise
from gated_lpi.results import Run
from gated_lpi.results.records import AblationRow, AblationTable, ArmRecord, TopUnit

RELATIONS = 8
PROMPTS_EACH = 10
STEPS = (0, 1, 2, 5, 10, 20, 50, 100, 200)
INTACT_LOSS = 3.5
NASTY_TEXT = "The <b>capital</b> of & \u202e"
NASTY_TOKENS = (" Paris", "<b>&\"'", "\n", "\x07", "\u200b", "é", "</script>")


@dataclass(frozen=True)
class ArmPlan:
    """What an arm is to come out as.

    `spread` is the exponent of unit importances: 0 is even, larger is more concentrated. `noise` is how much
    importances change between checkpoints, `recall` the share of prompts hit at the end, `drop` the share of
    it that the ablations take. No tokens: unknown. `other` is what is otherwise in its scores by gradient times
    activation; None: it has none. `positions`: routing is kept at every position, and by
    relation.
    `damage`: the rise of the loss on unrelated text under the first ablation, nats; None: not measured.
    """

    experts: int = 0
    layers: int = 3
    width: int = 40
    steps: Sequence[int] = STEPS
    tokens: bool = True
    spread: float = 1.0
    noise: float = 0.3
    recall: float = 0.98
    drop: float = 0.2
    record: bool = True
    other: Mapping[str, float] | None = None
    positions: bool = False
    damage: float | None = None


MOE = ArmPlan(experts=4, width=10)
DENSE = ArmPlan()


def scores(plan: ArmPlan, seed: int = 0) -> xr.Dataset:
    """An arm's scores, as a run stores them."""
    random = np.random.default_rng(seed)
    coords = _unit_coords(plan)
    units, times = len(coords["layer"][1]), len(plan.steps)
    base = random.permutation(np.arange(1, units + 1) ** -plan.spread) * 0.5
    growth = np.linspace(0.2, 1.0, times)[:, None, None]
    noise = (
        1
        + plan.noise * random.standard_normal((times, 1, units))
        + 0.05 * random.standard_normal((1, RELATIONS, units))
    )
    lpi = (growth * base * noise - 0.01 * base.mean() * (coords["layer"][1] == 0)).astype(np.float32)
    prompts = RELATIONS * PROMPTS_EACH
    blocks = 2 * plan.layers
    recalled = np.linspace(0.1, plan.recall, times)
    ranks = np.where(np.arange(prompts) < np.round(recalled * prompts)[:, None], np.arange(prompts) % 7, 50)
    depth = np.linspace(0, 6, blocks) * growth - 8
    variables: dict[str, Any] = _other_scores(plan, seed) | {
        "lpi": (("checkpoint", "relation", "unit"), lpi),
        "lpi_mean": (("checkpoint", "unit"), lpi.mean(axis=1)),
        "target_rank": (("checkpoint", "prompt"), ranks),
        "base_logprob": (
            ("checkpoint", "prompt", "block_index"),
            depth + random.normal(0, 0.2, (times, prompts, blocks)),
        ),
        "error_bound": (("checkpoint", "prompt", "block_index"), np.zeros((times, prompts, blocks))),
    }
    if plan.experts:
        routed = random.dirichlet(np.full(plan.experts, 5.0), size=(times, plan.layers)) * 2
        variables["expert_utilisation"] = (("checkpoint", "expert_unit"), routed.reshape(times, -1))
        if plan.positions:
            variables |= _routing_by_position(plan, random)
            coords |= _prompt_coords(prompts)
        coords["expert_unit_layer"] = ("expert_unit", np.repeat(np.arange(plan.layers), plan.experts))
        coords["expert_unit_expert"] = ("expert_unit", np.tile(np.arange(plan.experts), plan.layers))
    coords |= {
        "step": ("checkpoint", np.array(plan.steps)),
        "tokens": ("checkpoint", np.array(plan.steps) * 8192 if plan.tokens else np.full(times, -1)),
        "stage": ("checkpoint", np.array([""] * times, dtype=object)),
        "relation": ("relation", np.array([f"relation {i}" for i in range(RELATIONS)], dtype=object)),
        "n_prompts": ("relation", np.full(RELATIONS, PROMPTS_EACH)),
        "block_layer": ("block_index", np.repeat(np.arange(plan.layers), 2)),
        "block_kind": ("block_index", np.array(["attention", "ffn"] * plan.layers, dtype=object)),
    }
    return xr.Dataset(variables, coords, attrs=_provenance(plan))


def record(name: str, plan: ArmPlan, seed: int = 0) -> ArmRecord:
    """Ablations and top units of an arm's last checkpoint."""
    random = np.random.default_rng(seed)
    prompts = RELATIONS * PROMPTS_EACH
    intact = round(plan.recall * prompts) / prompts
    rows = [
        AblationRow(
            name=label,
            kind=kind,
            asked=asked,
            count=min(asked, 6),
            available=available,
            chosen=("layer 0 head 1",),
            hit=round(prompts * intact * (1 - min(plan.drop * strength * more, 1))) / prompts,
            random_hits=tuple(intact * (1 - 0.05 * random.random(10))),
            method=method,
            **_text_losses(plan, strength / more, random),
        )
        for method, more in (("lpi", 1.0), ("grad_x_act", 1.3))[: 1 if plan.other is None else 2]
        for label, kind, asked, available, strength in (
            ("top-1 head", "head", 1, 12, 0.5),
            ("top-10 heads", "head", 10, 12, 1.0),
            ("top-1% FFN units", "unit", 2, 120, 1.5),
        )
    ]
    table = AblationTable(
        checkpoint="step-200",
        step=200,
        k=10,
        n_prompts=prompts,
        hit=intact,
        rows=tuple(rows),
        text_loss=None if plan.damage is None else INTACT_LOSS,
    )
    return ArmRecord(
        arm=name,
        parameters=1_000_000,
        parameters_active=400_000 if plan.experts else 1_000_000,
        ablation=table,
        top_ffn=tuple(_top_unit("ffn", i) for i in range(3)),
        top_attention=tuple(_top_unit("attention", i) for i in range(3)),
    )


@dataclass
class SyntheticRun(Run):
    """A run whose scores are made up; an arm whose plan is None has no results yet."""

    path: Path
    plans: Mapping[str, ArmPlan | None]
    name: str = "synthetic"
    metrics: MetricsSpec = field(default_factory=lambda: MetricsSpec(draws=20, fraction=0.05))
    info: dict[str, Any] = field(default_factory=lambda: {"facts_sha256": "ab12" * 16, "gated_lpi": "0.1.0"})

    @property
    def experiment(self) -> Experiment:
        arms = [{"name": name, "checkpoints": f"checkpoints/{name}"} for name in self.plans]
        return Experiment.model_validate({"name": self.name, "metrics": self.metrics, "arms": arms})

    @property
    def arms(self) -> tuple[str, ...]:
        return tuple(self.plans)

    def summary(self, arm: str, method: str | None = None, facts: Any = "all") -> xr.Dataset:
        return summarise(self.scores(arm), **self.metrics.model_dump(), method=method or "lpi", facts=facts)

    def scores(self, arm: str) -> xr.Dataset:
        plan = self.plans[arm]
        if plan is None:
            raise RunError(f"{arm} holds no complete checkpoint yet")
        return scores(plan, self.arms.index(arm))

    def record(self, arm: str) -> ArmRecord | None:
        plan = self.plans[arm]
        return record(arm, plan) if plan is not None and plan.record else None


def _other_scores(plan: ArmPlan, seed: int) -> dict[str, Any]:
    """The scores of the plan with what is otherwise in it, under the name of the other method."""
    if plan.other is None:
        return {}
    found = scores(replace(plan, **plan.other, other=None, positions=False), seed)
    return {f"grad_x_act{end}": found[f"lpi{end}"].variable for end in ("", "_mean")}


def _routing_by_position(plan: ArmPlan, random: np.random.Generator) -> dict[str, Any]:
    """Two experts a token at up to five positions of each prompt, and how often by relation."""
    times, prompts = len(plan.steps), RELATIONS * PROMPTS_EACH
    weights = random.dirichlet(np.full(plan.experts, 0.5), size=(times, prompts, 5, plan.layers))
    gates = np.where(weights >= np.sort(weights, axis=-1)[..., -2:-1], weights, 0.0)
    gates[:, ::2, 4] = np.nan
    routed = random.dirichlet(np.full(plan.experts, 5.0), size=(times, RELATIONS, plan.layers)) * 2
    return {
        "position_gate": (
            ("checkpoint", "prompt", "position", "expert_unit"),
            gates.reshape(times, prompts, 5, -1).astype(np.float32),
        ),
        "expert_utilisation": (("checkpoint", "relation", "expert_unit"), routed.reshape(times, RELATIONS, -1)),
    }


def _prompt_coords(prompts: int) -> dict[str, Any]:
    texts = [f"{NASTY_TEXT} {i} is" for i in range(prompts)]
    relations = [f"relation {i // PROMPTS_EACH}" for i in range(prompts)]
    return {
        "text": ("prompt", np.array(texts, dtype=object)),
        "prompt_relation": ("prompt", np.array(relations, dtype=object)),
    }


def _unit_coords(plan: ArmPlan) -> dict[str, Any]:
    """Attention neurons, then FFN neurons, of each layer."""
    experts = max(plan.experts, 1)
    ffn, attention = experts * plan.width, 16
    each = attention + ffn
    expert = np.repeat(np.arange(experts), plan.width) if plan.experts else np.full(ffn, -1)
    return {
        "layer": ("unit", np.repeat(np.arange(plan.layers), each)),
        "block": ("unit", np.tile(np.array(["attention"] * attention + ["ffn"] * ffn, dtype=object), plan.layers)),
        "expert": ("unit", np.tile(np.concatenate([np.full(attention, -1), expert]), plan.layers)),
    }


def _provenance(plan: ArmPlan) -> dict[str, Any]:
    checkpoints = [
        {
            "key": f"step-{step}",
            "step": step,
            "tokens": step * 8192 if plan.tokens else None,
            "stage": "",
            "weights_sha256": f"{step:064x}",
            "reconstruction_error": 3e-7,
            "coverage": 1.0,
            "seconds": 1.25,
        }
        for step in plan.steps
    ]
    return {"checkpoints": checkpoints, "created": "2026-01-01T00:00:00+00:00", "norm": "frozen", "target": "object"}


def _text_losses(plan: ArmPlan, strength: float, random: np.random.Generator) -> dict[str, Any]:
    if plan.damage is None:
        return {}
    rises = 0.01 * random.random(10)
    return {
        "text_loss": INTACT_LOSS + 2 * strength * plan.damage,
        "random_text_losses": tuple((INTACT_LOSS + rises).tolist()),
    }


def _top_unit(block: str, index: int) -> TopUnit:
    return TopUnit(
        label=f"layer {index} {block} neuron {index}",
        block=block,
        layer=index,
        expert=-1,
        head=-1,
        neuron=index,
        lpi=0.5 / (index + 1),
        mean_coefficient=-1.5,
        promoted=NASTY_TOKENS,
        suppressed=(" the", " of"),
    )
