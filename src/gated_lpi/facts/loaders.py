"""Read facts: the built-in set, LRE relation files, JSON lines, or plain (prompt, target) pairs.

1. A source is named; `load_facts` says which of the five kinds it is.
2. Every file is read whole and every value checked; the first thing wrong raises `FactsError` with the
   file, the relation and the position. No file and no sample is passed over in silence.
3. What is wrong but repairable is repaired and noted: text that was escaped twice (the six characters
   of "\\u00ed" where "í" was meant) is unescaped, exact repeats of a fact are dropped. What is merely odd
   (a subject with two objects, HTML, stray whitespace) is kept and noted.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from gated_lpi.errors import FactsError
from gated_lpi.facts.checks import listed, oddities
from gated_lpi.facts.types import SLOT, FactSet, Relation, Sample, located

ACCEPTED = (
    '"builtin", an LRE relation file (.json), a folder of such files, a .jsonl file whose lines are '
    '{"relation", "subject", "object", "template"} or {"prompt", "target"}, '
    "or a sequence of (prompt, target) pairs"
)
PAIRS_RELATION = "prompts"
_BUILTIN = Path(__file__).parent / "builtin"
_ESCAPES = re.compile(r"(?:\\u[0-9A-Fa-f]{4})+")


def load_facts(source: str | Path | Sequence[tuple[str, str]]) -> FactSet:
    """Load facts from where `source` says.

    - "builtin": the set that comes with the package (a folder of that name is "./builtin");
    - a `.json` file in the LRE schema: one relation;
    - a folder: every `*.json` file in it and below, ordered by path;
    - a `.jsonl` file, a fact a line; each line keeps its own template, and lines of one relation are
      brought together. Lines of {"prompt", "target"} belong to relation "prompts" unless they name one;
    - a sequence of (prompt, target) pairs: one relation "prompts", a prompt for each pair, repeats too.

    Raises `FactsError` for a source that is none of these, is missing, cannot be read or has a wrong value.
    """
    if not isinstance(source, str | Path):
        return _from_pairs(source)
    if source == "builtin":
        return _from_files(sorted(_BUILTIN.glob("*.json")), root=_BUILTIN, source="builtin")
    path = Path(source)
    if path.is_dir():
        files = sorted(path.rglob("*.json"))
        if not files:
            raise FactsError(f"{path}: no *.json file in this folder or below; expected LRE relation files")
        return _from_files(files, root=path, source=str(path))
    if not path.exists():
        raise FactsError(f"{path}: no such file or folder; give {ACCEPTED}")
    if path.suffix == ".jsonl":
        return _from_lines(path)
    if path.suffix == ".json":
        return _from_files([path], root=path.parent, source=str(path))
    raise FactsError(f"{path}: facts are not read from {path.suffix or 'such'} files; give {ACCEPTED}")


def _from_pairs(pairs: Sequence[tuple[str, str]]) -> FactSet:
    if not isinstance(pairs, Sequence):
        raise FactsError(f"facts cannot be read from {_shown(pairs)}; give {ACCEPTED}")
    samples = []
    for position, pair in enumerate(pairs):
        with located(f"pair {position}"):
            if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
                raise FactsError(f"{pair!r} is not a pair; give (prompt, target), two texts")
            prompt, target = (_text(value, key) for key, value in zip(("prompt", "target"), pair, strict=True))
            samples.append(Sample(prompt, target))
    if not samples:
        raise FactsError(f"no pairs were given; give {ACCEPTED}")
    relation = Relation(PAIRS_RELATION, (SLOT,), tuple(samples))
    return FactSet((relation,), source="pairs", notes=tuple(oddities(relation)))


def _from_files(files: Sequence[Path], *, root: Path, source: str) -> FactSet:
    relations: dict[str, Relation] = {}
    notes: list[str] = []
    for path in files:
        with located(str(path)):
            data, repaired = _unescaped(_parsed(_content(path)))
            relation, remarks = _settle(_relation(data), repaired)
            if relation.name in relations:
                raise FactsError(f"another file of {root} has relation {relation.name!r} too; rename or merge")
        relations[relation.name] = relation
        notes += [f"{path.relative_to(root)}: {remark}" for remark in remarks]
    return FactSet(tuple(relations.values()), source=source, notes=tuple(notes))


def _from_lines(path: Path) -> FactSet:
    groups: dict[str, list[Sample]] = {}
    repaired: Counter[str] = Counter()
    relations, notes = [], []
    with located(str(path)):
        for number, line in enumerate(_content(path).split("\n"), start=1):
            if line.strip():
                with located(f"line {number}"):
                    data, count = _unescaped(_parsed(line))
                    name, sample = _line_sample(data)
                groups.setdefault(name, []).append(sample)
                repaired[name] += count
        if not groups:
            raise FactsError("no lines; give one JSON object a line")
        for name, samples in groups.items():
            templates = dict.fromkeys(sample.template or SLOT for sample in samples)
            relation, remarks = _settle(Relation(name, tuple(templates), tuple(samples)), repaired[name])
            relations.append(relation)
            notes += [f"relation {name!r}: {remark}" for remark in remarks]
    return FactSet(tuple(relations), source=str(path), notes=tuple(notes))


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise FactsError(f"not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise FactsError(f"cannot be read ({error.strerror}); check the path and its permissions") from None


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise FactsError(f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None


def _unescaped(data: object) -> tuple[object, int]:
    """Undo double escaping in every text inside `data`; also the number of texts it changed."""
    if isinstance(data, str):
        text = _ESCAPES.sub(_unescape, data)
        return text, int(text != data)
    if isinstance(data, Mapping):
        values = {key: _unescaped(value) for key, value in data.items()}
        return {key: value for key, (value, _) in values.items()}, sum(n for _, n in values.values())
    if isinstance(data, list):
        items = [_unescaped(value) for value in data]
        return [value for value, _ in items], sum(n for _, n in items)
    return data, 0


def _unescape(match: re.Match[str]) -> str:
    text: str = json.loads(f'"{match[0]}"')
    return match[0] if _has_surrogate(text) else text


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _relation(data: object) -> Relation:
    record = _record(data)
    name = _text(_value(record, "name"), "name")
    with located(f"relation {name!r}"):
        templates = _texts(_value(record, "prompt_templates"), "prompt_templates")
        zero_shot = _texts(record.get("prompt_templates_zs", []), "prompt_templates_zs")
        properties = record.get("properties", {})
        if not isinstance(properties, Mapping):
            raise _wrong_type("properties", properties, "an object")
        samples = []
        for position, item in enumerate(_list(_value(record, "samples"), "samples")):
            with located(f"sample {position}"):
                fields = _record(item)
                samples.append(Sample(*(_text(_value(fields, key), key) for key in ("subject", "object"))))
    return Relation(name, templates, tuple(samples), zero_shot, dict(properties))


def _line_sample(data: object) -> tuple[str, Sample]:
    """The relation's name and the sample of one line."""
    record = _record(data)
    if "prompt" in record:
        name = _text(record.get("relation", PAIRS_RELATION), "relation")
        prompt, target = (_text(_value(record, key), key) for key in ("prompt", "target"))
        return name, Sample(prompt, target, SLOT)
    keys = ("relation", "subject", "object", "template")
    name, subject, answer, template = (_text(_value(record, key), key) for key in keys)
    with located(f"relation {name!r}"):
        return name, Sample(subject, answer, template)


def _settle(relation: Relation, repaired: int) -> tuple[Relation, tuple[str, ...]]:
    """Drop exact repeats; say what was repaired, dropped and odd."""
    notes = []
    if repaired:
        notes.append(f"unescaped {repaired} texts that were escaped twice")
    kept = tuple(dict.fromkeys(relation.samples))
    dropped = len(relation.samples) - len(kept)
    if dropped:
        repeats = [f"{s.subject} → {s.object}" for s in kept if relation.samples.count(s) > 1]
        notes.append(f"dropped {dropped} exact repeats: {listed(repeats)}")
        relation = Relation(
            relation.name, relation.prompt_templates, kept, relation.prompt_templates_zs, relation.properties
        )
    return relation, (*notes, *(f"kept, but odd: {remark}" for remark in oddities(relation)))


def _record(data: object) -> Mapping[str, object]:
    if not isinstance(data, Mapping):
        raise FactsError(f"expected a JSON object, got {_shown(data)}; give {ACCEPTED}")
    return data


def _value(record: Mapping[str, object], key: str) -> object:
    if key not in record:
        raise FactsError(f"no key {key!r} (there are: {', '.join(map(repr, record)) or 'none'}); add it")
    return record[key]


def _text(value: object, key: str) -> str:
    if not isinstance(value, str):
        raise _wrong_type(key, value, "a text")
    if _has_surrogate(value):
        raise FactsError(f"{key!r} is {value!r}, with half of a surrogate pair; write the whole character")
    return value


def _list(value: object, key: str) -> Sequence[object]:
    if not isinstance(value, list):
        raise _wrong_type(key, value, "a list")
    return value


def _texts(value: object, key: str) -> tuple[str, ...]:
    return tuple(_text(item, f"{key}[{i}]") for i, item in enumerate(_list(value, key)))


def _wrong_type(key: str, value: object, expected: str) -> FactsError:
    return FactsError(f"{key!r} is {_shown(value)}; expected {expected}")


def _shown(value: object) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
