"""Text from elsewhere: JSON that is read strictly, and characters that no file or terminal can take.

Python's own reader takes the last of two equal keys without a word, and fails on deep nesting (RecursionError) and on
integers of more than 4,300 digits in ways of its own. Here each of these is one error with one line of reason.
"""

from __future__ import annotations

import json
import re
from typing import Any

_MARKS = re.compile(r'"(?P<text>[^"\\]*(?:\\.[^"\\]*)*)"(?P<is_key>\s*:)?|[{}\[\]]', re.DOTALL)


class ForeignTextError(ValueError):
    """A text from elsewhere that cannot be used; the message is a reason without a source, which the caller adds."""


def parse_json(text: str) -> Any:
    """Read JSON: objects as dict, lists as list.

    Raises:
        ForeignTextError: it is not JSON, an object has a key twice, it is nested too deeply, or holds an integer of
            more digits than Python reads.
    """
    try:
        return json.loads(text, object_pairs_hook=_each_key_once)
    except json.JSONDecodeError as error:
        raise ForeignTextError(f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise ForeignTextError("not usable JSON: lists or objects nested too deeply") from None
    except _RepeatedKeyError as error:
        key, place = error.args[0], _place_of_repeat(text)
        reason = f"key {key!r} is given twice in one object, again at {place}; which value is meant? Leave one out"
        raise ForeignTextError(reason) from None
    except ValueError as error:  # an integer of over 4,300 digits
        raise ForeignTextError(f"not usable JSON: {error}") from None


def has_surrogate(text: str) -> bool:
    """Whether a text holds half of a surrogate pair, which no encoding can write."""
    return any("\ud800" <= character <= "\udfff" for character in text)


class _RepeatedKeyError(ValueError):
    """The key that an object has twice."""


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            raise _RepeatedKeyError(key)
        content[key] = value
    return content


def _place_of_repeat(text: str) -> str:
    """Line and column where a key comes again, in the first object to close that has one; sound JSON up to there."""
    inside: list[tuple[set[str], list[int]]] = []  # per open list or object: its keys, where one came again
    for mark in _MARKS.finditer(text):
        if mark["is_key"]:
            keys, repeats = inside[-1]
            key = json.loads(f'"{mark["text"]}"')
            if key in keys:
                repeats.append(mark.start())
            keys.add(key)
        elif mark[0] in ("{", "["):
            inside.append((set(), []))
        elif mark[0] in ("}", "]"):
            _, repeats = inside.pop()
            if repeats:
                line_start = text.rfind("\n", 0, repeats[0])
                return f"line {text.count(chr(10), 0, repeats[0]) + 1}, column {repeats[0] - line_start}"
    raise AssertionError("no object has a key twice")
