"""The error that is raised for whatever is wrong with a capture."""

from __future__ import annotations

_LONGEST_MESSAGE = 800
"""Letters of an error message; longer ones lose their middle."""


class CaptureError(ValueError):
    """A capture cannot be read. The message is one sentence: what is wrong, in which file or view, and what to do.

    Names come from files that anybody may have written, so characters that no terminal prints are escaped and long messages shortened.

    >>> str(CaptureError("the image a\\n\\x1b[31m.png does not exist"))
    'the image a\\\\n\\\\x1b[31m.png does not exist'
    """

    def __init__(self, message: str) -> None:
        """Take the message."""
        super().__init__(printable(message))


def printable(message: str) -> str:
    """Return a message on one line, with escaped control characters, and without its middle if it is long."""
    plain = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in message)
    return plain if len(plain) <= _LONGEST_MESSAGE else f"{plain[: _LONGEST_MESSAGE - 205]} ... {plain[-200:]}"
