"""Every method has the name of its variable, and every name a method."""

from gated_lpi import score_schema
from gated_lpi.methods.table import METHODS, method_for
from gated_lpi.options import METHODS_BY_NAME
from gated_lpi.options.methods import flat_fields, flat_methods


def test_every_method_goes_by_the_name_of_its_variable():
    assert set(METHODS_BY_NAME.values()) == set(METHODS)
    for name, options in METHODS_BY_NAME.items():
        assert method_for(options()).name == name
        assert name in score_schema.SCHEMA


def test_an_option_that_several_methods_have_is_the_same_for_all():
    keys = flat_methods()
    for options in METHODS_BY_NAME.values():
        for name, (_, field) in flat_fields(options).items():
            assert (field.default, field.description) == (keys[name][1].default, keys[name][1].description)
