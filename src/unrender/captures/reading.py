"""Safe reading of files that anybody may have written: JSON, NumPy archives, and names of other files.

A reader here opens regular files only, so that a pipe, a device or a terminal never blocks it. It bounds sizes, counts and depths before
anything is allocated, unpickles nothing, and raises :class:`CaptureError` for whatever is wrong. See docs/security.md.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import stat
import unicodedata
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unrender.captures.errors import CaptureError

MOST_JSON_BYTES = 64 * 2**20
"""Largest JSON file: about 80,000 frames."""

MOST_JSON_DEPTH = 32
"""Deepest nesting of lists and objects; the formats need four levels."""

MOST_JSON_PARTS = 2_000_000
"""Most lists and objects in a JSON file; a frame has six."""

_LONGEST_INTEGER = 15
"""Integers with more digits than float64 holds exactly are read as floats, which may be infinite."""

_LARGEST = float(np.finfo(np.float32).max)

_ENDS = 65536
"""Bytes at the beginning and at the end of a file by which it is recognized."""

_LONGEST_VALUE = 60
"""Letters of a value that messages show."""


@dataclass(frozen=True)
class ArchiveLimits:
    """Upper limits on what is unpacked from a NumPy archive."""

    members: int = 500_000
    """Members of the archive, wanted or not."""
    member_bytes: int = 2**20
    """Bytes of one unpacked array."""
    total_bytes: int = 64 * 2**20
    """Bytes of all unpacked arrays."""


def shown(value: object) -> str:
    """Return a value as messages show it, shortened to one line.

    >>> shown([1, "a"]), shown("x" * 100)[-5:]
    ("[1, 'a']", 'xx...')
    """
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # too deep, or an integer of too many digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 3] + "..."


def is_regular_file(path: Path) -> bool:
    """Tell whether a path leads to a regular file; False for every path that the system refuses."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):  # no such file, no permission, a loop of links, a name too long or with a null character
        return False


def is_folder(path: Path) -> bool:
    """Tell whether a path leads to a folder; False for every path that the system refuses."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def entries(folder: Path) -> list[str]:
    """List the names in a folder, sorted.

    Raises:
        CaptureError: the folder cannot be listed.
    """
    try:
        return sorted(os.listdir(folder))
    except (OSError, ValueError) as error:
        raise CaptureError(f"the folder {folder} cannot be listed ({reason(error)}); check that it exists and can be read") from error


def check_file(path: Path) -> int:
    """Check that a path leads to a regular file with content, and return its size in bytes.

    Raises:
        CaptureError: there is no such file, or it is empty, a folder, a pipe, a device or a socket.
    """
    try:
        status = path.stat()
    except FileNotFoundError as error:
        if path.is_symlink():
            raise CaptureError(f"{path} is a link to {os.readlink(path)}, which does not exist; copy the file there") from error
        raise CaptureError(f"{path} does not exist; put the file there or take out what names it") from error
    except (OSError, ValueError) as error:
        raise CaptureError(f"{path} cannot be read ({reason(error)}); check its name and its permissions") from error
    if not stat.S_ISREG(status.st_mode):
        raise CaptureError(f"{path} is {_kind(status.st_mode)}; it must be a file")
    if status.st_size == 0:
        raise CaptureError(f"{path} is empty, so it cannot be read; copy the file again")
    return status.st_size


def _kind(mode: int) -> str:
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
    return next((name for test, name in kinds if test(mode)), "a device")


def reason(error: BaseException) -> str:
    """Return what an exception says, shortened to one line and without the path that messages name already."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    first = (text or type(error).__name__).strip().splitlines()[0].rstrip(".")
    return first if len(first) <= 2 * _LONGEST_VALUE else first[: 2 * _LONGEST_VALUE - 3] + "..."


def read_bytes(path: Path, most: int) -> bytes:
    """Read a regular file of at most ``most`` bytes.

    Raises:
        CaptureError: the file is not regular, empty, larger, or cannot be read.
    """
    size = check_file(path)
    if size > most:
        raise CaptureError(f"{path} has {size / 2**20:.0f} MB; at most {most / 2**20:.0f} MB are read, so write less into it")
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise CaptureError(f"{path} cannot be read ({reason(error)}); check its permissions") from error
    if len(data) > most:
        raise CaptureError(f"{path} grows while it is read; wait until it is written")
    return data


def size_and_ends(path: Path) -> tuple[int, bytes]:
    """Return the size of a file, and its first and last 64 KiB, which tell whether it has changed.

    Raises:
        CaptureError: as :func:`check_file`, or the file cannot be read.
    """
    size = check_file(path)
    try:
        with path.open("rb") as stream:
            content = stream.read(_ENDS)
            if size > 2 * _ENDS:
                stream.seek(size - _ENDS)
            return size, content + stream.read(_ENDS)
    except OSError as error:
        raise CaptureError(f"{path} cannot be read ({reason(error)}); check its permissions") from error


def read_json(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file; see :func:`read_json_value`.

    Raises:
        CaptureError: as there, or the file holds something other than an object.
    """
    content = read_json_value(path)
    if not isinstance(content, dict):
        raise CaptureError(f'{path} holds a {type(content).__name__}; it must be an object with a list "frames"')
    return content


def read_json_value(path: Path) -> Any:
    """Read a JSON file: UTF-8, or UTF-16 and UTF-32, with or without a byte order mark.

    Integers of more than 15 digits become floats. NaN and infinity are read, because exporters write them; callers check numbers with
    :func:`number` or :func:`finite_matrix`.

    Raises:
        CaptureError: the file is not JSON, is too large or nested too deeply, or gives a key two values.
    """
    data = read_bytes(path, MOST_JSON_BYTES)
    try:
        text = data.decode(json.detect_encoding(data))
    except UnicodeDecodeError as error:
        raise CaptureError(f"{path} is not UTF-8 text (byte {error.start} is {data[error.start]:#04x}); save it as UTF-8") from error
    text = text.removeprefix("\ufeff")
    if text.count("[") + text.count("{") > MOST_JSON_PARTS:
        raise CaptureError(f"{path} has more than {MOST_JSON_PARTS:,} lists and objects; split the capture")
    try:
        content = json.loads(text, parse_int=_integer, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        place = f"{error.msg} at line {error.lineno}, column {error.colno}"
        raise CaptureError(f"{path} is not valid JSON ({place}); correct it or write it again") from error
    except RecursionError as error:
        raise CaptureError(f"{path} nests lists and objects more than {MOST_JSON_DEPTH} deep; write it again") from error
    except ValueError as error:
        raise CaptureError(f"{path} cannot be read ({reason(error)}); correct it or write it again") from error
    level: list[Any] = [content] if isinstance(content, dict | list) else []
    for _ in range(MOST_JSON_DEPTH):
        children = (part.values() if isinstance(part, dict) else part for part in level)
        level = [child for values in children for child in values if isinstance(child, dict | list)]
        if not level:
            return content
    raise CaptureError(f"{path} nests lists and objects more than {MOST_JSON_DEPTH} deep; write it again")


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _LONGEST_INTEGER else float(digits)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        for key, value in pairs:
            same = content[key] == value or (value != value and content[key] != content[key])
            if not same:
                raise ValueError(f'the key "{key[:_LONGEST_VALUE]}" has two values in one object')
    return content


def number(value: Any, what: str) -> float:
    """Return a finite number of a JSON file.

    >>> number(3, "fl_x of a.json")
    3.0

    Raises:
        CaptureError: the value is not a number, is a boolean, or beyond float32.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CaptureError(f"{what} is {shown(value)}; it must be a number")
    if not abs(value) <= _LARGEST:
        raise CaptureError(f"{what} is {float(value):g}, which is not finite in float32; give a finite number")
    return float(value)


def flag(value: Any, what: str) -> bool:
    """Return a truth value of a JSON file: true or false, 1 or 0.

    Raises:
        CaptureError: the value is anything else, such as the text "false".
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    raise CaptureError(f"{what} is {shown(value)}; it must be true or false, without quotation marks")


def finite_matrix(rows: Any, shapes: Sequence[tuple[int, int]], what: str) -> np.ndarray:
    """Return a matrix of finite numbers, float64, from rows of a JSON file.

    Args:
        rows: lists of numbers, as read.
        shapes: the shapes that are allowed; the first is the one that messages ask for.
        what: names the matrix in messages, such as "the transform_matrix of 000.png in transforms.json".

    Raises:
        CaptureError: the rows have another shape, hold something other than numbers, or a number that is not finite in float32.

    >>> finite_matrix([[1, 0], [0, 1]], [(2, 2)], "the matrix").tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    words = {3: "three", 4: "four"}
    height, width = (words.get(length, str(length)) for length in shapes[0])
    wanted = f"write {height} rows of {width} numbers"
    is_rows = isinstance(rows, list) and all(isinstance(row, list) for row in rows)
    if not is_rows or not all(isinstance(value, int | float) and not isinstance(value, bool) for row in rows for value in row):
        raise CaptureError(f"{what} is not a matrix of numbers; {wanted}")
    lengths = {len(row) for row in rows}
    if not any(len(rows) == count and lengths == {length} for count, length in shapes):
        counts = "x".join(map(str, (len(rows), *sorted(lengths))))
        raise CaptureError(f"{what} has the shape {counts}; {wanted}")
    matrix = np.array(rows, dtype=np.float64)
    if not (np.abs(matrix) <= _LARGEST).all():
        raise CaptureError(f"{what} has a number that is not finite; remove the view or solve its pose again")
    return matrix


def read_npz(path: Path, wanted: str, limits: ArchiveLimits | None = None) -> tuple[dict[str, np.ndarray], list[str]]:
    """Read the arrays of an ``.npz`` archive whose names match a regular expression, and list the names of all.

    Other members are never unpacked. Arrays hold integers, floats or booleans; objects, which NumPy would unpickle, are refused. The header
    of each array is compared with the bytes that follow it before anything is allocated.

    Raises:
        CaptureError: the file is no archive, is damaged, or exceeds the limits.
    """
    limits = limits or ArchiveLimits()
    check_file(path)
    arrays: dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > limits.members:
                raise CaptureError(f"{path} has {len(members):,} members; at most {limits.members:,} are read")
            names = [member.filename.removesuffix(".npy") for member in members]
            total = 0
            for name, member in zip(names, members, strict=True):
                if re.fullmatch(wanted, name) is None:
                    continue
                total += member.file_size
                if member.file_size > limits.member_bytes or total > limits.total_bytes:
                    raise CaptureError(f"{shown(name)} in {path} has {member.file_size:,} bytes, more than such an array needs")
                if name in arrays:
                    raise CaptureError(f"{path} holds {shown(name)} twice; write it again")
                if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise CaptureError(f"{path} has a compression that NumPy does not write; write it with numpy.savez")
                with archive.open(member) as stream:
                    data = stream.read(limits.member_bytes + 1)
                arrays[name] = _array(data, f"{shown(name)} in {path}")
    except CaptureError:
        raise
    except Exception as error:  # zipfile and zlib raise a dozen types for damaged bytes
        raise CaptureError(f"{path} cannot be read as a NumPy archive ({reason(error)}); copy the file again") from error
    return arrays, names


def read_npy(path: Path, most: int) -> np.ndarray:
    """Read the array of an ``.npy`` file of at most ``most`` bytes; objects are refused.

    Raises:
        CaptureError: the file holds no array of numbers, is damaged or larger.
    """
    return _array(read_bytes(path, most), str(path))


def _array(data: bytes, what: str) -> np.ndarray:
    """Return the array in the bytes of an ``.npy`` file, without unpickling or trusting its header."""
    stream = io.BytesIO(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # headers written by Python 2
            version = np.lib.format.read_magic(stream)
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
            shape, by_columns, dtype = read(stream)
    except Exception as error:  # NumPy evaluates the header as a literal, which fails in many ways
        raise CaptureError(f"{what} cannot be read as an array ({reason(error)}); write it with numpy.savez") from error
    if dtype.kind not in "fiub":
        raise CaptureError(f"{what} has the type {dtype}; it must hold numbers, and objects are never unpickled")
    begin = stream.tell()
    if any(length < 0 for length in shape) or math.prod(shape) * dtype.itemsize != len(data) - begin:
        raise CaptureError(f"{what} says that it has the shape {shown(shape)} but holds {len(data) - begin:,} bytes; copy the file again")
    return np.frombuffer(data, dtype, offset=begin).reshape(shape, order="F" if by_columns else "C")


class FileFinder:
    """Finds files by the names written in a file of the capture, and remembers the folders it has listed.

    Names are compared in their composed Unicode form (NFC), because archives made on a Mac hold decomposed names.
    """

    def __init__(self, folder: Path) -> None:
        """Find files relative to this folder."""
        self._folder = folder
        self._listings: dict[Path, dict[str, str]] = {}

    def path(self, written: str) -> Path:
        r"""Return the path that a name means; ``\`` separates folders too."""
        return self._folder / written.replace("\\", "/")

    def names(self, folder: Path) -> dict[str, str]:
        """Return the names in a folder by their composed form; empty if there is no such folder."""
        if folder not in self._listings:
            names = entries(folder) if is_folder(folder) else []
            self._listings[folder] = {unicodedata.normalize("NFC", name): name for name in names}
        return self._listings[folder]

    def first(self, folder: Path, candidates: Sequence[str]) -> Path | None:
        """Return the first candidate that is in the folder, under the name it has on disk."""
        names = self.names(folder)
        found = (names.get(unicodedata.normalize("NFC", name)) for name in candidates)
        return next((folder / name for name in found if name is not None), None)
