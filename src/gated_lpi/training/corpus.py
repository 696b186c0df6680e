"""The corpus that all arms share, and the order in which they see it.

1. Every training prompt of the facts becomes one sentence, "prompt target."; the held-out ones are left out.
   By default only the answer and its full stop are learnt: prompts name subjects that nothing foretells, and
   learning those too takes this small a model twice the steps to reach the same recall.
2. Texts of the user's own, one a line, follow. They are learnt as a whole.
3. The order of the batches is drawn once, from the seed alone: each epoch is a permutation of all examples.
   It depends on neither the arm nor where a run was interrupted.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from gated_lpi.errors import FactsError
from gated_lpi.facts import FactSet
from gated_lpi.training.spec import Loss

IGNORED = -100  # the label that `transformers` leaves out of the loss


@dataclass(frozen=True)
class Corpus:
    """Texts to train on, in a fixed order.

    Attributes:
        texts: the texts.
        answer_starts: where in each, in characters, the answer starts; 0 for a text without an answer, which is to be
            learnt as a whole.
    """

    texts: tuple[str, ...]
    answer_starts: tuple[int, ...]

    @cached_property
    def sha256(self) -> str:
        """Digest of the texts and answers in their order."""
        return hashlib.sha256(json.dumps([self.texts, self.answer_starts]).encode()).hexdigest()


def build_corpus(facts: FactSet, extra: Sequence[str | Path] = ()) -> Corpus:
    """Write the training prompts of facts as sentences, then add the lines of text files.

    Args:
        facts: whose training prompts.
        extra: text files of the user's own, a text a line.

    Raises:
        FactsError: a file cannot be read, or there is nothing to train on.
    """
    prompts = facts.training_prompts()
    sentences = [f"{prompt.joined}." for prompt in prompts]
    starts = [len(prompt.joined[: prompt.answer_start].rstrip()) for prompt in prompts]
    lines = [line for file in extra for line in _lines(Path(file))]
    if not sentences and not lines:
        raise FactsError(
            "The facts give no training prompts: each has one template only, which is held out. "
            "Give relations with two templates or more, or text files to train on."
        )
    return Corpus((*sentences, *lines), (*starts, *(0 for _ in lines)))


def _lines(path: Path) -> list[str]:
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FactsError(f"{path} cannot be read as UTF-8 text: {error}. Give plain-text files.") from error
    return [line.strip() for line in content.splitlines() if line.strip()]


def encode_corpus(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, context: int, loss: Loss
) -> list[dict[str, list[int]]]:
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
    examples = []
    for ids, spans, start in zip(encoded["input_ids"], encoded["offset_mapping"], corpus.answer_starts, strict=True):
        first = start if loss == "answers" else 0
        labels = [token if end > first else IGNORED for token, (_, end) in zip(ids, spans, strict=True)]
        examples += [
            {"input_ids": ids[at : at + context], "labels": labels[at : at + context]}
            for at in range(0, len(ids), context)
        ]
    examples = [example for example in examples if any(label != IGNORED for label in example["labels"][1:])]
    if not examples:
        raise FactsError(
            f"None of the corpus's {len(corpus.texts)} texts holds a token to predict. Give texts of a word or more."
        )
    return examples


def data_order(examples: int, steps: int, batch_size: int, seed: int) -> NDArray[np.int64]:
    """The examples of each batch, drawn from the seed alone.

    Args:
        examples: how many there are.
        steps: batches.
        batch_size: examples in a batch.
        seed: of the draws.

    Returns:
        [steps, batch_size], integers below `examples`.
    """
    generator = np.random.default_rng(seed)
    epochs = -(-steps * batch_size // examples)
    order = np.concatenate([generator.permutation(examples) for _ in range(epochs)])
    return order[: steps * batch_size].reshape(steps, batch_size)
