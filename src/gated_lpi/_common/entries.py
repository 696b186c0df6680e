"""Entries of listings and records that others wrote: which numbers, commits and file names can be used.

Whatever cannot be used is shown in a reason: shortened, and without what no output can write.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any, TypeGuard

LARGEST = 2**63 - 1  # steps, tokens and sizes are stored as 64-bit integers
TOO_LARGE = f"more than {LARGEST:,}, the largest number that can be stored"
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LONGEST_NAME = 255  # bytes, in every common file system
_UNSEEN = {"Cc", "Cf", "Co", "Cs", "Zl", "Zp"}  # categories: controls, formats, private, surrogates, separators
_KEPT = "\n\t\u200c\u200d"  # the last two join and part letters, in Persian and in emoji
_SHOWN = 80  # characters


def is_count(value: object) -> TypeGuard[int]:
    """Whether a value is an integer from 0 to `LARGEST`, and no truth value."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST


def is_commit(value: object) -> TypeGuard[str]:
    """Whether a value is git's full id of a commit or file, 40 or 64 hexadecimal digits."""
    return isinstance(value, str) and _COMMIT.fullmatch(value) is not None


def is_sha256(value: object) -> TypeGuard[str]:
    """Whether a value is a SHA-256 in 64 hexadecimal digits."""
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def is_file_name(value: object) -> TypeGuard[str]:
    """Whether a value is one plain file name: no path, no control character, nothing that cannot be written."""
    if not isinstance(value, str) or value in ("", ".", ".."):
        return False
    if any(character in "/\\" or unicodedata.category(character) in ("Cc", "Cs") for character in value):
        return False
    return len(value.encode()) <= _LONGEST_NAME


def is_file_path(value: object) -> TypeGuard[str]:
    """Whether a value is a path of plain file names with / between them, so that it stays within its folder."""
    return isinstance(value, str) and all(is_file_name(part) for part in value.split("/"))


def writable(text: str) -> str:
    """A text with halves of surrogate pairs spelt out, which no file or terminal can take."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def printable(text: str) -> str:
    """A text as a terminal may be sent it: line breaks and tabs stay, other control characters are spelt out.

    So are characters that turn the direction of what follows or are not seen, with which one text passes for another.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_spelt(character) for character in writable(text))


def _spelt(character: str) -> str:
    if character in _KEPT or unicodedata.category(character) not in _UNSEEN:
        return character
    return character.encode("unicode_escape").decode("ascii")


def quoted(value: Any) -> str:
    """A value of unknown kind and size as a message can show it."""
    if isinstance(value, str):
        return repr(value) if len(value) <= _SHOWN else f"{value[:_SHOWN]!r}… ({len(value)} characters)"
    if value is None or isinstance(value, bool | float):
        return repr(value)
    if isinstance(value, int):
        digits = round(value.bit_length() * 0.30103) + 1  # Python writes out no more than 4,300 of them
        return str(value) if digits <= _SHOWN else f"an integer of about {digits:,} digits"
    return f"a {type(value).__name__}"
