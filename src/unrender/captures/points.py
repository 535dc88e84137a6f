"""Point files from structure from motion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from unrender.captures.capture import CaptureError

_PATTERNS = ("points3D.ply", "sparse_points*.ply", "points3D.npz", "sparse_points*.npz", "points.npz")


def points_file(folder: Path) -> Path | None:
    """Find a point file by the names that exporters use."""
    return next((match for pattern in _PATTERNS for match in sorted(folder.glob(pattern))), None)


def read_points(file: Path) -> Float[Tensor, "points 3"]:
    """Read the points of a mesh file, or the array ``points`` of an ``.npz`` file.

    Points that are not finite are dropped.

    Raises:
        CaptureError: the file cannot be read.
    """
    try:
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as archive:
                loaded = archive["points"]
        else:
            import trimesh

            loaded = np.asarray(trimesh.load(file, process=False).vertices)  # pyright: ignore[reportAttributeAccessIssue]
        points = torch.from_numpy(np.asarray(loaded, dtype=np.float64).reshape(-1, 3))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise CaptureError(f"the points {file} cannot be read ({error}); remove the file or write it again") from error
    return points[points.isfinite().all(-1)]
