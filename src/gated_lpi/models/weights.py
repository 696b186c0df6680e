"""Loading a checkpoint's weights and tokenizer, and refusing what cannot be trusted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GgufConfig,
    PreTrainedModel,
)
from transformers.integrations.gguf import read_gguf_metadata
from transformers.utils import is_gguf_available

from gated_lpi._common.entries import quoted, writable
from gated_lpi._common.quiet import quiet_transformers
from gated_lpi._common.weight_files import CONFIG_NAME, WeightFiles, refuse_changed, weight_files
from gated_lpi.errors import GatedLPIError, ModelError, OptionError, WeightsError
from gated_lpi.models.families import has_row
from gated_lpi.models.packing import MXFP4, is_packed, unpacking
from gated_lpi.models.proposing import refuse_type
from gated_lpi.models.staging import read_config, refuse_layers, safe_config, staged, staged_file
from gated_lpi.models.stored import (
    Stored,
    main_dtype,
    refuse_dtypes,
    refuse_misfit,
    refuse_unused,
    set_aside,
    stored_tensors,
)
from gated_lpi.models.tokenizer import LoadedTokenizer, first_line, load_staged, load_tokenizer

MAX_NAMED = 3
_GGUF_VALUES = 6  # in a byte of such a file at most: the smallest formats take 1.5 bits for one
PASSED_ON = (GatedLPIError, MemoryError, torch.OutOfMemoryError)  # what is no fault of the checkpoint


@dataclass(frozen=True)
class Loaded:
    """A transformers model and its tokenizer.

    Attributes:
        module: the model.
        tokenizer: its tokenizer, checked against its file.
        stored_dtype: the dtype of most of the weights on disk; "gguf" for those of a GGUF file, "mxfp4" where they were
            unpacked from that.
        notes: what was left aside or chosen in loading, one line each.
    """

    module: PreTrainedModel
    tokenizer: LoadedTokenizer
    stored_dtype: str
    notes: tuple[str, ...] = ()


def load_weights(
    folder: str | Path,
    *,
    source: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    device_map: str | Mapping[str, Any] | None = None,
    trust_remote_code: bool = False,
    gguf: str | None = None,
    any_type: bool = False,
    tokenizer_folder: str | Path | None = None,
) -> Loaded:
    """Load a causal language model and its tokenizer from a folder.

    From safetensors, where MXFP4 is unpacked, or from the GGUF file that `gguf` names, whose quantised weights are too.
    transformers is given what `staging` makes of the folder; with `trust_remote_code` the folder itself, since the code
    in it may read what it likes.

    Args:
        folder: a checkpoint's folder.
        source: what errors call it, if it was given by another name than the folder's.
        dtype: what the model is computed in.
        device: where it is put.
        device_map: spread it over devices instead, as accelerate takes it.
        trust_remote_code: run code that comes with the model.
        gguf: name of a GGUF file in the folder.
        any_type: refuse no type of model, nor how its layers mix positions: whoever calls has a row for it.
        tokenizer_folder: where the tokenizer is instead, for this model's config.

    Raises:
        OptionError: `gguf` without the package that reads such files.
        ModelError: the source is no model that transformers can load, is an encoder-decoder, does not fit, or has
            weights that stay quantised.
        UnknownFamilyError: no row of the table of families covers the model.
        WeightsError: the weights are missing, cut short, incomplete for this architecture, or not finite.
    """
    root = Path(folder)
    called = str(folder) if source is None else source
    place = _Place(dtype, device, device_map)
    if gguf is not None:
        with staged_file(_find_gguf(called, root, gguf)) as link:
            return _load_gguf(called, link, place, any_type)
    if not (root / CONFIG_NAME).exists():
        raise _without_config(called, root)
    content, left_out = read_config(root), list[str]()
    packed = unpacking(called, content.get("quantization_config"))
    if not trust_remote_code:
        content, left_out = _checked_config(called, content, any_type)
    files = weight_files(root)
    stamp = files.stamp
    tensors = stored_tensors(files.paths)
    plain = {name: one for name, one in tensors.items() if packed is None or not is_packed(name, one.dtype)}
    packed = None if len(plain) == len(tensors) else packed
    refuse_dtypes(called, plain)
    refuse_layers(called, content, len(tensors))
    options = {"trust_remote_code": trust_remote_code}
    with nullcontext(root) if trust_remote_code else staged(root, content, files) as view:
        config, notes = _supported_config(called, view, options, any_type or trust_remote_code)
        if not trust_remote_code:
            refuse_misfit(called, config, sum(tensor.size for tensor in tensors.values()))
        if packed is not None:
            config.quantization_config = packed
        module, report = _construct(called, view, config, options, place)
        _refuse_unsound(called, module, report)
        refuse_changed(root, stamp)
        tokenizer = (
            load_staged(called, view, trust_remote_code=trust_remote_code)
            if tokenizer_folder is None
            else load_tokenizer(tokenizer_folder, trust_remote_code=trust_remote_code, config=content)
        )
    return Loaded(
        module=module if device_map is not None else module.to(device),
        tokenizer=tokenizer,
        stored_dtype=main_dtype(tensors) if packed is None else MXFP4,
        notes=(*notes, *_ignored(left_out), *_remarks(module, tensors), *_aside(files)),
    )


class _Place(NamedTuple):
    """What a model is computed in, and where.

    Attributes:
        dtype: of weights and arithmetic.
        device: where all of it is, unless it is spread.
        device_map: how it is spread over devices; None: it is not.
    """

    dtype: torch.dtype
    device: str | torch.device
    device_map: str | Mapping[str, Any] | None


def _load_gguf(source: str, link: Path, place: _Place, any_type: bool) -> Loaded:
    options = {"gguf_file": str(link)}
    _refuse_gguf_layers(source, link, options)
    config, notes = _supported_config(source, link.parent, options, any_type)
    refuse_misfit(source, config, link.stat().st_size * _GGUF_VALUES)
    module, report = _construct(source, link.parent, config, options, place)
    _refuse_unsound(source, module, report)
    return Loaded(
        module=module if place.device_map is not None else module.to(place.device),
        tokenizer=load_staged(source, link.parent, **options),
        stored_dtype="gguf",
        notes=(*notes, *_remarks(module, {})),
    )


def _refuse_gguf_layers(source: str, link: Path, options: Mapping[str, Any]) -> None:
    try:
        metadata, names = read_gguf_metadata(str(link))
    except PASSED_ON:
        raise
    except Exception as error:  # whatever a damaged file makes its reader raise
        raise _bad_gguf(source, options, error) from error
    layers = metadata.get(f"{metadata.get('general.architecture')}.block_count")
    refuse_layers(source, {"num_hidden_layers": layers}, len(names))


def _refuse_unsound(source: str, module: PreTrainedModel, report: dict[str, Any]) -> None:
    _refuse_incomplete(source, report)
    refuse_unused(source, map(str, report.get("unexpected_keys") or ()))
    _refuse_offloaded(source, module)
    refuse_packed(source, module)
    _refuse_not_finite(source, module)


def _checked_config(source: str, content: dict[str, Any], any_type: bool) -> tuple[dict[str, Any], list[str]]:
    """The content of a config.json without choices of code, and their names; refused if it cannot be attributed."""
    _refuse_encoder_decoder(source, content.get("is_encoder_decoder"), content.get("model_type"))
    if not isinstance(content.get("model_type"), str):
        raise ModelError(
            f"the config of {source!r} has model_type {quoted(content.get('model_type'))}; expected the name of a type "
            "of model. Its config.json is damaged: save or download the model again"
        )
    _refuse_type(content["model_type"], any_type)
    return safe_config(content)


def _ignored(left_out: Sequence[str]) -> Iterator[str]:
    if left_out:
        yield (
            f"its config.json asks for {', '.join(map(writable, left_out[:MAX_NAMED]))}, which would choose code or "
            "how it is run; that is left to this package and not followed"
        )


def _construct(
    source: str, view: Path, config: Any, options: dict[str, Any], place: _Place
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model with its weights, and transformers' report on loading them."""
    gguf = "gguf_file" in options
    settings: dict[str, Any] = {"quantization_config": GgufConfig(dequantize=True)} if gguf else {}
    if not options.get("trust_remote_code"):  # None is transformers' own choice, whatever a config says
        settings |= {"attn_implementation": None, "experts_implementation": None}
    if (
        place.dtype == torch.float64
    ):  # the grouped matrix product that transformers prefers for experts has no such version
        settings["experts_implementation"] = "eager"
    try:
        with quiet_transformers():  # what its report would say is checked by the caller
            return AutoModelForCausalLM.from_pretrained(  # type: ignore[no-any-return]
                str(view),
                config=config,
                dtype=place.dtype,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                device_map=place.device_map,
                **settings,
                **options,
            )
    except SafetensorError as error:
        raise WeightsError(
            f"the safetensors of {source!r} cannot be read ({error}): the file is cut short or damaged; "
            "download or save it again"
        ) from error
    except PASSED_ON:
        raise
    except Exception as error:  # whatever a config that contradicts itself makes a model's constructor raise
        raise _bad_gguf(source, options, error) if gguf else _not_loadable(source, error) from error


def _aside(files: WeightFiles) -> Iterator[str]:
    if files.aside:
        yield (
            f"left aside: {len(files.aside)} other safetensors files ({', '.join(files.aside[:MAX_NAMED])}); read are "
            f"{', '.join(path.name for path in files.paths[:MAX_NAMED])}"
        )


def _remarks(module: PreTrainedModel, tensors: Mapping[str, Stored]) -> Iterator[str]:
    """What of the files is used otherwise than they suggest, or not at all; rotary buffers and masks are not named."""
    head, embeddings = module.get_output_embeddings(), module.get_input_embeddings()
    tied = head is not None and head.weight.data_ptr() == embeddings.weight.data_ptr()
    if not tied and getattr(module.config, "tie_word_embeddings", False):
        yield (
            "the file has an unembedding of its own that differs from the embeddings, though its config says "
            "tie_word_embeddings = true; the file's unembedding is used"
        )
    patterns = getattr(module, "_keys_to_ignore_on_load_unexpected", None) or ()
    aside = set_aside(tensors, patterns, module.state_dict())
    if aside:
        yield (
            f"{len(aside)} tensors (first: {aside[0]}) belong to parts that {type(module).__name__} leaves out, such "
            "as layers for predicting several tokens; they play no part in its logits and are not attributed"
        )


def _supported_config(source: str, view: Path, options: dict[str, Any], any_type: bool) -> tuple[Any, list[str]]:
    """The model's config, and what was changed in it; refused before any weight is read if it cannot be attributed."""
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(str(view), **options)
    except PASSED_ON:
        raise
    except Exception as error:  # whatever a damaged config.json makes transformers raise
        raise _bad_gguf(source, options, error) if "gguf_file" in options else _not_loadable(source, error) from error
    _refuse_encoder_decoder(source, getattr(config, "is_encoder_decoder", False), config.model_type)
    _refuse_type(config.model_type, any_type)
    if "gguf_file" not in options:
        unpacking(source, getattr(config, "quantization_config", None))
    pad, size = getattr(config, "pad_token_id", None), getattr(config, "vocab_size", None)
    if isinstance(pad, int) and isinstance(size, int) and not 0 <= pad < size:
        config.pad_token_id = None
        return config, [f"pad_token_id = {pad} of its config is no row of its {size} embeddings; padding needs none"]
    return config, []


def _refuse_type(model_type: str, any_type: bool) -> None:
    if not any_type and not has_row(model_type):
        refuse_type(model_type)


def _refuse_encoder_decoder(source: str, is_one: Any, model_type: Any) -> None:
    if is_one:
        raise ModelError(
            f"{source!r} is an encoder-decoder ({model_type}): there is no single residual stream from the "
            "prompt to the logits. Decoder-only models of the families that `gated-lpi families` lists can be "
            "attributed"
        )


def _find_gguf(source: str, folder: Path, name: str) -> Path:
    """The absolute path of a GGUF file: transformers would prefer a file of that name in the working directory."""
    if not is_gguf_available():
        raise OptionError(
            f"gguf={name!r} was given, but the package that reads GGUF files is missing or too old; "
            'install it: pip install "gated-lpi[gguf]"'
        )
    path = folder.absolute() / name
    if not path.is_file():
        there = ", ".join(sorted(writable(file.name) for file in folder.glob("*.gguf"))) or "no *.gguf file"
        raise WeightsError(f"no file {name!r} in {source!r}, which holds {there}; name one that is there")
    return path


def _bad_gguf(source: str, options: Mapping[str, Any], error: Exception) -> WeightsError:
    return WeightsError(
        f"{Path(options['gguf_file']).name} of {source!r} cannot be read as GGUF ({first_line(error)}): the file is "
        "cut short or damaged, or transformers does not know its architecture; download it again, or convert the model "
        "to safetensors"
    )


def refuse_packed(source: str, module: PreTrainedModel) -> None:
    """Refuse a model with weights that are not plain floating-point numbers.

    Raises:
        ModelError: names the tensors.
    """
    packed = [
        f"{name} ({str(parameter.dtype).removeprefix('torch.')})"
        for name, parameter in module.named_parameters()
        if not parameter.is_floating_point() or parameter.element_size() == 1
    ]
    if packed:
        raise ModelError(
            f"{len(packed)} tensors of {source!r} stay packed or quantised after loading (first: "
            f"{', '.join(packed[:MAX_NAMED])}); expected floating-point weights, which value vectors are read from. "
            "Save a dequantised copy and give that folder"
        )


def _refuse_offloaded(source: str, module: PreTrainedModel) -> None:
    offloaded = [name for name, parameter in module.named_parameters() if parameter.device.type == "meta"]
    if offloaded:
        raise ModelError(
            f"{len(offloaded)} tensors of {source!r} do not fit on the devices and were offloaded (first: "
            f"{offloaded[0]}); value vectors are read outside the forward pass, so all weights must be on a device. "
            "Use more or larger devices, or device='cpu'"
        )


def _without_config(source: str, folder: Path) -> ModelError:
    packed = sorted(writable(file.name) for file in folder.glob("*.gguf"))
    if packed:
        return ModelError(f"{source!r} holds {', '.join(packed)}: name the file to be read with gguf= (--gguf)")
    if folder.is_dir():
        return ModelError(
            f"{source!r} is a folder without config.json; expected a model saved by transformers "
            "(save_pretrained), with config.json and *.safetensors"
        )
    return ModelError(f"no folder {source!r}; give a folder saved by transformers or a hub repository name")


def _not_loadable(source: str, error: Exception) -> ModelError:
    return ModelError(
        f"transformers could not load {source!r} ({type(error).__name__}: {first_line(error)}); its config.json or "
        "weights are damaged, or contradict each other. Save or download the model again"
    )


def _refuse_incomplete(source: str, report: dict[str, Any]) -> None:
    missing = sorted(report.get("missing_keys") or ())
    mismatched = sorted(str(key) for key in report.get("mismatched_keys") or ())
    if missing or mismatched:
        names = ", ".join((missing + mismatched)[:MAX_NAMED])
        raise WeightsError(
            f"{source!r} lacks {len(missing)} of the tensors that its architecture needs and has {len(mismatched)} "
            f"of another shape (first: {names}); transformers would fill them with random numbers. "
            "The checkpoint is incomplete or its config.json belongs to another model; download or save it again"
        )


def _refuse_not_finite(source: str, module: PreTrainedModel) -> None:
    bad = [name for name, parameter in module.named_parameters() if not bool(torch.isfinite(parameter).all())]
    if bad:
        raise WeightsError(
            f"{source!r} holds NaN or infinite weights in {len(bad)} tensors (first: {', '.join(bad[:MAX_NAMED])}); "
            "no score of it would mean anything. Leave this checkpoint out, or download it again"
        )
