"""Text from elsewhere on a terminal: what a terminal would obey is spelt out, whichever way it comes there."""

import contextlib
import io
import json
import os
import subprocess
import sys
import unicodedata

import pytest
from rich.table import Table
from safetensors.torch import load_file, save_file

from gated_lpi._common.entries import is_file_name, printable
from gated_lpi.cli import console, main
from gated_lpi.facts import Relation, Sample
from hub_server import HubServer
from tiny_text import CAPITALS, save_checkpoint, save_facts

ESCAPE = "\x1b]0;title\x07\x1b[2J\x9b31m\u202e"  # sets the title, clears, colours (as one character), turns round


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["gated-lpi", *map(str, arguments)])
    capsys.readouterr()
    with contextlib.suppress(SystemExit):
        main()
    captured = capsys.readouterr()
    return captured.out, captured.err


def obeyed(text):
    return [c for c in text if c not in "\n\t\r" and unicodedata.category(c) in ("Cc", "Cf")]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\x9b31m\r\x08\x7f\x00", "\\x9b31m\\r\\x08\\x7f\\x00"),
        ("\u202eabc\u2066\ufeff", "\\u202eabc\\u2066\\ufeff"),
        ("\ud800", "\\ud800"),
        ("日本 é 👩\u200d🔬 نمی\u200cروم", "日本 é 👩\u200d🔬 نمی\u200cروم"),
        ("[red]not markup[/red] :smile:", "[red]not markup[/red] :smile:"),
    ],
)
def test_what_is_printable(text, shown):
    assert printable(text) == shown
    assert printable(shown) == shown


@pytest.mark.parametrize("name", ["a\x1bb", "a\x9bb", "a\x85b", "a\x7f"])
def test_no_control_character_is_in_a_file_name(name):
    assert not is_file_name(name)


@pytest.mark.parametrize("terminal", [True, False])
def test_every_door_of_the_console(terminal):
    """Colours are the console's own; nothing else that starts with an escape comes through, nor is markup taken."""
    target = type(console.out)(file=io.StringIO(), force_terminal=terminal, markup=False, emoji=False, width=200)
    table = Table(f"h{ESCAPE}", title=f"[red]t{ESCAPE}")
    table.add_row(f"[bold]cell{ESCAPE}")
    target.print(f"text{ESCAPE} [red]", style="bold")
    target.print(table)
    target.log(f"log{ESCAPE}")
    target.rule(f"rule{ESCAPE}")
    target.print({"key": ESCAPE}, [ESCAPE])
    written = target.file.getvalue()
    assert "\x1b]0" not in written
    assert "\x1b[2J" not in written
    assert not set(written) & {"\x07", "\x9b", "\u202e"}
    assert "[red]" in written
    assert "[bold]cell" in written
    assert ("\x1b[" in written) == terminal


def test_a_bar_is_no_door_either(monkeypatch):
    target = type(console.err)(file=io.StringIO(), force_terminal=True, markup=False, emoji=False, width=200)
    monkeypatch.setattr(console, "err", target)
    progress = console.ConsoleProgress()
    with progress.task(f"[red]arm{ESCAPE}") as advance:
        advance(1, 2)
        progress.note(f"note{ESCAPE}")
    written = target.file.getvalue()
    assert "[red]arm" in written
    assert "\x1b]0" not in written
    assert not set(written) & {"\x07", "\x9b", "\u202e"}


def test_a_series_of_a_hostile_folder(monkeypatch, capsys, tmp_path):
    (tmp_path / "step-1").mkdir()
    (tmp_path / f"step-2{ESCAPE}").mkdir()
    (tmp_path / f"[red]{ESCAPE}.txt").write_text("")
    (tmp_path / "step-1" / f"x{ESCAPE}.safetensors").write_text("")
    for options in ([], ["--integrity"], ["--json"]):
        out, err = run(monkeypatch, capsys, "checkpoints", tmp_path, *options)
        assert "step-1" in out
        assert not obeyed(out + err)


def test_a_hostile_hub(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    files = {f"x{ESCAPE}": b"x", "model.safetensors": b"y"}
    with HubServer({"a/b": {"main": files, "step1": files, f"step2[red]{ESCAPE}": files}}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        for options in ([], ["--integrity"]):
            out, err = run(monkeypatch, capsys, "checkpoints", "a/b", "--cache-dir", tmp_path / "c", *options)
            assert "step1" in out
            assert not obeyed(out + err)
        out, err = run(monkeypatch, capsys, "checkpoints", f"a/b{ESCAPE}", "--cache-dir", tmp_path / "c")
        assert err
        assert not obeyed(out + err)


@pytest.mark.parametrize("where", ["config", "tensor", "index", "tokenizer", "family"])
def test_errors_about_a_hostile_model(monkeypatch, capsys, tmp_path, where):
    folder = save_checkpoint(tmp_path / "step-1", "Llama")
    config = json.loads((folder / "config.json").read_text())
    if where == "config":
        (folder / "config.json").write_text(json.dumps(config | {"hidden_act": ESCAPE}))
    elif where == "family":
        (folder / "config.json").write_text(json.dumps(config | {"model_type": ESCAPE}))
    elif where == "tensor":
        tensors = load_file(folder / "model.safetensors")
        save_file(tensors | {f"extra{ESCAPE}": tensors["model.norm.weight"].clone()}, folder / "model.safetensors")
    elif where == "index":
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {ESCAPE: f"{ESCAPE}.bin"}}))
    else:
        (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": ESCAPE}}))
    out, err = run(monkeypatch, capsys, "check", folder)
    assert err.startswith("error: ")
    assert not obeyed(out + err)


def test_a_run_over_hostile_relations(monkeypatch, capsys, tmp_path):
    save_checkpoint(tmp_path / "series" / "step-1", "Llama")
    odd = Relation(f"[red]{ESCAPE}", ("The capital of {} is",), (Sample("France", f"unseen{ESCAPE}"),))
    facts = save_facts(tmp_path / "facts", [CAPITALS])
    content = json.loads((facts / "capital.json").read_text())
    content |= {"name": odd.name}
    content["samples"].append({"subject": f"Nowhere{ESCAPE}", "object": f"unseen{ESCAPE}"})
    (facts / "capital.json").write_text(json.dumps(content))
    out, err = run(
        monkeypatch,
        capsys,
        "attribute",
        tmp_path / "series" / "step-1",
        "--facts",
        facts,
        "--on-error",
        "skip",
        "--out",
        tmp_path / "scores.zarr",
    )
    assert not obeyed(out + err)
    assert "skipped" in err


@pytest.mark.slow
def test_logs_warnings_and_tracebacks():
    """In a process of its own: whatever is not this package's console."""
    script = f"""
import logging, sys, warnings
from gated_lpi.cli import main
sys.argv = ["gated-lpi", "families"]
try:
    main()
except SystemExit:
    pass
logging.getLogger("huggingface_hub.x").warning("log %s", {ESCAPE!r})
warnings.warn({ESCAPE!r})
raise ValueError({ESCAPE!r})
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 1
    for word in ("log ", "UserWarning: ", "ValueError: "):
        assert f"{word}\\x1b]0;title" in done.stderr
    assert not obeyed(done.stdout + done.stderr)
