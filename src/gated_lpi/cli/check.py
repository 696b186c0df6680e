"""`gated-lpi check`: what the toolkit sees in a model, and whether to trust it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from gated_lpi.cli.console import err as errors
from gated_lpi.cli.console import out as console
from gated_lpi.cli.console import print_json
from gated_lpi.cli.options import AS_USUAL, ModelLoading, loads_model
from gated_lpi.errors import ReconstructionError

if TYPE_CHECKING:
    from gated_lpi.checkup import Checkup

NAME = "check"


@loads_model()
def command(
    model: Annotated[str, typer.Argument(help="Folder saved by transformers, or a hub repository.")],
    prompts: Annotated[int, typer.Option(help="Number of prompts to estimate time and memory for.", min=1)] = 1000,
    loading: ModelLoading = AS_USUAL,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Load a model, prove that its units account for what it computes, and say what attribution would cost.

    A family that has no row in the table gets one that is read off the model; it is shown, with what the proof says.
    Ends with exit code 1 if the model cannot be trusted: no such row, damaged weights, units that do not add up.

    Example: `gated-lpi check ./my-model --prompts 906`
    """
    from gated_lpi.checkup import examine

    try:
        loaded = loading.load(model)
    except ReconstructionError as error:
        for row in getattr(error, "__notes__", ()):
            errors.print(f"the row that was tried, to be mended and given with --family-row:\n{row}", markup=False)
        raise
    found = examine(loaded, prompts)
    if json:
        print_json(dataclasses.asdict(found))
    else:
        _show(found)


def _show(found: Checkup) -> None:
    check, cost = found.reconstruction, found.estimate
    table = Table(show_header=False, title="can be attributed", title_justify="left")
    rows = {
        "family": found.family,
        "layers": str(found.layers),
        "hidden size": str(found.hidden),
        "vocabulary": f"{found.vocabulary:,}",
        "units": ", ".join(f"{count:,} {kind}" for kind, count in found.units.items()),
        "heads": f"{found.heads:,}",
        "experts": f"{found.experts:,}" if found.experts else "none",
        "norms": found.norms,
        "tokenizer": found.tokenizer,
        "biases of no unit": f"{found.biases} projections" if found.biases else "none",
        "coverage": f"{found.coverage:.2%} of the parameters outside embeddings and norms",
        "reconstruction error": f"blocks {check.block:.1e} (worst: {check.worst_block}), layers {check.layer:.1e}, "
        f"residual {check.residual:.1e}, logits {check.logits:.1e}; allowed {check.tolerance:.0e}",
        f"{cost.prompts:,} prompts": f"about {_duration(cost.seconds)}, {_bytes(cost.weights_bytes)} for the model, "
        f"{_bytes(cost.result_bytes)} if all scores are kept, {_bytes(cost.mean_bytes)} for each mean",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)
    if found.row:
        console.print(f"not in the table of families; the row that was proven:\n{found.row}", markup=False)
    for note in found.notes:
        console.print(f"note: {note}", markup=False)


def _duration(seconds: float) -> str:
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} seconds"


def _bytes(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"
