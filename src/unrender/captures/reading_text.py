"""Bounded reading of text files of cameras: words, numbers, lines of long files, and XML without entities."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from unrender.captures.errors import CaptureError
from unrender.captures.reading import check_file, is_regular_file, read_bytes, reason, shown

MOST_TEXT_BYTES = 8 * 2**20
"""Largest text file that is read at once: about 20,000 cameras."""

MOST_XML_BYTES = 64 * 2**20
MOST_XML_PARTS = 1_000_000
"""Most elements and attributes of an XML file; a camera has ten."""

_LONGEST_LINE = 2**20
_LONGEST_NUMBER = 400
_HEAD = 4096
_LARGEST = float(np.finfo(np.float32).max)


def head_of(file: Path) -> str:
    """Return the first 4 KiB of a file as Latin-1 text, nothing if it cannot be read."""
    try:
        if not is_regular_file(file):
            return ""
        with file.open("rb") as stream:
            return stream.read(_HEAD).decode("latin-1").replace("\0", "")
    except OSError:
        return ""


def names_in(folder: Path) -> list[str]:
    """List the names in a folder that are not hidden, sorted; empty if it cannot be listed."""
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except (OSError, ValueError):
        return []


def read_text(file: Path, most: int = MOST_TEXT_BYTES) -> str:
    """Read a text file as UTF-8, or as Latin-1 if it is not UTF-8.

    Raises:
        CaptureError: the file cannot be read or is too large.
    """
    data = read_bytes(file, most)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def text_lines(file: Path) -> Iterator[str]:
    """Yield the lines of a text file of any length, one at a time.

    Raises:
        CaptureError: the file cannot be read, or has a line of more than 1 MiB.
    """
    check_file(file)
    try:
        with file.open("rb") as stream:
            while line := stream.readline(_LONGEST_LINE):
                if len(line) == _LONGEST_LINE:
                    raise CaptureError(f"{file} has a line of more than {_LONGEST_LINE:,} bytes; write it again")
                yield line.decode("latin-1")
    except OSError as error:
        raise CaptureError(f"{file} cannot be read ({reason(error)}); check its permissions") from error


def numbers(words: Sequence[str], count: int, what: str) -> list[float]:
    """Return finite numbers that are written as text.

    >>> numbers(["1", "-2.5e1"], 2, "the center")
    [1.0, -25.0]

    Raises:
        CaptureError: there are fewer or more, one is not a number, or is not finite in float32.
    """
    if len(words) != count:
        raise CaptureError(f"{what} has {len(words)} numbers, which must be {count}; write it again")
    try:
        values = [float(word[:_LONGEST_NUMBER]) for word in words]
    except ValueError as error:
        wrong = next((word for word in words if not re.fullmatch(r"[-+.\deE]+", word)), words[0])
        raise CaptureError(f"{what} has {shown(wrong)} where a number must be; write it again") from error
    for value in values:
        if not abs(value) <= _LARGEST:
            raise CaptureError(f"{what} has the number {value:g}, which is not finite in float32; solve the camera again or take it out")
    return values


def count_of(word: str, most: int, what: str) -> int:
    """Return a count that is written as text.

    Raises:
        CaptureError: it is not a count, or larger than ``most``.
    """
    if not re.fullmatch(r"\d{1,18}", word, re.ASCII) or int(word) > most:
        raise CaptureError(f"{what} is {shown(word)}; it must be a count of at most {most:,}")
    return int(word)


def read_xml(file: Path) -> ElementTree.Element:
    """Read the root element of an XML file.

    Files that declare a document type are refused, so that there are no entities.

    Raises:
        CaptureError: the file is not XML, is too large, or has a DOCTYPE.
    """
    data = read_bytes(file, MOST_XML_BYTES)
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise CaptureError(f"{file} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise CaptureError(f"{file} declares a document type or entities, which are not read; take the declaration out")
    if text.count("<") + text.count("=") > MOST_XML_PARTS:
        raise CaptureError(f"{file} has more than {MOST_XML_PARTS:,} elements and attributes; export the cameras alone")
    try:
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:  # ValueError: surrogates
        raise CaptureError(f"{file} is not valid XML ({reason(error)}); export the cameras again") from error
