"""A forward pass that can be taken up again at any layer, for what changes a block and runs all later layers.

1. The model runs once over a batch, and hooks keep what every layer was called with.
2. `from_layer(l)` calls layer l and those after it with the same arguments, whatever hooks are in force by then, and
   the input of layer l kept or replaced. What comes before layer l is not computed again.
"""

from __future__ import annotations

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
                args, kwargs = self._calls[index]
                if args:
                    output = self._layers[index](hidden, *args[1:], **kwargs)
                else:
                    output = self._layers[index](**{**kwargs, "hidden_states": hidden})
                hidden = output[0] if isinstance(output, tuple) else output
        return self._items(hidden)

    def _keep(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._calls.append((args, kwargs))

    def _items(self, states: Tensor) -> Tensor:
        return self.batch.pick(states).to(self.model.readout.weight.device)
