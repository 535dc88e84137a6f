"""Warnings that arise inside a replaced function are reported at the line of the program that called it."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

from unrender.compat.without_cuda.patches import Patches

_HERE = os.path.dirname(__file__) + os.sep


def _reporting(show: Callable[[Any], None]) -> Callable[[Any], None]:
    def show_at_program(message: Any) -> None:
        if not str(message.filename).startswith(_HERE):
            return show(message)
        frame = sys._getframe(1)
        replacement = None
        while frame.f_back is not None and (replacement is None or frame.f_code.co_filename.startswith(_HERE)):
            if frame.f_code.co_filename.startswith(_HERE):
                replacement = frame
            frame = frame.f_back
        if replacement is None:
            return show(message)
        message.filename, message.lineno = frame.f_code.co_filename, frame.f_lineno
        # Python notes in the module of the warning what has been shown. Note it in the program's, so that each of its lines warns once.
        shown_here: dict[Any, Any] = replacement.f_globals.get("__warningregistry__", {})
        if any(key != "version" for key in shown_here):
            shown_here.clear()
            shown: dict[Any, Any] = frame.f_globals.setdefault("__warningregistry__", {})
            key = (str(message.message), message.category, message.lineno)
            if key in shown:
                return None
            shown[key] = True
        return show(message)

    return show_at_program


def replace(patches: Patches) -> None:
    """Replace the function through which Python shows and records warnings."""
    patches.wrap(warnings, "_showwarnmsg", _reporting)
