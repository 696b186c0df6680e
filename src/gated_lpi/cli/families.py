"""`gated-lpi families`: every type of causal language model of the installed transformers, attributed or refused."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer
from rich.table import Table

from gated_lpi.cli.console import out as console
from gated_lpi.cli.console import print_json

NAME = "families"


def command(
    json: Annotated[bool, typer.Option("--json", help="Print model_type, status, reason and family of each.")] = False,
) -> None:
    """Say which types of causal language models can be attributed, and why others are refused.

    It is what was found by loading a tiny random model of each type. What decides about a model is the proof when it
    is loaded: `gated-lpi check MODEL`.

    Example: `gated-lpi families`
    """
    from gated_lpi.models import list_types

    types = list_types()
    if json:
        print_json([dataclasses.asdict(one) for one in types])
        return
    attributed = Table("model_type", "family", title_justify="left")
    refused = Table("model_type", "why it is refused", title_justify="left")
    for one in types:
        table = attributed if one.status == "attributed" else refused
        table.add_row(one.model_type, one.family or one.reason)
    for table, status in ((attributed, "attributed"), (refused, "refused")):
        table.title = f"{len(table.rows)} of {len(types)} types are {status}"
        console.print(table)
