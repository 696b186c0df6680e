"""What gradient × activation costs, in forward and backward passes of the model as transformers makes them.

Both are given the same batch of prompts of one length, in turn. The pass is that of training: loss on the target token,
gradients of all weights; once with logits at the last position alone (`pass`), and once as transformers' own loss has
it, with logits at every position (`loss`). Gradient × activation is `attribute_encoded` from token ids to scores of all
units of the asked kinds, dataset left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers

from benchmarks import timing
from gated_lpi.facts import EncodedPrompt, Prompt
from gated_lpi.loading import wrap_model
from gated_lpi.methods import attribute_encoded
from gated_lpi.models import Model
from gated_lpi.options import GradientTimesActivation, Scoring

PROMPTS, TOKENS = 32, 10
MOE = {
    "hidden_size": 384,
    "num_hidden_layers": 8,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "intermediate_size": 1024,
    "moe_intermediate_size": 256,
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "vocab_size": 16384,
}


def moe() -> Model:
    """A mixture of experts with random weights: 8 layers of 16 experts, 4 of them for a token."""
    torch.manual_seed(0)
    return wrap_model(transformers.Qwen3MoeForCausalLM(transformers.Qwen3MoeConfig(**MOE)).eval())


def random_prompts(model: Model, count: int = PROMPTS, length: int = TOKENS) -> list[EncodedPrompt]:
    """Prompts of random tokens."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, min(model.readout.vocabulary, 4096), (count, length + 1), generator=generator).tolist()
    return [EncodedPrompt(tuple(row[:-1]), row[-1], "", Prompt("", "")) for row in ids]


def measure(model: Model, prompts: Sequence[EncodedPrompt], rounds: int = timing.ROUNDS) -> dict[str, Any]:
    """Seconds of each on these prompts, which are of one length, and how many passes the scores cost."""
    timings = timing.in_turn(calls(model, prompts), rounds=rounds)
    scores = timings["grad_x_act"].least
    return {
        "prompts": len(prompts),
        "tokens": len(prompts[0].ids),
        "parameters": model.n_parameters,
        "units": len(model.units),
        **{name: one.json() for name, one in timings.items()},
        "passes": round(scores / timings["pass"].least, 3),
        "losses": round(scores / timings["loss"].least, 3),
    }


def calls(model: Model, prompts: Sequence[EncodedPrompt]) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    module: Any = model.module
    ids = torch.tensor([item.ids for item in prompts])
    targets = torch.tensor([item.target_id for item in prompts])
    labels = torch.cat([torch.full_like(ids[:, 1:], -100), targets.unsqueeze(-1)], dim=1)

    def backward(at_last: bool) -> None:
        for parameter in module.parameters():
            parameter.requires_grad_(True)
        with torch.enable_grad():
            kept = {"logits_to_keep": 1} if at_last else {}
            logits = module(input_ids=ids, use_cache=False, **kept).logits
            wanted = labels[:, -logits.shape[1] :].flatten()
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted).backward()
        for parameter in module.parameters():
            parameter.grad = None
            parameter.requires_grad_(False)

    def scores() -> None:
        scoring = Scoring(units=("ffn", "attention"), keep="mean", batch_size=len(prompts))
        attribute_encoded(model, prompts, GradientTimesActivation(), scoring)

    return {"pass": lambda: backward(True), "loss": lambda: backward(False), "grad_x_act": scores}
