"""What can be wrong with well-formed facts: repeats, near repeats, contradictions, stray characters, imbalance.

`oddities` looks at one relation's texts; the loaders put what it finds into a fact set's notes. `check_facts`
adds what matters when facts are used to train and test models: enough templates to hold one out, no answer
that is right most of the time, no relation that outweighs the rest.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator

from gated_lpi.facts.messages import listed, plain
from gated_lpi.facts.types import FactSet, Relation, Sample

MAX_OBJECT_SHARE = 0.5
MAX_SIZE_RATIO = 8.0

_ODD_TEXT = {
    "whitespace at an end": re.compile(r"^\s|\s$"),
    "whitespace other than single spaces": re.compile(r"\s{2,}|[^\S ]"),
    "invisible or undecodable characters": re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\u00ad\u200b-\u200f\ufeff\ufffd]"),
    "HTML tags or entities": re.compile(r"</?[A-Za-z][^<>]*>|&(?:[A-Za-z]+|#\d+|#x[0-9A-Fa-f]+);"),
    "escapes left as text": re.compile(r"\\u[0-9A-Fa-f]{4}|\\x[0-9A-Fa-f]{2}"),
}


def check_facts(facts: FactSet, *, min_templates: int = 2) -> list[str]:
    """List the problems of a fact set, one line each; an empty list means none was found.

    Found are: repeated facts, subjects with two objects, subjects that are their own object, texts that differ only
    in case, spaces or Unicode form, odd characters, fewer than `min_templates` templates, one object in more than
    half of a relation of several objects, relations of very different sizes.
    """
    problems = [
        f"relation {relation.name!r}: {problem}"
        for relation in facts.relations
        for problem in (*oddities(relation), *_unfit(relation, min_templates))
    ]
    sizes = {relation.name: len(relation.samples) for relation in facts.relations}
    small, large = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
    if sizes[large] > MAX_SIZE_RATIO * sizes[small]:
        problems.append(
            f"relation {large!r} has {sizes[large]} facts and {small!r} only {sizes[small]}: "
            f"more than {MAX_SIZE_RATIO:g} times as many, so means over facts are means over {large!r}"
        )
    return problems


def oddities(relation: Relation) -> Iterator[str]:
    """What looks like an accident in the relation's name, samples and templates, one line each."""
    counts = Counter(relation.samples)
    repeated = [fact_of(s) for s, n in counts.items() if n > 1]
    if repeated:
        yield f"repeated facts: {listed(repeated)}"

    answers: dict[str, dict[str, None]] = {}
    for sample in relation.samples:
        answers.setdefault(sample.subject, {})[sample.object] = None
    torn = [
        f"{plain(subject)} → {' | '.join(map(plain, objects))}"
        for subject, objects in answers.items()
        if len(objects) > 1
    ]
    if torn:
        yield f"{len(torn)} subjects with several objects: {listed(torn)}"

    yield from _lookalikes(relation)

    of_samples = (text for s in relation.samples for text in (s.subject, s.object, s.foil, s.bridge))
    texts = [relation.name, *(text for text in of_samples if text is not None)]
    texts += [*relation.prompt_templates, *relation.prompt_templates_zs]
    for what, pattern in _ODD_TEXT.items():
        odd = [repr(text) for text in dict.fromkeys(texts) if pattern.search(text)]
        if odd:
            yield f"{what}: {listed(odd)}"


def fact_of(sample: Sample) -> str:
    """A fact in a note."""
    return f"{plain(sample.subject)} → {plain(sample.object)}"


def _lookalikes(relation: Relation) -> Iterator[str]:
    """Find texts that a reader would take for one, and a tokenizer does not."""
    kinds: dict[str, Iterable[tuple[str, ...]]] = {
        "subjects": ((s.subject,) for s in relation.samples),
        "objects": ((s.object,) for s in relation.samples),
        "facts": ((s.subject, s.object) for s in relation.samples),
        "templates": ((template,) for template in relation.prompt_templates),
    }
    for kind, items in kinds.items():
        groups: dict[Hashable, list[tuple[str, ...]]] = {}
        for item in dict.fromkeys(items):
            groups.setdefault(tuple(_likeness(text) for text in item), []).append(item)
        alike = [
            " | ".join(" → ".join(map(_exactly, item)) for item in group) for group in groups.values() if group[1:]
        ]
        if alike:
            yield f"{kind} that differ only in case, spaces or Unicode form: {listed(alike)}"


def _likeness(text: str) -> str:
    """What texts share that differ only in case, spaces or Unicode form (canonical caseless matching)."""
    folded = unicodedata.normalize("NFD", text).casefold()
    return " ".join(unicodedata.normalize("NFC", folded).split())


def _exactly(text: str) -> str:
    """A quoted text, with code points where its form is not the usual one (NFC) and would not be seen."""
    return repr(text) if unicodedata.is_normalized("NFC", text) else ascii(text)


def _unfit(relation: Relation, min_templates: int) -> Iterator[str]:
    n_templates = len(set(relation.prompt_templates))
    if n_templates < min_templates:
        yield f"{n_templates} different templates, fewer than {min_templates}"
    own = [s.subject for s in relation.samples if s.subject.casefold() == s.object.casefold()]
    if own:
        yield f"subject and object are the same: {listed(map(plain, own))}"
    answer, count = Counter(s.object for s in relation.samples).most_common(1)[0]
    n = len(relation.samples)
    if n > 1 and count > MAX_OBJECT_SHARE * n:
        yield f"{answer!r} is the object of {count} of {n} facts, so a constant answer is mostly right"
