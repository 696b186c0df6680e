"""Read facts: the built-in set, LRE relation files, JSON lines, or plain (prompt, target) pairs.

1. A source is named; `load_facts` says which of the five kinds it is.
2. Every file is read whole and every value checked; the first thing wrong raises `FactsError` with the
   file, the relation and the position. With on_error="skip" a sample, line or pair that is wrong is left out and
   listed with its reason; what is wrong with a file or a relation as a whole still raises.
3. What is wrong but repairable is repaired and noted: text that was escaped twice (the six characters
   of "\\u00ed" where "í" was meant) is unescaped, exact repeats of a fact are dropped. What is merely odd
   (a subject with two objects, HTML, stray whitespace) is kept and noted; so are keys that mean nothing here.
"""

import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from gated_lpi.errors import FactsError
from gated_lpi.facts.checks import fact_of, oddities
from gated_lpi.facts.messages import brief, listed, located, plain, shown
from gated_lpi.facts.types import (
    SLOT,
    FactSet,
    OnError,
    Relation,
    Sample,
    Skipped,
    check_on_error,
    check_text,
    separator_option,
)
from gated_lpi.facts.values import (
    content,
    foil_of,
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
    "or a sequence of (prompt, target) pairs"
)
PAIRS_RELATION = "prompts"
_BUILTIN = Path(__file__).parent / "builtin"
_RELATION_KEYS = frozenset(Relation.__dataclass_fields__)
_SAMPLE_KEYS: tuple[str, ...] = ("subject", "object", "separator", "foil")
_PROMPT_KEYS: tuple[str, ...] = ("relation", "prompt", "target", "separator", "foil")
_FACT_KEYS: tuple[str, ...] = ("relation", "subject", "object", "template", "separator", "foil")


def load_facts(
    source: str | Path | Iterable[tuple[str, str]], *, separator: str | None = None, on_error: OnError = "raise"
) -> FactSet:
    """Load facts from where `source` says.

    The source is one of these:

    - "builtin": the set that comes with the package (a folder of that name is "./builtin");
    - a `.json` file in the LRE schema: one relation;
    - a folder: every `*.json` file in it and below, ordered by path; links to folders are noted, not followed;
    - a `.jsonl` file, a fact a line; each line keeps its own template, and lines of one relation are brought together.
      Lines of {"prompt", "target"} belong to relation "prompts" unless they name one;
    - (prompt, target) pairs in any order-keeping form (list, tuple, generator, array of texts): one relation "prompts",
      a prompt for each pair, repeats too.

    Args:
        source: a name or path, or pairs.
        separator: what stands between prompt and answer, "auto" or a text (see `join`), in relations that name none; a
            "separator" in a relation file, a sample or a line is kept (`FactSet.with_separator` overrides all).
        on_error: "raise", or "skip" samples, lines and pairs that cannot be used: they are listed in `FactSet.skipped`
            with their reasons, and counted in its notes.

    Returns:
        The facts, with notes on what was repaired, dropped, skipped or odd.

    Raises:
        FactsError: the source is none of these, is missing, cannot be read or has a wrong value; or every fact was
            skipped.
        OptionError: `separator` or `on_error` is outside what it may be.
    """
    check_on_error(on_error)
    usual = None if separator is None else separator_option(separator)
    if not isinstance(source, str | Path):
        return _from_pairs(source, usual, on_error)
    if source == "builtin":
        return _from_files(sorted(_BUILTIN.glob("*.json")), _BUILTIN, "builtin", usual, on_error)
    if not str(source):
        raise FactsError(f"the source is an empty text; give {ACCEPTED}")
    path = Path(source)
    name = plain(str(path))
    if _is_folder(path):
        return _from_folder(path, name, usual, on_error)
    if path.suffix == ".jsonl":
        with located(name):
            return _from_lines(path, name, usual, on_error)
    if path.suffix == ".json":
        return _from_files([path], path.parent, name, usual, on_error)
    raise FactsError(f"{name}: facts are not read from {plain(path.suffix) or 'such'} files; give {ACCEPTED}")


def _is_folder(path: Path) -> bool:
    """Whether the path is a folder; if not, there is something else."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a path that no file can have
        raise FactsError(f"{plain(str(path))}: no such file or folder; give {ACCEPTED}") from None
    except OSError as error:
        reason = f"cannot be read ({error.strerror}); check the path and its permissions"
        raise FactsError(f"{plain(str(path))}: {reason}") from None


@dataclass
class _Skips:
    """What becomes of a fact that cannot be used: it is raised, or put here.

    Attributes:
        on_error: "raise" or "skip".
        skipped: the facts that were left out, with their reasons.
    """

    on_error: OnError
    skipped: list[Skipped] = field(default_factory=list)

    @contextmanager
    def at(self, place: str) -> Iterator[None]:
        """Read the fact at this place: a `FactsError` is located there, and raised or kept."""
        try:
            yield
        except FactsError as error:
            if self.on_error == "raise":
                raise FactsError(f"{place}: {error}") from None
            self.skipped.append(Skipped(place, str(error)))

    def note(self, count: int, what: str) -> list[str]:
        """One line on what was skipped of `count`, if anything was."""
        if not self.skipped:
            return []
        return [f"skipped {len(self.skipped)} of {count} {what}: {listed(map(str, self.skipped))}"]

    def within(self, file: str) -> tuple[Skipped, ...]:
        """What was skipped, by its place in this file."""
        return tuple(replace(skipped, fact=f"{file}: {skipped.fact}") for skipped in self.skipped)


def _from_pairs(pairs: object, separator: str | None, on_error: OnError) -> FactSet:
    if not isinstance(pairs, Iterable) or isinstance(pairs, bytes | bytearray | Mapping | set | frozenset):
        raise FactsError(f"facts cannot be read from {shown(pairs)}; give {ACCEPTED}")
    samples = []
    skips = _Skips(on_error)
    position = -1
    for position, pair in enumerate(_items(pairs)):
        with skips.at(f"pair {position}"):
            samples.append(Sample(*_pair(pair)))
    if position < 0:
        raise FactsError(f"no pairs were given; give {ACCEPTED}")
    if not samples:
        raise _none_left("pairs", skips.skipped)
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


def _from_folder(folder: Path, name: str, separator: str | None, on_error: OnError) -> FactSet:
    files, links = json_files(folder)
    if not files:
        raise FactsError(f"{name}: no *.json file in this folder or below; expected LRE relation files")
    facts = _from_files(files, folder, name, separator, on_error)
    notes = (f"{plain(str(link.relative_to(folder)))}: a link to a folder, not followed" for link in links)
    return replace(facts, notes=(*notes, *facts.notes))


def _from_files(files: Sequence[Path], root: Path, source: str, separator: str | None, on_error: OnError) -> FactSet:
    relations: dict[str, Relation] = {}
    notes: list[str] = []
    skipped: list[Skipped] = []
    for path in files:
        with located(plain(str(path))):
            skips = _Skips(on_error)
            relation, remarks = _relation(parsed(content(path)), separator, skips)
            if relation is not None:
                if relation.name in relations:
                    raise FactsError(f"another file of {root} has relation {relation.name!r} too; rename or merge")
                relations[relation.name] = relation
        notes += [f"{plain(str(path.relative_to(root)))}: {remark}" for remark in remarks]
        skipped += skips.within(plain(str(path)))
    if not relations:
        raise _none_left(source, skipped)
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


def _from_lines(path: Path, source: str, separator: str | None, on_error: OnError) -> FactSet:
    groups: dict[str, list[_Fact]] = {}
    skips = _Skips(on_error)
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
        raise _none_left("this file", skips.skipped)
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


def _relation(data: object, separator: str | None, skips: _Skips) -> tuple[Relation | None, list[str]]:
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
    sample = Sample(text_of(record, "subject"), text_of(record, "object"), None, separator_of(record), foil_of(record))
    return _Fact(sample, repaired, tuple(key for key in record if key not in _SAMPLE_KEYS))


def _line(text: str) -> _Fact:
    """A fact of a .jsonl file."""
    record, repaired = unescaped(record_of(parsed_line(text), LINES))
    own, foil = separator_of(record), foil_of(record)
    if "prompt" in record:
        known = _PROMPT_KEYS
        name = text_of({"relation": PAIRS_RELATION, **record}, "relation")
        sample = Sample(text_of(record, "prompt"), text_of(record, "target"), SLOT, own, foil)
    else:
        known = _FACT_KEYS
        name, subject, answer, template = (text_of(record, key) for key in _FACT_KEYS[:4])
        with located(f"relation {name!r}"):
            sample = Sample(subject, answer, template, own, foil)
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


def _none_left(where: str, skipped: Sequence[Skipped]) -> FactsError:
    return FactsError(
        f"{where}: no fact is left, for all {len(skipped)} were skipped: {listed(map(str, skipped))}; "
        f"mend them or give {ACCEPTED}"
    )
