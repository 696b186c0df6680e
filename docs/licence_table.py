"""Licences of the packages that this one needs, as their metadata say."""

import re
import tomllib
from collections.abc import Iterable
from importlib.metadata import metadata
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
OF_USERS = ("explore", "gguf", "s3", "ray")
SEVERAL = 2  # " AND "s of an expression from which on it is that of what a package bundles, which differs by build


def licences() -> Iterable[str]:
    """A row for every direct dependency, and those of the extras that users install."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    needed = {name: project["optional-dependencies"][name] for name in OF_USERS}
    yield "| package | for | licence |"
    yield "|---|---|---|"
    for extra, packages in {"": project["dependencies"], **needed}.items():
        for name in sorted((re.split(r"[\[<>=! ]", package)[0] for package in packages), key=str.lower):
            yield f"| {name} | {f'the extra `{extra}`' if extra else 'all'} | {licence_of(name)} |"


def licence_of(name: str) -> str:
    """A package's licence: its expression, its name or, where there is only that, its classifier."""
    said = metadata(name)
    classified = [one.split(" :: ")[-1] for one in said.get_all("Classifier", []) if one.startswith("License ::")]
    expression, text = said.get("License-Expression") or "", said.get("License") or ""
    if expression.count(" AND ") >= SEVERAL:
        return "its own and those of what it bundles: see its metadata"
    named = text if 0 < len(text) < 40 and "\n" not in text else ""
    return str(expression or named or ", ".join(classified) or "see its own")
