"""The name of a branch or folder → stage, step and tokens; or why it is no step of the series.

`SCHEMES` is the whole knowledge of how checkpoints are named: one row per scheme, the first whose pattern is the whole
name decides. Named groups: `stage`, `seed`, `step` (with `power` where it is written in thousands or millions),
`tokens` with `unit`, or `index` where a name counts checkpoints rather than steps. What `step` counts is the scheme's
`counts`: words and bytes are units of their own, since neither is a number of tokens. A seed is kept as the stage
"seed-NAME", or as a part of its stage, "stage1-seed-NAME": runs with different seeds are parallel to each other, as
ingredients are.
Names are only ever read: a token suffix is rounded differently from suite to suite, so none is built.
Digits and letters are those of ASCII: other scripts have digits too, and a step in them is one that nobody meant. Steps
and tokens are stored as 64-bit integers, so a name that tells a larger number is none of a checkpoint.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gated_lpi._common.entries import LARGEST, TOO_LARGE, quoted
from gated_lpi.checkpoints.types import BYTES, STEPS, WORDS
from gated_lpi.errors import OptionError

UNITS = {"": 0, "K": 3, "M": 6, "B": 9, "T": 12}  # powers of ten
ACCEPTED = "step-100, step_100, step100, checkpoint-100, step100-tokens5B, stage1-step100-tokens5B or words-10M"

_FLAGS = re.IGNORECASE | re.ASCII
_STEP = r"(?:step|checkpoint|global[-_]?step|iter)[-_]?(?P<step>\d+)"
_TOKENS = r"[-_]tokens?[-_]?(?P<tokens>\d+(?:\.\d+)?)(?P<unit>[KMBT]?)"
_STAGE = r"(?P<stage>stage[-_]?\d+(?:[-_]ingredient[-_]?\d+)?)[-_]"
_LONG = r"(?P<stage>lc(?:[-_][a-z0-9]+)*?)[-_]"
_PHASE = r"(?P<stage>phase[-_]?\d+)"
_LATER = r"(?P<stage>extension|anneal(?:ing)?|cooldown|decay|mid[-_]?train(?:ing)?)[-_]"
_SEED_WORD = r"(?!tokens?[-_]?\d)[a-z0-9]+"  # tokens after a seed are no part of its name
_SEED = rf"[-_]seed(?:[-_]|(?=\d))(?P<seed>{_SEED_WORD}(?:[-_]{_SEED_WORD})*)"
_MODEL = r"(?:(?!stage|seed|step|tokens?[-_\d]|lc[-_])[a-z0-9][a-z0-9.]*[-_])*?"  # a model's name before all else
_AMOUNT = r"[-_]?(?P<step>\d+(?:\.\d+)?)(?P<power>[KMBT]?)"


@dataclass(frozen=True)
class Scheme:
    """One way of naming checkpoints.

    Attributes:
        name: what it is called.
        pattern: regular expression that whole names match.
        example: a real name.
        used_by: who names checkpoints so.
        counts: what `step` counts: STEPS, WORDS or BYTES.
    """

    name: str
    pattern: str
    example: str
    used_by: str
    counts: str = STEPS

    def match(self, name: str) -> re.Match[str] | None:
        """Match a whole name, whatever its case."""
        return re.fullmatch(self.pattern, name, _FLAGS)


SCHEMES = (
    Scheme("step-tokens", _STEP + _TOKENS, "step5000-tokens20B", "OLMoE, OLMo, Apertus"),
    Scheme("stage-step-tokens", _STAGE + _STEP + _TOKENS, "stage1-step1000-tokens5B", "OLMo 2, OLMoE-0125"),
    Scheme("stage-step", _STAGE + _STEP, "stage1-step1000", "Olmo 3, SmolLM3"),
    Scheme("long-context-step", _LONG + _STEP, "lc-4k-to-32k-step-4000", "SmolLM3, long-context extension"),
    Scheme("later-stage-step", _LATER + _STEP, "extension_step0001220", "Lucie's context extension"),
    Scheme("step-phase", rf"{_STEP}(?:{_TOKENS})?[-_]{_PHASE}", "step-0334000_tokens-0700B-phase1", "runs in phases"),
    Scheme(
        "phase-checkpoint",
        _MODEL + _PHASE + r"[-_](?:checkpoint|step)[-_]?(?P<step>\d+)",
        "CrystalCoder_phase2_checkpoint_018000",
        "CrystalCoder",
    ),
    Scheme(
        "base-step",
        r"(?P<stage>base)[-_](?:step[-_]?|(?=\d{5}))(?P<step>\d+)",
        "base_0720000",
        "K2-V2, pre-training",
    ),
    Scheme(
        "mid-step",
        r"(?P<stage>mid[-_]\d+)[-_](?:step[-_]?)?(?P<step>\d+)",
        "mid_1_0001000",
        "K2-V2, stages of mid-training",
    ),
    Scheme("step-seed", rf"{_STEP}{_SEED}(?:{_TOKENS})?", "step69369-seed-default", "DataDecide"),
    Scheme("step-tokens-seed", _STEP + _TOKENS + _SEED, "step5000-tokens20B-seed-2", "runs of several seeds"),
    Scheme(
        "stage-step-seed",
        rf"{_STAGE}{_STEP}(?:{_TOKENS})?{_SEED}",
        "stage1-step1000-seed-3",
        "runs of several seeds, in stages",
    ),
    Scheme("step", _STEP, "step143000", "Pythia, Stanford's GPT-2, transformers.Trainer; GPT-NeoX, Megatron"),
    Scheme("index", r"ckpt[-_]?(?P<index>\d+)", "ckpt_358", "Amber"),
    Scheme("words", r"(?:chck|words)" + _AMOUNT, "chck_10M", "BabyLM", WORDS),
    Scheme("bytes", r"bytes" + _AMOUNT, "bytes-20B", "folders of models that read bytes", BYTES),
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
_LAST = r"(?:.*[-_])?(?:final|last)"
SEED = "seed-"  # before the name of a seed that is kept as a stage
INDEX_ONLY = "counts checkpoints, not steps: which step or token it is has to come from the suite's data"


@dataclass(frozen=True)
class Name:
    """What a name says.

    Attributes:
        scheme: name of the scheme that read it.
        stage: "" where it tells none.
        step: what `counts` says; None where it counts checkpoints instead.
        tokens: training tokens, None where untold.
        index: the number of the checkpoint where names count them, else None.
        counts: what `step` counts: STEPS, WORDS or BYTES.
    """

    scheme: str
    stage: str
    step: int | None
    tokens: int | None
    index: int | None
    counts: str = STEPS


def parse_name(name: str) -> Name | None:
    """Read a branch's or folder's name; None if it is no checkpoint of a series (`reason_against` tells why)."""
    scheme, found = _match(name)
    if scheme is None or _too_large(found):
        return None
    step, tokens, index, seed = (found.get(group) for group in ("step", "tokens", "index", "seed"))
    return Name(
        scheme=scheme.name,
        stage="-".join(filter(None, (found.get("stage"), seed and f"{SEED}{seed}"))).lower(),
        step=None if step is None else _count(step, found.get("power") or ""),
        tokens=None if tokens is None else _count(tokens, found.get("unit") or ""),
        index=None if index is None else _count(index),
        counts=scheme.counts,
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
    scheme, found = _match(name)
    if scheme is not None and _too_large(found):
        return f"tells {_too_large(found)}"
    for scheme in SCHEMES:
        start = re.match(scheme.pattern + r"(?=[-_])", name, _FLAGS)
        if start and start["step" if "step" in start.groupdict() else "index"]:
            what = "step" if scheme.counts == STEPS else f"number of {scheme.counts}"
            return f"a side run: {quoted(name[start.end() :])} follows the {what}"
    if re.fullmatch(_LAST, name, _FLAGS):
        return f"{NO_STEP}: the last of its run or stage, whose step has to come from elsewhere"
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


def _match(name: str) -> tuple[Scheme | None, dict[str, str | None]]:
    """The first scheme that reads the whole name, and its named groups; None and nothing if none does."""
    for scheme in SCHEMES:
        match = scheme.match(name)
        if match:
            return scheme, match.groupdict()
    return None, {}


def _too_large(found: dict[str, str | None]) -> str:
    """What a name tells that is too large to be stored, in words; "" if nothing is."""
    powers = {"tokens": found.get("unit"), "step": found.get("power")}
    for group, what in (("step", "a step"), ("tokens", "tokens"), ("index", "a number")):
        text, unit = found.get(group), powers.get(group) or ""
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
