"""`gated-lpi families`: the table of model families."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from gated_lpi.cli.console import out as console
from gated_lpi.cli.console import print_json

if TYPE_CHECKING:
    from gated_lpi.models import Family

NAME = "families"


def command(json: Annotated[bool, typer.Option("--json", help="Print the whole table as JSON.")] = False) -> None:
    """Print the model families that can be attributed, and what is special about each.

    Example: `gated-lpi families`
    """
    from gated_lpi.models import FAMILIES

    if json:
        print_json([dataclasses.asdict(family) for family in FAMILIES])
        return
    table = Table("family", "model_type", "norm", "what differs")
    for family in FAMILIES:
        norm = "LayerNorm" if family.norm == "layer" else "RMSNorm"
        table.add_row(family.name, ", ".join(family.model_types), norm, ", ".join(_special(family)))
    console.print(table)


def _special(family: Family) -> list[str]:
    remarks = {
        "post-norms": family.attention_post_norm or family.ffn_post_norm,
        "weight + 1 in norms": family.norm_offset,
        "parallel residual where configured": family.parallel_attribute,
        "shared experts": family.shared and not family.shared_gate,
        "gated shared expert": family.shared_gate,
        "residual multiplier": family.residual_multiplier_attribute,
        "logits divided": family.logit_divisor_attribute,
        "logit softcap": family.logit_softcap_attribute,
    }
    return [remark for remark, applies in remarks.items() if applies]
