"""Attributes of modules and classes that are replaced, and can be restored."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

_ABSENT = object()


def calling_package() -> str:
    """Return the package whose code called a replacement; a type checker may stand between them."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        module = str(frame.f_globals.get("__name__", ""))
        package = module.partition(".")[0]
        between = package in ("jaxtyping", "beartype") or frame.f_code.co_filename.startswith("<@beartype")
        if not between and not module.startswith("unrender.compat.without_cuda"):
            return package
        frame = frame.f_back
    return "__main__"


class Patches:
    """The replacements made so far, in order.

    >>> class Box:
    ...     size = 1
    >>> patches = Patches()
    >>> patches.replace(Box, "size", 2)
    >>> Box.size
    2
    >>> patches.restore()
    >>> Box.size
    1
    """

    def __init__(self) -> None:
        self._undo: list[Callable[[], object]] = []

    def replace(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute of a module or a class."""
        before = vars(owner).get(name, _ABSENT)
        setattr(owner, name, value)
        self._undo.append(lambda: delattr(owner, name) if before is _ABSENT else setattr(owner, name, before))

    def wrap(self, owner: Any, name: str, wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        """Replace a function by ``wrapper(function)``, if the owner has it: PyTorch's versions differ."""
        original = getattr(owner, name, None)
        if original is None:
            return
        replacement = functools.wraps(original)(wrapper(original))
        if not isinstance(owner, type):  # so that pickle finds it
            replacement.__module__, replacement.__qualname__ = owner.__name__, name
        self.replace(owner, name, replacement)

    def undo_by(self, action: Callable[[], object]) -> None:
        """Register what :meth:`restore` has to do for a change of another kind."""
        self._undo.append(action)

    def restore(self) -> None:
        """Undo everything, last first."""
        while self._undo:
            self._undo.pop()()
