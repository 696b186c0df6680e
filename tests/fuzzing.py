"""Inputs that nobody wrote: texts of files, changed at random, and odd values in place of sound ones."""

import copy
import json
import os
import random
from collections.abc import Iterator, Sequence
from typing import Any

FIRST = int(os.environ.get("GATED_LPI_FUZZ_SEED", "0"))
COUNT = int(os.environ.get("GATED_LPI_FUZZ_INPUTS", "10000"))

ODD_TEXTS = (
    *("", " ", "\n", "{}", "{", "a" * 300, "é", "e\u0301", "日本", "\u0000", "\ufeff", "\ud800", "\x1b[31m", "../x"),
    *("/etc/passwd", "nan", "-1", "1e999", "9" * 22, "9" * 5000, "step\u0661\u0662", "\\u00ed", "\\", "a\\b"),
    *("a/b", "null"),
)
ODD_NUMBERS = (0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**22, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"))
ODD_VALUES: tuple[Any, ...] = (*ODD_TEXTS, *ODD_NUMBERS, None, True, False, [], {}, [[]], [None], {"a": {}}, [[1]] * 3)
FRAGMENTS = (
    *(b"{", b"}", b"[", b"]", b'"', b",", b":", b"=", b"\\", b"\x00", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\r"),
    *(b"null", b"NaN", b"-Infinity", b"1e99999", b"9" * 5000, b"[" * 3000, b'{"a":' * 3000, b"\\ud800", b"\\u0000"),
    *(b"'''", b"[[arms]]\n", b"# ", b"1979-05-27T07:32:00Z", b"0x", b"inf", b"\n\n"),
)


def mutated_bytes(chance: random.Random, content: bytes) -> bytes:
    """`content` with up to six bytes, runs or fragments inserted, dropped, repeated or exchanged."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 6)):
        place = chance.randint(0, len(data))
        end = min(len(data), place + chance.choice((1, 1, 2, 8, 64)))
        what = chance.randrange(6)
        if what == 0:
            data[place:place] = chance.choice(FRAGMENTS)
        elif what == 1:
            del data[place:end]
        elif what == 2:
            data[place:place] = data[place:end] * chance.choice((1, 2, 30))
        elif what == 3:
            data[place:end] = chance.choice(FRAGMENTS)
        elif what == 4 and place < len(data):
            data[place] = chance.randrange(256)
        else:
            del data[place:]
    return bytes(data)


def mutated_value(chance: random.Random, value: Any) -> Any:
    """A copy of plain data (dicts, lists, texts, numbers) with up to three parts replaced, dropped, added or moved."""
    value = copy.deepcopy(value)
    for _ in range(chance.randint(1, 3)):
        places = list(_places(value))
        if not places:
            return chance.choice(ODD_VALUES)
        holder, key = chance.choice(places)
        what = chance.randrange(6)
        if what == 0 and isinstance(holder, dict):
            holder[chance.choice(ODD_TEXTS)] = holder[key]
        elif what == 1:
            del holder[key]
        elif what == 2:
            holder[key] = [holder[key]]
        elif what == 3 and isinstance(holder, list):
            holder.append(copy.deepcopy(chance.choice(holder)))
        elif what == 4:
            holder[key] = copy.deepcopy(chance.choice(places)[0])
        else:
            holder[key] = copy.deepcopy(chance.choice(ODD_VALUES))
    return value


def fuzzed_json(samples: Sequence[Any], count: int = COUNT, first: int = FIRST) -> Iterator[bytes]:
    """Yield `count` texts of JSON made of `samples`: half of them with odd values, half with odd bytes."""
    for seed in range(first, first + count):
        chance = random.Random(seed)
        value = chance.choice(samples)
        if seed % 2:
            yield mutated_bytes(chance, json.dumps(value, indent=chance.choice((None, 2))).encode())
        else:
            yield json.dumps(mutated_value(chance, value), ensure_ascii=True).encode()


def fuzzed_bytes(samples: Sequence[bytes], count: int = COUNT, first: int = FIRST) -> Iterator[bytes]:
    """Yield `count` changed copies of `samples`."""
    for seed in range(first, first + count):
        chance = random.Random(seed)
        yield mutated_bytes(chance, chance.choice(samples))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    for key in keys:
        yield value, key
        yield from _places(value[key])
