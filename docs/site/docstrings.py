"""Prepares the docstrings of the package for the API reference, a griffe extension.

The docstrings are written for readers of the source. Three of their habits are not Markdown, and are translated here: roles such as
``:func:`~unrender.render.volume.render_volume```, doctests without a fence, and lines of ``Args`` that continue without an indent.
"""

from __future__ import annotations

import re
import textwrap
from typing import Any

from griffe import Extension, Function, Object

ROLE = re.compile(r":\w+:`(~?)([\w.]+)`")
SECTION = re.compile(r"^(Args|Returns|Raises|Yields):$")
ITEM = re.compile(r"^\*{0,2}(\w+)(?: \(.*\))?: ")


def from_role(match: re.Match[str]) -> str:
    """Return a role as a cross-reference; it stays code where the reference has no such name."""
    short, name = match.groups()
    shown = name.rsplit(".", 1)[-1] if short else name
    return f'<autoref optional identifier="{name}"><code>{shown}</code></autoref>'


def fenced_doctests(lines: list[str]) -> list[str]:
    """Put every doctest, from its first prompt to the next empty line, between fences."""
    out: list[str] = []
    inside = False
    for line in lines:
        if line.lstrip().startswith(">>>") and not inside:
            indent = line[: len(line) - len(line.lstrip())]
            out += ["", f"{indent}```pycon"]
            inside = True
        elif inside and not line.strip():
            out.append(f"{indent}```")  # pyright: ignore[reportPossiblyUnboundVariable]
            inside = False
        out.append(re.sub(r"\s*# doctest: \+\w+", "", line) if inside else line)
    return [*out, f"{indent}```"] if inside else out  # pyright: ignore[reportPossiblyUnboundVariable]


def indented_items(lines: list[str], arguments: set[str] | None) -> list[str]:
    """Indent the lines that continue an item of a section; where the arguments are known, only they begin one."""
    out: list[str] = []
    section = ""
    for line in lines:
        started = SECTION.match(line)
        if started:
            section = started[1]
        elif line.strip() and not line.startswith(" "):
            section = ""
        elif section in ("Args", "Raises") and re.match(r" {4}\S", line):
            item = ITEM.match(line.strip())
            if item is None or (section == "Args" and arguments is not None and item[1] not in arguments):
                out.append("    " + line)
                continue
        out.append(line)
    return out


def as_markdown(text: str, arguments: set[str] | None = None) -> str:
    """Translate a docstring."""
    lines = textwrap.dedent(ROLE.sub(from_role, text).replace("``", "`")).splitlines()
    return "\n".join(fenced_doctests(indented_items(lines, arguments)))


class Docstrings(Extension):
    """Rewrites every docstring as it is read."""

    def on_instance(self, *, obj: Object, **kwargs: Any) -> None:
        if obj.docstring:
            arguments = {argument.name.lstrip("*") for argument in obj.parameters} if isinstance(obj, Function) else None
            obj.docstring.value = as_markdown(obj.docstring.value, arguments)
