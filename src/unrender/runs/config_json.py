"""Configurations as JSON and back: frozen dataclasses of plain values, tuples, paths and other such dataclasses."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from unrender.recipes.table import C as RecipeConfig
from unrender.recipes.table import I, Recipe

C = TypeVar("C")


@dataclass(frozen=True)
class ConfigReading(Generic[C]):
    """A configuration read from a file."""

    config: C
    notes: tuple[str, ...]
    """A sentence about each setting that this version does not have, or that the file does not have."""


def read_config(path: Path, recipe: Recipe[RecipeConfig, I]) -> ConfigReading[RecipeConfig]:
    """Read the configuration of a recipe from the ``run.json`` of an earlier run.

    Settings that this version does not have are left out, and missing ones take their defaults; the notes tell which.

    Args:
        path: a ``run.json``, the folder of a run, or a file with the configuration alone.
        recipe: the recipe to configure.

    Raises:
        ValueError: the file cannot be read, is of another recipe, or has an invalid value.
    """
    file = path / "run.json" if path.is_dir() else path
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({error.strerror or error}); give the run.json of an earlier run") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not a JSON file ({error}); give the run.json of an earlier run") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{file} holds no configuration; give the run.json of an earlier run")
    name = content.get("recipe", recipe.name)
    if name != recipe.name:
        raise ValueError(f"{file} is of a run of {name}, not of {recipe.name}; give a run of the same recipe")
    notes: list[str] = []
    try:
        config = _decode(recipe.config_type, content.get("config", content), "config", notes)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file}: {error}") from error
    return ConfigReading(config, tuple(f"{file}: {note}" for note in notes))


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


def config_from_json(kind: type[C], values: Any) -> C:
    """Rebuild a dataclass of type ``kind`` from the result of :func:`config_to_json`.

    Missing fields take their defaults. If a field may be one of several dataclasses, the one with matching fields is used.

    Raises:
        ValueError: ``kind`` lacks a field, a field without a default is missing, or a value is invalid.
    """
    return _decode(kind, values, "", None)


def check_finite(values: Any, name: str = "") -> None:
    """Check that the result of :func:`config_to_json` has no NaN and no infinity, which JSON does not have.

    Raises:
        ValueError: it has; the message names the setting.
    """
    if isinstance(values, float) and not math.isfinite(values):
        raise ValueError(f"{name} is {values}; it must be a finite number")
    if isinstance(values, Mapping):
        for key, value in values.items():
            check_finite(value, str(key))
    elif isinstance(values, list):
        for value in values:
            check_finite(value, name)


def _decode_fields(kind: type[Any], values: Mapping[str, Any], name: str, notes: list[str] | None) -> Any:
    """Rebuild a dataclass; with ``notes``, unknown fields are left out and noted, and so are missing ones."""
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    unknown = sorted(str(key) for key in values.keys() - fields.keys())
    if unknown and notes is None:
        raise ValueError(f"{kind.__name__} has no field {unknown[0]!r}")
    missing = [key for key in fields if key not in values]
    needed = [key for key in missing if _has_no_default(fields[key])]
    if needed:
        raise ValueError(f"{kind.__name__} lacks the field {needed[0]!r}")
    if notes is not None:
        notes += [f"{name}.{key} is not a setting of this version; it is left out" for key in unknown]
        notes += [f"{name}.{key} is missing; its default is used" for key in missing]
    hints = typing.get_type_hints(kind)
    known = {key: value for key, value in values.items() if key in fields}
    return kind(**{key: _decode(hints[key], value, f"{name}.{key}" if name else key, notes) for key, value in known.items()})


def _has_no_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _decode(hint: Any, value: Any, name: str, notes: list[str] | None) -> Any:
    """Convert a value to the type of ``hint``, which JSON has lost, and check it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(str, arguments))}")
        return value
    if origin in (typing.Union, types.UnionType):
        return _decode_union(arguments, value, name, notes)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ValueError(f"{name or 'the content'} is {_short(value)}; it must be the fields of {hint.__name__}")
        return _decode_fields(hint, value, name, notes)
    if origin is tuple and isinstance(value, list):
        hints = [arguments[0]] * len(value) if len(arguments) == 2 and arguments[1] is Ellipsis else list(arguments)
        if len(value) != len(hints):
            raise ValueError(f"{name} has {len(value)} values; it must have {len(hints)}")
        return tuple(_decode(hint, item, name, notes) for hint, item in zip(hints, value, strict=True))
    if origin is list and isinstance(value, list):
        return [_decode(arguments[0], item, name, notes) for item in value]
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    wanted = Mapping if isinstance(origin, type) and issubclass(origin, Mapping) else origin or hint
    if isinstance(wanted, type) and (not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool)):
        raise ValueError(f"{name} is {_short(value)}; it must be {_KINDS.get(wanted, wanted.__name__)}")
    return value


_KINDS: Mapping[type, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a text",
    tuple: "a list",
    list: "a list",
    Path: "a path",
    type(None): "null",
}


def _decode_union(options: Sequence[Any], value: Any, name: str, notes: list[str] | None) -> Any:
    """Convert a value to the first member of a union that takes it; a dataclass is chosen by its fields."""
    if value is None and type(None) in options:
        return None
    options = [option for option in options if option is not type(None)]
    if len(options) == 1:
        return _decode(options[0], value, name, notes)
    if isinstance(value, Mapping) and any(dataclasses.is_dataclass(option) for option in options):
        return _decode(_member_with(value.keys(), options, name, tolerant=notes is not None), value, name, notes)
    for option in options:
        try:
            return _decode(option, value, name, None)
        except ValueError:
            continue
    raise ValueError(f"{name} is {_short(value)}; it must be another kind of value")


def _member_with(names: Set[str], options: Sequence[Any], name: str, *, tolerant: bool) -> type[Any]:
    """Return the dataclass of a union that has all these fields, or most of them if ``tolerant``.

    Of several, the one with the fewest fields is returned.

    Raises:
        ValueError: none has them all, or there are no fields to choose by.
    """
    members = [option for option in options if isinstance(option, type) and dataclasses.is_dataclass(option)]
    choices = ", ".join(member.__name__ for member in members)
    if not names:
        raise ValueError(f"{name} is {{}}; it must have the fields of one of {choices}")
    fields = {member: {field.name for field in dataclasses.fields(member)} for member in members}
    most = max(len(fields[member] & names) for member in members) if tolerant else len(names)
    fitting = [member for member in members if len(fields[member] & names) >= max(most, 1)]
    if not fitting:
        raise ValueError(f"{name}: none of {choices} has the fields {', '.join(sorted(names))}")
    return min(fitting, key=lambda member: len(fields[member]))


def _short(value: Any) -> str:
    """Return a value as JSON, cut if it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 40 else f"{text[:37]}..."
