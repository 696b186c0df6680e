"""The reference of experiment files, from the schema of `Experiment`: every key with its type, default and meaning."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from gated_lpi.experiments.experiment import (
    AblationSpec,
    Arm,
    AttributionSpec,
    Experiment,
    FactsSpec,
    FollowSpec,
    MetricsSpec,
    RoutingSpec,
)
from gated_lpi.experiments.settings import EngineSpec, StorageSpec
from gated_lpi.training.spec import CorpusSpec, ModelSize, ShiftSpec, StabiliseSpec, TrainingSpec

TABLES: Mapping[str, type[BaseModel]] = {
    "The file": Experiment,
    "[facts]": FactsSpec,
    "[attribution]": AttributionSpec,
    "[metrics]": MetricsSpec,
    "[ablation]": AblationSpec,
    "[routing]": RoutingSpec,
    "[follow]": FollowSpec,
    "[training]": TrainingSpec,
    "[training.size]": ModelSize,
    "[training.shift]": ShiftSpec,
    "[training.stabilise]": StabiliseSpec,
    "[corpus]": CorpusSpec,
    "[engine]": EngineSpec,
    "[storage]": StorageSpec,
    "[[arms]]": Arm,
}
NAMED = {kind.__name__: name for name, kind in TABLES.items()}
NAMED |= {"TrainingOverrides": "[training]", "SizeOverrides": "[training.size]", "ShiftOverrides": "[training.shift]"}
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
PLAIN = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false"}
HUGE = 2**53  # bounds that only say what a file can hold


def experiment_file() -> Iterable[str]:
    """A heading and a table for each part of an experiment file."""
    for name, kind in TABLES.items():
        schema = kind.model_json_schema()
        meanings = meanings_of(kind)
        yield from (f"## {name}" if name == "The file" else f"## `{name}`", "", opening(kind), "")
        yield "| key | what may be given | default | what it is |"
        yield "|---|---|---|---|"
        needed = set(schema.get("required", ()))
        for key, given in schema["properties"].items():
            meaning = kind.model_fields[key].description or meanings[key]
            allowed = said(given, schema.get("$defs", {}))
            default = "needed" if key in needed else default_of(given, allowed)
            yield f"| `{key}` | {allowed} | {default} | {escaped(meaning)} |"
        yield ""


def opening(kind: type[BaseModel]) -> str:
    """The first paragraph of a class's docstring, and what stands before its attributes."""
    text = (kind.__doc__ or "").split("Attributes:")[0]
    return " ".join(text.split())


def meanings_of(kind: type[BaseModel]) -> dict[str, str]:
    """What a class's docstring says of each of its attributes; several that share a line share what it says."""
    text = (kind.__doc__ or "").partition("Attributes:")[2]
    found: dict[str, str] = {}
    for names, meaning in re.findall(r"^ {8}([a-z_, 0-9]+): (.*(?:\n {12}.*)*)", text, flags=re.MULTILINE):
        found |= dict.fromkeys(names.split(", "), " ".join(meaning.split()))
    return found


def default_of(given: Mapping[str, Any], allowed: str) -> str:
    """A default as it would be written in the file; a table's own are in its table, and none is a key left out."""
    default = given.get("default")
    if default is None or isinstance(default, dict) or allowed.startswith("table"):
        return ""
    return f"`{json.dumps(default, ensure_ascii=False)}`"


def said(given: Mapping[str, Any], named: Mapping[str, Any]) -> str:
    """What a schema allows, in words."""
    if "$ref" in given:
        name = given["$ref"].rsplit("/", 1)[-1]
        return f"table, as `{NAMED[name]}`" if name in NAMED else said(named[name], named)
    if "const" in given or "enum" in given:
        values = given.get("enum", [given.get("const")])
        return ", ".join(f"`{json.dumps(value)}`" for value in values)
    choices = given.get("anyOf") or given.get("oneOf")
    if choices:
        each = [said(choice, named) for choice in choices if choice.get("type") != "null"]
        return " or ".join(dict.fromkeys(each))
    if given.get("type") == "array":
        return f"list of {_element(given, named)}"
    if given.get("type") == "object" or "type" not in given:
        return "table"
    bounds = [f"{sign} {given[key]:,}" for key, sign in BOUNDS.items() if key in given and abs(given[key]) < HUGE]
    longest = [f"at most {given['maxLength']} characters"] if "maxLength" in given else []
    return ", ".join([PLAIN[given["type"]] + (f" {' and '.join(bounds)}" if bounds else ""), *longest])


def _element(given: Mapping[str, Any], named: Mapping[str, Any]) -> str:
    inner = given.get("prefixItems")
    if inner:
        return " and ".join(said(one, named) for one in inner)
    return said(given["items"], named) if given.get("items") else "values"


def escaped(text: str) -> str:
    """Text in a table's cell."""
    return text.replace("|", "\\|")
