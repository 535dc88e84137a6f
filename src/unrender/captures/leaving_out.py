"""Leaving photos out of a capture by their names."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from unrender.captures.capture import CaptureError
from unrender.captures.source import Source, held_out


def without(source: Source, patterns: Sequence[str], test_every: int) -> tuple[Source, list[str]]:
    """Return a source as if some photos were not there, and a note about them.

    A split that the files prescribe keeps the views that are left; otherwise every N-th of those is held out.

    Args:
        source: what a reader returned.
        patterns: names of photos, with or without folder and ending, in which * stands for anything, ? for one character.
        test_every: N, 0 to hold out nothing.

    Raises:
        CaptureError: a pattern matches no photo, or no photo to fit is left.
    """
    if not patterns:
        return source, []
    out = {view for pattern in patterns for view in _matching(source.names, pattern)}
    some = source.keep([view for view in range(len(source.names)) if view not in out])
    if not some.split.train:
        raise CaptureError(f"leave_out ({' '.join(patterns)}) leaves no photo to fit; name fewer")
    some = some if some.split.given else replace(some, split=held_out(some.names, test_every))
    return some, [f"{len(out)} of the {len(source.names)} photos are left out ({' '.join(patterns)})"]


def _matching(names: Sequence[str], pattern: str) -> list[int]:
    found = [
        view
        for view, name in enumerate(names)
        if any(fnmatchcase(said, pattern) for said in (name, PurePosixPath(name).name, PurePosixPath(name).stem))
    ]
    if not found:
        near = difflib.get_close_matches(pattern, names, n=1, cutoff=0.0)
        raise CaptureError(f"leave_out names {pattern}, and no photo has that name; the nearest is {near[0]}")
    return found
