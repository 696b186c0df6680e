"""A second device: a GPU where there is one, else emulated on the CPU, as far as places of tensors go.

Tensors of the emulated device are wrappers that say they are on it and hold a tensor of the CPU. Operations are done on
what they hold, and refused as CUDA refuses them: where tensors of several devices take part, single numbers of the CPU
aside. What the host has to wait for is counted. The device is called "lazy", one of PyTorch's own that no code of ours
knows and that has no kernels here, so that nothing can pass by the emulation; there are as many of it as are asked for.

Where there is a GPU the same tests run on it, and operations there are only counted; a model that is spread over two
devices is on two GPUs, or on two emulated ones.
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate import dispatch_model
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

EMULATED = "lazy"
OTHER = "cuda" if torch.cuda.is_available() else EMULATED
COPIES = {"aten::_to_copy", "aten::copy_"}
READS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::is_nonzero", "aten::equal"}


class Elsewhere(torch.Tensor):
    """A tensor of the other device; `held` is its content."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    def __new__(cls, held: Tensor, device: torch.device) -> Elsewhere:
        """Say of a tensor of the CPU that it is on this device."""
        found: Elsewhere = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=device,
        )
        found.held = held
        return found

    def __repr__(self, *_: Any, **__: Any) -> str:
        """Say where it is."""
        return f"Elsewhere({self.held})"

    def tolist(self) -> Any:
        """As of any tensor, which PyTorch has not for subclasses."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        """Outside of the emulation nothing may be done with it."""
        raise RuntimeError(f"{func} of a tensor on the other device, outside of OtherDevice()")


class OtherDevice(TorchDispatchMode):
    """Emulates the device while it is entered.

    Attributes:
        reads: how often the host waited for a number or a shape.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def __enter__(self) -> OtherDevice:
        """Also let `torch.tensor(…, device=…)` come through the emulation, and `module.to(…)` change parameters."""
        self._before = torch._C._only_lift_cpu_tensors(), torch.__future__.get_swap_module_params_on_conversion()
        torch._C._set_only_lift_cpu_tensors(True)
        torch.__future__.set_swap_module_params_on_conversion(True)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """As before."""
        lifts, swaps = self._before
        torch._C._set_only_lift_cpu_tensors(lifts)
        torch.__future__.set_swap_module_params_on_conversion(swaps)
        super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Do one operation where it belongs."""
        name, kwargs = func._schema.name, dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        there = [tensor for tensor in tensors if isinstance(tensor, Elsewhere)]
        on_a_gpu = any(tensor.is_cuda for tensor in tensors)
        if not there and (on_a_gpu or (kwargs.get("device") and torch.device(kwargs["device"]).type == "cuda")):
            self.reads += on_a_gpu and _waits_for_a_gpu(name, args, kwargs)
            return func(*args, **kwargs)
        if there and name not in COPIES:
            _refuse_several(func, tensors)
        device = _device_of_result(name, args, kwargs, there)
        self.reads += bool(there) and (name in READS or (name == "aten::_to_copy" and device.type == "cpu"))
        if kwargs.get("device") is not None:
            kwargs["device"] = torch.device("cpu")
        inner_args, inner_kwargs = tree_map_only(Elsewhere, lambda wrapper: wrapper.held, (args, kwargs))
        if name == "aten::histc":  # of integers on CUDA only
            inner_args = (inner_args[0].float(), *inner_args[1:])
        if name == "aten::_conj":  # here the mark that a tensor is to be conjugated would be lost
            func = torch.ops.aten._conj_physical.default
        found = func(*inner_args, **inner_kwargs)
        if device.type == "cpu":
            return found
        known = {id(tensor.held): tensor for tensor in there if tensor.device == device}
        return tree_map_only(
            Tensor, lambda held: known[id(held)] if id(held) in known else Elsewhere(held, device), found
        )


def _waits_for_a_gpu(name: str, args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether the host needs a result of this operation on tensors of a GPU, or copies one."""
    if name == "aten::copy_":
        return bool(args[0].device.type == "cpu")
    return name in READS or (name == "aten::_to_copy" and torch.device(kwargs.get("device") or OTHER).type == "cpu")


def _refuse_several(func: Any, tensors: list[Tensor]) -> None:
    devices = {tensor.device for tensor in tensors if tensor.dim() or isinstance(tensor, Elsewhere)}
    if len(devices) > 1:
        given = ", ".join(f"{tuple(tensor.shape)} on {tensor.device}" for tensor in tensors)
        raise RuntimeError(f"{func} expects all tensors on one device, but got {given}")


def _device_of_result(name: str, args: Any, kwargs: dict[str, Any], there: list[Elsewhere]) -> torch.device:
    given = kwargs.get("device")
    if name == "aten::copy_":
        return args[0].device
    if given is not None:
        return torch.device(EMULATED, given.index or 0) if given.type == EMULATED else given
    if name == "aten::_local_scalar_dense" or not there:
        return torch.device("cpu")
    return there[0].device


def spread_over_two(module: Any) -> Any:
    """The model with its first block and what is before it on one device, the others on a second, as accelerate does.

    Tied weights stay together.
    """
    inner = module.base_model_prefix
    places: dict[str, str] = {}
    first, second = _two_devices()
    for name, child in getattr(module, inner).named_children():
        if isinstance(child, torch.nn.ModuleList):
            places |= {f"{inner}.{name}.{i}": second if i else first for i in range(len(child))}
        else:
            places[f"{inner}.{name}"] = second if "norm" in name or name == "ln_f" else first
    places["lm_head"] = first if module.config.tie_word_embeddings else second
    return dispatch_model(module, places, force_hooks=True)


def _two_devices() -> tuple[str, str]:
    several = OTHER if torch.cuda.device_count() > 1 else EMULATED
    return f"{several}:0", f"{several}:1"
