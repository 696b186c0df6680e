"""Arms that are trained into the troubles that are diagnosed, and one that is well; by the project's own trainer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from gated_lpi.experiments import Experiment
from gated_lpi.facts import FactSet
from gated_lpi.results import Run
from gated_lpi.runs import run_experiment
from gated_lpi.training import ArmSpec, ModelSize, TrainingSpec
from gated_lpi.training.corpus import build_corpus
from gated_lpi.training.tokenizer import train_tokenizer
from gated_lpi.training.trainer import train_arm
from tiny_runs import BY_LPI, UNABLATED, tiny_experiment
from tiny_text import CAPITALS, COLOURS, save_facts

SIZE = ModelSize(
    hidden=32, layers=2, heads=2, kv_heads=1, experts=8, expert_width=8, experts_per_token=2, vocab_size=300
)
WELL = TrainingSpec(
    size=SIZE,
    steps=80,
    batch_size=8,
    learning_rate=5e-3,
    warmup_steps=5,
    checkpoints=9,
    context=32,
    load_balancing=0.02,
)
ILL = {
    "well": WELL,
    "collapsed": WELL.model_copy(update={"load_balancing": 0.0}),
    "unstable": WELL,
    "churning": WELL.model_copy(
        update={"learning_rate": 1.0, "decay": "constant", "max_grad_norm": 1e6, "weight_decay": 0.0}
    ),
}


class Collapse(TrainerCallback):
    """Gives all tokens something in common, and two experts a liking for it, before the first step."""

    def on_train_begin(self, _args: Any, _state: Any, _control: Any, **kwargs: Any) -> None:
        model = kwargs["model"]
        common = torch.randn(SIZE.hidden, generator=torch.Generator().manual_seed(0))
        liking = torch.full((SIZE.experts, 1), -1.0)
        liking[:2] = 1.0
        with torch.no_grad():
            model.model.embed_tokens.weight.add_(common)
            for layer in model.model.layers:
                layer.mlp.gate.weight.copy_(liking * common)


class Noise(TrainerCallback):
    """Draws every router anew after each step."""

    def on_step_end(self, _args: Any, _state: Any, _control: Any, **kwargs: Any) -> None:
        with torch.no_grad():
            for layer in kwargs["model"].model.layers:
                layer.mlp.gate.weight.normal_()


CALLBACKS: dict[str, Callable[[], list[TrainerCallback]]] = {
    "collapsed": lambda: [Collapse()],
    "unstable": lambda: [Noise()],
}


def ill_run(folder: Path, **attribution: Any) -> Run:
    """A run of four arms: one that is well, and one each with a trouble that its name says."""
    facts = FactSet((CAPITALS, COLOURS), "test")
    corpus = build_corpus(facts)
    tokenizer = train_tokenizer(corpus, SIZE.vocab_size)
    for name, spec in ILL.items():
        train_arm(
            ArmSpec(name=name, kind="moe"),
            spec,
            corpus,
            tokenizer,
            folder / name,
            callbacks=CALLBACKS.get(name, list)(),
        )
    return run_experiment(experiment(folder, **attribution), folder / "run")


def experiment(folder: Path, **attribution: Any) -> Experiment:
    """The experiment over arms that are trained already."""
    arms = ({"name": name, "checkpoints": str(folder / name)} for name in ILL)
    asked = save_facts(folder / "facts", [CAPITALS, COLOURS])
    metrics = {"draws": 3, "fraction": 0.05}
    return tiny_experiment(asked, *arms, attribution=BY_LPI | attribution, metrics=metrics, ablation=UNABLATED)
