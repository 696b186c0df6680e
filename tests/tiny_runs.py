"""Experiments on tiny models, made quick: few draws, one share of heads and units to mask, a text of two sentences."""

import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from gated_lpi.experiments import Experiment
from tiny_text import CAPITALS, save_checkpoint, save_facts

BRIEF = str(Path(__file__).parent / "brief.txt")
QUICK: dict[str, dict[str, Any]] = {
    "metrics": {"draws": 3},
    "ablation": {"random_draws": 1, "top_units": 1, "heads": [1], "units": [0.1], "text": BRIEF},
}
BY_LPI = {"methods": ["lpi"]}
UNABLATED = {"heads": [], "units": [], "top_units": 0, "random_draws": 1, "text": ""}


def tiny_experiment(facts: object, *arms: dict[str, Any], **changes: Any) -> Experiment:
    """A quick experiment on a folder of facts, each by its first template; `changes` are whole sections or keys."""
    asked = {"source": str(facts), "templates": "first"}
    return Experiment.model_validate({"name": "test", "facts": asked, "arms": arms, **QUICK, **changes})


class Notes:
    """A progress that keeps what was said."""

    def __init__(self):
        self.said = []

    def note(self, text):
        self.said.append(text)

    def task(self, _label):
        return nullcontext(lambda _done, _total: None)


TRAINING = {
    "steps": 6,
    "checkpoints": 3,
    "batch_size": 2,
    "warmup_steps": 1,
    "context": 32,
    "size": {
        "hidden": 16,
        "layers": 1,
        "heads": 2,
        "kv_heads": 1,
        "experts": 2,
        "expert_width": 8,
        "vocab_size": 270,
    },
}


def two_arms(folder: Path, steps: Sequence[int] = (0, 10, 20), damaged: int = 10) -> Experiment:
    """An experiment with an arm of a folder, one of whose checkpoints has no weights, and an arm that it trains."""
    facts = save_facts(folder / "facts", [CAPITALS])
    for seed, step in enumerate(steps):
        save_checkpoint(folder / "series" / f"step-{step}", "OLMoE", seed)
    (folder / "series" / f"step-{damaged}" / "model.safetensors").unlink()
    arms = ({"name": "folder", "series": str(folder / "series")}, {"name": "trained", "train": "moe"})
    return tiny_experiment(facts, *arms, training=TRAINING)


def as_toml(experiment: Experiment) -> str:
    """An experiment as a file that `load_experiment` reads."""
    content = experiment.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    tables = [("", {"name": content.pop("name")}), *(("[[arms]]", arm) for arm in content.pop("arms"))]
    for section, keys in content.items():
        inner = {key: value for key, value in keys.items() if isinstance(value, dict)}
        tables.append((f"[{section}]", {key: value for key, value in keys.items() if key not in inner}))
        tables += [(f"[{section}.{key}]", value) for key, value in inner.items()]
    lines = [[head, *(f"{key} = {json.dumps(value)}" for key, value in keys.items())] for head, keys in tables]
    return "\n".join(line for table in lines for line in table) + "\n"
