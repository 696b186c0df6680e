"""The pages of the API: what docstrings say, read by griffe from the sources, which are never imported.

Docstrings are Markdown with Google's sections. A page for each public package has its public names: `__all__`, or what
has no underscore in a module without one.
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import griffe

SOURCE = Path(__file__).resolve().parents[2] / "src"
PACKAGE = "gated_lpi"
HIDDEN = ("cli", "version")  # nothing that users import
CODE = re.compile(r"(`+[^`]+`+)")
Shown = griffe.Class | griffe.Function | griffe.Attribute


@cache
def package() -> griffe.Module:
    """The whole package, as griffe reads it."""
    loaded = griffe.load(PACKAGE, search_paths=[str(SOURCE)], resolve_aliases=True, docstring_parser="google")
    assert isinstance(loaded, griffe.Module)
    return loaded


def modules() -> list[str]:
    """The paths of the public packages and modules, "gated_lpi" itself first."""
    names = (name for name, member in package().members.items() if not member.is_alias and member.is_module)
    return [PACKAGE, *(f"{PACKAGE}.{name}" for name in sorted(names) if name[0] != "_" and name not in HIDDEN)]


def names(path: str) -> Iterator[tuple[str, Shown]]:
    """The public names of a package or module that have a docstring, with what they are."""
    module = package() if path == PACKAGE else package()[path.removeprefix(f"{PACKAGE}.")]
    own = (name for name, member in module.members.items() if name[0] != "_" and not member.is_alias)
    listed = module.exports if module.exports is not None else own
    for name in sorted(map(str, listed), key=str.lower):
        member = module.members.get(name)
        target = member.final_target if isinstance(member, griffe.Alias) else member
        if isinstance(target, Shown) and (target.docstring or isinstance(target, griffe.Class | griffe.Function)):
            yield name, target


def first_line(shown: Shown | griffe.Module) -> str:
    """What a docstring begins with."""
    return shown.docstring.value.strip().splitlines()[0] if shown.docstring else ""


def page(path: str) -> str:
    """The page of a package or module."""
    module = package() if path == PACKAGE else package()[path.removeprefix(f"{PACKAGE}.")]
    lines = [f"# {path}", "", *_text(module.docstring.value if module.docstring else ""), ""]
    for name, shown in names(path):
        lines += _described(name, shown, 2)
    return "\n".join(lines)


def _described(name: str, shown: Shown, level: int) -> Iterator[str]:
    yield from (f"{'#' * level} {name}", "", "```python", _signature(name, shown), "```", "")
    if isinstance(shown, griffe.Class) and shown.bases:
        yield from ("Derives from " + ", ".join(f"`{base}`" for base in shown.bases) + ".", "")
    if shown.docstring:
        yield from _docstring(shown)
    if isinstance(shown, griffe.Class):
        for inner, member in shown.members.items():
            if inner[0] != "_" and isinstance(member, griffe.Function) and member.docstring:
                yield from _described(f"{name}.{inner}", member, level + 1)


def _signature(name: str, shown: Shown) -> str:
    if isinstance(shown, griffe.Attribute):
        return f"{name}: {shown.annotation}" if shown.annotation else f"{name} = {shown.value}"
    if isinstance(shown, griffe.Class):
        return f"class {name}"
    text = shown.signature(return_type=True, name=name)
    if len(text) <= 100:
        return text
    head, _, rest = text.partition("(")
    return f"{head}(\n    " + re.sub(r", (?=\*{0,2}\w+: |\*, |/, )", ",\n    ", rest)


def _docstring(shown: Shown) -> Iterator[str]:
    assert shown.docstring is not None
    for section in shown.docstring.parse("google", warnings=False):
        match section:
            case griffe.DocstringSectionText():
                yield from _text(section.value)
            case griffe.DocstringSectionAdmonition():
                yield from _text(f"**{section.title}**\n\n{section.value.contents}")
            case _ if isinstance(section.value, list):
                yield from (f"**{section.kind.value.capitalize()}**", "")
                yield from (_item(one) for one in section.value)
            case _:
                yield from _text(str(section.value))
        yield ""


def _item(one: object) -> str:
    """A parameter, attribute, result or error with its description, as an item of a list."""
    name, kind = getattr(one, "name", ""), getattr(one, "annotation", None)
    label = name or (str(kind) if kind else "")
    said = " ".join(_text(str(getattr(one, "description", one))))
    return f"- `{label}`: {said}" if label else f"- {said}"


def _text(value: str) -> list[str]:
    """Text of a docstring, whose angle brackets are no HTML and whose headings are no sections."""
    fenced = re.split(r"(^```.*?^```)", value, flags=re.DOTALL | re.MULTILINE)
    safe = "".join(part if part.startswith("```") else _escaped(part) for part in fenced)
    return safe.splitlines()


def _escaped(text: str) -> str:
    parts = CODE.split(text)
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;") for part in parts)
