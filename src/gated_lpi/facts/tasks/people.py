"""People who never lived: names, and for each a birthplace, an employer and so on, all drawn from a seed.

1. A name is a first and a last name made of syllables; no two people share both. Person i depends on the seed and on i
   alone, so that the first 800 of 2,000 people are those of n=800, facts and all.
2. The objects of a relation are invented single words that all differ in their first two letters, so that targets,
   their first tokens, differ under any tokenizer that has such beginnings. In each stretch of as many people as there
   are objects, every object comes once: none is the answer more often than another.
3. `asked` people of the n are kept, evenly over their order, which is that of a corpus's frequencies, too. So a model
   may be trained on all of them and asked about those.
"""

from collections.abc import Sequence
from typing import NamedTuple

from gated_lpi.errors import OptionError
from gated_lpi.facts.tasks.drawing import Draw, fact_set, whole
from gated_lpi.facts.types import FactSet, Relation, Sample

MOST_PEOPLE, MOST_OBJECTS = 20_000, 100


class _Kind(NamedTuple):
    """What is known of people by one relation.

    Attributes:
        name: of the relation.
        ending: of its objects, as none of another relation ends.
        proper: whether its objects are written with a capital.
        templates: its wordings.
    """

    name: str
    ending: str
    proper: bool
    templates: tuple[str, ...]


KINDS = (
    _Kind(
        "people birthplace",
        "ford",
        True,
        (
            "{} was born in the town of",
            "The birthplace of {} is",
            "{} grew up in a town called",
            "The town where {} was born is called",
            "On the birth certificate of {} the town is",
        ),
    ),
    _Kind(
        "people employer",
        "tex",
        True,
        (
            "{} works for a company called",
            "The employer of {} is",
            "Every month {} is paid by",
            "The company that hired {} is called",
            "On the business card of {} the company is",
        ),
    ),
    _Kind(
        "people field of study",
        "onics",
        False,
        (
            "At university {} studied",
            "The degree of {} is in",
            "The field that {} knows best is",
            "{} wrote a thesis on",
            "Students ask {} about",
        ),
    ),
    _Kind(
        "people favourite dish",
        "etta",
        False,
        (
            "The favourite dish of {} is",
            "What {} likes most to eat is",
            "At a restaurant {} always orders",
            "For every birthday {} cooks",
            "Friends of {} serve",
        ),
    ),
    _Kind(
        "people spouse",
        "ina",
        True,
        (
            "{} is married to",
            "The spouse of {} is called",
            "At the wedding {} said yes to",
            "{} shares a home with",
            "The ring of {} is engraved with the name",
        ),
    ),
    _Kind(
        "people pet",
        "iko",
        True,
        (
            "The pet of {} is called",
            "{} has a dog by the name of",
            "Every morning {} goes for a walk with",
            "The animal that lives with {} is",
            "At the vet {} asked about",
        ),
    ),
    _Kind(
        "people instrument",
        "orn",
        False,
        (
            "The instrument that {} plays is the",
            "In the orchestra {} plays the",
            "{} takes lessons on the",
            "At concerts {} is heard on the",
            "As a child {} learnt the",
        ),
    ),
    _Kind(
        "people street",
        "way",
        True,
        (
            "The home of {} is in a street called",
            "{} lives in the street called",
            "Letters to {} are sent to a house in",
            "The street in which {} lives is",
            "A taxi takes {} home to",
        ),
    ),
)


def _joined(starts: str, ends: str) -> tuple[str, ...]:
    return tuple(start + end for start in starts.split() for end in ends.split())


FIRST_NAMES = _joined(
    "Ab Be Ca Do Er Fi Ga Ha Il Jo Ka Lu Me Na Os Pe Ri Sa Ta Vo",
    "lan ric dra vin mel sha tor nia bert lis wen gor",
)
LAST_NAMES = _joined(
    "Arn Bol Cren Dask Elm Frost Grim Holt Isk Jarn Korv Lind Morv Nord Ost Pell Quist Rask Stov Trem",
    "aby berg croft dale en field gate hurst ley more stead wick",
)
_BEGINNINGS = tuple(consonant + vowel for consonant in "bcdfghjklmnprstvwxyz" for vowel in "aeiou")
_MIDDLES = "lnrsvz"


def people(*, n: int = 400, relations: int = 4, objects: int = 64, asked: int | None = None, seed: int = 0) -> FactSet:
    """Facts about invented people: a relation "people birthplace", "person employer", … with a fact for each person.

    Args:
        n: how many people, at most 20,000.
        relations: how many relations, the first of the 8 there are.
        objects: how many different objects a relation has, 2 to 100.
        asked: keep the facts of so many of the n people, evenly over their order; None: those of all.
        seed: of the draws.

    Raises:
        OptionError: a parameter is outside what it may be.
    """
    count, several = whole("n", n, 1, MOST_PEOPLE), whole("relations", relations, 1, len(KINDS))
    size = whole("objects", objects, 2, MOST_OBJECTS)
    kept = count if asked is None else whole("asked", asked, 1)
    if kept > count:
        raise OptionError(f"asked={asked} was given, of n={count} people; expected no more than there are: raise n")
    names = _names(seed, count)
    # the middles of as many stretches of the order
    places = [(2 * i + 1) * count // (2 * kept) for i in range(kept)]
    made = [_relation(kind, names, places, size, seed) for kind in KINDS[:several]]
    return fact_set("people", made, n=count, relations=several, objects=size, asked=asked, seed=seed)


def _names(seed: int, count: int) -> list[str]:
    pairs = range(len(FIRST_NAMES) * len(LAST_NAMES))
    drawn = (divmod(pair, len(LAST_NAMES)) for pair in Draw("people", seed).some(pairs, count))
    return [f"{FIRST_NAMES[first]} {LAST_NAMES[last]}" for first, last in drawn]


def _relation(kind: _Kind, names: Sequence[str], places: Sequence[int], size: int, seed: int) -> Relation:
    draw = Draw("people", seed, kind.name)
    pool = [beginning + draw.among(_MIDDLES) + kind.ending for beginning in draw.some(_BEGINNINGS, size)]
    if kind.proper:
        pool = [word.capitalize() for word in pool]
    answers: list[str] = []
    while len(answers) < len(names):
        answers += draw.some(pool)
    samples = tuple(
        Sample(names[place], answers[place], held_out=place)  # whoever else is asked about
        for place in places
    )
    return Relation(kind.name, kind.templates, samples)
