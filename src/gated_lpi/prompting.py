"""Facts put to a model: how they are worded and tokenised, in one place for all that asks a model something."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from gated_lpi.datasets import plain_text
from gated_lpi.errors import ModelError, OptionError
from gated_lpi.facts import Answer, Encoded, FactSet, OnError, Vocabulary, encode_or_skip, separator_option
from gated_lpi.facts.types import Templates, check_on_error
from gated_lpi.models import Model, require_model


@dataclass(frozen=True)
class Prompting:
    """How facts become token ids.

    Attributes:
        templates: "first" of each relation, "all", or the "held_out" one of each fact.
        separator: what stands between prompt and answer, for all facts: "auto" (one space where there is no whitespace)
            or any text. None: as the facts say, "auto" where they say nothing.
        on_error: "raise" for a fact that cannot be used with this tokenizer, or "skip" it and keep account of it.
        bos: put a BOS token first, or take it away; None: as the tokenizer does it.
    """

    templates: Templates = "first"
    separator: str | None = None
    on_error: OnError = "raise"
    bos: bool | None = None

    def __post_init__(self) -> None:
        """Refuse values that mean nothing.

        Raises:
            OptionError: names the option, what was given and what is allowed.
        """
        if self.templates not in get_args(Templates):
            allowed = ", ".join(map(repr, get_args(Templates)))
            raise OptionError(f"templates={self.templates!r} was given; expected one of {allowed}")
        if self.separator is not None:
            separator_option(self.separator)
        check_on_error(self.on_error)
        if self.bos not in (True, False, None):
            raise OptionError(f"bos={self.bos!r} was given; expected True, False or None (as the tokenizer does it)")


def encode_facts(model: Model, facts: FactSet, how: Prompting = Prompting(), *, answer: Answer = "first") -> Encoded:
    """Tokenise facts for a model.

    Args:
        model: from `load_model` or `wrap_model`.
        facts: what it is asked.
        how: how facts become token ids.
        answer: whether the model will be asked for the "first" token of each answer or for "all" of them.

    Returns:
        The prompts that it can be asked, and those that were skipped.

    Raises:
        ModelError: the model came without a tokenizer.
        FactsError: facts that cannot be used with its tokenizer, vocabulary or context, unless they are to be skipped;
            or none is left.
        OptionError: what is no `Model`, another value of `answer`, or a BOS token is asked for that the tokenizer does
            not have.
    """
    require_model(model)
    if model.tokenizer is None:
        raise ModelError("the model came without a tokenizer, which prompts need; pass one to wrap_model")
    if how.separator is not None:
        facts = facts.with_separator(how.separator)
    vocabulary = Vocabulary(model.n_embeddings, model.readout.vocabulary, model.context)
    prompts = facts.prompts(how.templates)
    return encode_or_skip(model.tokenizer, prompts, how.on_error, vocabulary, bos=how.bos, answer=answer)


def token_texts(model: Model, tokens: Sequence[int]) -> tuple[str, ...]:
    """Tokens as texts that every store keeps (`gated_lpi.datasets.plain_text`: NUL is ␀).

    Those that are no text, such as rows of the unembedding beyond the vocabulary, are given by number.

    Raises:
        ModelError: the model came without a tokenizer.
    """
    if model.tokenizer is None:
        raise ModelError("the model came without a tokenizer, which texts of tokens need; pass one to wrap_model")
    return tuple(plain_text(model.tokenizer.decode([token])) or f"[token {token}]" for token in tokens)
