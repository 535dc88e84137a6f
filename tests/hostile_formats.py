"""Damages the files of cameras of other programs by a seed, and loads each: ``python hostile_formats.py FIRST COUNT``.

Processes, limits and reports are those of ``hostile_captures.py``.
"""

from __future__ import annotations

import functools
import json
import random
import re
import struct
import sys
import zlib
from collections.abc import Callable
from typing import Any

from camera_formats import WRITERS, Written
from hostile_captures import (
    OTHER_IMAGES,
    SPECIALS,
    Changes,
    Files,
    bytes_damaged,
    json_structure,
    json_text,
    main,
)

TOKENS = (
    *("nan", "inf", "-inf", "1e400", "-1e400", "", "x", "0", "-1", "1e39", "1e30", "-1e300", "1e-320", "1_0", "0x10", "\u0663", "\0"),
    *("9" * 400, "9" * 5000, "1099511627776", "18446744073709551616", "2147483648", "-2147483649", "1,5", '"', "<", "&a;", "{", "%s"),
)
TEXTS = (
    *(b"", b"\0" * 5000, b"\xff\xfe", b"\xef\xbb\xbf", b"x" * 100_000, b"1 " * 200_000, b"\n" * 100_000, b"7 7\n", b"1\n", b"{}", b"[]"),
    *(b"<a>" * 100_000, b"<document><chunk>" + b"<a>" * 50_000, b"<document><chunk/></document>", b"<document " + b"a='' " * 100_000),
    *(b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", b"#name,x,y,alt,heading,pitch,roll,f\n", b"extrinsic\nintrinsic\n", b"9" * 5000),
)


@functools.cache
def made(family: str) -> Written:
    return WRITERS[family]()


CAMERAS = {file: family for family in WRITERS for file in made(family).cameras}
"""The files of cameras of all families, whose names differ."""


@functools.cache
def bomb(kind: int) -> bytes:
    """A MATLAB file with an element that is unpacked to three gigabytes of zeros, or says that it is larger than any file."""
    header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
    if kind == 0:
        packer = zlib.compressobj(9)
        first, later = (packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
        body = first + 3000 * later
        return header + struct.pack("<II", 15, len(body)) + body
    flags = struct.pack("<IIII", 6, 8, 1, 0)
    if kind == 1:
        dims = struct.pack("<IIii", 5, 8, 2**31 - 1, 2**31 - 1)
        inner = flags + dims + struct.pack("<HHI", 1, 1, ord("P"))
        return header + struct.pack("<II", 14, len(inner)) + inner
    return header + struct.pack("<II", 14, 2**32 - 1) + flags


def tokens_changed(rng: random.Random, data: bytes) -> bytes:
    """Replace some numbers of a text."""
    text = data.decode("latin-1")
    places = [match.span() for match in re.finditer(r"[-+]?\d[\d.eE+-]*", text)]
    for begin, end in sorted(rng.sample(places, min(len(places), rng.choice([1, 1, 1, 2, 5]))), reverse=True):
        text = text[:begin] + rng.choice(TOKENS) + text[end:]
    return text.encode("utf-8")


def lines_changed(rng: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\n")
    for _ in range(rng.choice([1, 1, 2, 4])):
        at = rng.randrange(len(lines))
        what = rng.randrange(4)
        if what == 0:
            del lines[at]
        elif what == 1:
            lines.insert(at, rng.choice(lines))
        elif what == 2:
            lines[at] = b" ".join(rng.sample(words := lines[at].split() or [b""], len(words)))
        else:
            lines[at] = rng.choice(TEXTS)[:1000]
        lines = lines or [b""]
    return b"\n".join(lines)


def damaged(rng: random.Random, files: Files) -> tuple[str, Changes, dict[str, Any]]:
    cameras = [name for name in files if name in CAMERAS]
    images = [name for name in files if name not in CAMERAS]
    name = rng.choice(cameras)
    kind = rng.choice(["numbers", "numbers", "lines", "bytes", "bytes", "cut", "text", "JSON", "JSON", "files", "image"])
    data = files[name]
    if kind == "numbers" and not name.endswith(".mat"):
        return kind, {name: tokens_changed(rng, data)}, {}
    if kind == "lines" and not name.endswith(".mat"):
        return kind, {name: lines_changed(rng, data)}, {}
    if kind == "JSON" and data[:1] in (b"{", b"["):
        change = json_structure if isinstance(json.loads(data), dict) and rng.random() < 0.8 else json_text
        return kind, {name: change(rng, data)}, {}
    if kind == "cut":
        return kind, {name: data[: rng.randrange(len(data))]}, {}
    if kind == "text":
        return kind, {name: bomb(rng.randrange(3)) if name.endswith(".mat") else rng.choice(TEXTS)}, {}
    if kind == "files":
        return kind, {rng.choice([*cameras, *images]): rng.choice(SPECIALS)}, {}
    if kind == "image":
        return kind, {rng.choice(images): rng.choice(OTHER_IMAGES)}, {}
    return "bytes", {name: bytes_damaged(rng, data)}, {}


def family_of(name: str) -> Callable[[random.Random], Files]:
    return lambda rng: made(name).files


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), {name: family_of(name) for name in WRITERS}, damaged)
