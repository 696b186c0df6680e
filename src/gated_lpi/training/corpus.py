"""The corpus that all arms share, and the order in which they see it.

1. Every training prompt of the facts becomes one sentence, "prompt target."; the held-out ones are left out.
   By default only the answer and its full stop are learnt: prompts name subjects that nothing foretells, and
   learning those too takes this small a model twice the steps to reach the same recall.
2. So become training prompts of further facts (`facts.teaching`). Texts of the user's own, one a line, follow. They are
   learnt as a whole.
3. The order of the batches is drawn once, from the seed alone: each epoch is a permutation of all examples.
   It depends on neither the arm nor where a run was interrupted.
4. With a frequency a text has a rate: how often an epoch has it on average. Epoch k has it floor((k+1)·rate + o) −
   floor(k·rate + o) times, so that its count is never off by one or more. The offset o is drawn for each fact; its
   sentences, T of them, are 1/T apart, so that the fact itself comes up as evenly as may be. At rate 1 each comes once.
5. With a shift there is a second corpus, `after`: the same sentences in the same places, some with new objects
   (`facts.shifting`). The order of the batches goes on in it.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from gated_lpi.errors import FactsError
from gated_lpi.facts import FactSet, Prompt
from gated_lpi.facts.shifting import new_objects
from gated_lpi.facts.teaching import rates, taught_facts
from gated_lpi.training.spec import Loss, ShiftSpec

IGNORED = -100  # the label that `transformers` leaves out of the loss


@dataclass(frozen=True)
class Corpus:
    """Texts to train on, in a fixed order.

    Attributes:
        texts: the texts.
        answer_starts: where in each, in characters, the answer starts; 0 for a text without an answer, which is to be
            learnt as a whole.
        rates: how often an epoch has each text, on average; empty: once.
        offsets: for each text where in [0, 1) of its turn it comes up; empty: 0.
        after: the same texts after a shift; None where there is none. It is no part of the digest.
    """

    texts: tuple[str, ...]
    answer_starts: tuple[int, ...]
    rates: tuple[float, ...] = ()
    offsets: tuple[float, ...] = ()
    after: "Corpus | None" = None

    @cached_property
    def sha256(self) -> str:
        """Digest of the texts and answers in their order, and of rates where there are any."""
        often = [self.rates, self.offsets] if self.rates else []
        return hashlib.sha256(json.dumps([self.texts, self.answer_starts, *often]).encode()).hexdigest()


def build_corpus(
    facts: FactSet,
    extra: Sequence[str | Path] = (),
    *,
    more: Sequence[FactSet] = (),
    frequency: float = 0.0,
    seed: int = 0,
    shift: ShiftSpec | None = None,
) -> Corpus:
    """Write the training prompts of facts as sentences, then add the lines of text files.

    Args:
        facts: those that are asked about.
        extra: text files of the user's own, a text a line.
        more: facts beside those, which may hold them, too.
        frequency: s of r^−s, how often the fact of rank r in its relation comes up; 0: all as often.
        seed: of the places at which texts come up whose rate is not 1.
        shift: what of the facts changes, so that there is a second corpus, `after`; None: nothing.

    Raises:
        FactsError: a file cannot be read, sets of facts contradict each other, there is nothing to train on, or nothing
            can change in the shift.
    """
    taught = taught_facts(facts, more)
    prompts = [prompt for fact in taught for prompt in fact.prompts]
    lines = [line for file in extra for line in _lines(Path(file))]
    if not prompts and not lines:
        raise FactsError(
            "The facts give no training prompts: each has one template only, which is held out. "
            "Give relations with two templates or more, or text files to train on."
        )
    often: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())
    if frequency:
        rated = list(zip(taught, rates(taught, frequency), strict=True))
        generator = np.random.default_rng(seed)
        begins = generator.random(len(taught))
        offsets = [
            (o + k / len(f.prompts)) % 1 for f, o in zip(taught, begins, strict=True) for k in range(len(f.prompts))
        ]
        often = (
            (*(rate for fact, rate in rated for _ in fact.prompts), *(1.0 for _ in lines)),
            (*(float(offset) for offset in offsets), *(0.0 for _ in lines)),
        )
    after = None
    if shift is not None and shift.share:
        changes = new_objects(taught, shift.share, shift.seed)
        changed = [p.answered(changes.get((p.relation, p.subject, p.object), p.object)) for p in prompts]
        after = _written(changed, lines, often)
    return replace(_written(prompts, lines, often), after=after)


def _written(
    prompts: Sequence[Prompt], lines: Sequence[str], often: tuple[tuple[float, ...], tuple[float, ...]]
) -> Corpus:
    sentences = [f"{prompt.joined}." for prompt in prompts]
    starts = [len(prompt.joined[: prompt.answer_start].rstrip()) for prompt in prompts]
    return Corpus((*sentences, *lines), (*starts, *(0 for _ in lines)), *often)


def _lines(path: Path) -> list[str]:
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FactsError(f"{path} cannot be read as UTF-8 text: {error}. Give plain-text files.") from error
    return [line.strip() for line in content.splitlines() if line.strip()]


class Examples(NamedTuple):
    """A corpus as token ids.

    Attributes:
        inputs: `input_ids` and `labels` of each example.
        texts: [examples], the text that each is of, or is a piece of, as its place in the corpus.
    """

    inputs: list[dict[str, list[int]]]
    texts: NDArray[np.int64]

    def rates(self, corpus: Corpus) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """The rate and the offset of each example; None where the corpus has none."""
        if not corpus.rates:
            return None
        return np.array(corpus.rates)[self.texts], np.array(corpus.offsets)[self.texts]


def encode_corpus(corpus: Corpus, tokenizer: PreTrainedTokenizerFast, context: int, loss: Loss) -> Examples:
    """Tokenise every text into examples of `input_ids` and `labels`.

    Tokens that are not to be learnt have the label -100: special tokens and, with loss "answers", all that ends before
    the answer starts. Examples without any other label after their first token are dropped.

    Args:
        corpus: the texts.
        tokenizer: made for them.
        context: tokens of an example, at most.
        loss: which tokens are learnt: "answers", or all.

    Raises:
        FactsError: no example is left.
    """
    encoded = tokenizer(list(corpus.texts), return_offsets_mapping=True)
    examples, texts = [], []
    spelt = zip(encoded["input_ids"], encoded["offset_mapping"], corpus.answer_starts, strict=True)
    for text, (ids, spans, start) in enumerate(spelt):
        first = start if loss == "answers" else 0
        labels = [token if end > first else IGNORED for token, (_, end) in zip(ids, spans, strict=True)]
        for at in range(0, len(ids), context):
            if any(label != IGNORED for label in labels[at + 1 : at + context]):
                examples.append({"input_ids": ids[at : at + context], "labels": labels[at : at + context]})
                texts.append(text)
    if not examples:
        raise FactsError(
            f"None of the corpus's {len(corpus.texts)} texts holds a token to predict. Give texts of a word or more."
        )
    return Examples(examples, np.array(texts))


def data_order(
    examples: int,
    steps: int,
    batch_size: int,
    seed: int,
    often: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
) -> NDArray[np.int64]:
    """The examples of each batch, drawn from the seed alone.

    Args:
        examples: how many there are.
        steps: batches.
        batch_size: examples in a batch.
        seed: of the draws.
        often: rate and offset of each example, [examples] each; None: each comes once an epoch.

    Returns:
        [steps, batch_size], integers below `examples`.
    """
    generator = np.random.default_rng(seed)
    rate, offset = (np.ones(examples), np.zeros(examples)) if often is None else often
    order: list[NDArray[np.int64]] = []
    left, epoch = steps * batch_size, 0
    while left > 0:
        counts = np.floor((epoch + 1) * rate + offset) - np.floor(epoch * rate + offset)
        order.append(generator.permutation(np.repeat(np.arange(examples), counts.astype(np.int64))))
        left, epoch = left - len(order[-1]), epoch + 1
    return np.concatenate(order)[: steps * batch_size].reshape(steps, batch_size)
