"""Arithmetic: chains of sums, differences and products of small numbers, "7 + 5 * 2 - 3 = 14".

Products go before sums, as usual. No number on the way, and no answer, is below 0 or above 99.
"""

from functools import partial
from itertools import accumulate

from gated_lpi.errors import OptionError
from gated_lpi.facts.tasks.drawing import NO_CONTROL, Draw, Whole, differing, fact_set, titled, variants, whole, wholes
from gated_lpi.facts.types import SLOT, FactSet, Relation, Sample

CONTROLS = ("identity", "stated")
MOST_STEPS, MOST_SHOTS, LARGEST = 8, 16, 99
LEAST_OPERAND, LARGEST_OPERAND = 2, 9  # 0 and 1 change nothing: they are the control's


def arithmetic(
    *,
    steps: Whole = (1, 2, 3, 4),
    shots: int = 4,
    n: int = 100,
    seed: int = 0,
    control: str = NO_CONTROL,
    spaced: bool = True,
) -> FactSet:
    """Chains of arithmetic, with a relation "arithmetic 2 steps" for each number of steps.

    Args:
        steps: how many operations a chain has, 1 to 8.
        shots: how many other chains of that kind stand before it with their answers, a line each, 0 to 16.
        n: how many chains of each.
        seed: of the draws.
        control: "identity": chains that change nothing ("7 * 1 + 0 ="), so that the first number is the answer;
            "stated": the same chains, each with its answer in the line before; "all": the task and both.
        spaced: "7 + 5 = 12" or "7+5=12". The answer follows the prompt without a separator.

    Raises:
        OptionError: a parameter is outside what it may be, or there are fewer than `n` chains.
    """
    if not isinstance(spaced, bool):
        raise OptionError(f"spaced={spaced!r} was given; expected true or false")
    several, count = wholes("steps", steps, 1, MOST_STEPS), whole("n", n, 1)
    before = whole("shots", shots, 0, MOST_SHOTS)
    relations = []
    for number in several:
        for variant in variants(control, CONTROLS):
            name = titled(f"arithmetic {number} step{'s' * (number > 1)}", variant)
            draw = Draw("arithmetic", seed, number, variant == "identity")
            samples = differing(partial(_sample, draw, number, before, variant, spaced), count, name)
            relations.append(Relation(name, (SLOT + _equals(spaced),), samples, separator=""))
    given = {"steps": several, "shots": before, "n": count, "seed": seed, "control": control, "spaced": spaced}
    return fact_set("arithmetic", relations, **given)


def _sample(draw: Draw, steps: int, shots: int, variant: str, spaced: bool) -> Sample:
    make = _identity if variant == "identity" else _chain
    chain, answer = _written(*make(draw, steps), spaced)
    examples: dict[str, str] = {}
    while len(examples) < shots:
        other, its = _written(*make(draw, steps), spaced)
        if other != chain:
            examples[other] = its
    if variant == "stated":
        examples[chain] = answer
    lines = [f"{one}{_equals(spaced)}{its}" for one, its in examples.items()]
    return Sample(chain, answer, "\n".join([*lines, SLOT + _equals(spaced)]))


def _written(numbers: list[int], signs: list[str], spaced: bool) -> tuple[str, str]:
    """A chain and its answer in writing."""
    space = " " * spaced
    rest = (f"{space}{sign}{space}{number}" for sign, number in zip(signs, numbers[1:], strict=True))
    return str(numbers[0]) + "".join(rest), str(_partial_sums(numbers, signs)[-1])


def _equals(spaced: bool) -> str:
    return " = " if spaced else "="


def _chain(draw: Draw, steps: int) -> tuple[list[int], list[str]]:
    while True:
        numbers = [draw.between(LEAST_OPERAND, LARGEST_OPERAND) for _ in range(steps + 1)]
        signs = [draw.among("+-*") for _ in range(steps)]
        if all(0 <= number <= LARGEST for number in (*_terms(numbers, signs), *_partial_sums(numbers, signs))):
            return numbers, signs


def _identity(draw: Draw, steps: int) -> tuple[list[int], list[str]]:
    """What changes nothing: 0 added or taken away, and only then, and only the first number, times 1."""
    times = draw.below(steps + 1)
    signs = ["*"] * times + [draw.among("+-") for _ in range(steps - times)]
    return [draw.between(1, LARGEST), *(1 if sign == "*" else 0 for sign in signs)], signs


def _terms(numbers: list[int], signs: list[str]) -> list[int]:
    """The products between which sums are made, without their signs."""
    terms = numbers[:1]
    for sign, number in zip(signs, numbers[1:], strict=True):
        if sign == "*":
            terms[-1] *= number
        else:
            terms.append(number)
    return terms


def _partial_sums(numbers: list[int], signs: list[str]) -> list[int]:
    """Sums of the first terms, the last of which is the answer."""
    first, *rest = _terms(numbers, signs)
    signed = [term if sign == "+" else -term for sign, term in zip([s for s in signs if s != "*"], rest, strict=True)]
    return list(accumulate(signed, initial=first))
