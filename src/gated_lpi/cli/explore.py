"""`gated-lpi explore`: a run in the browser, on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from gated_lpi.cli.console import err
from gated_lpi.cli.console import out as console
from gated_lpi.errors import OptionError

NAME = "explore"
INTERRUPTED = "ended"


def command(
    run: Annotated[str, typer.Argument(help="Folder or fsspec address of a run, finished or still being written.")],
    port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="Port; 0: any that is free. Default: 8765, which reports lead to or, where that is taken, any.",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at. Other than a loopback one, others can read the run there.")
    ] = "127.0.0.1",
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the browser.")] = True,
    relations: Annotated[
        bool,
        typer.Option(
            "--relations/--no-relations", help="Index curves by relation too; they take as much room as the scores."
        ),
    ] = True,
) -> None:
    """Explore a run in the browser: verdicts over time, neurons, facts, comparisons, routing. Ctrl-C ends it.

    The address is printed on a line of its own once it answers.

    Example: `gated-lpi explore demo-run`
    """
    try:
        from gated_lpi.explore import serve
    except ImportError as error:
        if error.name not in ("starlette", "uvicorn", "jinja2"):
            raise
        raise OptionError(f"explore needs {error.name}; pip install 'gated-lpi[explore]'") from error
    from gated_lpi.results import open_run

    opened = open_run(run)
    err.print(f"exploring {opened.path}; Ctrl-C ends it", markup=False)
    serve(
        opened,
        host=host,
        port=port,
        browser=browser,
        by_relation=relations,
        announce=lambda url: console.print(url, markup=False),
    )
