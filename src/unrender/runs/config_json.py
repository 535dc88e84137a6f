"""Configurations as JSON and back: frozen dataclasses of plain values, tuples, paths and other such dataclasses."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, TypeVar

C = TypeVar("C")


def config_to_json(config: Any) -> Any:
    """Convert a dataclass of plain values to JSON values: tuples become lists, paths become strings."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: config_to_json(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {str(name): config_to_json(value) for name, value in config.items()}
    if isinstance(config, str | bool | int | float | None):
        return config
    if isinstance(config, Iterable):
        return [config_to_json(value) for value in config]
    return str(config)


def config_from_json(kind: type[C], values: Mapping[str, Any]) -> C:
    """Rebuild a dataclass of type ``kind`` from the result of :func:`config_to_json`.

    Missing fields take their defaults. If a field may be one of several dataclasses, the one with matching fields is used.

    Raises:
        ValueError: ``kind`` lacks a field, or rejects a value.
        TypeError: a field without a default is missing.
    """
    known = {f.name for f in dataclasses.fields(typing.cast(Any, kind)) if f.init}
    unknown = sorted(values.keys() - known)
    if unknown:
        raise ValueError(f"{kind.__name__} has no field {unknown[0]!r}")
    hints = typing.get_type_hints(kind)
    return kind(**{name: _decode(hints[name], value) for name, value in values.items()})


def _decode(hint: Any, value: Any) -> Any:
    """Convert a value to the type of ``hint``, which JSON has lost."""
    if value is None:
        return None
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        if len(options) == 1:
            return _decode(options[0], value)
        if isinstance(value, Mapping) and any(dataclasses.is_dataclass(option) for option in options):
            return config_from_json(_member_with(value.keys(), options), value)
        wanted = tuple if isinstance(value, list) else type(value)
        return next((_decode(option, value) for option in options if (typing.get_origin(option) or option) is wanted), value)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return config_from_json(hint, value)
    if origin is tuple and isinstance(value, list):
        arguments = typing.get_args(hint)
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_decode(arguments[0], item) for item in value)
        return tuple(_decode(argument, item) for argument, item in zip(arguments, value, strict=True))
    if hint is float and isinstance(value, int):
        return float(value)
    if isinstance(hint, type) and issubclass(hint, Path):
        return Path(value)
    return value


def _member_with(names: Set[str], options: Sequence[Any]) -> type[Any]:
    """Return the dataclass of a union that has all these fields; of several, the one with the fewest.

    Raises:
        ValueError: none has them all.
    """
    members = [option for option in options if isinstance(option, type) and dataclasses.is_dataclass(option)]
    fields = {member: {field.name for field in dataclasses.fields(member)} for member in members}
    fitting = [member for member in members if fields[member] >= names]
    if not fitting:
        raise ValueError(f"none of {', '.join(member.__name__ for member in members)} has the fields {', '.join(sorted(names))}")
    return min(fitting, key=lambda member: len(fields[member]))
