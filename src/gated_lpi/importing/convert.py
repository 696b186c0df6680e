"""A training checkpoint → a folder that transformers and this package read.

1. Tensors are listed from the metadata (`metadata`, `reading`); a layout (`layouts`) says under which names and how.
2. The config is made of the tensors' shapes, what the layout says of published models, and what is given.
3. The model is laid out without values. Every tensor of it is made by one row of the layout; one that none makes, and
   one of the checkpoint that none reads, is an error: nothing is left at its initial value, nothing is dropped unsaid.
4. It is saved, and read again: all values must be those that were made, bit for bit.
5. Proof: its units account for what it computes (`loading.wrap_model`); and where there is a reference, it does what
   the trained model did (`agreement`). Only then is the folder put in its place.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers import __version__ as transformers_version

from gated_lpi._common.entries import is_count, writable
from gated_lpi._common.quiet import quiet_transformers
from gated_lpi.checkpoints import check_weights
from gated_lpi.checkpoints.local import RECORD_NAME
from gated_lpi.errors import ModelError, OptionError, WeightsError
from gated_lpi.importing.agreement import REFERENCE, Agreement, compare
from gated_lpi.importing.layouts import LAYER, Layout, Move, layout_named
from gated_lpi.importing.moves import MOVES, ZEROS, Heads
from gated_lpi.importing.naming import Naming
from gated_lpi.importing.reading import open_source
from gated_lpi.loading import wrap_model
from gated_lpi.models import Family, Reconstruction, find_family, has_row
from gated_lpi.models.staging import read_config, read_config_file, safe_config
from gated_lpi.models.stored import DTYPES
from gated_lpi.version import __version__

PROVENANCE = "import.json"
_SHOWN = 8
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Imported:
    """What was imported.

    Attributes:
        path: the folder.
        layout: the layout that it was read by.
        parameters: values that were read from the checkpoint.
        made: values of tensors that the layout makes of zeros.
        aside: names in the checkpoint that are no weights of the model.
        config: the model's.
        reconstruction: the proof that its units account for what it computes.
        agreement: the comparison with what its trainers recorded; None without a reference.
    """

    path: Path
    layout: str
    parameters: int
    made: int
    aside: tuple[str, ...]
    config: dict[str, Any]
    reconstruction: Reconstruction
    agreement: Agreement | None


def import_checkpoint(
    folder: str | Path,
    out: str | Path,
    *,
    layout: str = "flame-moe",
    settings: Mapping[str, Any] | None = None,
    config: str | Path | None = None,
    reference: str | Path | None = None,
    tokens: int | None = None,
    progress: Progress | None = None,
) -> Imported:
    """Read a training checkpoint into a new folder of transformers, and prove it.

    Args:
        folder: of one checkpoint: `.metadata` and `.distcp` files, or safetensors under the framework's names.
        out: the new folder.
        layout: name of a row of `layouts`.
        settings: keys of the model's config that are otherwise than the layout has them.
        config: for the layout "transformers", the file of the model's config, of any name, or the folder that holds its
            config.json.
        reference: what the trained model did (`agreement`); by default reference.safetensors in the folder, if it is
            there.
        tokens: training tokens of the checkpoint, written beside it for series.
        progress: called with (done, total).

    Raises:
        OptionError: an unknown layout or setting, tokens that are no number, or `out` exists.
        WeightsError: the checkpoint is damaged, incomplete, would run code, or has tensors that the layout does not.
        ModelError: the model does not fit its config, or does not do what the reference records.
        ReconstructionError: its units do not account for what it computes.
    """
    root, target = Path(folder), Path(out)
    if target.exists():
        raise OptionError(f"{target} exists already and is not overwritten; give a new folder")
    if tokens is not None and not is_count(tokens):
        raise OptionError(f"tokens={tokens!r} was given; expected a whole number of training tokens")
    row = layout_named(layout)
    source = open_source(root)
    naming = Naming(source, row)
    made_config = _config(row, naming, settings or {}, config)
    with init_empty_weights(include_buffers=False):
        module: PreTrainedModel = _laid_out(made_config)
    if not row.moves:
        naming = Naming(source, row, module.state_dict().keys())
    state, zeros = _state(module, row, naming, made_config, progress)
    module.load_state_dict(state, strict=True, assign=True)
    module.tie_weights()
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        with quiet_transformers():
            module.save_pretrained(draft)
        check_weights(draft)
        again = _reloaded(draft, module)
        model = wrap_model(again.float().eval())
        file = root / REFERENCE if reference is None else Path(reference)
        agreement = compare(model, file) if reference is not None or file.is_file() else None
        found = Imported(
            path=target,
            layout=row.name,
            parameters=sum(tensor.numel() for tensor in state.values()) - zeros,
            made=zeros,
            aside=naming.aside,
            config=made_config.to_dict(),
            reconstruction=model.reconstruction,  # type: ignore[arg-type]  # wrap_model always makes one
            agreement=agreement,
        )
        _write_beside(draft, found, tokens)
        draft.chmod(0o755)
        draft.rename(target)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return found


def _config(layout: Layout, naming: Naming, settings: Mapping[str, Any], file: str | Path | None) -> PretrainedConfig:
    """The model's config: from the file that is given, or of shapes, the layout and the settings."""
    if layout.model_type and file is not None:
        raise OptionError(
            f"config was given, and the layout {layout.name} makes its own: leave it out, and give settings"
        )
    if not layout.model_type:
        if file is None:
            raise OptionError(
                f"the layout {layout.name} needs the model's config.json: give it, or its folder, as config"
            )
        place = Path(file)
        if not place.exists():
            raise OptionError(
                f"config={str(file)!r} was given, and there is no such file or folder; give the model's config.json, "
                "or the folder that holds it"
            )
        content, _ = safe_config(read_config(place) if place.is_dir() else read_config_file(place))
        if content.get("model_type") not in CONFIG_MAPPING:
            raise ModelError(
                f"{place} has model_type {content.get('model_type')!r}, which transformers does not know: give the "
                "config of a type that it knows, or install a version that knows this one"
            )
        return _made(str(content["model_type"]), {**content, **settings})
    layers = naming.layers(layout.layer)
    if not layers or layers != tuple(range(len(layers))):
        held = ", ".join(map(writable, naming.names[:_SHOWN])) or "nothing"
        raise WeightsError(
            f"the checkpoint has no {layout.layer} of layers 0, 1, …, as the layout {layout.name} expects; it holds "
            f"{held}. Choose another layout"
        )
    content = dict(layout.config) | {"num_hidden_layers": len(layers)}
    for key, (pattern, axis) in layout.sizes.items():
        shape = naming.shape(pattern)
        if shape is not None and len(shape) <= axis:
            raise WeightsError(
                f"{writable(pattern)} has shape {list(shape)}; the layout {layout.name} reads {key} off axis {axis} of "
                "it. Choose another layout"
            )
        if shape is not None:
            content[key] = shape[axis]
        elif "experts.experts" in pattern:
            stacked = next((m for m in layout.moves if pattern in m.sources), None)
            one = next((s for p in stacked.sources if (s := _expert_shape(naming, p))), None) if stacked else None
            content |= {} if one is None else {key: one[axis - 1]}
    for key, pattern in layout.lists.items():
        content[key] = list(naming.layers(pattern))
    return _made(layout.model_type, {**_with_heads(content, settings), **settings})


def _expert_shape(naming: Naming, pattern: str) -> tuple[int, ...] | None:
    first = next((f for f in naming.layers(pattern.replace("{expert}", "0"))), None)
    return None if first is None else naming.shape(pattern.replace("{expert}", "0"))


def _with_heads(content: dict[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    if "num_attention_heads" not in content | dict(settings):
        raise OptionError("no tensor tells the number of heads: give it (--set num_attention_heads=16)")
    heads = {"num_attention_heads": content.get("num_attention_heads")} | dict(settings)
    return content | {"num_key_value_heads": settings.get("num_key_value_heads", heads["num_attention_heads"])}


def _made(model_type: str, content: dict[str, Any]) -> PretrainedConfig:
    kind = CONFIG_MAPPING[model_type]
    known = {field for field in dir(kind()) if not field.startswith("_")} | {"rope_theta"}
    unknown = sorted(key for key in content if key not in known and key not in ("model_type", "architectures"))
    if unknown:
        raise OptionError(f"{', '.join(unknown)} is no setting of {model_type}; check its name")
    try:
        config = kind(**{key: value for key, value in content.items() if key != "model_type"})
    except Exception as error:  # whatever a wrong value makes the config's class raise
        raise OptionError(f"these settings make no config of {model_type} ({error})") from error
    _refuse_choice(config)
    return config


def _refuse_choice(config: PretrainedConfig) -> None:
    """Refuse a number of experts per token that no router can choose of those that there are."""
    row = find_family(config.model_type) if has_row(config.model_type) else Family("", ())
    chosen, experts = (getattr(config, name, None) for name in (row.chosen_experts_attribute, row.experts_attribute))
    if chosen is None or not isinstance(experts, int):
        return
    if not is_count(chosen) or not 1 <= chosen <= experts:
        raise OptionError(
            f"{row.chosen_experts_attribute} = {chosen!r} was given, of {experts} experts; expected 1 to {experts}, as "
            "the model was trained"
        )


def _laid_out(config: PretrainedConfig) -> PreTrainedModel:
    try:
        with quiet_transformers():
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
            return model
    except Exception as error:  # whatever a config that contradicts itself makes a model's constructor raise
        raise ModelError(
            f"no model can be laid out by this config ({type(error).__name__}: {error}): mend it, or the settings"
        ) from error


def _state(
    module: PreTrainedModel, layout: Layout, naming: Naming, config: PretrainedConfig, progress: Progress | None
) -> tuple[dict[str, Tensor], int]:
    """Every tensor of the model by its name, in one dtype, and how many values are made of zeros."""
    heads = Heads(int(config.num_attention_heads), int(getattr(config, "num_key_value_heads", 0) or 1))
    wanted = {name: tensor for name, tensor in module.state_dict().items() if not _is_tied(module, name)}
    state: dict[str, Tensor] = {}
    zeros: list[str] = []
    missing: list[str] = []
    for done, (name, empty) in enumerate(sorted(wanted.items(), key=lambda item: _in_order(item[0]))):
        if progress is not None:
            progress(done, len(wanted))
        move, layer = _row(layout, name)
        if move is not None and move.how == ZEROS:
            zeros.append(name)
            continue
        sources = (name,) if move is None and not layout.moves else () if move is None else move.sources
        taken = naming.take(sources, layer)
        if taken is None:
            missing.append(f"{name} (from {' or '.join(sources) or 'no row'})")
            continue
        _refuse_packed(name, taken)
        made = MOVES["copied" if move is None else move.how](taken, heads)
        if made.shape != empty.shape:
            raise WeightsError(
                f"{name} is made of a tensor of shape {tuple(made.shape)}; the model needs {tuple(empty.shape)}. A "
                "setting is another one than the checkpoint's (--set), or its layout is"
            )
        state[name] = made.clone()
    if progress is not None:
        progress(len(wanted), len(wanted))
    _take_tied(module, naming, state)
    left = naming.left()
    if missing or left:
        raise WeightsError(
            f"layout {layout.name} does not fit: {len(missing)} tensors of the model are not in the checkpoint "
            f"({'; '.join(missing[:_SHOWN]) or 'none'}), {len(left)} of the checkpoint are not read "
            f"({', '.join(map(writable, left[:_SHOWN])) or 'none'}). Nothing is left at initial values: choose another "
            "layout, or settings"
        )
    dtype = reduce(torch.promote_types, (tensor.dtype for tensor in state.values()))
    config.dtype = dtype
    state = {name: tensor.to(dtype) for name, tensor in state.items()}
    state |= {name: torch.zeros(wanted[name].shape, dtype=dtype) for name in zeros}
    for name in set(module.state_dict()) - set(state):
        state[name] = state[_tied_to(module, name)]
    return state, sum(math.prod(wanted[name].shape) for name in zeros)


def _refuse_packed(name: str, tensor: Tensor) -> None:
    """Refuse numbers that are not those of a weight: packed ones, whose scales stand elsewhere, or one alone."""
    held = str(tensor.dtype).removeprefix("torch.")
    if held not in DTYPES.values() or not tensor.dim():
        raise WeightsError(
            f"{name} is made of a tensor of shape {list(tensor.shape)} and dtype {held}; expected weights in one of "
            f"{', '.join(DTYPES.values())}. Weights that are packed are others without their scales: import the "
            "checkpoint as it was trained, before it was quantised"
        )


def _take_tied(module: PreTrainedModel, naming: Naming, state: Mapping[str, Tensor]) -> None:
    """Read a head that the checkpoint keeps beside the embeddings that it is tied to: it must be the same."""
    for name in (name for name in module.state_dict() if _is_tied(module, name)):
        kept, other = naming.take([name], None), _tied_to(module, name)
        if kept is None or other not in state:
            continue
        _refuse_packed(name, kept)
        if not torch.equal(kept.double(), state[other].double()):
            raise WeightsError(
                f"{name} differs from {other}, to which the config ties it; if they were trained apart, say so: "
                "--set tie_word_embeddings=false"
            )


def _row(layout: Layout, name: str) -> tuple[Move | None, int | None]:
    """The row that makes a tensor, and its layer."""
    parts = name.split(".")
    for at, part in enumerate(parts):
        if part.isdecimal():
            general = ".".join([*parts[:at], LAYER, *parts[at + 1 :]])
            return next((move for move in layout.moves if move.to == general), None), int(part)
    return next((move for move in layout.moves if move.to == name), None), None


def _in_order(name: str) -> tuple[int, str]:
    """Layer by layer, so that what several rows take parts of is read once."""
    number = next((int(part) for part in name.split(".") if part.isdecimal()), -1)
    return number, name


def _is_tied(module: PreTrainedModel, name: str) -> bool:
    return bool(module.config.tie_word_embeddings) and name == _head(module)


def _tied_to(module: PreTrainedModel, name: str) -> str:
    assert name == _head(module)
    embeddings = module.get_input_embeddings()
    return next(f"{path}.weight" for path, part in module.named_modules() if part is embeddings)


def _head(module: PreTrainedModel) -> str:
    head = module.get_output_embeddings()
    return next((f"{path}.weight" for path, part in module.named_modules() if part is head), "")


def _reloaded(folder: Path, module: PreTrainedModel) -> PreTrainedModel:
    """What transformers reads from a folder, which must be what was saved, bit for bit."""
    with quiet_transformers():
        again: PreTrainedModel = AutoModelForCausalLM.from_pretrained(str(folder), dtype="auto", use_safetensors=True)
    there = again.state_dict()
    wrong = [
        name for name, tensor in module.state_dict().items() if not torch.equal(tensor, there[name].to(tensor.dtype))
    ]
    if wrong:
        raise WeightsError(
            f"{len(wrong)} tensors are not read again as they were made (first: {wrong[0]}); the installed "
            "transformers stores this type of model otherwise: try another version of it. Nothing was kept"
        )
    return again


def _write_beside(folder: Path, found: Imported, tokens: int | None) -> None:
    proof = {key: getattr(found.reconstruction, key) for key in ("block", "layer", "residual", "logits", "tolerance")}
    said = {
        "layout": found.layout,
        "parameters": found.parameters,
        "zeros": found.made,
        "aside": len(found.aside),
        "reconstruction": proof,
        "agreement": None if found.agreement is None else vars(found.agreement),
        "gated_lpi": __version__,
        "torch": torch.__version__,
        "transformers": transformers_version,
    }
    (folder / PROVENANCE).write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
    if tokens is not None:
        (folder / RECORD_NAME).write_text(json.dumps({"tokens": tokens}) + "\n", encoding="utf-8")
