"""The reference of the command line, from the commands themselves: usage, what they do, every argument and option."""

from collections.abc import Iterable, Sequence
from inspect import cleandoc
from pathlib import Path
from typing import Any, get_args

import typer

from gated_lpi.cli import app


def command_line() -> Iterable[str]:
    """A heading, the usage and a table for the program itself and for each command."""
    group: Any = typer.main.get_command(app)
    yield from ("## `gated-lpi`", "", cleandoc(group.help or ""), "")
    yield from _table(group.params)
    for name, command in group.commands.items():
        shown = [one for one in command.params if not one.hidden]
        places = [_name(one) if one.required else f"[{_name(one)}]" for one in shown if _is_argument(one)]
        usage = " ".join(["gated-lpi", name, *places, "[OPTIONS]"])
        yield from (f"## `gated-lpi {name}`", "", "```bash", usage, "```", "", cleandoc(command.help or ""), "")
        yield from _table(shown)


def _table(shown: Sequence[Any]) -> Iterable[str]:
    if shown:
        yield "| argument or option | takes | default | what it is |"
        yield "|---|---|---|---|"
        yield from (_row(one) for one in shown)
        yield ""


def _is_argument(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "argument")


def _name(parameter: Any) -> str:
    if _is_argument(parameter):
        return str(parameter.metavar or parameter.name.upper())
    return ", ".join([*parameter.opts, *parameter.secondary_opts])


def _row(parameter: Any) -> str:
    said = (parameter.help or "").replace("|", "\\|")
    return f"| `{_name(parameter)}` | {_takes(parameter)} | {_default(parameter)} | {said} |"


def _takes(parameter: Any) -> str:
    if getattr(parameter, "is_flag", False):
        return ""
    kind = _kind(parameter.type_descriptor.annotation)
    several = parameter.multiple or parameter.nargs == -1
    return f"{kind}, several times" if several else kind


def _kind(annotation: Any) -> str:
    """What a type is called, also inside a list, or beside None."""
    names = {int: "whole number", float: "number", str: "text", Path: "file or folder", bool: ""}
    if annotation in names:
        return names[annotation]
    inner = [_kind(one) for one in get_args(annotation) if one is not type(None)]
    return next(iter(inner), "text")


def _default(parameter: Any) -> str:
    if parameter.required:
        return "needed"
    default = parameter.default
    return f"`{default}`" if isinstance(default, str | int | float | Path) and default not in (False, "") else ""
