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

from gated_lpi._common.entries import printable, quoted
from gated_lpi._common.foreign import has_surrogate
from gated_lpi.errors import FactsError, OptionError
from gated_lpi.facts.messages import located, shown

Templates = Literal["first", "all", "held_out"]
OnError = Literal["raise", "skip"]
Answer = Literal["first", "all"]
"""How much of an answer is asked for: its first token, the target, or all of its tokens."""

SLOT = "{}"
SHOWN_RELATIONS = 5  # by name, of a fact set
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
    """The value as a plain text.

    Raises:
        FactsError: it is no text, or holds half of a surrogate pair; names the key.
    """
    if not isinstance(value, str):
        raise FactsError(f"{key!r} is {shown(value)}; expected a text")
    if not value.isascii() and has_surrogate(value):
        raise FactsError(f"{key!r} is {shown(value)}, with half of a surrogate pair; write the whole character")
    return str(value)


def check_separator(separator: object) -> str:
    """The separator, once it is known to be one.

    Raises:
        FactsError: it is neither "auto" nor another text that can be written.
    """
    if not isinstance(separator, str):
        raise FactsError(
            f"'separator' is {shown(separator)}; expected \"auto\" (one space where there is no whitespace) "
            'or the text that stands between prompt and answer, which may be ""'
        )
    return check_text(separator, "separator")


def separator_option(separator: object) -> str:
    """The separator that was given as an argument, once it is known to be one.

    Raises:
        OptionError: it is neither "auto" nor another text that can be written.
    """
    try:
        return check_separator(separator)
    except FactsError as error:
        raise OptionError(str(error)) from None


def check_on_error(on_error: str) -> None:
    """Refuse what `on_error` may not be.

    Raises:
        OptionError: it is neither "raise" nor "skip".
    """
    if on_error not in get_args(OnError):
        raise OptionError(f"on_error={on_error!r}; choose one of {', '.join(get_args(OnError))}")


def check_answer(answer: str) -> None:
    """Refuse what `answer` may not be.

    Raises:
        OptionError: it is neither "first" nor "all".
    """
    if answer not in get_args(Answer):
        raise OptionError(f"answer={answer!r} was given; expected 'first', the target alone, or 'all' of its tokens")


def check_template(template: str) -> None:
    """Refuse a text in which there is no one place for the subject.

    Raises:
        FactsError: it does not have exactly one "{}".
    """
    count = check_text(template, "template").count(SLOT)
    if count != 1:
        raise FactsError(
            f'template {template!r} has {count} times "{{}}"; it must have it once. '
            f'Write "{{}}" where the subject goes.'
        )


@dataclass(frozen=True)
class Sample:
    """One fact.

    Attributes:
        subject: what it is about.
        object: its answer.
        template: its own wording; None: the templates of its relation apply.
        separator: what stands between its prompts and its answer; None: that of its relation applies.
        foil: another answer, which is wrong, that the right one is held against; None: there is none.
        bridge: what one has to come by on the way from subject to object, as by France from Paris to the euro; None:
            nothing that is known.
        held_out: a number i, so that of the T templates that apply to it number i mod T, counted from 0, is held out;
            None: its place in the relation.

    Raises:
        FactsError: a text is blank, no text or has half of a surrogate pair, the template has not exactly one "{}",
            the foil is the object, or `held_out` is no whole number of at least 0.
    """

    subject: str
    object: str
    template: str | None = None
    separator: str | None = None
    foil: str | None = None
    bridge: str | None = None
    held_out: int | None = None

    def __post_init__(self) -> None:
        """Refuse blank texts, malformed templates, a foil that is no other answer, and what is no text or number.

        Raises:
            FactsError: says which of these it is.
        """
        texts = {"subject": self.subject, "object": self.object}
        texts |= {key: text for key, text in (("foil", self.foil), ("bridge", self.bridge)) if text is not None}
        for key, text in texts.items():
            if not check_text(text, key).strip():
                raise FactsError(f"the {key} is {text!r}; give it at least one visible character")
        if self.foil is not None and self.foil.strip() == self.object.strip():
            raise FactsError(f"the foil is {self.foil!r}, the object itself; give another answer, or leave it out")
        if self.template is not None:
            check_template(self.template)
        if self.separator is not None:
            check_separator(self.separator)
        if self.held_out is not None and (not isinstance(self.held_out, int) or self.held_out < 0):
            raise FactsError(f"held_out is {shown(self.held_out)}; give the place of a template, counted from 0")


@dataclass(frozen=True)
class Relation:
    """Facts of one kind and the templates that put them into words, as in an LRE relation file.

    Attributes:
        name: what it is called.
        prompt_templates: texts with one "{}" each, where the subject goes.
        samples: the facts.
        prompt_templates_zs: the file's zero-shot variants, which are kept but make no prompts.
        properties: whatever else the file says of it.
        separator: what stands between prompt and answer (see `join`); None is "auto" that may be filled in when facts
            are loaded.

    Raises:
        FactsError: it has no name, samples or templates, or a template has not exactly one "{}".
    """

    name: str
    prompt_templates: tuple[str, ...]
    samples: tuple[Sample, ...]
    prompt_templates_zs: tuple[str, ...] = ()
    properties: Mapping[str, object] = field(default_factory=dict, hash=False)
    separator: str | None = None

    def __repr__(self) -> str:
        """Its name, and how many facts and templates it has."""
        counts = f"{len(self.samples):,} facts, {len(self.prompt_templates):,} templates"
        return printable(f"<Relation {quoted(self.name)}: {counts}>")

    def __post_init__(self) -> None:
        """Refuse a relation that can make no prompt.

        Raises:
            FactsError: it has no name, samples or templates, or something in it is no text that can be written.
        """
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
            foil=sample.foil,
            bridge=sample.bridge,
        )


@dataclass(frozen=True)
class Prompt:
    """A fact through a template.

    With "auto", a fact set's prompts have the joint's space in `target` (" Paris"); in prompts built by hand it may be
    left out, since `join` gives the same for both. With any other separator the target is the answer as it was given.
    `joined` is the whole in every case.

    Attributes:
        text: the prompt without its answer.
        target: the answer.
        relation: name of the fact's relation.
        subject: the fact's subject.
        object: the fact's object.
        template: the template that was used.
        separator: what stands between text and answer.
        foil: the fact's foil, an answer that would be wrong.
        bridge: the fact's bridge, between subject and object.
    """

    text: str
    target: str
    relation: str = ""
    subject: str = ""
    object: str = ""
    template: str = ""
    separator: str = AUTO
    foil: str | None = None
    bridge: str | None = None

    @property
    def joined(self) -> str:
        """The prompt with its answer, as it is tokenised."""
        return join(self.text, self.target, self.separator)

    @property
    def answer_start(self) -> int:
        """Where in `joined` the answer's first visible character stands; a separator is never part of the answer."""
        return len(self.joined) - len(self.target.lstrip())

    def answered(self, answer: str) -> "Prompt":
        """This prompt with another answer, by the same separator; a foil that is the new answer is dropped."""
        target = join(self.text, answer)[len(self.text) :] if self.separator == AUTO else answer
        return replace(self, target=target, object=answer, foil=None if self.foil == answer else self.foil)


@dataclass(frozen=True)
class Skipped:
    """A fact that was left out, and why.

    Attributes:
        fact: which one: its place in a file, or the words of its prompt.
        reason: why.
        prompt: its prompt, where it has come to one.
    """

    fact: str
    reason: str
    prompt: Prompt | None = None

    def __str__(self) -> str:
        """The fact and the reason in one line."""
        return f"{self.fact}: {self.reason}"


@dataclass(frozen=True)
class FactSet:
    """Relations, where they came from, and what was odd in them; `len()` is the number of facts.

    Attributes:
        relations: in their order.
        source: what they were loaded from.
        notes: everything repaired, dropped or odd in them, one line each.
        skipped: every fact that could not be loaded, if the loader was told to skip those.

    Raises:
        FactsError: there are no relations, or two of one name.
    """

    relations: tuple[Relation, ...]
    source: str
    notes: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()

    def __post_init__(self) -> None:
        """Refuse an empty set and relations that cannot be told apart.

        Raises:
            FactsError: there are no relations, or two of one name.
        """
        if not self.relations:
            raise FactsError(f"{self.source}: no relations; give at least one")
        twice = [name for name, n in Counter(r.name for r in self.relations).items() if n > 1]
        if twice:
            raise FactsError(
                f"{self.source}: more than one relation is named {twice[0]!r}; "
                "names must differ, since results are kept by them. Rename or merge these relations."
            )

    def __repr__(self) -> str:
        """Where they are from, how many there are, and of which relations, the first of them by name."""
        named = [f"{quoted(one.name)} ({len(one.samples):,})" for one in self.relations[:SHOWN_RELATIONS]]
        rest = len(self.relations) - len(named)
        more = f" and {rest} more" if rest else ""
        left = f"; {len(self.skipped):,} skipped" if self.skipped else ""
        counts = f"{len(self):,} facts in {len(self.relations):,} relations"
        return printable(f"<FactSet {quoted(self.source)}: {counts}: {', '.join(named)}{more}{left}>")

    def __len__(self) -> int:
        """Count the facts."""
        return sum(len(relation.samples) for relation in self.relations)

    @cached_property
    def sha256(self) -> str:
        """Hash of the relations' canonical JSON; where they were read from does not enter.

        Separators enter where they differ from "auto", foils, bridges and held-out numbers where there are any, so that
        facts without them keep the hash they always had.
        """
        content = [_hashed(relation) for relation in self.relations]
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def with_separator(self, separator: str) -> "FactSet":
        """These facts, all joined by this separator, whatever they or their relations name.

        Raises:
            OptionError: it is neither "auto" nor another text that can be written.
        """
        given = separator_option(separator)
        relations = (
            replace(relation, separator=given, samples=tuple(replace(s, separator=None) for s in relation.samples))
            for relation in self.relations
        )
        return replace(self, relations=tuple(relations))

    def prompts(self, templates: Templates = "first") -> tuple[Prompt, ...]:
        """The facts in words, relation by relation, in the order of their samples.

        Args:
            templates: "first": each fact through the first template that applies to it. "all": each fact through every
                template that applies to it. "held_out": fact i of a relation through template i mod T, one prompt a
                fact (i is its place, or `Sample.held_out`). A fact with a template of its own has T = 1: all
                three give that one prompt.

        Raises:
            OptionError: another value of `templates`.
        """
        if templates not in get_args(Templates):
            raise OptionError(f"templates={templates!r}; choose one of {', '.join(get_args(Templates))}")
        return tuple(
            relation.prompt(sample, template)
            for relation, i, sample in self._facts()
            for template in _chosen(relation.templates_of(sample), sample, i, templates)
        )

    def training_prompts(self) -> tuple[Prompt, ...]:
        """Every fact through every template that applies to it but its held-out one.

        Facts to which only one template applies have nothing to train on, and give no prompt.
        """
        return tuple(prompt for _, _, prompts in self.lessons() for prompt in prompts)

    def lessons(self) -> Iterator[tuple[Relation, Sample, tuple[Prompt, ...]]]:
        """Every fact with its relation and its training prompts, of which there may be none."""
        for relation, i, sample in self._facts():
            templates = relation.templates_of(sample)
            held_out = _held_out(sample, i, len(templates))
            yield (
                relation,
                sample,
                tuple(relation.prompt(sample, text) for k, text in enumerate(templates) if k != held_out),
            )

    def _facts(self) -> Iterator[tuple[Relation, int, Sample]]:
        for relation in self.relations:
            for i, sample in enumerate(relation.samples):
                yield relation, i, sample


def _hashed(relation: Relation) -> dict[str, Any]:
    """A relation's content; only separators that change a joint, and what else samples need not have where they do."""
    content = asdict(relation)
    usual = relation.separator_of()
    if usual == AUTO:
        del content["separator"]
    for sample, fields in zip(relation.samples, content["samples"], strict=True):
        if relation.separator_of(sample) == usual:
            del fields["separator"]
        for key in ("foil", "bridge", "held_out"):
            if fields[key] is None:
                del fields[key]
    return content


def _held_out(sample: Sample, place: int, n_templates: int) -> int:
    return (place if sample.held_out is None else sample.held_out) % n_templates


def _chosen(templates: tuple[str, ...], sample: Sample, place: int, which: Templates) -> tuple[str, ...]:
    if which == "all":
        return templates
    return (templates[0 if which == "first" else _held_out(sample, place, len(templates))],)
