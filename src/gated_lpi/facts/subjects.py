"""Where the subject stands among the tokens of a prompt.

With a fast tokenizer the tokens are those that cover a visible character of the subject. Without offsets they are
those that the text up to the subject's end has beyond the text before it.
"""

from collections.abc import Sequence

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
    inside = tuple(position for position in found if 0 <= position < len(encoded.ids))
    if not inside:
        raise FactsError(f"no token of prompt {encoded.prompt.text!r} is its subject's ({encoded.prompt.subject!r})")
    return inside


def _span(encoded: EncodedPrompt) -> tuple[int, int]:
    """First and last-plus-one character of the subject in the prompt's text."""
    prompt = encoded.prompt
    if not prompt.subject:
        raise FactsError(
            f"prompt {prompt.text!r} names no subject, whose tokens are asked for; give facts with a subject and a "
            "template, not bare prompts"
        )
    start = prompt.template.find(SLOT) if SLOT in prompt.template else prompt.text.rfind(prompt.subject)
    if start < 0:
        raise FactsError(f"the subject {prompt.subject!r} is not in its prompt, {prompt.text!r}")
    return start, start + len(prompt.subject)


def _by_offsets(tokenizer: Tokenizer, encoded: EncodedPrompt, start: int, end: int) -> Sequence[int]:
    text = encoded.prompt.joined
    encoding = tokenizer(text, return_offsets_mapping=True)
    shift = _added_in_front(encoded.ids, encoding["input_ids"])
    offsets = enumerate(encoding["offset_mapping"])
    return [place + shift for place, (first, last) in offsets if text[max(first, start) : min(last, end)].strip()]


def _by_prefix(tokenizer: Tokenizer, encoded: EncodedPrompt, start: int, end: int) -> Sequence[int]:
    text = encoded.prompt.joined
    before = tokenizer(text[:start].rstrip())["input_ids"]
    through = tokenizer(text[:end])["input_ids"]
    shift = _added_in_front(encoded.ids, through)
    special = set(tokenizer.all_special_ids)
    lengths = []
    for ids in (before, through):
        while len(ids) > 1 and ids[-1] in special:
            ids = ids[:-1]
        lengths.append(
            sum(1 for mine, theirs in zip(ids, encoded.ids[max(shift, 0) :], strict=False) if mine == theirs)
        )
    return range(lengths[0] + shift, lengths[1] + shift)


def _added_in_front(ids: tuple[int, ...], joint: list[int]) -> int:
    """How many tokens `ids` has before those of the text as the tokenizer gives it: 1, 0 or −1 (BOS)."""
    for shift in (0, 1, -1):
        mine, theirs = ids[max(shift, 0) :], joint[max(-shift, 0) :]
        shared = min(len(mine), len(theirs), 2)
        if shared and tuple(theirs[:shared]) == tuple(mine[:shared]):
            return shift
    return 0
