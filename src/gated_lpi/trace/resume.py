"""A forward pass that can be taken up again at any layer, for what changes a block and runs all later layers.

1. The model runs once over a batch, and hooks keep what every layer was called with.
2. `from_layer(l)` calls layer l and those after it with the same arguments, whatever hooks are in force by then, and
   the input of layer l kept or replaced. What comes before layer l is not computed again.
3. `backward` goes down through the layers from what entered each of them, and runs each once more with gradients, so
   that activations of one layer are held at a time (Chen et al., arXiv 1604.06174).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from gated_lpi.models import Model
from gated_lpi.trace.batches import Batch
from gated_lpi.trace.running import run, running

Call = tuple[tuple[Any, ...], dict[str, Any]]


class ResumablePass:
    """One forward pass over a batch, without gradients, and its continuations.

    Args:
        model: the model.
        batch: the prompts, and the items whose final residual is of interest.

    Attributes:
        final: [P, d], the input of the final norm at the batch's items.
    """

    def __init__(self, model: Model, batch: Batch) -> None:
        self.model = model
        self.batch = batch
        self._layers = cast(nn.ModuleList, model.module.get_submodule(model.family.layers))
        self._calls: list[Call] = []
        last: list[Tensor] = []  # the norm's inputs: some models normalise the embeddings by it as well
        handles = [
            layer.register_forward_pre_hook(lambda _, args, kwargs: self._keep(args, kwargs), with_kwargs=True)
            for layer in self._layers
        ]
        try:
            norm = model.module.get_submodule(model.family.final_norm)
            handles.append(norm.register_forward_pre_hook(lambda _, args: last.append(args[0])))
            with torch.no_grad():
                run(model, batch)
        finally:
            for handle in handles:
                handle.remove()
        self.final = self._items(last[-1])

    def entering(self, layer: int) -> Tensor:
        """The residual stream that enters a layer, [B, S, d]."""
        args, kwargs = self._calls[layer]
        return cast(Tensor, args[0] if args else kwargs["hidden_states"])

    def from_layer(self, layer: int, entering: Tensor | None = None) -> Tensor:
        """The final residual at the batch's items, [P, d], of a pass that is taken up again at a layer.

        Args:
            layer: the first layer to run.
            entering: [B, S, d], what enters it; None: what entered it before.
        """
        hidden = self.entering(layer) if entering is None else entering
        with running(self.batch):
            for index in range(layer, len(self._layers)):
                hidden = self._called(index, hidden)
        return self._items(hidden)

    def states_from(self, layer: int, entering: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
        """What enters a layer and each one after it, [B, S, d] each, and the final residual, of a `from_layer`."""
        states = [self.entering(layer) if entering is None else entering]
        with running(self.batch):
            for index in range(layer, len(self._layers)):
                states.append(self._called(index, states[-1]))
        return states, self._items(states.pop())

    def backward(self, gradient: Tensor, layer: int = 0, entering: Sequence[Tensor] | None = None) -> None:
        """A backward pass from the last layer down to a layer, with gradients wherever hooks ask for them.

        Args:
            gradient: [P, d], of the final residual at the batch's items.
            layer: the layer that it ends at.
            entering: what enters that layer and each one after it, [B, S, d] each; None: what entered them before.
        """
        layers = range(layer, len(self._layers))
        given = [self.entering(index) for index in layers] if entering is None else entering
        above = torch.zeros_like(given[-1])
        places = self.batch.rows.to(above.device), self.batch.positions.to(above.device)
        above.index_put_(places, gradient.to(above), accumulate=True)
        with running(self.batch), torch.enable_grad():
            for index, states in zip(reversed(layers), reversed(given), strict=True):
                hidden = states.detach().requires_grad_(True)
                left = self._called(index, hidden)
                (above,) = torch.autograd.grad(left, hidden, above.to(left.device))

    def _called(self, index: int, hidden: Tensor) -> Tensor:
        """What a layer makes of another input."""
        args, kwargs = self._calls[index]
        if args:
            output = self._layers[index](hidden, *args[1:], **kwargs)
        else:
            output = self._layers[index](**{**kwargs, "hidden_states": hidden})
        return cast(Tensor, output[0] if isinstance(output, tuple) else output)

    def _keep(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._calls.append((args, kwargs))

    def _items(self, states: Tensor) -> Tensor:
        return self.batch.pick(states).to(self.model.readout.weight.device)
