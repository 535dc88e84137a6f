"""Functions and methods that create, move or convert tensors: the device is the CPU wherever they are told a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.jit._builtins
import torch.utils._device
from torch import Tensor

from unrender.compat.without_cuda.patches import Patches, calling_package

CPU = torch.device("cpu")
_Device = torch.device
"""PyTorch's own class, whose name :class:`Device` takes."""

CREATING = (
    "arange as_tensor asarray bartlett_window blackman_window empty empty_like empty_permuted empty_quantized empty_strided eye "
    "from_dlpack from_file full full_like hamming_window hann_window kaiser_window linspace logspace normal ones ones_like rand "
    "rand_like randint randint_like randn randn_like randperm range scalar_tensor sparse_bsc_tensor sparse_bsr_tensor "
    "sparse_compressed_tensor sparse_coo_tensor sparse_csc_tensor sparse_csr_tensor tensor tril_indices triu_indices zeros zeros_like"
).split()
"""Functions of ``torch`` with an argument ``device``."""
CREATING_LIKE = "new new_empty new_empty_strided new_full new_ones new_tensor new_zeros is_pinned".split()
"""Methods of tensors with an argument ``device``."""
_TYPES = "BFloat16 Bool Byte Char Double Float Half Int Long Short".split()


def is_gpu(device: Any) -> bool:
    """Tell whether a device, its name or its index means a GPU."""
    if isinstance(device, str):
        return device.partition(":")[0] == "cuda"
    if isinstance(device, _Device):
        return device.type == "cuda"
    return isinstance(device, int) and not isinstance(device, bool)


def on_cpu(device: Any) -> Any:
    """Replace a GPU by the CPU; return anything else unchanged.

    >>> on_cpu("cuda:1"), on_cpu(0), on_cpu("meta"), on_cpu(torch.float32)
    (device(type='cpu'), device(type='cpu'), 'meta', torch.float32)
    """
    return CPU if is_gpu(device) else device


def _creating(function: Callable[..., Any]) -> Callable[..., Any]:
    def create(*args: Any, **kwargs: Any) -> Any:
        if "device" in kwargs:
            kwargs.update(device=on_cpu(kwargs.get("device")))
        if "pin_memory" in kwargs:
            kwargs.update(pin_memory=False)
        return function(*args, **kwargs)

    return create


def _converting(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``as_tensor`` and ``asarray``, which on a GPU copy what they would share with an array on the CPU."""

    def convert(data: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_gpu(kwargs.get("device")):
            return function(data, *args, **kwargs)
        kwargs.update(device=CPU)
        return _arrived(data if isinstance(data, Tensor) else None, function(data, *args, **kwargs))

    return convert


def _arrived(before: Tensor | None, after: Tensor) -> Tensor:
    """Return a tensor that was moved to the GPU, with memory of its own.

    A program that changes a tensor on the GPU in place expects the original on the CPU to keep its values. Moving a tensor that already is
    on the GPU returns itself, which matters for parameters and what else has a gradient.
    """
    if after.requires_grad or isinstance(after, torch.nn.Parameter):
        return after
    return after.clone() if after is before or _is_borrowed(after) else after


def _is_borrowed(tensor: Tensor) -> bool:
    """Tell whether a tensor uses memory that PyTorch did not allocate, as that of a NumPy array."""
    try:
        return not tensor.untyped_storage().resizable()
    except (NotImplementedError, RuntimeError):  # sparse tensors and those that are being traced have no storage
        return False


def _moving(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``Tensor.to``, whose first argument is a device, a type or another tensor."""

    def to(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        device = args[0] if args else kwargs.get("device")
        if is_gpu(device):
            if args:
                args = (CPU, *args[1:])
            else:
                kwargs.update(device=CPU)
            return _arrived(tensor, function(tensor, *args, **kwargs))
        result = function(tensor, *args, **kwargs)
        return result.clone() if result is tensor and device == "cpu" and isinstance(device, str) else result

    return to


def _moving_module(function: Callable[..., Any]) -> Callable[..., Any]:
    def to(module: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.nn.Module:
        if "device" in kwargs:
            kwargs.update(device=on_cpu(kwargs.get("device")))
        return function(module, *map(on_cpu, args[:1]), *args[1:], **kwargs)

    return to


def _to_gpu(function: Callable[..., Any]) -> Callable[..., Any]:
    def cuda(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if tensor.device.type == "meta":
            return tensor
        memory_format = kwargs.get("memory_format", torch.preserve_format)
        return _arrived(tensor, tensor if memory_format == torch.preserve_format else tensor.contiguous(memory_format=memory_format))

    return cuda


def _to_cpu(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``Tensor.cpu``, whose result on a GPU does not change when the tensor does: programs keep it as a record."""

    def cpu(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        result = function(tensor, *args, **kwargs)
        return result.clone() if result is tensor else result

    return cpu


def _of_type(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap functions whose first argument may be the name of a tensor type, such as "torch.cuda.FloatTensor"."""

    def call(*args: Any, **kwargs: Any) -> Any:
        args = tuple(a.replace("torch.cuda.", "torch.") if isinstance(a, str) else a for a in args)
        return function(*args, **kwargs)

    return call


def _pinning(function: Callable[..., Any]) -> Callable[..., Any]:
    def pin_memory(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return tensor if tensor.requires_grad else tensor.clone()

    return pin_memory


def _staying(function: Callable[..., Any]) -> Callable[..., Any]:
    def stay(storage: Any, *args: Any, **kwargs: Any) -> Any:
        return storage

    return stay


def _recording(function: Callable[..., Any]) -> Callable[..., Any]:
    def record_stream(tensor: Tensor, stream: Any) -> None:
        return None

    return record_stream


def _choosing_default(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``set_default_device``: the CPU needs no default, which would pass every call of PyTorch through Python."""

    def set_default_device(device: Any) -> None:
        function(None if is_gpu(device) else device)

    return set_default_device


def _entering(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the initializer of what ``with torch.device(...)`` enters."""

    def initialize(context: Any, device: Any) -> None:
        function(context, on_cpu(device))

    return initialize


class _AnyDevice(type):
    """Counts every device as an instance, since none is made of :class:`Device`, which equals the class that it replaces."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _Device)

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is _Device

    def __hash__(cls) -> int:
        return hash(_Device)


class Device(metaclass=_AnyDevice):
    """Makes devices in place of ``torch.device``: the CPU for every GPU.

    A program that compares ``torch.device("cuda:0")`` with the device of its tensors then finds them equal.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        first = args[0] if args else kwargs.get("type", kwargs.get("device"))
        if is_gpu(first) and calling_package() != "torch":  # which looks up its own modules by their devices
            return CPU
        return _Device(*args, **kwargs)


Device.__module__, Device.__qualname__, Device.__name__ = "torch", "device", "device"  # where pickle looks for it


class _AnyGenerator(type(torch._C.Generator)):
    """Counts every generator as an instance, those made before the replacement too."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, torch._C.Generator)


class Generator(torch._C.Generator, metaclass=_AnyGenerator):
    """A random number generator of the CPU, whatever device it is made for. Its numbers differ from those of a GPU."""

    def __new__(cls, device: Any = CPU) -> Generator:
        return super().__new__(cls, device=on_cpu(device))  # pyright: ignore[reportCallIssue]


def _register_for_scripts(patches: Patches, original: Any, replacement: Any) -> None:
    """Let TorchScript compile a call of the replacement to the operator of the original."""
    operator = torch.jit._builtins._find_builtin(original)
    if operator is not None:
        torch.jit._builtins._register_builtin(replacement, operator)
        patches.undo_by(lambda: torch.jit._builtins._get_builtin_table().pop(id(replacement), None))


def replace(patches: Patches) -> None:
    """Replace the functions of this module's table in PyTorch."""
    torch.utils._device._device_constructors()  # a cached set of the original functions; PyTorch compares with these
    for name in CREATING:
        original = getattr(torch, name, None)
        patches.wrap(torch, name, _converting if name in ("as_tensor", "asarray") else _creating)
        _register_for_scripts(patches, original, getattr(torch, name, None))
    for name in ("fftfreq", "rfftfreq"):
        patches.wrap(torch.fft, name, _creating)
    for name in ("nested_tensor", "as_nested_tensor"):
        patches.wrap(torch.nested, name, _creating)
    for name in CREATING_LIKE:
        patches.wrap(Tensor, name, _creating)
    for name, wrapper in (("to", _moving), ("cuda", _to_gpu), ("cpu", _to_cpu), ("type", _of_type), ("record_stream", _recording)):
        patches.wrap(Tensor, name, wrapper)
    patches.wrap(Tensor, "pin_memory", _pinning)
    patches.wrap(torch.nn.Module, "to", _moving_module)
    for storage in (torch.UntypedStorage, torch.TypedStorage):
        patches.wrap(storage, "cuda", _staying)
        patches.wrap(storage, "pin_memory", _staying)
    for name in _TYPES:
        patches.replace(torch.cuda, f"{name}Tensor", getattr(torch, f"{name}Tensor"))
        patches.replace(torch.cuda, f"{name}Storage", getattr(torch, f"{name}Storage"))
    patches.wrap(torch, "set_default_tensor_type", _of_type)
    patches.wrap(torch, "set_default_device", _choosing_default)
    patches.wrap(torch.utils._device.DeviceContext, "__init__", _entering)
    patches.replace(torch, "Generator", Generator)
    patches.replace(torch, "device", Device)
