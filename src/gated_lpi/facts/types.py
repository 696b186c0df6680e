"""Facts as data: relations of subjects and objects, and the prompts that templates make of them.

1. A *sample* is one fact, subject → object. A *relation* holds samples of one kind and the templates that
   put them into words; its fields are those of the LRE relation files (Hernandez et al. 2024).
2. A template has exactly one "{}", where the subject goes. The text so made is a *prompt* without its
   answer; `join` says how the answer is attached to it, and is the only place that does. `Prompt.joined` is the
   whole, by the separator of the fact, else of its relation, else "auto".
3. A *fact set* is a tuple of relations. It gives prompts in three ways (`FactSet.prompts`) and the
   complement of the held-out ones (`FactSet.training_prompts`), so that a model trained on the latter has
   met every fact and every template, but never the two in the combination it is tested on.

Everything is immutable and checked when it is built; order is kept throughout.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, get_args

from gated_lpi._common.foreign import has_surrogate
from gated_lpi.errors import FactsError, OptionError
from gated_lpi.facts.messages import located, shown

Templates = Literal["first", "all", "held_out"]
OnError = Literal["raise", "skip"]

SLOT = "{}"
AUTO = "auto"


def join(prompt: str, target: str, separator: str = AUTO) -> str:
    """Attach an answer to its prompt.

    - "auto": by one space, unless one of them brings whitespace to the joint. Joining what has been joined so
      changes nothing: `join(p.text, p.target)` of such a prompt of a fact set is `p.text + p.target`;
    - any other text, "" too: by exactly that text, whatever stands on either side of it.
    """
    if separator != AUTO:
        return prompt + separator + target
    if not prompt or prompt[-1].isspace() or target[:1].isspace():
        return prompt + target
    return f"{prompt} {target}"


def check_text(value: object, key: str) -> str:
    """Return the value as a plain text; `FactsError` if it is none or holds half of a surrogate pair."""
    if not isinstance(value, str):
        raise FactsError(f"{key!r} is {shown(value)}; expected a text")
    if not value.isascii() and has_surrogate(value):
        raise FactsError(f"{key!r} is {shown(value)}, with half of a surrogate pair; write the whole character")
    return str(value)


def check_separator(separator: object) -> str:
    """Return the separator; `FactsError` unless it is "auto" or another text that can be written."""
    if not isinstance(separator, str):
        raise FactsError(
            f"'separator' is {shown(separator)}; expected \"auto\" (one space where there is no whitespace) "
            'or the text that stands between prompt and answer, which may be ""'
        )
    return check_text(separator, "separator")


def separator_option(separator: object) -> str:
    """`check_separator` for an argument: an `OptionError` names what is wrong with it."""
    try:
        return check_separator(separator)
    except FactsError as error:
        raise OptionError(str(error)) from None


def check_on_error(on_error: str) -> None:
    """Raise `OptionError` unless on_error is "raise" or "skip"."""
    if on_error not in get_args(OnError):
        raise OptionError(f"on_error={on_error!r}; choose one of {', '.join(get_args(OnError))}")


def check_template(template: str) -> None:
    """Raise `FactsError` unless the template has exactly one "{}"."""
    count = check_text(template, "template").count(SLOT)
    if count != 1:
        raise FactsError(
            f'template {template!r} has {count} times "{{}}"; it must have it once. '
            f'Write "{{}}" where the subject goes.'
        )


@dataclass(frozen=True)
class Sample:
    """One fact. `template` and `separator` are its own wording; without them, its relation's apply."""

    subject: str
    object: str
    template: str | None = None
    separator: str | None = None

    def __post_init__(self) -> None:
        """Refuse blank texts, malformed templates and what is no text."""
        for key, text in (("subject", self.subject), ("object", self.object)):
            if not check_text(text, key).strip():
                raise FactsError(f"the {key} is {text!r}; give it at least one visible character")
        if self.template is not None:
            check_template(self.template)
        if self.separator is not None:
            check_separator(self.separator)


@dataclass(frozen=True)
class Relation:
    """Facts of one kind and the templates that put them into words, as in an LRE relation file.

    `prompt_templates_zs` (the file's zero-shot variants) are kept but make no prompts. `separator` is what stands
    between prompt and answer (see `join`); None is "auto" that may be filled in when facts are loaded. Raises
    `FactsError` for a relation without a name, samples or templates, and for a template without exactly one "{}".
    """

    name: str
    prompt_templates: tuple[str, ...]
    samples: tuple[Sample, ...]
    prompt_templates_zs: tuple[str, ...] = ()
    properties: Mapping[str, object] = field(default_factory=dict, hash=False)
    separator: str | None = None

    def __post_init__(self) -> None:
        """Refuse a relation that can make no prompt."""
        if not check_text(self.name, "name").strip():
            raise FactsError(f"the relation's name is {self.name!r}; give it a name")
        with located(f"relation {self.name!r}"):
            if not self.samples:
                raise FactsError('no samples; give at least one {"subject", "object"} or leave the relation out')
            if not self.prompt_templates:
                raise FactsError("no prompt_templates; give at least one text with {} where the subject goes")
            for template in (*self.prompt_templates, *self.prompt_templates_zs):
                check_template(template)
            if self.separator is not None:
                check_separator(self.separator)

    def separator_of(self, sample: Sample | None = None) -> str:
        """The separator that applies to a sample: its own one, else the relation's, else "auto"."""
        own = None if sample is None else sample.separator
        return next((given for given in (own, self.separator) if given is not None), AUTO)

    def templates_of(self, sample: Sample) -> tuple[str, ...]:
        """The templates that apply to a sample: its own one, else all of the relation's."""
        return self.prompt_templates if sample.template is None else (sample.template,)

    def prompt(self, sample: Sample, template: str) -> "Prompt":
        """Put one fact into words."""
        text = template.replace(SLOT, sample.subject)
        separator = self.separator_of(sample)
        return Prompt(
            text=text,
            target=join(text, sample.object)[len(text) :] if separator == AUTO else sample.object,
            relation=self.name,
            subject=sample.subject,
            object=sample.object,
            template=template,
            separator=separator,
        )


@dataclass(frozen=True)
class Prompt:
    """A fact through a template: `text` without its answer, `target`, the answer, and the `separator` between.

    With "auto", a fact set's prompts have the joint's space in `target` (" Paris"); in prompts built by hand it may
    be left out, since `join` gives the same for both. With any other separator the target is the answer as it was
    given. `joined` is the whole in every case.
    """

    text: str
    target: str
    relation: str = ""
    subject: str = ""
    object: str = ""
    template: str = ""
    separator: str = AUTO

    @property
    def joined(self) -> str:
        """The prompt with its answer, as it is tokenised."""
        return join(self.text, self.target, self.separator)

    @property
    def answer_start(self) -> int:
        """Where in `joined` the answer's first visible character stands; a separator is never part of the answer."""
        return len(self.joined) - len(self.target.lstrip())


@dataclass(frozen=True)
class Skipped:
    """A fact that was left out, and why. `fact` says which: its place in a file, or the words of its `prompt`."""

    fact: str
    reason: str
    prompt: Prompt | None = None

    def __str__(self) -> str:
        """Both in one line."""
        return f"{self.fact}: {self.reason}"


@dataclass(frozen=True)
class FactSet:
    """Relations, where they came from, and `notes` on everything repaired, dropped or odd in them.

    `skipped` holds every fact that could not be loaded, if the loader was told to skip those. `len()` is the number
    of facts. Raises `FactsError` for no relations, or two of one name.
    """

    relations: tuple[Relation, ...]
    source: str
    notes: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()

    def __post_init__(self) -> None:
        """Refuse an empty set and relations that cannot be told apart."""
        if not self.relations:
            raise FactsError(f"{self.source}: no relations; give at least one")
        twice = [name for name, n in Counter(r.name for r in self.relations).items() if n > 1]
        if twice:
            raise FactsError(
                f"{self.source}: more than one relation is named {twice[0]!r}; "
                "names must differ, since results are kept by them. Rename or merge these relations."
            )

    def __len__(self) -> int:
        """Count the facts."""
        return sum(len(relation.samples) for relation in self.relations)

    @cached_property
    def sha256(self) -> str:
        """Hash of the relations' canonical JSON; where they were read from does not enter.

        Separators enter where they differ from "auto", so that facts without any keep the hash they always had.
        """
        content = [_hashed(relation) for relation in self.relations]
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def with_separator(self, separator: str) -> "FactSet":
        """The same facts, all joined by this separator, whatever they or their relations name.

        Raises `OptionError` if it is not a text.
        """
        given = separator_option(separator)
        relations = (
            replace(relation, separator=given, samples=tuple(replace(s, separator=None) for s in relation.samples))
            for relation in self.relations
        )
        return replace(self, relations=tuple(relations))

    def prompts(self, templates: Templates = "first") -> tuple[Prompt, ...]:
        """The facts in words, relation by relation, in the order of their samples.

        - "first": each fact through the first template that applies to it;
        - "all": each fact through every template that applies to it;
        - "held_out": fact i of a relation through template i mod T, one prompt a fact.

        A fact with a template of its own has T = 1: all three give that one prompt. Raises `OptionError`
        for another value.
        """
        if templates not in get_args(Templates):
            raise OptionError(f"templates={templates!r}; choose one of {', '.join(get_args(Templates))}")
        return tuple(
            relation.prompt(sample, template)
            for relation, i, sample in self._facts()
            for template in _chosen(relation.templates_of(sample), i, templates)
        )

    def training_prompts(self) -> tuple[Prompt, ...]:
        """Every fact through every template that applies to it but its held-out one.

        Facts to which only one template applies have nothing to train on, and give no prompt.
        """
        return tuple(
            relation.prompt(sample, template)
            for relation, i, sample in self._facts()
            for k, template in enumerate(relation.templates_of(sample))
            if k != _held_out(i, len(relation.templates_of(sample)))
        )

    def _facts(self) -> Iterator[tuple[Relation, int, Sample]]:
        for relation in self.relations:
            for i, sample in enumerate(relation.samples):
                yield relation, i, sample


def _hashed(relation: Relation) -> dict[str, Any]:
    """A relation's content; only separators that change a joint are in it."""
    content = asdict(relation)
    usual = relation.separator_of()
    if usual == AUTO:
        del content["separator"]
    for sample, fields in zip(relation.samples, content["samples"], strict=True):
        if relation.separator_of(sample) == usual:
            del fields["separator"]
    return content


def _held_out(fact: int, n_templates: int) -> int:
    return fact % n_templates


def _chosen(templates: tuple[str, ...], fact: int, which: Templates) -> tuple[str, ...]:
    if which == "all":
        return templates
    return (templates[0 if which == "first" else _held_out(fact, len(templates))],)
