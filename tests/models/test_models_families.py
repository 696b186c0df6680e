import pytest

from gated_lpi.errors import UnknownFamilyError
from gated_lpi.models import FAMILIES, find_family
from tiny_models import CASES, tiny_module


def test_every_model_type_belongs_to_one_row():
    types = [model_type for family in FAMILIES for model_type in family.model_types]
    assert len(types) == len(set(types))
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_cases_find_their_row(case):
    assert find_family(tiny_module(case).config.model_type).name == case.name


def test_an_unknown_family_is_an_error_that_says_what_is_covered():
    with pytest.raises(UnknownFamilyError, match=r"'mamba'.*olmoe.*read a row off the model"):
        find_family("mamba")
