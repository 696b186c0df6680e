"""Every error of docs/faq.md is brought about here, and is what the page says; "…" there stands for anything."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import gated_lpi
from gated_lpi.cli import main
from tiny_text import save_checkpoint, speaking_model

PAGE = Path(__file__).parents[2] / "docs" / "faq.md"
ENTRY = re.compile(r"^### (.+?)\n.*?^```text\n(.*?)\n```", re.DOTALL | re.MULTILINE)
EXPERIMENT = 'name = "mine"\n{}\n[[arms]]\nname = "moe"\ncheckpoints = "series"\n'


def _no_row():
    save_checkpoint(Path("model"), "Qwen3-MoE")
    config = Path("model/config.json")
    config.write_text(config.read_text().replace('"qwen3_moe"', '"my_model"'))
    gated_lpi.load_model("model")


def _pickles_alone():
    save_checkpoint(Path("model"), "Qwen3-MoE")
    Path("model/model.safetensors").unlink()
    torch.save({}, "model/pytorch_model.bin")
    gated_lpi.load_model("model")


def _no_model():
    gated_lpi.load_model("./model")


def _gguf_unnamed():
    Path("model").mkdir()
    Path("model/model.Q4_1.gguf").write_bytes(b"GGUF")
    gated_lpi.load_model("model")


def _no_token_of_its_own():
    gated_lpi.attribute(speaking_model("Qwen3-MoE"), [("The capital of France is", "Berlin")])


def _option_beside_the_method():
    gated_lpi.attribute(speaking_model("Qwen3-MoE"), [("The sky is", "blue")], norm="recomputed")


def _gate_of_a_dense_model():
    gated_lpi.attribute(speaking_model("Llama"), [("The sky is", "blue")], method=gated_lpi.LPI(gate="open"))


def _tolerance():
    gated_lpi.LPI(estimator=gated_lpi.Certified(tolerance=0))


def _too_little_memory():
    gated_lpi.attribute(speaking_model("Qwen3-MoE"), [("The sky is", "blue")], memory="1KB")


def _no_facts():
    gated_lpi.load_facts("facts.csv")


def _unknown_key():
    Path("experiment.toml").write_text(EXPERIMENT.format("[attribution]\ntolerence = 1e-4"))
    gated_lpi.load_experiment("experiment.toml")


def _two_sources():
    Path("experiment.toml").write_text(EXPERIMENT.format("") + 'series = "olmoe-0924"\n')
    gated_lpi.load_experiment("experiment.toml")


def _no_run():
    gated_lpi.open_run("runs/mine")


def _command(*words: str) -> Callable[[], None]:
    def bring_about() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["gated-lpi", *words])
            main()

    return bring_about


CAUSES = {
    "My model's type is not in the table": _no_row,
    "My folder has only .bin files": _pickles_alone,
    "The folder of my model is not found": _no_model,
    "I have a GGUF file": _gguf_unnamed,
    "An answer is not a token of this tokenizer": _no_token_of_its_own,
    "An option is refused although it exists": _option_beside_the_method,
    "A dense model has no gates": _gate_of_a_dense_model,
    "A tolerance of zero": _tolerance,
    "A cap on memory that is too low": _too_little_memory,
    "My facts are in another format": _no_facts,
    "A key of the experiment file is misspelt": _unknown_key,
    "An arm with two sources": _two_sources,
    "A run that is not there": _no_run,
    "A run without a folder": _command("run", "--preset", "demo"),
}


def message(cause: Callable[[], None]) -> str:
    """What is said, as Python's last line or the command line has it."""
    with pytest.raises((gated_lpi.GatedLPIError, SystemExit)) as caught:
        cause()
    return "" if isinstance(caught.value, SystemExit) else f"{type(caught.value).__name__}: {caught.value}"


def entries() -> dict[str, str]:
    return dict(ENTRY.findall(PAGE.read_text(encoding="utf-8")))


def test_the_page_has_the_errors_that_are_brought_about_here_and_no_others():
    assert list(entries()) == list(CAUSES)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("question", CAUSES)
def test_an_error_is_as_the_page_says(question, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "1000")
    said = message(CAUSES[question]) or capsys.readouterr().err.strip()
    parts = " ".join(entries()[question].split()).split("…")
    assert re.fullmatch(".+".join(map(re.escape, parts)), " ".join(said.split()))
