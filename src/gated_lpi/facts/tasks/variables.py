"""Variable tracking: "x4 = 17", "x1 = x4", "x7 = x1"; the value of x7 is asked for, among chains of other variables."""

from functools import partial

from gated_lpi.facts.tasks.drawing import NO_CONTROL, Draw, Whole, differing, fact_set, titled, variants, whole, wholes
from gated_lpi.facts.tasks.words import rough_tokens
from gated_lpi.facts.types import SLOT, FactSet, Relation, Sample

CONTROLS = ("direct", "stated")
LENGTHS = (64, 128, 256, 512)
SHORTEST, LONGEST, MOST_HOPS = 48, 8192, 4
LEAST_VALUE, LARGEST_VALUE = 10, 99


def variables(
    *, hops: Whole = (1, 2), length: Whole = LENGTHS, n: int = 50, seed: int = 0, control: str = NO_CONTROL
) -> FactSet:
    """Chains of variables, each named by one after it: a relation "variables 2 hops 256" for each number and length.

    The lines of all chains are mixed, each chain in its order. No other chain has the value that is asked for.

    Args:
        hops: how many assignments of a variable lead from the value to what is asked for, 1 to 4.
        length: of the prompt, roughly, in tokens (`words.rough_tokens`), 48 to 8,192.
        n: how many prompts of each.
        seed: of the draws.
        control: "direct": the variable asked for is given its value without a hop; "stated": the line before the
            question tells the answer; "all": the task and both.

    Raises:
        OptionError: a parameter is outside what it may be.
    """
    several, lengths = wholes("hops", hops, 1, MOST_HOPS), wholes("length", length, SHORTEST, LONGEST)
    count = whole("n", n, 1)
    relations = []
    for number in several:
        for size in lengths:
            for variant in variants(control, CONTROLS):
                name = titled(f"variables {number} hop{'s' * (number > 1)} {size}", variant)
                draw = Draw("variables", seed, number, size, variant)
                samples = differing(partial(_sample, draw, number, size, variant), count, name)
                relations.append(Relation(name, (SLOT,), samples))
    return fact_set("variables", relations, hops=several, length=lengths, n=count, seed=seed, control=control)


def _sample(draw: Draw, hops: int, length: int, variant: str) -> Sample:
    question = "The value of {} is"
    n_chains = _n_chains(length - rough_tokens(question) * (2 if variant == "stated" else 1), hops)
    names = [f"x{number}" for number in draw.some(range(1, n_chains * (hops + 1) + 1))]
    value, *others = draw.some(range(LEAST_VALUE, LARGEST_VALUE + 1))
    asked = names[hops]
    chains = []
    for chain in range(n_chains):
        own = names[chain * (hops + 1) : (chain + 1) * (hops + 1)]
        given = [str(draw.among(others) if chain else value), *own[:-1]]
        if variant == "direct" and chain == 0:
            given[-1], given[0] = str(value), str(draw.among(others))
        chains.append([f"{SLOT if name == asked else name} = {what}" for name, what in zip(own, given, strict=True)])
    order = draw.some(chain for chain in range(n_chains) for _ in range(hops + 1))
    lines = [chains[chain].pop(0) for chain in order]
    if variant == "stated":
        lines.append(f"{question.format(asked)} {value}.")
    return Sample(asked, str(value), "\n".join([*lines, question.format(asked)]))


def _n_chains(room: int, hops: int) -> int:
    """How many chains fill that many tokens, roughly: names of more variables have more digits."""
    count = 2
    for _ in range(3):
        name = f"x{count * (hops + 1) // 2}"
        count = max(2, round(room / rough_tokens(f"{name} = 10\n" + f"{name} = {name}\n" * hops)))
    return count
