"""The case table covers the table of families."""

from gated_lpi.models import FAMILIES
from tiny_models import CASES


def test_every_family_has_a_case():
    assert {case.name for case in CASES} == {family.name for family in FAMILIES}
