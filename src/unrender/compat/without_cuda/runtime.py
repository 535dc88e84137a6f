"""``torch.cuda`` on a machine without a GPU: what waits does nothing, what measures measures the CPU, what seeds seeds its generator.

Functions that only a GPU can serve raise an error that names them. So does everything of ``torch.cuda`` that starts CUDA and is not here.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
import torch.cuda

from unrender import devices
from unrender.compat.without_cuda.patches import Patches, calling_package
from unrender.compat.without_cuda.tensors import CPU

_TOLD_THE_TRUTH = ("torch", "unrender", "warp")
"""Packages that choose their own code by the answer."""


def unserved(what: str, advice: str = "take it out of the program") -> str:
    """Say that something needs a GPU, and where to read on.

    >>> unserved("torch.cuda.CUDAGraph")
    'torch.cuda.CUDAGraph needs a GPU, and there is none: take it out of the program, see docs/nvdiffrast.md of unrender'
    """
    return f"{what} needs a GPU, and there is none: {advice}, see docs/nvdiffrast.md of unrender"


class Event:
    """A moment on the clock of the CPU."""

    def __init__(self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False, external: bool = False) -> None:
        self._recorded: int | None = None

    def record(self, stream: object = None) -> None:
        """Record the moment."""
        self._recorded = time.perf_counter_ns()

    def elapsed_time(self, end_event: Event) -> float:
        """Return the milliseconds from this event to another.

        Raises:
            RuntimeError: unless both have been recorded, as PyTorch does.
        """
        if self._recorded is None or end_event._recorded is None:
            raise RuntimeError("Both events must be recorded before calculating elapsed time.")
        return (end_event._recorded - self._recorded) / 1e6

    def query(self) -> bool:
        """Return True: work on the CPU is finished when its call returns."""
        return True

    def synchronize(self) -> None:
        """Do nothing."""

    def wait(self, stream: object = None) -> None:
        """Do nothing."""


class Stream:
    """The only queue of work, which is always finished."""

    cuda_stream = 0
    stream_id = 0
    device_index = 0
    device = CPU

    def __init__(self, device: object = None, priority: int = 0, **more: object) -> None:
        self.priority = priority
        self._outer: list[Stream] = []

    @staticmethod
    def priority_range() -> tuple[int, int]:
        """Return the only priority, as the least and the greatest."""
        return 0, 0

    def query(self) -> bool:
        """Return True: work on the CPU is finished when its call returns."""
        return True

    def synchronize(self) -> None:
        """Do nothing."""

    def wait_event(self, event: object) -> None:
        """Do nothing."""

    def wait_stream(self, stream: object) -> None:
        """Do nothing."""

    def record_event(self, event: Event | None = None) -> Event:
        """Record an event, a new one by default."""
        event = Event() if event is None else event
        event.record(self)
        return event

    def __enter__(self) -> Stream:
        self._outer.append(_current_stream())
        _set_stream(self)
        return self

    def __exit__(self, *exception: object) -> None:
        _set_stream(self._outer.pop())


_streams: list[Stream] = [Stream()]
"""The current stream."""


def _current_stream(device: object = None) -> Stream:
    return _streams[0]


def _set_stream(stream: Stream | None) -> None:
    if stream is not None:
        _streams[0] = stream


class StreamContext:
    """Makes a stream the current one inside a ``with`` block; None changes nothing."""

    def __init__(self, stream: Stream | None) -> None:
        self.stream = stream

    def __enter__(self) -> None:
        if self.stream is not None:
            self.stream.__enter__()

    def __exit__(self, *exception: object) -> None:
        if self.stream is not None:
            self.stream.__exit__(*exception)


class _Block:
    """A ``with`` block without effect, in place of one that selects a GPU."""

    def __init__(self, device: object) -> None:
        self.idx = 0
        self.prev_idx = 0

    def __enter__(self) -> None:
        return None

    def __exit__(self, *exception: object) -> bool:
        return False


@dataclass(frozen=True)
class _Properties:
    """What programs read of a device; here of the processor and its memory."""

    name: str
    total_memory: int
    multi_processor_count: int
    major: int = 8
    minor: int = 0
    warp_size: int = 32
    max_threads_per_multi_processor: int = 1536
    regs_per_multiprocessor: int = 65536
    shared_memory_per_block: int = 49152
    L2_cache_size: int = 0
    is_integrated: int = 1
    is_multi_gpu_board: int = 0
    gcnArchName: str = ""
    uuid: str = "00000000-0000-0000-0000-000000000000"


def _properties(device: object = None) -> _Properties:
    return _Properties(_name(), devices.memory()[1], devices.usable_cores())


def _name(device: object = None) -> str:
    return f"no GPU: {devices.processor()}"


def _peak_memory(device: object = None) -> int:
    peak = devices.peak_memory_mb(CPU)
    return devices.resident_memory() if peak is None else round(peak * 2**20)


def _used_memory(device: object = None) -> int:
    return devices.resident_memory()


def _statistics(device: object = None) -> dict[str, int]:
    now, peak = _used_memory(), _peak_memory()
    kinds = ("allocated_bytes", "reserved_bytes", "active_bytes")
    return {f"{kind}.all.{name}": value for kind in kinds for name, value in (("current", now), ("peak", peak))}


def _summary(device: object = None, abbreviated: bool = False) -> str:
    return f"{_name()}: {_used_memory() / 2**20:.0f} MB in use by this process, {_peak_memory() / 2**20:.0f} MB at most"


def _seed(seed: int) -> None:
    torch.default_generator.manual_seed(int(seed))


def _reseed() -> None:
    torch.default_generator.seed()


def _first_seed() -> int:
    return torch.default_generator.initial_seed()


def _random_state(device: object = None) -> torch.Tensor:
    return torch.default_generator.get_state()


def _set_random_state(new_state: torch.Tensor, device: object = None) -> None:
    torch.default_generator.set_state(new_state)


def _random_states() -> list[torch.Tensor]:
    return [_random_state()]


def _set_random_states(new_states: list[torch.Tensor]) -> None:
    for state in new_states:
        _set_random_state(state)


@contextmanager
def _named_range(message: str, *args: object, **kwargs: object) -> Iterator[None]:
    yield


def _always(value: Any) -> Callable[..., Any]:
    """Return a function that takes anything and returns one value."""
    return lambda *args, **kwargs: value


def _unchanged(callables: Any, *args: object, **kwargs: object) -> Any:
    return callables


def _refusing(what: str) -> type:
    """Return a class that cannot be instantiated on this machine."""

    def refuse(instance: object, *args: object, **kwargs: object) -> NoReturn:
        raise RuntimeError(unserved(what))

    return type(what.rpartition(".")[2], (), {"__init__": refuse})


def _refuse_to_start() -> NoReturn:
    """Stand in for what starts CUDA; the function to name is the outermost one of ``torch``."""
    frame, name = sys._getframe(1), "torch.cuda"
    while frame is not None and frame.f_globals.get("__name__") != "torch.cuda":
        frame = frame.f_back
    while frame is not None and str(frame.f_globals.get("__name__")).startswith("torch."):
        name = f"{frame.f_globals.get('__name__')}.{frame.f_code.co_name}"
        frame = frame.f_back
    raise RuntimeError(unserved(name))


def _explain_missing(name: str) -> NoReturn:
    """Stand in for the functions of CUDA that PyTorch's library lacks when it is built without."""
    if name.startswith("_cuda"):
        raise AttributeError(unserved(f"torch._C.{name}"))
    raise AttributeError(f"module 'torch._C' has no attribute {name!r}")


_NOTHING = (
    "init synchronize set_device empty_cache ipc_collect reset_peak_memory_stats reset_max_memory_allocated reset_max_memory_cached "
    "reset_accumulated_memory_stats set_per_process_memory_fraction set_sync_debug_mode"
).split()
"""Functions of ``torch.cuda`` that do nothing here."""

_FUNCTIONS: tuple[tuple[str, Callable[..., Any]], ...] = (
    ("current_device", _always(0)),
    ("get_device_name", _name),
    ("get_device_capability", _always((8, 0))),
    ("get_device_properties", _properties),
    ("can_device_access_peer", _always(False)),
    ("is_bf16_supported", _always(True)),
    ("is_current_stream_capturing", _always(False)),
    ("get_sync_debug_mode", _always(0)),
    ("current_stream", _current_stream),
    ("default_stream", _current_stream),
    ("set_stream", _set_stream),
    ("stream", StreamContext),
    ("memory_allocated", _used_memory),
    ("memory_reserved", _used_memory),
    ("memory_cached", _used_memory),
    ("max_memory_allocated", _peak_memory),
    ("max_memory_reserved", _peak_memory),
    ("max_memory_cached", _peak_memory),
    ("mem_get_info", lambda device=None: devices.memory()),
    ("memory_stats", _statistics),
    ("memory_summary", _summary),
    ("memory_snapshot", lambda *args: []),
    ("manual_seed", _seed),
    ("manual_seed_all", _seed),
    ("seed", _reseed),
    ("seed_all", _reseed),
    ("initial_seed", _first_seed),
    ("get_rng_state", _random_state),
    ("get_rng_state_all", _random_states),
    ("set_rng_state", _set_random_state),
    ("set_rng_state_all", _set_random_states),
    ("make_graphed_callables", _unchanged),
)
"""Functions of ``torch.cuda`` and what replaces them."""

_HOMES = (torch.cuda, torch.cuda.memory, torch.cuda.random, torch.cuda.streams, torch.cuda.graphs)
"""Modules that have these functions under the same names."""


def replace(patches: Patches, answers_yes: bool) -> None:
    """Replace the functions and classes of ``torch.cuda``."""

    def put(name: str, value: Any) -> None:
        for home in _HOMES:
            if name in vars(home):
                patches.replace(home, name, value)

    def question(name: str, answer: Any) -> None:
        original = getattr(torch.cuda, name)

        def ask() -> Any:
            return original() if calling_package() in _TOLD_THE_TRUTH else answer

        patches.replace(torch.cuda, name, ask)

    if answers_yes:
        question("is_available", True)
        question("device_count", 1)
        question("is_initialized", True)
    for name in _NOTHING:
        put(name, _always(None))
    for name, function in _FUNCTIONS:
        put(name, function)
    put("Event", Event)
    put("Stream", Stream)
    put("ExternalStream", type("ExternalStream", (Stream,), {}))
    put("StreamContext", StreamContext)
    put("device", _Block)
    put("device_of", _Block)
    put("default_generators", (torch.default_generator,))
    for name in ("CUDAGraph", "graph", "CUDAPluggableAllocator", "MemPool"):
        put(name, _refusing(f"torch.cuda.{name}"))
    put("_lazy_init", _refuse_to_start)
    patches.replace(torch._C, "__getattr__", _explain_missing)
    for name, value in (("range_push", 0), ("range_pop", 0), ("range_start", 0), ("range_end", None), ("mark", None)):
        patches.replace(torch.cuda.nvtx, name, _always(value))
    patches.replace(torch.cuda.nvtx, "range", _named_range)
    for name in ("start", "stop", "init"):
        patches.wrap(torch.cuda.profiler, name, lambda function: _always(None))
