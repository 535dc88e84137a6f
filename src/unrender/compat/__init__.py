"""Stand-ins for modules of other projects, so that programs written for them run on this package.

>>> import unrender.compat
>>> unrender.compat.install()                       # ``import nvdiffrast.torch as dr`` now works where nvdiffrast is not installed
True

To run a program without editing it: ``python -m unrender.compat PROGRAM.py ARGUMENTS``.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["install"]

_STAND_INS = {
    "nvdiffrast": "unrender.compat.nvdiffrast",
    "nvdiffrast.torch": "unrender.compat.nvdiffrast.torch",
}
"""Names that programs import, and the modules that replace them."""


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
    """Finds the stand-ins, and imports them only when a program does."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        module = _STAND_INS.get(fullname)
        return None if module is None else ModuleSpec(fullname, _OtherName(module), origin=module, is_package=fullname == "nvdiffrast")


def install(*, replace: bool = False) -> bool:
    """Make ``import nvdiffrast.torch`` import :mod:`unrender.compat.nvdiffrast.torch` in this process.

    This imports nothing yet, and writes nothing to disk. An installed nvdiffrast is not replaced.

    Args:
        replace: whether to replace an installed nvdiffrast, except in modules that have already imported it.

    Returns:
        whether programs now import the stand-in.
    """
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return True
    if not replace and ("nvdiffrast" in sys.modules or importlib.util.find_spec("nvdiffrast") is not None):
        return False
    for name in [name for name in sys.modules if name.split(".")[0] == "nvdiffrast"]:
        del sys.modules[name]
    sys.meta_path.insert(0, _Finder())
    return True
