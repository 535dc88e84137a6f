"""Options of a command, derived from dataclasses, and the words of a command line as values of these dataclasses.

A field of a dataclass is an option with the same name: ``max_seconds`` is ``--max-seconds``. Its type says which values it takes, and the
text below it is its description. Fields that are dataclasses themselves are bundles of options; their names stay flat.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import re
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass
from typing import Any, TypeVar

from unrender.cli.foreign import option_of
from unrender.cli.values import choices, convert, described, placeholder, text_of, widths
from unrender.words import closest

T = TypeVar("T")
_MARK = "unrender"
SHORT = re.compile(r"-[A-Za-z]\w*")
"""A short option. There is -o alone, but other programs have more."""
_SHORT_FOR = {"-o": "--out"}
"""The short options, and what they stand for."""


class UsageError(ValueError):
    """The command line is invalid."""


@dataclass(frozen=True)
class Style:
    """How a field appears in help pages."""

    metavar: str = ""
    """What stands for the value; by default derived from its type."""
    default: str = ""
    """Text of the default, where the value itself says nothing."""
    positional: bool = False
    """True for a value without an option's name."""
    summary: str = ""
    """Its description, if the text below the field does not fit."""
    name: str = ""
    """Its name on the command line, if it is not that of the field."""


def styled(default: Any = MISSING, *, metavar: str = "", text: str = "", positional: bool = False) -> Any:
    """Return a dataclass field with a default and a style."""
    style = Style(metavar, text, positional)
    return dataclasses.field(metadata={_MARK: style}) if default is MISSING else dataclasses.field(default=default, metadata={_MARK: style})


@dataclass(frozen=True)
class Option:
    """One option, or one positional argument."""

    path: tuple[str, ...]
    """Field names from the section down to the value."""
    kind: Any
    """Type of the value."""
    default: Any
    """Value if the option is not given; MISSING if it is required."""
    summary: str
    style: Style

    @property
    def flag(self) -> str:
        """Its name on the command line."""
        return "--" + (self.style.name or self.path[-1]).replace("_", "-")

    @property
    def flags(self) -> tuple[str, ...]:
        """All its names; a switch has one to turn it off."""
        return (self.flag, f"--no-{self.flag[2:]}") if self.kind is bool else (self.flag,)

    @property
    def metavar(self) -> str:
        """What stands for its value."""
        return self.style.metavar or placeholder(self.kind)

    @property
    def default_text(self) -> str:
        """Its default as text; empty if it is required or says nothing."""
        if self.default is MISSING or self.default is None:
            return self.style.default
        if self.kind is bool:
            return "on" if self.default else "off"
        return text_of(self.default)


@dataclass(frozen=True)
class Group:
    """Options under one heading."""

    title: str
    summary: str
    options: tuple[Option, ...]


@dataclass(frozen=True)
class Section:
    """A dataclass whose fields are options."""

    title: str
    kind: type[Any]
    default: Any = None
    """Instance with the defaults; None for those of the fields."""
    styles: Mapping[str, Style] = dataclasses.field(default_factory=dict)
    """Styles by field name, for dataclasses that know nothing of the command line."""

    def groups(self) -> list[Group]:
        """Return its options, one group for each bundle."""
        return list(_groups(self.title, self.kind, self.default, (), self.styles))


def _groups(title: str, kind: type[Any], default: Any, path: tuple[str, ...], styles: Mapping[str, Style]) -> Iterator[Group]:
    hints, texts = typing.get_type_hints(kind), field_texts(kind)
    own: list[Option] = []
    bundles: list[tuple[str, Any]] = []
    for field in dataclasses.fields(kind):
        value = field.default if default is None else getattr(default, field.name)
        if dataclasses.is_dataclass(value):
            bundles.append((field.name, value))
            continue
        style = styles.get(field.name) or field.metadata.get(_MARK, Style())
        own.append(Option((*path, field.name), hints[field.name], value, style.summary or texts.get(field.name, ""), style))
    if own:
        yield Group(title, _first_sentences(kind), tuple(own))
    for name, value in bundles:
        yield from _groups(name, type(value), value, (*path, name), styles)


def _first_sentences(kind: type[Any]) -> str:
    return " ".join((kind.__doc__ or "").strip().split("\n\n")[0].split())


@functools.cache
def field_texts(kind: type[Any]) -> dict[str, str]:
    """Return the text below each field of a class and its base classes, from their source."""
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        body = _classes(base.__module__).get(base.__name__, [])
        for field, text in zip(body, body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
                if isinstance(text.value, ast.Constant):
                    texts[field.target.id] = " ".join(str(text.value.value).split())
    return texts


@functools.cache
def _classes(module: str) -> dict[str, list[ast.stmt]]:
    """Return the body of each class of a module; nothing if its source is not there."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except OSError:
        return {}
    return {node.name: node.body for node in tree.body if isinstance(node, ast.ClassDef)}


def options_of(sections: Sequence[Section]) -> list[Option]:
    """Return every option and positional argument of some sections."""
    return [option for section in sections for group in section.groups() for option in group.options]


def parse(sections: Sequence[Section], words: Sequence[str], *, command: str) -> list[Any]:
    """Fill one dataclass for each section from the command line.

    Raises:
        UsageError: for an unknown option or an invalid value, in one sentence.
    """
    tables = [[option for group in section.groups() for option in group.options] for section in sections]
    options = [option for table in tables for option in table]
    given = _values(options, words, command)
    for option in options:
        if option.default is MISSING and id(option) not in given:
            what = option.metavar if option.style.positional else f"{option.flag} {option.metavar}"
            raise UsageError(f"something is missing: {what}; see `{command} --help`")
    filled = []
    for section, table in zip(sections, tables, strict=True):
        values = {option.path: given[id(option)] for option in table if id(option) in given}
        try:
            filled.append(_filled(section.kind, section.default, values))
        except ValueError as error:
            raise UsageError(f"{error}; see `{command} --help`") from None
    return filled


def _filled(kind: type[T], default: T | None, values: Mapping[tuple[str, ...], Any]) -> T:
    """Return an instance with some values, given by their paths, replaced."""
    changes = {path[0]: value for path, value in values.items() if len(path) == 1}
    for name in {path[0] for path in values if len(path) > 1}:
        bundle = getattr(default, name) if default is not None else next(f.default for f in dataclasses.fields(kind) if f.name == name)  # pyright: ignore
        changes[name] = _filled(type(bundle), bundle, {path[1:]: value for path, value in values.items() if path[0] == name})
    return kind(**changes) if default is None else dataclasses.replace(default, **changes)  # pyright: ignore


def _values(options: Sequence[Option], words: Sequence[str], command: str) -> dict[int, Any]:
    """Return the value of each option that the words name, by the option's identity."""
    by_flag = {flag: option for option in options if not option.style.positional for flag in option.flags}
    waiting = [option for option in options if option.style.positional]
    given: dict[int, Any] = {}
    rest = list(words)
    plain = False
    while rest:
        word = rest.pop(0)
        if word == "--" and not plain:
            plain = True
        elif not plain and (is_option(word) or SHORT.fullmatch(word)):
            name, equals, value = word.partition("=")
            option = by_flag.get(_SHORT_FOR.get(name, name.replace("_", "-")))
            if option is None:
                raise unknown_option(name, by_flag, command)
            if option.kind is bool:
                if equals:
                    raise UsageError(f"{name} takes no value; use {' or '.join(option.flags)}")
                given[id(option)] = name.replace("_", "-") == option.flag
            else:
                given[id(option)] = _value(option, [value] if equals else rest, command, only=bool(equals))
        elif waiting:
            option = waiting.pop(0)
            given[id(option)] = _value(option, [word], command, only=True)
        else:
            raise UsageError(f"`{command}` does not understand {word!r}; `{command} --help` shows how it is used")
    return given


def is_option(word: str) -> bool:
    """Tell whether a word is the name of an option, not a value such as -1 or -y.

    >>> [is_option(word) for word in ("--steps", "--steps=3", "-1", "-y", "-")]
    [True, True, False, False, False]
    """
    return word.startswith("--") and len(word) > 2


def _value(option: Option, rest: list[str], command: str, *, only: bool) -> Any:
    """Convert the words after an option's name, and remove them from ``rest``."""
    ends = (k for k, word in enumerate(rest) if is_option(word) or word.partition("=")[0] in _SHORT_FOR)
    end = len(rest) if only else next(ends, len(rest))
    for width in widths(option.kind):
        count = end if width is None else width
        if not 0 < count <= end:
            continue
        try:
            value = convert(option.kind, rest[:count])
        except ValueError:
            continue
        del rest[:count]
        return value
    name = option.metavar if option.style.positional else option.flag
    least = min(width or 1 for width in widths(option.kind))
    wrong = rest[: max(min(end, max(width or end for width in widths(option.kind))), 0)] if end >= least else rest[:end]
    known = choices(option.kind)
    close = closest(wrong[0], known) if len(wrong) == 1 and known else None
    hint = f"did you mean {close}?" if close else f"it must be {described(option.kind)}"
    said = f"{name} is {' '.join(wrong)!r}" if wrong else f"{name} has no value"
    raise UsageError(f"{said}; {hint} (see `{command} --help`)")


def unknown_option(name: str, known: Mapping[str, object], command: str) -> UsageError:
    """Return the error about an option that a command does not have."""
    ours = option_of(name, command)
    if ours:
        return UsageError(f"`{command}` has no option {name}; {ours}")
    close = closest(name.replace("_", "-"), known)
    return UsageError(f"`{command}` has no option {name}; {f'did you mean {close}?' if close else f'`{command} --help` lists the options'}")


def value_of(option: str, words: Sequence[str]) -> str | None:
    """Return the value of an option that determines the other options and is therefore read first.

    >>> value_of("--preset", ["capture", "--preset=gpu"]), value_of("--preset", ["--preset", "cpu"]), value_of("--preset", [])
    ('gpu', 'cpu', None)
    """
    for k, word in enumerate(words):
        if word == option and k + 1 < len(words):
            return words[k + 1]
        if word.startswith(option + "="):
            return word.split("=", 1)[1]
    return None


def plain_text(text: str, flags: Mapping[str, object]) -> str:
    """Return a docstring's text for a terminal: settings under the names of their options, no markup.

    >>> plain_text("Relative to ``learning_rate``; see :class:`~a.b.Clock`.", {"--learning-rate": 0})
    'Relative to --learning-rate; see Clock.'
    """
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"\1", text)

    def shown(found: re.Match[str]) -> str:
        flag = "--" + found[1].replace("_", "-")
        return flag if flag in flags else found[1]

    return re.sub(r"``(.+?)``", shown, text)
