"""Can the checkpoints of a series be what their names say? Looked at before any weights are downloaded.

A hub's listing carries the SHA-256 of every large file; for a local series the files are hashed here.
1. Duplicates: two names, all weight files identical. Their stability would be 1, a consolidation that is none.
2. Shared shards: some weight files identical. A checkpoint whose one shard comes from another is no checkpoint.
3. Missing shards: the index names files that the listing does not have.
4. Odd size: the weights' bytes are not those of most other checkpoints.
5. Gaps: where most of a stage is evenly spaced, an interval that skips steps.
6. `main`: is it the last checkpoint, another one, something else, or no model at all?
7. What is known of the suite's checkpoints, beside what was found.
Everything is reported and nothing left out: what to do with a duplicate is the user's decision.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from gated_lpi.checkpoints.hub import Hub
from gated_lpi.checkpoints.inventory import Inventory, local_inventory
from gated_lpi.checkpoints.series import Series
from gated_lpi.checkpoints.suites import Defect
from gated_lpi.checkpoints.types import Checkpoint
from gated_lpi.errors import OptionError, WeightsError

_LONG_GAP = 1.5  # times the usual interval
_FEW = 4  # intervals: with fewer, no interval is the usual one


@dataclass(frozen=True)
class Shared:
    """Weight files that are identical in several checkpoints.

    Attributes:
        keys: of these checkpoints.
        files: names of the files in the first of them.
    """

    keys: tuple[str, ...]
    files: tuple[str, ...]


@dataclass(frozen=True)
class Gap:
    """An interval between two checkpoints that is longer than the usual one.

    Attributes:
        stage: the stage that it is in.
        after: key of the checkpoint before it.
        before: key of the checkpoint after it.
        absent: about how many checkpoints are not there.
    """

    stage: str
    after: str
    before: str
    absent: int


@dataclass(frozen=True)
class Integrity:
    """What was found of a series' checkpoints; keys of other series are written owner/name:key.

    Attributes:
        inspected: keys that were looked at.
        duplicates: groups with identical weights.
        shared: groups with some identical files.
        missing: by key, shards that are named but not there.
        unusable: by key, why the weights of a checkpoint cannot be used.
        aside: by key, safetensors files that are no part of the weights, and not compared.
        left_out: by key, entries of a hub's listing that cannot be used.
        sizes: by key, bytes of weights.
        odd_sizes: keys whose bytes are not the most common number.
        gaps: of the whole series.
        main: what the default branch is, "" where there is none.
        known: the suite's defects that concern this series.
        flags: by key, all of this in words.
    """

    inspected: tuple[str, ...]
    duplicates: tuple[tuple[str, ...], ...]
    shared: tuple[Shared, ...]
    missing: dict[str, tuple[str, ...]]
    unusable: dict[str, str]
    aside: dict[str, tuple[str, ...]]
    left_out: dict[str, tuple[str, ...]]
    sizes: dict[str, int]
    odd_sizes: tuple[str, ...]
    gaps: tuple[Gap, ...]
    main: str
    known: tuple[Defect, ...]
    flags: dict[str, tuple[str, ...]]

    @property
    def clean(self) -> bool:
        """Whether no checkpoint that was inspected has a flag."""
        return not any(self.flags.values())

    def as_json(self) -> dict[str, Any]:
        """All of it as what JSON can hold."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return fields | {
            "shared": [dataclasses.asdict(shared) for shared in self.shared],
            "gaps": [dataclasses.asdict(gap) for gap in self.gaps],
            "known": [defect.model_dump(mode="json") for defect in self.known],
        }


def inspect_series(
    series: Series,
    checkpoints: Sequence[Checkpoint] | None = None,
    *,
    against: Sequence[Series] = (),
    hub: Hub | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Integrity:
    """Compare the files of checkpoints with each other, with `main` and with other series.

    A hub is asked once per commit, and what it said is kept; weights are not downloaded. Local files are read in full.

    Args:
        series: where the checkpoints are from; gaps are those of the whole series.
        checkpoints: those to inspect, by default all.
        against: other series that may have lent a shard.
        hub: how to reach the hub.
        progress: called with (done, total).

    Raises:
        OptionError: there are no checkpoints.
        CheckpointError: the hub does not answer.
    """
    hub = Hub() if hub is None else hub
    chosen = tuple(series.checkpoints if checkpoints is None else checkpoints)
    if not chosen:
        raise OptionError("No checkpoints were given to inspect. Choose one at least, or leave them out for all.")
    others = [(f"{c.repo or other.source}:{c.key}", c) for other in against for c in other.checkpoints]
    main = [] if series.main is None else [(series.main.key, series.main)]
    wanted = [*((c.key, c) for c in chosen), *main, *others]
    found: dict[str, Inventory] = {}
    unusable: dict[str, str] = {}
    for done, (key, checkpoint) in enumerate(wanted):
        if progress is not None:
            progress(done, len(wanted))
        try:
            found[key] = _inventory(checkpoint, hub)
        except WeightsError as error:
            unusable[key] = str(error)
    if progress is not None:
        progress(len(wanted), len(wanted))
    return _report(series, chosen, found, unusable)


def _inventory(checkpoint: Checkpoint, hub: Hub) -> Inventory:
    if checkpoint.path is not None:
        return local_inventory(Path(checkpoint.path))
    return hub.inventory(checkpoint.repo, checkpoint.commit, checkpoint.folder)


def _report(
    series: Series, chosen: tuple[Checkpoint, ...], found: dict[str, Inventory], unusable: dict[str, str]
) -> Integrity:
    keys = tuple(checkpoint.key for checkpoint in chosen)
    main_key = None if series.main is None else series.main.key
    compared = {key: inventory for key, inventory in found.items() if key != main_key}
    for key in keys:
        if key in found and found[key].objection:
            unusable[key] = found[key].objection
    duplicates, shared = _duplicates(compared), _shared(compared)
    sizes = {key: sum(file.size for file in found[key].weights) for key in keys if key in found}
    odd = _odd_sizes(sizes)
    missing = {key: found[key].missing for key in keys if key in found and found[key].missing}
    like_main = _like_main(keys, found, main_key)
    report = Integrity(
        inspected=keys,
        duplicates=duplicates,
        shared=shared,
        missing=missing,
        unusable={key: reason for key, reason in unusable.items() if key in keys},
        aside={key: found[key].aside for key in keys if key in found and found[key].aside},
        left_out={key: found[key].left_out for key in keys if key in found and found[key].left_out},
        sizes=sizes,
        odd_sizes=odd,
        gaps=find_gaps(series.checkpoints),
        main=_about_main(series, found, like_main),
        known=series.known,
        flags={},
    )
    early = tuple(key for key in like_main if key != series.checkpoints[-1].key)
    return dataclasses.replace(report, flags={c.key: tuple(_flags(c, report, early)) for c in chosen})


def _flags(checkpoint: Checkpoint, report: Integrity, like_main: tuple[str, ...]) -> Iterator[str]:
    key = checkpoint.key
    for group in report.duplicates:
        if key in group:
            yield f"same weights as {_others(group, key)}"
    for shared in report.shared:
        if key in shared.keys:
            yield f"shares {', '.join(shared.files)} with {_others(shared.keys, key)}"
    if key in like_main:
        yield "same weights as main, but not the last checkpoint"
    if key in report.missing:
        missing = report.missing[key]
        yield f"{len(missing)} shards missing: {', '.join(missing[:4])}"
    if key in report.unusable:
        yield report.unusable[key]
    if key in report.left_out:
        lines = report.left_out[key]
        yield f"{len(lines)} entries of its listing cannot be used: {'; '.join(lines[:4])}"
    if key in report.odd_sizes:
        yield f"{report.sizes[key]:,} bytes of weights, unlike most others"
    yield from (f"known: {defect.what} ({defect.source})" for defect in report.known if defect.afflicts(checkpoint))


def _others(group: Sequence[str], key: str) -> str:
    rest = [other for other in group if other != key]
    return ", ".join(rest[:4]) + (f" and {len(rest) - 4} more" if len(rest) > 4 else "")


def _duplicates(found: dict[str, Inventory]) -> tuple[tuple[str, ...], ...]:
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for key, inventory in found.items():
        digests = tuple(file.digest for file in inventory.weights)
        if digests and all(digests):
            groups[digests].append(key)
    return tuple(tuple(keys) for keys in groups.values() if len(keys) > 1)


def _shared(found: dict[str, Inventory]) -> tuple[Shared, ...]:
    """Groups of checkpoints with identical files that are no duplicates of each other."""
    holders: dict[str, dict[str, str]] = defaultdict(dict)
    for key, inventory in found.items():
        for file in inventory.all_weights:
            if file.digest:
                holders[file.digest][key] = file.name
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for named in holders.values():
        if len({tuple(file.digest for file in found[key].weights) for key in named}) > 1:
            groups[tuple(named)].append(next(iter(named.values())))
    return tuple(Shared(keys, tuple(sorted(files))) for keys, files in groups.items())


def _odd_sizes(sizes: dict[str, int]) -> tuple[str, ...]:
    """Keys whose size is not that of more than half of all."""
    if not sizes:
        return ()
    usual, times = Counter(sizes.values()).most_common(1)[0]
    return tuple(key for key, size in sizes.items() if size != usual) if times * 2 > len(sizes) else ()


def find_gaps(checkpoints: Sequence[Checkpoint]) -> tuple[Gap, ...]:
    """Intervals that are longer than the usual one of their stage, from where that one first occurs.

    The usual interval is the most common one, if it makes up more than half of all from its first occurrence on: the
    dense beginning of a log-spaced series is no gap, and a series without a rule has none either.
    """
    gaps: list[Gap] = []
    for stage in dict.fromkeys(checkpoint.stage for checkpoint in checkpoints):
        members = [checkpoint for checkpoint in checkpoints if checkpoint.stage == stage]
        steps = [later.step - earlier.step for earlier, later in pairwise(members)]
        if len(steps) < _FEW:
            continue
        usual = Counter(steps).most_common(1)[0][0]
        first = steps.index(usual)
        if Counter(steps[first:])[usual] * 2 <= len(steps) - first:
            continue
        gaps += [
            Gap(stage, members[i].key, members[i + 1].key, round(steps[i] / usual) - 1)
            for i in range(first, len(steps))
            if steps[i] > _LONG_GAP * usual
        ]
    return tuple(gaps)


def _like_main(keys: tuple[str, ...], found: dict[str, Inventory], main: str | None) -> tuple[str, ...]:
    if main is None or main not in found:
        return ()
    digests = [file.digest for file in found[main].weights]
    if not digests or not all(digests):
        return ()
    return tuple(key for key in keys if key in found and [file.digest for file in found[key].weights] == digests)


def _about_main(series: Series, found: dict[str, Inventory], like: tuple[str, ...]) -> str:
    if series.main is None:
        return ""
    told = f"; known: {series.suite.main}" if series.suite is not None and series.suite.main else ""
    if series.main.key not in found or not found[series.main.key].weights:
        return f"main holds no usable weights{told}"
    if like:
        return f"main has the weights of {', '.join(like)}{told}"
    return f"main has the weights of no checkpoint that was inspected: another stage, an anneal or an average{told}"
