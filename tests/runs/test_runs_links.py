"""Links in a run's folder lead nothing out of it: neither what a run writes nor what its report does."""

import pytest

from gated_lpi._common.folders import refuse_links, write_atomically
from gated_lpi.errors import RunError
from gated_lpi.experiments import Experiment
from gated_lpi.report import build_report
from gated_lpi.results import open_run
from gated_lpi.runs import run_experiment
from tiny_runs import QUICK
from tiny_text import CAPITALS, save_checkpoint, save_facts


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    for seed, step in enumerate((0, 10)):
        save_checkpoint(folder / "series" / f"step-{step}", "Llama", seed)
    save_facts(folder / "facts", [CAPITALS])
    return folder


@pytest.fixture
def experiment(inputs):
    arms = [{"name": "arm", "checkpoints": str(inputs / "series")}]
    return Experiment.model_validate(
        {"name": "test", "facts": {"source": str(inputs / "facts")}, "arms": arms, **QUICK}
    )


@pytest.fixture
def elsewhere(tmp_path):
    folder = tmp_path / "elsewhere"
    (folder / "deeper").mkdir(parents=True)
    (folder / "deeper" / "file").write_text("precious")
    return folder


def untouched(folder):
    return [path.name for path in sorted(folder.rglob("*"))] == ["deeper", "file"] and (
        folder / "deeper" / "file"
    ).read_text() == "precious"


@pytest.mark.parametrize("name", ["results", "series", "training", "figures"])
def test_a_linked_folder_of_a_run_is_refused(tmp_path, experiment, elsewhere, name):
    run = run_experiment(experiment, tmp_path / "run")
    there = run.path / name
    if there.exists():
        there.rename(tmp_path / "aside")
    there.symlink_to(elsewhere)
    with pytest.raises(RunError, match=rf"{name} is a link to .*Replace it by a folder"):
        run_experiment(experiment, tmp_path / "run")
    assert untouched(elsewhere)


@pytest.mark.parametrize("place", ["arm.zarr", "arm.zarr/lpi", "arm.zarr/lpi/c", ".arm.zarr.draft"])
def test_so_is_a_link_anywhere_in_the_results(tmp_path, experiment, elsewhere, place):
    run = run_experiment(experiment, tmp_path / "run")
    there = run.path / "results" / place
    if there.exists():
        there.rename(tmp_path / "aside")
    there.symlink_to(elsewhere)
    with pytest.raises(RunError, match="is a link to"):
        run_experiment(experiment, tmp_path / "run")
    assert untouched(elsewhere)


def test_a_report_writes_no_figures_elsewhere(tmp_path, experiment, elsewhere):
    run = run_experiment(experiment, tmp_path / "run")
    (run.path / "figures").symlink_to(elsewhere)
    with pytest.raises(RunError, match="figures is a link to"):
        build_report(open_run(run.path))
    assert untouched(elsewhere)


@pytest.mark.slow
def test_linked_files_are_replaced_and_not_written_through(tmp_path, experiment, elsewhere):
    run = run_experiment(experiment, tmp_path / "run")
    written = [run.path / name for name in ("report.html", "summary.json")]
    for path in written:
        path.symlink_to(elsewhere / "deeper" / "file")
        path.with_name(f".{path.name}.draft").symlink_to(elsewhere / "deeper" / "file")
    files = build_report(open_run(run.path))
    assert "<html" in files.html.read_text(encoding="utf-8")[:200].lower()
    assert not any(path.is_symlink() for path in written)
    assert untouched(elsewhere)


def test_a_draft_that_is_a_link_is_not_written_through(tmp_path, elsewhere):
    (tmp_path / ".x.draft").symlink_to(elsewhere / "deeper" / "file")
    write_atomically(tmp_path / "x", "new")
    assert (tmp_path / "x").read_text() == "new"
    assert untouched(elsewhere)


@pytest.mark.slow
def test_a_run_that_is_reached_by_a_link_is_fine(tmp_path, experiment):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    run = run_experiment(experiment, tmp_path / "link")
    assert build_report(run).html.exists()
    assert (tmp_path / "real" / "report.html").exists()


def test_what_is_not_there_is_no_link(tmp_path):
    refuse_links(tmp_path / "absent", deep=True)
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    (tmp_path / "folder" / "sub" / "link").symlink_to("nowhere")
    refuse_links(tmp_path / "folder")
    with pytest.raises(RunError, match="link is a link to 'nowhere'"):
        refuse_links(tmp_path / "folder", deep=True)
