"""Where the subject stands among the tokens of a prompt.

With a fast tokenizer the tokens are those that cover a visible character of the subject. Without offsets they are
those that the text up to the subject's end has beyond the text before it. Blank tokens, such as the mark of a space
that stands alone, are not counted.
"""

from collections.abc import Sequence
from itertools import takewhile

from gated_lpi.errors import FactsError
from gated_lpi.facts.targets import EncodedPrompt, Tokenizer
from gated_lpi.facts.types import SLOT


def subject_positions(tokenizer: Tokenizer, encoded: EncodedPrompt) -> tuple[int, ...]:
    """Positions of the subject's tokens in a prompt's ids, ascending, one at least.

    Args:
        tokenizer: that which made the ids.
        encoded: the prompt.

    Raises:
        FactsError: the prompt names no subject, or it cannot be found in its text or tokens.
    """
    start, end = _span(encoded)
    find = _by_offsets if tokenizer.is_fast else _by_prefix
    found = find(tokenizer, encoded, start, end)
    inside = tuple(
        place for place in found if 0 <= place < len(encoded.ids) and _visible(tokenizer, encoded.ids[place])
    )
    if not inside:
        raise FactsError(
            f"no token of prompt {encoded.prompt.text!r} is its subject's ({encoded.prompt.subject!r}); reword it"
        )
    return inside


def _span(encoded: EncodedPrompt) -> tuple[int, int]:
    """First and last-plus-one character of the subject in the prompt's text."""
    prompt = encoded.prompt
    if not prompt.subject or prompt.template == SLOT:  # a bare prompt is read as the subject of a template of nothing
        raise FactsError(
            f"prompt {prompt.text!r} names no subject, whose tokens are asked for; give facts with a subject and a "
            "template, not bare prompts"
        )
    start = prompt.template.find(SLOT)
    if start < 0 or not prompt.text.startswith(prompt.subject, start):
        start = prompt.text.rfind(prompt.subject)
    if start < 0:
        raise FactsError(f"the subject {prompt.subject!r} is not in its prompt, {prompt.text!r}; reword either")
    return start, start + len(prompt.subject)


def _by_offsets(tokenizer: Tokenizer, encoded: EncodedPrompt, start: int, end: int) -> Sequence[int]:
    text = encoded.prompt.joined
    encoding = tokenizer(text, return_offsets_mapping=True)
    shift = _added_in_front(encoded.ids, encoding["input_ids"])
    offsets = enumerate(encoding["offset_mapping"])
    return [place + shift for place, (first, last) in offsets if text[max(first, start) : min(last, end)].strip()]


def _by_prefix(tokenizer: Tokenizer, encoded: EncodedPrompt, start: int, end: int) -> Sequence[int]:
    text = encoded.prompt.joined
    shift = _added_in_front(encoded.ids, tokenizer(text)["input_ids"])
    (first, _), (last, cut) = (_reach(tokenizer, encoded.ids, text[:part].rstrip(), shift) for part in (start, end))
    last += cut  # a token that goes on past the subject covers its end
    return range(first, last)


def _reach(tokenizer: Tokenizer, ids: tuple[int, ...], text: str, shift: int) -> tuple[int, bool]:
    """How far a prompt's `ids` are those of the beginning of its text, and whether that has more of its own."""
    found = tokenizer(text)["input_ids"]
    special = set(tokenizer.all_special_ids)
    while len(found) > max(-shift, 0) and found[-1] in special and not _starts(ids, found, shift):
        found = found[:-1]
    mine, theirs = ids[max(shift, 0) :], found[max(-shift, 0) :]
    agreed = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(mine, theirs, strict=False)))
    return agreed + max(shift, 0), agreed < len(theirs)


def _starts(ids: tuple[int, ...], found: list[int], shift: int) -> bool:
    """Whether a prompt's `ids` start with all of those `found`."""
    theirs = tuple(found[max(-shift, 0) :])
    return ids[max(shift, 0) :][: len(theirs)] == theirs


def _visible(tokenizer: Tokenizer, token: int) -> bool:
    return bool(tokenizer.decode([token]).strip())


def _added_in_front(ids: tuple[int, ...], joint: list[int]) -> int:
    """How many tokens `ids` has before those of the text as the tokenizer gives it: 1, 0 or −1 (BOS)."""
    for shift in (0, 1, -1):
        mine, theirs = ids[max(shift, 0) :], joint[max(-shift, 0) :]
        shared = min(len(mine), len(theirs), 2)
        if shared and tuple(theirs[:shared]) == tuple(mine[:shared]):
            return shift
    return 0
