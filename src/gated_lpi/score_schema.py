"""The one schema of scores: every variable's name, dimensions, unit and meaning, and the version of it all.

Whoever writes, keeps, reads or shows scores takes names from here. docs/results.md has it as a table, which
`docs/make_tables.py` writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

VERSION = 1  # of names and meanings: raised when one changes

LPI = "lpi"
HEAD_LPI = "head_lpi"
EXPERT_LPI = "expert_lpi"
BLOCK_LPI = "block_lpi"
POSITION_LPI = "position_lpi"
EXPERT_UTILISATION = "expert_utilisation"
EXPERT_GATE = "expert_gate"
LAYER_POSITION_LPI = "layer_position_lpi"
ROUTER_LOGITS = "router_logits"
POSITION_GATE = "position_gate"
TARGET_RANK = "target_rank"
TARGET_LOGPROB = "target_logprob"
BASE_LOGPROB = "base_logprob"
ERROR_BOUND = "error_bound"
TIER_PAIRS = "tier_pairs"
LPI_MEAN = "lpi_mean"
GRAD_X_ACT = "grad_x_act"
INTEGRATED_GRADIENTS = "integrated_gradients"
INTEGRATED_GRADIENTS_ERROR = "integrated_gradients_error"
DIRECT_EFFECT = "direct_effect"
TRUE_EFFECT = "true_effect"
TRUE_EFFECT_MARGIN = "true_effect_margin"
ROLLOUT = "rollout"
KNOWN = "known"
KNOWN_LAST = "known_last"
TOKEN_TEXT = "token_text"  # coordinate over prompt and position: "" beyond the prompt

WhichFacts = Literal["all", "known", "known_last"]
"""Over which facts scores are meant: all, those known at the checkpoint itself, those known at the arm's last one."""

KNOWN_K = 10  # a fact is known where its target is among so many likeliest tokens


STEP_UNIT = "step_unit"  # attribute of a summary, and key of a checkpoint's record
STEPS = "steps"


def step_unit(attributes: Mapping[str, Any]) -> str:
    """What `step` counts in scores or a summary with these attributes: optimizer steps, unless it is said otherwise."""
    records = attributes.get("checkpoints") or [{}]
    return str(attributes.get(STEP_UNIT) or records[0].get(STEP_UNIT) or STEPS)


def mean_of(name: str) -> str:
    """Under which name a run keeps the mean of a method's scores over all prompts."""
    return f"{name}_mean"


def contrast_of(name: str) -> str:
    """Under which name a run keeps a method's scores against a foil, beside those without."""
    return f"{name}_contrast"


def over_facts(name: str, facts: WhichFacts) -> str:
    """Under which name a run keeps a method's scores over these facts alone."""
    return name if facts == "all" else f"{name}_{facts}"


def count_over(facts: WhichFacts) -> str:
    """Under which name it is kept how many prompts of each relation these are."""
    return "n_prompts" if facts == "all" else f"n_{facts}"


class Variable(NamedTuple):
    """One variable of scores.

    Attributes:
        dims: of one checkpoint whose prompts are all kept.
        unit: "nats", or "" for counts, ranks and shares.
        meaning: in a line.
        reduced: whether `keep` reduces its `prompt` dimension to `relation`, or to nothing.
        method: which method it is of; "" for what every method gives.
    """

    dims: tuple[str, ...]
    unit: str
    meaning: str
    reduced: bool = False
    method: str = "lpi"


SCHEMA = {
    LPI: Variable(("prompt", "unit"), "nats", "score of every unit", reduced=True),
    HEAD_LPI: Variable(("prompt", "head_unit"), "nats", "score of every head of attention and mixers", reduced=True),
    EXPERT_LPI: Variable(("prompt", "expert_unit"), "nats", "score of every expert", reduced=True),
    BLOCK_LPI: Variable(("prompt", "block_index"), "nats", "score of every block", reduced=True),
    POSITION_LPI: Variable(
        ("prompt", "position", "attention_unit"), "nats", "score of attention units at each source position"
    ),
    EXPERT_UTILISATION: Variable(
        ("prompt", "expert_unit"), "", "1 where the last token was routed to the expert", reduced=True, method=""
    ),
    EXPERT_GATE: Variable(("prompt", "expert_unit"), "", "the router's final weight", reduced=True, method=""),
    LAYER_POSITION_LPI: Variable(
        ("prompt", "position", "attention_block"),
        "nats",
        "the same, summed over each layer's units; NaN beyond the prompt",
    ),
    ROUTER_LOGITS: Variable(
        ("prompt", "position", "expert_unit"),
        "",
        "logits of the routers at every position; NaN for shared experts and beyond the prompt",
        method="",
    ),
    POSITION_GATE: Variable(
        ("prompt", "position", "expert_unit"),
        "",
        "the final weight at every position, 0 where not routed to; NaN beyond the prompt",
        method="",
    ),
    TARGET_RANK: Variable(("prompt",), "", "rank of the target, 0 the likeliest", method=""),
    TARGET_LOGPROB: Variable(("prompt",), "nats", "log p(target) of the model itself", method=""),
    BASE_LOGPROB: Variable(("prompt", "block_index"), "nats", "log p(target | base) of every block", method=""),
    ERROR_BOUND: Variable(
        ("prompt", "block_index"), "nats", "no score of the block or of anything in it is off by more"
    ),
    TIER_PAIRS: Variable(("block_index", "tier"), "", "pairs of prompt and unit by what their score was found from"),
    GRAD_X_ACT: Variable(
        ("prompt", "unit"), "nats", "gradient times activation of every unit", reduced=True, method=GRAD_X_ACT
    ),
    INTEGRATED_GRADIENTS: Variable(
        ("prompt", "unit"), "nats", "integrated gradients of every unit", reduced=True, method=INTEGRATED_GRADIENTS
    ),
    INTEGRATED_GRADIENTS_ERROR: Variable(
        ("prompt", "block_index"),
        "nats",
        "how far a block's integrated gradients are from adding up to its effect",
        method=INTEGRATED_GRADIENTS,
    ),
    DIRECT_EFFECT: Variable(
        ("prompt", "unit"), "nats", "linear term of the score of every unit", reduced=True, method=DIRECT_EFFECT
    ),
    TRUE_EFFECT: Variable(
        ("prompt", "unit"),
        "nats",
        "what silencing a unit takes from log p(target); NaN for units outside the sample",
        reduced=True,
        method=TRUE_EFFECT,
    ),
    TRUE_EFFECT_MARGIN: Variable(
        ("prompt", "unit"),
        "nats",
        "the same of the target's margin over the best other token",
        reduced=True,
        method=TRUE_EFFECT,
    ),
    ROLLOUT: Variable(
        ("prompt", "head_unit"),
        "",
        "share of the last position's mass on the subject that a head carries",
        reduced=True,
        method=ROLLOUT,
    ),
}
"""What `attribute` returns. A run adds a `checkpoint` dimension in front."""

OF_UNITS = (LPI, GRAD_X_ACT, INTEGRATED_GRADIENTS, DIRECT_EFFECT)
"""Methods that score every unit, so that metrics can be made of their scores."""

SAMPLED = (TRUE_EFFECT, contrast_of(TRUE_EFFECT), TRUE_EFFECT_MARGIN)
"""Scores of a sample of the units, NaN for the others: tables have them, but they rank no units."""


def _of_runs() -> dict[str, Variable]:
    found = _of_known_facts()
    for method in OF_UNITS:
        found[mean_of(method)] = Variable(("unit",), "nats", f"mean of `{method}` over all prompts", method=method)
    for method in (*OF_UNITS, TRUE_EFFECT):
        known = SCHEMA[method]
        name = contrast_of(method)
        found[name] = known._replace(meaning=f"{known.meaning}, against the foil of `contrast`")
        if method in OF_UNITS:
            found[mean_of(name)] = Variable(("unit",), "nats", f"mean of `{name}` over all prompts", method=method)
    return found


def _of_known_facts() -> dict[str, Variable]:
    when = {KNOWN: "at the checkpoint", KNOWN_LAST: "at the arm's last checkpoint"}
    found = {
        f"n_{part}": Variable(("relation",), "", f"how many prompts' facts are known {where}", method="")
        for part, where in when.items()
    }
    found[KNOWN_LAST] = Variable(("prompt",), "", f"whether the fact is known {when[KNOWN_LAST]}", method="")
    for method in OF_UNITS:
        for name in (method, contrast_of(method)):
            for part, where in when.items():
                meaning = f"`{name}` over facts that are known {where}; NaN for relations without any"
                found[f"{name}_{part}"] = Variable(("prompt", "unit"), "nats", meaning, reduced=True, method=method)
    return found


OF_RUNS = _of_runs()
"""What a run keeps beside it, of scores by relation."""
