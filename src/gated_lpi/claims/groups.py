"""The groups of a run that claims compare: which arms each has, whether they have experts, and how they pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gated_lpi.errors import OptionError, RunError
from gated_lpi.experiments import Experiment
from gated_lpi.results import Run
from gated_lpi.results.experts import is_moe


@dataclass(frozen=True)
class Group:
    """Replicates of one thing, as far as they have results.

    Attributes:
        name: of the group.
        arms: names of its arms.
        is_moe: whether they have routed experts.
    """

    name: str
    arms: tuple[str, ...]
    is_moe: bool


def groups_of(run: Run) -> tuple[list[Group], dict[str, str]]:
    """The groups of a run that have results, and why other arms have none."""
    found, missing = [], {}
    for name, arms in run.experiment.groups.items():
        scored = {}
        for arm in arms:
            try:
                scored[arm] = run.scores(arm)
            except (RunError, OptionError) as error:
                missing[arm] = str(error)
        if scored:
            found.append(Group(name, tuple(scored), is_moe(next(iter(scored.values())))))
    return found, missing


def pairs(experiment: Experiment, one: Sequence[str], other: Sequence[str]) -> tuple[list[str], list[str]] | None:
    """The arms of two groups in one order of seeds; None where they do not pair.

    They do if all were trained by the run, with the same seeds, batches and steps: then pairs saw the same data in the
    same order.
    """
    of = {arm.name: arm for arm in experiment.arms}
    found = []
    for names in (one, other):
        if any(of[name].train is None for name in names):
            return None
        specs = {name: experiment.training_of(of[name]) for name in names}
        found.append({(spec.seed, spec.batch_size, spec.steps): name for name, spec in specs.items()})
    if len(found[0]) < len(one) or len(found[1]) < len(other) or found[0].keys() != found[1].keys():
        return None
    order = sorted(found[0])
    return [found[0][key] for key in order], [found[1][key] for key in order]
