"""Writes what structure from motion found as a capture: ``transforms.json`` and ``sparse_pc.ply``, valid for nerfstudio too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from unrender.captures.structure_from_motion.gathering import Photo
from unrender.captures.structure_from_motion.placement import Placement
from unrender.captures.structure_from_motion.solution import Solution
from unrender.files.atomic import write_bytes, write_json

_LENS = ("fl_x", "fl_y", "cx", "cy", "k1", "k2", "p1", "p2")
_OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])


def write_capture(folder: Path, solution: Solution, placement: Placement, photos: Sequence[Photo]) -> None:
    """Write ``sparse_pc.ply``, then ``transforms.json``.

    The key ``unrender`` holds the cube around the object; other programs ignore it.

    Args:
        folder: of the capture, with ``images`` and ``masks``.
        solution: poses, lenses and points.
        placement: the frame to write them in.
        photos: all photos, registered or not.
    """
    motion = placement.capture_from_solution
    write_points(folder / "sparse_pc.ply", solution, motion)
    by_name = {photo.name: photo for photo in photos}
    lenses = [
        {**dict(zip(_LENS, map(float, lens), strict=True)), "w": int(size[0]), "h": int(size[1])}
        for lens, size in zip(solution.lenses, solution.sizes, strict=True)
    ]
    shared = len(set(solution.lens_of_view.tolist())) == 1
    poses = motion @ solution.world_from_camera @ _OPENGL_FROM_OPENCV
    frames: list[Mapping[str, Any]] = []
    for name, pose, lens in zip(solution.names, poses, solution.lens_of_view.tolist(), strict=True):
        mask = by_name[name].mask
        frames.append(
            {
                "file_path": f"images/{name}",
                **({} if mask is None else {"mask_path": f"masks/{mask}"}),
                **({} if shared else lenses[lens]),
                "transform_matrix": pose.tolist(),
            }
        )
    content = {
        "camera_model": "OPENCV",
        **(lenses[int(solution.lens_of_view[0])] if shared else {}),
        "applied_transform": motion[:3].tolist(),
        "ply_file_path": "sparse_pc.ply",
        "unrender": {"center": [0.0, 0.0, 0.0], "radius": placement.half_side, "z_is_up": True},
        "frames": frames,
    }
    write_json(folder / "transforms.json", content)


def write_points(file: Path, solution: Solution, motion: Float[np.ndarray, "4 4"]) -> None:
    """Write the points with their colors as a binary PLY file."""
    rows = np.empty(len(solution.points), [(axis, "<f4") for axis in "xyz"] + [(color, "u1") for color in ("red", "green", "blue")])
    moved = solution.points @ motion[:3, :3].T + motion[:3, 3]
    for column, axis in enumerate("xyz"):
        rows[axis] = moved[:, column]
    for column, color in enumerate(("red", "green", "blue")):
        rows[color] = solution.colors[:, column]
    properties = [f"property float {axis}" for axis in "xyz"] + [f"property uchar {color}" for color in ("red", "green", "blue")]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(rows)}", *properties, "end_header", ""]
    write_bytes(file, "\n".join(header).encode("ascii") + rows.tobytes())
