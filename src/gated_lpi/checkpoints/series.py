"""A series of checkpoints: from a suite's name, a repository, several repositories or a folder.

1. A repository's branches are listed with their commits, which are pinned from then on.
2. Each branch's name is read by `names`; what the name leaves unsaid comes from the suite's row, if it has one.
3. Where no branch names a step, the folders at the top of `main` are read instead, by the same table.
4. What is no step of the series is left out with the reason: `main`, side runs, names without a step, numbers too
   large to be stored, a branch without a commit, what counts another thing than the rest, and a second one that claims
   the same step of the same stage.
5. The rest is sorted by stage and then numerically by step.

Where every checkpoint has a repository of its own, each repository's `main` is one checkpoint of the series.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gated_lpi._common.entries import TOO_LARGE, is_count, quoted
from gated_lpi.checkpoints.hub import NO_COMMIT, Hub, RepositoryMissingError
from gated_lpi.checkpoints.local import checkpoints_in
from gated_lpi.checkpoints.names import (
    INDEX_ONLY,
    SEED,
    Name,
    parse_name,
    reason_against,
    repository_tokens,
    stage_order,
)
from gated_lpi.checkpoints.suites import Defect, Suite, suite_named, suite_of, suites
from gated_lpi.checkpoints.types import (
    BILLION_TOKENS,
    BYTES,
    INDEX,
    STEPS,
    WORDS,
    Checkpoint,
    Excluded,
    left_out,
    of_one_unit,
)
from gated_lpi.errors import CheckpointError

MAIN = "main"
_REPO = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_OLD_REPO = re.compile(r"[\w.-]+", re.ASCII)  # the first repositories of the hub have no owner


@dataclass(frozen=True)
class Series:
    """Checkpoints in training order, and what was left out.

    Attributes:
        source: what was asked for.
        checkpoints: in training order.
        excluded: what was left out, with the reasons.
        suite: the public suite's row, None if it is none.
        main: the default branch as a checkpoint of its own, None if there is none; it is never part of the series.
        notes: what to know before use.
    """

    source: str
    checkpoints: tuple[Checkpoint, ...]
    excluded: tuple[Excluded, ...]
    suite: Suite | None = None
    main: Checkpoint | None = None
    notes: tuple[str, ...] = ()

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages in order; ("",) for a run with one."""
        return tuple(dict.fromkeys(checkpoint.stage for checkpoint in self.checkpoints))

    @property
    def left_out(self) -> tuple[str, ...]:
        """What is excluded, a line for each reason."""
        return left_out(self.excluded)

    @property
    def step_unit(self) -> str:
        """What the steps of this series count."""
        return self.checkpoints[0].step_unit

    @property
    def known(self) -> tuple[Defect, ...]:
        """What is known to be wrong with this series or some of its checkpoints, from the suite's row."""
        repos = {checkpoint.repo for checkpoint in self.checkpoints}
        defects = () if self.suite is None else self.suite.defects
        return tuple(defect for defect in defects if any(defect.concerns(repo) for repo in repos))


def list_series(source: str | Path | Sequence[str], *, offline: bool = False, hub: Hub | None = None) -> Series:
    """List a series of checkpoints, without downloading any.

    Args:
        source: a folder; the name of a suite (`gated_lpi.checkpoints.suites`); a repository as owner/name; or several
            repositories that make up one series. A folder of that name goes first.
        offline: ask the hub nothing; use what was listed or downloaded before.
        hub: how to reach the hub.

    Raises:
        CheckpointError: nothing of that name, no checkpoint in it, a suite of several series, or no answer of the hub.
            A single branch or folder that cannot be used is no error: it is excluded, with the reason.
    """
    hub = Hub() if hub is None else hub
    hub = replace(hub, offline=True) if offline else hub
    if not isinstance(source, str | Path):
        return _of_repos(", ".join(source), _named_repos(source), hub)
    if isinstance(source, Path) or _is_folder(source):
        return _of_folder(Path(source))
    suite = suite_named(source)
    if suite is not None:
        return _of_suite(suite, hub)
    if _REPO.fullmatch(source):
        return _of_repos(source, (source,), hub)
    raise CheckpointError(
        f"{quoted(source)} is no folder here, no suite and no repository. Expected a folder of checkpoints, a "
        f"repository as owner/name, or one of the suites {', '.join(suite.name for suite in suites())}."
    )


def _is_folder(source: str) -> bool:
    try:
        return source != "" and Path(source).is_dir()
    except (OSError, ValueError):  # what no path can be, such as a name of 5,000 letters
        return False


def _named_repos(sources: Sequence[str]) -> tuple[str, ...]:
    wrong = [name for name in sources if not (_REPO.fullmatch(name) or _OLD_REPO.fullmatch(name))]
    if wrong or not sources:
        given = ", ".join(quoted(name) for name in wrong[:4]) or "no repository at all"
        raise CheckpointError(
            f"{given} was given. Expected one repository or more as owner/name; a folder or a suite stands alone."
        )
    return tuple(sources)


def _of_folder(folder: Path) -> Series:
    listing = checkpoints_in(folder)
    return Series(str(folder), listing.checkpoints, listing.excluded)


def _of_suite(suite: Suite, hub: Hub) -> Series:
    if suite.points:
        return _of_listed_points(suite, hub)
    if len(suite.repos) == 1 and "*" not in suite.repos[0]:
        return _of_repos(suite.repos[0], suite.repos, hub)
    raise CheckpointError(f"The suite {suite.name} has several series. Give one of its repositories: {suite.choice}.")


def _of_listed_points(suite: Suite, hub: Hub) -> Series:
    listed: dict[str, dict[str, str]] = {}
    missing: list[Excluded] = []
    for point in suite.points:
        try:
            listed[point.repo] = hub.branches(point.repo)
        except RepositoryMissingError as error:
            missing.append(Excluded(point.repo, str(error), point.repo))
    if not listed:
        raise CheckpointError(
            f"None of the repositories of {suite.name} is to be had; check the name and your access. The first: "
            f"{missing[0].reason}"
        )
    series = _of_points(suite.name, listed, {point.repo: point.tokens for point in suite.points}, suite)
    return replace(series, excluded=(*missing, *series.excluded))


def _of_repos(source: str, repos: tuple[str, ...], hub: Hub) -> Series:
    suite = suite_of(repos[0])
    joined = () if suite is None else suite.joined.get(repos[0], ())
    repos = tuple(dict.fromkeys((*repos, *joined)))
    checkpoints: list[Checkpoint] = []
    excluded: list[Excluded] = []
    listed: dict[str, dict[str, str]] = {}
    for repo in repos:
        try:
            listed[repo] = hub.branches(repo)
        except RepositoryMissingError as error:
            if repo not in joined:
                raise
            excluded.append(Excluded(repo, f"joined to this series, but not to be had: {error}", repo))
            continue
        found = [_read(name, repo, commit, suite) for name, commit in listed[repo].items()]
        if len(repos) == 1 and not any(isinstance(item, Checkpoint) for item in found):
            found += _folders(repo, listed[repo].get(MAIN, ""), suite, hub)
        checkpoints += [item for item in found if isinstance(item, Checkpoint)]
        excluded += [item for item in found if isinstance(item, Excluded)]
    if not checkpoints and len(repos) > 1:
        return _of_points(source, listed, dict.fromkeys(repos), suite)
    mains = [_main(repo, branches[MAIN]) for repo, branches in listed.items() if branches.get(MAIN)]
    return _series(source, checkpoints, excluded, suite, mains[0] if mains else None)


def _folders(repo: str, commit: str, suite: Suite | None, hub: Hub) -> list[Checkpoint | Excluded]:
    """The folders at the top of `main` that name a step, and all other folders in it, with the reasons."""
    if not commit:
        return []
    found: list[Checkpoint | Excluded] = []
    for folder in hub.folders(repo, commit):
        if "/" in folder:
            found.append(Excluded(folder, "a folder within a folder; those at the top of main are read", repo))
            continue
        item = _read(folder, repo, commit, suite)
        found.append(replace(item, revision=MAIN, folder=folder) if isinstance(item, Checkpoint) else item)
    return found


def _of_points(
    source: str, listed: dict[str, dict[str, str]], tokens: dict[str, int | None], suite: Suite | None
) -> Series:
    """A series over repositories: each one's `main` at the tokens that the suite or its own name tells."""
    checkpoints: list[Checkpoint] = []
    excluded: list[Excluded] = []
    for repo, branches in listed.items():
        seen = repository_tokens(repo) if tokens[repo] is None else tokens[repo]
        if seen is None:
            excluded.append(
                Excluded(repo, "its name tells no tokens that can be stored, and its branches no steps", repo)
            )
            continue
        if not branches.get(MAIN):
            excluded.append(Excluded(repo, NO_COMMIT if MAIN in branches else "has no branch main", repo))
            continue
        point = _main(repo, branches[MAIN])
        key = repo.rsplit("/", 1)[-1]
        checkpoints.append(replace(point, key=key, tokens=seen, step=seen // 10**9, step_unit=BILLION_TOKENS))
        excluded += [Excluded(name, reason_against(name), repo) for name in branches if name != MAIN]
    return _series(source, checkpoints, excluded, suite, None)


def _read(name: str, repo: str, commit: str, suite: Suite | None) -> Checkpoint | Excluded:
    if suite is not None and name in suite.codenames and commit:
        return Checkpoint(None, name, suite.codenames.index(name), None, "", commit, repo, name, INDEX)
    parsed = parse_name(name)
    if parsed is None:
        main = suite.main if suite is not None and name == MAIN else ""
        return Excluded(name, main or reason_against(name), repo)
    if not commit:
        return Excluded(name, NO_COMMIT, repo)
    if parsed.step is not None:
        place, unit = parsed.step, parsed.counts
        tokens = parsed.tokens if parsed.tokens is not None else _tokens_of_steps(parsed, suite)
    elif suite is None or suite.index is None or parsed.index is None:
        return Excluded(name, INDEX_ONLY, repo)
    else:
        place, unit = parsed.index, INDEX
        tokens = (parsed.index + suite.index.first) * suite.index.tokens
    if tokens is not None and not is_count(tokens):
        return Excluded(name, f"by the suite's data it has seen tokens that are {TOO_LARGE}", repo)
    return Checkpoint(None, name, place, tokens, parsed.stage, commit, repo, name, unit)


def _tokens_of_steps(name: Name, suite: Suite | None) -> int | None:
    if suite is None or suite.tokens_per_step is None or name.step is None or name.counts != STEPS:
        return None
    if suite.tokens_stages and name.stage not in suite.tokens_stages:
        return None
    return name.step * suite.tokens_per_step


def _main(repo: str, commit: str) -> Checkpoint:
    return Checkpoint(None, MAIN, 0, None, "", commit, repo, MAIN)


def _series(
    source: str,
    found: list[Checkpoint],
    excluded: list[Excluded],
    suite: Suite | None,
    main: Checkpoint | None,
) -> Series:
    found, others = of_one_unit(found)
    excluded = [*excluded, *others]
    found = sorted(found, key=lambda checkpoint: (stage_order(checkpoint.stage), checkpoint.step))
    kept: dict[tuple[str, int], Checkpoint] = {}
    for checkpoint in found:
        first = kept.setdefault((checkpoint.stage, checkpoint.step), checkpoint)
        if first is not checkpoint:
            where = "" if first.repo == checkpoint.repo else f" of {first.repo}"
            reason = f"claims the same step as {first.key}{where}; one checkpoint a step"
            excluded.append(Excluded(checkpoint.key, reason, checkpoint.repo))
    if not kept:
        shown = "; ".join(f"{item.name} ({item.reason})" for item in excluded[:6]) or "nothing at all"
        raise CheckpointError(
            f"{source} has no branch, and no folder of main, that names a step (found: {shown}). Expected names "
            "such as step1000-tokens4B or stage1-step1000. If its checkpoints are repositories of their own, give "
            "all of them."
        )
    checkpoints = tuple(kept.values())
    return Series(source, checkpoints, tuple(excluded), suite, main, _notes(checkpoints, suite))


def _notes(checkpoints: tuple[Checkpoint, ...], suite: Suite | None) -> tuple[str, ...]:
    notes = list(() if suite is None else suite.notes)
    if suite is not None and suite.obstacle:
        notes.insert(0, f"these models {suite.obstacle}")
    ingredients = sorted({checkpoint.stage for checkpoint in checkpoints if "ingredient" in checkpoint.stage})
    if len(ingredients) > 1:
        notes.append(f"{', '.join(ingredients)} are parallel runs from one checkpoint, not one after the other")
    seeds = sorted({c.stage for c in checkpoints if SEED in c.stage})
    if len(seeds) > 1:
        notes.append(f"{', '.join(seeds)} are replicates, trained from one seed each: choose one by its stage")
    if checkpoints[0].folder:
        notes.append("the checkpoints are folders of the branch main, all of one commit")
    if checkpoints[0].step_unit in (WORDS, BYTES):
        unit = checkpoints[0].step_unit
        notes.append(f"progress is counted in training {unit}, which are neither optimizer steps nor tokens")
    if checkpoints[0].step_unit == INDEX:
        notes.append("the step column counts checkpoints, not optimizer steps")
    if checkpoints[0].step_unit == BILLION_TOKENS:
        notes.append("no optimizer steps are known: the step column counts billions of tokens")
    return tuple(notes)
