"""Chains of thought in the format of GSM8K (Cobbe et al. 2021, arXiv 2110.14168): questions, reasoning and a number.

A line is {"question", "answer"}; the answer ends in "#### 42". The reasoning is part of the prompt, without the
calculator's annotations ("<<6*7=42>>"), and the number is what is asked for: with the reasoning before it, a model
needs to do no more than its last step.
"""

import re
from pathlib import Path

from gated_lpi.errors import FactsError
from gated_lpi.facts.messages import located, plain
from gated_lpi.facts.skipping import Skips, none_left
from gated_lpi.facts.types import SLOT, FactSet, OnError, Relation, Sample, check_on_error
from gated_lpi.facts.values import content, parsed_line, record_of, text_of

EXPECTED = '{"question", "answer"}, whose answer ends in a line like "#### 42"'
MARK = "####"

_ANNOTATION = re.compile(r"<<[^<>]*>>")
_NUMBER = re.compile(r"[-+]?[$€£]?[-+]?\d[\d,]*(?:\.\d+)?%?")


def gsm8k(path: str | Path, *, on_error: OnError = "raise") -> FactSet:
    """Read a .jsonl file of GSM8K: a relation "gsm8k 3 steps" for each number of lines of reasoning.

    The prompt is "Question: …", "Answer: …" with the reasoning, and "####", after which the number follows as the file
    writes it.

    Args:
        path: of the file.
        on_error: "raise", or "skip" lines that cannot be used: they are listed in `FactSet.skipped`.

    Raises:
        FactsError: the file cannot be read, has no line or one that cannot be used, or no line is left.
        OptionError: another value of `on_error`.
    """
    check_on_error(on_error)
    name = plain(str(path))
    with located(name):
        skips, count = Skips(on_error), 0
        by_steps: dict[int, dict[Sample, None]] = {}
        for number, line in enumerate(content(Path(path)).split("\n"), start=1):
            if line.strip():
                count += 1
                with skips.at(f"line {number}"):
                    steps, sample = _fact(line)
                    by_steps.setdefault(steps, {})[sample] = None
        if not count:
            raise FactsError(f"no lines; give one JSON object a line: {EXPECTED}")
        if not by_steps:
            raise none_left("this file", skips.skipped, f"lines of {EXPECTED}")
    relations = (
        Relation(f"gsm8k {steps} step{'s' * (steps != 1)}", (SLOT,), tuple(samples))
        for steps, samples in sorted(by_steps.items())
    )
    return FactSet(tuple(relations), f"gsm8k:{name}", tuple(skips.note(count, "lines")), skips.within(name))


def _fact(line: str) -> tuple[int, Sample]:
    """How many steps its reasoning has, and the fact."""
    record = record_of(parsed_line(line), EXPECTED)
    question, answer = text_of(record, "question").strip(), text_of(record, "answer")
    reasoning, mark, number = answer.rpartition(MARK)
    number = number.strip()
    if not mark or not _NUMBER.fullmatch(number):
        raise FactsError(f"the answer ends in {answer[-40:]!r}; expected a last line like '{MARK} 42'")
    steps = [step.strip() for step in _ANNOTATION.sub("", reasoning).split("\n") if step.strip()]
    thought = "\n".join(steps)
    if SLOT in thought:
        raise FactsError(f"the reasoning has {SLOT!r} in it, which marks a subject's place; write it otherwise")
    return len(steps), Sample(question, number, f"Question: {SLOT}\nAnswer: {thought}\n{MARK}")
