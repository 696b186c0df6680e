"""Inside a block: the heads or experts, and the neurons, that carry a fact, as far as its relation tells.

A run keeps no scores of single prompts, so all of them are means over the prompts of the fact's relation.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gated_lpi import score_schema as schema
from gated_lpi.errors import OptionError
from gated_lpi.explore.arm import Arm, Moment, texts
from gated_lpi.explore.ranking import Ints, rows_of
from gated_lpi.explore.sheet import Col, Sheet
from gated_lpi.explore.view import Drawn, Params, address
from gated_lpi.report.arms import KIND_NAMES
from gated_lpi.report.by_method import method_name
from gated_lpi.report.chart import Axis, Bars, Chart, Panel, category_axis
from gated_lpi.unit_names import BLOCK_NAMES

TOP = 15


@dataclass(frozen=True)
class Block:
    """A block at a checkpoint, and by what its parts are scored.

    Attributes:
        arm, moment, method: whose scores.
        relation: the place of the relation that they are means over.
        number: its place among the blocks.
    """

    arm: Arm
    moment: Moment
    method: str
    relation: int
    number: int

    @property
    def layer(self) -> int:
        """Its layer."""
        return int(self.arm.scores["block_layer"].to_numpy()[self.number])

    @property
    def kind(self) -> str:
        """What it is: a key of `KIND_NAMES`."""
        return str(texts(self.arm.scores["block_kind"])[self.number])

    @property
    def name(self) -> str:
        """Such as "FFN 3"."""
        return f"{BLOCK_NAMES.get(self.kind, self.kind)} {self.layer}"

    @property
    def word(self) -> str:
        """What its parts are."""
        return "expert" if self.kind == "ffn" else "head"

    @cached_property
    def units(self) -> Ints:
        """Its neurons."""
        return np.flatnonzero((self.arm.units.layer == self.layer) & (self.arm.units.block == self.kind))

    @cached_property
    def members(self) -> dict[str, Ints]:
        """The neurons of each of its heads or experts, by the name of these; none where it has no such parts."""
        units = self.units
        index = getattr(self.arm.units, self.word)[units]
        there = (index >= 0) | self.arm.units.shared[units]
        return {self.part(int(one)): units[there & (index == one)] for one in np.unique(index[there])}

    @property
    def scores(self) -> NDArray[Any] | None:
        """Scores of all the arm's neurons, [N]; None where the method has none by relation."""
        known = self.method in self.arm.methods and self.method in self.arm.scores
        return self.arm.score(self.method, self.moment.place, self.relation) if known else None

    def part(self, index: int) -> str:
        """The name of a head or expert, as it is searched for."""
        if index < 0:
            return f"L{self.layer} shared"
        letter = "E" if self.kind == "ffn" else "mixer H" if self.kind == "mixer" else "H"
        return f"L{self.layer} {letter}{index}"


def inside(block: Block, relation: str, params: Params) -> tuple[dict[str, Drawn], dict[str, Sheet]]:
    """Charts and tables `parts` and `units`, each where there are scores of them.

    Args:
        block: which.
        relation: the name of the relation that scores are means over.
        params: of the page; `part` is the head or expert whose neurons are listed.

    Raises:
        OptionError: there is no such part.
    """
    parts, own = _parts(block)
    chosen = params.text("part")
    if chosen and chosen not in parts:
        raise OptionError(
            f"part {chosen!r} was asked for; {block.name} of {block.arm.name} has "
            f"{', '.join(parts) or 'none that there are scores of'}: choose one of these, or leave it out"
        )
    over = f"Means over the prompts of “{relation}” by {method_name(block.method)}"
    charts, sheets = {}, {}
    if parts:
        sums = "" if own else f"; each {block.word}'s is the sum of its neurons'"
        charts["parts"], sheets["parts"] = _ranked_parts(block, parts, chosen, f"{over}{sums}.", params)
    scores = block.scores
    if scores is not None:
        among = block.members.get(chosen, block.units[:0]) if chosen else block.units
        words = KIND_NAMES.get(block.kind, block.kind)
        title = f"{words[:1].upper()}{words[1:]} of {chosen or block.name}"
        charts["units"], sheets["units"] = _ranked_units(block, scores, among, title, f"{over}.")
    return charts, sheets


def _parts(block: Block) -> tuple[dict[str, float], bool]:
    """Scores of heads or experts by their names, greatest first, and whether they are of their own: those of LPI are
    kept, with all that a part writes, and by other methods they are the sums of its neurons'."""
    arm, word = block.arm, block.word
    variable, dim = f"{word}_{schema.LPI}", f"{word}_unit"
    own = block.method == schema.LPI and variable in arm.scores and "relation" in arm.scores[variable].dims
    scores = block.scores
    if own:
        values = arm.at(variable, block.moment.place)[block.relation].astype(np.float64)
        mine = np.flatnonzero((arm.scores[f"{dim}_layer"].to_numpy() == block.layer) & _of_kind(arm, dim, block.kind))
        index = arm.scores[f"{dim}_{word}"].to_numpy()
        found = {block.part(int(index[at])): float(values[at]) for at in mine}
    elif scores is not None:
        found = {name: float(scores[units].sum(dtype=np.float64)) for name, units in block.members.items()}
    else:
        found = {}
    return dict(sorted(found.items(), key=lambda one: -one[1])), own


def _of_kind(arm: Arm, dim: str, kind: str) -> NDArray[np.bool_]:
    """Which heads or experts are of blocks of a kind; all, where a run does not say it."""
    there = np.ones(arm.scores.sizes[dim], dtype=np.bool_)
    of: NDArray[np.bool_] = texts(arm.scores[f"{dim}_block"]) == kind if f"{dim}_block" in arm.scores.coords else there
    return of


def _ranked_parts(
    block: Block, parts: dict[str, float], chosen: str | None, over: str, params: Params
) -> tuple[Drawn, Sheet]:
    members = block.members
    counts = {name: members[name].size if name in members else 0 for name in parts}
    names = list(parts)[:TOP]
    leads = {name: params.to("fact", block=block.number, part=name) for name in names}
    lists = {name: address("units", **_here(block), q=name) if counts[name] else "" for name in names}
    rows = [{"part": name, "score": parts[name], "neurons": counts[name]} for name in names]
    links = [{"part": leads[name], "neurons": lists[name]} for name in names]
    columns = (Col("part", block.word), Col("score", "score, nats", "number"), Col("neurons", "neurons", "count"))
    marked = frozenset(at for at, name in enumerate(names) if name == chosen)

    def whole() -> dict[str, Any]:
        return {"part": list(parts), "score": list(parts.values()), "neurons": list(counts.values())}

    title = f"{block.word.capitalize()}s of {block.name}"
    sheet = Sheet("parts", f"{title}. {over}", columns, rows, links, whole, marked)
    return Drawn(_bars("parts", title, parts, "neurons"), "parts", leads), sheet


def _ranked_units(block: Block, scores: NDArray[Any], among: Ints, title: str, over: str) -> tuple[Drawn, Sheet]:
    def named(places: Ints) -> dict[str, float]:
        return {block.arm.units.short(unit): float(scores[unit]) for unit in places.tolist()}

    best = named(rows_of(scores, among, 0, TOP, descending=True))
    leads = {name: address("unit", **_here(block), unit=name) for name in best}
    rows = [{"unit": name, "score": score} for name, score in best.items()]
    columns = (Col("unit", "unit"), Col("score", "score, nats", "number"))

    def whole() -> dict[str, Any]:
        every = named(rows_of(scores, among, 0, among.size, descending=True))
        return {"unit": list(every), "score": list(every.values())}

    sheet = Sheet("units", f"{title}. {over}", columns, rows, [{"unit": to} for to in leads.values()], whole)
    return Drawn(_bars("units", title, best, "page"), "units", leads), sheet


def _here(block: Block) -> dict[str, str]:
    """Parameters of pages of the same arm, checkpoint and method."""
    found = {"arm": block.arm.name, "checkpoint": block.moment.key}
    return found | ({"method": block.method} if block.method in block.arm.methods else {})


def _bars(name: str, title: str, values: dict[str, float], leads_to: str) -> Chart:
    """The first of some values as bars."""
    names = tuple(values)[:TOP]
    heights = tuple(values[one] for one in names)
    bars = Bars("scores", tuple(map(float, range(len(names)))), (0.0,) * len(names), heights, names)
    panel = Panel("", category_axis("", names, TOP), Axis("score, nats"), bars=(bars,))
    caption = (
        "Greatest first: blue makes the answer likelier, orange less likely, on average over the relation's prompts. "
        f"Choose one to see its {leads_to}."
    )
    return Chart(name, title, caption, (panel,), columns=1)
