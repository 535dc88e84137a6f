"""The layout of nerfstudio and instant-ngp: ``images/``, ``masks/``, ``transforms.json`` and points as PLY."""

from __future__ import annotations

from functools import partial
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from unrender.captures.errors import CaptureError
from unrender.captures.source import opencv_from
from unrender.captures.writing.plan import COMMON_SUFFIXES, Given, NewFile, Plan, copying, gray_points
from unrender.files.atomic import write_bytes, write_json

_POINTS = "sparse_pc.ply"


def plan_nerfstudio(given: Given) -> Plan:
    """Plan a capture with any perspective or fisheye lenses, masks of pixels that count, the split and points.

    Raises:
        CaptureError: both perspective and fisheye lenses.
    """
    source = given.source
    if bool(source.fisheye.any()) and not bool(source.fisheye.all()):
        raise CaptureError("nerfstudio holds perspective or fisheye lenses but not both in one capture; write colmap")
    views = range(given.count)
    names = given.names(COMMON_SUFFIXES, views, flat=False)
    masks = given.copied_masks([f"masks/{PurePosixPath(name).with_suffix('.png')}" for name in _distinct(names)])
    pictures = [given.photo(view, f"images/{name}", COMMON_SUFFIXES) for view, name in enumerate(names)]
    pictures += [*masks, *_moving(given, names)]
    lenses = [_lens(given, view) for view in views]
    shared = all(lens == lenses[0] for lens in lenses)
    poses = source.source_from_camera * opencv_from("opengl")
    frames: list[dict[str, Any]] = []
    for view, name in enumerate(names):
        mask = {"mask_path": masks[view].name} if masks else {}
        lens = {} if shared else lenses[view]
        frames.append({"file_path": f"images/{name}", "transform_matrix": poses[view].tolist(), **lens, **mask})
    content: dict[str, Any] = {"camera_model": "OPENCV_FISHEYE" if bool(source.fisheye[0]) else "OPENCV"}
    content |= lenses[0] if shared else {}
    notes = given.encoding_notes(COMMON_SUFFIXES)
    if source.split.test:
        train, test = ([f"images/{names[view]}" for view in views] for views in (source.split.train, source.split.test))
        content |= {"train_filenames": train, "val_filenames": test, "test_filenames": test}
    else:
        notes.append("no view is held out, which transforms.json cannot say; give --test-every 0 to what reads the capture")
    cameras: list[NewFile] = []
    if source.points is not None:
        content |= {"ply_file_path": _POINTS}
        cameras.append(NewFile(_POINTS, partial(write_bytes, data=ply_of(source.points, gray_points(source)))))
    cameras.append(NewFile("transforms.json", partial(write_json, value={**content, "frames": frames})))
    if masks and source.mask_meaning == "object":
        notes.append("the masks outline the object, and nerfstudio leaves out what is dark in masks")
    notes += [*given.color_key_notes(), *given.lost_notes(points=True, moving=True)]
    return Plan(tuple(pictures), tuple(cameras), tuple(notes))


def _distinct(names: list[str]) -> list[str]:
    """Return names that stay unique without their suffixes."""
    stems = [str(PurePosixPath(name).with_suffix("")).casefold() for name in names]
    return names if len(set(stems)) == len(stems) else [f"{name}.png" for name in names]


def _lens(given: Given, view: int) -> dict[str, float]:
    """Return the keys of a view's size and lens."""
    source = given.source
    keys = {
        **dict(zip(("fl_x", "fl_y", "cx", "cy"), source.intrinsics[view].tolist(), strict=True)),
        **dict(zip(("w", "h"), source.sizes[view].tolist(), strict=True)),
    }
    names = ("k1", "k2", "k3", "k4") if bool(source.fisheye[view]) else ("k1", "k2", "k3", "k4", "p1", "p2")
    return {**keys, **dict(zip(names, source.distortion[view].tolist(), strict=False))}


def _moving(given: Given, names: list[str]) -> list[NewFile]:
    """Return the masks of moving things, beside the photos."""
    found = ((PurePosixPath(name), file) for name, file in zip(names, given.source.ignored, strict=False) if file is not None)
    return [NewFile(f"images/{name.with_name(f'dynamic_mask_{name.stem}.png')}", copying(file)) for name, file in found]


def ply_of(points: Float[Tensor, "points 3"], colors: UInt8[Tensor, "points 3"]) -> bytes:
    """Return points as a binary PLY file with colors, in float64."""
    properties = [*(f"property double {axis}" for axis in "xyz"), *(f"property uchar {color}" for color in ("red", "green", "blue"))]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(points)}", *properties, "end_header", ""]
    rows = np.empty(len(points), [("xyz", "<f8", 3), ("rgb", "u1", 3)])
    rows["xyz"], rows["rgb"] = points.to(torch.float64).numpy(), colors.numpy()
    return "\n".join(header).encode() + rows.tobytes()
