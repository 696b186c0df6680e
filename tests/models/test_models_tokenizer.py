"""The tokenizer is the one that the folder's tokenizer.json describes, whatever transformers makes of it."""

import hashlib
import json

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from gated_lpi import load_model
from gated_lpi.errors import ModelError
from gated_lpi.models import adds_bos, load_tokenizer
from tiny_models import tiny_module
from tiny_text import save_checkpoint

TEXT = "In 1984 and 2024:  12+34=46, café"
REPLACED = [("qwen2", "Qwen2Tokenizer"), ("qwen3", "Qwen2Tokenizer"), ("gpt_neox", "GPTNeoXTokenizerFast")]


def save_tokenizer(folder, cls="PreTrainedTokenizerFast", model_type="qwen3", **settings):
    """A byte-level tokenizer that keeps numbers whole, which transformers' own Qwen tokenizer splits into digits."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=False), byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<bos>", "<eos>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["In 1984 and 2024 the sum 12+34=46 of years 1984, 2024 was known."] * 50, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": cls, "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<eos>", **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if not (folder / "config.json").exists():
        (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return tokenizer


@pytest.mark.parametrize(("model_type", "cls"), REPLACED)
def test_a_tokenizer_that_transformers_builds_anew_is_replaced_by_the_files(tmp_path, model_type, cls):
    from transformers import AutoTokenizer

    stored = save_tokenizer(tmp_path, cls, model_type)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    loaded = load_tokenizer(str(tmp_path))
    assert loaded.tokenizer(TEXT)["input_ids"] == stored.encode(TEXT).ids
    assert loaded.tokenizer.decode(stored.encode(TEXT).ids) == TEXT
    assert loaded.tokenizer.eos_token_id == stored.token_to_id("<eos>")
    assert loaded.sha256 == hashlib.sha256((tmp_path / "tokenizer.json").read_bytes()).hexdigest()
    (note,) = loaded.notes
    assert f"own {cls.removesuffix('Fast')} differs" in note
    assert "pre_tokenizer" in note
    if cls == "Qwen2Tokenizer":  # the reason for all this: without the check, other ids and no word
        assert theirs(TEXT)["input_ids"] != stored.encode(TEXT).ids
        assert "the ids of a probe text" in note


def test_a_tokenizer_that_is_as_its_file_says_is_left_alone(tmp_path):
    stored = save_tokenizer(tmp_path)
    loaded = load_tokenizer(str(tmp_path))
    assert loaded.notes == ()
    assert loaded.tokenizer(TEXT)["input_ids"] == stored.encode(TEXT).ids


def test_scores_come_from_the_files_tokens_and_the_model_says_so(tmp_path):
    module = tiny_module("Qwen2", vocab_size=320)
    module.save_pretrained(tmp_path)
    stored = save_tokenizer(tmp_path, "Qwen2Tokenizer")
    model = load_model(str(tmp_path))
    assert model.tokenizer(TEXT)["input_ids"] == stored.encode(TEXT).ids
    assert any("the file's tokenizer is used" in note for note in model.notes)
    assert model.provenance["tokenizer_sha256"] == load_tokenizer(str(tmp_path)).sha256


@pytest.mark.parametrize("asked", [True, False])
def test_an_add_bos_token_without_effect_is_said(tmp_path, asked):
    save_tokenizer(tmp_path, add_bos_token=asked)
    loaded = load_tokenizer(str(tmp_path))
    does = adds_bos(loaded.tokenizer)
    assert does is False  # as transformers 5 has it: should that change, the note goes
    assert (loaded.tokenizer("a")["input_ids"][0] == loaded.tokenizer.bos_token_id) == does
    assert [f"add_bos_token = {str(asked).lower()}" in note for note in loaded.notes] == [True] * (asked != does)


def test_a_tokenizer_whose_ids_are_not_the_files_is_refused(tmp_path, monkeypatch):
    from gated_lpi.models import tokenizer

    save_tokenizer(tmp_path)
    monkeypatch.setattr(tokenizer, "_stored", lambda *_: Tokenizer(models.BPE()))
    with pytest.raises(ModelError, match=r"differs from it in pre_tokenizer, decoder, model and the ids"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"model": 3}', "\x00", '{"version": "1.0", "model": {"type": "X"}}']
)
def test_a_damaged_tokenizer_is_an_error_with_its_reason(tmp_path, content):
    folder = save_checkpoint(tmp_path, "Llama")
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match="no tokenizer could be loaded"):
        load_model(str(folder))


def test_a_tokenizer_that_cannot_encode_words_it_does_not_know_is_refused(tmp_path):
    save_tokenizer(tmp_path)
    Tokenizer(models.WordLevel({"known": 0}, unk_token="[UNK]")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ModelError, match=r"tokenizer\.json cannot encode a text: .*\[UNK\]"):
        load_tokenizer(str(tmp_path))
