"""How `gated-lpi run --plan` shows what an experiment would take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from gated_lpi.cli.console import out as console
from gated_lpi.cli.console import print_json

if TYPE_CHECKING:
    from gated_lpi.runs.plan import ArmPlan, Plan


def show(plan: Plan, json: bool) -> None:
    """Print a plan as a table, or as JSON."""
    if json:
        print_json(plan.as_json())
        return
    table = Table(
        "arm", "checkpoints", "download", "disk, most", "memory", "time", "cost", title=f"plan of {plan.name}"
    )
    for arm in plan.arms:
        table.add_row(*_cells(arm))
    table.add_section()
    table.add_row(*_cells(plan.total))
    console.print(table)
    for arm in plan.arms:
        for note in arm.notes:
            console.print(f"{arm.arm}: {note}", markup=False)
    for assumption in plan.assumptions:
        console.print(f"assumed: {assumption}", markup=False)


def _cells(arm: ArmPlan) -> tuple[str, ...]:
    return (
        arm.arm,
        str(len(arm.checkpoints)),
        *(f"{size / 1e9:,.1f} GB" for size in (arm.download, arm.disk, arm.memory)),
        f"{arm.seconds / 3600:,.1f} h",
        "not asked" if arm.cost is None else f"{arm.cost:,.2f}",
    )
