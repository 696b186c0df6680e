"""The command line: one file per verb, thin over the library.

Exit codes: 0 done; 1 the input cannot be used (a model, facts, a checkpoint, a run); 2 the command itself is wrong;
3 `diagnose` found something wrong, or a run or study ended with checkpoints in quarantine; 4 `verify` found damage;
130 or 143 interrupted by SIGINT or SIGTERM (`gated_lpi._common.signals`).
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from functools import wraps
from types import ModuleType
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from gated_lpi._common.entries import quoted
from gated_lpi._common.exhausted import explained
from gated_lpi._common.signals import end, ended_by_signals, interrupted, say_at_interruption
from gated_lpi.cli import (
    ablate,
    attribute,
    check,
    checkpoints,
    compare,
    demo,
    diagnose,
    explore,
    export,
    families,
    import_,
    metrics,
    prune,
    report,
    run,
    study,
    train,
    verify,
)
from gated_lpi.cli.console import err, guarded, out
from gated_lpi.cli.first import show_first
from gated_lpi.cli.verbosity import spoken, with_verbosity
from gated_lpi.errors import GatedLPIError, OptionError
from gated_lpi.options.explain import in_plain_words
from gated_lpi.version import __version__

UsageError: type[Exception] = typer.BadParameter.__mro__[1]  # click's own, or the copy of it that newer typer brings
INTERRUPTED = "interrupted; nothing was changed: run the command again"

app = typer.Typer(
    name="gated-lpi",
    help="Which neurons carry a language model's knowledge, and when in pre-training they came to carry it.",
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _alone(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", "-V", help="Print the version and exit.")] = False,
) -> None:
    """Which neurons carry a language model's knowledge, and when in pre-training they came to carry it."""
    if version:
        out.print(f"gated-lpi {__version__}", markup=False)
        raise typer.Exit
    if context.invoked_subcommand is None:
        show_first(verb.NAME for verb in _VERBS)


def _interruptible(verb: ModuleType) -> Callable[..., None]:
    """A verb's command, which says when it is interrupted what is kept: the verb's INTERRUPTED, if it has one."""

    spoken_command = with_verbosity(verb.command)

    @wraps(spoken_command)
    def command(*args: Any, **options: Any) -> None:
        say_at_interruption(getattr(verb, "INTERRUPTED", INTERRUPTED))
        try:
            spoken_command(*args, **options)
        except KeyboardInterrupt:
            end()

    return command


_VERBS = (
    demo,
    run,
    study,
    train,
    attribute,
    compare,
    ablate,
    prune,
    metrics,
    diagnose,
    report,
    explore,
    export,
    verify,
    check,
    checkpoints,
    import_,
    families,
)
for _verb in _VERBS:
    app.command(name=_verb.NAME)(_interruptible(_verb))


def main() -> None:
    """Run the command line; errors of this package and signals end it with one message, never with a traceback."""
    ended_by_signals(_main)


def _main() -> None:
    try:
        with guarded():
            _run()
    except UsageError as error:
        _fail(_usage(error), 2, f"{_help()} lists what may be given, with an example")
    except typer.Abort:
        _fail("ended while it waited for an answer; nothing was changed", 1, f"{_help()} explains the command")
    except GatedLPIError as error:
        if spoken() == "verbose":
            err.print("".join(traceback.format_exception(error)).rstrip(), markup=False)
        _fail(str(error), 2 if isinstance(error, OptionError) else 1, _advice(error))
    except BaseException as error:  # what the machine has no more of; all else is a fault of ours, and shown whole
        line = explained(error)
        if line is None:
            raise
        _fail(line, 1)


def _run() -> None:
    """Run a verb; standard output that cannot be written is an error here, not after the end."""
    try:
        code = app(standalone_mode=False)  # so that a wrong command is an error like any other
    except SystemExit:
        sys.stdout.flush()
        raise
    sys.stdout.flush()
    sys.exit(code or 0)


def _usage(error: Exception) -> str:
    """What is wrong with the command itself, and what was given where a value was refused."""
    said: str = error.format_message()  # type: ignore[attr-defined]
    cause = error.__cause__
    if not isinstance(cause, ValidationError):
        return said
    problem = cause.errors()[0]
    where = said.removesuffix(problem["msg"])
    words = in_plain_words(problem["msg"])
    given = quoted(problem["input"])
    return where + (words if given in words else f"{words} (given: {given})")


def _advice(error: GatedLPIError) -> str:
    """What to do next, of whatever kind of error it is; the verb's help where the command is wrong."""
    return error.advice.format(help=_help())


def _help() -> str:
    """The command that explains the verb that was given."""
    verb = next((name for name in sys.argv[1:] if name in {one.NAME for one in _VERBS}), None)
    return f"gated-lpi {verb} --help" if verb else "gated-lpi --help"


def _fail(error: str, code: int, advice: str = "") -> None:
    if interrupted():  # the error is what a signal has become on its way
        end()
    try:
        sys.stdout.flush()
    except OSError:  # what is still to be written cannot be: without this the interpreter would say so once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    err.print(f"error: {error}", markup=False)
    if advice:
        err.print(f"next: {advice}", markup=False)
    sys.exit(code)
