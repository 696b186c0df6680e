"""Retrieval from a long context: a list of keys and values, or needles in a haystack of sentences.

What is asked for never stands last, so that it has to be found and not only repeated. The context says at its beginning
what the answer is if what is asked for is not there: that answer is right in one of the controls.
"""

from collections.abc import Callable
from functools import partial

from gated_lpi.facts.tasks.drawing import NO_CONTROL, Draw, Whole, differing, fact_set, titled, variants, whole, wholes
from gated_lpi.facts.tasks.words import ADJECTIVES, NAMES, NOUNS, VALUES, filling, rough_tokens
from gated_lpi.facts.types import SLOT, FactSet, Relation, Sample

CONTROLS = ("absent", "last")
LENGTHS = (64, 128, 256, 512)
SHORTEST, LONGEST, MOST_KEYS = 32, 8192, 8
ABSENT = "none"

_KEYS = [f"{adjective} {noun}" for adjective in ADJECTIVES for noun in NOUNS]
_SENTENCES = filling()
_Make = Callable[[Draw, int, int, str], Sample]


def key_value(
    *, length: Whole = LENGTHS, keys: Whole = 1, n: int = 50, seed: int = 0, control: str = NO_CONTROL
) -> FactSet:
    """A list of keys and values, of which one or more are asked for: a relation "key-value 256" for each length.

    Args:
        length: of the prompt, roughly, in tokens (`words.rough_tokens`), 32 to 8,192.
        keys: how many values are asked for at once, 1 to 8, in any order: with more than one the relation is "key-value
            256, 2 keys" and the answer "apple, bell".
        n: how many prompts of each.
        seed: of the draws.
        control: "absent": the keys are not in the list, and the answer is what its first line says of those; "last":
            the keys are the last ones of the list; "all": the task and both.

    Raises:
        OptionError: a parameter is outside what it may be.
    """
    return _retrieval("key-value", _key_value, length, keys, n, seed, control)


def needle(
    *, length: Whole = LENGTHS, keys: Whole = 1, n: int = 50, seed: int = 0, control: str = NO_CONTROL
) -> FactSet:
    """Someone's code word between sentences about other things: a relation "needle 256" for each length.

    Args:
        length: of the prompt, roughly, in tokens (`words.rough_tokens`), 32 to 8,192.
        keys: how many people's code words are there, 1 to 8, of which one is asked for: with more than one the relation
            is "needle 256, 4 keys".
        n: how many prompts of each.
        seed: of the draws.
        control: "absent": nobody tells the code word that is asked for, and the answer is what the first sentence says
            of those; "last": it is told in the last sentence; "all": the task and both.

    Raises:
        OptionError: a parameter is outside what it may be.
    """
    return _retrieval("needle", _needle, length, keys, n, seed, control)


def _retrieval(task: str, make: _Make, length: Whole, keys: Whole, n: int, seed: int, control: str) -> FactSet:
    lengths, numbers = wholes("length", length, SHORTEST, LONGEST), wholes("keys", keys, 1, MOST_KEYS)
    count = whole("n", n, 1)
    relations = []
    for size in lengths:
        for number in numbers:
            for variant in variants(control, CONTROLS):
                name = titled(f"{task} {size}" + (f", {number} keys" if number > 1 else ""), variant)
                draw = Draw(task, seed, size, number, variant)
                samples = differing(partial(make, draw, size, number, variant), count, name)
                relations.append(Relation(name, (SLOT,), samples))
    return fact_set(task, relations, length=lengths, keys=numbers, n=count, seed=seed, control=control)


def _key_value(draw: Draw, length: int, keys: int, variant: str) -> Sample:
    head, line = f"any other key: {ABSENT}", f"{ADJECTIVES[0]} {NOUNS[0]}: {VALUES[0]}\n"
    room = length - rough_tokens(f"{head}\n") - keys * rough_tokens(f"{ADJECTIVES[0]} {NOUNS[0]}, {VALUES[0]},")
    n_lines = max(keys + 1, round(room / rough_tokens(line)))
    listed = draw.some(_KEYS, n_lines + keys)
    missing, listed = listed[:keys], listed[keys:]
    values = {key: draw.among(VALUES) for key in listed}
    asked = {"absent": missing, "last": listed[-keys:]}.get(variant) or draw.some(listed[:-1], keys)
    answer = ", ".join(values.get(key, ABSENT) for key in asked)
    lines = [f"{SLOT if key == asked[0] else key}: {value}" for key, value in values.items()]
    question = ", ".join((SLOT if variant == "absent" and key == asked[0] else key) for key in asked)
    return Sample(asked[0], answer, "\n".join([head, *lines, f"{question}:"]))


def _needle(draw: Draw, length: int, keys: int, variant: str) -> Sample:
    asked, *others = draw.some(NAMES, keys + 1)
    told = [*others, asked][-keys:] if variant != "absent" else others
    values = dict(zip(told, draw.some(VALUES, keys), strict=True))
    head, question = f"The code word of anyone else is {ABSENT}.", f"The code word of {asked} is"
    shown = {name: SLOT if name == asked else name for name in told}
    needles = {name: f"The code word of {shown[name]} is {value}." for name, value in values.items()}
    used = rough_tokens(" ".join([head, *needles.values(), question]))
    n_filling = max(2, round((length - used) / rough_tokens(_SENTENCES[0])))
    sentences = draw.some(_SENTENCES, min(n_filling, len(_SENTENCES)))
    for name in told:
        if name != asked:
            sentences.insert(draw.below(len(sentences)), needles[name])
    if asked in needles:
        sentences.insert(len(sentences) if variant == "last" else draw.below(len(sentences)), needles[asked])
    else:
        question = question.replace(asked, SLOT)
    return Sample(asked, values.get(asked, ABSENT), " ".join([head, *sentences, question]))
