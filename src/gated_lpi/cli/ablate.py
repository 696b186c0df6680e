"""`gated-lpi ablate`: silence units or heads of a model → what that costs, of the facts and of all else."""

from __future__ import annotations

from collections.abc import Callable
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

NAME = "ablate"
SHARED = 0.1  # of a control's units are the silenced ones: from here on it is said
MATCHED = {"random": "random", "layer": "same layers", "expert": "same experts"}
MEASURES = {
    "hit_1": "HIT@1",
    "hit_k": "HIT@{k}",
    "logprob": "log p",
    "margin": "margin",
    "text_loss": "loss on text",
    "other_hit_k": "others: HIT@{k}",
    "other_logprob": "others: log p",
}


@loads_model()
def command(
    model: Annotated[str, typer.Argument(help="Folder saved by transformers, or a hub repository.")],
    facts: Annotated[str, typer.Option(help='"builtin", an LRE file or folder, or a .jsonl file.')] = "builtin",
    units: Annotated[
        list[str] | None,
        typer.Option(help='Silence these: names or indices, joined by commas ("L12 E37 n114,L12 E38").'),
    ] = None,
    heads: Annotated[
        list[str] | None, typer.Option(help='And these heads: names or indices, joined by commas ("L3 head 2").')
    ] = None,
    experts: Annotated[
        list[str] | None,
        typer.Option(
            help="Or these routed experts, with free and with frozen routing side by side: does routing adapt? Names "
            'or indices, joined by commas ("L12 E37,L3 E1").'
        ),
    ] = None,
    top_experts: Annotated[
        str | None,
        typer.Option(help="The same of so many experts that --scores rank first; several numbers make rows."),
    ] = None,
    scores: Annotated[
        Path | None, typer.Option(help="Or the top of this ranking: a zarr folder that `attribute` wrote.")
    ] = None,
    top_share: Annotated[
        str, typer.Option(help="Shares of the ranked units to silence, joined by commas; several make a curve.")
    ] = "0.01",
    variable: Annotated[
        str | None, typer.Option(help="Which of the scores rank: lpi, head_lpi, … Default: those of units.")
    ] = None,
    kind: Annotated[str, typer.Option(help="Which units are ranked: ffn, attention, mixer or all.")] = "ffn",
    complement: Annotated[
        bool, typer.Option("--complement", help="Silence all ranked units but the top share (0: all of them).")
    ] = False,
    how: Annotated[str, typer.Option(help="What coefficients become: zero, mean or resample.")] = "zero",
    routing: Annotated[
        str, typer.Option(help="free, or frozen: experts and gates are those of the intact model.")
    ] = "free",
    at: Annotated[str, typer.Option(help="all positions, or last: where the model is read.")] = "all",
    controls: Annotated[
        str, typer.Option(help="Random sets beside it, matched on nothing, on layers, on experts; or none.")
    ] = "random,layer,expert",
    draws: Annotated[int, typer.Option(help="How many random sets of each.")] = 20,
    others: Annotated[
        str | None,
        typer.Option(help="Facts of other relations, for the damage. Default: those that the scores are not of."),
    ] = None,
    text: Annotated[Path | None, typer.Option(help="Text for the loss, a UTF-8 file. Default: built-in prose.")] = None,
    k: Annotated[int, typer.Option(help="The k of HIT@k.")] = 10,
    answer: Annotated[str, typer.Option(help="Recall of the first token of answers, or of all.")] = "first",
    seed: Annotated[int, typer.Option(help="Of random sets and of resampling.")] = 0,
    templates: Templates = "first",
    separator: Separator = None,
    bos: Bos = None,
    on_error: Annotated[str, typer.Option(help="raise at facts that cannot be used, or skip them.")] = "raise",
    out: Annotated[Path | None, typer.Option(help="Keep the result in this new zarr folder too.")] = None,
    loading: ModelLoading = AS_USUAL,
    json: Annotated[bool, typer.Option("--json", help="Print everything, each random set too, as JSON.")] = False,
) -> None:
    """Silence units or heads and measure recall, beside random sets and the damage to other relations and plain text.

    Example: `gated-lpi ablate ./my-model --scores scores.zarr --top-share 0.001,0.01 --routing frozen`

    Does routing adapt? `gated-lpi ablate ./my-model --scores scores.zarr --top-experts 1,4`
    """
    from gated_lpi.ablation import ablate, redundancy
    from gated_lpi.ablation.damage import read_text
    from gated_lpi.facts import load_facts
    from gated_lpi.prompting import Prompting

    # All that can be refused without the model is refused before it is loaded.
    how_asked = Prompting(templates, separator, on_error, bos)  # type: ignore[arg-type]  # checked there
    named_units, named_heads, named_experts = _names(units), _names(heads), _names(experts)
    ranking = None if scores is None else _open(scores)
    adapting = named_experts is not None or top_experts is not None
    if adapting:
        others_given = {"units": units, "heads": heads, "complement": complement, "others": others, "text": text}
        usual = {"routing": (routing, "free"), "kind": (kind, "ffn"), "answer": (answer, "first")}
        odd = [name for name, value in others_given.items() if value]
        odd += [name for name, (value, plain) in usual.items() if value != plain]
        if odd:
            raise OptionError(
                f"--{odd[0]} was given with --experts or --top-experts, which ask whether routing adapts and have no "
                "use for it; leave one of them out"
            )
        if (ranking is None) == (top_experts is not None):
            raise OptionError("--top-experts N takes --scores that rank, and --experts names them; give one of the two")
    elif (ranking is not None) == (named_units is not None or named_heads is not None):
        given = "none was" if ranking is None else "both were"
        raise OptionError(
            f"--units or --heads, or --scores, say what is silenced, and {given} given; give one of the two"
        )
    counts = [1] if top_experts is None else _counts(top_experts)
    shares, wanted = _shares(top_share), () if controls == "none" else tuple(controls.split(","))
    if out is not None and out.exists():
        raise RunExistsError(f"{out} exists already and is not overwritten; give a new folder")
    read_text(text)
    loaded_facts = load_facts(facts, on_error=how_asked.on_error)
    other_facts = None if others is None else load_facts(others, on_error=how_asked.on_error)
    progress = ConsoleProgress()
    for note in (*loaded_facts.notes, *(other_facts.notes if other_facts else ())):
        progress.note(f"facts: {note}")
    loaded = loading.load(model)
    if adapting:
        with progress.task("ablate") as advance:
            found = redundancy(
                loaded,
                loaded_facts,
                experts=named_experts,
                scores=ranking,
                top=counts,
                variable=variable,
                how=how,  # type: ignore[arg-type]
                at=at,  # type: ignore[arg-type]
                draws=draws,
                k=k,
                seed=seed,
                templates=how_asked.templates,
                separator=separator,
                on_error=how_asked.on_error,
                bos=bos,
                progress=advance,
            )
        _give(found, out, _show_adapting, json=json)
        return
    with progress.task("ablate") as advance:
        found = ablate(
            loaded,
            loaded_facts,
            units=named_units,
            heads=named_heads,
            scores=ranking,
            share=shares,
            variable=variable,
            kind=kind,
            complement=complement,
            how=how,  # type: ignore[arg-type]
            routing=routing,  # type: ignore[arg-type]
            at=at,  # type: ignore[arg-type]
            controls=wanted,  # type: ignore[arg-type]
            draws=draws,
            others=other_facts,
            text=text,
            k=k,
            answer=answer,  # type: ignore[arg-type]
            seed=seed,
            templates=how_asked.templates,
            separator=separator,
            on_error=how_asked.on_error,
            bos=bos,
            progress=advance,
        )
    _give(found, out, _show, json=json)


def _give(found: xr.Dataset, out: Path | None, show: Callable[[xr.Dataset], None], *, json: bool) -> None:
    """Keep what was found if asked to, and print it."""
    from gated_lpi.metrics import summary_to_json

    if out is not None:
        found.to_zarr(out, mode="w-", consolidated=False)
    if json:
        print_json(summary_to_json(found))
    else:
        show(found)


def _names(given: list[str] | None) -> list[int | str] | None:
    """Names and indices, which may be repeated or joined by commas."""
    if given is None:
        return None
    names = [part.strip() for joined in given for part in joined.split(",") if part.strip()]
    return [int(name) if name.isdecimal() else name for name in names]


def _shares(given: str) -> list[float]:
    try:
        return [float(part) for part in given.split(",")]
    except ValueError as error:
        raise OptionError(f"--top-share {given!r} was given; expected shares joined by commas: 0.001,0.01") from error


def _counts(given: str) -> list[int]:
    try:
        return [int(part) for part in given.split(",")]
    except ValueError as error:
        raise OptionError(f"--top-experts {given!r} was given; expected whole numbers joined by commas: 1,4") from error


def _open(folder: Path) -> xr.Dataset:
    import xarray as xr

    try:
        scores: xr.Dataset = xr.open_zarr(folder, consolidated=False, chunks=None)
    except (OSError, ValueError, KeyError) as error:
        raise OptionError(
            f"--scores {folder} cannot be read: {error}; give a folder that `gated-lpi attribute --out` wrote"
        ) from error
    return scores


def _show(found: xr.Dataset) -> None:
    """A table for each set that was silenced: measures down, intact, silenced and random sets across."""
    attrs = found.attrs
    measures = {
        name: title.format(k=attrs["k"]) for name, title in MEASURES.items() if attrs["n_other"] or "other" not in name
    }
    asked = f"{found.sizes['prompt']:,} prompts"
    if attrs["answer"] == "all":
        asked += ", whole answers: HIT@1 is exact match by greedy decoding"
    console.print(f"{attrs['how']} at {attrs['at']} positions, {attrs['routing']} routing; {asked}")
    for row in range(found.sizes["row"]):
        one = found.isel(row=row)
        controls = one["control"].values.tolist() if "control" in one.dims else []
        table = _table("", "intact", "silenced", *(MATCHED[control] for control in controls))
        for name, title in measures.items():
            values = [f"{float(one[which]):.3f}" for which in (f"{name}_intact", name)]
            drawn = [_spread(one[f"{name}_control"].sel(control=control)) for control in controls]
            table.add_row(title, *values, *drawn)
        console.print(f"{one['row'].values} ({int(one['n_units']):,} units)", markup=False)
        console.print(table)
        for control in controls:
            share = float(one["control_shared"].sel(control=control))
            if share > SHARED:
                console.print(f"note: {share:.0%} of the {MATCHED[control]} units are the silenced ones themselves")
    if "control" in found.dims:
        console.print(f"random: mean ± sd of {attrs['draws']} sets of as many units, matched as their column says")
    other = f"{attrs['n_other']:,} prompts of other relations" if attrs["n_other"] else "no facts of other relations"
    console.print(f"text: {attrs['text']}, {attrs['n_text_tokens']:,} tokens; {other}", markup=False)


def _show_adapting(found: xr.Dataset) -> None:
    """A row for each set of experts: what it costs with frozen and with free routing, and what routers did."""
    attrs = found.attrs
    columns = ("silenced", "log p: frozen", "free", "recovered", "random experts", "experts kept", "random experts")
    table = _table(*columns)
    for row in range(found.sizes["row"]):
        one = found.isel(row=row)
        frozen, free = (float(one["logprob"].sel(routing=way)) for way in ("frozen", "free"))
        table.add_row(
            str(one["row"].values),
            *(f"{value:.3f}" for value in (frozen, free, float(one["recovered"].mean()))),
            _spread(one["recovered_control"]),
            f"{float(one['routing_jaccard'].mean()):.3f}",
            _spread(one["routing_jaccard_control"].mean("moe_layer")),
        )
    console.print(
        f"{attrs['how']} at {attrs['at']} positions; {found.sizes['prompt']:,} prompts; log p of the intact model "
        f"{float(found['logprob_intact']):.3f}"
    )
    console.print(table)
    console.print(
        f"recovered: log p that the routers' answer saves, free less frozen, nats; experts kept: overlap of a token's "
        f"experts with the intact model's; random: mean ± sd of {attrs['draws']} sets of as many in the same layers"
    )


def _table(*columns: str) -> Table:
    """A table whose numbers are whole on narrow screens, too."""
    table = Table(box=SIMPLE, padding=(0, 1))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _spread(values: xr.DataArray) -> str:
    width = f"±{float(values.std(ddof=1)):.3f}" if values.size > 1 else ""
    return f"{float(values.mean()):.3f}{width}"
