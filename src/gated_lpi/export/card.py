"""A results card: what was run and found, in one page to share. card.json has the numbers, card.md is made of it.

Whatever others wrote (names of experiments, facts, checkpoints) is text in it: no markup, no control characters.
"""

from __future__ import annotations

import datetime
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gated_lpi._common.entries import printable
from gated_lpi.export.places import target, written
from gated_lpi.metrics.meanings import MEANINGS, STEPS
from gated_lpi.results import summaries
from gated_lpi.version import __version__

if TYPE_CHECKING:
    import xarray as xr

    from gated_lpi.results import ArmRecord, Run

CARD = 1  # of the content of card.json: raised when a name or meaning changes

MEASURES = {
    "stability": "J_stab, overlap of the last two top sets",
    "gain_top_set": "R_t, share of the last gains on the top set",
    "importance_share": "share of all importance that the top set holds",
    "gini": "Gini of importance",
    "consolidation_stability": "step from which top sets stay",
    "consolidation_profile": "step from which layer profiles stay",
}
_ENDS = ("low", "high", "chance", "chance_low", "chance_high")


def card(run: Run) -> dict[str, Any]:
    """What a card says of a run, as plain values for JSON; docs/results.md has its keys.

    Raises:
        OptionError: no arm has a summary, and of one the options are why.
        RunError: there are no results.
    """
    found, missing = summaries(run)
    first, source = next(iter(next(iter(found.values())).values())), run.experiment.facts.source
    return {
        "card": CARD,
        "experiment": run.experiment.name,
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "gated_lpi": __version__,
        "run_by": run.info.get("gated_lpi"),
        "facts": {
            "source": source if isinstance(source, str) else "; ".join(source),
            "sha256": run.info.get("facts_sha256"),
        },
        "methods": list(run.experiment.attribution.asked()),
        "metrics": {name: value for name, value in first.attrs.items() if name not in ("method", "refused_pairs")},
        "arms": [_arm(run, arm, by_method) for arm, by_method in found.items()],
        "without_results": {arm: str(reason) for arm, reason in missing.items()},
    }


def write_card(run: Run, folder: str | Path) -> tuple[Path, Path]:
    """Write card.md and card.json.

    Args:
        run: the run.
        folder: where to; it is made.

    Returns:
        Both files.

    Raises:
        OptionError: a file that is there already, or options that do not fit the checkpoints.
        RunError: there are no results, or the files cannot be written.
    """
    content = card(run)
    page, data = target(folder, "card.md"), target(folder, "card.json")
    texts = {data: json.dumps(content, indent=1, allow_nan=False) + "\n", page: markdown(content)}
    for place, text in texts.items():
        with written(place) as draft:
            draft.write_text(text, encoding="utf-8")
    return page, data


def markdown(content: dict[str, Any]) -> str:
    """The page of a card, from its content."""
    arms = content["arms"]
    level = content["metrics"]["level"]
    parts = [
        f"# {_text(content['experiment'])}",
        f"Which neurons carry facts, and since when: scored by {', '.join(map(_text, content['methods']))} with "
        f"gated-lpi {content['gated_lpi']}, facts `{_code(content['facts']['source'])}` (SHA-256 "
        f"`{_code(str(content['facts']['sha256'])[:16])}`).",
        "## Arms",
        _table(
            ["arm", "checkpoints", "steps", "parameters", "active", "HIT@10", "quarantined"],
            [
                [arm[key] for key in ("name", "checkpoints", "steps", "parameters", "active", "recall", "quarantined")]
                for arm in arms
            ],
        ),
        "## At the last checkpoint",
        _table(
            ["arm", "method", "units", "measure", "value", f"{level:.0%} interval", "chance"],
            [
                [
                    arm["name"],
                    row["method"],
                    row["kind"],
                    MEASURES[row["metric"]],
                    row["value"],
                    row["interval"],
                    row["chance"],
                ]
                for arm in arms
                for row in arm["metrics"]
            ],
        ),
        "Intervals are a bootstrap over relations. A value within what chance gives says nothing.",
    ]
    ablated = [[arm["name"], *row.values()] for arm in arms for row in arm["ablations"]]
    if ablated:
        heads = ["arm", "by", "silenced", "how many", "HIT@k intact", "silenced", "random, mean"]
        parts += ["## What silencing costs", _table(heads, ablated)]
    if content["without_results"]:
        lines = [f"- {_text(arm)}: {_text(why)}" for arm, why in content["without_results"].items()]
        parts += ["## Without results", "\n".join(lines)]
    parts.append(f"Made {content['made']} from the run; `card.json` beside this has the numbers.")
    return "\n\n".join(parts) + "\n"


def _arm(run: Run, name: str, by_method: dict[str, xr.Dataset]) -> dict[str, Any]:
    first = next(iter(by_method.values()))
    steps = [int(step) for step in first["step"].to_numpy()]
    record = run.record(name)
    return {
        "name": name,
        "checkpoints": len(steps),
        "steps": [steps[0], steps[-1]],
        "parameters": None if record is None else record.parameters,
        "active": None if record is None else record.parameters_active,
        "recall": _number(first["hit"].sel(hit_k=10).to_numpy()[-1]) if "hit" in first else None,
        "quarantined": len(run.quarantined(name)),
        "metrics": [row for method, summary in by_method.items() for row in _metrics(method, summary)],
        "ablations": [] if record is None else _ablations(record),
    }


def _metrics(method: str, summary: xr.Dataset) -> list[dict[str, Any]]:
    rows = []
    for kind in summary["kind"].to_numpy().tolist():
        here = summary.sel(kind=kind)
        for name in (name for name in MEASURES if name in here):
            ends = [_last(here, f"{name}_{end}") for end in _ENDS]
            rows.append(
                {
                    "method": method,
                    "kind": kind,
                    "metric": name,
                    "value": _in_its_unit(name, _last(here, name)),
                    "interval": None if ends[0] is None or ends[1] is None else ends[:2],
                    "chance": ends[2],
                    "chance_interval": None if ends[3] is None or ends[4] is None else ends[3:],
                }
            )
    return rows


def _ablations(record: ArmRecord) -> list[dict[str, Any]]:
    table = record.ablation
    return [
        {
            "by": row.method,
            "silenced": row.name,
            "count": row.count,
            "hit_intact": table.hit,
            "hit": row.hit,
            "random_hit": sum(row.random_hits) / len(row.random_hits) if row.random_hits else None,
        }
        for row in table.rows
    ]


def _in_its_unit(name: str, value: float | None) -> float | int | None:
    """A value of a measure; steps are whole."""
    return int(value) if value is not None and MEANINGS[name][1] == STEPS else value


def _last(summary: xr.Dataset, name: str) -> float | None:
    values = summary[name].to_numpy().ravel().tolist() if name in summary else []
    return _number(values[-1]) if len(values) else None


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [
        [_text(column) for column in columns],
        ["---"] * len(columns),
        *([_cell(value) for value in row] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list):
        return f"{_cell(value[0])} to {_cell(value[1])}"
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() and abs(value) > 1 else f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else _text(value)


def _text(text: str) -> str:
    """A text as Markdown shows it, whatever is in it."""
    plain = " ".join(printable(str(text)).split())
    return (
        re.sub(r"([\\`*_{}\[\]()#+!|~$<>&=-])", r"\\\1", plain)
        .replace("\\<", "&lt;")
        .replace("\\>", "&gt;")
        .replace("\\&", "&amp;")
    )


def _code(text: str) -> str:
    """A text within backticks."""
    return " ".join(printable(str(text)).split()).replace("`", "'").replace("|", "/")
