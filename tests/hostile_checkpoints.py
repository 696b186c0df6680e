"""Checkpoint folders that are broken, odd or mean: a spoiler of a sound one each, to be listed, crossed and counted.

A spoiler is a function (folder, canary): it changes a folder that `save_checkpoint` wrote. If anything in it is ever
run as code, the folder `canary` is made. What loads all the same has to be the model that was saved.
"""

import json
import os
import pickle
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors.torch import load_file, save_file

from tiny_text import save_checkpoint

ONE, CONFIG, INDEX = "model.safetensors", "config.json", "model.safetensors.index.json"
SETTINGS, TOKENIZER = "tokenizer_config.json", "tokenizer.json"
Spoiler: TypeAlias = Callable[[Path, Path], None]


class Canary:
    """Makes a folder where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the tensors of a folder's weights."""
    tensors = load_file(folder / ONE)
    change(tensors)
    save_file(tensors, folder / ONE, metadata={"format": "pt"})


def reconfigure(folder: Path, name: str = CONFIG, /, **changes: Any) -> None:
    """Change entries of a JSON file."""
    file = folder / name
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(content | changes))


def code(file: Path, canary: Path) -> None:
    """Put Python there that makes the canary."""
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"import os\nos.mkdir({str(canary)!r})\nclass Evil: pass\n")


def first(tensors: dict[str, torch.Tensor]) -> str:
    """The name of a matrix among tensors."""
    return min(name for name, tensor in tensors.items() if tensor.dim() > 1)


# --- weights


def no_weights(folder: Path, _canary: Path) -> None:
    (folder / ONE).unlink()


def empty_weights(folder: Path, _canary: Path) -> None:
    (folder / ONE).write_bytes(b"")


def cut_short(folder: Path, _canary: Path) -> None:
    (folder / ONE).write_bytes((folder / ONE).read_bytes()[:-64])


def longer(folder: Path, _canary: Path) -> None:
    (folder / ONE).write_bytes((folder / ONE).read_bytes() + bytes(64))


def zeroed_header(folder: Path, _canary: Path) -> None:
    content = (folder / ONE).read_bytes()
    (folder / ONE).write_bytes(bytes(64) + content[64:])


def endless_header(folder: Path, _canary: Path) -> None:
    (folder / ONE).write_bytes(struct.pack("<Q", 1 << 40) + b"{}")


def nested_header(folder: Path, _canary: Path) -> None:
    text = b'{"a":' * 100_000
    (folder / ONE).write_bytes(struct.pack("<Q", len(text)) + text)


def overlapping_tensors(folder: Path, _canary: Path) -> None:
    content = (folder / ONE).read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    names = [name for name in header if name != "__metadata__"]
    header[names[1]]["data_offsets"] = header[names[0]]["data_offsets"]
    text = json.dumps(header).encode()
    (folder / ONE).write_bytes(struct.pack("<Q", len(text)) + text + content[end:])


def not_a_number(folder: Path, _canary: Path) -> None:
    edit(folder, lambda t: t[first(t)].view(-1)[0].fill_(float("nan")))


def infinite(folder: Path, _canary: Path) -> None:
    edit(folder, lambda t: t[first(t)].view(-1)[-1].fill_(float("inf")))


def a_tensor_missing(folder: Path, _canary: Path) -> None:
    edit(folder, lambda t: t.pop(first(t)))


def a_tensor_too_many(folder: Path, _canary: Path) -> None:
    edit(folder, lambda t: t.update({"model.extra.weight": torch.ones(8)}))


def another_shape(folder: Path, _canary: Path) -> None:
    edit(folder, lambda t: t.update({first(t): torch.ones(8, 3)}))


def whole_numbers(folder: Path, _canary: Path) -> None:
    edit(folder, lambda t: t.update({name: tensor.to(torch.int32) for name, tensor in t.items()}))


def a_link_to_nothing(folder: Path, _canary: Path) -> None:
    (folder / ONE).unlink()
    (folder / ONE).symlink_to("absent")


def a_link_to_itself(folder: Path, _canary: Path) -> None:
    (folder / ONE).unlink()
    (folder / ONE).symlink_to(ONE)


def a_folder_for_weights(folder: Path, _canary: Path) -> None:
    (folder / ONE).unlink()
    (folder / ONE).mkdir()


def another_model_beside(folder: Path, _canary: Path) -> None:
    tensors = {name: tensor + 1 for name, tensor in load_file(folder / ONE).items()}
    for name in ("consolidated.safetensors", "adapter_model.safetensors", "a.safetensors"):
        save_file(tensors, folder / name)


# --- pickles


def pickle_alone(folder: Path, canary: Path) -> None:
    torch.save({"w": Canary(canary)}, folder / "pytorch_model.bin")
    (folder / ONE).unlink()


def pickle_beside(folder: Path, canary: Path) -> None:
    torch.save({"w": Canary(canary)}, folder / "pytorch_model.bin")


def pickle_in_an_index(folder: Path, canary: Path) -> None:
    torch.save({"w": Canary(canary)}, folder / "w.bin")
    (folder / ONE).unlink()
    (folder / INDEX).write_text(json.dumps({"weight_map": {"w": "w.bin"}}))


def pickle_called_safetensors(folder: Path, canary: Path) -> None:
    torch.save({"w": Canary(canary)}, folder / ONE)


def pickle_that_the_config_names(folder: Path, canary: Path) -> None:
    torch.save({"w": Canary(canary)}, folder / "adapter_model.bin")
    reconfigure(folder, transformers_weights="adapter_model.bin")


def pickled_tokenizer(folder: Path, canary: Path) -> None:
    for name in ("tokenizer.pkl", "tokenizer.bin", "vocab.pkl"):
        (folder / name).write_bytes(pickle.dumps(Canary(canary)))
    reconfigure(folder, SETTINGS, vocab_file="vocab.pkl", tokenizer_file="tokenizer.pkl")


# --- code


def code_of_the_model(folder: Path, canary: Path) -> None:
    code(folder / "evil.py", canary)
    names = ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer")
    reconfigure(folder, auto_map=dict.fromkeys(names, "evil.Evil"), trust_remote_code=True)


def code_of_a_model_of_its_own(folder: Path, canary: Path) -> None:
    code_of_the_model(folder, canary)
    reconfigure(folder, model_type="custom")


def code_of_the_tokenizer(folder: Path, canary: Path) -> None:
    code(folder / "evil.py", canary)
    reconfigure(folder, SETTINGS, auto_map={"AutoTokenizer": ["evil.Evil", "evil.Evil"]}, trust_remote_code=True)


def code_to_generate_with(folder: Path, canary: Path) -> None:
    code(folder / "custom_generate" / "generate.py", canary)
    reconfigure(folder, "generation_config.json", trust_remote_code=True)


def template_with_code(folder: Path, canary: Path) -> None:
    text = "{{ cycler.__init__.__globals__.os.mkdir('" + str(canary) + "') }}"
    (folder / "chat_template.jinja").write_text(text)
    reconfigure(folder, SETTINGS, chat_template=text)


# --- indexes


def _index_of(name: Any) -> Spoiler:
    def spoil(folder: Path, _canary: Path) -> None:
        tensors = load_file(folder / ONE)
        (folder / ONE).rename(folder / "x.safetensors")
        (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(tensors, name)}))

    return spoil


def _index_text(text: str) -> Spoiler:
    def spoil(folder: Path, _canary: Path) -> None:
        (folder / ONE).rename(folder / "x.safetensors")
        (folder / INDEX).write_text(text)

    return spoil


# --- configs and tokenizers


def _text(name: str, content: bytes | None) -> Spoiler:
    """A file with another content, or without it."""

    def spoil(folder: Path, _canary: Path) -> None:
        (folder / name).unlink()
        if content is not None:
            (folder / name).write_bytes(content)

    return spoil


def _entries(name: str, changes: dict[str, Any]) -> Spoiler:
    def spoil(folder: Path, _canary: Path) -> None:
        reconfigure(folder, name, **changes)

    return spoil


def no_tokenizer(folder: Path, _canary: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()


ODD_ENTRIES: dict[str, dict[str, Any]] = {
    "an unknown type": {"model_type": "nonesuch"},
    "a type that is no text": {"model_type": ["llama"]},
    "another family": {"model_type": "bloom"},
    "an encoder-decoder": {"model_type": "t5"},
    "an unknown activation": {"hidden_act": "nonesuch", "activation_function": "nonesuch"},
    "no layers": {"num_hidden_layers": 0, "n_layer": 0},
    "a layer more": {"num_hidden_layers": 3, "n_layer": 3},
    "negative sizes": {"hidden_size": -32, "n_embd": -32},
    "sizes that are texts": {"hidden_size": "32", "n_embd": "32"},
    "heads that do not divide": {"num_attention_heads": 5, "n_head": 5},
    "another vocabulary": {"vocab_size": 70},
    "an endless epsilon": {"rms_norm_eps": float("inf"), "layer_norm_eps": float("inf"), "layer_norm_epsilon": 1e400},
    "a packed dtype": {"dtype": "float4"},
    "a quantiser": {"quantization_config": {"quant_method": "nonesuch"}},
    "a padding id beyond all": {"pad_token_id": 999},
}
SPOILERS: dict[str, Spoiler] = {
    spoiler.__name__.replace("_", " "): spoiler
    for spoiler in (
        *(no_weights, empty_weights, cut_short, longer, zeroed_header, endless_header, nested_header),
        *(overlapping_tensors, not_a_number, infinite, a_tensor_missing, a_tensor_too_many, another_shape),
        *(whole_numbers, a_link_to_nothing, a_link_to_itself, a_folder_for_weights, another_model_beside),
        *(pickle_alone, pickle_beside, pickle_in_an_index, pickle_called_safetensors, pickle_that_the_config_names),
        *(pickled_tokenizer, code_of_the_model, code_of_a_model_of_its_own, code_of_the_tokenizer),
        *(code_to_generate_with, template_with_code, no_tokenizer),
    )
} | {
    **{f"an index that names {name!r}": _index_of(name) for name in ("../x.safetensors", "/etc/passwd", "x.bin", 7, None)},
    "an index of one shard": _index_of("x.safetensors"),
    "an index that gives a key twice": _index_text('{"weight_map": {"w": "x.safetensors", "w": "y.safetensors"}}'),
    "an index that is nested": _index_text('{"a":' * 100_000),
    "an index that is empty": _index_text(""),
    **{f"{name} {how}": _text(name, text) for name in (CONFIG, TOKENIZER) for how, text in (
        ("is missing", None), ("is empty", b""), ("is no JSON", b"{"), ("is a list", b"[]"), ("is nested", b"[" * 100_000),
        ("is not UTF-8", b'{"a": "\xff"}'), ("is zeroed", bytes(500)),
    )},
    **{f"config.json has {what}": _entries(CONFIG, entries) for what, entries in ODD_ENTRIES.items()},
    "a tokenizer of another class": _entries(SETTINGS, {"tokenizer_class": "os.mkdir"}),
}  # fmt: skip
FAMILIES = ("Llama", "Qwen3-MoE", "GPT-2")


@dataclass(frozen=True)
class Hostile:
    """A family's checkpoint with a spoiler."""

    family: str
    name: str

    def build(self, folder: Path, canary: Path) -> Path:
        """Save the sound checkpoint and spoil it."""
        save_checkpoint(folder, self.family)
        SPOILERS[self.name](folder, canary)
        return folder

    def __str__(self) -> str:
        return f"{self.family}: {self.name}"


def all_hostile() -> Iterator[Hostile]:
    """Every spoiler, in every family."""
    for name in SPOILERS:
        for family in FAMILIES:
            yield Hostile(family, name)
