"""Normal maps of a predictor or renderer as a prior: one image per view, color = (n + 1) / 2.

Maps that are the truth, for evaluation, are read by :mod:`unrender.captures.normal_truth`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from unrender.captures.decoding import image_files
from unrender.captures.errors import CaptureError
from unrender.captures.images import ImageMemory, Images, in_threads
from unrender.captures.photos import read_photo
from unrender.captures.reading import is_folder
from unrender.numerics import normalized
from unrender.words import NormalFrame

_KNOWN = 0.5
"""Decoded vectors shorter than this are background: gray encodes zero, and blurred borders are short."""


def read_normals(
    folder: Path,
    names: Sequence[str],
    *,
    sizes: Int[Tensor, "views 2"],
    downscale: int,
    frame: NormalFrame,
    world_from_camera: Float[Tensor, "views 4 4"],
    world_from_source: Float[Tensor, "3 3"],
    memory: ImageMemory,
) -> tuple[Images, int]:
    """Read unit normals in the world frame, zero where unknown, and count the views that have none.

    An image belongs to the view whose file name has the same stem, or the same stem followed by ``_normal``; if views in several folders
    share a stem, put the images into folders of the same names.

    Args:
        folder: folder of the normal images.
        names: names of the views, as in :attr:`Capture.names`.
        sizes: sizes of the photos before downscaling, and of the normal images.
        downscale: as in :func:`unrender.captures.photos.read_photos`.
        frame: see :data:`NormalFrame`.
        world_from_camera: poses in the normalized world.
        world_from_source: the rotation of the normalization.
        memory: decides whether the normals are kept in memory or on disk.

    Raises:
        CaptureError: no such folder, no image that belongs to a view, or an image of another size.
    """
    if not is_folder(folder):
        raise CaptureError(f"the folder of normals {folder} does not exist; give the folder that holds one image for each view")
    files = normal_files(folder, names)
    found = [view for view, file in enumerate(files) if file is not None]
    if not found:
        raise CaptureError(f"no image in {folder} has the name of a view (such as {Path(names[0]).stem}.png); rename the normal images")
    normals = memory.empty(sizes // downscale, (3,), torch.float32)
    flip = torch.tensor([1.0, -1.0, -1.0] if frame == "opengl" else [1.0, 1.0, 1.0])

    def read(view: int) -> None:
        file = files[view]
        if file is None:
            normals[view].zero_()
            return
        rgba = read_normal_image(file)
        (width, height), (rows, columns) = sizes[view].tolist(), rgba.shape[:2]
        if (rows, columns) != (height, width):
            raise CaptureError(f"the normal image {file} is {columns}x{rows} but its photo is {width}x{height}; resize one to the other")
        vectors = (rgba[..., :3].float() * (2 / 255) - 1) * (rgba[..., 3:] >= 128)
        vectors = vectors * (vectors.norm(dim=-1, keepdim=True) > _KNOWN)
        vectors = F.avg_pool2d(vectors.permute(2, 0, 1)[None], downscale)[0].permute(1, 2, 0)
        known = vectors.norm(dim=-1, keepdim=True) > _KNOWN
        rotation = world_from_source if frame == "world" else world_from_camera[view, :3, :3]
        normals[view].copy_(normalized((vectors * flip) @ rotation.to(vectors).T) * known)

    in_threads(read, range(len(names)))
    return normals, len(names) - len(found)


def read_normal_image(file: Path) -> UInt8[Tensor, "height width 4"]:
    """Read the colors of a normal image as they are stored.

    Raises:
        CaptureError: the file cannot be read, or is OpenEXR.
    """
    if file.suffix.lower() == ".exr":
        raise CaptureError(f"the normal image {file} is OpenEXR, which is not read; convert it to PNG with the color (n + 1) / 2")
    return torch.tensor(read_photo(file)[0])


def normal_files(folder: Path, names: Sequence[str]) -> list[Path | None]:
    """Find the normal image of each view in a folder, by the rule of :func:`read_normals`; None where there is none.

    In a folder that holds images with ``_normal`` in their names, the others are photos.
    """
    listings: dict[Path, dict[str, Path]] = {}

    def listing(place: Path) -> dict[str, Path]:
        if place not in listings:
            images = image_files(place) if is_folder(place) else []
            images = [image for image in images if "_normal" in image.stem] or images
            listings[place] = {image.stem.split("_normal")[0]: image for image in images}
        return listings[place]

    stems = [Path(name).stem for name in names]
    nested = [listing((folder / name).parent).get(stem) for name, stem in zip(names, stems, strict=True)]
    if any(nested) or len(set(stems)) < len(stems):
        return nested
    return [listing(folder).get(stem) for stem in stems]
