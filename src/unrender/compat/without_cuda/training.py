"""What training loops say about a GPU: autocast, gradient scaling, optimizers, checkpoints on disk, data loaders, scripts, extensions."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
import torch.amp
import torch.cuda.amp
import torch.distributed
import torch.jit
import torch.serialization
import torch.utils.data
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from unrender.compat.imports import after_import
from unrender.compat.without_cuda.patches import Patches
from unrender.compat.without_cuda.runtime import unserved
from unrender.compat.without_cuda.tensors import CREATING, is_gpu

_FIRST = -1
"""Priority before PyTorch's own readers of stored tensors."""


def _autocast(initialize: Callable[..., None]) -> Callable[..., None]:
    """Compute in float32 where a GPU would compute in half precision.

    The region stays an autocast region, of the CPU: half inputs of the listed operations are converted to float32, so that they meet
    float32 weights there as on a GPU.
    """

    def __init__(
        context: Any, device_type: str, dtype: torch.dtype | None = None, enabled: bool = True, cache_enabled: bool | None = None
    ) -> None:
        if is_gpu(device_type) or dtype == torch.float32:
            initialize(context, "cpu", torch.bfloat16, enabled, cache_enabled)
            context.fast_dtype = torch.float32  # not offered by the initializer, and all that the region needs
        else:
            initialize(context, device_type, dtype, enabled, cache_enabled)

    return __init__


def _about_autocast(function: Callable[..., Any]) -> Callable[..., Any]:
    """Ask about the CPU, where the autocast regions of a GPU are."""

    def ask(*args: Any, **kwargs: Any) -> Any:
        device_type = args[0] if args else kwargs.get("device_type", "cuda")
        return function("cpu" if is_gpu(device_type) else device_type)

    return ask


def _decorating(function: Callable[..., Any]) -> Callable[..., Any]:
    def decorate(*args: Any, **kwargs: Any) -> Any:
        if is_gpu(kwargs.get("device_type")):
            kwargs.update(device_type="cpu")
        return function(*args, **kwargs)

    return decorate


def _scaler(initialize: Callable[..., None]) -> Callable[..., None]:
    """Switch off gradient scaling, since nothing is computed in half precision."""
    parameters = inspect.signature(initialize)

    def __init__(scaler: Any, *args: Any, **kwargs: Any) -> None:
        given = parameters.bind(scaler, *args, **kwargs)
        given.apply_defaults()
        if is_gpu(given.arguments.get("device")):
            given.arguments.update(enabled=False)
        initialize(*given.args, **given.kwargs)

    return __init__


def _do_not_capture(optimizer: Optimizer, *args: Any) -> None:
    """Take ``capturable`` from the groups of an optimizer, those of a loaded state too: it is about CUDA graphs."""
    for group in optimizer.param_groups:
        if group.get("capturable"):
            group.update(capturable=False)


def _no_tag(storage: Any) -> None:
    return None


def _on_this_machine(storage: Any, location: str) -> Any:
    """Return a stored tensor as it was read, if it was on a GPU or is to go there."""
    return storage if is_gpu(location) else None


def _loading_jit(function: Callable[..., Any]) -> Callable[..., Any]:
    def load(f: Any, map_location: Any = None, *args: Any, **kwargs: Any) -> Any:
        return function(f, "cpu" if map_location is None or is_gpu(map_location) else map_location, *args, **kwargs)

    return load


def _data_loader(initialize: Callable[..., None]) -> Callable[..., None]:
    def __init__(loader: Any, *args: Any, **kwargs: Any) -> None:
        initialize(loader, *args, **kwargs)
        loader.pin_memory = False
        loader.pin_memory_device = ""

    return __init__


def _scripting(function: Callable[..., Any]) -> Callable[..., Any]:
    """Run what names a GPU as plain Python: a compiled script has the device built in."""

    def script(obj: Any = None, *args: Any, **kwargs: Any) -> Any:
        subject = type(obj) if isinstance(obj, torch.nn.Module) else obj
        try:
            source = inspect.getsource(subject)
        except (OSError, TypeError):
            source = ""
        return obj if re.search(r"\bcuda\b", source) else function(obj, *args, **kwargs)

    return script


def _emitting(initialize: Callable[..., None]) -> Callable[..., None]:
    def __init__(emitter: Any, enabled: bool = True, record_shapes: bool = False) -> None:
        initialize(emitter, False, record_shapes)

    return __init__


def _process_group(function: Callable[..., Any]) -> Callable[..., Any]:
    def init_process_group(backend: Any = None, *args: Any, **kwargs: Any) -> Any:
        if "nccl" in str(backend).lower():
            raise RuntimeError(unserved("torch.distributed with the backend nccl", 'use the backend "gloo"'))
        return function(backend, *args, **kwargs)

    return init_process_group


def _without_compiler(patches: Patches) -> Callable[[ModuleType], None]:
    """Let extensions of CUDA say that they need a GPU, before a compiler says something else."""

    def loading(function: Callable[..., Any]) -> Callable[..., Any]:
        def load(name: str, sources: str | Sequence[str], *args: Any, **kwargs: Any) -> Any:
            files = [sources] if isinstance(sources, str) else sources
            if kwargs.get("with_cuda") or any(str(file).endswith((".cu", ".cuh")) for file in files):
                raise RuntimeError(unserved(f"the CUDA extension {name!r}", "use the program's own PyTorch version of it"))
            return function(name, sources, *args, **kwargs)

        return load

    def loading_inline(function: Callable[..., Any]) -> Callable[..., Any]:
        def load_inline(name: str, cpp_sources: Any, cuda_sources: Any = None, *args: Any, **kwargs: Any) -> Any:
            if cuda_sources or kwargs.get("with_cuda"):
                raise RuntimeError(unserved(f"the CUDA extension {name!r}", "use the program's own PyTorch version of it"))
            return function(name, cpp_sources, cuda_sources, *args, **kwargs)

        return load_inline

    def act(cpp_extension: ModuleType) -> None:
        patches.wrap(cpp_extension, "load", loading)
        patches.wrap(cpp_extension, "load_inline", loading_inline)

    return act


def _known_to_compiler(dynamo: ModuleType) -> None:
    """Let ``torch.compile`` put the replacements into its graphs as they are, instead of tracing through them."""
    for function in (getattr(torch, name, None) for name in CREATING):
        if function is not None:
            dynamo.allow_in_graph(function)


def replace(patches: Patches) -> None:
    """Replace what training loops use in PyTorch."""
    patches.wrap(torch.amp.autocast_mode.autocast, "__init__", _autocast)
    for name in ("is_autocast_enabled", "get_autocast_dtype"):
        patches.wrap(torch, name, _about_autocast)
    patches.wrap(torch, "get_autocast_gpu_dtype", lambda function: lambda: torch.get_autocast_dtype("cpu"))
    for home in (torch.amp, torch.amp.autocast_mode):
        patches.wrap(home, "custom_fwd", _decorating)
        patches.wrap(home, "custom_bwd", _decorating)
    patches.wrap(torch.amp.GradScaler, "__init__", _scaler)

    patches.undo_by(register_optimizer_step_pre_hook(_do_not_capture).remove)

    registry = torch.serialization._package_registry
    reader = (_FIRST, _no_tag, _on_this_machine)
    torch.serialization.register_package(*reader)
    patches.undo_by(lambda: registry.remove(reader))
    patches.wrap(torch.jit, "load", _loading_jit)

    patches.wrap(torch.utils.data.DataLoader, "__init__", _data_loader)
    patches.wrap(torch.jit, "script", _scripting)
    patches.wrap(torch.autograd.profiler.emit_nvtx, "__init__", _emitting)
    if torch.distributed.is_available():
        patches.wrap(torch.distributed, "init_process_group", _process_group)
    after_import("torch.utils.cpp_extension", _without_compiler(patches))
    after_import("torch._dynamo", _known_to_compiler)
