"""Help pages: two columns, wrapped to the width of the terminal."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence

from unrender.cli.arguments import Group, Option, plain_text

WIDEST = 110
"""Columns of a page on a wide terminal; longer lines are hard to read."""
_NAMES = 28
"""Columns for the names of options."""


def columns() -> int:
    """Return the width of a page in columns."""
    return max(40, min(shutil.get_terminal_size().columns, WIDEST))


def page(
    usage: str, about: Sequence[str], groups: Sequence[Group], notes: Sequence[str] = (), *, known: Sequence[Group] = (), width: int = 0
) -> str:
    """Return a help page.

    Args:
        usage: the form of the command.
        about: paragraphs below it.
        groups: the options.
        notes: paragraphs at the end.
        known: groups whose options may be named by the texts, besides ``groups``.
        width: columns; by default those of the terminal.
    """
    width = width or columns()
    flags = {flag: option for group in (*groups, *known) for option in group.options for flag in option.flags}
    lines = textwrap.wrap(f"usage: {usage}", width, subsequent_indent="       ", break_long_words=False)
    for paragraph in about:
        lines += ["", *textwrap.wrap(plain_text(paragraph, flags), width)]
    for group in groups:
        lines += ["", f"{group.title}:" + (f"  {plain_text(group.summary, flags)}" if group.summary else "")]
        lines[-1:] = textwrap.wrap(lines[-1], width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        for option in group.options:
            lines += _entry(option, flags, width)
    for note in notes:
        lines += ["", *textwrap.wrap(note, width, break_long_words=False, break_on_hyphens=False)]
    return "\n".join(lines)


def names(option: Option) -> str:
    """Return the left column of an option."""
    if option.style.positional:
        return option.metavar
    if option.kind is bool:
        return f"--[no-]{option.flag[2:]}" if option.default is True else option.flag
    return f"{option.flag} {option.metavar}"


def _entry(option: Option, flags: dict[str, Option], width: int) -> list[str]:
    left = f"  {names(option)}"
    text = plain_text(option.summary, flags).rstrip(".")
    default = option.default_text
    if default and not (option.kind is bool and not option.default):
        text = f"{text} (default: {default})" if text else f"default: {default}"
    right = textwrap.wrap(text, width - _NAMES, break_long_words=False, break_on_hyphens=False) or [""]
    if len(left) > _NAMES - 2:
        return [left, *(f"{'':{_NAMES}}{line}" for line in right)]
    return [f"{left:{_NAMES}}{right[0]}".rstrip(), *(f"{'':{_NAMES}}{line}" for line in right[1:])]
