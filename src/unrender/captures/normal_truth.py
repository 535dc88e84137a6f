"""True normals of the views of a capture, from images, for evaluation.

Renderers store normals in images in two ways, which are told apart by the lengths of the vectors that they give:

- color = (n + 1) / 2 (Shiny Blender, and most others);
- color = max(n, 0), which Blender writes without a remapping node. A component that is not positive is lost. Where one is lost,
  n = (a, b, −√(1 − a² − b²)) is known all the same, because normals have unit length; where two are lost, it is not.

Either may have been encoded as sRGB, as if it were light; NeRF-synthetic has sRGB of max(n, 0).

Visible surfaces face the camera. This tells in which axes the normals are: those of the poses or those of the camera.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from unrender.captures.capture import Capture
from unrender.captures.decoding import image_files
from unrender.captures.errors import CaptureError
from unrender.captures.normals import normal_files, read_normal_image
from unrender.captures.reading import is_folder
from unrender.color import linear_from_srgb, srgb_from_linear
from unrender.numerics import normalized
from unrender.transforms import scale_of
from unrender.words import TruthFrame


class Encoding(NamedTuple):
    """How colors stand for normals."""

    clipped: bool
    """max(n, 0) rather than (n + 1) / 2."""
    srgb: bool
    """Encoded as sRGB."""

    @property
    def name(self) -> str:
        """The formula, for a note."""
        return ("sRGB of " if self.srgb else "") + ("max(n, 0)" if self.clipped else "(n + 1) / 2")


ENCODINGS = tuple(Encoding(clipped, srgb) for clipped in (False, True) for srgb in (False, True))

_FRAMES: Mapping[TruthFrame, str] = {
    "source": "the axes of the poses",
    "opengl": "the camera's axes with +Y up",
    "opencv": "the camera's axes with +Y down",
}

_SUFFIXES = ("_normal_0000.png", "_normal.png")
"""What follows the stem of a photo in the names of normal images that captures bring: NeRF-synthetic and Shiny Blender."""

_BACKGROUNDS = (0.0, 0.5, float(srgb_from_linear(torch.tensor(0.5))), 1.0)
"""Gray values beside the object: black, white, and those that stand for the zero vector."""

_TOLERANCE = 0.1
"""Deviation from unit length of a vector that counts. Where two surfaces are averaged in a pixel, it is shorter."""

_RIGHT_SHARE, _LEAD = 0.75, 0.25
"""Share of unit vectors of the right encoding, and how much lower that of every other encoding is."""

_FACING = 0.9
"""Share of normals that face the camera in the right axes."""

_CLEARLY = 0.05
"""How much lower this share is in other axes."""

_SAME_ANGLE = 2.0
"""Mean angle, in degrees, below which two axes do not differ."""

_FEWEST = 50
"""Fewest vectors by which an encoding is recognized."""

_MOST_VIEWS = 8
"""Views by which encoding and axes are recognized."""


@dataclass(frozen=True)
class NormalTruth:
    """Images of true normals, and how they are to be read."""

    files: tuple[Path | None, ...]
    """One for each view of the capture."""
    encoding: Encoding
    frame: TruthFrame
    note: str
    """A sentence on how they were understood."""

    def normals(self, capture: Capture, view: int) -> Float[Tensor, "height width 3"]:
        """Return unit normals in the world, zero where they are unknown.

        Raises:
            CaptureError: the image cannot be read or does not fit the photo.
        """
        file = self.files[view]
        if file is None:
            return torch.zeros(*capture.mask(view).shape, 3)
        image = _read(file, capture, view)
        normals = decoded(image.color, self.encoding) * image.inside[..., None]
        if image.block > 1:
            normals = F.avg_pool2d(normals.permute(2, 0, 1)[None], image.block)[0].permute(1, 2, 0)
            normals = normalized(normals) * (normals.norm(dim=-1, keepdim=True) > 1 - _TOLERANCE)
        return normals @ _world_from_frame(capture, view, self.frame).T


def bundled_normals(images: Sequence[Path]) -> tuple[Path | None, ...]:
    """Find the normal images that lie beside the photos of a capture; empty if there are none."""
    listings = {folder: frozenset(image_files(folder)) for folder in {image.parent for image in images}}
    candidates = [[image.with_name(image.stem + suffix) for suffix in _SUFFIXES] for image in images]
    files = tuple(next((file for file in some if file in listings[file.parent]), None) for some in candidates)
    return tuple(None if file is None else file.absolute() for file in files) if any(files) else ()


def understood_normals(
    capture: Capture, views: Sequence[int], *, folder: Path | None = None, frame: TruthFrame | None = None
) -> NormalTruth:
    """Find the images of true normals of some views, and how they are to be read.

    Args:
        capture: the photos, which bring the images if ``folder`` is None.
        views: the views that will be compared.
        folder: holds the images, whose names are those of the photos, also followed by ``_normal``.
        frame: axes of the normals, where they cannot be told.

    Raises:
        CaptureError: there are no images of these views, they cannot be read, or their encoding or axes cannot be told.
    """
    if frame == "normalized":
        raise CaptureError("normal maps are in the axes of the poses or the cameras; give --truth-frame source, opengl or opencv")
    if folder is not None and not is_folder(folder):
        raise CaptureError(f"the folder of normal maps {folder} does not exist; give the folder that holds one image for each view")
    files = capture.normal_files
    if folder is not None:  # names need to differ among these views only
        there = dict(zip(views, normal_files(folder, [capture.names[view] for view in views]), strict=True))
        files = tuple(there.get(view) for view in range(len(capture)))
    found = [view for view in views if files[view] is not None]
    if not found:
        stem = Path(capture.names[views[0]]).stem
        raise CaptureError(f"no image in {folder} has the name of one of the {len(views)} views (such as {stem}.png); rename the images")
    some = found[:: -(-len(found) // _MOST_VIEWS)]
    place = folder or capture.name
    images = {view: _read(file, capture, view) for view in some if (file := files[view]) is not None}
    encoding = _encoding_of([image.color[image.inside] for image in images.values()], place)
    shares = _facing(capture, files, some, encoding)
    frame = frame or _frame_of(shares, place)
    partly = "" if len(found) == len(views) else f", of {len(found)} of {len(views)} views,"
    used = ", used where at most one component was clipped" if encoding.clipped else ""
    note = f"the normal maps{partly} were read as {encoding.name} in {_FRAMES[frame]}{used}; {shares[frame][0]:.0%} face the camera"
    return NormalTruth(files, encoding, frame, note)


def decoded(color: Float[Tensor, "*shape 3"], encoding: Encoding) -> Float[Tensor, "*shape 3"]:
    """Decode colors from 0 to 1 to unit normals, zero where they are unknown.

    >>> decoded(torch.tensor([[0.5, 0.5, 1.0]]), Encoding(clipped=False, srgb=False))[0].tolist()
    [0.0, 0.0, 1.0]
    >>> (decoded(torch.tensor([[0.36, 0.48, 0.0], [1.0, 0.0, 0.0]]), Encoding(clipped=True, srgb=False)) * 100).round().tolist()
    [[36.0, 48.0, -80.0], [0.0, 0.0, 0.0]]
    """
    vector = _vectors(color, encoding)
    length = vector.norm(dim=-1)
    known = (length - 1).abs() < _TOLERANCE
    if encoding.clipped:
        lost = color == 0
        one_lost = (lost.sum(-1) == 1) & (length < 1 + _TOLERANCE)
        rest = (1 - length**2).clamp_min(0).sqrt()[..., None]
        vector = torch.where(one_lost[..., None] & lost, -rest, vector)
        known = torch.where(one_lost, True, known & ~lost.any(-1))
    return normalized(vector) * known[..., None]


def _vectors(color: Float[Tensor, "*shape 3"], encoding: Encoding) -> Float[Tensor, "*shape 3"]:
    """Return what colors stand for, of any length; lost components are zero."""
    values = linear_from_srgb(color) if encoding.srgb else color
    return values if encoding.clipped else 2 * values - 1


@dataclass(frozen=True)
class _Image:
    """A normal image as it is stored."""

    color: Float[Tensor, "rows columns 3"]
    inside: Bool[Tensor, "rows columns"]
    """Where it is opaque and the photo shows the object."""
    block: int
    """Its size divided by that of the photo."""


def _read(file: Path, capture: Capture, view: int) -> _Image:
    """Read a normal image, which may be an integer number of times as large as the photo.

    Raises:
        CaptureError: the image cannot be read, or its size does not fit.
    """
    rgba = read_normal_image(file)
    inside = capture.mask(view).cpu() == 255
    (height, width), (rows, columns) = inside.shape, rgba.shape[:2]
    block = rows // height
    if block < 1 or (rows // block, columns // block) != (height, width):
        raise CaptureError(
            f"the normal map {file} is {columns}x{rows} but the photo {capture.names[view]} is {width}x{height}; resize one to the other"
        )
    rgba = rgba[: height * block, : width * block]
    inside = inside.repeat_interleave(block, 0).repeat_interleave(block, 1)
    return _Image(rgba[..., :3].float() / 255, inside & (rgba[..., 3] == 255), block)


def _encoding_of(images: Sequence[Float[Tensor, "_ 3"]], place: Path | str) -> Encoding:
    """Tell the encoding of colors by the share of vectors of unit length.

    Raises:
        CaptureError: no encoding, or more than one, makes unit vectors of them.
    """
    colors = torch.cat(list(images))
    for background in _BACKGROUNDS:
        colors = colors[((colors - background).abs() > 1.5 / 255).any(-1)]
    whole = (colors > 0).all(-1)
    shares: dict[Encoding, float] = {}
    for encoding in ENCODINGS:
        length = _vectors(colors, encoding).norm(dim=-1)
        unit = (length - 1).abs() < _TOLERANCE
        # A vector that lost components is shorter than one; only those that lost none say how long they were.
        tests = (length < 1 + _TOLERANCE, unit[whole]) if encoding.clipped else (unit,)
        shares[encoding] = min(float(test.float().mean()) if len(test) >= _FEWEST else 0.0 for test in tests)
    (best, share), (_, second) = sorted(shares.items(), key=lambda item: -item[1])[:2]
    if share < _RIGHT_SHARE or share - second < _LEAD:
        listed = ", ".join(f"{value:.0%} as {encoding.name}" for encoding, value in shares.items())
        raise CaptureError(
            f"the encoding of the normal maps of {place} cannot be told from the share of their colors that are unit vectors ({listed}); "
            "store them as (n + 1) / 2"
        )
    return best


def _facing(
    capture: Capture, files: Sequence[Path | None], views: Sequence[int], encoding: Encoding
) -> dict[TruthFrame, tuple[float, Float[Tensor, "normals 3"]]]:
    """Return, for each frame, the share of normals that face the camera, and these normals in the world."""
    found: dict[TruthFrame, tuple[float, Tensor]] = {}
    for frame in _FRAMES:
        truth = NormalTruth(tuple(files), encoding, frame, "")
        normals, rays = [], []
        for view in views:
            there = truth.normals(capture, view).reshape(-1, 3)
            known = there.any(-1)
            normals.append(there[known])
            rays.append(capture.cameras[view].image_rays(0).directions.cpu()[known])
        world = torch.cat(normals)
        found[frame] = float(((world * torch.cat(rays)).sum(-1) < 0).float().mean()), world
    return found


def _frame_of(shares: Mapping[TruthFrame, tuple[float, Tensor]], place: Path | str) -> TruthFrame:
    """Tell the axes of normals by the share that faces the camera.

    Raises:
        CaptureError: in no axes do they, or in two that differ.
    """
    ranked = sorted(shares, key=lambda frame: -shares[frame][0])
    best, (share, normals) = ranked[0], shares[ranked[0]]
    listed = ", ".join(f"{shares[frame][0]:.0%} in {_FRAMES[frame]}" for frame in ranked)
    if not share >= _FACING:
        raise CaptureError(f"the normals of {place} do not face the cameras ({listed}); give maps of these views")
    for other in ranked[1:]:
        cosine = (normals * shares[other][1]).sum(-1).clamp(-1, 1)
        if share - shares[other][0] < _CLEARLY and float(cosine.acos().rad2deg().mean()) > _SAME_ANGLE:
            raise CaptureError(f"the axes of the normals of {place} cannot be told ({listed} face the cameras); give --truth-frame")
    return best


def _world_from_frame(capture: Capture, view: int, frame: TruthFrame) -> Float[Tensor, "3 3"]:
    """Return the rotation from the axes of stored normals to the world."""
    if frame == "source":
        similarity = capture.source_from_world.cpu()
        return (similarity[:3, :3] / scale_of(similarity)).T.float()
    rotation = capture.cameras.world_from_camera[view, :3, :3].cpu().float()
    return rotation * torch.tensor([1.0, -1.0, -1.0]) if frame == "opengl" else rotation
