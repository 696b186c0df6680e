"""The target of a prompt: the first token of the object, in context.

The object's tokens depend on what stands before it, so prompt and object are tokenised together, with the
tokenizer's default special tokens, and the joint sequence is cut in two:

1. The joint text is `join(text, target)`; the object begins at its first visible character, at s.
2. The target token is the first token that covers a visible character at or after s. Whitespace decides
   nothing: a token " Paris" may begin before s by whitespace only, and a token that is whitespace alone
   (a lone "▁" before a word) stays on the prompt's side.
3. Everything before the target token is the prompt's input, so that ids + target is always a prefix of the
   joint tokenisation: what a model would have met in training.

With a fast tokenizer, offsets say what a token covers. Without offsets, the tokens of the bare prompt must be
a prefix of the joint ones, and the target is the first token after them that is not whitespace alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gated_lpi.errors import FactsError
from gated_lpi.facts.types import Prompt, join


class Tokenizer(Protocol):
    """What is used of a `transformers` tokenizer, fast or not."""

    is_fast: bool
    all_special_ids: list[int]

    def __call__(self, text: str, *, return_offsets_mapping: bool = False) -> Any:
        """Encode a text, with special tokens."""

    def convert_ids_to_tokens(self, ids: int) -> str:
        """Spell a token as the vocabulary does."""

    def decode(self, token_ids: list[int]) -> str:
        """Turn tokens back into text."""


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt's input `ids`, and its target token by id and as the vocabulary spells it ("ĠParis")."""

    ids: tuple[int, ...]
    target_id: int
    target_token: str
    prompt: Prompt


@dataclass(frozen=True)
class Collision:
    """Different objects of one relation that have the same first token, so a score cannot tell them apart."""

    relation: str
    token: str
    objects: tuple[str, ...]


def encode(tokenizer: Tokenizer, prompts: Sequence[Prompt]) -> list[EncodedPrompt]:
    """Cut each prompt, tokenised with its answer, into input ids and the target token.

    Raises `FactsError`, naming the fact and its template, when the answer is blank, when it has no token or
    only an unknown or other special one, when one token covers both the prompt's end and the answer's start,
    and when no token is left before the target.
    """
    special = frozenset(tokenizer.all_special_ids)
    return [_encode_one(tokenizer, prompt, special) for prompt in prompts]


def first_token_collisions(encoded: Sequence[EncodedPrompt]) -> list[Collision]:
    """Groups of different objects within a relation that share their target token, in order of appearance."""
    groups: dict[tuple[str, int], dict[str, None]] = {}
    tokens: dict[int, str] = {}
    for item in encoded:
        answer = (item.prompt.object or item.prompt.target).strip()
        groups.setdefault((item.prompt.relation, item.target_id), {})[answer] = None
        tokens[item.target_id] = item.target_token
    return [
        Collision(relation, tokens[target_id], tuple(objects))
        for (relation, target_id), objects in groups.items()
        if len(objects) > 1
    ]


def _encode_one(tokenizer: Tokenizer, prompt: Prompt, special: frozenset[int]) -> EncodedPrompt:
    if not prompt.target.strip():
        raise _refused(prompt, "the answer is blank; give it at least one visible character")
    cut = _cut_by_offsets if tokenizer.is_fast else _cut_by_prefix
    ids, position = cut(tokenizer, prompt, special)
    if position == 0:
        raise _refused(prompt, "no token comes before the answer's first; put words before the answer")
    target_id = ids[position]
    token = tokenizer.convert_ids_to_tokens(target_id)
    if target_id in special:
        raise _refused(prompt, f"the answer's first token is {token!r}, a special or unknown token; reword it")
    return EncodedPrompt(tuple(ids[:position]), target_id, token, prompt)


def _cut_by_offsets(tokenizer: Tokenizer, prompt: Prompt, _: frozenset[int]) -> tuple[list[int], int]:
    """The joint ids and the target's position among them, from the characters that each token covers."""
    text = join(prompt.text, prompt.target)
    begin = len(text) - len(prompt.target.lstrip())
    encoding = tokenizer(text, return_offsets_mapping=True)
    ids: list[int] = encoding["input_ids"]
    for position, (start, end) in enumerate(encoding["offset_mapping"]):
        if text[max(start, begin) : end].strip():
            if text[start:begin].strip():
                raise _fused(prompt, tokenizer.convert_ids_to_tokens(ids[position]))
            return ids, position
    raise _without_token(prompt)


def _cut_by_prefix(tokenizer: Tokenizer, prompt: Prompt, special: frozenset[int]) -> tuple[list[int], int]:
    """The joint ids and the target's position among them, from how far prompt and whole agree."""
    ids: list[int] = tokenizer(join(prompt.text, prompt.target))["input_ids"]
    head: list[int] = tokenizer(prompt.text.rstrip())["input_ids"]
    while ids[: len(head)] != head and head[-1] in special:
        head = head[:-1]
    if ids[: len(head)] != head:
        agreed = [a == b for a, b in zip(ids, head, strict=False)]
        raise _fused(prompt, tokenizer.convert_ids_to_tokens(ids[agreed.index(False)]))
    for position in range(len(head), len(ids)):
        if tokenizer.decode([ids[position]]).strip():
            return ids, position
    raise _without_token(prompt)


def _fused(prompt: Prompt, token: str) -> FactsError:
    return _refused(
        prompt,
        f"token {token!r} covers both the prompt's end and the answer's start, so nothing can be predicted "
        "at their boundary; end the template in a whole word",
    )


def _without_token(prompt: Prompt) -> FactsError:
    return _refused(prompt, "the tokenizer gives the answer no token; reword it or use another tokenizer")


def _refused(prompt: Prompt, reason: str) -> FactsError:
    answer, wording = prompt.object or prompt.target, prompt.template or prompt.text
    return FactsError(
        f"relation {prompt.relation!r}, subject {prompt.subject!r}, object {answer!r}, template {wording!r}: {reason}"
    )
