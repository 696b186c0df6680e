"""The cap on the working set: how it is read, and what it changes."""

import numpy as np
import pytest

from gated_lpi.errors import OptionError
from gated_lpi.lpi import Options, attribute_encoded
from gated_lpi.lpi.memory import fixed_bytes, parse_memory, pieces, prompt_bytes, usual_batch
from tiny_models import encoded, random_prompts, tiny_model


@pytest.mark.parametrize(
    ("given", "expected"),
    [(1000, 1000), ("1000", 1000), ("2GB", 2 * 10**9), ("1.5 gib", 1610612736), ("512MB", 512 * 10**6)],
)
def test_amounts_of_memory(given, expected):
    assert parse_memory(given) == expected


@pytest.mark.parametrize("given", ["", "much", "2XB", "-1GB", "GB"])
def test_what_is_no_amount_is_refused(given):
    with pytest.raises(OptionError, match="512MB"):
        parse_memory(given)


def test_less_memory_means_fewer_prompts_and_smaller_pieces():
    model = tiny_model("OLMoE")
    assert pieces(model, 64, None).prompts == 64
    small, large = (pieces(model, 10**6, n) for n in (10**7, 10**8))
    assert 0 < small.prompts < large.prompts
    assert small.pairs < large.pairs
    assert small.numbers < large.numbers
    assert large.prompts * prompt_bytes(model) + fixed_bytes(model) < 10**8
    with pytest.raises(OptionError, match="less than one prompt"):
        pieces(model, 64, 1000)


@pytest.mark.parametrize(
    ("vocabulary", "width", "prompts"), [(49152, 576, 192), (3644, 128, 2048), (50304, 4096, 1024), (16384, 768, 512)]
)
def test_small_vocabularies_and_wide_models_take_more_prompts_at_a_time(vocabulary, width, prompts):
    assert usual_batch(vocabulary, width) == prompts


@pytest.mark.parametrize("estimator", ["fast", "exact"])
def test_a_cap_changes_no_score(estimator):
    model, prompts = tiny_model("OLMoE"), random_prompts(12)
    options = {"units": ("ffn", "attention"), "estimator": estimator}
    found = []
    for memory in (None, 2 * (fixed_bytes(model) + 3 * prompt_bytes(model))):
        collector, results = attribute_encoded(model, encoded(prompts), Options(memory=memory, **options))
        found.append((collector.result("lpi"), results.error_bound.max()))
    (whole, one), (parts, two) = found
    assert np.abs(whole - parts).max() <= one + two + 1e-5
