"""The target of a prompt: the first token of the object, in context.

The object's tokens depend on what stands before it, so prompt and object are tokenised together, with the
tokenizer's default special tokens, and the joint sequence is cut in two:

1. The joint text is `prompt.joined`; the object begins at its first visible character, at s. What the separator
   brings, visible or not, is the prompt's.
2. The target token is the first token that covers a visible character at or after s. Whitespace decides
   nothing: a token " Paris" may begin before s by whitespace only, and a token that is whitespace alone
   (a lone "▁" before a word) stays on the prompt's side.
3. Everything before the target token is the prompt's input, so that ids + target is always a prefix of the
   joint tokenisation: what a model would have met in training.
4. The answer is what follows from there to the end, without the special tokens that the tokenizer puts at the end of
   any text. Its first token is the target.
5. A foil stands where the answer does: it is tokenised with the same prompt, and its first token is an alternative to
   the target. So nothing before that may differ.
6. Whether a BOS token comes first is the tokenizer's own doing, unless it is asked for or refused (`bos`).

With a fast tokenizer, offsets say what a token covers. Without offsets, the tokens of the bare prompt must be
a prefix of the joint ones, and the target is the first token after them that is not whitespace alone.

Prompts of which no target can be told, or that the model has no ids for, are refused all at once, or skipped and kept
account of.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, NamedTuple, Protocol

from gated_lpi.errors import FactsError, OptionError
from gated_lpi.facts.messages import SHOWN, listed, located, plain
from gated_lpi.facts.types import (
    Answer,
    OnError,
    Prompt,
    Skipped,
    check_answer,
    check_on_error,
    check_separator,
    check_text,
)


class Tokenizer(Protocol):
    """What is used of a `transformers` tokenizer, fast or not."""

    is_fast: bool
    all_special_ids: list[int]
    bos_token_id: int | None

    def __call__(self, text: str, *, return_offsets_mapping: bool = False) -> Any:
        """Encode a text, with special tokens."""

    def convert_ids_to_tokens(self, ids: int) -> str:
        """Spell a token as the vocabulary does."""

    def decode(self, token_ids: list[int]) -> str:
        """Turn tokens back into text."""


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt as a model is given it, and its target token.

    Attributes:
        ids: the input, token ids.
        target_id: the target token's id.
        target_token: the target token as the vocabulary spells it ("ĠParis").
        prompt: the prompt that was encoded.
        answer_ids: all tokens of the answer, the target first; where none are given, the target alone.
        foil_id: the first token of the prompt's foil; None where it has none.
    """

    ids: tuple[int, ...]
    target_id: int
    target_token: str
    prompt: Prompt
    answer_ids: tuple[int, ...] = ()
    foil_id: int | None = None

    def __post_init__(self) -> None:
        """An answer of which no more is known is its first token."""
        if not self.answer_ids:
            object.__setattr__(self, "answer_ids", (self.target_id,))

    @property
    def full_ids(self) -> tuple[int, ...]:
        """The input and the answer, one after the other."""
        return self.ids + self.answer_ids


@dataclass(frozen=True)
class Collision:
    """Different objects of one relation that have the same first token, so a score cannot tell them apart.

    Attributes:
        relation: name of the relation.
        token: the token that they share, as the vocabulary spells it.
        objects: the objects, each once.
    """

    relation: str
    token: str
    objects: tuple[str, ...]


class Vocabulary(NamedTuple):
    """How many token ids a model can take and predict, and how many tokens in one text.

    Attributes:
        n_embeddings: rows of its embedding.
        n_logits: number of its logits.
        n_positions: the longest input that it can be given, in tokens; None: there is no limit.
    """

    n_embeddings: int
    n_logits: int
    n_positions: int | None = None


class Encoded(NamedTuple):
    """The prompts that can be used, and those that cannot.

    Attributes:
        prompts: those that can be used, in their order.
        skipped: those that cannot, with their reasons.
    """

    prompts: list[EncodedPrompt]
    skipped: tuple[Skipped, ...]


def encode(
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    vocabulary: Vocabulary | None = None,
    *,
    bos: bool | None = None,
    answer: Answer = "first",
) -> list[EncodedPrompt]:
    """Cut each prompt, tokenised with its answer, into input ids, the target token and the rest of the answer.

    Args:
        tokenizer: of the model.
        prompts: what to encode.
        vocabulary: how many ids and positions the model has; None: any will do.
        bos: put a BOS token first (True) or take it away (False); None leaves it to the tokenizer.
        answer: "first" if the model will be asked for the target alone, "all" if for every token of the answer, each
            after those before it: then what holds for the target must hold for all of them.

    Returns:
        The encoded prompts, in their order.

    Raises:
        FactsError: names the facts and their templates: there are prompts whose answer is blank, has no token or only
            an unknown or other special one; whose end and the answer's start are covered by one token; that have no
            token before the target; whose foil cannot be told from the target or does not stand in its place; or, if
            `vocabulary` is given, that have ids beyond it or more tokens than the model can be given.
        OptionError: another value of `answer`; or a BOS token is asked for and the tokenizer has none.
    """
    return encode_or_skip(tokenizer, prompts, "raise", vocabulary, bos=bos, answer=answer).prompts


def encode_or_skip(
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    on_error: OnError = "skip",
    vocabulary: Vocabulary | None = None,
    *,
    bos: bool | None = None,
    answer: Answer = "first",
) -> Encoded:
    """Encode prompts, and leave out and list those that `encode` would refuse, or raise for them.

    Args:
        tokenizer: of the model.
        prompts: what to encode.
        on_error: "skip" leaves a refused prompt out and lists it; "raise" does what `encode` does.
        vocabulary: how many ids and positions the model has; None: any will do.
        bos: put a BOS token first (True) or take it away (False); None leaves it to the tokenizer.
        answer: "first" or "all", as for `encode`.

    Returns:
        The encoded prompts, in their order, and those that were skipped.

    Raises:
        FactsError: a prompt is refused and `on_error` is "raise"; or every prompt is refused.
        OptionError: another value of `on_error` or `answer`, or a BOS token that the tokenizer does not have.
    """
    check_on_error(on_error)
    check_answer(answer)
    if bos and tokenizer.bos_token_id is None:
        raise OptionError("bos=True was given, but the tokenizer names no BOS token; leave it out")
    how = _How(tokenizer, frozenset(tokenizer.all_special_ids), _of_nothing(tokenizer), vocabulary, bos, answer)
    encoded, skipped = [], []
    for prompt in prompts:
        try:
            encoded.append(_encode_one(how, prompt))
        except FactsError as refused:
            skipped.append(Skipped(_named(prompt), str(refused), prompt))
    if skipped and (on_error == "raise" or not encoded):
        raise _all_refused(skipped, len(prompts))
    return Encoded(encoded, tuple(skipped))


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


def collision_notes(collisions: Iterable[Collision]) -> list[str]:
    """Say in one line for each relation which of its objects a score cannot tell apart."""
    by_relation: dict[str, list[Collision]] = {}
    for collision in collisions:
        by_relation.setdefault(collision.relation, []).append(collision)
    notes = []
    for relation, shared in by_relation.items():
        count = sum(len(collision.objects) for collision in shared)
        groups = (f"{c.token!r} ({listed(map(plain, c.objects))})" for c in shared)
        notes.append(
            f"relation {relation!r}: {count} objects share their first token with another, "
            f"so their targets are the same: {listed(groups)}"
        )
    return notes


class _How(NamedTuple):
    """What encoding goes by, the same for all prompts.

    Attributes:
        tokenizer: of the model.
        special: ids of its special tokens.
        of_nothing: ids that it gives the empty text: what it puts around any text.
        vocabulary: how many ids and positions the model has, if that is known.
        bos: whether a BOS token comes first; None: as the tokenizer does it.
        answer: how much of an answer the model is asked for.
    """

    tokenizer: Tokenizer
    special: frozenset[int]
    of_nothing: list[int]
    vocabulary: Vocabulary | None
    bos: bool | None
    answer: Answer


def _of_nothing(tokenizer: Tokenizer) -> list[int]:
    encoding = tokenizer("", return_offsets_mapping=True) if tokenizer.is_fast else tokenizer("")
    ids: list[int] = encoding["input_ids"]
    return ids


def _encode_one(how: _How, prompt: Prompt) -> EncodedPrompt:
    ids, position = _cut(how, prompt)
    asked = ids if how.answer == "all" else ids[: position + 1]
    _check_answer(how, asked, position)
    foil = None if prompt.foil is None else _foil(how, prompt, ids, position)
    token = how.tokenizer.convert_ids_to_tokens(ids[position])
    return EncodedPrompt(tuple(ids[:position]), ids[position], token, prompt, tuple(ids[position:]), foil)


def _cut(how: _How, prompt: Prompt) -> tuple[list[int], int]:
    """Ids of the prompt with its answer, and where the answer's first is."""
    for key in ("text", "target"):
        check_text(getattr(prompt, key), key)
    check_separator(prompt.separator)
    if not prompt.target.strip():
        raise FactsError("the answer is blank; give it at least one visible character")
    tokenizer = how.tokenizer
    cut = _cut_by_offsets if tokenizer.is_fast else _cut_by_prefix
    ids, position = cut(tokenizer, prompt, how.special)
    ids = ids[: max(position + 1, len(ids) - _agreeing(reversed(ids), reversed(how.of_nothing)))]
    first = tokenizer.bos_token_id
    if how.bos is not None and first is not None and how.bos != (ids[:1] == [first]):
        ids, position = ([first, *ids], position + 1) if how.bos else (ids[1:], position - 1)
    if position == 0:
        raise FactsError("no token comes before the answer's first; put words before the answer")
    return ids, position


def _check_answer(how: _How, ids: list[int], position: int) -> None:
    """Refuse an input with an answer, of which the first is at `position`, that the model cannot be asked for."""
    for place, token in enumerate(ids[position:]):
        if token in how.special:
            which = "first token" if place == 0 else f"token {place + 1}"
            spelt = how.tokenizer.convert_ids_to_tokens(token)
            raise FactsError(f"the answer's {which} is {spelt!r}, a special or unknown token; reword it")
    if how.vocabulary is None:
        return
    _check_ids(how.tokenizer, ids, position, how.vocabulary)
    limit, n_given = how.vocabulary.n_positions, len(ids) - 1  # the last one is only predicted
    if limit is not None and n_given > limit:
        more = n_given - position
        parts = f"{position} of the prompt" + (f" and {more} of the answer; its last is only predicted" if more else "")
        raise FactsError(
            f"the model would be given {n_given} tokens ({parts}), but its context is {limit} tokens; shorten the "
            "prompt or leave the fact out"
        )


def _foil(how: _How, prompt: Prompt, ids: list[int], position: int) -> int:
    """The first token of the prompt's foil, where the answer's first, of `ids` at `position`, stands."""
    text = check_text(prompt.foil, "foil")
    with located(f"the foil {text!r} in the answer's place"):
        there, place = _cut(how, replace(prompt, target=text, object=text))
        _check_answer(how, there[: place + 1], place)
    if there[:place] != ids[:position]:
        raise FactsError(
            f"with the foil {text!r} in the answer's place the tokenizer cuts the prompt before it otherwise, so the "
            "two cannot be held against each other; give another foil, or join by another separator"
        )
    if there[place] == ids[position]:
        token = how.tokenizer.convert_ids_to_tokens(ids[position])
        raise FactsError(
            f"the foil {text!r} and the answer have the same first token, {token!r}, so a score cannot tell them "
            "apart; give a foil that begins otherwise, or leave it out"
        )
    return there[place]


def _agreeing(one: Iterable[int], other: Iterable[int]) -> int:
    """How many ids the two have in common before they part."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _check_ids(tokenizer: Tokenizer, ids: Sequence[int], position: int, vocabulary: Vocabulary) -> None:
    """Refuse ids without an embedding, the last aside, and ids of the answer, from `position` on, without a logit."""
    limits = [(token, vocabulary.n_embeddings, "input embeddings") for token in ids[:-1]]
    limits += [(token, vocabulary.n_logits, "logits") for token in ids[position:]]
    for token, count, what in limits:
        if token >= count:
            spelt = tokenizer.convert_ids_to_tokens(token)
            raise FactsError(
                f"token {spelt!r} has id {token}, but the model has {count} {what}; "
                "use the tokenizer that belongs to the model, or leave the fact out"
            )


def _cut_by_offsets(tokenizer: Tokenizer, prompt: Prompt, _: frozenset[int]) -> tuple[list[int], int]:
    """The joint ids and the target's position among them, from the characters that each token covers."""
    text, begin = prompt.joined, prompt.answer_start
    encoding = tokenizer(text, return_offsets_mapping=True)
    ids: list[int] = encoding["input_ids"]
    for position, (start, end) in enumerate(encoding["offset_mapping"]):
        if text[max(start, begin) : end].strip():
            if text[start:begin].strip():
                raise _fused(tokenizer.convert_ids_to_tokens(ids[position]))
            return ids, position
    raise _without_token()


def _cut_by_prefix(tokenizer: Tokenizer, prompt: Prompt, special: frozenset[int]) -> tuple[list[int], int]:
    """The joint ids and the target's position among them, from how far prompt and whole agree."""
    ids: list[int] = tokenizer(prompt.joined)["input_ids"]
    head: list[int] = tokenizer(prompt.joined[: prompt.answer_start].rstrip())["input_ids"]
    while ids[: len(head)] != head and head[-1] in special:
        head = head[:-1]
    if ids[: len(head)] != head:
        agreed = _agreeing(ids, head)
        raise _fused(tokenizer.convert_ids_to_tokens(ids[agreed])) if agreed < len(ids) else _without_token()
    for position in range(len(head), len(ids)):
        if tokenizer.decode([ids[position]]).strip():
            return ids, position
    raise _without_token()


def _fused(token: str) -> FactsError:
    return FactsError(
        f"token {token!r} covers both the prompt's end and the answer's start, so nothing can be predicted "
        "at their boundary; end the template in a whole word, or join by another separator",
    )


def _without_token() -> FactsError:
    return FactsError("the tokenizer gives the answer no token; reword it or use another tokenizer")


def _named(prompt: Prompt) -> str:
    answer, wording = prompt.object or prompt.target, prompt.template or prompt.text
    return f"relation {prompt.relation!r}, subject {prompt.subject!r}, object {answer!r}, template {wording!r}"


def _all_refused(refused: Sequence[Skipped], count: int) -> FactsError:
    """One error for all prompts that cannot be used."""
    if count == 1:
        return FactsError(str(refused[0]))
    lines = "".join(f"\n- {skipped}" for skipped in refused[:SHOWN])
    rest = f"\n- and {len(refused) - SHOWN} more" if len(refused) > SHOWN else ""
    advice = "" if len(refused) == count else '\nMend them, or leave them out with on_error="skip".'
    return FactsError(f"{len(refused)} of {count} prompts cannot be used:{lines}{rest}{advice}")
