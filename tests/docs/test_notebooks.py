"""The notebooks of `examples` run from top to bottom: on a model made here, and, slowly, on SmolLM2."""

import os
import runpy
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pytest

from gated_lpi import load_facts
from gated_lpi.training import ARMS, ModelSize, TrainingSpec
from gated_lpi.training.arms import new_model
from gated_lpi.training.corpus import build_corpus
from gated_lpi.training.tokenizer import train_tokenizer

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
RUNNER = runpy.run_path(str(ROOT / "scripts" / "run_notebooks.py"))
MOST_KB = 60
FIRST, FOLLOWING = "first_attribution.ipynb", "following_a_training_run.ipynb"

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of Jupyter's packages, about each other
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # sockets that their kernels leave to the collector
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def small_model(tmp_path_factory):
    """A mixture of experts that has learnt nothing, with a tokenizer that knows the built-in facts' words."""
    facts = load_facts("builtin")
    capitals = type(facts)(tuple(r for r in facts.relations if r.name == "country capital"), facts.source)
    tokenizer = train_tokenizer(build_corpus(capitals), 1024)
    size = ModelSize(hidden=16, layers=2, heads=2, kv_heads=1, experts=4, expert_width=8, vocab_size=1024)
    folder = tmp_path_factory.mktemp("model")
    new_model(ARMS[0], TrainingSpec(size=size), tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def printed(notebook) -> str:
    return "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()))


def test_the_first_attribution_runs_on_any_model(small_model, monkeypatch):
    monkeypatch.setenv("GATED_LPI_MODEL", str(small_model))
    said = printed(RUNNER["run"](EXAMPLES / FIRST))
    assert "Qwen3-MoE" in said
    assert "The capital of Japan is Tokyo" in said
    assert "answered rightly: intact" in said


@pytest.fixture
def _short(monkeypatch):
    monkeypatch.setenv("GATED_LPI_STEPS", "12")
    monkeypatch.setenv("GATED_LPI_PEOPLE", "4")


@pytest.mark.slow
@pytest.mark.usefixtures("_short")
def test_a_training_run_is_followed():
    said = printed(RUNNER["run"](EXAMPLES / FOLLOWING))
    assert said.count("J_stab ") == 6
    assert "looked for expert collapse" in said


@pytest.mark.usefixtures("_short")
def test_the_cells_that_follow_a_training_run_do_so_in_this_process(monkeypatch, capsys):
    plt.switch_backend("agg")
    monkeypatch.setattr(plt, "show", lambda: None)
    names: dict[str, object] = {}
    for cell in nbformat.read(EXAMPLES / FOLLOWING, as_version=4).cells:
        if cell.cell_type == "code":
            exec(cell.source, names)
    plt.close("all")
    said = capsys.readouterr().out
    assert said.count("J_stab ") == 6
    assert "looked for expert collapse" in said


@pytest.mark.slow
def test_the_first_attribution_says_of_smollm2_what_was_committed(monkeypatch):
    folder = Path(os.environ.get("GATED_LPI_SMOLLM2") or ROOT / ".cache" / "smollm2") / "model"
    monkeypatch.setenv("GATED_LPI_MODEL", str(folder))
    kept = nbformat.read(EXAMPLES / FIRST, as_version=4)
    assert printed(RUNNER["plain"](RUNNER["run"](EXAMPLES / FIRST))) == printed(kept)


@pytest.mark.parametrize("name", [FIRST, FOLLOWING])
def test_outputs_are_there_and_small(name):
    notebook = nbformat.read(EXAMPLES / name, as_version=4)
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", {}) for output in shown)
    assert any(output.get("name") == "stdout" for output in shown)
    assert not [output for output in shown if output.output_type == "error" or output.get("name") == "stderr"]
    assert (EXAMPLES / name).stat().st_size < MOST_KB * 1000
    assert RUNNER["plain"](notebook) == nbformat.read(EXAMPLES / name, as_version=4)
