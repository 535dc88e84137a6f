"""Captures of IDR, NeuS and DVR: ``image/``, ``mask/`` and matrices in ``cameras_sphere.npz`` or ``cameras.npz``.

``world_mat_i`` is [K [R | t]; 0 0 0 1] from the source frame to pixels whose centers are integers, and ``scale_mat_i`` = [s I | c] maps the
unit sphere around the object to the source frame (DTU: millimeters). In files of Differentiable Volumetric Rendering, ``world_mat_i`` is
[R | t] alone, and ``camera_mat_i`` maps to -1 to 1 across and down the image. Readers of related formats share the decomposition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unrender.captures.capture import CaptureError
from unrender.captures.images import in_threads
from unrender.captures.photo_files import IMAGE_FOLDERS, check_format_of, matched_masks, natural_key, number_in
from unrender.captures.photos import image_files, image_size
from unrender.captures.posed_photos import PosedPhoto, pinhole, posed_source
from unrender.captures.reading import is_folder, read_npz, shown
from unrender.captures.source import Source

_WANTED = r"(world|camera)_mat_\d{1,9}|scale_mat_\d{1,9}"

_UNIT_FOCAL = 0.02
"""Focal lengths below this share of the width are no pixels: ``world_mat_i`` has no intrinsics."""

_NORMALIZED = 16.0
"""Focal lengths of ``camera_mat_i`` below this are in units of half the image, longer ones in pixels."""

_COARSE = 1e-3
"""Steps of coordinates, as a share of the distance between cameras, above which poses are inaccurate."""

_LARGEST_ENTRY = 1e30
"""Largest number of a matrix; its products stay finite."""

_LEAST_STRETCH = 1e-12
"""Smallest by largest singular value of a projection matrix, below which its inverse is rounding."""


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
    """Read the cameras of an ``.npz`` file, and the images and masks of its folder.

    Raises:
        CaptureError: no images, an archive without the matrices, matrices that are not cameras, or numbers of images, masks and cameras
            that do not match.
    """
    arrays = _arrays(file)
    images = images_of(folder)
    names = tuple(f"{image.parent.name}/{image.name}" if image.parent != folder else image.name for image in images)
    notes: list[str] = []
    indices = cameras_of(images, sorted(int(key[10:]) for key in arrays if key.startswith("world_mat_")), file, notes)
    scale = _scale(arrays, file, notes)
    sizes = torch.tensor(in_threads(image_size, images))
    projections = _projections(arrays, indices, sizes, names, file, notes)
    matrices, poses = decomposed(projections)
    _check_precision(arrays, indices, poses, notes)
    photos = [
        PosedPhoto(image, pose, pinhole(matrix, f"world_mat_{index} of {name} in {file}"))
        for image, pose, matrix, index, name in zip(images, poses.numpy(), matrices.numpy(), indices, names, strict=True)
    ]
    source = posed_source(folder, file, photos, test_every, as_stored=False, notes=notes)
    return replace(source, masks=matched_masks(folder, images), source_from_world=scale)


def images_of(folder: Path) -> list[Path]:
    """List the images of a capture: those of the first folder that has any, else those beside the cameras."""
    places = [folder / name for name in IMAGE_FOLDERS if is_folder(folder / name)]
    for place in (*places, folder):
        if images := image_files(place):
            return sorted(images, key=natural_key)
    for place in places:
        check_format_of(place)
    raise CaptureError(f"{folder} has no images; put them into {folder / 'images'} as .png or .jpg files")


def _arrays(file: Path) -> dict[str, np.ndarray]:
    arrays, names = read_npz(file, _WANTED)
    if not any(key.startswith("world_mat_") for key in arrays):
        found = ", ".join(sorted(map(shown, names))[:4]) or "nothing"
        raise CaptureError(f"{file} has no world_mat_0, world_mat_1, ... (it holds {found}); write one projection matrix for each image")
    return arrays


def _matrix(arrays: dict[str, np.ndarray], key: str, file: Path) -> Float[Tensor, "4 4"]:
    """Return a matrix as 4x4, float64, completed by the identity."""
    if key not in arrays:
        raise CaptureError(f"{file} has no {key}; it needs world_mat_i for each image")
    matrix = arrays[key]
    if matrix.shape not in ((4, 4), (3, 4), (3, 3)) or matrix.dtype.kind not in "fiu":
        raise CaptureError(f"{key} in {file} has the shape {matrix.shape} and type {matrix.dtype}; it must be 4x4 numbers")
    whole = torch.eye(4, dtype=torch.float64)
    whole[: matrix.shape[0], : matrix.shape[1]] = torch.from_numpy(matrix.astype(np.float64))
    if not bool((whole[3] - torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)).abs().max() <= 1e-6):
        raise CaptureError(f"{key} in {file} ends in the row {whole[3].tolist()}; it must be 0 0 0 1")
    return whole


def _projections(
    arrays: dict[str, np.ndarray], indices: Sequence[int], sizes: Int[Tensor, "views 2"], names: Sequence[str], file: Path, notes: list[str]
) -> Float[Tensor, "views 3 4"]:
    """Return K [R | t] of each view, to pixels with integer centers."""
    world = torch.stack([_matrix(arrays, f"world_mat_{index}", file) for index in indices])
    check_invertible(world, "world_mat", indices, names, file)
    lens = decomposed(world[:, :3])[0]
    focal = lens.diagonal(dim1=1, dim2=2)[:, :2]
    is_rigid = float((lens - torch.eye(3, dtype=torch.float64)).abs().max()) < 1e-3
    if not is_rigid and not bool((focal < _UNIT_FOCAL * sizes).all()):
        return world[:, :3]
    if not all(f"camera_mat_{index}" in arrays for index in indices):
        raise CaptureError(
            f"world_mat_{indices[0]} in {file} has a focal length of {float(focal[0, 0]):.3g} pixels, so it seems to hold no intrinsics, "
            f"and there is no camera_mat_{indices[0]}; write K [R | t] there"
        )
    lenses = torch.stack([_matrix(arrays, f"camera_mat_{index}", file) for index in indices])
    check_invertible(lenses, "camera_mat", indices, names, file)
    if bool((lenses[:, 0, 0].abs() > _NORMALIZED).all()):
        notes.append("the intrinsics are those of camera_mat, because world_mat has none")
        return (lenses @ world)[:, :3]
    # x from -1 to 1 becomes (x + 1) width / 2, counted from the corner; integer centers lie half a pixel before.
    pixels = torch.zeros(len(indices), 3, 4, dtype=torch.float64)
    pixels[:, 0, 0], pixels[:, 1, 1], pixels[:, 2, 2] = sizes[:, 0] / 2, sizes[:, 1] / 2, 1.0
    pixels[:, :2, 2] = sizes / 2 - 0.5
    notes.append("the intrinsics are those of camera_mat, from -1 to 1 across the image, because world_mat has none (files of DVR)")
    return pixels @ lenses @ world


def _check_precision(arrays: dict[str, np.ndarray], indices: Sequence[int], poses: Float[Tensor, "views 4 4"], notes: list[str]) -> None:
    """Add a note if large coordinates in float32 have lost the places of the cameras."""
    if arrays[f"world_mat_{indices[0]}"].dtype.itemsize > 4:
        return
    positions = poses[:, :3, 3]
    step = float(positions.abs().max()) * torch.finfo(torch.float32).eps
    spread = float((positions - positions.mean(0)).norm(dim=-1).median())
    if step > _COARSE * spread:
        notes.append(
            f"the matrices are float32, which holds coordinates of {float(positions.abs().max()):.3g} in steps of {step:.2g}, coarse for "
            f"cameras {spread:.2g} apart; write float64, or poses relative to the object"
        )


def check_invertible(matrices: Float[Tensor, "views 4 4"], kind: str, indices: Sequence[int], names: Sequence[str], file: Path) -> None:
    sane = (matrices.flatten(1).abs() <= _LARGEST_ENTRY).all(-1)
    stretch = torch.linalg.svdvals(torch.where(sane[:, None, None], matrices[:, :3, :3], torch.eye(3, dtype=matrices.dtype)))
    usable = sane & (stretch[:, 2] > _LEAST_STRETCH * stretch[:, 0])
    if not usable.all():
        view = int((~usable).int().argmax())
        raise CaptureError(f"{kind}_{indices[view]} in {file} is singular or not finite; solve the pose of {names[view]} again")


def _scale(arrays: dict[str, np.ndarray], file: Path, notes: list[str]) -> Float[Tensor, "4 4"] | None:
    """Return the map from the unit sphere to the source frame, or None with a note if there is none."""
    keys = sorted((key for key in arrays if key.startswith("scale_mat_")), key=lambda key: int(key[10:]))
    if not keys:
        notes.append(f"{file.name} has no scale_mat, so the region of interest is found from the masks or cameras")
        return None
    scale = _matrix(arrays, keys[0], file)
    linear = scale[:3, :3]
    size = float(torch.linalg.det(torch.nan_to_num(linear)))
    if not bool(scale.isfinite().all()) or size <= 0:
        raise CaptureError(f"{keys[0]} in {file} is not finite or does not scale by a positive number; write [s I | c]")
    unit = linear / size ** (1 / 3)
    if float((unit.mT @ unit - torch.eye(3, dtype=scale.dtype)).abs().max()) > 1e-3:
        raise CaptureError(f"{keys[0]} in {file} scales the axes differently; write one scale s for all: [s I | c]")
    differ = [key for key in keys if not torch.allclose(_matrix(arrays, key, file), scale, rtol=1e-5, atol=1e-6 * size ** (1 / 3))]
    if differ:
        notes.append(f"{differ[0]} differs from {keys[0]}, which is used for all views")
    return scale


def cameras_of(images: Sequence[Path], cameras: Sequence[int], file: Path, notes: list[str]) -> list[int]:
    """Find the camera of each image: in order, or by the number in its name if there are fewer images."""
    if len(images) == len(cameras):
        return list(cameras)
    numbers = [number_in(image) for image in images]
    if len(images) < len(cameras) and len(set(numbers)) == len(numbers) and set(numbers) <= set(cameras):
        notes.append(
            f"{file.name} has {len(cameras)} cameras for {len(images)} images, so each image has the camera of the number in its name "
            f"({images[0].name}: camera {numbers[0]})"
        )
        return [number for number in numbers if number is not None]
    raise CaptureError(
        f"{file} has {len(cameras)} cameras but {images[0].parent} has {len(images)} images; "
        "remove images without a camera, or name each image by the number of its camera"
    )
