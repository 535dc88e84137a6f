"""Options of reading a capture, shared by Python, the command line and ``run.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from unrender.words import CameraAxes, HoldOut, MaskUse, NormalFrame, Up


@dataclass(frozen=True)
class CaptureOptions:
    """Options of reading a capture."""

    downscale: int = 1
    """Average the photos over blocks of this many pixels across and down."""
    center: tuple[float, float, float] | None = None
    """Center of the region of interest, in the frame of the poses; found automatically by default."""
    radius: float | None = None
    """Half the side of the region of interest, in the units of the poses; found automatically by default."""
    up: Up | None = None
    """The upward direction of the frame of the poses: a vector, an axis such as "-y", or "cameras" for the mean of the cameras'."""
    test_every: int | HoldOut = 8
    """Hold out every N-th view if the capture has no split of its own, 0 for none; or split all views by the rule of this name."""
    leave_out: tuple[str, ...] = ()
    """Photos that count as if they were not there: names, with or without folder and ending, in which * stands for anything."""
    normal_maps: Path | None = None
    """A folder of normal images, one for each view, as a prior."""
    normal_maps_frame: NormalFrame = "opengl"
    """The axes of the normals: of the camera with +Y up or +Y down, or of the frame of the poses."""
    masks: MaskUse | None = None
    """What masks and alpha channels do: outline the object, leave dark or transparent pixels out (ignore), or nothing (none)."""
    camera_axes: CameraAxes | None = None
    """The axes of the cameras in the files, if they are not those of the format."""
    principal_shift: tuple[float, float] = (0.0, 0.0)
    """Added to every principal point, in pixels of the photos, for cameras that do not follow the convention of their format."""
    memory: int | str | None = None
    """Memory, in bytes or as 8GB, that the images may take before they are kept in a temporary file; by default half of the machine's."""

    def as_json(self) -> dict[str, Any]:
        """Return the options that differ from their defaults, as values that JSON can hold.

        >>> CaptureOptions(downscale=2, center=(0.0, 0.0, 1.0)).as_json()
        {'downscale': 2, 'center': [0.0, 0.0, 1.0]}
        """
        values = {field.name: value for field, value in zip(fields(self), asdict(self).values(), strict=True) if value != field.default}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        return {name: str(value) if isinstance(value, Path) else value for name, value in plain.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> CaptureOptions:
        """Return the options that :meth:`as_json` wrote.

        >>> CaptureOptions.from_json({"downscale": 2, "center": [0.0, 0.0, 1.0]})
        CaptureOptions(downscale=2, center=(0.0, 0.0, 1.0), radius=None, up=None, test_every=8, leave_out=(), \
normal_maps=None, normal_maps_frame='opengl', masks=None, camera_axes=None, principal_shift=(0.0, 0.0), memory=None)

        Raises:
            TypeError: a name is not an option.
        """
        plain: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        if plain.get("normal_maps") is not None:
            plain["normal_maps"] = Path(plain["normal_maps"])
        return cls(**plain)
