"""`gated-lpi attribute`: one model and facts → a dataset of scores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gated_lpi.cli.console import ConsoleProgress, print_json
from gated_lpi.cli.console import out as console

NAME = "attribute"


def command(
    model: Annotated[str, typer.Argument(help="Folder saved by transformers, or a hub repository.")],
    out: Annotated[Path, typer.Option(help="New zarr folder for the scores.")],
    facts: Annotated[str, typer.Option(help='"builtin", an LRE file or folder, or a .jsonl file.')] = "builtin",
    templates: Annotated[str, typer.Option(help="first, all or held_out.")] = "first",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub repository.")] = None,
    norm: Annotated[str, typer.Option(help="frozen or recomputed.")] = "frozen",
    target: Annotated[str, typer.Option(help="object, or top1: the model's own prediction.")] = "object",
    estimator: Annotated[str, typer.Option(help="fast (certified), exact or reference.")] = "fast",
    tolerance: Annotated[float, typer.Option(help="Largest error of a unit's score, in nats (fast).")] = 1e-3,
    keep: Annotated[str, typer.Option(help="prompts, relations or mean.")] = "relations",
    units: Annotated[
        list[str] | None,
        typer.Option(help="ffn, attention, heads, experts, blocks: repeat, or join by commas. Default: all."),
    ] = None,
    positions: Annotated[
        str, typer.Option(help="Attention units summed over source positions, or resolved.")
    ] = "summed",
    batch_size: Annotated[
        int | None,
        typer.Option(help="Prompts that are worked on together, at most. Default: 192, more for some models."),
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="Cap on the working set beside model and result, such as 2GB.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda, …")] = "auto",
    device_map: Annotated[
        str | None, typer.Option(help="Spread the model over devices: auto, balanced, balanced_low_0 or sequential.")
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")
    ] = False,
    gguf: Annotated[str | None, typer.Option(metavar="FILE", help="Read this GGUF file of the model.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print sizes and provenance of the scores as JSON.")] = False,
) -> None:
    """Score every unit, head, expert and block of a model on facts, and store the scores.

    Example: `gated-lpi attribute ./my-model --facts builtin --out scores.zarr`
    """
    from gated_lpi.errors import RunExistsError
    from gated_lpi.facts import load_facts
    from gated_lpi.loading import load_model
    from gated_lpi.lpi import ALL_UNITS, attribute

    if out.exists():
        raise RunExistsError(f"{out} exists already and is not overwritten; give a new folder")
    loaded_facts = load_facts(facts)
    progress = ConsoleProgress()
    for note in loaded_facts.notes:
        progress.note(f"facts: {note}")
    loaded = load_model(
        model,
        revision=revision,
        device=device,
        device_map=device_map,
        trust_remote_code=trust_remote_code,
        gguf=gguf,
    )
    with progress.task("attribute") as advance:
        scores = attribute(
            loaded,
            loaded_facts,
            templates=templates,  # type: ignore[arg-type]  # checked by attribute, which names what is allowed
            norm=norm,  # type: ignore[arg-type]
            target=target,  # type: ignore[arg-type]
            estimator=estimator,
            tolerance=tolerance,
            units=_split(units) if units else ALL_UNITS,
            keep=keep,  # type: ignore[arg-type]
            positions=positions,  # type: ignore[arg-type]
            batch_size=batch_size,
            memory=memory,
            progress=advance,
        )
    scores.to_zarr(out, mode="w-", consolidated=False)
    if json:
        print_json({"out": str(out), "dims": dict(scores.sizes), "provenance": scores.attrs})
    else:
        console.print(f"scores: {out}  ({', '.join(f'{n} {dim}' for dim, n in scores.sizes.items())})", markup=False)


def _split(values: list[str]) -> list[str]:
    """Options that may be repeated or joined by commas, as one list."""
    return [part.strip() for value in values for part in value.split(",")]
