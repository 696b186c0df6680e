"""Loss on text: what transformers' own loss says, however it is cut, and what cannot be read."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from gated_lpi.ablation import damage, read_text, silenced, text_loss, text_windows
from gated_lpi.errors import ModelError, OptionError
from gated_lpi.interventions import record_routing, replayed
from tiny_models import tiny_model
from tiny_text import WORDS, speaking_model

TEXT = " ".join(WORDS * 12)


def test_loss_is_that_of_the_model_itself():
    model = speaking_model("Qwen3-MoE")
    windows = text_windows(model, TEXT, window=20)
    assert {len(ids) for ids in windows[:-1]} == {20}
    losses, counts = [], []
    for ids in windows:
        tensor = torch.tensor([ids])
        with torch.no_grad():
            losses.append(float(model.module(input_ids=tensor, labels=tensor).loss))
        counts.append(len(ids) - 1)
    assert text_loss(model, windows) == pytest.approx(np.average(losses, weights=counts), abs=1e-5)


@pytest.mark.parametrize("routing", ["free", "frozen"])
def test_windows_that_are_read_together_lose_what_they_lose_alone(monkeypatch, routing):
    model = speaking_model("OLMoE")
    windows = text_windows(model, TEXT, window=20)
    assert len(windows[-1]) < 20
    units = np.arange(0, len(model.units), 3)
    recorded = record_routing(model, windows)
    found = []
    for at_once in (damage.LOGITS, 1, 2 * 20 * model.readout.vocabulary):
        monkeypatch.setattr(damage, "LOGITS", at_once)
        with silenced(model, units), replayed(model, recorded) if routing == "frozen" else nullcontext():
            found.append(text_loss(model, windows))
    assert found[1:] == pytest.approx([found[0]] * 2, abs=1e-6)


def test_windows_hold_the_text_once_up_to_a_number_of_tokens():
    model = speaking_model("Llama")
    ids = model.tokenizer(TEXT)["input_ids"]
    assert [token for window in text_windows(model, TEXT, window=7) for token in window] == ids[: len(ids) // 7 * 7] + (
        ids[len(ids) // 7 * 7 :] if len(ids) % 7 > 1 else []
    )
    assert sum(map(len, text_windows(model, TEXT, window=7, tokens=21))) == 21


def test_windows_begin_with_bos_where_the_tokenizer_puts_it_and_fit_the_context():
    from tokenizers.processors import TemplateProcessing

    model = speaking_model("GPT-2")
    assert {len(ids) for ids in text_windows(model, TEXT)[:-1]} == {64}  # its context
    model.tokenizer.add_special_tokens({"bos_token": "[PAD]"})
    model.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="[PAD] $A", special_tokens=[("[PAD]", 0)]
    )
    windows = text_windows(model, TEXT)
    assert all(ids[0] == 0 for ids in windows)
    assert {len(ids) for ids in windows[:-1]} == {64}
    assert windows[0][1:] == model.tokenizer(TEXT, add_special_tokens=False)["input_ids"][:63]


def test_silencing_everything_is_seen_in_the_loss():
    model = speaking_model("OLMoE")
    windows = text_windows(model, TEXT)
    before = text_loss(model, windows)
    with silenced(model, np.arange(len(model.units))):
        assert abs(text_loss(model, windows) - before) > 1e-3
    with silenced(model, np.arange(len(model.units)), at="last"):
        assert abs(text_loss(model, windows) - before) > 1e-3


def test_the_built_in_text_is_several_hundred_words():
    text = read_text()
    assert 300 < len(text.split()) < 800
    assert text.isascii()


def test_what_is_no_text_is_refused(tmp_path):
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "blank").write_text(" \n")
    for name, message in (("none", "cannot be read"), ("bytes", "plain text file in UTF-8"), ("blank", "is blank")):
        with pytest.raises(OptionError, match=message):
            read_text(tmp_path / name)
    model = speaking_model("Llama")
    with pytest.raises(OptionError, match="window=1"):
        text_windows(model, TEXT, window=1)
    with pytest.raises(OptionError, match="the text has 1 tokens"):
        text_windows(model, "sky")
    with pytest.raises(ModelError, match="without a tokenizer"):
        text_windows(tiny_model("Llama"), TEXT)
    with pytest.raises(ModelError, match="the model 8 tokens"):
        text_windows(speaking_model("Llama", vocab_size=8), TEXT)
