"""The name of a branch or folder → stage, step and tokens; or why it is no step of the series.

`SCHEMES` is the whole knowledge of how checkpoints are named: one row per scheme, the first whose pattern is the whole
name decides. Named groups: `stage`, `step`, `tokens` with `unit`, or `index` where a name counts checkpoints rather
than steps. Names are only ever read: a token suffix is rounded differently from suite to suite, so none is built.
Digits and letters are those of ASCII: other scripts have digits too, and a step in them is one that nobody meant. Steps
and tokens are stored as 64-bit integers, so a name that tells a larger number is none of a checkpoint.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gated_lpi._common.entries import LARGEST, TOO_LARGE, quoted
from gated_lpi.errors import OptionError

UNITS = {"": 0, "K": 3, "M": 6, "B": 9, "T": 12}  # powers of ten
ACCEPTED = "step-100, step_100, step100, checkpoint-100, step100-tokens5B or stage1-step100-tokens5B"

_FLAGS = re.IGNORECASE | re.ASCII
_STEP = r"(?:step|checkpoint|global[-_]?step|iter)[-_]?(?P<step>\d+)"
_TOKENS = r"[-_]tokens?[-_]?(?P<tokens>\d+(?:\.\d+)?)(?P<unit>[KMBT]?)"
_STAGE = r"(?P<stage>stage[-_]?\d+(?:[-_]ingredient[-_]?\d+)?)[-_]"
_LONG = r"(?P<stage>lc(?:[-_][a-z0-9]+)*?)[-_]"


@dataclass(frozen=True)
class Scheme:
    """One way of naming checkpoints.

    Attributes:
        name: what it is called.
        pattern: regular expression that whole names match.
        example: a real name.
        used_by: who names checkpoints so.
    """

    name: str
    pattern: str
    example: str
    used_by: str

    def match(self, name: str) -> re.Match[str] | None:
        """Match a whole name, whatever its case."""
        return re.fullmatch(self.pattern, name, _FLAGS)


SCHEMES = (
    Scheme("step-tokens", _STEP + _TOKENS, "step5000-tokens20B", "OLMoE, OLMo, Apertus"),
    Scheme("stage-step-tokens", _STAGE + _STEP + _TOKENS, "stage1-step1000-tokens5B", "OLMo 2, OLMoE-0125"),
    Scheme("stage-step", _STAGE + _STEP, "stage1-step1000", "Olmo 3, SmolLM3"),
    Scheme("long-context-step", _LONG + _STEP, "lc-4k-to-32k-step-4000", "SmolLM3, long-context extension"),
    Scheme("step", _STEP, "step143000", "Pythia, Stanford's GPT-2, transformers.Trainer; GPT-NeoX, Megatron"),
    Scheme("index", r"ckpt[-_]?(?P<index>\d+)", "ckpt_358", "Amber"),
)
# The end of a repository's name. "-7B" alone is a number of parameters; "-8b-400B" is one and then tokens.
REPOSITORY = Scheme(
    "repository",
    r"(?=.*T$|.*\d[bm][-_]).+[-_](?P<tokens>\d+(?:\.\d+)?)(?P<unit>[BT])",
    "Ling-mini-base-2.0-5T",
    "Ling, OpenMoE",
)
_REASONS = (
    (
        r"main|master",
        "the default branch: it names no step, and may hold the last step, another training stage or none",
    ),
    (r"it[-_].*", "instruction tuning, after pre-training"),
)
NO_STEP = "names no step"
INDEX_ONLY = "counts checkpoints, not steps: which step or token it is has to come from the suite's data"


@dataclass(frozen=True)
class Name:
    """What a name says.

    Attributes:
        scheme: name of the scheme that read it.
        stage: "" where it tells none.
        step: None where it counts checkpoints instead.
        tokens: training tokens, None where untold.
        index: the number of the checkpoint where names count them, else None.
    """

    scheme: str
    stage: str
    step: int | None
    tokens: int | None
    index: int | None


def parse_name(name: str) -> Name | None:
    """Read a branch's or folder's name; None if it is no checkpoint of a series (`reason_against` tells why)."""
    found = _match(name)
    if found is None or _too_large(found):
        return None
    step, tokens, index = found.get("step"), found.get("tokens"), found.get("index")
    return Name(
        scheme=found["scheme"] or "",
        stage=(found.get("stage") or "").lower(),
        step=None if step is None else _count(step),
        tokens=None if tokens is None else _count(tokens, found.get("unit") or ""),
        index=None if index is None else _count(index),
    )


def repository_tokens(repo: str) -> int | None:
    """Training tokens that the end of a repository's name tells, as in "Ling-mini-base-2.0-5T"; None if it does not.

    Tokens that are more than can be stored are none, either.
    """
    match = REPOSITORY.match(repo.rsplit("/", 1)[-1])
    return None if match is None else _count(match["tokens"], match["unit"] or "")


def reason_against(name: str) -> str:
    """Say why a name that `parse_name` does not read is no checkpoint of a series."""
    for pattern, reason in _REASONS:
        if re.fullmatch(pattern, name, _FLAGS):
            return reason
    found = _match(name)
    if found is not None and _too_large(found):
        return f"tells {_too_large(found)}"
    for scheme in SCHEMES:
        start = re.match(scheme.pattern + r"(?=[-_])", name, _FLAGS)
        if start and start["step" if "step" in start.groupdict() else "index"]:
            return f"a side run: {quoted(name[start.end() :])} follows the step"
    return NO_STEP


def parse_count(text: str) -> int:
    """Read a number of steps or tokens: "5000", "20B", "1.5T".

    Raises:
        OptionError: it is anything else, or a number that is too large to be stored.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMBT]?)", text.strip(), _FLAGS)
    if match is None:
        raise OptionError(
            f"{quoted(text)} was given. Expected a number such as 5000, 20B or 1.5T (K, M, B, T: 10³ to 10¹²)."
        )
    count = _count(match[1], match[2])
    if count is None:
        raise OptionError(f"{quoted(text)} was given, {TOO_LARGE}. Expected a number of steps or tokens, such as 1.5T.")
    return count


def parse_counts(text: str) -> list[int]:
    """Read numbers of steps or tokens that are separated by commas: "0,5000,20B".

    Raises:
        OptionError: one is no number of steps or tokens, or too large to be stored.
    """
    return [parse_count(part) for part in text.split(",")]


def stage_order(stage: str) -> tuple[bool, bool, tuple[tuple[int, str], ...]]:
    """Sort key of stages: "" first, then stage1, stage2, …, then others; numbers within names in numeric order."""
    parts = re.findall(r"(\d+)|(\D+)", stage, re.ASCII)
    natural = tuple(_magnitude(digits) if digits else (-1, text) for digits, text in parts)
    return stage != "", not stage.startswith("stage"), natural


def _match(name: str) -> dict[str, str | None] | None:
    """The named groups of the first scheme that reads the whole name, and "scheme", its name."""
    for scheme in SCHEMES:
        match = scheme.match(name)
        if match:
            return {**match.groupdict(), "scheme": scheme.name}
    return None


def _too_large(found: dict[str, str | None]) -> str:
    """What a name tells that is too large to be stored, in words; "" if nothing is."""
    for group, what in (("step", "a step"), ("tokens", "tokens"), ("index", "a number")):
        text, unit = found.get(group), (found.get("unit") or "") if group == "tokens" else ""
        if text is not None and _count(text, unit) is None:
            return f"{what} of {len(_magnitude(text.split('.')[0])[1]) + UNITS[unit.upper()]} digits, {TOO_LARGE}"
    return ""


def _count(number: str, unit: str = "") -> int | None:
    """A number of digits with a unit, cut to a whole one; None if it is too large to be stored."""
    whole, _, fraction = number.partition(".")
    power = UNITS[unit.upper()]
    length, digits = _magnitude(whole + fraction[:power].ljust(power, "0"))
    if length > len(str(LARGEST)):
        return None
    count = int(digits or "0")
    return count if count <= LARGEST else None


def _magnitude(digits: str) -> tuple[int, str]:
    """Sort key of a whole number of any length: its number of digits, then these, without leading zeros."""
    digits = digits.lstrip("0")
    return len(digits), digits
