"""Facts as data: relations of subjects and objects, and the prompts that templates make of them.

1. A *sample* is one fact, subject → object. A *relation* holds samples of one kind and the templates that
   put them into words; its fields are those of the LRE relation files (Hernandez et al. 2024).
2. A template has exactly one "{}", where the subject goes. The text so made is a *prompt* without its
   answer; `join` says how the answer is attached to it, and is the only place that does.
3. A *fact set* is a tuple of relations. It gives prompts in three ways (`FactSet.prompts`) and the
   complement of the held-out ones (`FactSet.training_prompts`), so that a model trained on the latter has
   met every fact and every template, but never the two in the combination it is tested on.

Everything is immutable and checked when it is built; order is kept throughout.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Literal, get_args

from gated_lpi.errors import FactsError, OptionError

Templates = Literal["first", "all", "held_out"]

SLOT = "{}"


def join(prompt: str, target: str) -> str:
    """Attach an answer to its prompt: by one space, unless one of them brings whitespace to the joint.

    Joining what has been joined changes nothing: `join(p.text, p.target)` of a fact set's prompt is
    `p.text + p.target`.
    """
    if not prompt or prompt[-1].isspace() or target[:1].isspace():
        return prompt + target
    return f"{prompt} {target}"


@contextmanager
def located(where: str) -> Iterator[None]:
    """Put `where` (a file, a relation, a position) in front of a `FactsError` raised inside."""
    try:
        yield
    except FactsError as error:
        raise FactsError(f"{where}: {error}") from None


def check_template(template: str) -> None:
    """Raise `FactsError` unless the template has exactly one "{}"."""
    count = template.count(SLOT)
    if count != 1:
        raise FactsError(
            f'template {template!r} has {count} times "{{}}"; it must have it once. '
            f'Write "{{}}" where the subject goes.'
        )


@dataclass(frozen=True)
class Sample:
    """One fact. `template` is the fact's own wording; without one, its relation's templates apply."""

    subject: str
    object: str
    template: str | None = None

    def __post_init__(self) -> None:
        """Refuse blank texts and malformed templates."""
        for key, text in (("subject", self.subject), ("object", self.object)):
            if not text.strip():
                raise FactsError(f"the {key} is {text!r}; give it at least one visible character")
        if self.template is not None:
            check_template(self.template)


@dataclass(frozen=True)
class Relation:
    """Facts of one kind and the templates that put them into words, as in an LRE relation file.

    `prompt_templates_zs` (the file's zero-shot variants) are kept but make no prompts. Raises `FactsError`
    for a relation without a name, samples or templates, and for a template without exactly one "{}".
    """

    name: str
    prompt_templates: tuple[str, ...]
    samples: tuple[Sample, ...]
    prompt_templates_zs: tuple[str, ...] = ()
    properties: Mapping[str, object] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Refuse a relation that can make no prompt."""
        if not self.name.strip():
            raise FactsError(f"the relation's name is {self.name!r}; give it a name")
        with located(f"relation {self.name!r}"):
            if not self.samples:
                raise FactsError('no samples; give at least one {"subject", "object"} or leave the relation out')
            if not self.prompt_templates:
                raise FactsError("no prompt_templates; give at least one text with {} where the subject goes")
            for template in (*self.prompt_templates, *self.prompt_templates_zs):
                check_template(template)

    def templates_of(self, sample: Sample) -> tuple[str, ...]:
        """The templates that apply to a sample: its own one, else all of the relation's."""
        return self.prompt_templates if sample.template is None else (sample.template,)

    def prompt(self, sample: Sample, template: str) -> "Prompt":
        """Put one fact into words."""
        text = template.replace(SLOT, sample.subject)
        return Prompt(
            text=text,
            target=join(text, sample.object)[len(text) :],
            relation=self.name,
            subject=sample.subject,
            object=sample.object,
            template=template,
        )


@dataclass(frozen=True)
class Prompt:
    """A fact through a template: `text` without its answer, and `target`, the answer.

    A fact set's prompts have the joint's space in `target` (" Paris"), so that `text + target` is the whole;
    in prompts built by hand it may be left out, since `join` gives the same for both.
    """

    text: str
    target: str
    relation: str = ""
    subject: str = ""
    object: str = ""
    template: str = ""


@dataclass(frozen=True)
class FactSet:
    """Relations, where they came from, and `notes` on everything repaired, dropped or odd in them.

    `len()` is the number of facts. Raises `FactsError` for no relations, or two of one name.
    """

    relations: tuple[Relation, ...]
    source: str
    notes: tuple[str, ...] = ()

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
        """Hash of the relations' canonical JSON; where they were read from does not enter."""
        content = [asdict(relation) for relation in self.relations]
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

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


def _held_out(fact: int, n_templates: int) -> int:
    return fact % n_templates


def _chosen(templates: tuple[str, ...], fact: int, which: Templates) -> tuple[str, ...]:
    if which == "all":
        return templates
    return (templates[0 if which == "first" else _held_out(fact, len(templates))],)
