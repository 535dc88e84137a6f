"""What readers of camera files share: photos by the names in a file, with poses and lenses, become a :class:`Source`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from numpy.typing import ArrayLike
from torch import Tensor

from unrender.captures.errors import CaptureError
from unrender.captures.images import in_threads
from unrender.captures.lenses import plausible_intrinsics
from unrender.captures.photo_files import IMAGE_FOLDERS, MASK_FOLDERS, PhotoFinder, unread_message
from unrender.captures.photo_sizes import PhotoSize, fitting_size
from unrender.captures.photos import image_files
from unrender.captures.reading import is_folder
from unrender.captures.source import Source, held_out, opencv_from, rigid_motions
from unrender.transforms import matrix_from_wxyz
from unrender.words import CameraAxes

CENTER = 0.5
"""What is added to a principal point for which pixel centers are integers."""

_MOST_SKEW = 0.5
"""Largest shift of the image border, in pixels, for which skew is ignored."""


@dataclass(frozen=True)
class Lens:
    """Intrinsics as a file states them, with pixel centers at +0.5."""

    focal: tuple[float, float]
    center: tuple[float, float] | None = None
    """The principal point from the upper left corner; None is the middle of the photo."""
    size: tuple[float, float] | None = None
    """Width and height of the photo for which the numbers hold; None if the file does not say."""
    distortion: tuple[float, float, float, float, float, float] = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    """k1, k2, k3, k4, p1, p2 of :class:`unrender.cameras.Cameras`."""
    fisheye: bool = False
    skew: float = 0.0
    """How far a column leans over, in columns per row; tolerated up to half a pixel."""
    relative: bool = False
    """Whether lengths are shares of the longer side of the photo, and the principal point is counted from its middle."""

    def in_pixels(self, size: tuple[int, int]) -> list[float]:
        """Return fx, fy, cx, cy in pixels of a photo of a size.

        >>> Lens((0.5, 0.5), (0.0, 0.25), relative=True).in_pixels((8, 6))
        [4.0, 4.0, 4.0, 5.0]
        >>> Lens((8.0, 8.0), size=(16.0, 12.0)).in_pixels((8, 6))
        [4.0, 4.0, 4.0, 3.0]
        """
        width, height = self.size or size
        across, down = size[0] / width, size[1] / height
        unit = max(width, height) if self.relative else 1.0
        x, y = (width / 2, height / 2) if self.relative or self.center is None else (0.0, 0.0)
        cx, cy = self.center or (0.0, 0.0)
        return [self.focal[0] * unit * across, self.focal[1] * unit * down, (cx * unit + x) * across, (cy * unit + y) * down]


def pinhole(matrix: Float[ndarray, "3 3"], what: str, *, shift: float = CENTER, size: tuple[float, float] | None = None) -> Lens:
    """Return the lens of an upper triangular matrix K.

    Args:
        matrix: K; it is divided by its last element.
        what: names the matrix in messages.
        shift: added to the principal point: 0.5 if pixel centers are integers, 0 if they are at +0.5.
        size: of the photos for which K holds.

    Raises:
        CaptureError: the matrix is not upper triangular.
    """
    if not matrix[2, 2] or not np.abs([matrix[1, 0], matrix[2, 0], matrix[2, 1]]).max() <= 1e-6 * abs(matrix[0, 0]):
        raise CaptureError(f"{what} is not upper triangular; write fx s cx, 0 fy cy, 0 0 1")
    (fx, skew, cx), (_, fy, cy), _ = (matrix / matrix[2, 2]).tolist()
    return Lens((fx, fy), (cx + shift, cy + shift), size, skew=skew / fy if fy else 0.0)


@dataclass(frozen=True)
class PosedPhoto:
    """A photo that a file of cameras names."""

    name: str | Path
    """As written; a path if the reader has listed the file itself."""
    matrix: Float[ndarray, "4 4"]
    """The pose; readers say from which frame to which."""
    lens: Lens
    mask: str | None = None
    """The mask that outlines the object, as written; all photos have one or none has."""


def affine(rotation: ArrayLike, translation: ArrayLike) -> Float[ndarray, "4 4"]:
    """Return [R t; 0 0 0 1] from nine and three numbers, rows first."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = np.reshape(rotation, (3, 3)), np.reshape(translation, 3)
    return matrix


def rotation_about(w: float, x: float, y: float, z: float) -> Float[ndarray, "3 3"]:
    """Return the rotation matrix of a quaternion, which is normalized first."""
    return matrix_from_wxyz(torch.tensor([w, x, y, z], dtype=torch.float64)).numpy()


def posed_source(
    folder: Path,
    file: Path,
    photos: Sequence[PosedPhoto],
    test_every: int,
    *,
    axes: CameraAxes = "opencv",
    camera_from_source: bool = False,
    places: Sequence[str] = (),
    as_stored: bool = True,
    is_photo: Callable[[Path], bool] = lambda path: True,
    files: Sequence[Path] = (),
    notes: Sequence[str] = (),
) -> Source:
    """Find the photos, bring poses and intrinsics into the form of a source, and hold out every N-th view.

    Photos that are listed but absent are left out with a note if they are fewer than half. Photos beside the others that no camera is for
    are named in a note.

    Args:
        folder: of the capture.
        file: of the cameras, for messages.
        photos: what it lists.
        test_every: hold out every N-th view; 0 holds out none.
        axes: of the cameras.
        camera_from_source: whether the matrices map points to cameras, rather than cameras to points.
        places: folders below ``folder`` in which photos are looked for first; afterwards they are looked for by the name as written.
        as_stored: whether cameras are of photos before EXIF orientation, unless their size says otherwise.
        is_photo: whether an image file beside the photos is one.
        files: the files of the cameras, if they are several.
        notes: what the reader has decided.

    Raises:
        CaptureError: no photos, photos that are missing or of another shape, masks of some photos only, a pose that is not a
            rigid motion, or an implausible or skewed lens.
    """
    if not photos:
        raise CaptureError(f"{file} has no camera with a pose; a capture needs at least one view")
    finder = PhotoFinder(folder)
    found = [photo.name if isinstance(photo.name, Path) else _find(finder, photo.name, places) for photo in photos]
    listed = [(photo, image) for photo, image in zip(photos, found, strict=True) if image is not None]
    absent = [str(photo.name) for photo, image in zip(photos, found, strict=True) if image is None]
    if 2 * len(absent) >= len(photos):
        raise missing_files(finder, absent, len(photos), "image", file)
    said = list(notes)
    if absent:
        said.append(f"{len(absent)} of the {len(photos)} cameras have no photo and were left out ({first_three(absent)})")
    if finder.moved:
        said.append(moved_note(finder, file, listed[0][1]))
    masks = _masks(finder, [photo for photo, _ in listed], places, file)
    images = tuple(image for _, image in listed)
    names = tuple(name_below(folder, image) for image in images)
    said += _without_camera(images, is_photo)
    matrices = torch.from_numpy(np.stack([photo.matrix for photo, _ in listed]).astype(np.float64))
    poses, repairs = rigid_motions(matrices, names, file)
    lenses = [photo.lens for photo, _ in listed]
    headers = in_threads(PhotoSize.read, images)
    sized = [fitting_size(photo, lens.size, file, as_stored=as_stored) for photo, lens in zip(headers, lenses, strict=True)]
    said += scaling_notes([size for size, _ in sized], [lens.size for lens in lenses], file)
    sizes, fisheye = torch.tensor([size for size, _ in sized]), torch.tensor([lens.fisheye for lens in lenses])
    skewed = [name for name, lens, (size, _) in zip(names, lenses, sized, strict=True) if not abs(lens.skew) * size[1] / 2 <= _MOST_SKEW]
    if skewed:
        raise CaptureError(f"the matrix of {skewed[0]} in {file} has skewed pixels, which no camera here has; check it")
    numbers = [lens.in_pixels(size) for lens, (size, _) in zip(lenses, sized, strict=True)]
    intrinsics, doubts = plausible_intrinsics(torch.tensor(numbers, dtype=torch.float64), sizes, fisheye, names, file)
    return Source(
        files=tuple(files) or (file,),
        names=names,
        images=images,
        source_from_camera=(inverse_motions(poses) if camera_from_source else poses) * opencv_from(axes),
        intrinsics=intrinsics,
        distortion=torch.tensor([lens.distortion for lens in lenses], dtype=torch.float64),
        sizes=sizes,
        fisheye=fisheye,
        apply_exif=tuple(apply for _, apply in sized),
        split=held_out(names, test_every),
        masks=masks,
        camera_axes=axes,
        notes=(*said, *repairs, *doubts),
    )


def inverse_motions(poses: Float[Tensor, "views 4 4"]) -> Float[Tensor, "views 4 4"]:
    """Invert rigid motions: [R t] becomes [Rᵀ -Rᵀ t]."""
    inverse = poses.clone()
    inverse[:, :3, :3] = poses[:, :3, :3].mT
    inverse[:, :3, 3:] = -poses[:, :3, :3].mT @ poses[:, :3, 3:]
    return inverse


def _masks(finder: PhotoFinder, photos: Sequence[PosedPhoto], places: Sequence[str], file: Path) -> tuple[Path, ...] | None:
    """Find the masks of photos; None if no photo has one."""
    written = [photo.mask for photo in photos if photo.mask is not None]
    if not written:
        return None
    without = next((photo.name for photo in photos if photo.mask is None), None)
    if without is not None:
        raise CaptureError(f"{file} gives a mask to some photos but not to {without}; give one to all or to none")
    found = [_find(finder, name, (*places, *MASK_FOLDERS)) for name in written]
    absent = [name for name, mask in zip(written, found, strict=True) if mask is None]
    if absent:
        raise missing_files(finder, absent, len(written), "mask", file)
    return tuple(mask for mask in found if mask is not None)


def _find(finder: PhotoFinder, written: str, places: Sequence[str]) -> Path | None:
    """Find a file in one of the places, by its name as written, or where photos usually are."""

    def within(places: Sequence[str]) -> Path | None:
        there = (place for place in places if is_folder(finder.path(f"{place}/{written}").parent))
        return next((found for place in there if (found := finder.find(f"{place}/{written}")) is not None), None)

    return within(places) or finder.find(written) or within(IMAGE_FOLDERS)


def _without_camera(images: Sequence[Path], is_photo: Callable[[Path], bool]) -> list[str]:
    """Return a note that names photos in the same folders that have no camera."""
    known = {os.path.normpath(image) for image in images}
    places = dict.fromkeys(image.parent for image in images)
    others = [image.name for place in places for image in image_files(place) if os.path.normpath(image) not in known and is_photo(image)]
    return [f"{len(others)} photos have no camera and are not used ({first_three(others)})"] if others else []


def missing_files(finder: PhotoFinder, missing: Sequence[str], total: int, kind: str, file: Path) -> CaptureError:
    """Return the error that names files which a file of cameras lists and nobody finds."""
    unread = next((path for name in missing if (path := finder.unread(name)) is not None), None)
    if unread is not None:
        return CaptureError(unread_message(unread))
    return CaptureError(
        f"{len(missing)} of the {total} {kind} files that {file} lists do not exist ({first_three(missing)}); "
        f"put them below {finder.folder} or take their frames out"
    )


def moved_note(finder: PhotoFinder, file: Path, image: Path) -> str:
    """Return the note about files that were found by the ends of their paths."""
    return (
        f"{len(finder.moved)} paths of {file.name} lead nowhere here, so their files were found by the ends of the paths "
        f"({first_three(finder.moved[:1])} is {name_below(finder.folder, image)})"
    )


def scaling_notes(sizes: Sequence[tuple[int, int]], stated: Sequence[tuple[float, float] | None], file: Path) -> list[str]:
    """Return a note if photos have another size than the one their intrinsics are for."""
    scaled = {size for size, wanted in zip(sizes, stated, strict=True) if wanted not in (None, size)}
    if not scaled:
        return []
    found = f"the photos' {'x'.join(map(str, scaled.pop()))}" if len(scaled) == 1 else "the size of each photo"
    return [f"intrinsics were scaled from the w and h of {file.name} to {found}"]


def place_of(folder: Path, file: Path) -> tuple[str, ...]:
    """Return the folder of a file of cameras as a place to look for photos.

    It is relative to the folder of the capture, and empty if it is that one.
    """
    return () if file.parent == folder else (file.parent.relative_to(folder).as_posix(),)


def first_three(names: Sequence[str]) -> str:
    """Return the first names of a list, as messages show them."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def name_below(folder: Path, image: Path) -> str:
    """Return the path of an image below the capture's folder, with forward slashes."""
    try:
        return image.relative_to(folder).as_posix()
    except ValueError:
        return image.as_posix()
