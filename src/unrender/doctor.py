"""Checks of the machine and the installation, each with a finding and advice.

PyTorch and Warp are imported by the checks that need them: a broken installation must still be able to say what is broken.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, no_type_check

from unrender.devices import processor, select_device, versions


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    good: bool
    finding: str
    advice: str = ""
    """Advice; empty if nothing is wrong."""


CPU_WHEELS = "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cpu"
"""Replaces a PyTorch for CUDA by the small one."""

EXTRAS: dict[str, tuple[str, str]] = {
    "tensorboard": ("tensorboard", "curves in TensorBoard"),
    "pycolmap": ("sfm", "poses of plain photos and videos"),
}
"""Optional packages: the extra that installs them, and what they add."""


def report(checks: Sequence[Check]) -> dict[str, Any]:
    """Return the checks as values for JSON."""
    rows = [{"good": check.good, "finding": check.finding, "advice": check.advice} for check in checks]
    try:
        known = versions()
    except importlib.metadata.PackageNotFoundError:  # which the checks say
        known = {}
    return {"checks": rows, "versions": known}


def examine() -> list[Check]:
    """Run every check, in an order in which an early failure explains later ones."""
    checks = [_python(), _system(), _cores(), _memory()]
    torch_check = _guarded(_torch, "PyTorch", "reinstall it: pip install --force-reinstall torch")
    warp_check = _guarded(_warp, "Warp", "reinstall it: pip install --force-reinstall warp-lang")
    checks += [torch_check, warp_check]
    if torch_check.good:
        checks.append(_guarded(_gpu_in_torch, "GPU in PyTorch", "leave --device out to run on the CPU"))
    if torch_check.good and warp_check.good:
        checks.append(_guarded(_warp_cache, "kernel cache of Warp", "set WARP_CACHE_PATH to a writable folder"))
        checks += _device_checks()
    checks.append(_guarded(_ffmpeg, "ffmpeg", "reinstall it: pip install --force-reinstall imageio-ffmpeg"))
    checks += [_working_folder(), _temporary_folder(), *(_extra(name) for name in EXTRAS)]
    return checks


def _guarded(check: Callable[[], Check], what: str, advice: str) -> Check:
    """Run a check and turn any exception into a finding."""
    try:
        return check()
    except Exception as error:
        return Check(False, f"{what}: {type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}", advice)


def _python() -> Check:
    good = sys.version_info >= (3, 10)
    return Check(good, f"Python {platform.python_version()} at {sys.executable}", "" if good else "install Python 3.10 or newer")


def _system() -> Check:
    return Check(True, f"{platform.system()} {platform.release()} on {platform.machine()}")


def _cores() -> Check:
    return Check(True, processor())


def _memory() -> Check:
    try:
        pages, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return Check(True, "memory: unknown on this system")
    total = pages * page / 2**30
    free = _available_memory()
    good = total >= 4.0
    left = "" if free is None else f", {free:.1f} GB of it free"
    return Check(good, f"{total:.1f} GB of memory{left}", "" if good else "a fit needs 4 GB; use --downscale 2 and few views")


def _available_memory() -> float | None:
    """Return the free memory in GB; None if unknown."""
    try:
        with open("/proc/meminfo", encoding="utf-8") as file:
            return next((int(line.split()[1]) / 2**20 for line in file if line.startswith("MemAvailable")), None)
    except OSError:
        return None


def _torch() -> Check:
    import torch

    build = "without CUDA" if torch.version.cuda is None else f"with CUDA {torch.version.cuda}"
    value = float((torch.eye(3) * 2.0).sum())
    if value != 6.0:
        return Check(False, f"PyTorch {torch.__version__} computes wrong results ({value} instead of 6)", "reinstall it")
    return Check(True, f"PyTorch {torch.__version__}, built {build}, {torch.get_num_threads()} threads")


def _warp() -> Check:
    import warp

    return Check(True, f"Warp {warp.__version__}")


def _gpu_in_torch() -> Check:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_properties(k) for k in range(torch.cuda.device_count())]
        return Check(True, "GPU: " + "; ".join(f"{p.name}, {p.total_memory / 2**30:.0f} GB, compute {p.major}.{p.minor}" for p in names))
    driver = shutil.which("nvidia-smi") is not None
    if driver and torch.version.cuda is None:
        advice = "install a CUDA build: https://pytorch.org/get-started"
        return Check(False, "there is an NVIDIA driver, but PyTorch is built without CUDA", advice)
    if driver:
        advice = "run nvidia-smi; the driver may be older than PyTorch's CUDA"
        return Check(False, "there is an NVIDIA driver, but PyTorch finds no GPU", advice)
    if torch.version.cuda is not None:
        size = _cuda_wheels() / 1e9
        unused = f"; the CUDA libraries of PyTorch ({size:.1f} GB) are never used" if size >= 0.1 else ""
        return Check(True, f"no NVIDIA GPU: fits run on the CPU{unused}", f"to free that space: {CPU_WHEELS}" if unused else "")
    return Check(True, "no NVIDIA GPU: fits run on the CPU")


def _cuda_wheels() -> int:
    """Return the bytes of the installed packages that only a GPU needs."""
    total = 0
    for package in importlib.metadata.distributions():
        name = (package.metadata["Name"] or "").lower()
        if name.startswith("nvidia-") or name == "triton":
            total += sum(file.size or 0 for file in package.files or ())
    return total


def _warp_cache() -> Check:
    import warp as wp

    import unrender.ops.kernels.launch  # noqa: F401  starts Warp quietly

    folder = Path(str(wp.config.kernel_cache_dir))
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        return Check(True, f"kernel cache of Warp at {folder} is writable, {shutil.disk_usage(folder).free / 2**30:.1f} GB free")


def _device_checks() -> list[Check]:
    """Compile and run one small kernel on every device, on PyTorch's own memory."""
    import torch

    devices = [torch.device("cpu")]
    if torch.cuda.is_available():
        devices += [torch.device(select_device("cuda").type, k) for k in range(torch.cuda.device_count())]
    advice = "look for a read-only kernel cache or, on a GPU, for a driver older than Warp's CUDA; no compiler is needed"
    return [_guarded(lambda device=device: _run_kernel(device), f"a kernel on {device}", advice) for device in devices]


def _run_kernel(device: Any) -> Check:
    import time

    import torch
    import warp as wp

    from unrender.ops.kernels.launch import launch

    @no_type_check
    @wp.kernel(module="unique", enable_backward=False)
    def double(first: int, x: wp.array(dtype=wp.float32), y: wp.array(dtype=wp.float32)):
        i = first + wp.tid()
        y[i] = 2.0 * x[i]

    x = torch.arange(5000, dtype=torch.float32, device=device)
    y = torch.zeros_like(x)
    started = time.perf_counter()
    launch(double, x.numel(), [x, y], torch.device(device))
    if not torch.equal(y, 2.0 * x):
        return Check(False, f"a kernel on {device} ran but its result is wrong", "empty the kernel cache and try again")
    return Check(True, f"a kernel on {device} compiled and ran in {time.perf_counter() - started:.1f} s")


def _ffmpeg() -> Check:
    import imageio_ffmpeg

    return Check(True, f"ffmpeg {imageio_ffmpeg.get_ffmpeg_version()} at {imageio_ffmpeg.get_ffmpeg_exe()}")


def _working_folder() -> Check:
    free = shutil.disk_usage(".").free / 2**30
    good = os.access(".", os.W_OK) and free > 0.5
    advice = "" if good else "runs go to ./runs; choose another folder with --out"
    return Check(good, f"working folder {Path.cwd()}: {free:.1f} GB free", advice)


def _temporary_folder() -> Check:
    """Check the folder for images that do not fit into memory."""
    try:
        folder = tempfile.gettempdir()
        with tempfile.TemporaryFile(dir=folder):
            free = shutil.disk_usage(folder).free / 2**30
    except OSError as error:
        return Check(False, f"no temporary folder can be written ({error})", "set TMPDIR to a writable folder")
    advice = "" if free > 0.5 else "set TMPDIR to a folder on a disk with space"
    return Check(free > 0.5, f"temporary folder {folder}: {free:.1f} GB free", advice)


def _extra(name: str) -> Check:
    """Tell whether an optional package is there; its absence is no fault."""
    extra, adds = EXTRAS[name]
    if importlib.util.find_spec(name) is None:
        return Check(True, f'{name} is not installed ({adds}): pip install "unrender[{extra}]"')
    return Check(True, f"{name} {importlib.metadata.version(name)} ({adds})")
