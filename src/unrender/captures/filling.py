"""Images that are decoded in the background, so that a fit begins before all of them are."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial


class Filling:
    """Fills images one by one on threads that end with the process; one that is needed first is filled by the thread that needs it."""

    def __init__(self, fill: Callable[[int], object], count: int, threads: int, first: Sequence[int] = ()) -> None:
        """Start to fill.

        Args:
            fill: fills the image of this number.
            count: number of images.
            threads: number of threads.
            first: images that are needed before the others, in this order.
        """
        self._fill = fill
        self._errors: dict[int, BaseException] = {}
        self._filled = [threading.Event() for _ in range(count)]
        self._order = tuple(dict.fromkeys((*first, *range(count))))
        self._begun: set[int] = set()
        self._lock = threading.Lock()
        for _ in range(min(threads, count)):
            threading.Thread(target=self._run, name="unrender-read", daemon=True).start()

    @property
    def waits(self) -> tuple[Callable[[], None], ...]:
        """For each image a function that returns when it is filled, or raises the error of filling it."""
        return tuple(partial(self.wait, number) for number in range(len(self._filled)))

    def wait(self, number: int) -> None:
        """Return when an image is filled.

        Raises:
            BaseException: what ``fill`` raised for it.
        """
        if not self._filled[number].is_set():
            if self._takes(number):
                self._fill_one(number)
            self._filled[number].wait()
        if number in self._errors:
            raise self._errors[number]

    def _run(self) -> None:
        for number in self._order:
            if self._takes(number):
                self._fill_one(number)

    def _takes(self, number: int) -> bool:
        with self._lock:
            is_new = number not in self._begun
            self._begun.add(number)
        return is_new

    def _fill_one(self, number: int) -> None:
        try:
            self._fill(number)
        except BaseException as error:  # raised again where the image is needed
            self._errors[number] = error
        finally:
            self._filled[number].set()
