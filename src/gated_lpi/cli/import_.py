"""`gated-lpi import`: a training checkpoint of Megatron, FSDP or OLMo-core as a folder that can be attributed."""

from __future__ import annotations

import dataclasses
import json as parser
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from gated_lpi.cli.console import ConsoleProgress, print_json
from gated_lpi.cli.console import out as console
from gated_lpi.errors import OptionError

NAME = "import"
INTERRUPTED = "interrupted; no folder was made: run the command again"


def command(
    folder: Annotated[
        Path | None, typer.Argument(help="Folder of one checkpoint: .metadata and .distcp files, or safetensors.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The new folder, such as flame/step-5473.")] = None,
    layout: Annotated[str, typer.Option(help="How the framework stores it; without a folder, all are listed.")] = (
        "flame-moe"
    ),
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="A key of the model's config, as KEY=VALUE; may be given several times."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="For the layout transformers: the model's config.json, or its folder.")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(help="What the trained model did; default: reference.safetensors in the folder.")
    ] = None,
    tokens: Annotated[str | None, typer.Option(help="Training tokens of the checkpoint, such as 11.5B.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Read a training checkpoint into a new folder of transformers, prove it, and compare it with what was recorded.

    Example: `gated-lpi import iter_0005473 --out flame/step-5473 --layout flame-moe --tokens 11.5B`
    """
    from gated_lpi.importing import import_checkpoint, layouts

    if folder is None:
        if out is not None:
            raise OptionError("There is nothing to import: give the folder of a checkpoint.")
        table = Table("layout", "framework", "type of model", "what to know")
        for row in layouts():
            table.add_row(row.name, row.framework, row.model_type or "any", row.about)
        console.print(table)
        return
    if out is None:
        raise OptionError("Where the model is to be written is not said: give a new folder as --out.")
    from gated_lpi.checkpoints import parse_count

    with ConsoleProgress().task("import") as advance:
        found = import_checkpoint(
            folder,
            out,
            layout=layout,
            settings=dict(map(_setting, set_ or ())),
            config=config,
            reference=reference,
            tokens=None if tokens is None else parse_count(tokens),
            progress=advance,
        )
    if json:
        print_json(dataclasses.asdict(found) | {"path": str(found.path)})
        return
    proof = found.reconstruction
    console.print(f"{found.path}: {found.parameters:,} values by layout {found.layout}", markup=False)
    if found.made:
        console.print(f"{found.made:,} values are zeros that the layout makes, and no tensor of the checkpoint")
    if found.aside:
        console.print(
            f"left aside: {len(found.aside)} entries that are no weights, first {found.aside[0]}", markup=False
        )
    console.print(
        f"proof: blocks {proof.block:.1e}, layers {proof.layer:.1e}, residual {proof.residual:.1e}, logits "
        f"{proof.logits:.1e}; allowed {proof.tolerance:.0e}"
    )
    if found.agreement is None:
        console.print("no reference: nothing says that this is what was trained but the layout; see docs/importing.md")
        return
    agreement = found.agreement
    if agreement.logits is not None:
        console.print(f"recorded logits: largest difference {agreement.logits:.2%}, over {agreement.tokens:,} tokens")
    for number, share in agreement.routing.items():
        console.print(f"recorded routing, layer {number}: {share:.1%} the same experts (chance {agreement.chance:.1%})")


def _setting(given: str) -> tuple[str, Any]:
    key, mark, value = given.partition("=")
    if not mark or not key:
        raise OptionError(f"--set {given!r} was given; expected KEY=VALUE, such as num_attention_heads=16")
    try:
        return key, parser.loads(value)
    except ValueError:
        return key, value
