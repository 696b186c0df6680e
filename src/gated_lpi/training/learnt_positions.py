"""A Trainer whose model makes logits only where a token is learnt.

Of the tokens of a sentence the answer's are learnt, two of thirteen, and padding never is; yet logits of all positions,
their softmax and its gradient are a third of a step of models as small as the arms. Here the head is given the hidden
states before tokens that have a label, and the model's own loss the labels of those. Loss and gradients are what they
would be: positions without a label have no part in either.
"""

from typing import Any

from torch import Tensor, nn
from transformers import Trainer

from gated_lpi.training.corpus import IGNORED


class LearntPositionsTrainer(Trainer):  # type: ignore[misc]  # transformers is read as untyped
    """`transformers.Trainer` for decoders whose `lm_head` is the last thing before the loss."""

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """As the Trainer's, with logits [learnt tokens, vocabulary] in the outputs."""
        following = inputs["labels"][:, 1:]
        learnt = following != IGNORED

        def before_learnt(_head: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
            return (args[0][:, :-1][learnt],)

        hook = self.model.lm_head.register_forward_pre_hook(before_learnt)
        try:
            return super().compute_loss(
                model, {**inputs, "shift_labels": following[learnt]}, return_outputs, num_items_in_batch
            )
        finally:
            hook.remove()
