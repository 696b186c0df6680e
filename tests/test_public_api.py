"""What users may rely on: names, their order, the tree of errors, quick import."""

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import gated_lpi
from gated_lpi import errors


def test_all_is_sorted_and_every_name_resolves():
    assert gated_lpi.__all__ == sorted(gated_lpi.__all__, key=lambda name: (not name.isupper(), name))
    for name in gated_lpi.__all__:
        assert getattr(gated_lpi, name) is not None
    assert dir(gated_lpi) == sorted({*gated_lpi.__all__, *PUBLIC})
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


PUBLIC = {
    "ablation",
    "checkpoints",
    "checkup",
    "claims",
    "cli",
    "comparison",
    "datasets",
    "diagnosis",
    "errors",
    "experiments",
    "explore",
    "export",
    "facts",
    "importing",
    "interventions",
    "live",
    "loading",
    "methods",
    "metrics",
    "models",
    "options",
    "prompting",
    "pruning",
    "published",
    "report",
    "results",
    "routing",
    "runs",
    "score_schema",
    "studies",
    "trace",
    "training",
    "unit_names",
    "version",
}


def test_every_module_is_one_that_users_may_rely_on_or_begins_with_an_underscore():
    found = {module.name for module in pkgutil.iter_modules(gated_lpi.__path__)}
    assert {name for name in found if not name.startswith("_")} == PUBLIC
    assert found - PUBLIC == {"_common", "__main__"}


@pytest.mark.parametrize("package", sorted(PUBLIC - {"version", "cli"}))
def test_what_a_package_offers_is_there_and_documented(package):
    module = importlib.import_module(f"gated_lpi.{package}")
    offered = getattr(module, "__all__", [name for name in vars(module) if not name.startswith("_")])
    for name in offered:
        value = getattr(module, name)
        if (inspect.isclass(value) or inspect.isfunction(value)) and value.__module__.startswith("gated_lpi"):
            assert inspect.getdoc(value), f"{package}.{name}"


def test_metrics_offer_what_controlled_experiments_are_judged_by():
    from gated_lpi import metrics

    assert metrics.__all__ == sorted(metrics.__all__)
    modules = {
        "gaps": {"GapOverlap", "HalfLife", "half_life", "overlap_by_gap", "overlap_matrix"},
        "density": {"AcrossDensities", "Density", "across_densities", "densities", "every", "token_grid"},
        "survival": {"Backbone", "BackboneNull", "Churn", "Survival", "backbone", "churn", "membership_survival"},
        "trajectory": {"Peak", "TrajectoryArea", "peak", "time_to_consolidation", "trajectory_area"},
        "size_matched": {"SizeMatched", "at_set_size", "at_units", "size_matched"},
        "hierarchical": {
            "HierarchicalInterval",
            "hierarchical_difference",
            "hierarchical_interval",
            "replicate_values",
        },
        "bands": {
            "Band",
            "Parting",
            "difference_band",
            "draws_band",
            "hierarchical_band",
            "hierarchical_difference_band",
            "replicate_band",
            "where_apart",
        },
        "comparisons": {
            "GroupDifference",
            "compare_groups",
            "holm",
            "power",
            "replicates_needed",
            "smallest_detectable",
        },
        "decide": {"Decision", "DecisionOverTime", "decide", "decide_groups", "decide_over_time"},
        "_members": {"top_sets"},
    }
    for module, names in modules.items():
        assert names <= set(metrics.__all__), module
        for name in names:
            assert getattr(metrics, name).__module__ == f"gated_lpi.metrics.{module}"


def test_nothing_public_is_used_from_a_private_module():
    """Packages do not reach into another package's private names; inside a package they may."""
    root = Path(gated_lpi.__file__).parent
    for file in root.rglob("*.py"):
        for module, name in re.findall(r"from gated_lpi\.([\w.]+) import ([^\n(]+)", file.read_text()):
            own = file.relative_to(root).parts[0].removesuffix(".py")
            if module.split(".")[0] not in (own, "_common"):
                private = [
                    part
                    for part in (*module.split("."), *name.replace(" ", "").split(","))
                    if part[0] == "_" and part != "__version__"
                ]
                assert not private, f"{file.name}: {module}: {private}"


def test_whatever_takes_a_model_refuses_what_is_none(tmp_path):
    facts = gated_lpi.load_facts([("The sky is", "blue")])
    takes = {
        "attribute": lambda model: gated_lpi.attribute(model, facts),
        "ablate": lambda model: gated_lpi.ablate(model, facts, units=[0]),
        "compare": lambda model: gated_lpi.compare(model, facts),
        "split_change": lambda model: gated_lpi.split_change(model, model, facts),
        "verify": gated_lpi.verify,
        "write_files": lambda model: gated_lpi.published.write_files(model, "The sky is", tmp_path / "new"),
        "redundancy": lambda model: gated_lpi.ablation.redundancy(model, facts, experts=[0]),
        "rank_experts": lambda model: gated_lpi.pruning.rank_experts(model, "random"),
        "examine": gated_lpi.checkup.examine,
    }
    given = {
        "gpt2": r"'gpt2' was given as the model; .*load_model\('gpt2'\)",
        torch.nn.Linear(1, 1): r"a Linear was given as the model; .*wrap_model\(model, tokenizer\)",
        None: "a NoneType was given as the model; ",
    }
    for ask in takes.values():
        for model, said in given.items():
            with pytest.raises(errors.OptionError, match=said):
                ask(model)
    assert not (tmp_path / "new").exists()


def test_every_package_is_found_on_the_package_as_docs_write_it():
    """Each in a dict of modules that knows none of them yet: another import would have put it onto the package."""
    code = (
        "import sys, types, gated_lpi; assert 'torch' not in sys.modules\n"
        f"for name in {sorted(PUBLIC)}:\n"
        "    for known in [one for one in sys.modules if one.startswith('gated_lpi.')]:\n"
        "        vars(gated_lpi).pop(known[10:], 0)\n"
        "    assert isinstance(getattr(gated_lpi, name), types.ModuleType), name\n"
        "assert callable(gated_lpi.published.write_files) and callable(gated_lpi.attribute)\n"
        "assert not hasattr(gated_lpi, 'no_package')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_the_package_or_its_metrics_does_not_import_torch():
    code = "import sys, gated_lpi, gated_lpi.metrics, gated_lpi.cli; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
