"""Suggestions for misspelled words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return the nearest known word, or all of them, as the end of an error message.

    >>> suggestion("nues", ["nerf", "neus"])
    "did you mean 'neus'?"
    >>> suggestion("mesh", ["nerf", "neus"])
    'there are nerf and neus'
    """
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"there are {', '.join(known[:-1])} and {known[-1]}" if len(known) > 1 else f"there is only {known[0]}"
