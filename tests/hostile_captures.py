"""Writes tiny captures, mutates them by a seed, loads each, and reports one line of JSON for each: a fuzz campaign.

``python hostile_captures.py FIRST COUNT`` runs in a process of its own, which may use 2 GB more than it has at the start and 10 s for a
load. A hang ends the process with the exit code 3; whoever started it goes on with the next number.
"""

from __future__ import annotations

import functools
import io
import json
import math
import os
import random
import resource
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
import unicodedata
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tiny_captures import ColmapCameras, opengl_poses, write_colmap_model

WIDTH, HEIGHT, FOCAL, VIEWS = 8, 6, 10.0, 3
SECONDS, GIGABYTES = 10, 2
ALARM = int(os.environ.get("HOSTILE_ALARM", SECONDS + 1))
"""Seconds after which a load counts as hanging; more on a machine that is busy with other things."""

Files = dict[str, bytes]
"""The files of a capture by their names."""


@dataclass(frozen=True)
class Special:
    """What stands in the place of a file."""

    kind: str
    target: str = ""


Changes = dict[str, "bytes | Special"]


def image_bytes(pixels: np.ndarray | Image.Image, format: str = "PNG", **keys: Any) -> bytes:
    stream = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(stream, format, **keys)
    return stream.getvalue()


@functools.cache
def photo(view: int, channels: int) -> bytes:
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    color = np.stack([20 * x + view, 30 * y + view, np.full_like(x, 40 * view)], -1).astype(np.uint8)
    inside = (((x - 3.5) ** 2 + (y - 2.5) ** 2) < 5).astype(np.uint8) * 255
    return image_bytes({3: color, 4: np.dstack((color, inside)), 1: inside}[channels])


@functools.cache
def poses(count: int) -> list[np.ndarray]:
    return opengl_poses(count)


def frames(names: list[str]) -> list[dict[str, Any]]:
    return [{"file_path": name, "transform_matrix": pose.tolist()} for name, pose in zip(names, poses(len(names)), strict=True)]


VARIANTS: tuple[tuple[str, ...], ...] = (
    *(("alpha", "own", "ply"), ("masks", "lens"), ("fov", "split", "dynamic"), ("fisheye", "npz"), ("own", "lens", "split"), ()),
)


def transforms(rng: random.Random) -> Files:
    names = [f"images/{k:03d}.png" for k in range(VIEWS)]
    listed = frames(names)
    files: Files = {name: photo(k, 3) for k, name in enumerate(names)}
    content: dict[str, Any] = {"fl_x": FOCAL, "fl_y": FOCAL, "cx": WIDTH / 2, "cy": HEIGHT / 2, "w": WIDTH, "h": HEIGHT}
    for extra in rng.choice(VARIANTS):
        if extra == "alpha":
            files |= {name: photo(k, 4) for k, name in enumerate(names)}
        elif extra == "masks":
            files |= {f"masks/{k:03d}.png": photo(k, 1) for k in range(VIEWS)}
            for k, frame in enumerate(listed):
                frame["mask_path"] = f"masks/{k:03d}.png"
        elif extra == "own":
            for frame in listed:
                frame |= {"fl_x": FOCAL, "fl_y": 1.02 * FOCAL, "cx": 4.1, "cy": 3.0, "w": WIDTH, "h": HEIGHT}
        elif extra == "dynamic":
            files["images/dynamic_mask_001.png"] = photo(1, 1)
        elif extra == "ply":
            files["points3D.ply"] = ply_points(rng.choice(["ascii", "binary_little_endian", "binary_big_endian"]))
            content["ply_file_path"] = "points3D.ply"
        elif extra == "npz":
            files["sparse_points.npz"] = npz({"points": np.random.default_rng(0).normal(size=(9, 3))})
        elif extra == "split":
            content |= {"train_filenames": names[:2], "test_filenames": names[2:]}
        elif extra == "lens":
            content |= {"camera_model": "OPENCV", "k1": 0.01, "k2": -0.001, "p1": 0.0, "p2": 0.001}
        elif extra == "fisheye":
            content |= {"is_fisheye": True, "k1": 0.01, "k2": 0.0, "k3": 0.0, "k4": 0.0}
        elif extra == "fov":
            content = {"camera_angle_x": 0.8, "aabb_scale": 4, **{key: content[key] for key in content if not key.startswith("fl")}}
    return {"transforms.json": json.dumps({**content, "frames": listed}).encode(), **files}


def blender(rng: random.Random) -> Files:
    files: Files = {}
    channels = rng.choice([3, 4, 4])
    for split, count in (("train", 3), ("test", 1), ("val", 1)):
        if split == "train" or rng.random() < 0.6:
            listed = frames([f"./{split}/r_{k}" for k in range(count)])
            files[f"transforms_{split}.json"] = json.dumps({"camera_angle_x": 0.8, "frames": listed}).encode()
            files |= {f"{split}/r_{k}.png": photo(k, channels) for k in range(count)}
    return files


def neus(rng: random.Random) -> Files:
    scale = np.diag([2.0, 2.0, 2.0, 1.0])
    scale[:3, 3] = (10.0, 20.0, 30.0)
    intrinsics = np.array([[FOCAL, 0, WIDTH / 2 - 0.5], [0, FOCAL, HEIGHT / 2 - 0.5], [0, 0, 1]])
    arrays: dict[str, np.ndarray] = {}
    dvr = rng.random() < 0.2
    for k, pose in enumerate(poses(VIEWS)):
        camera_from_sphere = np.linalg.inv(pose @ np.diag([1.0, -1.0, -1.0, 1.0]))
        world = np.eye(4)
        world[:3] = (np.eye(3) if dvr else intrinsics) @ camera_from_sphere[:3]
        arrays[f"world_mat_{k}"] = world @ np.linalg.inv(scale)
        arrays[f"scale_mat_{k}"] = scale
        if dvr:
            arrays[f"camera_mat_{k}"] = np.diag([2 * FOCAL / WIDTH, 2 * FOCAL / HEIGHT, 1.0, 1.0])
    file = "cameras.npz" if dvr or rng.random() < 0.3 else "cameras_sphere.npz"
    files: Files = {file: npz(arrays, rng.random() < 0.3)}
    files |= {f"image/{k:06d}.png": photo(k, 3) for k in range(VIEWS)}
    if rng.random() < 0.7:
        files |= {f"mask/{k:03d}.png": photo(k, 1) for k in range(VIEWS)}
    if rng.random() < 0.3:
        files["points3D.ply"] = ply_points("ascii")
    return files


def npz(arrays: dict[str, np.ndarray], compressed: bool = False) -> bytes:
    stream = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(stream, **arrays)  # pyright: ignore[reportArgumentType]
    return stream.getvalue()


@functools.cache
def ply_points(format: str) -> bytes:
    points = np.random.default_rng(1).normal(size=(9, 3)).astype(np.float32)
    header = f"ply\nformat {format} 1.0\nelement vertex 9\n" + "".join(f"property float {axis}\n" for axis in "xyz") + "end_header\n"
    if format == "ascii":
        return (header + "\n".join(" ".join(f"{value:.5f}" for value in row) for row in points) + "\n").encode()
    return header.encode() + points.astype("<f4" if "little" in format else ">f4").tobytes()


LENSES: tuple[tuple[str, list[float]], ...] = (
    ("PINHOLE", [FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2]),
    ("SIMPLE_RADIAL", [FOCAL, WIDTH / 2, HEIGHT / 2, 0.01]),
    ("OPENCV", [FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2, 0.01, 0.0, 0.001, 0.0]),
    ("OPENCV_FISHEYE", [FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2, 0.01, 0.0, 0.0, 0.0]),
    ("FULL_OPENCV", [FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2, 0.01, 0.0, 0.0, 0.0, 0.0, 0.01, 0.0, 0.0]),
    ("FOV", [FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2, 0.5]),
    ("EUCM", [FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2, 0.5, 1.0]),
)


def colmap(rng: random.Random, form: str) -> Files:
    names = [f"{k:03d}.png" for k in range(VIEWS)]
    smaller = rng.random() < 0.3
    larger = 2 if smaller else 1
    model, parameters = rng.choice(LENSES)
    cameras: ColmapCameras = {
        1: (model, larger * WIDTH, larger * HEIGHT, [larger * value if abs(value) > 1 else value for value in parameters])
    }
    listed = list(zip(names, [1] * VIEWS, poses(VIEWS), strict=True))
    with tempfile.TemporaryDirectory() as folder:
        write_colmap_model(Path(folder), cameras, listed, form=form, tracks=rng.choice([0, 2]))
        files: Files = {f"sparse/0/{file.name}": file.read_bytes() for file in Path(folder).iterdir()}
    files |= {f"{'images_2' if smaller else 'images'}/{name}": photo(k, 3) for k, name in enumerate(names)}
    if rng.random() < 0.3:
        files |= {f"masks/{name}.png": photo(k, 1) for k, name in enumerate(names)}
    if rng.random() < 0.3:
        files |= {"train_list.txt": "\n".join(names[:2]).encode(), "test_list.txt": names[2].encode()}
    return files


def colmap_bin(rng: random.Random) -> Files:
    return colmap(rng, "bin")


def colmap_txt(rng: random.Random) -> Files:
    return colmap(rng, "txt")


def llff(rng: random.Random) -> Files:
    rows = []
    for pose in poses(VIEWS):
        right, up, backward, center = pose[:3].T
        matrix = np.stack((-up, right, backward, center, np.array([HEIGHT, WIDTH, FOCAL])), 1)
        rows.append([*matrix.reshape(-1), 2.0, 4.0])
    files: Files = {"poses_bounds.npy": npy(np.array(rows)[:, : rng.choice([15, 17])])}
    files |= {f"images/{k:03d}.png": photo(k, 3) for k in range(VIEWS)}
    if rng.random() < 0.6:
        files |= {f"masks/{k:03d}.png": photo(k, 1) for k in range(VIEWS)}
    return files


FORMATS: dict[str, Callable[[random.Random], Files]] = {
    **{"transforms": transforms, "blender": blender, "neus": neus},
    **{"colmap_bin": colmap_bin, "colmap_txt": colmap_txt, "llff": llff},
}


ALL_FORMATS = 200_000
"""Seeds below this draw from the first three formats, so that a seed that was wrong once keeps its capture."""


# ------------------------------------------------------------------------------------------------------------------------------ mutations

DEEP = "[" * 5000 + "]" * 5000
RAW_VALUES = (
    "1e400",
    "-1e400",
    "NaN",
    "Infinity",
    "-Infinity",
    "9" * 5000,
    "1" + "0" * 400,
    DEEP,
    '{"a":' * 300 + "1" + "}" * 300,
    '"\\ud800"',
)
NUMBERS = (0, -1, 1, 2, 0.5, 1e39, -1e39, 1e-320, 1e-39, 1e6, 1e300, 1e30, 2**63, 2**31, 10**18, -0.0)
STRINGS = (
    "",
    "x",
    "false",
    "true",
    "0",
    "1e5",
    "\0",
    "a\0b",
    "\n",
    "é",
    "e\u0301",
    "..",
    ".",
    "/",
    "~",
    "x" * 300,
    "x" * 5000,
    "x/" * 3000,
)
VALUES = (None, True, False, [], {}, [[]], [None], [1, 2], [1, "a"], {"a": 1}, [[1, 0, 0, 0]] * 4, *NUMBERS, *STRINGS)
PATHS = (
    *("/dev/stdin", "/dev/zero", "/dev/tty", "/dev/null", "/etc/passwd", "/proc/self/mem", "/proc/kmsg", "/proc/self/environ", "/", "."),
    *("..", "images", "images/", "images/001.png", "IMAGES/000.PNG", "images\\000.png", "C:\\photos\\images\\000.png", "./images/000.png"),
    *(
        "images/../images/000.png",
        "/home/someone/capture/images/000.png",
        "../outside.png",
        "images/000",
        "images/000.jpg",
        "images/000.exr",
    ),
    *("transforms.json", "images/ 000.png", "images/000.png ", "images/000.png\0", "http://localhost/000.png", "file:///etc/passwd"),
)
KEYS = (
    *("fl_x", "fl_y", "cx", "cy", "w", "h", "k1", "k2", "k3", "k4", "p1", "p2", "is_fisheye", "camera_model", "distortion_params"),
    *("camera_angle_x", "camera_angle_y", "x_fov", "y_fov", "train_filenames", "test_filenames", "val_filenames", "ply_file_path"),
    *("mask_path", "rolling_shutter", "applied_transform", "applied_scale", "aabb_scale", "scale", "offset", "file_path", "frames"),
    *(
        "transform_matrix",
        "orientation_override",
        "white_transparent",
        "black_transparent",
        "from_mitsuba",
        "mask_color",
        "up",
        "ftheta_p0",
    ),
    *("depth_file_path", "sharpness", "rotation", "n_extra_learnable_dims", "camera_angle", "fisheye_crop_radius"),
)


def nodes(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in a JSON object."""
    found = [at] if at else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        found += nodes(child, (*at, key))
    return found


def holder(content: Any, at: tuple[Any, ...]) -> Any:
    for key in at[:-1]:
        content = content[key]
    return content


def json_structure(rng: random.Random, data: bytes) -> bytes:
    content = json.loads(data)
    raw: dict[str, str] = {}
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        places = nodes(content)
        if not places:
            break
        # Half of the mutations are near the top, where keys are, and not in one of many matrix entries.
        at = rng.choice([place for place in places if len(place) <= 3] if rng.random() < 0.6 else places)
        inside: Any = holder(content, at)
        key: Any = at[len(at) - 1]
        what = rng.randrange(9)
        if what == 0:
            inside[key] = rng.choice(VALUES)
        elif what == 1:
            mark = f"@raw{len(raw)}@"
            inside[key] = mark
            raw[mark] = rng.choice(RAW_VALUES)
        elif what == 2:
            del inside[key]
        elif what == 3:
            other = rng.choice(places)
            try:
                inside[key] = json.loads(json.dumps(holder(content, other)[other[-1]]))
            except (KeyError, IndexError, TypeError):
                pass
        elif what == 4 and isinstance(inside, list):
            inside.insert(key, inside[key]) if rng.random() < 0.5 else inside.extend(inside[: rng.randrange(1, 4)])
        elif what == 5:
            target = content if rng.random() < 0.5 or not isinstance(content.get("frames"), list) else rng.choice(content["frames"] or [{}])
            if isinstance(target, dict):
                target[rng.choice(KEYS)] = rng.choice(VALUES)
        elif what == 6 and isinstance(inside[key], str):
            inside[key] = rng.choice([*PATHS, *STRINGS])
        elif what == 7 and isinstance(inside[key], int | float):
            inside[key] = rng.choice([inside[key] * rng.choice([-1, 1e6, 1e-6, 1.01, 1 + 1e-5, 1e30, 2]), rng.choice(NUMBERS)])
        else:
            inside[key] = rng.choice([str, repr, lambda value: [value], lambda value: {"value": value}])(inside[key])
    text = json.dumps(content)
    for mark, value in raw.items():
        text = text.replace(f'"{mark}"', value)
    return text.encode("utf-8", "surrogatepass")


def json_text(rng: random.Random, data: bytes) -> bytes:
    text = data.decode()
    choice = rng.randrange(12)
    if choice < 4:
        return text.encode(["utf-8-sig", "utf-16", "utf-32", "utf-16-le"][choice])
    if choice == 4:
        return text.replace("images", "im\u00e4ges").encode("latin-1")
    if choice == 5:
        return (text + rng.choice(["}", "\n\n", "\0", "null", text, "// comment"])).encode()
    if choice == 6:
        return text.replace(
            '"frames"', f'"{rng.choice(KEYS)}": {rng.choice([*RAW_VALUES, "1", "null", "true", "[]"])}, "frames"', 1
        ).encode()
    if choice == 7:
        key = rng.choice(["frames", "fl_x", "camera_angle_x", "w"])
        return text.replace(f'"{key}":', f'"{key}": {rng.choice(["1", "null", "[]"])}, "{key}":', 1).encode()
    if choice == 8:
        return rng.choice(
            [b"", b"null", b"[]", b"{}", b"1", b'"x"', b"\xff\xfe", DEEP.encode(), b"{" * 9999, b"\xef\xbb\xbf", b'{"frames":' * 2000]
        )
    if choice == 9:
        return text.replace(",", ",\n" * rng.randrange(1, 9)).replace("'", '"').encode()
    if choice == 10:
        return text.replace('"', "'", rng.randrange(1, 9)).encode()
    return text.replace("e", rng.choice(["E", "\\u0065", "\u00e9", ""]), rng.randrange(1, 40)).encode()


def bytes_damaged(rng: random.Random, data: bytes) -> bytes:
    damaged = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        if not damaged:
            break
        # Headers decide more than pixels do.
        at = rng.randrange(min(len(damaged), 100) if rng.random() < 0.5 else len(damaged))
        what = rng.randrange(6)
        if what == 0:
            damaged[at] ^= 1 << rng.randrange(8)
        elif what == 1:
            damaged[at] = rng.choice([0, 1, 127, 128, 255])
        elif what == 2:
            del damaged[at : at + rng.choice([1, 2, 7, 100])]
        elif what == 3:
            damaged[at:at] = bytes(rng.randrange(256) for _ in range(rng.choice([1, 4, 50])))
        elif what == 4:
            damaged = damaged[:at]
        else:
            other = rng.randrange(len(damaged))
            damaged[at : at + 16] = damaged[other : other + 16]
    return bytes(damaged)


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def npy_header(text: str, body: bytes = b"") -> bytes:
    padded = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded + body


EVIL_ARRAYS = (
    npy(np.array([{"a": 1}, None], dtype=object)),
    npy(np.array(["text"] * 16).reshape(4, 4)),
    npy(np.eye(4).astype(np.complex128)),
    npy(np.eye(3)),
    npy(np.full((4, 4), np.nan)),
    npy(np.full((4, 4), 1e39)),
    npy(np.zeros((4, 4))),
    npy(np.eye(4) * 1e300),
    npy(np.eye(4, dtype=np.int8)),
    npy(np.eye(4, dtype=bool)),
    npy(np.eye(4, dtype=">f8")),
    npy(np.asfortranarray(np.arange(16.0).reshape(4, 4))),
    npy(np.zeros((0, 4))),
    npy(np.zeros((4, 4, 4))),
    npy(np.array(3.0)),
    npy(np.zeros(3, dtype=[("a", "f8")])),
    npy(np.array(["2020-01-01"], dtype="datetime64[D]")),
    npy_header("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"),
    npy_header("{'descr': '<f8', 'fortran_order': False, 'shape': (-4, -4), }", bytes(128)),
    npy_header("{'descr': '|O', 'fortran_order': False, 'shape': (4, 4), }", b"cos\nsystem\n(S'touch /tmp/unpickled'\ntR."),
    npy_header("(" * 200),
    npy_header("{'descr': '<f8', 'fortran_order': False, 'shape': (" + "9" * 5000 + ",), }"),
    npy_header("__import__('os').system('true')"),
    npy_header("{'descr': '<f0', 'fortran_order': False, 'shape': (4, 4), }"),
    npy_header("{'descr': '|S0', 'fortran_order': False, 'shape': (99999999999,), }"),
    npy_header("{'descr': [('a', '<f8', (1000000, 1000000))], 'fortran_order': False, 'shape': (4,), }"),
    b"",
    b"zzz",
    b"\x93NUMPY",
    b"\x93NUMPY\x03\x00" + bytes(20),
)


def npz_members(rng: random.Random, data: bytes) -> bytes:
    """Mutate the members of an archive."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(list(members))
    what = rng.randrange(9)
    method = zipfile.ZIP_STORED
    if what == 0:
        members[name] = rng.choice(EVIL_ARRAYS)
    elif what == 1:
        del members[name]
    elif what == 2:
        members[
            rng.choice(["world_mat_" + "9" * 5000, "world_mat_-1", "world_mat_x", "../../evil", "unused", "world_mat_00", "points"])
            + ".npy"
        ] = rng.choice(list(members.values()))
    elif what == 3:
        members["unused.npy"] = npy_header("{'descr': '<f8', 'fortran_order': False, 'shape': (2000000,), }", bytes(16_000_000))
        method = zipfile.ZIP_DEFLATED
    elif what == 4:
        method = rng.choice([zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    elif what == 5:
        members[name] = bytes_damaged(rng, members[name])
    elif what == 6:
        members[name] = members.pop(rng.choice(list(members)))
    elif what == 7:
        array = np.load(io.BytesIO(members[name])).astype(np.float64)
        if array.size:
            array.flat[rng.randrange(array.size)] = rng.choice([np.nan, np.inf, 0.0, -1.0, 1e39, 1e6, 1e300, 1.001])
        members[name] = npy(array)
    else:
        array = np.load(io.BytesIO(members[name])).astype(np.float64)
        members[name] = npy(array * rng.choice([-1.0, 0.0, 1e6, 1e-6, 1e30, 1e200, 2.0]) if rng.random() < 0.6 else array[:3])
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    result = bytearray(stream.getvalue())
    if rng.random() < 0.1:  # the flag of encryption, or another compression
        at, value = rng.choice([(6, 1), (8, 93), (8, 9)])
        for i in range(len(result) - 4):
            if result[i : i + 4] == b"PK\x03\x04":
                result[i + at] = value
            if result[i : i + 4] == b"PK\x01\x02":
                result[i + at + 2] = value
    return bytes(result)


WORDS = (
    b"nan",
    b"-inf",
    b"1e39",
    b"1e-320",
    b"-1",
    b"0",
    b"9" * 400,
    b"1e99999",
    b"",
    b"x",
    b"\xff\xfe",
    b"\0",
    b"PINHOLE",
    b"FOV",
    b"EUCM",
)
COUNTS = (0, 1, 2, 3, 4, 99, 2**31, 2**32 - 1, 2**60, 2**63, 2**64 - 1)
FLOATS = (np.nan, np.inf, -np.inf, 0.0, -1.0, 1e39, -1e39, 1e300, 1e-320, 1e6, 1e30, 0.5, 2.0)


def words_mutated(rng: random.Random, data: bytes) -> bytes:
    """Change words and lines of a text file."""
    lines = data.split(b"\n")
    for _ in range(rng.choice([1, 1, 2, 5])):
        at = rng.randrange(len(lines))
        words = lines[at].split(b" ")
        what = rng.randrange(7)
        if what <= 2:
            words[rng.randrange(len(words))] = rng.choice(WORDS)
        elif what == 3:
            del words[rng.randrange(len(words))]
        elif what == 4:
            words.insert(rng.randrange(len(words)), rng.choice([*WORDS, *words]))
        elif what == 5:
            lines.insert(at, rng.choice([b"", b"# x", lines[rng.randrange(len(lines))], b"9" * 70_000]))
            continue
        else:
            words = []
        lines[at] = b" ".join(words)
    return rng.choice([b"\n", b"\n", b"\r\n"]).join(lines)


def records_mutated(rng: random.Random, data: bytes) -> bytes:
    """Change counts and numbers of a binary file, which are not aligned."""
    damaged = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5])):
        at = rng.randrange(max(1, len(damaged) - 8))
        at = rng.choice([0, at, at, 8 + 8 * (at // 8), at // 4 * 4])
        damaged[at : at + 8] = rng.choice([struct.pack("<Q", rng.choice(COUNTS)), struct.pack("<d", rng.choice(FLOATS))])
    return bytes(damaged)


def npy_mutated(rng: random.Random, data: bytes) -> bytes:
    if rng.random() < 0.3:
        return rng.choice(EVIL_ARRAYS)
    array = np.load(io.BytesIO(data)).astype(np.float64)
    if rng.random() < 0.6:
        array.flat[rng.randrange(array.size)] = rng.choice([*FLOATS, 1.001])
        return npy(array)
    return npy(
        rng.choice([array[:-1], array[:, :14], array * 1e30, array.T, array.astype(np.float16), np.vstack((array, array)), array[0]])
    )


CAMERA_CHANGES: dict[str, tuple[str, Callable[[random.Random, bytes], bytes]]] = {
    ".json": ("JSON", json_structure),
    ".npz": ("npz", npz_members),
    ".npy": ("npy", npy_mutated),
    ".bin": ("bin", records_mutated),
    ".txt": ("txt", words_mutated),
}
"""By the suffix of a file of cameras: its name in reports, and what changes its values."""


def png_of_size(width: int, height: int, body: bytes = b"") -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body or zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def other_images() -> list[bytes]:
    """Images of every kind that Pillow writes, and files that are no images."""
    small = Image.new("RGB", (WIDTH, HEIGHT), (10, 200, 30))
    exif = Image.Exif()
    exif[0x0112] = 6
    images = [image_bytes(small.convert(mode), "TIFF") for mode in ("1", "L", "P", "RGBA", "CMYK", "YCbCr", "I", "F")]
    images += [image_bytes(small.convert(mode), "PNG") for mode in ("1", "L", "P", "LA", "RGBA", "I;16")]
    images += [
        image_bytes(small, format)
        for format in ("JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "TGA", "ICO", "JPEG2000", "EPS", "PDF", "DDS")
    ]
    images += [
        image_bytes(np.full((HEIGHT, WIDTH), 40000, np.uint16)),
        image_bytes(Image.new("P", (WIDTH, HEIGHT)), "PNG", transparency=0),
        image_bytes(small.convert("L"), "PNG", transparency=30),
        image_bytes(small, "JPEG", exif=exif),
        image_bytes(small, "PNG", exif=exif),
        image_bytes(small, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"),
        image_bytes(small, "GIF", save_all=True, append_images=[small.rotate(90)]),
        image_bytes(small, "TIFF", save_all=True, append_images=[small.resize((3, 3))]),
        image_bytes(small, "WEBP", save_all=True, append_images=[small.rotate(180)]),
        image_bytes(Image.new("LAB", (WIDTH, HEIGHT)), "TIFF"),
        *(image_bytes(Image.new("RGB", size)) for size in ((WIDTH, HEIGHT + 1), (1, 1), (2 * WIDTH, 2 * HEIGHT), (HEIGHT, WIDTH))),
        *(png_of_size(*size) for size in ((100_000, 100_000), (16_000, 11_000), (2**31 - 1, 1), (0, 5), (1, 2**31 - 1), (8_000, 6_000))),
        b"",
        b"not an image",
        b"<html>404</html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n",
        b"\x76\x2f\x31\x01" + bytes(64),
        b"\0\0\0\x18ftypheic" + bytes(64),
        b"\0\0\0\x18ftypavif" + bytes(64),
        b"II*\0\x08\0\0\0" + bytes(64),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 6\n(/tmp/written) (w) file closefile\nshowpage\n",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a\x08\0\x06\0",
        b"\xff\xd8\xff\xe0",
    ]
    return images


OTHER_IMAGES = other_images()
PLY_LINES = (
    *(
        "element vertex 99999999999",
        "element vertex -1",
        "element vertex 9",
        "element face 3",
        "property float x",
        "property list uchar int x",
    ),
    *(
        "property double nx",
        "format binary_little_endian 1.0",
        "format ascii 1.0",
        "comment x",
        "end_header",
        "property list float float y",
    ),
    *("element vertex 0", "element vertex " + "9" * 5000, "obj_info x", "property foo z", "element edge 100000000"),
)


def ply_mutated(rng: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\n")
    for _ in range(rng.randrange(1, 3)):
        at = rng.randrange(min(len(lines), 9))
        if rng.random() < 0.6:
            lines[at] = rng.choice(PLY_LINES).encode()
        elif rng.random() < 0.5:
            lines.insert(at, rng.choice(PLY_LINES).encode())
        else:
            del lines[at]
    return b"\n".join(lines)


SPECIALS = (
    *(Special("missing"), Special("folder"), Special("fifo"), Special("socket"), Special("unreadable"), Special("empty")),
    *(
        Special("link", target)
        for target in ("/dev/zero", "/dev/stdin", "/dev/tty", "/proc/self/mem", "/dev/null", "@self", "@outside", "nowhere")
    ),
    *(Special("link", target) for target in ("/etc/passwd", "/", ".", "/proc/kmsg", "/dev/full", "/dev/urandom")),
)


def case_or_form(rng: random.Random, name: str, data: bytes) -> Changes:
    folder, _, last = name.rpartition("/")
    other = rng.choice(
        [last.upper(), last.capitalize(), "._" + last, unicodedata.normalize("NFD", "é") + last, last + ".bak", last.replace(".", " .")]
    )
    renamed = f"{folder}/{other}" if folder else other
    return {name: Special("missing"), renamed: data} if rng.random() < 0.7 else {renamed: data}


STRAYS: Changes = {
    **{
        "images/.DS_Store": b"\0\0\0\1Bud1",
        "image/.DS_Store": b"x",
        "images/Thumbs.db": b"x",
        "image/Thumbs.db": b"x",
        "mask/._000.png": b"\0\5",
    },
    **{"image/._000000.png": b"\0\5\x16\x07", "images/._000.png": b"\0\5\x16\x07", "image/desktop.ini": b"x", "image/notes.txt": b"x"},
    **{
        "image/zz.png": Special("folder"),
        "image/zz.jpg": Special("fifo"),
        "points3D.ply": Special("fifo"),
        "cameras.npz": b"",
        "dvr": b"x",
    },
    **{
        "transforms.json": Special("folder"),
        "image/zz.exr": b"x",
        "mask/zz.png": b"",
        "images_2/000.png": b"x",
        "points.npz": Special("folder"),
    },
    **{"transforms_test.json": b"{}", "transforms_val.json": b"", "images/000.alpha.png": b"", "images/dynamic_mask_000.png": b"x"},
}


def mutated(rng: random.Random, files: Files) -> tuple[str, Changes, dict[str, Any]]:
    """Return the kind of a mutation, the files to change, and options of loading."""
    options: dict[str, Any] = {}
    cameras = [name for name in files if name.endswith(tuple(CAMERA_CHANGES)) and "points" not in name]
    images = [name for name in files if name.endswith(".png")]
    points = [name for name in files if "points" in name]
    kinds = [
        "cameras",
        "cameras",
        "cameras",
        "cameras",
        "camera text",
        "bytes",
        "image bytes",
        "other image",
        "files",
        "names",
        "options",
        "all images",
    ]
    kind = rng.choice([*kinds, *["points"] * (2 if points else 0)])
    if kind == "cameras":
        name = rng.choice(cameras)
        what, change = CAMERA_CHANGES[Path(name).suffix]
        return f"{what} {'members' if what == 'npz' else 'values'}", {name: change(rng, files[name])}, options
    if kind == "camera text":
        name = rng.choice(cameras)
        is_json = name.endswith(".json")
        what = "JSON text" if is_json else f"{CAMERA_CHANGES[Path(name).suffix][0]} bytes"
        return what, {name: (json_text if is_json else bytes_damaged)(rng, files[name])}, options
    if kind == "bytes":
        name = rng.choice(cameras)
        return f"{CAMERA_CHANGES[Path(name).suffix][0]} bytes", {name: bytes_damaged(rng, files[name])}, options
    if kind == "image bytes":
        name = rng.choice(images)
        source = files[name] if rng.random() < 0.5 else rng.choice(OTHER_IMAGES)
        return "image bytes", {name: bytes_damaged(rng, source)}, options
    if kind == "other image":
        return "another image", {rng.choice(images): rng.choice(OTHER_IMAGES)}, options
    if kind == "all images":
        data = rng.choice(OTHER_IMAGES)
        folder = rng.choice(images).rpartition("/")[0]
        return "all images", {name: data for name in images if name.startswith(folder)}, options
    if kind == "points":
        name = rng.choice(points)
        what = rng.randrange(3)
        if what == 0:
            return "points", {name: bytes_damaged(rng, files[name])}, options
        if what == 1:
            return "points", {name: rng.choice(SPECIALS)}, options
        change = ply_mutated if name.endswith(".ply") else CAMERA_CHANGES[Path(name).suffix][1]
        return "points", {name: change(rng, files[name])}, options
    if kind == "files":
        name = rng.choice([*images, *cameras, *cameras])
        if rng.random() < 0.15 and "/" in name:
            name = name.rpartition("/")[0]
        return "files", {name: rng.choice(SPECIALS)}, options
    if kind == "names":
        if rng.random() < 0.5:
            name = rng.choice(list(STRAYS))
            return "stray files", {name: STRAYS[name]}, options
        name = rng.choice(list(files))
        return "names", case_or_form(rng, name, files[name]), options
    name, value = rng.choice(
        [
            *(("downscale", value) for value in (0, -1, 2, 3, 7, 10**9, 1.5, True, "2", None)),
            *(("radius", value) for value in (0.0, -1.0, 1e-45, 1e300, math.nan, 2.0, "1", 1e20)),
            *(("center", value) for value in ((1e300, 0.0, 0.0), (0.0, math.nan, 0.0), (0.0, 0.0), (0.1, 0.2, 0.3), "abc", 5)),
            *(("up", value) for value in ("", "w", "-y", "cameras", (0.0, 0.0, 0.0), (1e300, 0.0, 0.0), (0.0, 1.0), "xyz", 3)),
            *(("test_every", value) for value in (-1, 0, 1, 2, 10**9, 2.5, "8", None)),
            *(("normal_maps_frame", value) for value in ("bogus", "opencv", None)),
            *(("principal_shift", value) for value in ((math.nan, 0.0), (1e39, 0.0), (0.5,), (0.25, 0.25), "ab")),
            *(("memory", value) for value in (0, -1, 10, 2**70, "1", 1.5)),
            *(("masks", value) for value in ("object", "ignore", "none", "bogus", True)),
            *(("camera_axes", value) for value in ("opengl", "opencv", "mitsuba", "bogus")),
            *(("normal_maps", value) for value in ("@normals", "@nowhere", "@file", "@fifo", "@damaged", 5)),
        ]
    )
    return f"option {name}", {}, {name: value}


# ----------------------------------------------------------------------------------------------------------------------------- the worker


def place(path: Path, content: bytes | Special, outside: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif path.is_symlink() or path.exists():
        path.unlink()
    if not path.parent.is_dir():
        if path.parent.exists() or path.parent.is_symlink():
            return
        path.parent.mkdir(parents=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content.kind == "folder":
        path.mkdir()
    elif content.kind == "fifo":
        os.mkfifo(path)
    elif content.kind == "socket":
        here = os.getcwd()
        os.chdir(path.parent)  # names of sockets are short
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(path.name)
        os.chdir(here)
    elif content.kind == "empty":
        path.write_bytes(b"")
    elif content.kind == "unreadable":
        path.write_bytes(b"x")
        path.chmod(0)
    elif content.kind == "link":
        target = {"@self": path.name, "@outside": str(outside)}.get(content.target, content.target)
        path.symlink_to(target)


def broken_invariant(capture: Any) -> str | None:
    """Say what is wrong with a capture that was accepted."""
    import torch

    cameras, views = capture.cameras, len(capture)
    pose, intrinsics = cameras.world_from_camera, cameras.intrinsics
    if pose.dtype != torch.float32 or not bool(pose.isfinite().all()):
        return "a pose is not finite"
    if float(pose[:, :3, 3].abs().max()) > 1e7:
        return f"a camera is at {float(pose[:, :3, 3].abs().max()):.2g} in the world"
    rotation = pose[:, :3, :3]
    if float((rotation.mT @ rotation - torch.eye(3)).abs().max()) > 1e-5 or float(torch.linalg.det(rotation).min()) < 0.99:
        return "a pose is not a rotation"
    if not torch.equal(pose[:, 3], torch.tensor([0.0, 0.0, 0.0, 1.0]).expand(views, 4)):
        return "a pose ends in another row than 0 0 0 1"
    if not bool(intrinsics.isfinite().all()) or not bool(cameras.distortion.isfinite().all()):
        return "an intrinsic is not finite"
    share = intrinsics[:, :2] / cameras.sizes.float()
    if not (float(share.min()) > 1e-3 and float(share.max()) < 1e5):
        return f"a focal length is {float(intrinsics[:, :2].min()):.3g} to {float(intrinsics[:, :2].max()):.3g}"
    if float((intrinsics[:, 2:] / cameras.sizes.float()).abs().max()) > 100:
        return "a principal point is far outside of its photo"
    train, test = capture.split.train, capture.split.test
    if set(train) & set(test) or len(set(train)) < len(train) or len(set(test)) < len(test) or not train:
        return "the split is not disjoint"
    if not set(train) | set(test) <= set(range(views)) or len(capture.names) != views or len(set(capture.names)) < views:
        return "views, names and split do not match"
    if capture.photos.pixels.dtype != torch.uint8 or capture.photos.sizes.tolist() != cameras.sizes.tolist():
        return "photos and cameras differ in size"
    if any(tuple(capture.photos[view].shape) != (*cameras.sizes[view].flip(0).tolist(), 4) for view in range(views)):
        return "a photo has another shape than its camera"
    if len({capture.photos[view].data_ptr() for view in range(views)}) < views:
        return "two views share a photo"
    similarity = capture.source_from_world
    if similarity.dtype != torch.float64 or not bool(similarity.isfinite().all()) or float(torch.linalg.det(similarity)) <= 0:
        return "the similarity to the source frame is none"
    if float(torch.linalg.det(similarity[:3, :3])) ** (1 / 3) < 1e-12 * float(similarity[:3, 3].abs().max()):
        return "the world is smaller than the rounding of its place"
    for images in (capture.ignored, capture.normals):
        if images is not None and images.sizes.tolist() != cameras.sizes.tolist():
            return "a prior has another size than its photo"
    if capture.normals is not None:
        length = capture.normals.pixels.norm(dim=-1)
        if not bool(((length < 1e-6) | ((length - 1).abs() < 1e-4)).all()):
            return "a normal is neither zero nor of unit length"
    if capture.points is not None and not bool(capture.points.isfinite().all()):
        return "a point is not finite"
    if any("\n" in note or not note.isprintable() for note in capture.notes):
        return "a note is more than a line"
    return None


def outcome(folder: Path, options: dict[str, Any], usual: set[str]) -> tuple[str, str]:
    """Load a capture; return refused, noted, accepted, or what is wrong, and words about it."""
    from unrender.captures import load_capture
    from unrender.captures.capture import CaptureError

    try:
        capture = load_capture(folder, **options)
    except CaptureError as error:
        message = str(error)
        one_sentence = message.isprintable() and 15 < len(message) <= 800 and not message.endswith((".", ": ", ":"))
        return ("refused", message) if one_sentence else ("BAD MESSAGE", message)
    except Exception as error:
        import traceback

        place = traceback.extract_tb(error.__traceback__)[-1]
        return "TRACEBACK", f"{type(error).__name__}: {str(error)[:200]} at {Path(place.filename).name}:{place.lineno}"
    if wrong := broken_invariant(capture):
        return "ACCEPTED", wrong
    notes = [note for note in capture.notes if note not in usual]
    return ("noted", notes[0]) if notes else ("accepted", "")


Mutation = Callable[[random.Random, Files], tuple[str, Changes, dict[str, Any]]]


def main(first: int, count: int, families: dict[str, Callable[[random.Random], Files]] = FORMATS, mutation: Mutation | None = None) -> None:
    import torch

    from unrender.captures import load_capture, normalization

    root = Path(tempfile.mkdtemp(prefix="hostile-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    outside = root / "outside.png"
    outside.write_bytes(photo(1, 3))
    extra = {
        "@normals": root / "normals",
        "@nowhere": root / "none",
        "@file": outside,
        "@fifo": root / "pipes",
        "@damaged": root / "damaged",
    }
    for name in ("@normals", "@fifo", "@damaged"):
        extra[name].mkdir()
        for k in range(VIEWS):
            for stem in (f"{k:03d}", f"{k:06d}", f"r_{k}"):
                file = extra[name] / f"{stem}_normal.png"
                os.mkfifo(file) if name == "@fifo" else file.write_bytes(photo(k, 3)[: 70 if name == "@damaged" else None])
    current = first

    def hang(*_: object) -> None:
        print(json.dumps([current, "?", "?", "HANG", f"more than {SECONDS} s", SECONDS]), flush=True)
        shutil.rmtree(root, ignore_errors=True)
        os._exit(3)

    warnings.filterwarnings("error")
    signal.signal(signal.SIGALRM, hang)
    # One thread: another process uses the other core, and a thread that hangs would keep the alarm from ending the load.
    torch.set_num_threads(1)
    os.cpu_count = lambda: 1
    normalization._COARSE_GRID = 6  # how finely masks are carved decides nothing here
    bases: dict[int, tuple[Path, set[str]]] = {}
    used = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
    resource.setrlimit(resource.RLIMIT_AS, (used + GIGABYTES * 2**30, resource.RLIM_INFINITY))
    for current in range(first, first + count):
        rng = random.Random(current)
        family = rng.choice(list(families)[: 3 if families is FORMATS and current < ALL_FORMATS else None])
        files = families[family](rng)
        kind, changes, options = (mutation or mutated)(rng, files)
        key = hash(tuple(files.items()))
        if key not in bases:
            folder = root / f"capture{len(bases)}"
            write(folder, files)
            bases[key] = folder, set(load_capture(folder).notes)
        folder, usual = bases[key]
        for name, content in changes.items():
            place(folder / name, content, outside)
        options = {key: str(extra[value]) if isinstance(value, str) and value in extra else value for key, value in options.items()}
        begin = time.perf_counter()
        signal.alarm(ALARM)
        what, words = outcome(folder, options, usual)
        signal.alarm(0)
        seconds = time.perf_counter() - begin
        if seconds > SECONDS:
            what, words = "SLOW", f"{seconds:.1f} s"
        if changes:
            restore(folder, changes, files)
        print(json.dumps([current, family, kind, what, words.replace(str(folder), "")[:300], round(seconds, 3)]), flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps(["peak", round(peak, 3)]), flush=True)
    shutil.rmtree(root, ignore_errors=True)


def write(folder: Path, files: Files) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def restore(folder: Path, changes: Changes, files: Files) -> None:
    """Undo changes: take away what was added, and write again what was replaced."""
    for name in changes:
        path = folder / name
        if name in files and (path.is_file() or not path.exists()) and not path.is_symlink() and path.parent.is_dir():
            path.unlink(missing_ok=True)
            path.write_bytes(files[name])
        elif name not in files and not any(other.startswith(name + "/") for other in files):
            place(path, Special("missing"), path)
            if not any(other.startswith(f"{name.rpartition('/')[0]}/") for other in files) and "/" in name:
                path.parent.rmdir()
        else:
            shutil.rmtree(folder)
            write(folder, files)
            return


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
