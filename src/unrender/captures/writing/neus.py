"""The layout of NeuS and IDR: numbered PNG files in ``image/`` and ``mask/``, and matrices in ``cameras_sphere.npz``."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from unrender.captures.writing.plan import Given, NewFile, Plan
from unrender.files.atomic import replacing
from unrender.printing import counted
from unrender.transforms import scale_of

_LAYOUT = "NeuS"
_FILE = "cameras_sphere.npz"
_SUFFIXES = frozenset((".png",))
_AROUND = math.sqrt(3) / 1.1
"""Radius of the sphere around a region in units of its half side: around the corners of the box that was padded by a tenth."""


def plan_neus(given: Given) -> Plan:
    """Plan a capture for NeuS: pinhole cameras, outlines of the object, and the unit sphere around it.

    Raises:
        CaptureError: a lens with distortion.
    """
    given.check_pinholes(_LAYOUT)
    source, views = given.source, range(given.count)
    names = [f"{view:06d}.png" for view in views]
    pictures = [given.photo(view, f"image/{name}", _SUFFIXES) for view, name in enumerate(names)]
    pictures += given.outlines([f"mask/{view:03d}.png" for view in views])
    scale, notes = _scale(given)
    arrays: dict[str, np.ndarray] = {}
    for view, matrix in enumerate(_projections(given)):
        arrays |= {f"world_mat_{view}": matrix.numpy(), f"scale_mat_{view}": scale.numpy()}
    old = [path.name for path in given.paths]
    if old != names:
        notes.append(f"the {counted(given.count, 'photo')} got numbers as names, in their order: {old[0]} is {names[0]}")
    if bool((source.sizes != source.sizes[:1]).any()):
        notes.append("the photos differ in size, which NeuS itself does not read")
    notes += [
        *given.encoding_notes(_SUFFIXES),
        *given.ignored_notes(_LAYOUT),
        *given.split_notes(_FILE, names),
        *given.lost_notes(region=True),
    ]
    return Plan(tuple(pictures), (NewFile(_FILE, partial(_write_npz, arrays=arrays)),), tuple(notes))


def _projections(given: Given) -> Float[Tensor, "views 4 4"]:
    """Return [K [R | t]; 0 0 0 1] of each view, to pixels whose centers are integers."""
    fx, fy, cx, cy = given.source.intrinsics.unbind(1)
    lenses = torch.eye(4, dtype=torch.float64).repeat(given.count, 1, 1)
    lenses[:, 0, 0], lenses[:, 1, 1], lenses[:, 0, 2], lenses[:, 1, 2] = fx, fy, cx - 0.5, cy - 0.5
    return lenses @ torch.linalg.inv(given.source.source_from_camera)


def _scale(given: Given) -> tuple[Float[Tensor, "4 4"], list[str]]:
    """Return the map from the unit sphere to the source frame: the capture's own, or around its region of interest."""
    if given.source.source_from_world is not None:
        return given.source.source_from_world, []
    region, has_masks = given.capture.source_from_world, given.capture.has_masks
    boxed = has_masks or given.source.focus is not None
    radius = scale_of(region) * (_AROUND if boxed else 1.0)
    scale = torch.diag(torch.tensor([radius, radius, radius, 1.0], dtype=torch.float64))
    scale[:3, 3] = region[:3, 3]
    center = ", ".join(f"{value:.4g}" for value in region[:3, 3].tolist())
    holds = "holds the visual hull of the masks" if has_masks else "holds the box of the object"
    what = holds if boxed else "reaches to the cameras, because without masks nobody knows the object"
    return scale, [f"the unit sphere {what}: its center is ({center}) and its radius {radius:.4g}"]


def _write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with replacing(path) as partly:
        np.savez(partly, **arrays)  # pyright: ignore[reportArgumentType]
