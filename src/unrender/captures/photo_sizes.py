"""The size of a photo for which its camera holds: upright or as stored, smaller or larger than the one that was calibrated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unrender.captures.errors import CaptureError
from unrender.captures.photos import image_size


@dataclass(frozen=True)
class PhotoSize:
    """The two sizes of a photo: after EXIF orientation, and as stored."""

    path: Path
    shown: tuple[int, int]
    stored: tuple[int, int]

    @classmethod
    def read(cls, path: Path) -> PhotoSize:
        """Read both from the header of a file."""
        return cls(path, image_size(path), image_size(path, apply_exif=False))


def fitting_size(
    photo: PhotoSize, stated: tuple[float, float] | None, file: Path, *, as_stored: bool = False
) -> tuple[tuple[int, int], bool]:
    """Decide the size of a photo, and whether to apply its EXIF orientation.

    Args:
        photo: the photo.
        stated: width and height that the cameras hold for, up to a scale; None if they are not known.
        file: the file that states them, for messages.
        as_stored: whether the program that solved the cameras ignores the orientation, so that it is applied only if the size as stored
            does not fit; otherwise it is applied unless only the size as stored fits.

    Raises:
        CaptureError: the photo has another shape.
    """
    ways = ((photo.shown, True), (photo.stored, False))
    for size, apply_exif in reversed(ways) if as_stored else ways:
        if stated is None or same_shape(stated, size):
            return size, apply_exif
    assert stated is not None
    other = "turned by 90 degrees" if same_shape((stated[1], stated[0]), photo.shown) else "another shape"
    raise CaptureError(
        f"{file} gives w and h as {stated[0]:g}x{stated[1]:g} but {photo.path.name} is {photo.shown[0]}x{photo.shown[1]}, {other}; "
        "correct w and h, or use the photos the cameras were solved on"
    )


def same_shape(stated: tuple[float, float], size: tuple[int, int]) -> bool:
    """Tell whether two sizes are equal up to a scale, where each side may have been rounded.

    >>> same_shape((4032.0, 3024.0), (504, 378)), same_shape((1000.0, 500.0), (333, 167)), same_shape((640.0, 480.0), (480, 640))
    (True, True, False)
    """
    if min(stated) <= 0:
        return False
    across, down = size[0] / stated[0], size[1] / stated[1]
    return abs(across - down) <= max(across, down) * (1 / min(size) + 1 / min(stated))
