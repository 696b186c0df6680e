"""What must not matter does not: reordering neurons or experts reorders their scores and changes nothing else.

A test here edits a model's weights in place into those of the same function with its units in another order. The
edit is found from the modules, not from a rule per family:

1. An FFN writer is a stack of experts (of one, unless routed), and so is each tensor that makes or reads its neurons.
   What must be known of a tensor is the axis that runs over neurons, and how gate and up share that axis.
2. Experts are reordered along the first axis of all that the fused experts and the router hold; where the router
   picks groups first, groups stay together.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from flat import asked
from gated_lpi.methods import attribute_encoded
from gated_lpi.models import Block, Model, Writer
from tiny_models import CASES, MOE_CASES, encoded, random_prompts, tiny_model

TOLERANCE = 1e-6  # norms and routers cast to float32 inside, where another order of summation can show
Scores = dict[str, np.ndarray]


def score(model: Model) -> Scores:
    """Everything that gets a score or a gate, by name: [prompts, units, heads, experts or blocks]."""
    collector, _ = attribute_encoded(model, encoded(random_prompts(4)), *asked())
    return {name: collector.result(name) for name in collector.collected}


def assert_same(found: Scores, expected: Scores, changed: str) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        message = f"{name} after reordering {changed}"
        np.testing.assert_allclose(found[name], values, rtol=0, atol=TOLERANCE, err_msg=message)


def ffn_writers(model: Model) -> Iterator[tuple[Block, Writer, int]]:
    """FFN writers with the index of their first unit in the model."""
    for part in model.by_writer():
        if part.block.kind == "ffn":
            yield part.block, part.writer, part.start


def moved(n: int, start: int, order: Tensor) -> np.ndarray:
    """Index [n] that reorders the entries from `start` on by `order` and leaves the others."""
    index = np.arange(n)
    index[start : start + len(order)] = start + order.numpy()
    return index


def shuffled(rows: int, n: int) -> Tensor:
    """For each row an order of n entries, other than the given one: [rows, n]."""
    generator = torch.Generator().manual_seed(0)
    orders = torch.stack([torch.randperm(n, generator=generator) for _ in range(rows)])
    assert (orders != torch.arange(n)).any(dim=1).all()
    return orders


# An order of neurons [E, width] as one of a tensor's neuron axis: neurons alone, gate before up, gate and up in turn.
ARRANGEMENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "alone": lambda order: order,
    "halves": lambda order: torch.cat([order, order + order.shape[1]], dim=1),
    "pairs": lambda order: torch.stack([2 * order, 2 * order + 1], dim=2).flatten(1),
}


class NeuronAxis(NamedTuple):
    """A tensor stacked over experts, [E, ...], and its axis that runs over neurons."""

    stack: Tensor
    axis: int
    arrangement: str = "alone"

    def reorder(self, order: Tensor) -> None:
        """Put neuron `order[e, n]` of expert e into place n."""
        index = ARRANGEMENTS[self.arrangement](order)
        assert self.stack.shape[self.axis] == index.shape[1]
        shape = [len(order), *[1] * (self.stack.dim() - 1)]
        shape[self.axis] = index.shape[1]
        self.stack.copy_(self.stack.gather(self.axis, index.view(shape).expand_as(self.stack)))


def fused_axes(experts: Any) -> Iterator[NeuronAxis]:
    """What makes or reads the neurons of fused experts."""
    assert experts.has_gate
    arrangement = "halves" if experts.is_concatenated else "pairs"
    made, read = (2, 1) if experts.is_transposed else (1, 2)
    yield NeuronAxis(experts.down_proj, read)
    yield NeuronAxis(experts.gate_up_proj, made, arrangement)
    if experts.has_bias:
        yield NeuronAxis(experts.gate_up_proj_bias, 1, arrangement)


def projection_axes(ffn: nn.Module, down: nn.Module) -> Iterator[NeuronAxis]:
    """What makes or reads the neurons of the dense FFN or shared expert that `down` is a part of."""
    mlp = next(module for module in ffn.modules() if down in module.children())
    for projection in mlp.children():
        if isinstance(projection, nn.Linear | Conv1D):
            made, read = (2, 1) if isinstance(projection, Conv1D) else (1, 2)
            yield NeuronAxis(projection.weight.unsqueeze(0), read if projection is down else made)
            if projection is not down and projection.bias is not None:
                yield NeuronAxis(projection.bias.unsqueeze(0), 1)


@torch.no_grad()
@pytest.mark.parametrize("case", CASES, ids=str)
def test_reordering_neurons_reorders_their_scores(case):
    model = tiny_model(case, torch.float64)
    expected = score(model)
    for block, writer, start in ffn_writers(model):
        order = shuffled(writer.n_experts, writer.width)
        axes = fused_axes(writer.module) if writer.kind == "routed" else projection_axes(block.module, writer.module)
        for axis in axes:
            axis.reorder(order)
        before = expected["lpi"]
        of_expert = writer.width * torch.arange(writer.n_experts).unsqueeze(1)
        expected["lpi"] = before[:, moved(len(model.units), start, (of_expert + order).flatten())]
        assert np.abs(expected["lpi"] - before).max() > 1e-2
        assert_same(score(model), expected, f"neurons of {writer.kind} {block.name}")


def expert_order(model: Model, n_experts: int) -> Tensor:
    """An order of the experts, [E]: groups, where the router has them, change places and are reordered inside."""
    n_groups = getattr(model.module.config, "n_group", None) or 1
    groups = torch.arange(n_experts).view(n_groups, -1).gather(1, shuffled(n_groups, n_experts // n_groups))
    return groups.flip(0).flatten()


def _router(ffn):
    """A mixture's router, as its family calls it."""
    return next(getattr(ffn, name) for name in ("gate", "router") if hasattr(ffn, name))


def randomise_correction_biases(model: Model) -> None:
    """Give every expert its own selection bias (zero in a fresh model), where the router has such a buffer."""
    for name, buffer in model.module.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.copy_(0.2 * torch.randn(buffer.shape, generator=torch.Generator().manual_seed(0)))


@torch.no_grad()
@pytest.mark.parametrize("case", MOE_CASES, ids=str)
def test_reordering_experts_reorders_their_scores(case):
    model = tiny_model(case, torch.float64)
    randomise_correction_biases(model)
    expected = score(model)
    for block, writer, start in ffn_writers(model):
        if writer.kind != "routed":
            continue
        order = expert_order(model, writer.n_experts)
        for module in (writer.module, _router(block.module)):
            for tensor in (*module.parameters(), *module.buffers()):
                assert tensor.shape[0] == writer.n_experts
                tensor.copy_(tensor[order])
        before = expected["lpi"]
        units = (writer.width * order.unsqueeze(1) + torch.arange(writer.width)).flatten()
        expected["lpi"] = before[:, moved(len(model.units), start, units)]
        first = int(np.flatnonzero(model.experts.layer == block.layer)[0])
        for name in ("expert_lpi", "expert_gate", "expert_utilisation"):
            expected[name] = expected[name][:, moved(len(model.experts), first, order)]
        assert np.abs(expected["lpi"] - before).max() > 1e-2
        assert_same(score(model), expected, f"experts of {block.name}")
