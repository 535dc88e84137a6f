"""Stand-ins for modules of other projects, so that programs written for them run on this package.

>>> import unrender.compat
>>> unrender.compat.install()                       # ``import nvdiffrast.torch``, ``tinycudann`` and ``nerfacc`` work now
True

To run a program without editing it: ``python -m unrender.compat PROGRAM.py ARGUMENTS``. ``docs/nvdiffrast.md`` and
``docs/neural_fields.md`` say what is covered.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from unrender.compat.imports import after_import

__all__ = ["SETTINGS", "install", "pass_to_children"]

_STAND_INS = {
    "nvdiffrast": "unrender.compat.nvdiffrast",
    "nvdiffrast.torch": "unrender.compat.nvdiffrast.torch",
    "nvdiffrast.torch.ops": "unrender.compat.nvdiffrast.torch.ops",
    "nerfacc": "unrender.compat.nerfacc",
    "nerfacc.data_specs": "unrender.compat.nerfacc.data_specs",
    "nerfacc.estimators": "unrender.compat.nerfacc.estimators",
    "nerfacc.estimators.occ_grid": "unrender.compat.nerfacc.estimators.occ_grid",
    "nerfacc.estimators.prop_net": "unrender.compat.nerfacc.estimators.prop_net",
    "nerfacc.grid": "unrender.compat.nerfacc.grid",
    "nerfacc.losses": "unrender.compat.nerfacc.losses",
    "nerfacc.pack": "unrender.compat.nerfacc.pack",
    "nerfacc.pdf": "unrender.compat.nerfacc.pdf",
    "nerfacc.scan": "unrender.compat.nerfacc.scan",
    "nerfacc.volrend": "unrender.compat.nerfacc.volrend",
    "tinycudann": "unrender.compat.tinycudann",
    "tinycudann.modules": "unrender.compat.tinycudann.modules",
}
"""Names that programs import, and the modules that replace them."""
_PACKAGES = ("nerfacc", "nvdiffrast", "tinycudann")

SETTINGS = "UNRENDER_COMPAT"
"""The environment variable that child processes read: "on", and the options of the command, separated by commas."""
_START = Path(__file__).parent / "children"
"""The folder whose ``sitecustomize`` a child process of Python imports when it starts."""


class _OtherName(Loader):
    """Loads a module under a second name, as the same module object."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._own_spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self._module)
        self._own_spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._own_spec  # the import system has replaced it by the spec of the second name


class _Finder(MetaPathFinder):
    """Finds the stand-ins of some packages, and imports them only when a program does."""

    def __init__(self) -> None:
        self.packages: set[str] = set()

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        module = _STAND_INS.get(fullname)
        if module is None or fullname.partition(".")[0] not in self.packages:
            return None
        is_package = any(name.startswith(f"{fullname}.") for name in _STAND_INS)
        return ModuleSpec(fullname, _OtherName(module), origin=module, is_package=is_package)


_finder = _Finder()


def _is_installed(package: str) -> bool:
    """Tell whether a package can be imported.

    A folder of that name without ``__init__.py``, as of a submodule that was not fetched, does not count.
    """
    if package in sys.modules:
        return True
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None


def install(*, replace: bool = False, cuda_on_cpu: bool = False) -> bool:
    """Make ``import nvdiffrast.torch``, ``tinycudann`` and ``nerfacc`` import the modules of :mod:`unrender.compat` in this process.

    This imports nothing yet, and writes nothing to disk. Packages that are installed are not replaced.

    Args:
        replace: whether to replace installed packages, except in modules that have already imported them.
        cuda_on_cpu: whether everything that PyTorch is told to do on a GPU happens on the CPU, if there is no GPU; see
            :mod:`unrender.compat.without_cuda`. It begins when PyTorch is imported, and lasts as long as the process.

    Returns:
        whether programs now import the stand-ins of all packages, and no installed one was kept.
    """
    if cuda_on_cpu and not _prepared:
        _prepared.append("torch")
        after_import("torch", _put_cuda_on_cpu)
    for package in _PACKAGES:
        if package in _finder.packages or (not replace and _is_installed(package)):
            continue
        for name in [name for name in sys.modules if name.split(".")[0] == package]:
            del sys.modules[name]
        _finder.packages.add(package)
    if _finder.packages and _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    return _finder.packages == set(_PACKAGES)


_prepared: list[str] = []
"""Modules whose import :func:`install` has prepared, so that it prepares them once."""


def _put_cuda_on_cpu(torch: ModuleType) -> None:
    from unrender.compat.without_cuda import has_gpu, put_cuda_on_cpu

    if not has_gpu():
        put_cuda_on_cpu(answers_yes="no-cuda" not in settings())


def settings() -> list[str]:
    """Return the options of the command under which this process runs."""
    return [name for name in os.environ.get(SETTINGS, "").split(",") if name]


def pass_to_children(*names: str) -> None:
    """Let Python processes that this one starts run as under ``python -m unrender.compat``.

    They find ``sitecustomize`` through ``PYTHONPATH``; see :mod:`unrender.compat.children.sitecustomize`.

    Args:
        names: options of the command, "strict" and "no-cuda".
    """
    os.environ[SETTINGS] = ",".join(["on", *names])
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != str(_START)]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(_START), *others])
