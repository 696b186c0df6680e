"""What silencing does to the model as such: its loss on text that has nothing to do with the facts.

The built-in text is five paragraphs of plain prose about a joiner's workshop and the weather, written for this
(neutral.txt). Any other text file can be given in its place. It is cut into windows, each of which the model reads by
itself; every token of a window but the first is predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from gated_lpi.errors import ModelError, OptionError
from gated_lpi.models import Model
from gated_lpi.trace import last_logits

NEUTRAL = Path(__file__).parent / "neutral.txt"
WINDOW = 128
TOKENS = 2048
LOGITS = 2**24  # numbers that are held at a time, unless a single window has more
_READ = 1_000_000  # characters of a file: far more than is used, far less than a disk


def read_text(path: str | Path | None = None) -> str:
    """The text of a file, or the built-in one for None; of a long file its beginning.

    Raises:
        OptionError: the file cannot be read as UTF-8 text, or is blank.
    """
    file = NEUTRAL if path is None else Path(path)
    try:
        with file.open(encoding="utf-8") as stream:
            text = stream.read(_READ)
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"the text {file} cannot be read: {error}; give a plain text file in UTF-8") from error
    if not text.strip():
        raise OptionError(f"the text {file} is blank; give one with a few hundred words")
    return text


def text_windows(model: Model, text: str, *, window: int = WINDOW, tokens: int = TOKENS) -> list[list[int]]:
    """Tokenise a text and cut it into windows.

    Args:
        model: the model, whose tokenizer is used; each window begins with BOS where that puts it first.
        text: what to read.
        window: tokens in a window; as many as the model's context has, if that is less.
        tokens: how many tokens of the text are used, at most.

    Returns:
        Token ids of each window, two at least.

    Raises:
        ModelError: the model came without a tokenizer, or with one that has ids which the model lacks.
        OptionError: `window` below 2, or the text has too few tokens.
    """
    if model.tokenizer is None:
        raise ModelError("the model came without a tokenizer, which text needs; pass one to wrap_model")
    if window < 2:
        raise OptionError(f"window={window} was given; expected 2 tokens or more, of which all but the first count")
    plain = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    ids: list[int] = plain[:tokens]
    with_special = model.tokenizer(text[:100])["input_ids"]
    bos = model.tokenizer.bos_token_id
    first = [bos] if bos is not None and with_special[:1] == [bos] else []
    limit = min(model.n_embeddings, model.readout.vocabulary)
    if any(token >= limit for token in ids):
        raise ModelError(
            f"the text has token id {max(ids)}, and the model {limit} tokens; use the tokenizer that belongs to it"
        )
    size = min(window, model.context or window) - len(first)
    windows = [[*first, *ids[start : start + size]] for start in range(0, len(ids), size)]
    windows = [ids for ids in windows if len(ids) > 1]
    if not windows:
        raise OptionError(f"the text has {len(ids)} tokens; give one with a few hundred")
    return windows


def text_loss(model: Model, windows: Sequence[Sequence[int]]) -> float:
    """Mean loss over the predicted tokens of windows: −log p, nats per token."""
    total, count = 0.0, 0
    longest = max(map(len, windows))
    at_once = max(1, LOGITS // (longest * model.readout.vocabulary))
    for start in range(0, len(windows), at_once):
        some = windows[start : start + at_once]
        logits = last_logits(model, some, [range(len(ids) - 1) for ids in some])
        targets = torch.tensor([token for ids in some for token in ids[1:]], device=logits.device)
        total += float(torch.nn.functional.cross_entropy(logits.double(), targets, reduction="sum"))
        count += len(targets)
    return total / count
