"""Actions that follow the import of a module, without importing it now."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_Action = Callable[[ModuleType], None]


class _ActingLoader(Loader):
    """A loader that calls an action after another loader has executed the module."""

    def __init__(self, loader: Loader, action: _Action) -> None:
        self._loader = loader
        self._action = action

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader  # inspect and importlib.resources ask the loader for more than these two methods
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._action(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


class _ActingFinder(MetaPathFinder):
    """Finds one module as the other finders do, and gives it an :class:`_ActingLoader`."""

    def __init__(self, name: str, action: _Action) -> None:
        self._name = name
        self._action = action
        self._is_asking_others = False

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != self._name or self._is_asking_others:
            return None
        self._is_asking_others = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._is_asking_others = False
        if spec is not None and spec.loader is not None:
            spec.loader = _ActingLoader(spec.loader, self._action)
        return spec


def after_import(name: str, action: Callable[[ModuleType], None]) -> None:
    """Call ``action(module)`` as soon as a module has been imported; at once if it already is."""
    if name in sys.modules:
        action(sys.modules[name])
    else:
        sys.meta_path.insert(0, _ActingFinder(name, action))
