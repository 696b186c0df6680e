"""Loading a checkpoint's weights and tokenizer, and refusing what cannot be trusted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from gated_lpi.errors import ModelError, WeightsError
from gated_lpi.quiet import quiet_transformers

MAX_NAMED = 3


@dataclass(frozen=True)
class Loaded:
    """A transformers model, its tokenizer, and the dtype that its weights have on disk."""

    module: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    stored_dtype: str
    commit: str


def load_weights(
    source: str,
    *,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    trust_remote_code: bool = False,
) -> Loaded:
    """Load a causal language model and its tokenizer from a folder or the hub, from safetensors only.

    Raises:
        ModelError: the source is no model that transformers can load.
        WeightsError: the weights are missing, cut short, incomplete for this architecture, or not finite.
    """
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    # The grouped matrix product that transformers prefers for experts has no float64 version.
    experts = {"experts_implementation": "eager"} if dtype == torch.float64 else {}
    try:
        stored = AutoConfig.from_pretrained(source, **options).dtype
        with quiet_transformers():  # what its report would say is checked below
            module, report = AutoModelForCausalLM.from_pretrained(
                source,
                dtype=dtype,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **experts,
                **options,
            )
    except SafetensorError as error:
        raise WeightsError(
            f"the safetensors of {source!r} cannot be read ({error}): the file is cut short or damaged; "
            "download or save it again"
        ) from error
    except (OSError, ValueError) as error:
        raise _not_loadable(source, error) from error
    _refuse_incomplete(source, report)
    _refuse_not_finite(source, module)
    return Loaded(
        module=module.to(device),
        tokenizer=load_tokenizer(source, **options),
        stored_dtype=str(stored or "unknown").removeprefix("torch."),
        commit=str(getattr(module.config, "_commit_hash", None) or ""),
    )


def load_tokenizer(source: str, **options: Any) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a folder or hub repository.

    Raises:
        ModelError: there is none that transformers can load.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source, **options)
    except (OSError, ValueError) as error:
        raise _no_tokenizer(source, _first_line(error)) from error
    # Without tokenizer files some model types get a tokenizer that knows its special tokens and nothing else.
    if len(set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)) == 0:
        raise _no_tokenizer(source, "it has no vocabulary")
    return tokenizer


def _no_tokenizer(source: str, reason: str) -> ModelError:
    return ModelError(f"no tokenizer could be loaded from {source!r} ({reason}); put tokenizer.json beside the weights")


def _not_loadable(source: str, error: Exception) -> ModelError | WeightsError:
    folder = Path(source)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            return ModelError(
                f"{source!r} is a folder without config.json; expected a model saved by transformers "
                "(save_pretrained), with config.json and *.safetensors"
            )
        if not any(folder.glob("*.safetensors")):
            pickles = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth") for p in folder.glob(pattern))
            found = f"only {', '.join(pickles[:MAX_NAMED])}, which is a pickle" if pickles else "no weights"
            return WeightsError(
                f"{source!r} holds {found}; weights are read from safetensors only. Convert with "
                "`model.save_pretrained(folder)` in a process that trusts the file"
            )
    elif not folder.exists() and (source.startswith((".", "/", "~")) or source.count("/") > 1):
        return ModelError(f"no folder {source!r}; give a folder saved by transformers or a hub repository name")
    return ModelError(f"transformers could not load {source!r}: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", maxsplit=1)[0]


def _refuse_incomplete(source: str, report: dict[str, Any]) -> None:
    missing = sorted(report.get("missing_keys") or ())
    mismatched = sorted(str(key) for key in report.get("mismatched_keys") or ())
    if missing or mismatched:
        names = ", ".join((missing + mismatched)[:MAX_NAMED])
        raise WeightsError(
            f"{source!r} lacks {len(missing)} of the tensors that its architecture needs and has {len(mismatched)} "
            f"of another shape (first: {names}); transformers would fill them with random numbers. "
            "The checkpoint is incomplete or its config.json belongs to another model"
        )


def _refuse_not_finite(source: str, module: PreTrainedModel) -> None:
    bad = [name for name, parameter in module.named_parameters() if not bool(torch.isfinite(parameter).all())]
    if bad:
        raise WeightsError(
            f"{source!r} holds NaN or infinite weights in {len(bad)} tensors (first: {', '.join(bad[:MAX_NAMED])}); "
            "no score of it would mean anything. Leave this checkpoint out, or download it again"
        )
