"""What transformers gets to see of a checkpoint's folder: a config without choices of code, and checked files.

transformers looks at far more than weights, config and tokenizer: adapters, pickles, files of a distributed run, other
configs that the config names, code. And its config may ask for code: an attention kernel of any hub repository, a
quantiser, a fusion. So it is given a folder of its own, made anew for each load, which holds
1. `config.json` without those keys (`safe_config`);
2. the weights, as links: what `weight_files` chose, under the usual names;
3. links to the files of the tokenizer that are regular files of a size that can be read.
Nothing else of the checkpoint's folder can reach it, whatever transformers looks for.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import CONFIG_MAPPING, PretrainedConfig

from gated_lpi._common.entries import quoted
from gated_lpi._common.foreign import ForeignTextError, parse_json
from gated_lpi._common.weight_files import (
    BESIDE_WEIGHTS,
    CONFIG_NAME,
    INDEX_NAME,
    SINGLE_NAME,
    WeightFiles,
    is_pickle,
    text_of,
)
from gated_lpi.errors import ModelError, WeightsError

LONGEST_TOKENIZER = 1 << 26  # bytes: twice the largest in use, and little enough to be parsed in memory
GENERATION = "generation_config.json"
# Keys with which a config chooses code, a device layout or other files. What is private ("_attn_implementation") is
# left out in any case, and so is what would take the place of a method or of an attribute of the config's class.
CHOICES = {
    "attn_implementation",
    "experts_implementation",
    "distributed_config",
    "fusion_config",
    "kernel_config",
    "use_kernels",
    "custom_pipelines",
}
# Left out without a word: what was looked at before, what no loading needs, and a classifier's labels, since a
# dictionary of so many names would be made.
_BOOKKEEPING = {
    "_name_or_path",
    "_commit_hash",
    "_sliding_window_pattern",
    "num_labels",
    "quantization_config",
    "transformers_weights",
}
_FLOAT = "__float__"  # how transformers writes infinity
_LAYERS = "num_hidden_layers"


def read_config(folder: Path) -> dict[str, Any]:
    """The content of a folder's config.json.

    Raises:
        ModelError: as `read_config_file` has it.
    """
    return read_config_file(folder / CONFIG_NAME)


def read_config_file(file: Path) -> dict[str, Any]:
    """The content of a config that is in a file of any name.

    Raises:
        ModelError: it is not there, too long, no JSON object, or names another config that should be read instead.
    """
    try:
        content = parse_json(text_of(file))
    except WeightsError as error:
        raise ModelError(f"{error} If it is damaged, save or download the model again") from error
    except ForeignTextError as error:
        raise ModelError(f"{file} cannot be used ({error}); it is damaged. Save or download the model again") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file} holds {quoted(content)}; expected a JSON object. Save or download the model again")
    if "configuration_files" in content:
        raise ModelError(
            f"{file} names other configs that some versions of transformers would read instead (configuration_files); "
            "which of them is meant? Put the one that is meant in its place"
        )
    return content


def safe_config(content: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A config without what would choose code or files, and the names of the keys that were left out for that."""
    left_out: list[str] = []
    config_class = CONFIG_MAPPING[content["model_type"]] if content.get("model_type") in CONFIG_MAPPING else None
    cleaned = _without(content, _reserved(config_class or PretrainedConfig), left_out)
    return cleaned, sorted(set(left_out) - _BOOKKEEPING)


def refuse_layers(source: str, content: Mapping[str, Any], n_tensors: int) -> None:
    """Refuse a config with more layers than its weights have tensors, before lists of so many entries are made.

    Raises:
        ModelError: says both numbers.
    """
    model_type = content.get("model_type")
    names = {_LAYERS}
    if isinstance(model_type, str) and model_type in CONFIG_MAPPING:
        names.add(CONFIG_MAPPING[model_type].attribute_map.get(_LAYERS, _LAYERS))
    for name in sorted(names):
        layers = content.get(name)
        if isinstance(layers, int) and layers > n_tensors:
            raise ModelError(
                f"the config of {source!r} has {name} = {quoted(layers)}, but its weights are {n_tensors} tensors in "
                "all: config.json belongs to another model. Put the right one there, or download the model again"
            )


@contextmanager
def staged(folder: Path, config: Mapping[str, Any], weights: WeightFiles | None = None) -> Iterator[Path]:
    """A folder with a config, the weights and the tokenizer's files, there until the `with` block ends.

    Raises:
        ModelError: a file of the tokenizer is none, or too long to be one.
    """
    with TemporaryDirectory(prefix="gated-lpi-", ignore_cleanup_errors=True) as made:
        view = Path(made)
        (view / CONFIG_NAME).write_text(json.dumps(config), encoding="utf-8")
        for path in _beside(folder):
            (view / path.name).symlink_to(path.absolute())
        if weights is not None:
            _link_weights(view, weights)
        yield view


@contextmanager
def staged_file(path: Path) -> Iterator[Path]:
    """A folder with a link to one file and nothing else, there until the `with` block ends; the link's path."""
    with TemporaryDirectory(prefix="gated-lpi-", ignore_cleanup_errors=True) as made:
        link = Path(made) / path.name
        link.symlink_to(path.absolute())
        yield link


def _without(content: Mapping[str, Any], reserved: frozenset[str], left_out: list[str]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in content.items():
        if key in CHOICES or key in reserved or key in _BOOKKEEPING or (key.startswith("_") and key != _FLOAT):
            left_out.append(key)
        else:
            kept[key] = _without(value, frozenset(), left_out) if isinstance(value, dict) else value
    return kept


def _reserved(config_class: type) -> frozenset[str]:
    """Names that a config's class has for itself: all of its attributes but fields, properties and the model's type."""
    members = inspect.getmembers_static(config_class)
    own = {name for name, value in members if not isinstance(value, property) and not name.startswith("_")}
    return frozenset(own - {field.name for field in dataclasses.fields(config_class)} - {"model_type"})


def _beside(folder: Path) -> Iterator[Path]:
    """The files of the tokenizer, and how texts would be generated; refused if one is no file or too long."""
    for path in sorted(folder.iterdir()):
        if path.name != GENERATION and not any(fnmatchcase(path.name, pattern) for pattern in BESIDE_WEIGHTS):
            continue
        if is_pickle(path.name) or path.is_dir():
            continue
        try:
            found = path.stat()
        except OSError:
            continue  # a link to nothing, which is as good as no file
        if not stat.S_ISREG(found.st_mode):
            raise ModelError(f"{path} is no file but a device, a pipe or a socket, and is not opened; remove it")
        if found.st_size > LONGEST_TOKENIZER:
            raise ModelError(
                f"{path} has {found.st_size:,} bytes; expected a file of a tokenizer, of {LONGEST_TOKENIZER:,} bytes "
                "at most. Put the right file there, or remove it"
            )
        yield path


def _link_weights(view: Path, weights: WeightFiles) -> None:
    if not any(weights.promised.values()):
        (view / SINGLE_NAME).symlink_to(weights.paths[0].absolute())
        return
    for path in weights.paths:
        (view / path.name).symlink_to(path.absolute())
    placed = {tensor: path.name for path, tensors in weights.promised.items() for tensor in sorted(tensors)}
    index = {"metadata": {"total_size": weights.size}, "weight_map": placed}
    (view / INDEX_NAME).write_text(json.dumps(index), encoding="utf-8")
