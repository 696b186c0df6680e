"""`gated-lpi metrics`: the summary metrics of a run, as a table or as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from gated_lpi.cli.console import err, print_json
from gated_lpi.cli.console import out as console
from gated_lpi.errors import OptionError, RunError

if TYPE_CHECKING:
    import xarray as xr

    from gated_lpi.results import Run

NAME = "metrics"


def command(
    run: Annotated[str, typer.Argument(help="Folder or fsspec address of a run.")],
    json: Annotated[bool, typer.Option("--json", help="Print every metric as JSON.")] = False,
) -> None:
    """Print the summary metrics of every arm of a run, by every method; of arms without results, why they have none.

    Example: `gated-lpi metrics demo-run --json > metrics.json`
    """
    from gated_lpi.results import open_run

    summaries, missing = _summaries(open_run(run))
    for arm, reason in missing.items():
        err.print(f"{arm}: no results: {reason}", markup=False)
    if json:
        print_json({arm: _as_json(by_method) for arm, by_method in summaries.items()})
        return
    for arm, by_method in summaries.items():
        summary = next(iter(by_method.values()))
        for reason in summary.attrs.get("refused_pairs", []):
            console.print(f"{arm}: refused: {reason}", markup=False)
        if not summary.sizes["kind"]:
            console.print(f"{arm}: no unit scores, so no metrics over them: attribution.units leaves them out")
    columns = ("arm", "method", "units", "J_stab", "R_t", "top share", "rho_avg", "sigma_rel")
    table = Table(title="at the last checkpoint")
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column == "units")  # methods that are cut off look alike
    for arm, by_method in summaries.items():
        for method, summary in by_method.items():
            for kind in summary["kind"].values.tolist():
                table.add_row(arm, method, kind, *_cells(summary.sel(kind=kind)))
    console.print(table)


def _as_json(by_method: dict[str, xr.Dataset]) -> dict[str, Any]:
    """The summary by an arm's first method, and under `by_method` those by the others."""
    from gated_lpi.metrics import summary_to_json

    first, *others = by_method
    content = summary_to_json(by_method[first])
    return content | {"by_method": {method: summary_to_json(by_method[method]) for method in others}}


def _summaries(run: Run) -> tuple[dict[str, dict[str, xr.Dataset]], dict[str, OptionError | RunError]]:
    """The summaries by method of the arms that have any, the first method's first, and why others have none.

    If none has, the reason itself is raised.
    """
    summaries, missing = {}, {}
    for arm in run.arms:
        try:
            by_method = {method: run.summary(arm, method) for method in run.methods(arm)}
            summaries[arm] = by_method or {"none": run.summary(arm)}
        except (OptionError, RunError) as error:
            missing[arm] = error
    if not summaries:
        reasons = "; ".join(map(str, missing.values()))
        raise next((error for error in missing.values() if isinstance(error, OptionError)), None) or RunError(
            f"{run.path} has no results to measure yet ({reasons}); run the experiment until a checkpoint is complete"
        )
    return summaries, missing


def _cells(summary: xr.Dataset) -> list[str]:
    last = {name: summary[name].values[-1:] for name in ("stability", "gain_top_set", "importance_share")}
    whole = [float(summary[name].values[0]) for name in ("rho_avg", "sigma_rel")]
    return [f"{float(value[0]):.3f}" if value.size else "none" for value in last.values()] + [f"{v:.3f}" for v in whole]
