"""One arm as it is explored: its scores, read a checkpoint at a time, and what is derived of them.

An `Arm` is what the store held when it was opened; a run that grows is followed by opening another.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from gated_lpi import score_schema as schema
from gated_lpi.errors import OptionError
from gated_lpi.explore.curves import Advance, Curves
from gated_lpi.explore.lives import Lives, lives
from gated_lpi.metrics.relations import over_relations
from gated_lpi.results import ArmRecord, Run
from gated_lpi.results.experts import is_moe
from gated_lpi.unit_names import KINDS, UnitTable

ROOM = 256 << 20  # bytes of values of single checkpoints that are held
SMALL = 64 << 20  # bytes up to which a variable is held over all checkpoints


@dataclass(frozen=True)
class Moment:
    """A checkpoint.

    Attributes:
        place: in training order.
        key: its name.
        step: its training step.
        tokens: seen in training; −1 where that is not known.
    """

    place: int
    key: str
    step: int
    tokens: int


class Arm:
    """An arm of a run.

    Args:
        run: the run.
        name: the arm's.
        folder: where what is derived is kept, on this machine.

    Raises:
        RunError: none of its checkpoints is complete, or what is there is damaged.
    """

    def __init__(self, run: Run, name: str, folder: Path) -> None:
        self.name = name
        self.scores = run.scores(name)
        self.methods = run.methods(name)
        self.fraction = run.experiment.metrics.fraction
        self.record: ArmRecord | None = run.record(name)
        self.followed: xr.Dataset | None = run.followed(name)
        self._store = run.store(name)
        self._folder = folder
        self._made_of: dict[str, dict[str, str]] = {}
        self._rows: OrderedDict[tuple[str, int], NDArray[Any]] = OrderedDict()
        self._curves: dict[str, Curves] = {}
        self._lives: dict[str, Lives] = {}
        self._small: dict[str, NDArray[Any]] = {}
        self._lock = Lock()
        keys, steps = texts(self.scores["checkpoint_key"]), self.scores["step"].to_numpy().tolist()
        tokens = self.scores["tokens"].to_numpy().tolist()
        self.moments = tuple(Moment(*one) for one in zip(range(len(keys)), keys, steps, tokens, strict=True))

    @property
    def is_moe(self) -> bool:
        """Whether it has routed experts."""
        return is_moe(self.scores)

    @cached_property
    def units(self) -> UnitTable:
        """Where every unit is; of no unit where none was scored."""
        n = self.scores.sizes.get("unit", 0) if "layer" in self.scores.coords else 0

        def column(name: str, absent: Any) -> NDArray[Any]:
            return self.scores[name].to_numpy() if n and name in self.scores.coords else np.full(n, absent)

        block = texts(self.scores["block"]) if n else np.empty(0, dtype="<U9")
        return UnitTable(
            layer=column("layer", 0).astype(np.int64),
            block=block,
            expert=column("expert", -1).astype(np.int64),
            shared=column("shared", False).astype(np.bool_),
            head=column("head", -1).astype(np.int64),
            neuron=column("neuron", -1).astype(np.int64),
        )

    @cached_property
    def kinds(self) -> dict[str, NDArray[np.int64]]:
        """The units of each kind that was scored."""
        found = {kind: np.flatnonzero(self.units.block == kind) for kind in KINDS}
        return {kind: units for kind, units in found.items() if units.size}

    @cached_property
    def relations(self) -> tuple[str, ...]:
        """Names of the relations that there are scores of."""
        return tuple(texts(self.scores["relation"]).tolist()) if "relation" in self.scores.coords else ()

    def of_kind(self, members: NDArray[np.int64], kind: str) -> NDArray[np.int64]:
        """Those of some units that are of a kind."""
        chosen: NDArray[np.int64] = members[self.units.block[members] == kind]
        return chosen

    def moment(self, key: str | None) -> Moment:
        """The checkpoint of a name; the last one for None.

        Raises:
            OptionError: there is none.
        """
        for moment in self.moments:
            if moment.key == key:
                return moment
        if key:
            raise OptionError(
                f"checkpoint {key!r} was asked for; arm {self.name} has {self.moments[0].key} to "
                f"{self.moments[-1].key}: choose one of its {len(self.moments)}"
            )
        return self.moments[-1]

    def relation(self, name: str | None) -> int | None:
        """The place of a relation; None for all of them.

        Raises:
            OptionError: there is none of the name.
        """
        if not name:
            return None
        if name not in self.relations:
            raise OptionError(f"relation {name!r} was asked for; arm {self.name} has {', '.join(self.relations)}")
        return self.relations.index(name)

    def at(self, variable: str, place: int) -> NDArray[Any]:
        """A variable at one checkpoint; the latest ones stay in memory."""
        key = (variable, place)
        with self._lock:
            if key in self._rows:
                self._rows.move_to_end(key)
                return self._rows[key]
        found = self.scores[variable].isel(checkpoint=place).to_numpy()
        with self._lock:
            self._rows[key] = found
            while len(self._rows) > 1 and sum(row.nbytes for row in self._rows.values()) > ROOM:
                self._rows.popitem(last=False)
        return found

    def score(self, method: str, place: int, relation: int | None = None) -> NDArray[Any]:
        """Scores [N] at a checkpoint: the mean over prompts, or over those of one relation."""
        if relation is None:
            return self.at(schema.mean_of(method), place)
        values: NDArray[Any] = self.at(method, place)[relation]
        return values

    def true_effect(self, place: int, relation: int | None = None) -> NDArray[Any] | None:
        """True effects [N] at a checkpoint, NaN for units outside the sample; None where none were measured."""
        if schema.TRUE_EFFECT not in self.scores:
            return None
        if relation is not None:
            found: NDArray[Any] = self.at(schema.TRUE_EFFECT, place)[relation]
            return found
        return over_relations(self.scores.isel(checkpoint=place), schema.TRUE_EFFECT).to_numpy()

    def over_time(self, variable: str) -> NDArray[Any]:
        """A small variable over all checkpoints, [T, …], held from the first call on."""
        if variable not in self._small:
            self._small[variable] = self.scores[variable].transpose("checkpoint", ...).to_numpy()
        return self._small[variable]

    @property
    def small(self) -> Iterator[str]:
        """The variables of which all checkpoints may be held."""
        for name, variable in self.scores.data_vars.items():
            if "unit" not in variable.dims and "position" not in variable.dims and variable.nbytes <= SMALL:
                yield str(name)

    @cached_property
    def bounds(self) -> NDArray[np.float64] | None:
        """[T, blocks]: no mean score by LPI of a block's unit is off by more, nats; None where that is not known."""
        if schema.ERROR_BOUND not in self.scores:
            return None
        bounds = self.scores[schema.ERROR_BOUND].transpose("checkpoint", "prompt", "block_index")
        return np.array([bounds[place].to_numpy().mean(axis=0) for place in range(len(self.moments))])

    def block_of(self, unit: int) -> int | None:
        """The block of a unit among those that bounds are kept of."""
        if "block_layer" not in self.scores.coords:
            return None
        here = (self.scores["block_layer"].to_numpy() == self.units.layer[unit]) & (
            texts(self.scores["block_kind"]) == self.units.block[unit]
        )
        return int(np.flatnonzero(here)[0]) if here.any() else None

    def made_of(self, variable: str) -> dict[str, str]:
        """What each checkpoint's values are made of, in the order of `moments`."""
        if variable not in self._made_of:
            known = self._store.made_of(variable)
            self._made_of[variable] = {one.key: known.get(one.key, "") for one in self.moments}
        return self._made_of[variable]

    def curve(self, variable: str, unit: int) -> NDArray[Any] | None:
        """A unit's history [T, W] by a variable, NaN at checkpoints that are not indexed yet; None until any is."""
        curves = self._curves.get(variable)
        return None if curves is None else curves.of(unit, self.made_of(variable))

    def lives(self, method: str) -> Lives | None:
        """When units were in top sets by a method; None until that is known."""
        return self._lives.get(method)

    def size(self, variable: str) -> int:
        """Bytes of a variable over all checkpoints."""
        return int(self.scores[variable].nbytes)

    def index(self, variable: str, advance: Advance) -> None:
        """Turn a variable, so that `curve` knows it.

        Raises:
            OSError: it cannot be written.
            DamagedError: what is in the store is not what was written.
        """
        curves = Curves(self._folder, variable)
        curves.refresh(self.scores, self.made_of(variable), advance)
        self._curves[variable] = curves

    def count_lives(self, method: str, advance: Advance) -> None:
        """Find out when units were in top sets by a method.

        Raises:
            WriteError: it cannot be kept.
            DamagedError: what is in the store is not what was written.
        """
        mean = schema.mean_of(method)
        rows = self.scores[mean]
        self._lives[method] = lives(
            self._folder / f"{mean}.tops.npz",
            self.made_of(mean),
            self.kinds,
            self.fraction,
            lambda place: rows.isel(checkpoint=place).to_numpy(),
            advance,
        )

    def take_over(self, earlier: Mapping[str, Arm]) -> None:
        """Use what an earlier view of the same arm had, until this one's own is ready."""
        before = earlier.get(self.name)
        if before is not None and before.scores.sizes.get("unit") == self.scores.sizes.get("unit"):
            self.__dict__["units"] = before.units
            self._curves |= before._curves


def texts(variable: xr.DataArray) -> NDArray[np.str_]:
    """A coordinate of texts as NumPy's plain ones; a store gives back a kind of its own."""
    return variable.to_numpy().astype(object).astype(str)
