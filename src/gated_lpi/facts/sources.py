"""Where facts come from: `load_facts` says which of the kinds a source is."""

import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from gated_lpi.errors import FactsError
from gated_lpi.facts.loaders import ACCEPTED, BUILTIN, builtin, from_files, from_folder, from_lines, from_pairs
from gated_lpi.facts.messages import located, plain
from gated_lpi.facts.tasks.named import is_task, task_of
from gated_lpi.facts.types import FactSet, OnError, check_on_error, separator_option


def load_facts(
    source: str | Path | Iterable[tuple[str, str]], *, separator: str | None = None, on_error: OnError = "raise"
) -> FactSet:
    """Load facts from where `source` says.

    The source is one of these:

    - "builtin": the set that comes with the package (a folder of that name is "./builtin");
    - a task, which is made when it is asked for: "arithmetic", or with parameters "arithmetic:steps=2/3,n=50"
      (`gated_lpi.facts.tasks`, docs/tasks.md);
    - several of these two, joined by semicolons, as one set: "builtin;two-hop;needle:length=1024";
    - a `.json` file in the LRE schema: one relation;
    - a folder: every `*.json` file in it and below, ordered by path; links to folders are noted, not followed;
    - a `.jsonl` file, a fact a line; each line keeps its own template, and lines of one relation are brought together.
      Lines of {"prompt", "target"} belong to relation "prompts" unless they name one;
    - (prompt, target) pairs in any order-keeping form (list, tuple, generator, array of texts): one relation "prompts",
      a prompt for each pair, repeats too.

    Args:
        source: a name or path, or pairs.
        separator: what stands between prompt and answer, "auto" or a text (see `join`), in relations that name none; a
            "separator" in a relation file, a sample, a line or a task is kept (`FactSet.with_separator` overrides all).
        on_error: "raise", or "skip" samples, lines and pairs that cannot be used: they are listed in `FactSet.skipped`
            with their reasons, and counted in its notes.

    Returns:
        The facts, with notes on what was repaired, dropped, skipped or odd.

    Raises:
        FactsError: the source is none of these, is missing, cannot be read or has a wrong value; or every fact was
            skipped.
        OptionError: `separator`, `on_error` or a parameter of a task is outside what it may be.
    """
    check_on_error(on_error)
    usual = None if separator is None else separator_option(separator)
    if not isinstance(source, str | Path):
        return from_pairs(source, usual, on_error)
    names = source.split(";") if isinstance(source, str) else []
    if len(names) > 1 and all(name == BUILTIN or is_task(name) for name in names):
        return joined([load_facts(name, separator=separator, on_error=on_error) for name in names])
    if source == BUILTIN:
        return builtin(usual, on_error)
    if isinstance(source, str) and is_task(source):
        return task_of(source, usual, on_error)
    if not str(source):
        raise FactsError(f"the source is an empty text; give {ACCEPTED}")
    path = Path(source)
    name = plain(str(path))
    if _is_folder(path):
        return from_folder(path, name, usual, on_error)
    if path.suffix == ".jsonl":
        with located(name):
            return from_lines(path, name, usual, on_error)
    if path.suffix == ".json":
        return from_files([path], path.parent, name, usual, on_error)
    raise FactsError(f"{name}: facts are not read from {plain(path.suffix) or 'such'} files; give {ACCEPTED}")


def joined(parts: Sequence[FactSet]) -> FactSet:
    """The facts of several sources as one set, in their order.

    Raises:
        FactsError: two relations have one name.
    """
    return FactSet(
        relations=tuple(relation for part in parts for relation in part.relations),
        source=";".join(part.source for part in parts),
        notes=tuple(note for part in parts for note in part.notes),
        skipped=tuple(skipped for part in parts for skipped in part.skipped),
    )


def _is_folder(path: Path) -> bool:
    """Whether the path is a folder; if not, there is something else."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a path that no file can have
        raise FactsError(f"{plain(str(path))}: no such file or folder; give {ACCEPTED}") from None
    except OSError as error:
        reason = f"cannot be read ({error.strerror}); check the path and its permissions"
        raise FactsError(f"{plain(str(path))}: {reason}") from None
