"""Loads a capture of any known format into one :class:`Capture`."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from unrender.cameras import Cameras
from unrender.captures.blender import read_blender
from unrender.captures.capture import Capture, CaptureError
from unrender.captures.images import in_threads, read_masks, read_pixels
from unrender.captures.neus_npz import read_neus
from unrender.captures.normalization import Up, normalize, normalized_poses
from unrender.captures.normals import NormalFrame, read_normals
from unrender.captures.source import Source
from unrender.captures.transforms_json import read_transforms
from unrender.transforms import inverse_similarity, scale_of, transformed

_CAMERA_FILES = ("transforms_train.json", "transforms.json", "cameras_sphere.npz", "cameras.npz")
"""What a folder is recognized by, in order of preference."""

_POINT_FILES = ("points3D.ply", "sparse_points*.ply", "points3D.npz", "sparse_points*.npz", "points.npz")

_ONLY_EXCLUDES = 0.8
"""Masks of a transforms.json that are bright on more than this share of all pixels hide a passer-by; they do not outline an object."""

_LENS_TOLERANCE = 0.01
"""Pixels by which a ray may miss the pixel it was made for before the lens counts as not invertible there."""

_ENDS = 65536
"""Bytes hashed at the beginning and at the end of each file."""


def load_capture(
    path: Path | str,
    *,
    downscale: int = 1,
    center: tuple[float, float, float] | None = None,
    radius: float | None = None,
    up: Up | None = None,
    test_every: int = 8,
    normals: Path | str | None = None,
    normals_frame: NormalFrame = "opengl",
    use_masks: bool = True,
    principal_shift: tuple[float, float] = (0.0, 0.0),
) -> Capture:
    """Reads the posed photos in a folder; the format is recognized by the files in it.

    Blender (``transforms_train.json``), instant-ngp and nerfstudio (``transforms.json``), NeuS and IDR (``cameras_sphere.npz``,
    ``cameras.npz``). :func:`unrender.captures.normalization.normalize` says how the region of interest is found; ``center``, ``radius`` and
    ``up`` replace what it finds and are given in the frame and units of the poses. Lens distortion is kept and followed by the rays.

    Args:
        path: the folder.
        downscale: average blocks of this many pixels across and down.
        center: of the region of interest.
        radius: half the extent of the region of interest.
        up: the upward direction of the frame of the poses.
        test_every: hold out every so-manieth view where the capture brings no split of its own; 0 holds out nothing.
        normals: a folder of normal images, one a view.
        normals_frame: the axes of those normals.
        use_masks: False ignores masks and alpha.
        principal_shift: added to every principal point, in pixels of the photos, where cameras follow another convention than their format:
            a NeuS file whose matrices were multiplied by diag(s, s, 1, 1) for resized photos needs -0.5 (1 - s) for both.

    Raises:
        CaptureError: anything in the folder that cannot be read or does not fit together, in one sentence.
    """
    folder = Path(path)
    camera_file, others = _located(folder)
    source = _source(folder, camera_file, test_every)
    source = replace(source, intrinsics=source.intrinsics + torch.tensor([0.0, 0.0, *principal_shift], dtype=torch.float64))
    notes = list(source.notes)
    if others:
        notes.append(f"read {camera_file} and not {' or '.join(others)}, which is there too")
    colors, masks, ignored = _images(source, downscale, use_masks, notes)
    region = normalize(source, masks, center=center, radius=radius, up=up)
    notes += region.notes
    frame = region.source_from_world
    exact_poses = normalized_poses(source.source_from_camera, frame)
    cameras = _cameras(source, exact_poses, downscale, notes)
    prior = None
    if normals is not None:
        turn = (inverse_similarity(frame)[:3, :3] * scale_of(frame)).float()
        prior, without = read_normals(
            Path(normals),
            source.names,
            width=source.width,
            height=source.height,
            downscale=downscale,
            frame=normals_frame,
            world_from_camera=exact_poses,
            world_from_source=turn,
        )
        if without:
            notes.append(f"{without} of {len(source.names)} views have no normal image")
    points = _points(folder, source)
    options = (downscale, center, radius, up, test_every, str(normals), normals_frame, use_masks, principal_shift)
    return Capture(
        name=folder.resolve().name,
        images=colors,
        masks=masks,
        cameras=cameras,
        names=source.names,
        split=source.split,
        source_from_world=frame,
        unbounded=region.unbounded,
        ignored=ignored,
        normals=prior,
        points=None if points is None else transformed(points, inverse_similarity(frame)).float(),
        fingerprint=_fingerprint(folder, source, None if normals is None else Path(normals), options),
        notes=tuple(notes),
    )


def _located(folder: Path) -> tuple[str, list[str]]:
    """The camera file to read, and the others that are there."""
    if not folder.exists():
        raise CaptureError(f"{folder} does not exist{_suggestion(folder)}; give the folder of a capture")
    if not folder.is_dir():
        hint = f"give its folder {folder.parent}" if folder.name in _CAMERA_FILES else "give the folder of a capture"
        raise CaptureError(f"{folder} is a file; {hint}")
    present = [name for name in _CAMERA_FILES if (folder / name).is_file()]
    if not present:
        raise CaptureError(
            f"{folder} has no camera poses: looked for {', '.join(_CAMERA_FILES)}; give the folder that holds one of them, "
            "or solve the poses of plain photos first"
        )
    return present[0], present[1:]


def _suggestion(missing: Path) -> str:
    parent = missing.absolute().parent
    if not parent.is_dir():
        return _suggestion(parent) if parent != parent.parent else ""
    name = missing.absolute().name
    near = difflib.get_close_matches(name, [entry.name for entry in parent.iterdir()], n=1)
    return f" (did you mean {parent / near[0]}?)" if near else ""


def _source(folder: Path, camera_file: str, test_every: int) -> Source:
    if camera_file == "transforms_train.json":
        return read_blender(folder, test_every=test_every)
    if camera_file == "transforms.json":
        return read_transforms(folder, test_every=test_every)
    return read_neus(folder, folder / camera_file, test_every=test_every)


def _images(
    source: Source, downscale: int, use_masks: bool, notes: list[str]
) -> tuple[UInt8[Tensor, "views rows columns 3"], UInt8[Tensor, "views rows columns"] | None, Bool[Tensor, "views rows columns"] | None]:
    """Colors, masks, and pixels to leave out."""
    pixels = read_pixels(source.images, downscale=downscale, use_alpha=use_masks and source.masks is None, turn=source.turn)
    size = (source.width, source.height)
    masks, ignored = pixels.alphas, None
    if use_masks and source.masks is not None:
        masks = read_masks(source.masks, *size, images=source.images, downscale=downscale, turn=source.turn)
    if any(source.ignored):
        ignored = read_masks(source.ignored, *size, images=source.images, downscale=downscale, turn=source.turn) > 0
        notes.append("pixels that are bright in the dynamic masks are left out")
    if (
        masks is not None
        and source.form == "transforms"
        and source.masks is not None
        and float(masks.float().mean()) > 255 * _ONLY_EXCLUDES
    ):
        dark = masks < 128
        ignored = dark if ignored is None else ignored | dark
        masks = None
        notes.append("the masks are bright nearly everywhere, so they leave pixels out; they do not outline an object")
    if masks is None and use_masks:
        notes.append("there are no masks: the surroundings are fitted too")
    return pixels.colors, masks, ignored


def _cameras(source: Source, poses: Float[Tensor, "views 4 4"], downscale: int, notes: list[str]) -> Cameras:
    cameras = Cameras(
        world_from_camera=poses.float(),
        intrinsics=source.intrinsics.float(),
        distortion=source.distortion.float(),
        width=source.width,
        height=source.height,
        lens=source.lens,
    )
    if cameras.has_distortion:
        notes.append("lens distortion is followed by the rays; the images are not resampled")
        missed = _uninvertible(cameras)
        if missed > 0:
            notes.append(f"the lens polynomial folds back at {missed:.1%} of the image border, where rays are wrong; refit the lens")
    return cameras.downscaled(downscale)


def _uninvertible(cameras: Cameras) -> float:
    """Share of the first image's border at which the lens polynomial has no inverse."""
    x, y = torch.linspace(0, cameras.width, 65), torch.linspace(0, cameras.height, 65)
    zero = torch.zeros(65)
    border = torch.cat([torch.stack(pair, -1) for pair in ((x, zero), (x, zero + cameras.height), (zero, y), (zero + cameras.width, y))])
    rays = cameras.rays(torch.zeros(len(border), dtype=torch.int64), border)
    again, _ = cameras.project(rays.origins + rays.directions, 0)
    return float(((again - border).norm(dim=-1) > _LENS_TOLERANCE).float().mean())


def _points(folder: Path, source: Source) -> Float[Tensor, "points 3"] | None:
    """Points from structure from motion in the source frame, float64."""
    file = source.points or next((match for pattern in _POINT_FILES for match in sorted(folder.glob(pattern))), None)
    if file is None:
        return None
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


def _fingerprint(folder: Path, source: Source, normals: Path | None, options: Sequence[object]) -> str:
    """SHA-256 over the options and each file's name below the capture, size, first and last 64 KiB."""
    files = [*source.files, *source.images, *(source.masks or ()), *(file for file in source.ignored if file is not None)]
    if normals is not None:
        files += sorted(file for file in normals.rglob("*") if file.is_file())

    def digest(file: Path) -> bytes:
        size = file.stat().st_size
        with file.open("rb") as stream:
            content = stream.read(_ENDS)
            if size > 2 * _ENDS:
                stream.seek(size - _ENDS)
            content += stream.read(_ENDS)
        name = file.relative_to(folder).as_posix() if file.is_relative_to(folder) else file.name
        return hashlib.sha256(f"{name}\n{size}\n".encode() + content).digest()

    whole = hashlib.sha256(repr(tuple(options)).encode())
    for part in in_threads(digest, files):
        whole.update(part)
    return whole.hexdigest()
