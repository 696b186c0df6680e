"""What a unit that is followed writes at every checkpoint, and at one of them serves and resembles."""

from __future__ import annotations

from typing import Any

import numpy as np

from gated_lpi.explore.arm import Arm, Moment, texts
from gated_lpi.explore.sheet import Col, Sheet
from gated_lpi.explore.view import address
from gated_lpi.report.arms import KIND_NAMES
from gated_lpi.report.tables import visible

_NUMBERS = (
    Col("activation", "activation", "number", hint="scale · activation, mean over prompts that reach it"),
    Col("coefficient", "coefficient", "number", hint="scale · gate · activation, mean over all prompts"),
    Col("used", "prompts", "share", hint="share of prompts that reach it"),
)
"""Of a unit at a checkpoint; runs of before have no activation by itself."""

_PARTS = (
    Col("activation", "activation", "number", hint="scale · activation, without the router's gate"),
    Col("coefficient", "coefficient", "number", hint="scale · gate · activation"),
)
"""Of a unit at a prompt."""


def portrait(arm: Arm, place: int, moment: Moment, here: dict[str, str]) -> dict[str, Sheet]:
    """Tables of a unit: `tokens` over all checkpoints; `prompts` and `neighbours` at one.

    Args:
        arm: its arm.
        place: which unit.
        moment: the checkpoint that is looked at.
        here: parameters of the unit's page.

    Returns:
        None of them where the unit is not followed; those of one checkpoint only where it is described.
    """
    if arm.followed is None:
        return {}
    at = np.flatnonzero(arm.followed["unit"].to_numpy() == place)
    if not at.size:
        return {}
    mine = arm.followed.isel(followed=int(at[0])).load()
    rows = {key: row for row, key in enumerate(texts(mine["checkpoint_key"]).tolist())}
    sheets = {"tokens": _tokens(arm, mine, rows, moment, here)}
    if moment.key in rows:
        now = mine.isel(checkpoint=rows[moment.key])
        sheets |= {"prompts": _prompts(now, moment), "neighbours": _neighbours(arm, now, moment, here)}
    return sheets


def _tokens(arm: Arm, mine: Any, rows: dict[str, int], moment: Moment, here: dict[str, str]) -> Sheet:
    known = [one for one in arm.moments if one.key in rows]
    numbers = [column for column in _NUMBERS if column.key in mine]
    values = {name: mine[name].to_numpy() for name in ("promoted", "suppressed", *(one.key for one in numbers))}
    shown: list[dict[str, Any]] = [
        {
            "checkpoint": one.key,
            "step": one.step,
            "promoted": tuple(map(str, values["promoted"][rows[one.key]])),
            "suppressed": tuple(map(str, values["suppressed"][rows[one.key]])),
            **{column.key: float(values[column.key][rows[one.key]]) for column in numbers},
        }
        for one in known
    ]
    columns = (
        Col("checkpoint", "checkpoint"),
        Col("step", "step", "count"),
        Col("promoted", "promotes", "tokens", hint="tokens whose logits its value vector raises most"),
        Col("suppressed", "suppresses", "tokens", hint="tokens whose logits it lowers most"),
        *numbers,
    )
    links = [{"checkpoint": address("unit", **here, checkpoint=one.key)} for one in known]
    caption = (
        "What its value vector promotes and suppresses where its coefficient is positive, likeliest first; with a "
        "negative one it does the opposite."
    )
    marked = frozenset(row for row, one in enumerate(known) if one == moment)

    def whole() -> dict[str, Any]:
        plain = {column.key: [row[column.key] for row in shown] for column in columns}
        joined = {
            name: [" ".join(map(visible, tokens)) for tokens in plain[name]] for name in ("promoted", "suppressed")
        }
        return plain | joined

    return Sheet("tokens", caption, columns, shown, links, whole, marked)


def _prompts(now: Any, moment: Moment) -> Sheet:
    score = now["prompt_score"].to_numpy()
    parts = {column: now[f"prompt_{column.key}"].to_numpy() for column in _PARTS if f"prompt_{column.key}" in now}
    rows = [
        {
            "prompt": str(now["prompt"].to_numpy()[at]),
            "answer": str(now["answer"].to_numpy()[at]),
            "score": float(score[at]),
            **{column.key: float(values[at]) for column, values in parts.items()},
        }
        for at in np.flatnonzero(np.isfinite(score)).tolist()
    ]
    columns = (
        Col("prompt", "prompt"),
        Col("answer", "answer"),
        Col("score", "LPI, nats", "number"),
        *parts,
    )
    return Sheet("prompts", f"The prompts whose answers it raises most at {moment.key}.", columns, rows)


def _neighbours(arm: Arm, now: Any, moment: Moment, here: dict[str, str]) -> Sheet:
    found = [
        (int(unit), float(cosine))
        for unit, cosine in zip(now["neighbour"].to_numpy(), now["cosine"].to_numpy(), strict=True)
        if unit >= 0
    ]
    scored = [(unit, cosine) for unit, cosine in found if unit < len(arm.units)]
    rows = [
        {"unit": arm.units.short(unit), "kind": KIND_NAMES[str(arm.units.block[unit])], "cosine": cosine}
        for unit, cosine in scored
    ]
    links = [{"unit": address("unit", **{**here, "unit": row["unit"]}, checkpoint=moment.key)} for row in rows]
    columns = (Col("unit", "unit"), Col("kind", "kind"), Col("cosine", "cosine", "number"))
    return Sheet("neighbours", f"The units of the most similar value vectors at {moment.key}.", columns, rows, links)
