"""The tokenizer of a checkpoint: the one that its tokenizer.json describes, and no other.

transformers 5 builds a tokenizer of its own for some model types and classes, from the file's vocabulary but with a
normalizer, pre-tokenizer and decoder that it has in its code (issues 48206, 45488, 45920 and 45812 of its repository):
texts then get other ids than the model was trained with. So what was loaded is compared with the file:

1. normalizer, pre-tokenizer, decoder and model, part by part, and the id of every token of the file;
2. the ids of a probe text with digits, runs of spaces, contractions and several scripts.

If any of these differs, the tokenizer is read from the file itself, and a note says what differed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from gated_lpi._common.quiet import quiet_transformers
from gated_lpi.errors import ModelError
from gated_lpi.models.staging import read_config, safe_config, staged

FILE, SETTINGS = "tokenizer.json", "tokenizer_config.json"
PARTS = ("normalizer", "pre_tokenizer", "decoder", "model")
PROBE = (
    " In 1984, 12+34=46 and 2024: it's  what\tI'LL do\n\n3.14159 www.example.com 'quoted' \"x\" "
    "ÀÉ é e\u0301 ß ﬁ Ω 日本語 한국어 العربية हिन्दी 😀 ①² \u00a0end"
)


@dataclass(frozen=True)
class LoadedTokenizer:
    """A tokenizer that was checked against its file.

    Attributes:
        tokenizer: what texts are tokenised with.
        sha256: digest of tokenizer.json; "" where there is none, as with a sentencepiece model alone or a GGUF file.
        notes: what was done or found, one line each; empty if the file's tokenizer is what transformers made of it.
    """

    tokenizer: PreTrainedTokenizerBase
    sha256: str
    notes: tuple[str, ...]


def load_tokenizer(
    folder: str | Path, *, trust_remote_code: bool = False, config: Mapping[str, Any] | None = None
) -> LoadedTokenizer:
    """Load the tokenizer of a folder, as its tokenizer.json has it.

    Args:
        folder: a checkpoint's folder; of it, transformers sees what `staging` makes of it.
        trust_remote_code: let it see all of it, and run the code in it.
        config: that of the model that it is for, where the folder is another's; None: the folder's own.

    Raises:
        ModelError: there is none that transformers can load, or none that does what its file says.
    """
    root = Path(folder)
    if trust_remote_code:
        return load_staged(str(folder), root, trust_remote_code=True)
    safe, _ = safe_config(read_config(root) if config is None else config)
    with staged(root, safe) as view:
        return load_staged(str(folder), view, trust_remote_code=False)


def load_staged(source: str, view: Path, **options: Any) -> LoadedTokenizer:
    """Load the tokenizer of a folder that transformers may see all of.

    Args:
        source: what errors call it.
        view: the folder.
        options: `trust_remote_code` or `gguf_file`, as transformers takes them.

    Raises:
        ModelError: there is none that transformers can load, or none that does what its file says.
    """
    tokenizer = _load(AutoTokenizer, source, view, options)
    file, settings = (
        None if "gguf_file" in options or not (view / name).is_file() else view / name for name in (FILE, SETTINGS)
    )
    notes: list[str] = []
    if file is not None:
        stored = _stored(source, file)
        differing = differences(tokenizer, stored)
        if differing:
            was = type(tokenizer).__name__
            tokenizer = _load(PreTrainedTokenizerFast, source, view, options)
            left = differences(tokenizer, stored)
            if left:
                raise _no_tokenizer(source, f"what transformers makes of {file.name} differs from it in {_and(left)}")
            notes.append(
                f"transformers' own {was} differs from this model's {FILE} in {_and(differing)}; the file's tokenizer "
                "is used"
            )
    _refuse_speechless(source, "it", tokenizer)
    notes += _bos_notes(tokenizer, settings)
    digest = "" if file is None else hashlib.sha256(file.read_bytes()).hexdigest()
    return LoadedTokenizer(tokenizer, digest, tuple(notes))


def adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer by itself begins a text with its BOS token."""
    bos = getattr(tokenizer, "bos_token_id", None)
    ids: list[int] = tokenizer("a")["input_ids"]
    return bos is not None and ids[:1] == [bos]


def differences(tokenizer: PreTrainedTokenizerBase, stored: Tokenizer) -> list[str]:
    """What of a loaded tokenizer is not as stored: parts by name, "token ids", "the ids of a probe text"."""
    found: list[str] = []
    loaded = getattr(tokenizer, "backend_tokenizer", None)
    if isinstance(loaded, Tokenizer):
        found += [part for part in PARTS if not _same(getattr(loaded, part), getattr(stored, part))]
    there = tokenizer.get_vocab()
    if any(there.get(token) != index for token, index in stored.get_vocab(with_added_tokens=True).items()):
        found.append("token ids")
    try:
        ids = tokenizer(PROBE, add_special_tokens=False)["input_ids"]
    except Exception:  # tokenizers raises no class of its own, here for an unknown token that is not in the vocabulary
        ids = None
    if ids != stored.encode(PROBE, add_special_tokens=False).ids:
        found.append("the ids of a probe text")
    return found


def _same(loaded: Any, stored: Any) -> bool:
    """Whether two parts of tokenizers are alike; an empty text is as good as none."""
    if loaded is None or stored is None:
        return loaded is stored
    states = [part.__getstate__() for part in (loaded, stored)]
    if states[0] == states[1]:
        return True
    settings = [{key: value for key, value in json.loads(s).items() if value not in (None, "")} for s in states]
    return settings[0] == settings[1]


def _load(loader: Any, source: str, view: Path, options: dict[str, Any]) -> PreTrainedTokenizerBase:
    try:
        with quiet_transformers():
            tokenizer: PreTrainedTokenizerBase = loader.from_pretrained(str(view), **options)
        words = set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)
    except MemoryError:
        raise
    except Exception as error:  # whatever a damaged or foreign file makes transformers and tokenizers raise
        raise _no_tokenizer(source, f"{type(error).__name__}: {first_line(error)}") from error
    # Without tokenizer files some model types get a tokenizer that knows its special tokens and nothing else.
    if not words:
        raise _no_tokenizer(source, "it has no vocabulary")
    return tokenizer


def _stored(source: str, file: Path) -> Tokenizer:
    try:
        stored = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises no class of its own
        raise _no_tokenizer(source, f"{file.name}: {first_line(error)}") from error
    stored.no_truncation()
    stored.no_padding()
    _refuse_speechless(source, file.name, lambda text: stored.encode(text, add_special_tokens=False))
    return stored


def _refuse_speechless(source: str, what: str, encode: Callable[[str], object]) -> None:
    """Refuse what has no ids for a text: words that it does not know need a token for what is unknown."""
    try:
        encode(PROBE)
    except Exception as error:  # tokenizers raises no class of its own
        raise _no_tokenizer(source, f"{what} cannot encode a text: {first_line(error)}") from error


def _bos_notes(tokenizer: PreTrainedTokenizerBase, settings: Path | None) -> list[str]:
    """Where the tokenizer's settings and what it does disagree."""
    content = {} if settings is None else json.loads(settings.read_text(encoding="utf-8"))
    asked, done = content.get("add_bos_token"), adds_bos(tokenizer)
    if not isinstance(asked, bool) or asked == done:
        return []
    return [
        f"{SETTINGS} says add_bos_token = {str(asked).lower()}, but the tokenizer puts {'one' if done else 'none'}; "
        "prompts are made as the tokenizer does it, which bos = true or false changes"
    ]


def _and(items: list[str]) -> str:
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def _no_tokenizer(source: str, reason: str) -> ModelError:
    return ModelError(
        f"no tokenizer could be loaded from {source!r} ({reason}); put tokenizer.json beside the weights, or name the "
        "folder or repository that holds it (tokenizer=, --tokenizer, in an experiment file an arm's `tokenizer`)"
    )


def first_line(error: Exception) -> str:
    """The first line of what an error says; its class where it says nothing."""
    return str(error).strip().split("\n", maxsplit=1)[0] or type(error).__name__
