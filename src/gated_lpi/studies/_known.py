"""Known against unknown facts: are units of what a model knows those of what it does not know yet?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import NamedTuple

import numpy as np
import xarray as xr

from gated_lpi import score_schema as schema
from gated_lpi.claims.judge import LEAST
from gated_lpi.claims.series import units_of
from gated_lpi.metrics import importance_share, top_mask
from gated_lpi.studies._intervals import over_replicates
from gated_lpi.studies.finding import Cell, Table, Verdict, judged
from gated_lpi.studies.page import method_name

KNOWN = "Does it hold of facts that are known?"


class Apart(NamedTuple):
    """Scores over known and over unknown facts, at the checkpoint at which about half are known.

    Attributes:
        step: of that checkpoint.
        known: share of the prompts whose fact is known, %.
        overlap: J of both top sets.
        share_known, share_unknown: of the importance in each one's own top set, %.
    """

    step: int
    known: float
    overlap: float
    share_known: float
    share_unknown: float


def known_and_unknown(scores: xr.Dataset, method: str, kind: str, fraction: float) -> Apart | None:
    """Top sets over known and over unknown facts; None where means over known ones were not kept, or all are.

    With n prompts of a relation, k of them known, unknown ones have the mean (n · mean − k · mean of known) / (n − k).
    """
    name = f"{method}_{schema.KNOWN}"
    if name not in scores or method not in scores or "relation" not in scores[name].dims:
        return None
    every = scores["n_prompts"].to_numpy().astype(np.float64)
    known = scores[f"n_{schema.KNOWN}"].transpose("checkpoint", "relation").to_numpy().astype(np.float64)
    share = known.sum(axis=1) / every.sum()
    place = int(np.abs(share - 0.5).argmin())
    if not 0 < share[place] < 1:
        return None
    inside = units_of(scores, kind)
    of_all, of_known = (
        scores[one].isel(checkpoint=place).transpose("relation", "unit").to_numpy()[:, inside].astype(np.float64)
        for one in (method, name)
    )
    of_known = known[place] @ np.where(known[place][:, None] > 0, of_known, 0.0)
    means = of_known / known[place].sum(), (every @ of_all - of_known) / (every - known[place]).sum()
    one, other = (top_mask(mean, fraction) for mean in means)
    shares = (100 * float(importance_share(mean, fraction)) for mean in means)
    step = int(scores["step"].to_numpy()[place])
    return Apart(step, 100 * float(share[place]), float((one & other).sum() / (one | other).sum()), *shares)


def apart_verdicts(
    apart: Mapping[tuple[str, str], Apart], groups: Mapping[str, tuple[str, ...]], chances: Mapping[str, float]
) -> Iterator[Verdict]:
    """Of each method and group whether known and unknown facts have most of their top sets in common."""
    for method, (group, arms) in product(dict.fromkeys(method for method, _ in apart), groups.items()):
        found = [apart[method, arm] for arm in arms if (method, arm) in apart]
        overlap = over_replicates(one.overlap for one in found).within(0, 1)
        enough = overlap.n >= LEAST
        half = over_replicates(one.known for one in found).value
        yield Verdict(
            question=KNOWN,
            claim=f"While half of the facts are known, those and the others have most of their top units in common: J "
            f"above one third ({group})",
            method=method,
            verdict=judged(overlap.low, overlap.high, against=1 / 3, claimed="above") if enough else "undecided",
            effect=overlap.value,
            low=overlap.low if enough else None,
            high=overlap.high if enough else None,
            unit="J",
            detail=f"{half:.0f}% known; by chance {chances[group]:.3f}; J is one third where half of each set "
            "is in both",
            would_decide="more replicates, and checkpoints at which more nearly half is known",
        )


def apart_tables(
    apart: Mapping[tuple[str, str], Apart], groups: Mapping[str, tuple[str, ...]], chances: Mapping[str, float]
) -> list[Table]:
    rows: list[list[Cell]] = []
    for method, (group, arms) in product(dict.fromkeys(method for method, _ in apart), groups.items()):
        found = [apart[method, arm] for arm in arms if (method, arm) in apart]
        if found:
            known, one, other = (
                over_replicates(getattr(each, name) for each in found).within(0, 100)
                for name in ("known", "share_known", "share_unknown")
            )
            overlap = over_replicates(each.overlap for each in found).within(0, 1)
            steps = ", ".join(map(str, sorted({each.step for each in found})))
            rows.append(
                [
                    method_name(method),
                    group,
                    len(found),
                    steps,
                    known.value,
                    *overlap[:3],
                    chances[group],
                    *one[:3],
                    *other[:3],
                ]
            )
    columns = ["method", "group", "replicates", "steps", "known, %", "J", "J low", "J high", "J by chance"]
    columns += [f"top share over {facts}, %{end}" for facts in ("known", "unknown") for end in ("", " low", " high")]
    caption = (
        "Top sets over known and over unknown facts, at the checkpoint of each arm at which about half are known: "
        "their Jaccard index, and the share of importance in each."
    )
    return [Table(name="known-unknown", caption=caption, columns=columns, rows=rows)] if rows else []
