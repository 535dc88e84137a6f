"""Values of options: from words of the command line to the types of dataclass fields, and back to text for help pages.

A field is an int, float, str, bool, Path, one of several names, a tuple of these, or one of several such types.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

NAMES: dict[Any, tuple[str, str]] = {
    int: ("N", "an integer"),
    float: ("X", "a number"),
    str: ("TEXT", "a text"),
    Path: ("PATH", "a path"),
}
"""For a plain type: its placeholder in help pages, and its description in errors."""


def members(kind: Any) -> tuple[Any, ...]:
    """Return the types of a union, or the type itself.

    >>> members(int | None)
    (<class 'int'>, <class 'NoneType'>)
    """
    return typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)


def choices(kind: Any) -> tuple[str, ...]:
    """Return the names a value may have, without None and without plain types.

    >>> choices(Literal["l1", "mse"] | None), choices(tuple[Literal["a", "b"], ...])
    (('l1', 'mse'), ('a', 'b'))
    """
    named = [_repeated(member) if is_list_of_names(member) else member for member in members(kind)]
    return tuple(str(name) for member in named if typing.get_origin(member) is Literal for name in typing.get_args(member))


def is_list_of_names(kind: Any) -> bool:
    """Tell whether a value is any number of names."""
    return typing.get_origin(_repeated(kind)) is Literal


def _repeated(kind: Any) -> Any:
    """Return the type of the items of a tuple of any length; None for other types."""
    items = typing.get_args(kind)
    return items[0] if typing.get_origin(kind) is tuple and items[-1] is Ellipsis else None


def widths(kind: Any) -> tuple[int | None, ...]:
    """Return how many words a value may take, the longest first; None stands for any number.

    >>> widths(float | tuple[float, float, float, float]), widths(tuple[int, ...]), widths(bool)
    ((4, 1), (None,), (0,))
    """
    found = {_width(member) for member in members(kind)}
    return tuple(sorted(found, key=lambda width: (width is not None, -(width or 0))))


def _width(kind: Any) -> int | None:
    if kind is bool:
        return 0
    if typing.get_origin(kind) is not tuple:
        return 1
    items = typing.get_args(kind)
    return None if items[-1] is Ellipsis else sum(_width(item) or 0 for item in items)


def convert(kind: Any, words: Sequence[str]) -> Any:
    """Convert words to a value.

    >>> convert(tuple[tuple[float, int], ...], ["0", "80", "0.5", "112"])
    ((0.0, 80), (0.5, 112))
    >>> convert(float | tuple[float, float] | None, ["None"])

    Raises:
        ValueError: the words are no value of this type.
    """
    for member in members(kind):
        try:
            return _convert(member, words)
        except ValueError:
            continue
    raise ValueError(f"it must be {described(kind)}")


def _convert(kind: Any, words: Sequence[str]) -> Any:
    if typing.get_origin(kind) is tuple:
        items = typing.get_args(kind)
        if items[-1] is Ellipsis:
            step = _width(items[0]) or 1
            if len(words) % step:
                raise ValueError
            return tuple(_convert(items[0], words[k : k + step]) for k in range(0, len(words), step))
        taken, parts = 0, []
        for item in items:
            step = _width(item) or 1
            parts.append(_convert(item, words[taken : taken + step]))
            taken += step
        if taken != len(words):
            raise ValueError
        return tuple(parts)
    if len(words) != 1:
        raise ValueError
    word = words[0]
    if typing.get_origin(kind) is Literal:
        if word not in typing.get_args(kind):
            raise ValueError
        return word
    if kind is type(None):
        if word.lower() != "none":
            raise ValueError
        return None
    return kind(word)


def described(kind: Any) -> str:
    """Describe the values of a type for an error message.

    >>> described(int | None), described(Literal["ply", "obj"]), described(tuple[float, float])
    ('an integer', 'ply or obj', '2 numbers')
    """
    texts = [_described(member) for member in _plain(kind)]
    return " or ".join([", ".join(texts_of(choices(kind)))] * bool(choices(kind)) + texts)


def _plain(kind: Any) -> list[Any]:
    """Return the types of a union that are neither names nor None."""
    return [m for m in members(kind) if typing.get_origin(m) is not Literal and m is not type(None) and not is_list_of_names(m)]


def texts_of(names: Sequence[str]) -> list[str]:
    """Return names with "or" before the last one, to be joined by commas.

    >>> ", ".join(texts_of(["a", "b", "c"]))
    'a, b or c'
    """
    return [*names[:-2], " or ".join(names[-2:])]


def _described(kind: Any) -> str:
    if typing.get_origin(kind) is tuple:
        items = typing.get_args(kind)
        if items[-1] is not Ellipsis:
            noun = "integers" if set(items) == {int} else "numbers"
            return f"{len(items)} {noun}"
        width = _width(items[0]) or 1
        return "integers" if items[0] is int else "numbers" if width == 1 else f"groups of {width} numbers"
    return NAMES[kind][1]


def placeholder(kind: Any) -> str:
    """Return what stands for a value in a help page.

    >>> placeholder(Literal["grid", "hash"]), placeholder(tuple[float, float] | None), placeholder(tuple[int, ...])
    ('{grid,hash}', 'X X', 'N [N ...]')
    >>> placeholder(tuple[Literal["a", "b"], ...])
    '{a,b} ...'
    """
    listed = any(is_list_of_names(member) for member in members(kind))
    texts = ["{" + ",".join(choices(kind)) + "}" + " ..." * listed] * bool(choices(kind))
    texts += [_placeholder(member) for member in _plain(kind)]
    return "|".join(texts)


def _placeholder(kind: Any) -> str:
    if kind is bool:
        return ""
    if typing.get_origin(kind) is tuple:
        items = typing.get_args(kind)
        if items[-1] is Ellipsis:
            one = _placeholder(items[0])
            return f"{one} [{one} ...]"
        return " ".join(_placeholder(item) for item in items)
    return NAMES[kind][0]


def text_of(value: Any) -> str:
    """Return a value as it is typed on the command line.

    >>> text_of(((0.0, 80), (0.5, 112))), text_of(2.0), text_of(None)
    ('0 80 0.5 112', '2', 'none')
    """
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return " ".join(text_of(item) for item in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
