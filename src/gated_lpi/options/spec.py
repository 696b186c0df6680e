"""The base of all options that are read from files: plain data, checked when it is read and not when it is used."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    create_model,
    model_serializer,
    model_validator,
)

from gated_lpi._common.foreign import has_surrogate

GREATEST = 2**63 - 1  # that arrays and files of results can hold
Whole = Annotated[int, Field(ge=0, le=GREATEST)]
Positive = Annotated[int, Field(ge=1, le=GREATEST)]
Text = Annotated[str, Field(min_length=1)]


class _Read:
    """Marks a text as the name of a file."""


FileName = Annotated[Text, _Read()]
"""The name of a file that is read where the options are used, and is no part of them."""


class Spec(BaseModel):
    """Options as plain data that cannot change, without any key that means nothing.

    Numbers are finite. True and false are no numbers, and nothing else is true or false. Texts hold neither NUL nor
    half of a surrogate pair, which no file name can have.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, given: Any) -> Any:
        for key, value in given.items() if isinstance(given, dict) else ():
            field = cls.model_fields.get(key) if isinstance(key, str) else None
            if field is not None and not _holds(field.annotation, Spec):  # which looks at its own values
                _refuse_odd(key, value, booleans=_holds(field.annotation, bool))
                if _is_choice(field.annotation) and not isinstance(value, bool | None):
                    raise ValueError(f"{key} is {value!r}; expected true or false, which are written without quotes")
        return given


def files_of(options: Spec) -> tuple[str, ...]:
    """The files that options name by fields of the type `FileName`."""
    fields = type(options).model_fields.items()
    return tuple(getattr(options, name) for name, field in fields if any(isinstance(m, _Read) for m in field.metadata))


class Overrides(Spec):
    """Some keys of another class of options, each checked as it is there; what was not given is not in its dump."""

    @model_serializer(mode="wrap")
    def _given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if value is not None}


def overrides_of(
    spec: type[Spec], name: str, module: str, *, without: Iterable[str] = (), **inner: type[Overrides]
) -> type[Overrides]:
    """A class with the fields of `spec`, none of them needed; `inner` are the classes of those that are options too.

    Args:
        spec: whose fields have no use for None.
        name: of the class, and of the variable of `module` that holds it, so that it can be pickled.
        module: where it is.
        without: fields that cannot be given.
        inner: by field.
    """
    fields: dict[str, Any] = {}
    for key, field in spec.model_fields.items():
        if key not in set(without):
            kind: Any = inner.get(key, field.annotation)
            fields[key] = ((Annotated[(kind, *field.metadata)] if field.metadata else kind) | None, None)
    return create_model(name, __base__=Overrides, __module__=module, **fields)


def _holds(annotation: Any, kind: type) -> bool:
    """Whether values of an annotation may be, or hold, what is of a kind."""
    own = isinstance(annotation, type) and issubclass(annotation, kind)
    return own or any(_holds(inner, kind) for inner in get_args(annotation))


def _is_choice(annotation: Any) -> bool:
    """Whether values of an annotation are true or false, or None."""
    kinds = set(get_args(annotation)) - {type(None)} or {annotation}
    return kinds == {bool}


def _refuse_odd(key: str, given: Any, *, booleans: bool) -> None:
    """Refuse, also inside lists and tables, what pydantic would take for a number or text that it is not."""
    waiting = [given]
    while waiting:
        value = waiting.pop()
        if isinstance(value, bool) and not booleans:
            raise ValueError(f"{key} is {str(value).lower()}; expected a number or a text, not true or false")
        if isinstance(value, str) and ("\0" in value or has_surrogate(value)):
            raise ValueError(
                f"{key} is {value[:60]!r}, with a character that no file name can have (NUL or half a pair)"
            )
        if isinstance(value, list | tuple):
            waiting += value
        elif isinstance(value, dict):
            waiting += [*value, *value.values()]
