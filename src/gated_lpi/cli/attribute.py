"""`gated-lpi attribute`: one model and facts → a dataset of scores."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gated_lpi.cli.console import ConsoleProgress, print_json
from gated_lpi.cli.console import out as console
from gated_lpi.cli.options import AS_USUAL, Bos, ModelLoading, Separator, Templates, loads_model, with_options
from gated_lpi.errors import RunError, RunExistsError
from gated_lpi.options import METHODS_BY_NAME, Scoring
from gated_lpi.options.methods import flat_fields, flat_methods, from_flat, method_from_flat

if TYPE_CHECKING:
    import xarray as xr

NAME = "attribute"
INTERRUPTED = "interrupted; scores are written when all are there, so none were kept: run the command again"


OF_SCORING = flat_fields(Scoring)


@with_options({**flat_methods(), **OF_SCORING}, keep="relations")
@loads_model()
def command(
    model: Annotated[str, typer.Argument(help="Folder saved by transformers, or a hub repository.")],
    out: Annotated[Path, typer.Option(help="New zarr folder for the scores.")],
    facts: Annotated[
        str,
        typer.Option(
            help='"builtin", an LRE file or folder, a .jsonl file, or a task: two-hop, arithmetic:steps=2, key-value, '
            "needle, variables, gsm8k:FILE."
        ),
    ] = "builtin",
    method: Annotated[
        str,
        typer.Option(
            help=f"{', '.join(METHODS_BY_NAME)}: how units are scored (docs/methods.md); each has its options."
        ),
    ] = "lpi",
    templates: Templates = "first",
    separator: Separator = None,
    bos: Bos = None,
    on_error: Annotated[
        str, typer.Option(help="raise at facts that cannot be used, or skip them and say so.")
    ] = "raise",
    loading: ModelLoading = AS_USUAL,
    json: Annotated[bool, typer.Option("--json", help="Print sizes and provenance of the scores as JSON.")] = False,
    *,
    options: dict[str, Any],
) -> None:
    """Score every unit, head, expert and block of a model on facts, and store the scores.

    Example: `gated-lpi attribute ./my-model --facts builtin --out scores.zarr`
    """
    from gated_lpi.facts import load_facts
    from gated_lpi.methods import attribute
    from gated_lpi.prompting import Prompting

    # All that can be refused without the model is refused before it is loaded.
    how = Prompting(templates, separator, on_error, bos)  # type: ignore[arg-type]  # checked there
    asked = method_from_flat(method, {name: value for name, value in options.items() if name not in OF_SCORING})
    scoring = from_flat(Scoring, options)
    loaded_facts = load_facts(facts, on_error=how.on_error)
    progress = ConsoleProgress()
    for note in loaded_facts.notes:
        progress.note(f"facts: {note}")
    with _place(out) as draft:
        loaded = loading.load(model)
        with progress.task("attribute") as advance:
            scores = attribute(loaded, loaded_facts, method=asked, **vars(how), **dict(scoring), progress=advance)
        for note in _remarks(scores):
            progress.note(note)
        scores.to_zarr(draft, mode="w", consolidated=False)
    if json:
        print_json({"out": str(out), "dims": dict(scores.sizes), "provenance": scores.attrs})
    else:
        console.print(f"scores: {out}  ({', '.join(f'{n} {dim}' for dim, n in scores.sizes.items())})", markup=False)


@contextmanager
def _place(out: Path) -> Iterator[Path]:
    """A folder beside `out` to write to, moved there when the `with` block ends well; made before any work is done."""
    if os.path.lexists(out):
        raise RunExistsError(f"{out} exists already and is not overwritten; give a new folder")
    draft = out.with_name(f".{out.name}.{os.getpid()}.draft")
    try:
        draft.mkdir(parents=True)
        yield draft
        draft.rename(out)
    except OSError as error:
        raise RunError(
            f"scores cannot be written to {out}: {error}; give a folder in a place that can be written to, with room"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _remarks(scores: xr.Dataset) -> Iterator[str]:
    """What was skipped, cannot be told apart, or was replaced in loading."""
    yield from scores.attrs["notes"]
    skipped = scores.attrs["skipped"]
    if skipped:
        yield f"{len(skipped):,} {'fact is' if len(skipped) == 1 else 'facts are'} skipped:"
        yield from (f"  {fact}" for fact in skipped)
    yield from scores.attrs["collisions"]
