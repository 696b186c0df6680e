"""Options of the command line that are declared in one place: those of several verbs, and those of classes of options.

A parameter `options: dict[str, Any]` of a command becomes one option for each field: `tolerance: float` is --tolerance,
with the field's default and description. Values are checked by the class itself, whose errors say what is allowed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

if TYPE_CHECKING:
    from gated_lpi.models import Family, Model

# Options that several verbs have.
Templates = Annotated[str, typer.Option(help="first, all or held_out.")]
Separator = Annotated[
    str | None,
    typer.Option(help='Between prompt and answer, for all facts: auto, or any text ("" too). Default: as they say.'),
]
Bos = Annotated[
    bool | None, typer.Option("--bos/--no-bos", help="Begin prompts with BOS, or not. Default: as the tokenizer.")
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub repository.")]
Device = Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda, …")]
DeviceMap = Annotated[
    str | None, typer.Option(help="Spread the model over devices: auto, balanced, balanced_low_0 or sequential.")
]
TrustRemoteCode = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")]
FamilyRow = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", help="Read the model by this row of the table of families: TOML, see docs/families.md."
    ),
]
Tokenizer = Annotated[
    str | None, typer.Option(metavar="FOLDER|REPO", help="Its tokenizer, where that is not beside the weights.")
]
Gguf = Annotated[str | None, typer.Option(metavar="FILE", help="Read this GGUF file of the model.")]


@dataclass(frozen=True)
class ModelLoading:
    """How a verb was asked to load its model: the options that `loads_model` gives it, as `load_model` takes them."""

    revision: str | None = None
    device: str = "auto"
    device_map: str | None = None
    trust_remote_code: bool = False
    gguf: str | None = None
    tokenizer: str | None = None
    family: Family | None = None

    def load(self, model: str) -> Model:
        """Load and prove the model of a folder or a hub repository."""
        from gated_lpi.loading import load_model

        return load_model(model, **vars(self))


AS_USUAL = ModelLoading()

_OF_LOADING: dict[str, tuple[Any, Any]] = {
    "revision": (Revision, None),
    "device": (Device, "auto"),
    "device_map": (DeviceMap, None),
    "trust_remote_code": (TrustRemoteCode, False),
    "gguf": (Gguf, None),
    "tokenizer": (Tokenizer, None),
    "family_row": (FamilyRow, None),
}


def loads_model(*without: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of loading a model, in place of its parameter `loading: ModelLoading`.

    A row of the table of families is read before the command begins, so that one that is none is refused at once.

    Args:
        without: names of those that it does not take.
    """
    offered = {name: option for name, option in _OF_LOADING.items() if name not in without}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def flat(**given: Any) -> None:
            asked = {name: given.pop(name) for name in offered}
            row = asked.pop("family_row", None)
            command(**given, loading=ModelLoading(**asked, family=None if row is None else _read_row(row)))

        parameters: list[inspect.Parameter] = []
        for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
            kind = parameter.kind
            mine = [inspect.Parameter(n, kind, default=d, annotation=a) for n, (a, d) in offered.items()]
            parameters += mine if name == "loading" else [parameter]
        flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        flat.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return flat

    return decorate


def _read_row(file: str) -> Family:
    from gated_lpi.models import read_row

    return read_row(file)


def with_options(fields: Mapping[str, tuple[Any, FieldInfo]], **defaults: Any) -> Callable[[Callable[..., None]], Any]:
    """Give a command one option for each field; those that were given, it gets as the dict `options`.

    Args:
        fields: name → (type, field), as `gated_lpi.options.methods.flat_fields` makes them.
        defaults: of this command, in place of those of the fields; it gets them, too.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def flat(context: typer.Context, **given: Any) -> None:
            options = {name: _joined(given.pop(name), kind) for name, (kind, _) in fields.items()}
            asked = {name for name in fields if name in defaults or _given(context, name)}
            command(**given, options={name: options[name] for name in fields if name in asked})

        before = inspect.signature(command, eval_str=True).parameters
        mine = {name: _parameter(name, *field, defaults) for name, field in fields.items()}
        own = [parameter for name, parameter in before.items() if name != "options"]
        both = [*own, *mine.values()]
        ordered = sorted(both, key=lambda parameter: parameter.default is not inspect.Parameter.empty)
        context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
        ordered.insert(0, context)
        flat.__signature__ = inspect.Signature(ordered)  # type: ignore[attr-defined]
        flat.__annotations__ = {parameter.name: parameter.annotation for parameter in ordered}
        return flat

    return decorate


def _given(context: typer.Context, name: str) -> bool:
    """Whether an option was given, and is not what it is by default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _parameter(name: str, kind: Any, field: FieldInfo, defaults: Mapping[str, Any]) -> inspect.Parameter:
    default = defaults.get(name, None if _is_list(kind) else field.default)
    option = typer.Option(help=field.description)
    plain: Any = _plain(kind, default)
    annotation = Annotated[plain, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _plain(kind: Any, default: Any) -> Any:
    """The type that a command line can read: texts are checked later."""
    if _is_list(kind):
        return list[str] | None
    inner = {bool, int, float}.intersection(_types(kind))
    found: Any = inner.pop() if len(inner) == 1 and str not in _types(kind) else str
    return found | None if default is None else found


def _is_list(kind: Any) -> bool:
    return tuple in _types(kind)


def _types(kind: Any) -> set[Any]:
    """The plain types that an annotation is made of."""
    origin = get_origin(kind)
    if origin is Annotated:
        return _types(get_args(kind)[0])
    if origin in (Union, UnionType):
        return {found for inner in get_args(kind) for found in _types(inner)}
    if origin is Literal:
        return {str}
    return {origin or kind}


def _joined(value: Any, kind: Any) -> Any:
    """Values of a list, which may be repeated or joined by commas."""
    if not _is_list(kind) or value is None:
        return value
    return tuple(part.strip() for joined in value for part in joined.split(","))
