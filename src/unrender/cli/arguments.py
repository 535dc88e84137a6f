"""Command lines as dataclasses, with errors of one sentence."""

from __future__ import annotations

import contextlib
import difflib
import io
import re
from collections.abc import Sequence
from typing import Any, Literal

CameraPath = Literal["test", "orbit", "interpolated"]
"""The held-out views; a circle about the scene; a smooth path between the photos."""
MeshFormat = Literal["ply", "obj", "glb"]


class UsageError(ValueError):
    """The command line is invalid."""


def parse(kind: Any, words: Sequence[str], *, command: str) -> Any:
    """Fill a dataclass from the command line.

    Args:
        kind: the dataclass; fields without a default are required.
        words: what follows the command.
        command: as typed by the user, for the help page.

    Raises:
        UsageError: for an unknown option or an invalid value, in one sentence.
        SystemExit: after ``--help`` was printed.
    """
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            filled, rest = _tyro(kind, words, command)
    except SystemExit as end:
        if end.code in (0, None):
            raise
        _refuse_unknown(words, option_names(kind, command), command)
        raise UsageError(sentence_of(printed.getvalue(), command)) from None
    if rest:
        _refuse_unknown(rest, option_names(kind, command), command)
        raise UsageError(f"`{command}` does not understand {rest[0]!r}; `{command} --help` shows how it is used")
    return filled


def _tyro(kind: Any, words: Sequence[str], command: str) -> Any:
    # Settings keep flat names at any depth of bundles; for a bundle with alternatives the default decides which one it is.
    import tyro

    flat = (tyro.conf.OmitArgPrefixes, tyro.conf.AvoidSubcommands)
    return tyro.cli(kind, prog=command, args=list(words), return_unknown_args=True, config=flat)


def _refuse_unknown(words: Sequence[str], known: set[str], command: str) -> None:
    for word in words:
        name = word.split("=", 1)[0]
        if name.startswith("--") and name.replace("_", "-") not in known:
            close = difflib.get_close_matches(name, sorted(known), n=1)
            hint = f"did you mean {close[0]}?" if close else f"`{command} --help` lists the options"
            raise UsageError(f"`{command}` has no option {name}; {hint}")


def option_names(kind: Any, command: str) -> set[str]:
    """Return every ``--option`` on the help page of a command."""
    page = io.StringIO()
    with contextlib.redirect_stdout(page), contextlib.suppress(SystemExit):
        _tyro(kind, ["--help"], command)
    return set(re.findall(r"--[a-z0-9][a-z0-9.-]*", page.getvalue()))


def sentence_of(box: str, command: str) -> str:
    """Return the message inside a framed error of the parser as one sentence."""
    lines = [re.sub(r"^[│|]\s?|\s*[│|]$", "", line).strip() for line in box.splitlines()]
    lines = [line for line in lines if line and not line.startswith("╰")]
    title = lines[0].strip("╭─╮ ") if lines else ""
    body: list[str] = []
    for line in lines[1:]:
        if line.startswith("───") or line.startswith("Got errors"):
            break
        body.append(line)
    text = re.sub(r"\[/?bold\]", "", " ".join(body))
    if title == "Required options":
        text = f"something is missing: {text.split(':', 1)[-1].replace('(required)', '').strip()}"
    return f"{text.rstrip('.') or 'the command line cannot be understood'}; see `{command} --help`"


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
