"""Checkpoint folders that are broken, odd or mean: a spoiler of a sound one each, to be listed, crossed and counted.

A spoiler is a function (folder, canary): it changes a folder that `save_checkpoint` wrote. If anything in it is ever
run as code, the folder `canary` is made. What loads all the same has to be the model that was saved.
"""

import json
import os
import pickle
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


def change(file: Path, **entries: Any) -> None:
    """Change entries of a JSON file."""
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(content | entries))


def pickled(path: Path, canary: Path) -> None:
    """Put a pickle there that makes the canary."""
    torch.save({"w": Canary(canary)}, path)


def code(path: Path, canary: Path) -> None:
    """Put Python there that makes the canary."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"import os\nos.mkdir({str(canary)!r})\nclass Evil: pass\ndef generate(*_, **__): pass\n")


def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the tensors of a folder's weights."""
    tensors = load_file(folder / ONE)
    change(tensors)
    save_file(tensors, folder / ONE, metadata={"format": "pt"})


def first(tensors: dict[str, torch.Tensor]) -> str:
    """The name of a matrix among tensors."""
    return min(name for name, tensor in tensors.items() if tensor.dim() > 1)


def header(path: Path, content: str, length: int | None = None) -> None:
    """A safetensors file of nothing but a header; length: what it says of that."""
    text = content.encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text)


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
    header(folder / ONE, "{}", 1 << 40)


def nested_header(folder: Path, _canary: Path) -> None:
    header(folder / ONE, '{"a":' * 10**6)


def overlapping_tensors(folder: Path, _canary: Path) -> None:
    content = (folder / ONE).read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    placed = json.loads(content[8:end])
    names = [name for name in placed if name != "__metadata__"]
    placed[names[1]]["data_offsets"] = placed[names[0]]["data_offsets"]
    header(folder / ONE, json.dumps(placed))
    with (folder / ONE).open("ab") as file:
        file.write(content[end:])


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


# --- what would run code


def index_of_a_pickle(folder: Path, canary: Path) -> None:
    pickled(folder / "w.bin", canary)
    (folder / ONE).unlink()
    (folder / INDEX).write_text(json.dumps({"weight_map": {"w": "w.bin"}}))


def pickle_under_the_name_of_a_shard(folder: Path, canary: Path) -> None:
    pickled(folder / "w.safetensors", canary)
    (folder / ONE).unlink()
    (folder / INDEX).write_text(json.dumps({"weight_map": {"w": "w.safetensors"}}))


def pickle_alone(folder: Path, canary: Path) -> None:
    pickled(folder / "pytorch_model.bin", canary)
    (folder / ONE).unlink()


def pickle_that_the_config_names(folder: Path, canary: Path) -> None:
    pickled(folder / "adapter_model.bin", canary)
    change(folder / CONFIG, transformers_weights="adapter_model.bin")


def pickled_adapter(folder: Path, canary: Path) -> None:
    pickled(folder / "adapter_model.bin", canary)
    change(folder / "adapter_config.json", peft_type="LORA", base_model_name_or_path="elsewhere/model")


def files_of_a_distributed_run(folder: Path, canary: Path) -> None:
    (folder / ".metadata").write_bytes(pickle.dumps(Canary(canary)))
    save_file({"w": torch.ones(2)}, folder / "shard-00000-model-00001-of-00001.safetensors")


def pickled_tokenizer(folder: Path, canary: Path) -> None:
    for name in ("tokenizer.pkl", "tokenizer.bin", "vocab.pkl", "vocab.bin", "tokenizer.pickle"):
        (folder / name).write_bytes(pickle.dumps(Canary(canary)))
    change(
        folder / SETTINGS, tokenizer_class="TransfoXLTokenizer", vocab_file="vocab.pkl", tokenizer_file="tokenizer.pkl"
    )


def pickle_for_sentencepiece(folder: Path, canary: Path) -> None:
    (folder / "tokenizer.json").unlink()
    for name in ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model"):
        (folder / name).write_bytes(pickle.dumps(Canary(canary)))
    change(folder / SETTINGS, tokenizer_class="LlamaTokenizer")


def code_of_the_tokenizer(folder: Path, canary: Path) -> None:
    code(folder / "evil.py", canary)
    change(folder / SETTINGS, auto_map={"AutoTokenizer": ["evil.Evil", "evil.Evil"]}, trust_remote_code=True)


def code_of_the_model(folder: Path, canary: Path) -> None:
    code(folder / "evil.py", canary)
    names = ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer")
    change(folder / CONFIG, auto_map=dict.fromkeys(names, "evil.Evil"), trust_remote_code=True)


def code_to_generate_with(folder: Path, canary: Path) -> None:
    code(folder / "custom_generate" / "generate.py", canary)
    change(folder / "generation_config.json", trust_remote_code=True)


def odd_classes(folder: Path, canary: Path) -> None:
    change(folder / SETTINGS, tokenizer_class="os.mkdir", processor_class=str(canary))


def template_with_code(folder: Path, canary: Path) -> None:
    text = "{{ cycler.__init__.__globals__.os.mkdir('" + str(canary) + "') }}"
    (folder / "chat_template.jinja").write_text(text)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "more.jinja").write_text(text)
    change(folder / SETTINGS, chat_template=text)


TRAPS = (
    index_of_a_pickle,
    pickle_under_the_name_of_a_shard,
    pickle_alone,
    pickle_that_the_config_names,
    pickled_adapter,
    files_of_a_distributed_run,
    pickled_tokenizer,
    pickle_for_sentencepiece,
    code_of_the_tokenizer,
    code_of_the_model,
    code_to_generate_with,
    odd_classes,
    template_with_code,
)
REFUSED = (
    index_of_a_pickle,
    pickle_under_the_name_of_a_shard,
    pickle_alone,
    pickle_that_the_config_names,
    pickled_adapter,
    pickle_for_sentencepiece,
)


def pickle_beside(folder: Path, canary: Path) -> None:
    pickled(folder / "pytorch_model.bin", canary)


def pickle_called_safetensors(folder: Path, canary: Path) -> None:
    pickled(folder / ONE, canary)


def code_of_a_type_of_its_own(folder: Path, canary: Path) -> None:
    code_of_the_model(folder, canary)
    change(folder / CONFIG, model_type="custom")


# --- what must not be read


FILES = (CONFIG, ONE, INDEX, "tokenizer.json", SETTINGS, "generation_config.json", "special_tokens_map.json", "x.model")

VAST = (ONE, "terabyte")  # weights may be as large as they like, as long as header and config agree


def odd_file(path: Path, kind: str) -> None:
    """Put something there that must not be read: a pipe, a link to a device, a terabyte."""
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link to a device":
        path.symlink_to("/dev/zero")
    else:
        with path.open("wb") as file:
            file.truncate(1 << 40)


BOMBS = (
    {"hidden_size": 10**9, "num_attention_heads": 10**6},
    {"num_hidden_layers": 10**9},
    {"vocab_size": 10**12},
    {"intermediate_size": 10**12},
    {"num_attention_heads": 10**9, "num_key_value_heads": 10**9},
    {"head_dim": 10**10},
    {"num_labels": 10**9},
)


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
        change(folder / name, **changes)

    return spoil


def _instead_of(name: str, kind: str) -> Spoiler:
    def spoil(folder: Path, _canary: Path) -> None:
        if name == INDEX:
            (folder / ONE).unlink()
        odd_file(folder / name, kind)

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
ODD_CONTENTS = {
    "is missing": None,
    "is empty": b"",
    "is no JSON": b"{",
    "is a list": b"[]",
    "is nested": b"[" * 100_000,
    "is not UTF-8": b'{"a": "\xff"}',
    "is zeroed": bytes(500),
}
SPOILERS: dict[str, Spoiler] = {
    spoiler.__name__.replace("_", " "): spoiler
    for spoiler in (
        *(no_weights, empty_weights, cut_short, longer, zeroed_header, endless_header, nested_header),
        *(overlapping_tensors, not_a_number, infinite, a_tensor_missing, a_tensor_too_many, another_shape),
        *(whole_numbers, a_link_to_nothing, a_link_to_itself, a_folder_for_weights, another_model_beside),
        *(*TRAPS, pickle_beside, pickle_called_safetensors, code_of_a_type_of_its_own, no_tokenizer),
    )
} | {
    **{f"an index that names {name!r}": _index_of(name)
       for name in ("../x.safetensors", "/etc/passwd", "x.bin", 7, None)},
    "an index of one shard": _index_of("x.safetensors"),
    "an index that gives a key twice": _index_text('{"weight_map": {"w": "x.safetensors", "w": "y.safetensors"}}'),
    "an index that is nested": _index_text('{"a":' * 100_000),
    "an index that is empty": _index_text(""),
    **{f"{name} {how}": _text(name, text) for name in (CONFIG, TOKENIZER) for how, text in ODD_CONTENTS.items()},
    **{f"config.json has {what}": _entries(CONFIG, entries) for what, entries in ODD_ENTRIES.items()},
    **{f"a config of a vast {'-'.join(entries)}": _entries(CONFIG, entries) for entries in BOMBS},
    **{f"{kind} for {name}": _instead_of(name, kind)
       for name in FILES for kind in ("pipe", "link to a device", "terabyte") if (name, kind) != VAST},
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
