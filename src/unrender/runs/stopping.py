"""Signals that stop a fit at the end of its step, with a checkpoint."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from unrender.runs.display import Display

Handler = Callable[[int, FrameType | None], Any] | int | None
"""What Python calls at a signal."""

STOPPING = tuple(number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None)
"""Signals that save a checkpoint and stop the fit: Ctrl-C, a request to end, and a terminal that was closed."""


class Stop:
    """Defers the first Ctrl-C, SIGTERM or SIGHUP to the end of the step; a second one stops immediately."""

    def __init__(self, display: Display) -> None:
        self.number: int | None = None
        """The signal that was received."""
        self._display = display
        self._before: dict[signal.Signals, Handler] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            # A signal that is ignored stays so (nohup), and so does a handler that Python does not know.
            for number in STOPPING:
                before = signal.getsignal(number)
                if before not in (None, signal.SIG_IGN):
                    self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self._restore()
        with contextlib.suppress(RuntimeError, OSError):  # the signal may have come while something was being printed
            self._display.say("stopping after this step and saving a checkpoint; press Ctrl-C again to stop at once")

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
