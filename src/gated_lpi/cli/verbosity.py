"""How much the command line says: `--quiet`, `--verbose`, and the standard library's logging to standard error.

One place for every verb: `with_verbosity` gives its command both options, and `speaking` does what follows from them.

    quiet     results on standard output, and the error that ends it; no progress, notes or warnings
    normal    progress bars, notes, warnings, log records of level INFO and above
    verbose   also what this package does in detail (DEBUG), with times, and the traceback of an error

Programs that use the package as a library set up logging for "gated_lpi" themselves.
"""

from __future__ import annotations

import inspect
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Annotated, Any, Literal

import typer

from gated_lpi.cli.console import err
from gated_lpi.errors import OptionError
from gated_lpi.version import __version__

Verbosity = Literal["quiet", "normal", "verbose"]
LEVELS: dict[Verbosity, int] = {"quiet": logging.ERROR, "normal": logging.INFO, "verbose": logging.DEBUG}
LOGGER = logging.getLogger("gated_lpi")
_QUIET = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but results and errors.")]
_VERBOSE = Annotated[bool, typer.Option("--verbose", "-v", help="Say in detail what is done, with times.")]


class _ToConsole(logging.Handler):
    """Log records as lines of the console for standard error, beside its progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        err.print(self.format(record), markup=False)


_said: Verbosity = "normal"


@contextmanager
def speaking(verbosity: Verbosity) -> Iterator[None]:
    """Say so much until the `with` block ends."""
    global _said
    _said = verbosity
    handler = _ToConsole()
    if verbosity == "verbose":
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s", "%H:%M:%S"))
    before = LOGGER.level
    LOGGER.addHandler(handler)
    LOGGER.setLevel(LEVELS[verbosity])
    err.quiet = verbosity == "quiet"
    try:
        with warnings.catch_warnings():
            if verbosity == "quiet":
                warnings.simplefilter("ignore")
            yield
    finally:
        err.quiet = False  # an error that ends the verb is said in any case
        LOGGER.setLevel(before)
        LOGGER.removeHandler(handler)


def spoken() -> Verbosity:
    """How much the verb that ran last was to say."""
    return _said


def with_verbosity(command: Callable[..., None]) -> Callable[..., None]:
    """A verb's command with --quiet and --verbose."""

    @wraps(command)
    def spoken_command(*args: Any, quiet: bool = False, verbose: bool = False, **options: Any) -> None:
        if quiet and verbose:
            raise OptionError("--quiet and --verbose were given; expected one of them or neither: leave one out")
        with speaking("quiet" if quiet else "verbose" if verbose else "normal"):
            LOGGER.debug("gated-lpi %s: %s", __version__, " ".join(sys.argv[1:]))
            command(*args, **options)

    before = inspect.signature(command, eval_str=True)
    kind = inspect.Parameter.KEYWORD_ONLY
    both = [
        inspect.Parameter("quiet", kind, default=False, annotation=_QUIET),
        inspect.Parameter("verbose", kind, default=False, annotation=_VERBOSE),
    ]
    parameters = [*before.parameters.values(), *both]
    spoken_command.__signature__ = before.replace(parameters=parameters)  # type: ignore[attr-defined]
    spoken_command.__annotations__ = {one.name: one.annotation for one in parameters}
    return spoken_command
