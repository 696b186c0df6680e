"""What users may rely on: names, their order, the tree of errors, quick import."""

import inspect
import subprocess
import sys

import pytest

import gated_lpi
from gated_lpi import errors


def test_all_is_sorted_and_every_name_resolves():
    assert gated_lpi.__all__ == sorted(gated_lpi.__all__, key=lambda name: (not name.isupper(), name))
    for name in gated_lpi.__all__:
        assert getattr(gated_lpi, name) is not None
    assert dir(gated_lpi) == sorted(gated_lpi.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = gated_lpi.nothing


def test_every_public_callable_is_documented():
    for name in gated_lpi.__all__:
        value = getattr(gated_lpi, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), name


def test_the_error_tree_is_drawn_and_public():
    defined = {name for name, value in vars(errors).items() if inspect.isclass(value)}
    assert all(name in errors.__doc__ for name in defined)
    assert defined <= set(gated_lpi.__all__)
    assert all(issubclass(getattr(errors, name), errors.GatedLPIError) for name in defined)


def test_importing_the_package_or_its_metrics_does_not_import_torch():
    code = "import sys, gated_lpi, gated_lpi.metrics, gated_lpi.cli; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
