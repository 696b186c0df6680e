import numpy as np
import pytest

from gated_lpi.errors import OptionError
from gated_lpi.trace import forward_passes, pad, resolve_positions, similar_lengths


def lengths(*counts):
    return [[0] * count for count in counts]


@pytest.mark.parametrize(
    ("prompts", "tokens", "cuts"),
    [
        (lengths(1, 2, 3), 100, [(0, 3)]),
        (lengths(5, 5, 5), 10, [(0, 2), (2, 3)]),
        (lengths(1, 1, 8), 10, [(0, 2), (2, 3)]),  # three padded rows of 8 would be 24
        (lengths(8, 1, 1), 10, [(0, 1), (1, 3)]),
        (lengths(50, 3), 10, [(0, 1), (1, 2)]),  # one prompt may have more
        (lengths(*[1] * 130), 64, [(0, 64), (64, 128), (128, 130)]),
        (lengths(*[1] * 130), 10**9, [(0, 130)]),
    ],
)
def test_forward_passes_are_made_of_tokens(prompts, tokens, cuts):
    assert [(some.start, some.stop) for some in forward_passes(prompts, tokens)] == cuts


@pytest.mark.parametrize("prompts", [[], [[1, 2], []]])
def test_nothing_to_run_is_an_error(prompts):
    with pytest.raises(OptionError, match="at least one prompt"):
        pad(prompts)


def test_prompts_of_similar_length_come_together_and_evenly_many():
    parts = list(similar_lengths(lengths(5, 1, 4, 2, 3), 2))
    assert [part.tolist() for part in parts] == [[1, 3], [4, 2], [0]]
    assert [len(part) for part in similar_lengths(lengths(*[1] * 10), 4)] == [4, 3, 3]


def test_a_batch_says_where_its_items_are():
    batch = pad([[1, 2, 3], [4], [5, 6]], pad_id=9)
    assert batch.ids.tolist() == [[1, 2, 3], [4, 9, 9], [5, 6, 9]]
    assert batch.rows.tolist() == [0, 1, 2]
    assert batch.positions.tolist() == [2, 0, 1]
    batch = pad([[1, 2, 3], [4], [5, 6]], [[0, -1], [0], [1, 1, -2]])
    assert batch.rows.tolist() == [0, 0, 1, 2, 2, 2]
    assert batch.positions.tolist() == [0, 2, 0, 1, 1, 0]
    flat, apart = batch.ids.reshape(9, 1), batch.ids.unsqueeze(-1)
    assert batch.pick(flat).tolist() == batch.pick(apart).tolist() == [[1], [3], [4], [6], [6], [5]]


def test_positions_are_whole_numbers_of_any_kind():
    assert resolve_positions(lengths(4, 2), (range(2), np.array([-1]))) == [[0, 1], [1]]


@pytest.mark.parametrize(
    ("positions", "told"),
    [
        ([[0]], "positions for 1 prompts were given, and 2 prompts"),
        ([[0], [4]], "position 4 was given for prompt 1, which has 3 tokens.*from -3 to 2"),
        ([[0, -6], [0]], "position -6 was given for prompt 0, which has 5 tokens"),
        ([[0], []], "no position was given for prompt 1"),
        ([0, 1], "positions 0 were given for prompt 0; expected a sequence of whole numbers"),
        ([[0], [1.0]], r"positions \[1.0\] were given for prompt 1"),
    ],
)
def test_positions_that_are_not_there_are_an_error(positions, told):
    with pytest.raises(OptionError, match=told):
        pad(lengths(5, 3), positions)
