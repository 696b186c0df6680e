"""What of a model's logits a method explains: log p of the target, or how far it stands above a foil.

1. The *target* of a prompt is the first token of its object ("object"), or the model's own prediction ("top1"). With
   `answer="all"` each token of the answer is one, predicted where the model is given those before it (teacher forcing).
   The pairs of prompt and such a position are the *items*; a prompt's value is the sum over its items.
2. Without a foil the value is log p(target). With one it is log p(target) − log p(foil), which is the difference of two
   logits; of several foils, their mean: log p(target) − mean log p(foil).
3. Foils are the targets of the other facts of the relation ("relation"), what each fact names ("fact"), or the
   likeliest token other than the target in the unchanged model ("best": the value is the target's margin).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from gated_lpi.errors import FactsError
from gated_lpi.facts import EncodedPrompt
from gated_lpi.options import Answer, Foil, Target

NONE = -1  # in place of a foil, where an item has fewer than others


@dataclass(frozen=True)
class Objective:
    """What is explained of I items of P prompts.

    Attributes:
        targets: [I], token ids.
        of_prompt: [I], the prompt of each item, counted from 0.
        foils: [I, F], token ids, `NONE` where an item has fewer than F; None: there are none.
    """

    targets: Tensor
    of_prompt: Tensor
    foils: Tensor | None = None

    @property
    def n_prompts(self) -> int:
        """P; every prompt has an item."""
        return int(self.of_prompt[-1]) + 1

    def of_items(self, logits: Tensor) -> Tensor:
        """The value of every item in nats, [I], from its `logits` [I, V]; differentiable."""
        at_target = logits.gather(-1, self.targets.unsqueeze(-1)).squeeze(-1)
        if self.foils is None:
            return at_target - logits.logsumexp(dim=-1)
        there = self.foils != NONE
        at_foils = logits.gather(-1, self.foils.clamp_min(0)).masked_fill(~there, 0.0)
        return at_target - at_foils.sum(dim=-1) / there.sum(dim=-1)

    def by_prompt(self, values: Tensor) -> Tensor:
        """Sums [P, ...] over each prompt's items of `values` [I, ...]."""
        if len(values) == self.n_prompts:
            return values
        return values.new_zeros(self.n_prompts, *values.shape[1:]).index_add_(0, self.of_prompt, values)

    def __call__(self, logits: Tensor) -> Tensor:
        """The value of every prompt in nats, [P], from the `logits` [I, V] of its items."""
        return self.by_prompt(self.of_items(logits))

    def log_probabilities(self, logits: Tensor) -> Tensor:
        """log p of every prompt's target, or of all tokens of its answer, whatever the foils: [P], nats."""
        return replace(self, foils=None)(logits)

    def margins(self, logits: Tensor) -> Tensor:
        """How far the target's logit is above the best other one, [P]; the sum over a prompt's items."""
        at_target = logits.gather(-1, self.targets.unsqueeze(-1))
        others = logits.scatter(-1, self.targets.unsqueeze(-1), -torch.inf)
        return self.by_prompt(at_target.squeeze(-1) - others.amax(dim=-1))


class Aims(NamedTuple):
    """What a method's options say of its objective.

    Attributes:
        target: "object" or "top1".
        foil: "relation", "fact", "best", or None.
        answer: "first" token or "all" of them.
    """

    target: Target = "object"
    foil: Foil | None = None
    answer: Answer = "first"


class Question(NamedTuple):
    """One prompt as the model is given it.

    Attributes:
        ids: token ids; with those of the answer but the last where all of it is asked for.
        positions: where in them a target is predicted, one or more, ascending.
        targets: the tokens that the object has there.
        foils: token ids of this prompt's foils that are known beforehand.
        encoded: the prompt.
    """

    ids: tuple[int, ...]
    positions: tuple[int, ...]
    targets: tuple[int, ...]
    foils: tuple[int, ...]
    encoded: EncodedPrompt


def questions(encoded: Sequence[EncodedPrompt], aims: Aims) -> list[Question]:
    """Prompts as the model is given them, with their targets and foils.

    Raises:
        FactsError: a foil is asked for that a prompt does not have.
    """
    foils = _foils(encoded, aims)
    return [_question(item, aims, some) for item, some in zip(encoded, foils, strict=True)]


def _question(item: EncodedPrompt, aims: Aims, foils: tuple[int, ...]) -> Question:
    last = len(item.ids) - 1
    answer = item.answer_ids if aims.answer == "all" else (item.target_id,)
    positions = tuple(range(last, last + len(answer)))
    return Question((*item.ids, *answer[:-1]), positions, answer, foils, item)


def _foils(encoded: Sequence[EncodedPrompt], aims: Aims) -> list[tuple[int, ...]]:
    if aims.foil == "fact":
        without = [item for item in encoded if item.foil_id is None]
        if without:
            raise FactsError(
                f"foil='fact' was asked for, and {len(without)} of {len(encoded)} prompts have no foil (the first: "
                f"{without[0].prompt.joined!r}); give these facts a `foil`, or use foil='relation'"
            )
        return [(item.foil_id,) for item in encoded if item.foil_id is not None]
    if aims.foil == "relation":
        targets: dict[str, dict[int, None]] = {}
        for item in encoded:
            targets.setdefault(item.prompt.relation, {})[item.target_id] = None
        alone = [relation for relation, ids in targets.items() if len(ids) < 2]
        if alone:
            raise FactsError(
                f"foil='relation' was asked for, and all facts of relation {alone[0]!r} have one target; it needs "
                "facts with other objects, or leave it out"
            )
        return [tuple(targets[item.prompt.relation]) for item in encoded]
    return [()] * len(encoded)


def objective_of(asked: Sequence[Question], aims: Aims, logits: Tensor) -> Objective:
    """What is explained of some prompts, now that their logits are known.

    Args:
        asked: P prompts.
        aims: what is asked for.
        logits: [I, V], of the unchanged model at their items.
    """
    device = logits.device
    of_prompt = torch.tensor([i for i, one in enumerate(asked) for _ in one.positions], device=device)
    if aims.target == "top1":
        targets = logits.argmax(dim=-1)
    else:
        targets = torch.tensor([token for one in asked for token in one.targets], device=device)
    if aims.foil is None:
        return Objective(targets, of_prompt)
    if aims.foil == "best":
        others = logits.scatter(-1, targets.unsqueeze(-1), -torch.inf)
        return Objective(targets, of_prompt, others.argmax(dim=-1, keepdim=True))
    own = targets.tolist()
    rows = [[foil for foil in one.foils if foil != token] for one, token in zip(asked, own, strict=True)]
    longest = max(len(row) for row in rows)
    padded = [row + [NONE] * (longest - len(row)) for row in rows]
    return Objective(targets, of_prompt, torch.tensor(padded, device=device))
