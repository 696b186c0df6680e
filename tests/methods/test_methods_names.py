"""Every method has the name of its variable, and every name a method."""

from gated_lpi import score_schema
from gated_lpi.methods.table import METHODS, method_for
from gated_lpi.options import METHODS_BY_NAME


def test_every_method_goes_by_the_name_of_its_variable():
    assert set(METHODS_BY_NAME.values()) == set(METHODS)
    for name, options in METHODS_BY_NAME.items():
        assert method_for(options()).name == name
        assert name in score_schema.SCHEMA
