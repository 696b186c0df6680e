"""Scores and logits of every family against values frozen earlier, whatever library versions are installed now."""

import json

import numpy as np
import pytest
import torch
import transformers
from make_golden import FILE, FROZEN, golden_values

from tiny_models import BY_NAME

TOLERANCE = 1e-6  # norms and routers cast to float32 inside
GOLDEN = json.loads(FILE.read_text(encoding="utf-8"))
ADVICE = """
The values were frozen with {made_with}; installed are torch {torch} and transformers {transformers}.
A layout or a formula that changed shows here, and so does a parameter that was merely renamed, since weights follow
from names. Find out which it is. If the new values are right, freeze them; it is a deliberate act, so say why:
    python tests/golden/make_golden.py"""


def advice() -> str:
    return ADVICE.format(
        made_with=" and ".join(f"{library} {version}" for library, version in GOLDEN["made_with"].items()),
        torch=torch.__version__,
        transformers=transformers.__version__,
    )


def differences(found: dict[str, list[float]], frozen: dict[str, list[float]]) -> list[str]:
    """A line for each frozen value that is not found again."""
    missing = [f"{label}: frozen {frozen[label]}, not there now" for label in frozen if label not in found]
    there = [label for label in frozen if label in found]
    return missing + [
        f"{label}: frozen {frozen[label]}, now {found[label]}"
        for label in there
        if not np.allclose(found[label], frozen[label], rtol=0, atol=TOLERANCE)
    ]


@pytest.mark.parametrize("case", BY_NAME)
def test_scores_are_those_frozen(case):
    assert case in GOLDEN["cases"], f"{case!r} has no frozen values: run `python tests/golden/make_golden.py`"
    frozen = GOLDEN["cases"][case]
    found = golden_values(BY_NAME[case])
    assert found.keys() == frozen.keys()
    moved = [f"{kind} of {line}" for kind in frozen for line in differences(found[kind], frozen[kind])]
    assert not moved, "\n".join([f"{len(moved)} values of {case} moved:", *moved, advice()])


def test_nothing_frozen_is_left_over_or_idle():
    assert GOLDEN["cases"].keys() == BY_NAME.keys()
    for case, kinds in GOLDEN["cases"].items():
        assert kinds.keys() >= FROZEN.keys() - {"expert_lpi"}, case
        for kind, values in kinds.items():
            assert len(values) == FROZEN[kind], (case, kind)
            assert max(abs(number) for numbers in values.values() for number in numbers) > 1e-2, (case, kind)


def test_a_value_that_moved_is_named():
    frozen = {"1 ffn": [0.5, 0.25], "0 head 1": [1.0, 2.0], "0 head 2": [3.0, 4.0]}
    found = {"1 ffn": [0.5, 0.25 + 2e-6], "0 head 1": [1.0, 2.0 + 1e-7]}
    lines = differences(found, frozen)
    assert len(lines) == 2
    assert lines[0].startswith("0 head 2: frozen [3.0, 4.0], not there")
    assert lines[1].startswith("1 ffn: frozen [0.5, 0.25], now [0.5, 0.250002")
    assert "python tests/golden/make_golden.py" in advice()
