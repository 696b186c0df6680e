"""`gated-lpi metrics`: the summary metrics of a run, as a table or as JSON."""

from __future__ import annotations

import math
from itertools import zip_longest
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from gated_lpi.cli.console import err, folding, print_json
from gated_lpi.cli.console import out as console

if TYPE_CHECKING:
    from collections.abc import Iterator

    import xarray as xr

NAME = "metrics"


class Measure(NamedTuple):
    """A measure that the table shows.

    Attributes:
        title: as in tables and papers.
        variable: in a summary, with `…_low`, `…_high` and `…_chance` beside it where it has them.
        meaning: for whoever sees it for the first time.
    """

    title: str
    variable: str
    meaning: str


MEASURES = (
    Measure("J_stab", "stability", "overlap of the top sets of the last two checkpoints; 1: they are the same"),
    Measure("R_t", "gain_top_set", "share of the last gains in importance that fell on the top set"),
    Measure("top share", "importance_share", "share of all importance that the top set holds"),
    Measure("rho_avg", "rho_avg", "how alike the layer profiles of checkpoints are, mean correlation over pairs"),
    Measure("sigma_rel", "sigma_rel", "how much a layer's share of importance varies over checkpoints"),
)


def command(
    run: Annotated[str, typer.Argument(help="Folder or fsspec address of a run.")],
    json: Annotated[bool, typer.Option("--json", help="Print every metric as JSON.")] = False,
) -> None:
    """Print the summary metrics of every arm of a run, by every method; of arms without results, why they have none.

    Beside each number are its interval and what chance gives, where there are such.

    Example: `gated-lpi metrics demo-run --json > metrics.json`
    """
    from gated_lpi.results import open_run, summaries

    found, missing = summaries(open_run(run))
    for arm, reason in missing.items():
        err.print(f"{arm}: no results: {reason}", markup=False)
    if json:
        print_json({arm: _as_json(by_method) for arm, by_method in found.items()})
        return
    for arm, by_method in found.items():
        summary = next(iter(by_method.values()))
        for reason in summary.attrs.get("refused_pairs", []):
            console.print(f"{arm}: refused: {reason}", markup=False)
        if not summary.sizes["kind"]:
            console.print(f"{arm}: no unit scores, so no metrics over them: attribution.units leaves them out")
    _print_table(found)


def _print_table(found: dict[str, dict[str, xr.Dataset]]) -> None:
    options = next(iter(next(iter(found.values())).values())).attrs
    table = folding("of", "measure", "value", f"{options['level']:.0%} interval", "chance")
    table.title = "at the last checkpoint"
    for column in table.columns[1:]:
        column.no_wrap = True
    for arm, by_method in found.items():
        for method, summary in by_method.items():
            for kind in summary["kind"].values.tolist():
                whose = (arm, f"by {method}", f"{kind} units")  # one below the other: the table fits 80 columns
                for said, cells in zip_longest(whose, _rows(summary.sel(kind=kind)), fillvalue=""):
                    table.add_row(said, *cells)
                table.add_section()
    console.print(table)
    if not table.row_count:
        return
    console.print(f"The top set: the {options['fraction']:.3g} of a kind's units of greatest mean score.")
    for measure in MEASURES:
        console.print(f"{measure.title}: {measure.meaning}")
    console.print(
        "Intervals: bootstrap over relations. Chance: random sets of as many units; a value within it says nothing. "
        "docs/method.md defines each."
    )


def _rows(summary: xr.Dataset) -> Iterator[tuple[str, str, str, str]]:
    """Name, value, interval and chance of each measure, of one kind of unit."""
    for measure in MEASURES:
        name = measure.variable
        yield (
            measure.title,
            _last(summary, name),
            _interval(_last(summary, f"{name}_low"), _last(summary, f"{name}_high")),
            " ".join(
                part
                for part in (
                    _last(summary, f"{name}_chance"),
                    _range(_last(summary, f"{name}_chance_low"), _last(summary, f"{name}_chance_high")),
                )
                if part
            ),
        )


def _last(summary: xr.Dataset, name: str) -> str:
    """A number at the last checkpoint or pair, and of a measure over windows that of the first; "" if not there."""
    if name not in summary:
        return ""
    values = summary[name].to_numpy().ravel()
    if not values.size:
        return "none"
    value = float(values[0 if "window" in summary[name].dims else -1])
    return "none" if math.isnan(value) else f"{value:.3f}"


def _interval(low: str, high: str) -> str:
    return f"[{low}, {high}]" if low not in ("", "none") and high not in ("", "none") else ""


def _range(low: str, high: str) -> str:
    """What chance lies between; nothing where that is one value, as of sets of one unit, which hardly ever meet."""
    return "" if low == high else _interval(low, high)


def _as_json(by_method: dict[str, xr.Dataset]) -> dict[str, Any]:
    """The summary by an arm's first method, and under `by_method` those by the others."""
    from gated_lpi.metrics import summary_to_json

    first, *others = by_method
    content = summary_to_json(by_method[first])
    return content | {"by_method": {method: summary_to_json(by_method[method]) for method in others}}
