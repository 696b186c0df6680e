"""An arm's results, read once for the whole report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import xarray as xr

from gated_lpi.claims import Judged, judge
from gated_lpi.claims.series import facts_kept
from gated_lpi.errors import OptionError, RunError
from gated_lpi.metrics import method_agreement
from gated_lpi.report.chart import ArmStyle, group_styles
from gated_lpi.results import ArmRecord, Run
from gated_lpi.results.experts import is_moe
from gated_lpi.unit_names import KIND_NAMES as KIND_NAMES


@dataclass(frozen=True)
class ArmResults:
    """One arm's results.

    Attributes:
        name: the arm's.
        scores: as they are stored.
        summary: every metric of them, by the first method.
        record: of the last checkpoint; None if it was not ablated yet.
        by_method: the summary by every method that the units have scores by, the first one's too.
        agreement: what `method_agreement` says of these methods; None where there are not two.
        split: how changes split into routing and neurons; None where they were not split.
    """

    name: str
    scores: xr.Dataset
    summary: xr.Dataset
    record: ArmRecord | None
    by_method: Mapping[str, xr.Dataset] = field(default_factory=dict)
    agreement: xr.Dataset | None = None
    split: xr.Dataset | None = None

    @property
    def is_moe(self) -> bool:
        """Whether it has routed experts."""
        return is_moe(self.scores)

    @property
    def checkpoints(self) -> list[dict[str, Any]]:
        """Provenance of each checkpoint."""
        return list(self.scores.attrs.get("checkpoints", []))

    @property
    def quarantined(self) -> list[dict[str, Any]]:
        """The checkpoints that could not be used, and why."""
        return list(self.scores.attrs.get("quarantined", []))

    @property
    def refused_pairs(self) -> list[str]:
        """Pairs of consecutive checkpoints that are not compared, and why."""
        return list(self.summary.attrs.get("refused_pairs", []))

    @property
    def pairs(self) -> int:
        """How many pairs of consecutive checkpoints there are."""
        return int(self.summary.sizes["pair"])

    @property
    def last_step(self) -> int:
        """Training step of the last checkpoint."""
        return int(self.summary["step"][-1])

    def kinds(self) -> list[str]:
        """The kinds of unit that have scores."""
        return [str(kind) for kind in self.summary["kind"].to_numpy()]


@dataclass(frozen=True)
class Results:
    """What all arms of a run have.

    Attributes:
        arms: those that have results.
        missing: why the others have none, by arm.
        missing_quarantined: which checkpoints of these others are quarantined, by arm.
        groups: the arms of each group that have results: replicates of one thing, or an arm by itself.
        judged: groups compared over all of training, by every method and over every kind of unit; over known facts,
            too, where such scores were kept.
    """

    arms: tuple[ArmResults, ...]
    missing: Mapping[str, str]
    missing_quarantined: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    judged: tuple[Judged, ...] = ()

    @property
    def summaries(self) -> dict[str, xr.Dataset]:
        """Summaries by arm."""
        return {arm.name: arm.summary for arm in self.arms}

    @property
    def scores(self) -> dict[str, xr.Dataset]:
        """Scores by arm."""
        return {arm.name: arm.scores for arm in self.arms}

    @property
    def records(self) -> dict[str, ArmRecord | None]:
        """Records by arm."""
        return {arm.name: arm.record for arm in self.arms}

    @property
    def styles(self) -> dict[str, ArmStyle]:
        """Colour and marker of every group and arm, the same in all figures; replicates have their group's colour."""
        return group_styles(self.groups or {arm.name: (arm.name,) for arm in self.arms})

    @property
    def methods(self) -> list[str]:
        """The methods that any arm has scores by, each once."""
        return list(dict.fromkeys(method for arm in self.arms for method in arm.by_method))

    @property
    def moe(self) -> list[ArmResults]:
        """The arms with routed experts."""
        return [arm for arm in self.arms if arm.is_moe]

    @property
    def dense(self) -> list[ArmResults]:
        """The arms without routed experts."""
        return [arm for arm in self.arms if not arm.is_moe]

    def arm(self, name: str) -> ArmResults:
        """The arm of a name, which has results."""
        return next(arm for arm in self.arms if arm.name == name)

    def arms_and_kinds(self) -> Iterator[tuple[ArmResults, str]]:
        """Every arm with each kind of unit that it has scores of."""
        return ((arm, kind) for arm in self.arms for kind in arm.kinds())

    @property
    def lacks(self) -> str | None:
        """The kind of arm that is missing for MoE and dense arms to be compared; None: there are both."""
        if not self.moe:
            return "no mixture-of-experts arm"
        return None if self.dense else "no dense arm"

    @property
    def quarantined(self) -> dict[str, Sequence[Mapping[str, Any]]]:
        """The checkpoints that could not be used, by arm, with or without results; arms without any are not there."""
        found = {arm.name: arm.quarantined for arm in self.arms} | dict(self.missing_quarantined)
        return {arm: records for arm, records in found.items() if records}

    @property
    def kinds(self) -> list[str]:
        """The kinds of unit that any arm has scores of, FFN first."""
        return kinds_of([arm.summary for arm in self.arms])


def kinds_of(summaries: Sequence[xr.Dataset]) -> list[str]:
    """The kinds of unit that any of the summaries has, FFN first."""
    found = {str(kind) for summary in summaries for kind in summary["kind"].to_numpy()}
    return [kind for kind in KIND_NAMES if kind in found]


def capital(words: str) -> str:
    """Words as a sentence begins."""
    return words[:1].upper() + words[1:]


def load_results(run: Run) -> Results:
    """Read and summarise every arm; of those that have no results, or none by the run's options, why.

    Raises:
        RunError: no arm has a complete checkpoint, or a record cannot be read.
        OptionError: the run's options for metrics do not fit the checkpoints of any arm.
    """
    arms, missing = [], {}
    unfit: OptionError | None = None
    for name in run.arms:
        try:
            arms.append(_arm(run, name))
        except (RunError, OptionError) as error:
            unfit = error if isinstance(error, OptionError) else unfit
            missing[name] = str(error)
    if not arms and unfit is not None:
        raise unfit
    if not arms:
        raise RunError(
            f"{run.path} has no results to report yet ({'; '.join(missing.values()) or 'it has no arms'}); run the "
            "experiment until a checkpoint is complete, then report again"
        )
    groups = {
        group: tuple(name for name in names if name not in missing) for group, names in run.experiment.groups.items()
    }
    found = Results(
        tuple(arms),
        missing,
        {name: _quarantined(run, name) for name in missing},
        {group: names for group, names in groups.items() if names},
    )
    return replace(found, judged=tuple(_judged(run, found)))


def _judged(run: Run, results: Results) -> Iterator[Judged]:
    """The groups compared by every method, over every kind of unit and choice of facts that they have."""
    for method in results.methods:
        kept = [facts_kept(arm.scores, method) for arm in results.arms]
        for facts in (one for one in kept[0] if all(one in others for others in kept)):
            for kind in results.kinds:
                found = judge(run, method=method, kind=kind, facts=facts)
                if found is not None:
                    yield found


def _arm(run: Run, name: str) -> ArmResults:
    scores, methods = run.scores(name), run.methods(name)
    by_method = {method: run.summary(name, method) for method in methods}
    summary = by_method[methods[0]] if methods else run.summary(name)
    agreement = None
    if len(methods) > 1:
        options = {key: summary.attrs[key] for key in ("fraction", "draws", "level", "seed")}
        agreement = method_agreement(scores, methods, **options)
    return ArmResults(name, scores, summary, run.record(name), by_method, agreement, run.split(name))


def _quarantined(run: Run, arm: str) -> Sequence[Mapping[str, Any]]:
    """Which checkpoints of an arm without results are quarantined; none where it is their list that cannot be read."""
    try:
        return run.quarantined(arm)
    except RunError:
        return ()


def tokens_known(summary: xr.Dataset) -> bool:
    """Whether every checkpoint says how many tokens it has seen."""
    return "tokens" in summary.coords and bool((np.asarray(summary["tokens"]) >= 0).all())


def kinds_there(scores: Sequence[xr.Dataset]) -> list[str]:
    """The kinds of unit that any of the models has, whether they were scored or not, FFN first.

    A run that does not say of which kinds its blocks are is of models that have FFN and attention.
    """
    found: set[str] = set()
    for one in scores:
        found |= set(map(str, one["block_kind"].to_numpy())) if "block_kind" in one.coords else {"ffn", "attention"}
    return [kind for kind in KIND_NAMES if kind in found]
