"""`gated-lpi prune`: remove the experts that a model can best do without → a smaller checkpoint, and what it cost."""

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
    from gated_lpi.pruning import Trial

NAME = "prune"
ROWS = {
    "hit_1": ("HIT@1", "{:.3f}"),
    "hit_k": ("HIT@{k}", "{:.3f}"),
    "logprob": ("log p, nats", "{:.3f}"),
    "text_loss": ("loss on text, nats per token", "{:.3f}"),
    "parameters": ("parameters", "{:,}"),
    "parameters_active": ("parameters that a token passes", "{:,}"),
    "memory": ("memory, bytes", "{:,}"),
    "flops_per_token": ("operations per token", "{:,}"),
    "seconds": ("seconds to read the text", "{:.4f}"),
}


@loads_model("device_map")
def command(
    model: Annotated[str, typer.Argument(help="Folder saved by transformers, or a hub repository.")],
    out: Annotated[Path, typer.Option(help="New folder for the smaller checkpoint.")],
    facts: Annotated[str, typer.Option(help='"builtin", an LRE file or folder, or a .jsonl file.')] = "builtin",
    by: Annotated[str, typer.Option(help="lpi, lpi_stable, frequency, reap, grad_x_act or random.")] = "lpi",
    share: Annotated[float | None, typer.Option(help="Share of each layer's experts to remove. Default: 0.25.")] = None,
    keep: Annotated[int | None, typer.Option(help="Or how many experts each layer keeps.")] = None,
    text: Annotated[
        Path | None,
        typer.Option(help="Text for the loss, for frequency and reap too. Default: built-in prose, the prompts."),
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="A run with this model's earlier checkpoints, which lpi_stable needs.")
    ] = None,
    arm: Annotated[str | None, typer.Option(help="The run's arm. Default: its only one with experts.")] = None,
    before: Annotated[
        int | None, typer.Option(help="Its checkpoints before this step. Default: the step in the folder's name.")
    ] = None,
    pairs: Annotated[int, typer.Option(help="Over how many pairs of checkpoints stability is.")] = 3,
    k: Annotated[int, typer.Option(help="The k of HIT@k.")] = 10,
    answer: Annotated[str, typer.Option(help="Recall of the first token of answers, or of all.")] = "first",
    repeats: Annotated[int, typer.Option(help="How often forward passes are timed.")] = 5,
    seed: Annotated[int, typer.Option(help="Of random.")] = 0,
    templates: Templates = "first",
    separator: Separator = None,
    bos: Bos = None,
    on_error: Annotated[str, typer.Option(help="raise at facts that cannot be used, or skip them.")] = "raise",
    loading: ModelLoading = AS_USUAL,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON, the experts kept too.")] = False,
) -> None:
    """Remove the lowest-ranked experts of every layer, save the smaller model, and measure it before and after.

    Example: `gated-lpi prune runs/a/training/moe/step-360 --by lpi_stable --against runs/a --share 0.25 --out smaller`
    """
    from gated_lpi.ablation import read_text
    from gated_lpi.checkpoints import parse_name
    from gated_lpi.facts import load_facts
    from gated_lpi.prompting import Prompting
    from gated_lpi.pruning import RANKINGS, past_scores, prune, save_pruned
    from gated_lpi.results import open_run

    # All that can be refused without the model is refused before it is loaded.
    how = Prompting(templates, separator, on_error, bos)  # type: ignore[arg-type]  # checked there
    if by not in RANKINGS:
        raise OptionError(f"--by {by!r} was given; expected one of {', '.join(RANKINGS)}")
    if by == "lpi_stable" and against is None:
        raise OptionError("--by lpi_stable needs --against, a run with this model's earlier checkpoints; or --by lpi")
    if out.exists():
        raise RunExistsError(f"{out} exists already and is not overwritten; give a new folder")
    read_text(text)
    loaded_facts = load_facts(facts, on_error=how.on_error)
    progress = ConsoleProgress()
    for note in loaded_facts.notes:
        progress.note(f"facts: {note}")
    past = []
    if against is not None and by == "lpi_stable":
        name = parse_name(Path(model).name)
        until = name.step if before is None and name is not None else before
        past = past_scores(open_run(against), arm, before=until, pairs=pairs)
        progress.note(f"stability over steps {', '.join(str(int(one['step'])) for one in past)} and this checkpoint")
    loaded = loading.load(model)
    trial = prune(
        loaded,
        loaded_facts,
        by,
        share=0.25 if share is None and keep is None else share,
        keep=keep,
        how=how,
        answer=answer,  # type: ignore[arg-type]  # checked there
        text=text,
        past=past,
        pairs=pairs,
        k=k,
        repeats=repeats,
        seed=seed,
        task=progress.task,
    )
    save_pruned(trial.pruned, out)
    if json:
        print_json({**trial.as_json(), "out": str(out)})
    else:
        _show(trial, out)


def _show(trial: Trial, out: Path) -> None:
    record = trial.pruned.record()
    table = Table("", "before", "after", box=SIMPLE, padding=(0, 1))
    for key, (title, form) in ROWS.items():
        table.add_row(title.format(k=trial.k), form.format(trial.before[key]), form.format(trial.after[key]))
    console.print(
        f"by {record['by']}: {record['experts_after']} of {record['experts_before']} experts kept in each of "
        f"{len(record['kept'])} layers; a token goes to {record['experts_per_token']}"
    )
    console.print(table)
    console.print(f"{trial.n_prompts:,} prompts, {trial.n_text_tokens:,} tokens of text; saved in {out}", markup=False)
