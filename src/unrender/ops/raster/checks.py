"""Checks of meshes and rasters, beside those of :mod:`unrender.ops.kernels.checks`."""

from __future__ import annotations

from torch import Tensor, aminmax, nonzero

from unrender.devices import on_cpu
from unrender.ops.kernels.checks import Arguments
from unrender.ops.raster.raster import Raster

LARGEST_RASTER_SIDE = 8192
"""Pixels."""


def checked_raster(takes: Arguments, raster: object, name: str = "raster") -> Raster:
    """Return a raster on the device of the call; its tensors fit each other since it was made.

    Raises:
        ValueError: it is no :class:`Raster`, in another type than float32, or on another device.
    """
    given = takes.instance(raster, name, Raster)
    takes.float32(given.depth, f"{name}.depth", ("views", "height", "width"))
    takes.float32(given.barycentrics, f"{name}.barycentrics", ("views", "height", "width", 2))
    if given.barycentric_derivatives is not None:
        takes.float32(given.barycentric_derivatives, f"{name}.barycentric_derivatives", ("views", "height", "width", 4))
    return given


def checked_positions(takes: Arguments, clip_positions: object) -> Tensor:
    """Return positions in clip space.

    Raises:
        ValueError: they are not float32 [views, vertices, 4] or [vertices, 4].
    """
    return takes.float32(clip_positions, "clip_positions", ("views", "vertices", 4), ("vertices", 4))


def checked_faces(takes: Arguments, faces: object, vertex_count: int) -> Tensor:
    """Return the faces of a mesh.

    Corners are read only on a CPU. On a GPU that would wait for the device; there kernels leave out a face whose corners do not exist.

    Raises:
        ValueError: they are not [faces, 3] of int32 or int64, or on a CPU a corner is not a row of the vertices.
    """
    tensor = takes.integers(faces, "faces", ("faces", 3))
    if not on_cpu(tensor.device) or tensor.numel() == 0:
        return tensor
    smallest, largest = aminmax(tensor)
    if smallest >= 0 and largest < vertex_count:
        return tensor
    face, corner = nonzero((tensor < 0) | (tensor >= vertex_count))[0].tolist()
    found = f"vertex {int(tensor[face, corner])} as corner {corner} of face {face}"
    raise ValueError(f"{takes.verb} takes rows of the {vertex_count} vertices, counted from 0, as faces, got {found}")


def checked_resolution(takes: Arguments, resolution: object) -> tuple[int, int]:
    """Return (height, width).

    Raises:
        ValueError: they are not two integers from 1 to 8192.
    """
    sides = takes.items(resolution, "resolution")
    if len(sides) != 2:
        raise ValueError(f"{takes.verb} takes two integers, (height, width), as resolution, got {len(sides)}")
    height, width = (takes.integer(side, "a side of resolution", 1, LARGEST_RASTER_SIDE) for side in sides)
    return height, width


def checked_ranges(takes: Arguments, ranges: object, face_count: int) -> Tensor:
    """Return (first face, number of faces) of each view.

    Raises:
        ValueError: they are not [views, 2] of int32 or int64, or, on a CPU, reach beyond the faces.
    """
    tensor = Arguments(takes.verb).integers(ranges, "ranges", ("views", 2))  # may be on the CPU although the rest is not
    if not on_cpu(tensor.device):
        return tensor
    for view, (start, count) in enumerate(tensor.tolist()):
        if start < 0 or count < 0 or start + count > face_count:
            found = f"{count} faces from face {start} in view {view}"
            raise ValueError(f"{takes.verb} takes ranges within the {face_count} faces as ranges, got {found}")
    return tensor
