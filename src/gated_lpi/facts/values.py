"""Files of facts, and values out of them: whatever is not as it should be is a `FactsError`.

Nothing is taken on trust: a file may be a pipe, a folder or gone, its bytes no text, its text no JSON or nested without
end, a key given twice, a value of another type than its key should have.
"""

import json
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from gated_lpi._common.foreign import ForeignTextError, has_surrogate, parse_json
from gated_lpi.errors import FactsError
from gated_lpi.facts.messages import brief, listed, plain, shown
from gated_lpi.facts.types import check_separator, check_text

MAX_DEPTH = 64  # of lists and objects in one sample, line or head of a relation

_ESCAPES = re.compile(r"(?:\\u[0-9A-Fa-f]{4})+")


def content(path: Path) -> str:
    """The text of a regular file in UTF-8, with or without a byte order mark; line ends come back as "\\n".

    Raises:
        FactsError: it is a folder, pipe or device, no UTF-8 text, or cannot be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise FactsError("cannot be read, for it is a folder, pipe or device; give a regular file")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise FactsError(f"not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise FactsError(f"cannot be read ({error.strerror}); check the path and its permissions") from None


def json_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """All "*.json" in a folder and below, ordered by path; also the links to folders, which are not followed.

    Raises:
        FactsError: a folder cannot be read.
    """
    found: list[Path] = []
    links: list[Path] = []
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        try:
            for entry in here.iterdir():
                if entry.name.endswith(".json"):
                    found.append(entry)
                elif entry.is_dir():
                    (links if entry.is_symlink() else waiting).append(entry)
        except OSError as error:
            reason = f"cannot be listed ({error.strerror}); check the path and its permissions"
            raise FactsError(f"{plain(str(here))}: {reason}") from None
    return sorted(found), sorted(links)


def parsed(text: str) -> object:
    """The value that a JSON text writes.

    Raises:
        FactsError: it is no JSON that can be used.
    """
    try:
        return parse_json(text)
    except ForeignTextError as error:
        raise FactsError(str(error)) from None


def parsed_line(line: str) -> object:
    """The value of one line; columns are its own.

    Raises:
        FactsError: it is no JSON that can be used.
    """
    try:
        return parse_json(line)
    except ForeignTextError as error:
        raise FactsError(str(error).replace(" line 1, column ", " column ")) from None


def unescaped(record: Mapping[str, object], depth: int = 0) -> tuple[dict[str, object], int]:
    """Undo double escaping in every text inside a JSON object.

    Args:
        record: the object.
        depth: how many lists and objects are around it.

    Returns:
        The object, and the number of texts in it that were changed.

    Raises:
        FactsError: it holds half of a surrogate pair, in keys too, or lists and objects that are nested more than
            MAX_DEPTH levels deep.
    """
    values = {check_text(key, "a key"): _unescaped(value, key, depth + 1) for key, value in record.items()}
    return {key: value for key, (value, _) in values.items()}, sum(n for _, n in values.values())


def _unescaped(data: object, key: str, depth: int) -> tuple[object, int]:
    """Undo double escaping in what stands at a key, inside `depth` lists and objects; count the texts it changed."""
    if isinstance(data, str):
        text = _ESCAPES.sub(_unescape, check_text(data, key))
        return text, int(text != data)
    if not isinstance(data, dict | list):
        return data, 0
    if depth == MAX_DEPTH:
        raise FactsError(f"{key!r} holds lists or objects more than {MAX_DEPTH} levels deep; flatten it")
    if isinstance(data, dict):
        return unescaped(data, depth)
    items = [_unescaped(value, key, depth + 1) for value in data]
    return [value for value, _ in items], sum(n for _, n in items)


def _unescape(match: re.Match[str]) -> str:
    text: str = json.loads(f'"{match[0]}"')
    return match[0] if has_surrogate(text) else text


def record_of(data: object, expected: str) -> Mapping[str, object]:
    """`data` as a JSON object; `expected` says what to give instead.

    Raises:
        FactsError: it is something else.
    """
    if not isinstance(data, Mapping):
        raise FactsError(f"expected a JSON object, got {shown(data)}; give {expected}")
    return data


def value_of(record: Mapping[str, object], key: str) -> object:
    """The value of a key that must be there.

    Raises:
        FactsError: the key is not there.
    """
    if key not in record:
        raise FactsError(f"no key {key!r} (there are: {listed(map(brief, record)) or 'none'}); add it")
    return record[key]


def text_of(record: Mapping[str, object], key: str) -> str:
    """The text of a key that must be there.

    Raises:
        FactsError: the key is not there, or its value is no text that can be written.
    """
    return check_text(value_of(record, key), key)


def separator_of(record: Mapping[str, object]) -> str | None:
    """The separator that a relation or a fact names, or None.

    Raises:
        FactsError: it is neither "auto" nor another text that can be written.
    """
    return check_separator(record["separator"]) if "separator" in record else None


class Extras(TypedDict, total=False):
    """What a fact may have beside subject and object."""

    foil: str
    bridge: str


def extras_of(record: Mapping[str, object]) -> Extras:
    """What a fact may have beside subject and object: its foil and its bridge, those that are there.

    Raises:
        FactsError: one is no text that can be written.
    """
    found: Extras = {}
    if "foil" in record:
        found["foil"] = text_of(record, "foil")
    if "bridge" in record:
        found["bridge"] = text_of(record, "bridge")
    return found


def list_of(record: Mapping[str, object], key: str) -> Sequence[object]:
    """The list of a key that must be there.

    Raises:
        FactsError: the key is not there, or its value is no list.
    """
    value = value_of(record, key)
    if not isinstance(value, list):
        raise FactsError(f"{key!r} is {shown(value)}; expected a list")
    return value


def texts_of(record: Mapping[str, object], key: str) -> tuple[str, ...]:
    """The texts in the list of a key that must be there.

    Raises:
        FactsError: the key is not there, its value is no list, or something in it is no text that can be written.
    """
    return tuple(check_text(item, f"{key}[{i}]") for i, item in enumerate(list_of(record, key)))
