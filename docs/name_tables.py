"""Public names: the packages of the API, and the functions of `gated_lpi.metrics` by what they measure."""

import ast
import inspect
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

from gated_lpi import metrics

SOURCE = Path(metrics.__file__).parents[1]
WITHOUT = ("cli", "version")  # nothing that users import


def packages() -> Iterable[str]:
    """Every public package and module, read and not imported, since some need torch."""
    files = [SOURCE / "__init__.py", *sorted([*SOURCE.glob("*/__init__.py"), *SOURCE.glob("[a-z]*.py")], key=_name)]
    yield "| module | what it is | names |"
    yield "|---|---|---|"
    for file in files:
        name = _name(file)
        if name.startswith("_") or name in WITHOUT:
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        path = "gated_lpi" if file.parent == SOURCE and file.stem == "__init__" else f"gated_lpi.{name}"
        what = (ast.get_docstring(tree) or "").split("\n")[0].replace("|", "\\|")
        yield f"| `{path}` | {what} | {', '.join(f'`{one}`' for one in names_of(tree))} |"


def names_of(tree: ast.Module) -> list[str]:
    """`__all__` of a module; of one without it, its functions and classes without an underscore."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return [str(one) for one in ast.literal_eval(node.value) if not str(one).startswith("__")]
    kinds = (ast.FunctionDef, ast.ClassDef)
    return [node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]


def measures() -> Iterable[str]:
    """The functions of `gated_lpi.metrics`, by the files in which they are."""
    groups: dict[str, list[str]] = {}
    for name in metrics.__all__:
        if inspect.isfunction(getattr(metrics, name)):
            groups.setdefault(getattr(metrics, name).__module__, []).append(name)
    for module, names in sorted(groups.items()):
        head = (inspect.getdoc(import_module(module)) or "").split("\n\n")[0]
        yield from (
            f"**{module.rsplit('.', 1)[-1].strip('_').replace('_', ' ').capitalize()}.** " + " ".join(head.split()),
            "",
        )
        yield "| function | what it gives |"
        yield "|---|---|"
        for name in sorted(names):
            said = (inspect.getdoc(getattr(metrics, name)) or "").split("\n\n")[0]
            yield f"| `{name}` | {' '.join(said.split()).replace('|', chr(92) + '|')} |"
        yield ""


def _name(file: Path) -> str:
    return file.parent.name if file.stem == "__init__" else file.stem
