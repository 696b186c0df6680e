"""Results in xarray and pandas: files of every kind, selection by step and by unit, a run as one dataset."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import gated_lpi
from explored_runs import STEPS, add, explored_run
from flat import attribute
from gated_lpi import index_units, open_scores
from gated_lpi.ablation import redundancy
from gated_lpi.datasets import Records, plain_attributes
from gated_lpi.errors import OptionError
from gated_lpi.facts import FactSet
from gated_lpi.metrics.meanings import labelled
from gated_lpi.prompting import token_texts
from gated_lpi.results import ResultStore, open_run
from tiny_store import record, scores
from tiny_text import CAPITALS, COLOURS, FACTS, speaking_model


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return explored_run(tmp_path_factory.mktemp("run") / "run")


def netcdf(dataset, folder):
    dataset.to_netcdf(folder / "a.nc")  # h5netcdf, which is installed with the package
    with xr.open_dataset(folder / "a.nc", engine="h5netcdf") as back:
        return back.load()


def scipy(dataset, folder):
    """netCDF 3 has no lists of texts, and no numbers of 64 bits: attributes go, tokens fit here."""
    dataset.drop_attrs().to_netcdf(folder / "a3.nc", engine="scipy")
    with xr.open_dataset(folder / "a3.nc", engine="scipy") as back:
        return back.load()


def zarr(dataset, folder):
    dataset.to_zarr(folder / "a.zarr", consolidated=False)
    return xr.open_zarr(folder / "a.zarr", consolidated=False).load()


@pytest.mark.parametrize("written", [netcdf, scipy, zarr])
def test_an_arm_s_scores_go_to_files_and_back(run, tmp_path, written):
    kept = run.scores("moe").load()
    back = written(kept, tmp_path)
    for name, variable in kept.variables.items():
        assert back[name].dims == variable.dims
        assert np.array_equal(back[name].values, variable.values, equal_nan=variable.dtype.kind == "f"), name
    if written is netcdf:
        assert open_scores(tmp_path / "a.nc").attrs["checkpoints"] == kept.attrs["checkpoints"]
        assert [json.loads(text) for text in back.attrs["checkpoints"]] == kept.attrs["checkpoints"]
    if written is zarr:
        assert back.attrs["checkpoints"] == kept.attrs["checkpoints"]


def with_nul(relation):
    """Facts with names that hold what no netCDF file can: NUL, as texts of tokens may."""
    return FactSet((replace(relation, name="of \0"), COLOURS), source="with \0")


MADE = {
    "attribute": lambda model: attribute(model, with_nul(CAPITALS), estimator="exact"),
    "ablate": lambda model: gated_lpi.ablate(model, with_nul(CAPITALS), units=[0], draws=2, k=3),
    "redundancy": lambda model: redundancy(model, with_nul(CAPITALS), experts=["L1 E0"], draws=2, k=3),
    "compare": lambda model: gated_lpi.compare(
        model, with_nul(CAPITALS), methods=["grad_x_act"], sample=2, shares=(), draws=3
    ),
    "split_change": lambda model: gated_lpi.split_change(model, model, with_nul(CAPITALS), draws=3),
}


@pytest.mark.parametrize("made", MADE)
def test_whatever_a_model_is_asked_goes_to_netcdf_and_back(tmp_path, made):
    found = MADE[made](speaking_model("OLMoE"))
    back = netcdf(found, tmp_path)
    for name, variable in found.variables.items():
        same = variable.dtype.kind == "f"
        assert np.array_equal(back[name].values, variable.values, equal_nan=same), name
    assert {type(value) for value in found.attrs.values()} <= {str, int, float, list}


@pytest.mark.parametrize("read", ["scores", "followed", "summary"])
def test_whatever_a_run_has_goes_to_netcdf_and_back(run, tmp_path, read):
    found = getattr(run, read)("moe")
    assert netcdf(found.load(), tmp_path).sizes == found.sizes
    assert netcdf(run.to_dataset(), tmp_path).sizes == run.to_dataset().sizes


def test_nul_in_texts_of_a_store_is_shown_as_its_symbol(tmp_path):
    store = ResultStore(tmp_path / "arm.zarr")
    texts = np.array([["a\0", ""]], dtype=np.dtypes.StringDType())  # as an earlier version wrote them
    store.append(scores(1).assign(promoted=(("followed", "token"), texts)), record(1))
    opened = store.open()
    assert opened["promoted"].values.tolist() == [[["a␀", ""]]]
    assert netcdf(opened.load(), tmp_path)["promoted"].values.tolist() == [[["a␀", ""]]]


def test_texts_of_tokens_hold_no_nul():
    model = replace(speaking_model("OLMoE"), tokenizer=SimpleNamespace(decode=lambda ids: ["", "\0", " is"][ids[0]]))
    assert token_texts(model, [0, 1, 2]) == ("[token 0]", "␀", " is")


@pytest.mark.parametrize("written", [netcdf, zarr])
def test_what_attribute_returns_goes_to_files_as_it_is(tmp_path, written):
    found = attribute(speaking_model("OLMoE"), FACTS, units=("ffn",), estimator="exact")
    written(found, tmp_path)
    back = open_scores(next(path for path in tmp_path.iterdir() if path.name.startswith("a.")))
    assert np.array_equal(back["lpi"], found["lpi"])
    assert back["subject"].values.astype(str).tolist() == found["subject"].values.astype(str).tolist()
    assert back.attrs["facts_sha256"] == found.attrs["facts_sha256"]
    assert "foil" not in back.attrs  # none was given


def test_attributes_of_stores_of_before_are_as_those_of_new_ones(tmp_path):
    store = ResultStore(tmp_path / "arm.zarr")
    before = {"foil": None, "bos_added": True, "units": ("ffn", "heads"), "limits": {"a": 1}, "notes": []}
    store.append(scores(1).assign_attrs(before), record(1))
    opened = store.open()
    assert {name: opened.attrs.get(name) for name in before} == {
        "foil": None,
        "bos_added": 1,
        "units": ["ffn", "heads"],
        "limits": '{"a": 1}',
        "notes": [],
    }
    assert "foil" not in opened.attrs
    assert netcdf(opened.load(), tmp_path).sizes == opened.sizes


def test_lists_of_records_stay_what_they_are_in_python():
    records = [{"key": "a", "commit": None}, {"key": "b"}]
    kept = plain_attributes({"checkpoints": records})["checkpoints"]
    assert kept == records
    assert json.loads(json.dumps(kept)) == records
    assert np.asarray(Records([])).tolist() == []


def test_texts_are_plain_and_read_when_asked_for(run):
    opened = run.scores("moe")
    assert all(variable.dtype.kind != "T" for variable in opened.variables.values())
    assert set(opened["block"].astype(str).values.tolist()) == {"ffn", "attention"}
    assert {type(text) for text in opened["text"].values.tolist()} == {str}
    assert opened["text"].isel(prompt=[2, 0]).values.tolist() == opened["text"].values[[2, 0]].tolist()
    name = opened["relation"].values[1]
    assert opened["lpi"].sel(relation=name).equals(opened["lpi"].isel(relation=1))
    assert "..." in repr(run.scores("moe"))  # values that were not asked for are not read


def test_checkpoints_are_selected_by_step(run):
    opened = run.scores("moe")
    assert np.array_equal(opened["lpi"].sel(step=STEPS[1]), opened["lpi"].isel(checkpoint=1))
    assert opened.sel(step=slice(STEPS[1], STEPS[2])).sizes["checkpoint"] == 2
    assert int(opened.sel(step=STEPS[2] + 1, method="nearest")["step"]) == STEPS[2]
    summary = run.summary("moe")
    assert np.array_equal(summary["entropy"].sel(step=STEPS[2]), summary["entropy"].isel(checkpoint=2))
    assert np.array_equal(
        open_run(run.path).summary("moe")["stability"].sel(pair_step=STEPS[0]), summary["stability"].isel(pair=0)
    )


def test_units_are_selected_by_what_they_are(run):
    opened = run.scores("moe")
    indexed = index_units(opened)
    here = (opened["layer"] == 1) & (opened["expert"] == 2)
    assert np.array_equal(indexed["lpi_mean"].sel(layer=1, expert=2), opened["lpi_mean"][:, here.values])
    series = index_units(opened["lpi_mean"].isel(checkpoint=-1)).to_series()
    assert isinstance(series.index, pd.MultiIndex)
    assert series.index.names == ["layer", "block", "expert", "shared", "head", "neuron"]
    assert series.loc[1, "ffn", 2].to_numpy().tolist() == opened["lpi_mean"].values[-1][here.values].tolist()
    assert index_units(indexed) is indexed
    assert netcdf(indexed.reset_index("unit").load(), tmp_folder(run)).sizes == opened.sizes


def tmp_folder(run):
    folder = run.path.parent / "files"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda one: one["base_logprob"], r"dimensions checkpoint, prompt, block_index.*expected a `unit`"),
        (lambda one: one["lpi"].drop_vars(["layer", "block", "expert", "shared", "head", "neuron"]), "no coordinates"),
        (lambda one: one["lpi"].drop_vars("neuron"), "share their layer, block, expert, shared, head"),
    ],
)
def test_units_that_cannot_be_told_apart_are_refused(run, given, said):
    with pytest.raises(OptionError, match=said):
        index_units(given(run.scores("moe")))


def test_a_run_says_what_it_is(run, tmp_path):
    said = repr(run)
    assert said.splitlines()[0].endswith(f"at {run.path}, scored by lpi, grad_x_act>")
    assert f"  moe    {len(STEPS)} checkpoints, steps {STEPS[0]} to {STEPS[-1]}" in said
    fresh = explored_run(tmp_path / "fresh", steps=())
    assert "dense  no complete checkpoint yet" in repr(fresh)
    (fresh.path / "results" / "moe.zarr").mkdir()
    (fresh.path / "results" / "moe.zarr" / "zarr.json").write_text("{")
    assert "moe    cannot be read: " in repr(fresh)


def test_metrics_of_all_arms_are_one_dataset(run, tmp_path):
    whole = run.to_dataset()
    assert whole["arm"].values.tolist() == ["moe", "dense"]
    for arm in run.arms:
        for method in run.methods(arm):
            summary = run.summary(arm, method)
            mine = whole.sel(arm=arm, by=method)
            for name in ("stability", "stability_low", "entropy", "hit", "rho_avg", "layer_profile", "profile_pearson"):
                assert np.array_equal(mine[name], summary[name].transpose(*mine[name].dims), equal_nan=True), name
            assert mine["tokens"].values.tolist() == summary["tokens"].values.tolist()
    assert whole["load_imbalance"].sel(arm="dense").isnull().all()
    assert whole["entropy"].sel(step=STEPS[1], arm="moe", by="lpi", kind="ffn").item() == pytest.approx(
        run.summary("moe")["entropy"].sel(step=STEPS[1], kind="ffn").item()
    )
    assert netcdf(whole, tmp_path).sizes == whole.sizes
    assert whole.attrs["missing"] == []


def test_arms_that_have_other_checkpoints_keep_their_own(tmp_path):
    run = explored_run(tmp_path / "run", steps=(0, 20))
    add(run, "moe", 10)
    whole = run.to_dataset()
    assert whole["step"].values.tolist() == [0, 10, 20]
    dense = whole["entropy"].sel(arm="dense", by="lpi", kind="ffn")
    assert dense.isnull().values.tolist() == [False, True, False]
    pairs = list(zip(whole["pair_step"].values.tolist(), whole["pair_next_step"].values.tolist(), strict=True))
    assert pairs == [(0, 10), (0, 20), (10, 20)]
    found = whole["stability"].sel(by="lpi", kind="ffn").notnull()
    assert found.sel(arm="dense").values.tolist() == [False, True, False]
    assert found.sel(arm="moe").values.tolist() == [True, False, True]
    assert (whole["tokens"].sel(arm="dense").values == -1).tolist() == [False, True, False]


def test_whoever_wants_steps_for_a_dimension_drops_their_index_first(run):
    for one in (run.scores("moe"), run.to_dataset()):
        swapped = one.drop_indexes("step").swap_dims(checkpoint="step")
        xr.testing.assert_equal(
            swapped.sel(step=STEPS[2]).drop_vars("step").load(), one.sel(step=STEPS[2]).drop_vars("step").load()
        )
        assert "checkpoint" not in swapped.dims


def test_every_metric_says_what_it_is_and_in_which_unit(run):
    whole = run.to_dataset()
    said = {str(name): one.attrs for name, one in whole.data_vars.items()}
    assert [name for name, attrs in said.items() if not {"long_name", "units"} <= attrs.keys()] == []
    assert whole["positive_gain"].attrs["units"] == "nats"
    assert whole["step"].attrs == {"long_name": "training step", "units": "steps"}
    low = said["stability_chance_low"]["long_name"]
    assert low == f"lower end of the interval of what chance gives of {said['stability']['long_name']}"
    assert not run.summary("moe")["stability"].attrs  # what is kept is not changed by it
    assert labelled(whole.assign_attrs(step_unit="epochs"))["consolidation_profile"].attrs["units"] == "epochs"
    assert "step" in whole.xindexes


def test_arms_with_nothing_are_named(tmp_path):
    run = explored_run(tmp_path / "run", steps=())
    add(run, "moe", 0)
    add(run, "moe", 5)
    (said,) = run.to_dataset().attrs["missing"]
    assert said.startswith("dense: ")
    assert "no complete checkpoint" in said


def test_everything_of_a_run_is_a_tree(run):
    tree = run.to_datatree()
    xr.testing.assert_identical(tree["moe/scores"].to_dataset().load(), run.scores("moe").load())
    assert {node.path for node in tree.leaves} == {
        f"/{arm}/{part}" for arm in run.arms for part in ("scores", "summary/lpi", "summary/grad_x_act")
    }
    xr.testing.assert_identical(tree["dense/summary/lpi"].to_dataset(), run.summary("dense"))


def test_what_is_no_file_of_scores_is_refused(tmp_path):
    with pytest.raises(OptionError, match=r"is not there; give a folder that `gated-lpi attribute"):
        open_scores(tmp_path / "none.zarr")
    (tmp_path / "text.nc").write_text("no netCDF")
    with pytest.raises(OptionError, match="cannot be read as scores"):
        open_scores(tmp_path / "text.nc")
