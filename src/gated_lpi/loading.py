"""Loading a model and proving, on a real forward pass, that its units account for all that it computes."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers import __version__ as transformers_version

from gated_lpi._common.weight_files import holds_tokenizer
from gated_lpi.checkpoints import Checkpoint, Hub, fetch, fetch_tokenizer
from gated_lpi.errors import CheckpointError, GatedLPIError, ModelError, OptionError, ReconstructionError
from gated_lpi.interventions import undisturbed
from gated_lpi.models import (
    Family,
    Model,
    Reconstruction,
    build_model,
    has_row,
    load_weights,
    propose,
    refuse_packed,
    require_model,
    row_as_toml,
    with_fused_experts,
)
from gated_lpi.options import refuse_two_places
from gated_lpi.trace import pad, reads_what_was_written, trace

DTYPES = {"float32": torch.float32, "float64": torch.float64}
PROBE_PROMPTS, PROBE_TOKENS = 4, 12


def load_model(
    source: str,
    *,
    revision: str | None = None,
    dtype: str = "float32",
    device: str = "auto",
    device_map: str | Mapping[str, Any] | None = None,
    trust_remote_code: bool = False,
    gguf: str | None = None,
    family: Family | None = None,
    tokenizer: str | None = None,
    hub: Hub | None = None,
) -> Model:
    """Load a causal language model for attribution, and check that it can be attributed.

    Weights are read from safetensors, or from a GGUF file that is named; never from pickles. What config.json asks
    for in the way of code (kernels, quantisers, implementations) is not followed. Weights are
    computed in float32 whatever dtype they are stored in (both are recorded), since in bfloat16 the residual stream
    is too coarse for single units to add up.

    Args:
        source: a folder written by transformers' `save_pretrained`, or a hub repository, which is fetched at one
            commit and verified (`checkpoints.fetch`).
        revision: branch, tag or commit of a hub repository.
        dtype: "float32", or "float64" for checks.
        device: where to compute, as torch names it; "auto" is CUDA where there is any, else the CPU.
        device_map: spread the model over devices, as accelerate takes it: "auto", "balanced", "balanced_low_0",
            "sequential", or module → device. For models larger than one device; leaves no choice of `device`.
        trust_remote_code: run model code that comes with the weights. Off, as it lets the source execute anything.
        gguf: name of a GGUF file in the source, to take weights, config and tokenizer from. Its weights are unpacked;
            needs the extra `gated-lpi[gguf]`.
        family: the row of the table of families to read it by; None: that of its type, or one read off the model.
        tokenizer: folder or hub repository of the tokenizer, where that lives elsewhere. None: it is beside the weights
            or, for a hub repository whose `revision` has none, on its branch main, which the model's notes then say.
        hub: how to reach the hub.

    Raises:
        UnknownFamilyError: the model's family has no row in the table, and none can be read off it.
        ReconstructionError: its units do not account for what it computes.
        WeightsError: weights missing, damaged, incomplete or not finite.
        ModelError: not a model that transformers can load.
        CheckpointError: a hub that does not answer, or a repository that it does not show.
        OptionError: an unknown dtype, device or device map, a device beside a device map, or a tokenizer beside a GGUF
            file.
    """
    refuse_two_places(device, device_map)
    if dtype not in DTYPES:
        raise OptionError(f"dtype {dtype!r} was given; expected one of {', '.join(sorted(DTYPES))}")
    if gguf is not None and tokenizer is not None:
        raise OptionError(
            f"gguf={gguf!r} and tokenizer={tokenizer!r} were given; a GGUF file brings a tokenizer of its own, "
            "which its token ids are of: leave tokenizer out"
        )
    where = resolve_device(device)
    hub = Hub() if hub is None else hub
    folder, commit = _at_hand(source, revision, gguf, trust_remote_code, hub)
    main = source if commit else ""
    apart = None if gguf else tokenizer_elsewhere(folder, tokenizer, main, hub, trust_remote_code)
    loaded = load_weights(
        folder,
        source=str(source),
        dtype=DTYPES[dtype],
        device=where,
        device_map=device_map,
        trust_remote_code=trust_remote_code,
        gguf=None if gguf is None else PurePath(gguf).name if commit else gguf,
        any_type=family is not None,
        tokenizer_folder=None if apart is None else apart.folder,
    )
    provenance = {
        "source": str(source),
        "revision": revision or "",
        "commit": commit,
        "stored_dtype": loaded.stored_dtype,
        "gguf": gguf or "",
        "tokenizer_sha256": loaded.tokenizer.sha256,
        "tokenizer_source": "" if apart is None else apart.source,
    }
    model = wrap_model(loaded.module, loaded.tokenizer.tokenizer, provenance=provenance, family=family)
    said = () if apart is None else (apart.note,)
    return replace(model, notes=(*loaded.notes, *said, *loaded.tokenizer.notes, *model.notes))


class TokenizerElsewhere(NamedTuple):
    """A tokenizer that is not beside the weights.

    Attributes:
        folder: that holds it, on this machine.
        source: the folder, or the repository and its branch.
        note: that it is taken, and why.
    """

    folder: Path
    source: str
    note: str


def tokenizer_elsewhere(
    folder: Path, asked: str | None, repo: str, hub: Hub, remote_code: bool = False
) -> TokenizerElsewhere | None:
    """Where a checkpoint's tokenizer is, if not beside its weights.

    Args:
        folder: the checkpoint's.
        asked: folder or repository that the user names; None or "" for none.
        repo: the repository that the checkpoint is of, "" for none: its branch main is where a tokenizer is looked for.
        hub: how to reach the hub.
        remote_code: bring code that comes with the tokenizer, too.

    Returns:
        None where it is beside the weights, or nowhere to be looked for.

    Raises:
        CheckpointError: the hub does not answer or does not show the repository.
        WeightsError: a repository without a tokenizer.
        ModelError: `asked` is a folder without a tokenizer, or can be neither folder nor repository.
    """
    if asked:
        place = Path(asked)
        if place.is_dir():
            if not holds_tokenizer(path.name for path in place.iterdir()):
                raise ModelError(
                    f"the folder {asked!r} was named as that of the tokenizer, and holds none; name the one with "
                    "tokenizer.json"
                )
            return TokenizerElsewhere(place, asked, f"the tokenizer is that of {asked}, as asked for")
        if asked.startswith((".", "/", "~")) or asked.count("/") > 1:
            raise ModelError(f"no folder {asked!r}; give a folder or a hub repository that holds the tokenizer")
        found = fetch_tokenizer(asked, hub=hub, remote_code=remote_code)
        return TokenizerElsewhere(found, f"{asked}:main", f"the tokenizer is that of {asked}, as asked for")
    if not repo or holds_tokenizer(path.name for path in folder.iterdir()):
        return None
    found = fetch_tokenizer(repo, hub=hub, remote_code=remote_code)
    note = f"no tokenizer beside the weights; that of the branch main of {repo} is used"
    return TokenizerElsewhere(found, f"{repo}:main", note)


def _at_hand(source: str, revision: str | None, gguf: str | None, remote_code: bool, hub: Hub) -> tuple[Path, str]:
    """The folder of a source, fetched if it is a hub's repository, and then its commit; "" for a folder.

    Raises:
        ModelError: it is no folder and cannot be the name of a repository.
        CheckpointError: the hub does not answer or does not show it, or has no weights that may be fetched.
    """
    folder = Path(source)
    if folder.is_dir():
        return folder, ""
    if folder.exists():
        raise ModelError(
            f"{str(source)!r} is a file; expected the folder that holds it (and, for a GGUF file, its name as gguf=, "
            "--gguf)"
        )
    name = str(source)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(f"no folder {name!r}; give a folder saved by transformers or a hub repository name")
    try:
        commit = hub.commit(name, revision or "main")
    except CheckpointError as error:
        raise type(error)(f"no folder {name!r} is here, so it was asked for as a repository: {error}") from error
    if gguf is not None:
        return hub.download(name, commit, gguf).parent, commit
    checkpoint = Checkpoint(None, revision or "main", 0, None, "", commit, name, revision or "main")
    return fetch(checkpoint, hub=hub, remote_code=remote_code).path, commit


def resolve_device(device: str) -> torch.device:
    """The torch device that a name stands for, "auto" included.

    Raises:
        OptionError: torch knows no such device, or this machine has none.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise OptionError(
            f"device {device!r} was given; torch says: {str(error).splitlines()[0]}; give cpu or auto"
        ) from error
    return torch.device(device)


def wrap_model(
    module: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    provenance: dict[str, Any] | None = None,
    family: Family | None = None,
) -> Model:
    """Prepare a transformers model that is already in memory, and check that it can be attributed.

    The model is put into evaluation mode; its weights are not copied or changed. Where FFNs hold experts otherwise than
    transformers fuses them, the result's `module` is a copy of that form which shares all weights, and is checked to
    return the same logits (`models.foreign_experts`).

    Args:
        module: the model.
        tokenizer: its tokenizer; None where prompts come as token ids.
        provenance: where it is from, to be kept with what is made of it.
        family: the row of the table of families to read it by; None: that of its type, or one read off the model
            (`models.proposing`), which the model's notes then say.

    Raises:
        UnknownFamilyError: the model's family has no row in the table, and none can be read off it.
        ReconstructionError: its units do not account for what it computes. The row that was read off it is in the
            error's notes.
        ModelError: it has packed weights, or its forward pass fails.
    """
    refuse_packed(type(module).__name__, module)
    proposed = family is None and not has_row(module.config.model_type)
    if family is not None:
        family = replace(family, source=family.source or "family=")
    notes: tuple[str, ...] = ()
    with _as_model_errors(type(module).__name__):
        given, module = module.eval(), with_fused_experts(module)
        if module is not given:
            notes = (_same_logits(given, module),)
    with _as_model_errors(type(module).__name__, family):
        row = propose(module) if proposed else family
        model = build_model(module, tokenizer, row)
    details = {
        "compute_dtype": str(model.dtype).removeprefix("torch."),
        "experts_implementation": str(getattr(module.config, "_experts_implementation", None) or ""),
        "attention_implementation": str(getattr(module.config, "_attn_implementation", None) or ""),
        "transformers": transformers_version,
        "torch": str(torch.__version__),
        "tokenizer": "" if tokenizer is None else type(tokenizer).__name__,
    }
    model = replace(model, provenance={**model.provenance, **details, **(provenance or {})})
    if row is None:
        with _as_model_errors(type(module).__name__):
            return replace(model, reconstruction=verify(model), notes=notes)
    kind = module.config.model_type
    own = "has a row of its own in the table of families, which is not used" if has_row(kind) else None
    note = (
        f"model type {kind!r} {own or 'has no row in the table of families'}; the row was "
        f"{'read off the model' if proposed else f'given ({row.source})'}: {row_as_toml(row).replace(chr(10), ', ')}"
    )
    try:
        with _as_model_errors(type(module).__name__, family):
            return replace(model, reconstruction=verify(model), notes=(*notes, note))
    except ReconstructionError as error:
        error.add_note(row_as_toml(row))
        raise


@contextmanager
def borrow_model(
    module: nn.Module, tokenizer: PreTrainedTokenizerBase | None = None, *, device: str | None = None
) -> Iterator[Model]:
    """A model that is in training, prepared and checked as `wrap_model` does it, until the `with` block ends.

    Training goes on as if nothing had been done (`interventions.undisturbed`). Weights in float32 or float64 are looked
    at where they are. Of others, or for another device, a float32 copy is made for the length of the block, since in
    bfloat16 the residual stream is too coarse for single units to add up; the model's notes say so.

    Args:
        module: a transformers model, or what torch wrapped around one for compilation or data parallelism.
        tokenizer: its tokenizer.
        device: where the copy is, as torch names it; None: where the model is.

    Raises:
        UnknownFamilyError: the model's family has no row in the table.
        ReconstructionError: its units do not account for what it computes.
        ModelError: its weights are packed, spread over processes or cannot be copied, or its forward pass fails.
        OptionError: this machine has no such device.
    """
    plain = unwrapped(module)
    refuse_packed(type(plain).__name__, plain)
    _refuse_spread(plain)
    where = None if device is None else resolve_device(device)
    stored = sorted({str(w.dtype).removeprefix("torch.") for w in plain.parameters() if w.is_floating_point()})
    moved = where is not None and any(not _is_on(weight, where) for weight in plain.parameters())
    notes: tuple[str, ...] = ()
    with undisturbed(plain):
        used = plain
        if moved or len(stored) != 1 or stored[0] not in DTYPES:
            used = _float32_copy(plain, where)
            notes = (f"scored in a float32 copy of weights that are trained in {', '.join(stored)}",)
        provenance = {"source": "a model in training", "stored_dtype": ", ".join(stored)}
        yield replace(wrap_model(used, tokenizer, provenance=provenance), notes=notes)


def unwrapped(module: nn.Module) -> PreTrainedModel:
    """The model inside what compilation and data parallelism wrap around it."""
    while True:
        inner = getattr(module, "_orig_mod", None)
        if inner is None and isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = module.module
        if inner is None:
            return module
        module = inner


def _is_on(weight: Tensor, device: torch.device) -> bool:
    return weight.device.type == device.type and device.index in (None, weight.device.index)


def _refuse_spread(module: nn.Module) -> None:
    """Refuse a model of whose weights this process holds a part only (FSDP, ZeRO, tensor parallelism)."""
    for name, weight in module.named_parameters():
        if hasattr(weight, "ds_id") or hasattr(weight, "device_mesh") or weight.device.type == "meta":
            raise ModelError(
                f"this process holds no whole {name} of {type(module).__name__}: weights that are spread over "
                "processes (FSDP, ZeRO, tensor parallelism) or offloaded cannot be scored in training. Score its saved "
                "checkpoints instead: `gated-lpi run` with `checkpoints` = the folder that they are saved to"
            )


def _float32_copy(module: PreTrainedModel, device: torch.device | None) -> PreTrainedModel:
    """A copy with floating-point weights and buffers in float32, made tensor by tensor; where they are unless told."""

    def converted(tensor: Tensor) -> Tensor:
        dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
        return tensor.detach().to(device=device or tensor.device, dtype=dtype, copy=True)

    known: dict[int, Any] = {id(w): nn.Parameter(converted(w), w.requires_grad) for w in module.parameters()}
    known |= {id(buffer): converted(buffer) for buffer in module.buffers()}
    try:
        return copy.deepcopy(module, known)
    except Exception as error:
        raise ModelError(
            f"{type(module).__name__} cannot be copied to float32 ({type(error).__name__}: {error}); score its saved "
            "checkpoints instead: `gated-lpi run` with `checkpoints` = the folder that they are saved to"
        ) from error


@contextmanager
def _as_model_errors(name: str, given: Family | None = None) -> Iterator[None]:
    """Tell of what a model's own code raises as of a model that cannot be attributed; of the row, if one was given."""
    try:
        yield
    except ModelError as error:
        if given is None or given.called in str(error):
            raise
        raise type(error)(f"{error}. The model was read by {_in_doubt(given)}") from error
    except (GatedLPIError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        ends = f"{type(error).__name__}: {(str(error) or 'no reason given').splitlines()[0]}"
        if given is not None:
            raise ModelError(f"nothing was attributed: {name} ends in {ends}, read by: {_in_doubt(given)}") from error
        raise ModelError(
            f"{name} was built, but a forward pass of it ends in {ends}. Its config and its weights contradict each "
            "other, or the installed transformers does not support this model; nothing was attributed"
        ) from error


def _in_doubt(given: Family) -> str:
    """A row that a user gave, as what an error may come from."""
    shown = row_as_toml(given).replace("\n", ", ")
    return f"{given.called}, which may be wrong: {shown}. Mend it, or load the model without it to see whether it is"


def probe_prompts(model: Model) -> list[list[int]]:
    """Token ids for a check that needs no text: fixed pseudo-random prompts of different lengths."""
    return _random_prompts(min(model.readout.vocabulary, model.n_embeddings))


def _random_prompts(known: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(known, (PROBE_PROMPTS, PROBE_TOKENS), generator=generator)
    return [row[: PROBE_TOKENS - 2 * i].tolist() for i, row in enumerate(ids)]


def default_tolerance(model: Model) -> float:
    """Relative reconstruction error that rounding explains, by dtype."""
    if model.dtype == torch.float64:
        return 1e-5 if model.family.norms_in_float32 else 1e-9
    return 1e-4


@torch.no_grad()
def verify(
    model: Model, prompts: Sequence[Sequence[int]] | None = None, tolerance: float | None = None
) -> Reconstruction:
    """Rebuild blocks, layers, final residual and logits of one forward pass from unit contributions.

    Whether FFNs read what attention wrote changes no sum, and yet every score: it is tried by disturbing that.

    Args:
        model: the model to check.
        prompts: token ids to run; default: `probe_prompts`.
        tolerance: largest relative error allowed; default: `default_tolerance`.

    Raises:
        ReconstructionError: an error is above the tolerance; names the block. Or a block reads something else than
            the row says.
        OptionError: what is to be checked is no `Model`.
    """
    require_model(model)
    prompts = probe_prompts(model) if prompts is None else prompts
    tolerance = default_tolerance(model) if tolerance is None else tolerance
    traced = trace(model, prompts)
    rebuilt, worst, worst_name, worst_layer = traced.embedding, 0.0, model.blocks[0].name, 0.0
    left = traced.blocks[0].base  # the layer's input, and what its blocks have written so far
    for index, (block, seen) in enumerate(zip(model.blocks, traced.blocks, strict=True)):
        written = seen.bias(block)
        for slab in seen.slabs(block):
            contribution = slab.coefficients.to(slab.values.dtype) @ slab.values
            if slab.prompts is None:
                written = written + contribution
            else:
                written = written.index_add(0, slab.prompts, contribution)
        rebuilt = rebuilt + written
        error = relative_error(written, seen.written)
        if not error <= tolerance:
            _refuse(model, f"the output of {block.name}", error, tolerance)
        if error > worst:
            worst, worst_name = error, block.name
        left = left + seen.written
        last = index + 1 == len(model.blocks)
        if last or model.blocks[index + 1].layer != block.layer:
            leaving = traced.final_residual if last else traced.blocks[index + 1].base
            layer_error, left = relative_error(left, leaving), leaving
            if not layer_error <= tolerance:
                _refuse(model, f"the output of layer {block.layer}", layer_error, tolerance)
            worst_layer = max(worst_layer, layer_error)
    residual = relative_error(rebuilt, traced.final_residual)
    if not residual <= tolerance:
        _refuse(model, "the final residual stream", residual, tolerance)
    logits = relative_error(traced.logits, _model_logits(model, prompts))
    if not logits <= tolerance:
        _refuse(model, "the logits", logits, tolerance)
    _refuse_other_order(model, prompts[0])
    return Reconstruction(worst, worst_name, worst_layer, residual, logits, tolerance)


_READS = {True: "reads what attention writes", False: "reads the layer's input, beside attention"}


def _refuse_other_order(model: Model, prompt: Sequence[int]) -> None:
    """Refuse a row that says otherwise than the model does whether blocks read what others of their layer write."""
    for name, reads in reads_what_was_written(model, list(prompt)).items():
        is_ffn = name.endswith(" ffn")
        if reads == (is_ffn and not model.parallel):
            continue
        if not is_ffn:
            raise ReconstructionError(
                f"{name} of this {model.family.name} model reads what another block of its layer writes; attention and "
                "mixers are expected to read the layer's input. Such a model is not covered, so no score is given"
            )
        raise ReconstructionError(
            f"{name} of this {model.family.name} model {_READS[reads]}, as changing what attention writes shows, and "
            f"{model.family.called} says that it {_READS[not reads]} (parallel = "
            f"{str(model.parallel).lower()}{_by_flag(model.family)}). Units would be scored on a base that the model "
            f"does not have, so no score is given; a row for this model has parallel = {str(not reads).lower()}"
        )


def _by_flag(family: Family) -> str:
    """Where a family's row has it from that FFNs stand beside attention, if from the config."""
    by_config = family.parallel_attribute is not None and not family.parallel
    return f", by {family.parallel_attribute} of the config" if by_config else ""


def relative_error(rebuilt: Tensor, true: Tensor) -> float:
    """Largest absolute difference over the largest absolute value of the true one; NaN if either holds one.

    Args:
        rebuilt: [...], what was rebuilt.
        true: [...], what it should be.
    """
    return ((rebuilt - true).abs().max() / true.abs().max().clamp_min(1e-30)).item()


@torch.no_grad()
def _same_logits(given: PreTrainedModel, fused: PreTrainedModel) -> str:
    """A note that a model of another form returns the logits of the one that was given; refused where it does not."""
    table = given.get_input_embeddings().weight
    batch = pad(_random_prompts(table.shape[0]), device=table.device)
    theirs, ours = (batch.pick(one(**batch.arguments()).logits) for one in (given, fused))
    error, tolerance = relative_error(ours, theirs), 1e-4
    name = type(given).__name__
    if not error <= tolerance:
        raise ReconstructionError(
            f"{name} holds experts otherwise than transformers fuses them, and with a router and fused experts in "
            f"their place its logits are others: relative error {error:.3g}, allowed {tolerance:.3g}. The installed "
            f"transformers {transformers_version} computes them in a way that is not known here, so no score is given"
        )
    return (
        f"{name} holds experts otherwise than transformers fuses them; read is a form with a router and fused experts, "
        f"which shares its weights and returns its logits (relative error {error:.1g})"
    )


def _model_logits(model: Model, prompts: Sequence[Sequence[int]]) -> Tensor:
    batch = pad(prompts, device=model.device)
    logits: Tensor = model.module(**batch.arguments()).logits
    return batch.pick(logits).to(model.readout.weight.device)


def _refuse(model: Model, what: str, error: float, tolerance: float) -> None:
    raise ReconstructionError(
        f"{what} of this {model.family.name} model is not what its units and biases add up to: relative error "
        f"{error:.3g}, allowed {tolerance:.3g}; {model.family.called} and the model's code disagree (a "
        "missing scale, bias or norm), or the weights are so large that rounding hides single units; "
        "no score would be right, so none is given"
    )
