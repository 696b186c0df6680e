"""Two-hop questions: built-in relations joined, "The currency of the country whose capital is Paris is the" → euro.

The bridge, here France, is in neither question nor answer. It is kept beside the fact, and may be asked for instead:
then the prompt is the same, and the score says what speaks for France where the answer is due.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from gated_lpi.facts.loaders import builtin
from gated_lpi.facts.tasks.drawing import NO_CONTROL, Draw, chosen, fact_set, titled, variants, whole
from gated_lpi.facts.types import SLOT, FactSet, Relation, Sample

CONTROLS = ("stated", "shuffled")
TARGETS = ("object", "bridge")


@dataclass(frozen=True)
class Join:
    """Two built-in relations, one after the other.

    Attributes:
        name: what is given and what is asked for.
        first: the relation between what is given and the bridge.
        backwards: whether what is given is the object of `first`, and the bridge its subject.
        second: the relation from the bridge to the answer.
        phrase: how the bridge is described by what is given.
        wordings: templates of `second` in which that phrase reads well in the place of the bridge.
    """

    name: str
    first: str
    backwards: bool
    second: str
    phrase: str
    wordings: tuple[str, ...]


JOINS = (
    Join(
        "capital to currency",
        "country capital",
        True,
        "country currency",
        "the country whose capital is {}",
        (
            "The currency of {} is the",
            "In {}, people pay with the",
            "Shops in {} accept the",
            "The money used in {} is called the",
        ),
    ),
    Join(
        "capital to language",
        "country capital",
        True,
        "country language",
        "the country whose capital is {}",
        (
            "The main language of {} is",
            "Most people in {} speak",
            "The language heard most often in {} is",
            "In {}, children grow up speaking",
        ),
    ),
    Join(
        "capital to continent",
        "country capital",
        True,
        "country continent",
        "the country whose capital is {}",
        ("On a map of the world, {} is found in", "A journey to {} is a journey to"),
    ),
    Join(
        "state abbreviation to capital",
        "state abbreviation",
        True,
        "state capital",
        "the state whose postal abbreviation is {}",
        (
            "In the United States, the capital of {} is",
            "The state government of {} sits in",
            "The governor of {} works in the city of",
        ),
    ),
    Join(
        "state capital to abbreviation",
        "state capital",
        True,
        "state abbreviation",
        "the state whose capital is {}",
        ("The postal abbreviation of {} is", "In a postal address, {} is written as"),
    ),
    Join(
        "comparative to antonym",
        "adjective comparative",
        True,
        "adjective antonym",
        "the adjective whose comparative is {}",
        ("The opposite of {} is",),
    ),
    Join(
        "antonym to comparative",
        "adjective antonym",
        False,
        "adjective comparative",
        "the opposite of {}",
        ("The comparative form of {} is",),
    ),
)


@dataclass(frozen=True)
class _Chain:
    """A subject, the bridge, and the object that it leads to."""

    subject: str
    bridge: str
    object: str


def two_hop(*, target: str = "object", n: int | None = None, seed: int = 0, control: str = NO_CONTROL) -> FactSet:
    """Questions that take two facts, with a relation "two-hop capital to currency" for each pair of built-in relations.

    Args:
        target: "object", or "bridge": the fact in between is then what is asked for, and the relation "… , bridge".
        n: how many questions of each relation, at most; None: all that there are.
        seed: of the draws.
        control: "stated": the fact that leads to the bridge stands before the question, so that one hop is left;
            "shuffled": the bridge of another is stated there, and the answer is that other's; "all": the task and both.

    Raises:
        OptionError: a parameter is outside what it may be.
    """
    asked = chosen("target", target, TARGETS)
    count = None if n is None else whole("n", n, 1)
    relations = []
    for join in JOINS:
        chains = list(_chains(join))
        kept = Draw("two-hop", seed, join.name).some(chains, None if count is None else min(count, len(chains)))
        for variant in variants(control, CONTROLS):
            name = titled(f"two-hop {join.name}" + ", bridge" * (asked == "bridge"), variant)
            draw = Draw("two-hop", seed, join.name, variant)
            samples = tuple(_sample(draw, join, chain, chains, variant, asked) for chain in kept)
            templates = tuple(wording.replace(SLOT, join.phrase) for wording in join.wordings)
            relations.append(Relation(name, templates, samples))
    return fact_set("two-hop", relations, target=asked, n=count, seed=seed, control=control)


def _chains(join: Join) -> Iterator[_Chain]:
    """All that the two relations join, but what gives its bridge or its answer away."""
    seconds = {sample.subject: sample.object for sample in _relation(join.second).samples}
    for sample in _relation(join.first).samples:
        given, bridge = (sample.object, sample.subject) if join.backwards else (sample.subject, sample.object)
        if bridge in seconds and not _shown(bridge, given) and not _shown(seconds[bridge], given):
            yield _Chain(given, bridge, seconds[bridge])


def _shown(one: str, other: str) -> bool:
    """Whether they have a word in common, as Panama and Panama City."""
    return not set(one.casefold().split()).isdisjoint(other.casefold().split())


def _sample(draw: Draw, join: Join, chain: _Chain, chains: list[_Chain], variant: str, target: str) -> Sample:
    truth = chain
    if variant == "shuffled":
        truth = draw.among([other for other in chains if other.object != chain.object and other.bridge != chain.bridge])
    template = None
    if variant != NO_CONTROL:
        subject, answer = (truth.bridge, chain.subject) if join.backwards else (chain.subject, truth.bridge)
        stated = _relation(join.first).prompt_templates[0].replace(SLOT, subject)
        template = f"{stated} {answer}. {join.wordings[0].replace(SLOT, join.phrase)}"
    if target == "bridge":
        return Sample(chain.subject, truth.bridge, template)
    return Sample(chain.subject, truth.object, template, bridge=truth.bridge)


@cache
def _relation(name: str) -> Relation:
    return next(relation for relation in builtin().relations if relation.name == name)
