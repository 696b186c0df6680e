"""The name of a branch or folder → stage, step and tokens; or why it is no step of the series.

`SCHEMES` is the whole knowledge of how checkpoints are named: one row per scheme, the first whose pattern is the whole
name decides. Named groups: `stage`, `step`, `tokens` with `unit`, or `index` where a name counts checkpoints rather
than steps. Names are only ever read: a token suffix is rounded differently from suite to suite, so none is built.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

from gated_lpi.errors import OptionError

UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
ACCEPTED = "step-100, step_100, step100, checkpoint-100, step100-tokens5B or stage1-step100-tokens5B"

_STEP = r"(?:step|checkpoint|global[-_]?step|iter)[-_]?(?P<step>\d+)"
_TOKENS = r"[-_]tokens?[-_]?(?P<tokens>\d+(?:\.\d+)?)(?P<unit>[KMBT]?)"
_STAGE = r"(?P<stage>stage[-_]?\d+(?:[-_]ingredient[-_]?\d+)?)[-_]"
_LONG = r"(?P<stage>lc(?:[-_][a-z0-9]+)*?)[-_]"


@dataclass(frozen=True)
class Scheme:
    """One way of naming checkpoints: its pattern, a real example, and who uses it."""

    name: str
    pattern: str
    example: str
    used_by: str

    def match(self, name: str) -> re.Match[str] | None:
        """Match a whole name, whatever its case."""
        return re.fullmatch(self.pattern, name, re.IGNORECASE)


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
    """What a name says. step is None, and index a number, where it counts checkpoints; tokens None where untold."""

    scheme: str
    stage: str
    step: int | None
    tokens: int | None
    index: int | None


def parse_name(name: str) -> Name | None:
    """Read a branch's or folder's name; None if it is no checkpoint of a series (`reason_against` tells why)."""
    for scheme in SCHEMES:
        match = scheme.match(name)
        if match:
            found: dict[str, str | None] = match.groupdict()
            step, tokens, index = found.get("step"), found.get("tokens"), found.get("index")
            return Name(
                scheme=scheme.name,
                stage=(found.get("stage") or "").lower(),
                step=None if step is None else int(step),
                tokens=None if tokens is None else _tokens(tokens, found.get("unit") or ""),
                index=None if index is None else int(index),
            )
    return None


def repository_tokens(repo: str) -> int | None:
    """Training tokens that the end of a repository's name tells, as in "Ling-mini-base-2.0-5T"; None if it does not."""
    match = REPOSITORY.match(repo.rsplit("/", 1)[-1])
    return None if match is None else _tokens(match["tokens"], match["unit"] or "")


def reason_against(name: str) -> str:
    """Say why a name that `parse_name` does not read is no checkpoint of a series."""
    for pattern, reason in _REASONS:
        if re.fullmatch(pattern, name, re.IGNORECASE):
            return reason
    for scheme in SCHEMES:
        start = re.match(scheme.pattern + r"(?=[-_])", name, re.IGNORECASE)
        if start and start["step" if "step" in start.groupdict() else "index"]:
            return f"a side run: {name[start.end() :]!r} follows the step"
    return NO_STEP


def parse_count(text: str) -> int:
    """Read a number of steps or tokens: "5000", "20B", "1.5T".

    Raises OptionError for anything else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMBT]?)", text.strip(), re.IGNORECASE)
    if match is None:
        raise OptionError(f"{text!r} was given. Expected a number such as 5000, 20B or 1.5T (K, M, B, T: 10³ to 10¹²).")
    return _tokens(match[1], match[2])


def parse_counts(text: str) -> list[int]:
    """Read numbers of steps or tokens that are separated by commas; raises OptionError as `parse_count` does."""
    return [parse_count(part) for part in text.split(",")]


def stage_order(stage: str) -> tuple[bool, bool, tuple[tuple[int, str], ...]]:
    """Sort key of stages: "" first, then stage1, stage2, …, then others; numbers within names in numeric order."""
    parts = re.findall(r"(\d+)|(\D+)", stage)
    natural = tuple((int(digits), "") if digits else (-1, text) for digits, text in parts)
    return stage != "", not stage.startswith("stage"), natural


def _tokens(number: str, unit: str) -> int:
    return int(Decimal(number) * UNITS[unit.upper()])
