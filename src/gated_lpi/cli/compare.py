"""`gated-lpi compare`: methods side by side: with each other, with true effects, and by what silencing does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE
from rich.table import Table

from gated_lpi.cli.console import ConsoleProgress, print_json
from gated_lpi.cli.console import out as console
from gated_lpi.cli.options import AS_USUAL, Bos, ModelLoading, Separator, Templates, loads_model
from gated_lpi.errors import OptionError, RunExistsError

if TYPE_CHECKING:
    import xarray as xr

NAME = "compare"
KINDS = {"ffn": "FFN units", "attention": "attention units", "mixer": "mixer units"}
FIGURES = {
    "spearman_within": "Spearman within layers",
    "spearman": "over all",
    "kendall_within": "Kendall within layers",
    "overlap": "top {fraction:.3g}% shared",
}
SCALES = {"logprob": "log p", "margin": "margin", "contrast": "against {foil}"}
MODES = {"silenced": "the top share silenced", "kept": "all but the top share silenced"}
CONTROLS = {"random": "random", "layer": "same layers"}
AREAS = {"drop": "drop", "cpr": "CPR", "cmd": "CMD"}


@loads_model()
def command(
    model: Annotated[str, typer.Argument(help="Folder saved by transformers, or a hub repository.")],
    facts: Annotated[
        str, typer.Argument(help='"builtin", an LRE file or folder, a .jsonl file, or a task.')
    ] = "builtin",
    methods: Annotated[
        str,
        typer.Option(help="Joined by commas: lpi, grad_x_act, integrated_gradients, direct_effect."),
    ] = "lpi,grad_x_act",
    foil: Annotated[
        str | None, typer.Option(help="relation or fact: everything once more with the target against this.")
    ] = None,
    units: Annotated[str, typer.Option(help="Kinds that are compared: ffn, attention, mixer, or several.")] = "ffn",
    at: Annotated[str, typer.Option(help="Silence and scale units at all positions, or the last.")] = "all",
    how: Annotated[str, typer.Option(help="What silenced coefficients become: zero, mean or resample.")] = "zero",
    sample: Annotated[
        int, typer.Option(help="Units of each block whose true effect is measured, a pass each; 0: none.", min=0)
    ] = 8,
    shares: Annotated[
        str, typer.Option(help="Shares of the units that are silenced or kept, joined by commas; none: nothing is.")
    ] = "0.001,0.003,0.01,0.03,0.1",
    control_draws: Annotated[int, typer.Option(help="How many random sets beside each.")] = 5,
    others: Annotated[
        str | None,
        typer.Option(help="Facts of other relations, for the damage. Default: a third of the relations."),
    ] = None,
    text: Annotated[Path | None, typer.Option(help="Text for the loss, a UTF-8 file. Default: built-in prose.")] = None,
    known: Annotated[
        bool, typer.Option("--known", help="Only facts whose target is among the k likeliest tokens.")
    ] = False,
    k: Annotated[int, typer.Option(help="The k of HIT@k.")] = 10,
    fraction: Annotated[float, typer.Option(help="Of the units that is a top set, where sets are compared.")] = 0.01,
    draws: Annotated[int, typer.Option(help="Resamples for intervals, and permutations for chance.")] = 200,
    seed: Annotated[int, typer.Option(help="Of samples, halves, random sets and resamples.")] = 0,
    templates: Templates = "first",
    separator: Separator = None,
    bos: Bos = None,
    on_error: Annotated[str, typer.Option(help="raise at facts that cannot be used, or skip them.")] = "raise",
    batch_size: Annotated[int | None, typer.Option(help="Prompts that are worked on together, at most.")] = None,
    memory: Annotated[str | None, typer.Option(help="Cap on the working set beside the model, such as 2GB.")] = None,
    out: Annotated[Path | None, typer.Option(help="Keep the result in this new zarr folder too.")] = None,
    loading: ModelLoading = AS_USUAL,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Compare methods: do they agree, do they find true effects, and what does silencing their top units cost?

    Example: `gated-lpi compare ./my-model builtin --methods lpi,grad_x_act --foil relation --known`
    """
    from gated_lpi.ablation.damage import read_text
    from gated_lpi.comparison import compare
    from gated_lpi.facts import load_facts
    from gated_lpi.metrics import summary_to_json
    from gated_lpi.prompting import Prompting

    # All that can be refused without the model is refused before it is loaded.
    how_asked = Prompting(templates, separator, on_error, bos)  # type: ignore[arg-type]  # checked there
    named, kinds, parts = _listed(methods), _listed(units), _shares(shares)
    if out is not None and out.exists():
        raise RunExistsError(f"{out} exists already and is not overwritten; give a new folder")
    read_text(text)
    loaded_facts = load_facts(facts, on_error=how_asked.on_error)
    other_facts = None if others is None else load_facts(others, on_error=how_asked.on_error)
    progress = ConsoleProgress()
    for note in (*loaded_facts.notes, *(other_facts.notes if other_facts else ())):
        progress.note(f"facts: {note}")
    loaded = loading.load(model)
    with progress.task("compare") as advance:
        found = compare(
            loaded,
            loaded_facts,
            named,
            foil=foil,  # type: ignore[arg-type]
            units=kinds,
            at=at,  # type: ignore[arg-type]
            how=how,  # type: ignore[arg-type]
            sample=sample or None,
            shares=parts,
            control_draws=control_draws,
            others=other_facts,
            text=text,
            known=known,
            k=k,
            fraction=fraction,
            draws=draws,
            seed=seed,
            templates=how_asked.templates,
            separator=separator,
            on_error=how_asked.on_error,
            bos=bos,
            batch_size=batch_size,
            memory=memory,
            progress=advance,
        )
    for note in found.attrs["failed"]:
        progress.note(f"failed: {note}")
    if out is not None:
        found.to_zarr(out, mode="w-", consolidated=False)
    if json:
        print_json(summary_to_json(found))
    else:
        for kind in found["kind"].values.tolist():
            _show(found.sel(kind=kind), KINDS[kind])


def _listed(given: str) -> list[str]:
    return [part.strip() for part in given.split(",") if part.strip()]


def _shares(given: str) -> list[float]:
    if given.strip() == "none":
        return []
    try:
        return [float(part) for part in given.split(",")]
    except ValueError as error:
        raise OptionError(f"--shares {given!r} was given; expected shares joined by commas: 0.001,0.01") from error


def _show(found: xr.Dataset, kind: str) -> None:
    """The tables of one kind of unit."""
    console.print(f"{kind}, {found.attrs['n_prompts']:,} prompts; [95% interval]", markup=False)
    for target in found["target"].values.tolist():
        of = "log p(target)" if target == "plain" else f"target against its foil ({found.attrs['foil']})"
        if "agreement" in found:
            _agreement(found["agreement"].sel(target=target), "pair", found, f"do they agree? {of}")
    if "target_agreement" in found:
        _agreement(found["target_agreement"], "by", found, "plain against contrast target")
    if "truth" in found:
        _truth(found)
    for target in found["target"].values.tolist():
        if "area" in found:
            _curves(found.sel(target=target), target)


def _agreement(values: xr.DataArray, rows: str, found: xr.Dataset, title: str) -> None:
    percent = 100 * found.attrs["fraction"]
    table = _table(title, [name.format(fraction=percent) for name in FIGURES.values()])
    for row in values[rows].values.tolist():
        table.add_row(row, *(_interval(values.sel({rows: row, "figure": figure})) for figure in FIGURES))
    chance = found["overlap_chance"].sel(end="estimate")
    table.add_row("chance", "0", "0", "0", f"{float(chance):.3f}")
    console.print(table)


def _truth(found: xr.Dataset) -> None:
    """Spearman with true effects: over all layers, within them, and in each third."""
    parts = found["part"].values.tolist()
    thirds = [part for part in parts if part != "overall" and not part.startswith("layer ")]
    columns = ["all units", "within layers", *thirds]
    for scale in found["scale"].values.tolist():
        what = SCALES[scale].format(foil=found.attrs["foil"])
        sampled = int(found["truth_units"].sel(part="overall"))
        table = _table(f"Spearman with the true effect on {what}, {sampled:,} units silenced one by one", columns)
        for method in found["by"].values.tolist():
            places = [("overall", "spearman"), ("overall", "spearman_within"), *((part, "spearman") for part in thirds)]
            for name, variable in ((method, "truth"), ("  by chance", "truth_chance")):
                values = found[variable].sel(scale=scale, by=method)
                table.add_row(name, *(_interval(values.sel(part=p, figure=f)) for p, f in places))
        console.print(table)


def _curves(found: xr.Dataset, target: str) -> None:
    """What silencing does at every share, and the areas."""
    titles = [f"HIT@1/{found.attrs['k']}", "log p", "loss on text", f"others: HIT@{found.attrs['k']}"]
    intact = (
        f"{float(found['hit_1_intact']):.2f}/{float(found['hit_k_intact']):.2f}",
        *(f"{float(found[f'{name}_intact']):.2f}" for name in ("logprob", "text_loss", "other_hit_k")),
    )
    for mode, what in MODES.items():
        table = _table(f"{what}, ranked by the {target} target on other facts", titles)
        table.add_row("intact", *intact)
        for share in found["share"].values.tolist():
            for method in found["by"].values.tolist():
                one = found.sel(mode=mode, share=share, by=method)
                table.add_row(f"{100 * share:.3g}% {method}", *_measures(one, ""))
            first = found.sel(mode=mode, share=share).isel(by=0)
            table.add_row(
                f"{100 * share:.3g}% random", *_measures(first.sel(control="random").mean("draw"), "_control")
            )
        console.print(table)
    table = _table("areas of log p: the greater drop and CPR, and the less CMD, the better", list(AREAS.values()))
    area = found["area"].sel(curve_scale="logprob")
    control = found["area_control"].sel(curve_scale="logprob").mean("draw")
    for method in found["by"].values.tolist():
        table.add_row(method, *(_interval(area.sel(by=method, area_of=name)) for name in AREAS))
        for name, title in CONTROLS.items():
            means = (float(control.sel(by=method, area_of=of, control=name)) for of in AREAS)
            table.add_row(f"  {title}", *(f"{mean:.2f}" for mean in means))
    console.print(table)
    drop = found["drop_at_damage"].sel(curve_scale="logprob")
    table = _table("drop of log p where the loss on text is greater by …", [f"{d:.3g}" for d in found["damage"].values])
    for method in found["by"].values.tolist():
        table.add_row(method, *(_interval(drop.sel(by=method, damage=d)) for d in found["damage"].values))
    console.print(table)


def _measures(one: xr.Dataset, suffix: str) -> list[str]:
    values = [float(one[f"{name}{suffix}"]) for name in ("hit_1", "hit_k", "logprob", "text_loss", "other_hit_k")]
    return [f"{values[0]:.2f}/{values[1]:.2f}", *(f"{value:.2f}" for value in values[2:])]


def _table(title: str, columns: list[str]) -> Table:
    table = Table("", *columns, title=title, title_justify="left", box=SIMPLE, padding=(0, 1))
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _interval(values: xr.DataArray) -> str:
    estimate, low, high = (float(values.sel(end=end)) for end in ("estimate", "low", "high"))
    if estimate != estimate:
        return "-"
    return f"{estimate:.2f} [{low:.2f}, {high:.2f}]"
