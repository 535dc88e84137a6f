"""True poses that a capture brings besides inexact ones, in ``true_poses.json``, with which refined poses are compared.

The file maps the name of each photo to its 4 x 4 camera-to-world matrix with OpenGL axes, in the frame of the other poses.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.captures.errors import CaptureError
from unrender.captures.normalization import normalized_poses
from unrender.captures.reading import finite_matrix, is_regular_file, read_json
from unrender.captures.source import opencv_from, rigid_motions

FILE = "true_poses.json"


def true_poses(folder: Path, names: Sequence[str], source_from_world: Float[Tensor, "4 4"]) -> Float[Tensor, "views 4 4"] | None:
    """Return the true ``world_from_camera`` of photos; None if the capture brings none.

    Raises:
        CaptureError: a photo is missing in the file, or a matrix is not one of a rigid motion.
    """
    file = folder / FILE
    if not is_regular_file(file):
        return None
    content = read_json(file)
    missing = [name for name in names if name not in content]
    if missing:
        raise CaptureError(f"{file} has no pose of {missing[0]}; add it, or remove the file, which is only used for a comparison")
    matrices = [torch.from_numpy(finite_matrix(content[name], [(4, 4)], f"the pose of {name} in {file}")) for name in names]
    poses, _ = rigid_motions(torch.stack(matrices), names, file)
    return normalized_poses(poses * opencv_from("opengl"), source_from_world).float()
