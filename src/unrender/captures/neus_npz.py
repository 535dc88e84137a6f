"""Captures of IDR and NeuS: ``image/``, ``mask/`` and projection matrices in ``cameras_sphere.npz`` or ``cameras.npz``.

``world_mat_i`` is [K [R | t]; 0 0 0 1] from the source frame to pixels whose centers are integers, and ``scale_mat_i`` = [s I | c] maps the
unit sphere around the object to the source frame (DTU: millimeters). Readers of related formats share the decomposition.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from unrender.captures.capture import CaptureError
from unrender.captures.images import in_threads
from unrender.captures.photos import image_files, image_size
from unrender.captures.reading import is_folder, read_npz, shown
from unrender.captures.source import Source, checked_intrinsics, held_out, rigid_motions

_IMAGE_FOLDERS = ("image", "images", "rgb")
_WANTED = r"world_mat_\d{1,9}|scale_mat_0"
_MASK_FOLDERS = ("mask", "masks")
_CENTER = torch.tensor([0.0, 0.0, 0.5, 0.5], dtype=torch.float64)
"""Shift from integer pixel centers to centers at +0.5."""

_MOST_SKEW = 0.5
"""Largest shift of the image border, in pixels, for which skew is ignored."""


def decomposed(projections: Float[Tensor, "views 3 4"]) -> tuple[Float[Tensor, "views 3 3"], Float[Tensor, "views 4 4"]]:
    """Decompose P ~ K [R | t] into intrinsics K and ``source_from_camera``.

    K is upper triangular with a positive diagonal and K₂₂ = 1, and det R = 1.

    With J the matrix that reverses rows, the QR decomposition (J A)ᵀ = Q U gives A = (J Uᵀ J) (J Qᵀ), upper triangular times orthogonal.
    The sign of a projection matrix is arbitrary, so a reflection is removed by negating it. The center is -A⁻¹ P₃.

    >>> intrinsics, pose = decomposed(torch.tensor([[[-2.0, 0.0, -1.0, -4.0], [0.0, -2.0, -1.0, -6.0], [0.0, 0.0, -1.0, -2.0]]]))
    >>> (intrinsics[0] + 0.0).tolist()
    [[2.0, 0.0, 1.0], [0.0, 2.0, 1.0], [0.0, 0.0, 1.0]]
    >>> (pose[0, :3, 3] + 0.0).tolist()
    [-1.0, -2.0, -2.0]
    """
    linear = projections[:, :, :3]
    orthogonal, upper = torch.linalg.qr(linear.flip(1).mT)
    intrinsics = upper.mT.flip((1, 2))
    rotation = orthogonal.mT.flip(1)
    sign = torch.where(intrinsics.diagonal(dim1=1, dim2=2) < 0, -1.0, 1.0).to(linear.dtype)
    intrinsics = intrinsics * sign[:, None, :]
    rotation = rotation * sign[:, :, None]
    rotation = rotation * torch.linalg.det(rotation).sign()[:, None, None]
    pose = torch.eye(4).to(linear).repeat(linear.shape[0], 1, 1)
    pose[:, :3, :3] = rotation.mT
    pose[:, :3, 3] = -torch.linalg.solve(linear, projections[:, :, 3])
    return intrinsics / intrinsics[:, 2:, 2:], pose


def read_neus(folder: Path, file: Path, test_every: int) -> Source:
    """Read the cameras of an ``.npz`` file, and the sorted images and masks of its folder.

    Raises:
        CaptureError: no images, an archive without the matrices, matrices that are not cameras, or numbers of images, masks and cameras
            that do not match.
    """
    arrays = _arrays(file)
    image_folder = next((folder / name for name in _IMAGE_FOLDERS if is_folder(folder / name)), None)
    images = image_files(image_folder) if image_folder is not None else []
    if not images:
        raise CaptureError(f"{folder} has no images; NeuS captures keep them in {folder / 'image'} as .png or .jpg files")
    names = tuple(f"{image.parent.name}/{image.name}" for image in images)
    indices = _indices(images, sorted(int(key[10:]) for key in arrays if key.startswith("world_mat_")), file)
    scale = _matrix(arrays, "scale_mat_0", file)
    _check_similarity(scale, file)
    world = torch.stack([_matrix(arrays, f"world_mat_{index}", file) for index in indices])
    usable = world.flatten(1).isfinite().all(-1) & (torch.linalg.det(torch.nan_to_num(world[:, :3, :3])).abs() > 0)
    if not usable.all():
        view = int((~usable).int().argmax())
        raise CaptureError(f"world_mat_{indices[view]} in {file} is singular or not finite; solve the pose of {names[view]} again")
    matrices, poses = decomposed(world[:, :3])
    sizes = torch.tensor(in_threads(image_size, images))
    intrinsics = torch.stack((matrices[:, 0, 0], matrices[:, 1, 1], matrices[:, 0, 2], matrices[:, 1, 2]), -1) + _CENTER
    skewed = (matrices[:, 0, 1] / matrices[:, 1, 1]).abs() * sizes[:, 1] / 2
    if float(skewed.max()) > _MOST_SKEW:
        view = int(skewed.argmax())
        raise CaptureError(
            f"world_mat_{indices[view]} in {file} has skewed pixels, which no camera here has; check the matrix of {names[view]}"
        )
    return Source(
        files=(file,),
        names=names,
        images=tuple(images),
        masks=_masks(folder, images),
        source_from_camera=rigid_motions(poses, names, file),
        intrinsics=checked_intrinsics(intrinsics, names, file),
        distortion=torch.zeros(len(images), 6, dtype=torch.float64),
        sizes=sizes,
        fisheye=torch.zeros(len(images), dtype=torch.bool),
        apply_exif=(True,) * len(images),
        split=held_out(names, test_every),
        source_from_world=scale,
    )


def _arrays(file: Path) -> dict[str, np.ndarray]:
    arrays, names = read_npz(file, _WANTED)
    if "world_mat_0" not in arrays and not any(key.startswith("world_mat_") for key in arrays):
        found = ", ".join(sorted(map(shown, names))[:4]) or "nothing"
        raise CaptureError(f"{file} has no world_mat_0, world_mat_1, ... (it holds {found}); write one projection matrix for each image")
    return arrays


def _matrix(arrays: dict[str, np.ndarray], key: str, file: Path) -> Float[Tensor, "4 4"]:
    if key not in arrays:
        raise CaptureError(
            f"{file} has no {key}; it needs world_mat_i for each image and scale_mat_0, which maps the unit sphere to the scene"
        )
    matrix = arrays[key]
    if matrix.shape == (3, 4):
        matrix = np.concatenate((matrix, [[0.0, 0.0, 0.0, 1.0]]))
    if matrix.shape != (4, 4) or matrix.dtype.kind not in "fiu":
        raise CaptureError(f"{key} in {file} has the shape {matrix.shape} and type {matrix.dtype}; it must be 4x4 numbers")
    return torch.from_numpy(matrix.astype(np.float64))


def _check_similarity(scale: Float[Tensor, "4 4"], file: Path) -> None:
    linear = scale[:3, :3]
    size = float(torch.linalg.det(torch.nan_to_num(linear)))
    if not bool(scale.isfinite().all()) or size <= 0:
        raise CaptureError(f"scale_mat_0 in {file} is not finite or does not scale by a positive number; write [s I | c]")
    unit = linear / size ** (1 / 3)
    if float((unit.mT @ unit - torch.eye(3, dtype=scale.dtype)).abs().max()) > 1e-3:
        raise CaptureError(f"scale_mat_0 in {file} scales the axes differently; write one scale s for all: [s I | c]")


def _indices(images: Sequence[Path], cameras: Sequence[int], file: Path) -> list[int]:
    """Find the camera of each image: in order, or by the number in its name if there are fewer images."""
    if len(images) == len(cameras):
        return list(cameras)
    numbers = [int(image.stem) if image.stem.isdecimal() else -1 for image in images]
    if set(numbers) <= set(cameras):
        return numbers
    raise CaptureError(
        f"{file} has {len(cameras)} cameras but {images[0].parent} has {len(images)} images; "
        "remove images without a camera, or name each image by the number of its camera"
    )


def _masks(folder: Path, images: Sequence[Path]) -> tuple[Path, ...] | None:
    mask_folder = next((folder / name for name in _MASK_FOLDERS if is_folder(folder / name)), None)
    masks = image_files(mask_folder) if mask_folder is not None else []
    if not masks:
        return None
    if len(masks) == len(images):
        return tuple(masks)
    by_number = {_number(mask): mask for mask in masks}
    missing = [image.name for image in images if _number(image) not in by_number]
    if missing:
        raise CaptureError(
            f"{mask_folder} has {len(masks)} masks for {len(images)} images and none for {missing[0]}; "
            "add the missing masks, or remove the folder to do without"
        )
    return tuple(by_number[_number(image)] for image in images)


def _number(path: Path) -> str:
    return path.stem.lstrip("0") if path.stem.isdecimal() else path.stem
