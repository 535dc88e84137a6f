"""Reading of the JSON objects that describe an encoding or a network."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from unrender.compat.warning import warn
from unrender.ops.kernels.checks import Arguments, describe

_TYPO = 0.85
"""Similarity from which an unknown key counts as a misspelled one."""


def name_in(value: object, key: str, component: str, known: Iterable[str]) -> str:
    """Return the known name that a value spells, in any case.

    Raises:
        ValueError: the value is none of them; the message suggests the nearest, and lists all.

    >>> name_in("hashgrid", "otype", "Encoding", ["HashGrid", "Identity"])
    'HashGrid'
    """
    names = {name.lower(): name for name in known}
    found = names.get(value.lower()) if isinstance(value, str) else None
    if found is not None:
        return found
    close = difflib.get_close_matches(value.lower(), names, n=1) if isinstance(value, str) else []
    hint = f" (did you mean {names[close[0]]!r}?)" if close else ""
    raise ValueError(f"{component} takes {key!r} {' or '.join(map(repr, names.values()))}, got {describe(value)}{hint}")


class Keys:
    """The keys of one JSON object.

    Other keys than those of the component are ignored with a warning, since programs keep their own beside them; but one that is nearly a
    known key is an error.
    """

    def __init__(self, component: str, given: Mapping[str, Any], known: Iterable[str]) -> None:
        """Check the names of the keys.

        Raises:
            ValueError: a key is misspelled.
        """
        self._takes = Arguments(component)
        self._given = given
        known = [*known, "otype", "n_dims_to_encode", "dims_to_encode_begin"]
        foreign = []
        for key in given:
            if key in known:
                continue
            close = difflib.get_close_matches(str(key).lower(), known, n=1, cutoff=_TYPO)
            if close:
                raise ValueError(f"{component} has no key {key!r}: did you mean {close[0]!r}? Its keys are {', '.join(known[:-2])}")
            foreign.append(str(key))
        if foreign:
            warn(f"{component} ignores the key{'s' * (len(foreign) > 1)} {', '.join(foreign)}; its keys are {', '.join(known[:-2])}")

    def has(self, key: str) -> bool:
        """Tell whether a key is given."""
        return key in self._given

    def integer(self, key: str, default: int, low: int, high: int) -> int:
        """Return an integer within bounds."""
        value = self._given.get(key, default)
        return self._takes.integer(int(value) if isinstance(value, float) and value.is_integer() else value, key, low, high)

    def number(self, key: str, default: float, low: float = -3.4e38) -> float:
        """Return a finite number."""
        return self._takes.number(self._given.get(key, default), key, low)

    def name(self, key: str, default: str, known: Iterable[str]) -> str:
        """Return one of some names, whatever its case."""
        return name_in(self._given.get(key, default), key, self._takes.verb, known)

    def refuse(self, key: str, default: object) -> None:
        """Require that a key is absent, or has the one value that is supported."""
        if self._given.get(key, default) != default:
            raise ValueError(f"{self._takes.verb} takes {key!r} {default!r} only, got {describe(self._given.get(key))}")
