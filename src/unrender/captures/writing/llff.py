"""The layout of LLFF: ``images/``, ``masks/`` and ``poses_bounds.npy``."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from unrender.captures.writing.plan import Given, NewFile, Plan
from unrender.files.atomic import replacing
from unrender.transforms import scale_of

_LAYOUT = "LLFF"
_FILE = "poses_bounds.npy"
_SUFFIXES = frozenset((".png", ".jpg", ".jpeg"))
_NEAREST, _FARTHEST = 0.001, 0.999
"""Shares of the points in front of a camera that are nearer than its bounds."""
_LEAST_NEAR = 0.01
"""Least nearest depth, as a share of the depth of the region's center."""


def plan_llff(given: Given) -> Plan:
    """Plan a capture for LLFF: one focal length, and outlines of the object.

    Rows are in the order of the sorted names.

    Raises:
        CaptureError: cameras that differ or have distortion.
    """
    notes: list[str] = []
    focal = given.centered_focal(_LAYOUT, notes)
    names = given.names(_SUFFIXES, range(given.count), flat=True)
    pictures = [given.photo(view, f"images/{name}", _SUFFIXES) for view, name in enumerate(names)]
    stems = [PurePosixPath(name).stem for name in names]
    stems = stems if len(set(stems)) == len(stems) else names
    pictures += given.outlines([f"masks/{stem}.png" for stem in stems])
    order = sorted(range(given.count), key=lambda view: names[view])
    rows = np.concatenate((_matrices(given, focal), _bounds(given)), 1)[order]
    notes += [
        *given.encoding_notes(_SUFFIXES),
        *given.ignored_notes(_LAYOUT),
        *given.split_notes(_FILE, names),
        *given.lost_notes(),
    ]
    return Plan(tuple(pictures), (NewFile(_FILE, partial(_write_npy, array=rows)),), tuple(notes))


def _matrices(given: Given, focal: float) -> Float[ndarray, "views 15"]:
    """Return [R | t | (height, width, focal length)] with the axes down, right, backward, as rows."""
    poses = given.source.source_from_camera.numpy()
    width, height = given.source.sizes[0].tolist()
    size = np.broadcast_to(np.array([height, width, focal]), (given.count, 3))
    columns = (poses[:, :3, 1], poses[:, :3, 0], -poses[:, :3, 2], poses[:, :3, 3], size)
    return np.stack(columns, 2).reshape(given.count, 15)


def _bounds(given: Given) -> Float[ndarray, "views 2"]:
    """Return the nearest and farthest depth: of the points, or of the sphere around the region of interest."""
    poses = given.source.source_from_camera
    region = given.capture.source_from_world
    middle = _depths(poses, region[None, :3, 3])[:, 0].abs().clamp_min(1e-12)
    reach = math.sqrt(3) * scale_of(region)
    bounds = torch.stack((torch.maximum(middle - reach, _LEAST_NEAR * middle), middle + reach), 1)
    points = given.source.points
    if points is not None:
        for view in range(given.count):
            ahead = _depths(poses[view : view + 1], points)[0]
            ahead = np.sort(ahead[ahead > 0].numpy())
            if len(ahead) > 1:
                bounds[view] = torch.tensor(np.quantile(ahead, (_NEAREST, _FARTHEST)))
    return bounds.numpy()


def _depths(poses: Float[Tensor, "views 4 4"], points: Float[Tensor, "points 3"]) -> Float[Tensor, "views points"]:
    return torch.einsum("vpa,va->vp", points[None] - poses[:, None, :3, 3], poses[:, :3, 2])


def _write_npy(path: Path, array: Float[ndarray, "views 17"]) -> None:
    with replacing(path) as partly:
        np.save(partly, array)
