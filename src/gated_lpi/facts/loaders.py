"""Read facts: the built-in set, LRE relation files, JSON lines, or plain (prompt, target) pairs.

1. Every file is read whole and every value checked; the first thing wrong raises `FactsError` with the
   file, the relation and the position. With on_error="skip" a sample, line or pair that is wrong is left out and
   listed with its reason; what is wrong with a file or a relation as a whole still raises.
2. What is wrong but repairable is repaired and noted: text that was escaped twice (the six characters
   of "\\u00ed" where "í" was meant) is unescaped, exact repeats of a fact are dropped. What is merely odd
   (a subject with two objects, HTML, stray whitespace) is kept and noted; so are keys that mean nothing here.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from gated_lpi.errors import FactsError
from gated_lpi.facts.checks import fact_of, oddities
from gated_lpi.facts.messages import brief, listed, located, plain, shown
from gated_lpi.facts.skipping import Skips, none_left
from gated_lpi.facts.types import SLOT, FactSet, OnError, Relation, Sample, Skipped, check_text
from gated_lpi.facts.values import (
    content,
    extras_of,
    json_files,
    list_of,
    parsed,
    parsed_line,
    record_of,
    separator_of,
    text_of,
    texts_of,
    unescaped,
)

LINES = '{"relation", "subject", "object", "template"} or {"prompt", "target"}'
ACCEPTED = (
    f'"builtin", an LRE relation file (.json), a folder of such files, a .jsonl file whose lines are {LINES}, '
    "a task (two-hop, arithmetic, key-value, needle, variables, people, gsm8k:FILE; docs/tasks.md), or a sequence of "
    "(prompt, target) pairs"
)
BUILTIN = "builtin"
PAIRS_RELATION = "prompts"
_BUILTIN_FOLDER = Path(__file__).parent / BUILTIN
_RELATION_KEYS = frozenset(Relation.__dataclass_fields__)
_SAMPLE_KEYS: tuple[str, ...] = ("subject", "object", "separator", "foil", "bridge")
_PROMPT_KEYS: tuple[str, ...] = ("relation", "prompt", "target", "separator", "foil", "bridge")
_FACT_KEYS: tuple[str, ...] = ("relation", "subject", "object", "template", "separator", "foil", "bridge")


def builtin(separator: str | None = None, on_error: OnError = "raise") -> FactSet:
    """The set that comes with the package."""
    return from_files(sorted(_BUILTIN_FOLDER.glob("*.json")), _BUILTIN_FOLDER, BUILTIN, separator, on_error)


def from_pairs(pairs: object, separator: str | None, on_error: OnError) -> FactSet:
    """Facts of one relation "prompts" from (prompt, target) pairs.

    Raises:
        FactsError: what was given holds no pairs, or a pair cannot be used.
    """
    if not isinstance(pairs, Iterable) or isinstance(pairs, bytes | bytearray | Mapping | set | frozenset):
        raise FactsError(f"facts cannot be read from {shown(pairs)}; give {ACCEPTED}")
    samples = []
    skips = Skips(on_error)
    position = -1
    for position, pair in enumerate(_items(pairs)):
        with skips.at(f"pair {position}"):
            samples.append(Sample(*_pair(pair)))
    if position < 0:
        raise FactsError(f"no pairs were given; give {ACCEPTED}")
    if not samples:
        raise none_left("pairs", skips.skipped, ACCEPTED)
    relation = Relation(PAIRS_RELATION, (SLOT,), tuple(samples), separator=separator)
    notes = (*skips.note(position + 1, "pairs"), *oddities(relation))
    return FactSet((relation,), "pairs", notes, tuple(skips.skipped))


def _items(given: Iterable[object]) -> Iterator[object]:
    """Iterate; arrays without a dimension say only now that they cannot."""
    try:
        return iter(given)
    except TypeError:
        raise FactsError(f"{brief(given)} holds no items; give {ACCEPTED}") from None


def _pair(pair: object) -> tuple[str, str]:
    if isinstance(pair, Iterable) and not isinstance(pair, str | bytes | bytearray | Mapping | set | frozenset):
        values = tuple(islice(_items(pair), 3))
        if len(values) == 2:
            return check_text(values[0], "prompt"), check_text(values[1], "target")
    raise FactsError(f"{brief(pair)} is not a pair; give (prompt, target), two texts")


def from_folder(folder: Path, name: str, separator: str | None, on_error: OnError) -> FactSet:
    """Facts of every relation file in a folder and below.

    Raises:
        FactsError: there is none, or one cannot be used.
    """
    files, links = json_files(folder)
    if not files:
        raise FactsError(f"{name}: no *.json file in this folder or below; expected LRE relation files")
    facts = from_files(files, folder, name, separator, on_error)
    notes = (f"{plain(str(link.relative_to(folder)))}: a link to a folder, not followed" for link in links)
    return replace(facts, notes=(*notes, *facts.notes))


def from_files(files: Sequence[Path], root: Path, source: str, separator: str | None, on_error: OnError) -> FactSet:
    """Facts of relation files, which notes call by their paths from `root`.

    Raises:
        FactsError: a file cannot be used, two have relations of one name, or no fact is left.
    """
    relations: dict[str, Relation] = {}
    notes: list[str] = []
    skipped: list[Skipped] = []
    for path in files:
        with located(plain(str(path))):
            skips = Skips(on_error)
            relation, remarks = _relation(parsed(content(path)), separator, skips)
            if relation is not None:
                if relation.name in relations:
                    raise FactsError(f"another file of {root} has relation {relation.name!r} too; rename or merge")
                relations[relation.name] = relation
        notes += [f"{plain(str(path.relative_to(root)))}: {remark}" for remark in remarks]
        skipped += skips.within(plain(str(path)))
    if not relations:
        raise none_left(source, skipped, ACCEPTED)
    return FactSet(tuple(relations.values()), source, tuple(notes), tuple(skipped))


class _Fact(NamedTuple):
    """One fact of a file.

    Attributes:
        sample: the fact.
        repaired: texts that were repaired in it.
        unread: keys that are not read.
        relation: name of its relation if it names one, else "".
    """

    sample: Sample
    repaired: int
    unread: tuple[str, ...]
    relation: str = ""


def from_lines(path: Path, source: str, separator: str | None, on_error: OnError) -> FactSet:
    """Facts of a .jsonl file.

    Raises:
        FactsError: it cannot be read, has no line or one that cannot be used, or no fact is left.
    """
    groups: dict[str, list[_Fact]] = {}
    skips = Skips(on_error)
    count = 0
    for number, text in enumerate(content(path).split("\n"), start=1):
        if text.strip():
            count += 1
            with skips.at(f"line {number}"):
                fact = _line(text)
                groups.setdefault(fact.relation, []).append(fact)
    if not count:
        raise FactsError("no lines; give one JSON object a line")
    if not groups:
        raise none_left("this file", skips.skipped, ACCEPTED)
    relations = []
    notes = [*skips.note(count, "lines"), *_unread(key for facts in groups.values() for f in facts for key in f.unread)]
    for name, facts in groups.items():
        samples = tuple(fact.sample for fact in facts)
        templates = dict.fromkeys(sample.template or SLOT for sample in samples)
        relation = Relation(name, tuple(templates), samples, separator=separator)
        relation, remarks = _settle(relation, sum(fact.repaired for fact in facts))
        relations.append(relation)
        notes += [f"relation {name!r}: {remark}" for remark in remarks]
    return FactSet(tuple(relations), source, tuple(notes), skips.within(source))


def _relation(data: object, separator: str | None, skips: Skips) -> tuple[Relation | None, list[str]]:
    """The relation of a file, or None if each of its samples was skipped; and what is to be noted."""
    record = record_of(data, ACCEPTED)
    head, repaired = unescaped({key: value for key, value in record.items() if key != "samples"})
    fields = {**record, **head}
    name = text_of(fields, "name")
    with located(f"relation {name!r}"):
        templates = texts_of(fields, "prompt_templates")
        zero_shot = texts_of({"prompt_templates_zs": [], **fields}, "prompt_templates_zs")
        properties = fields.get("properties", {})
        if not isinstance(properties, Mapping):
            raise FactsError(f"'properties' is {shown(properties)}; expected an object")
        own = separator_of(fields)
        facts: list[_Fact] = []
        items = list_of(fields, "samples")
        for position, item in enumerate(items):
            with skips.at(f"sample {position}"):
                facts.append(_sample(item))
    unread = (*(key for key in fields if key not in _RELATION_KEYS), *(key for fact in facts for key in fact.unread))
    notes = [*skips.note(len(items), "samples"), *_unread(unread)]
    if items and not facts:
        return None, [*notes, f"relation {name!r} is left out, for it has no other samples"]
    samples = tuple(fact.sample for fact in facts)
    usual = separator if own is None else own
    relation = Relation(name, templates, samples, zero_shot, dict(properties), usual)
    relation, remarks = _settle(relation, repaired + sum(fact.repaired for fact in facts))
    return relation, [*notes, *remarks]


def _sample(item: object) -> _Fact:
    """A fact of a relation file."""
    record, repaired = unescaped(record_of(item, '{"subject", "object"}'))
    subject, answer = text_of(record, "subject"), text_of(record, "object")
    sample = Sample(subject, answer, None, separator_of(record), **extras_of(record))
    return _Fact(sample, repaired, tuple(key for key in record if key not in _SAMPLE_KEYS))


def _line(text: str) -> _Fact:
    """A fact of a .jsonl file."""
    record, repaired = unescaped(record_of(parsed_line(text), LINES))
    own, extras = separator_of(record), extras_of(record)
    if "prompt" in record:
        known = _PROMPT_KEYS
        name = text_of({"relation": PAIRS_RELATION, **record}, "relation")
        sample = Sample(text_of(record, "prompt"), text_of(record, "target"), SLOT, own, **extras)
    else:
        known = _FACT_KEYS
        name, subject, answer, template = (text_of(record, key) for key in _FACT_KEYS[:4])
        with located(f"relation {name!r}"):
            sample = Sample(subject, answer, template, own, **extras)
    if not name.strip():
        raise FactsError(f"the relation's name is {name!r}; give it a name")
    return _Fact(sample, repaired, tuple(key for key in record if key not in known), name)


def _settle(relation: Relation, repaired: int) -> tuple[Relation, list[str]]:
    """Drop exact repeats; say what was repaired, dropped and odd."""
    notes = []
    if repaired:
        notes.append(f"unescaped {repaired} texts that were escaped twice")
    usual = relation.separator_of()
    counts = Counter(replace(s, separator=None) if s.separator == usual else s for s in relation.samples)
    relation = replace(relation, samples=tuple(counts))
    dropped = counts.total() - len(counts)
    if dropped:
        repeats = (fact_of(sample) for sample, n in counts.items() if n > 1)
        notes.append(f"dropped {dropped} exact repeats: {listed(repeats)}")
    return relation, [*notes, *(f"kept, but odd: {remark}" for remark in oddities(relation))]


def _unread(keys: Iterable[str]) -> list[str]:
    """One line on the keys that mean nothing here, if there are any: one of them may be a misspelt name."""
    times = [f"{brief(key)} ({n} times)" for key, n in Counter(keys).items()]
    return [f"keys that are not read: {listed(times)}"] if times else []
