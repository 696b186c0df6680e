"""`gated-lpi import`: what it says, and how it ends."""

import json

import test_cli
import torch
from safetensors.torch import save_file

from training_checkpoints import computed, megatron, write

IDS = torch.tensor([3, 1, 4, 1, 5])
SETS = ("--set", "num_attention_heads=4", "--set", "num_key_value_heads=2", "--set", "num_experts_per_tok=3")


def flat(text):
    return " ".join(text.split())


def test_import_says_what_was_proven(monkeypatch, capsys, tmp_path):
    tensors = megatron()
    source = write(tmp_path / "iter_0000100", tensors | {"optimizer.state": torch.ones(2)})
    code, out, _ = test_cli.run(
        monkeypatch, capsys, "import", source, "--out", tmp_path / "s/step-100", "--tokens", "1M", *SETS
    )
    assert code == 0
    assert f"{sum(t.numel() for t in tensors.values()):,} values by layout flame-moe" in flat(out)
    assert "left aside: 1 entries that are no weights, first optimizer.state" in flat(out)
    assert "proof: blocks" in out
    assert "no reference: nothing says that this is what was trained" in flat(out)
    assert json.loads((tmp_path / "s/step-100/checkpoint.json").read_text()) == {"tokens": 10**6}
    logits, routed = computed(tensors, IDS)
    record = {"input_ids": IDS[None], "logits": logits[None].float(), "routing.1": routed[1][None].contiguous()}
    save_file(record, tmp_path / "recorded.safetensors")
    code, out, _ = test_cli.run(
        monkeypatch,
        capsys,
        "import",
        source,
        "--out",
        tmp_path / "b",
        "--reference",
        tmp_path / "recorded.safetensors",
        *SETS,
    )
    assert code == 0
    assert "recorded routing, layer 1: 100.0% the same experts (chance 37.5%)" in flat(out)
    code, _, error = test_cli.run(monkeypatch, capsys, "import", source, "--out", tmp_path / "b", *SETS)
    assert code == 2
    assert "exists already" in flat(error)


def test_import_lists_layouts_and_asks_for_what_is_missing(monkeypatch, capsys, tmp_path):
    code, out, _ = test_cli.run(monkeypatch, capsys, "import")
    assert code == 0
    assert "flame-moe" in out
    for arguments, words in (
        (("import", tmp_path), "give a new folder as --out"),
        (("import", "--out", tmp_path / "x"), "give the folder of a checkpoint"),
        (("import", tmp_path, "--out", tmp_path / "x", "--set", "heads"), "expected KEY=VALUE"),
    ):
        code, _, error = test_cli.run(monkeypatch, capsys, *arguments)
        assert code == 2
        assert words in flat(error)
