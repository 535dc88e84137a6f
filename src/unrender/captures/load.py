"""Loading of captures of any known format."""

from __future__ import annotations

import difflib
import hashlib
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import overload

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.cameras import Cameras
from unrender.captures.capture import Capture, CaptureError
from unrender.captures.checks import check_options, check_world, checked_source
from unrender.captures.decoding import format_notes
from unrender.captures.errors import printable
from unrender.captures.formats import FORMATS, Format
from unrender.captures.hold_out import EVERY, split_by_rule
from unrender.captures.images import ImageMemory, Images, in_threads
from unrender.captures.leaving_out import without
from unrender.captures.mask_names import with_masks_of_names
from unrender.captures.masks import read_pictures
from unrender.captures.memory import bytes_of
from unrender.captures.normal_truth import bundled_normals
from unrender.captures.normalization import normalize, normalized_poses
from unrender.captures.normals import read_normals
from unrender.captures.options import CaptureOptions
from unrender.captures.photo_files import is_video
from unrender.captures.points import points_file, read_points
from unrender.captures.reading import entries, is_folder, is_regular_file, reason, size_and_ends
from unrender.captures.silhouettes import outline, outline_block
from unrender.captures.source import Source
from unrender.captures.true_poses import true_poses
from unrender.transforms import inverse_similarity, scale_of, transformed
from unrender.words import CameraAxes, HoldOut, MaskUse, NormalFrame, Up, is_out_of_memory

_LENS_TOLERANCE = 0.01
"""Reprojection error of a ray, in pixels, above which the lens counts as not invertible."""

_NAMED_FORMATS = 6
"""Formats whose files are named where none is found."""


def load_capture(
    path: Path | str,
    *,
    downscale: int = 1,
    center: tuple[float, float, float] | None = None,
    radius: float | None = None,
    up: Up | None = None,
    test_every: int | HoldOut = EVERY,
    leave_out: Sequence[str] = (),
    normal_maps: Path | str | None = None,
    normal_maps_frame: NormalFrame = "opengl",
    masks: MaskUse | None = None,
    camera_axes: CameraAxes | None = None,
    principal_shift: tuple[float, float] = (0.0, 0.0),
    memory: int | str | None = None,
) -> Capture:
    """Read the posed photos in a folder; the format is recognized by the files in it.

    docs/captures.md lists the formats. :func:`unrender.captures.normalization.normalize` describes how the region of interest is found;
    ``center``, ``radius`` and ``up`` override it, in the frame and units of the poses. Lens distortion is kept; rays follow it.

    Args:
        path: the folder.
        downscale: average blocks of this many pixels across and down.
        center: of the region of interest.
        radius: half the extent of the region of interest.
        up: the upward direction of the frame of the poses.
        test_every: hold out every N-th view if the capture has no split of its own, 0 for none; or split all views by the rule of this
        name (:data:`unrender.words.HoldOut`).
        leave_out: photos that count as if they were not there: names, with or without folder and ending, in which * stands for anything.
        normal_maps: a folder of normal images, one for each view.
        normal_maps_frame: the axes of the normals.
        masks: what masks and alpha channels mean: they outline the "object", leave pixels out ("ignore"), or are not used ("none"); by
        default format and content decide, see docs/captures.md.
        camera_axes: the axes of the cameras in the files, if they are not those of the format.
        principal_shift: added to every principal point, in pixels of the photos, for cameras that do not follow the convention of their
        format: a NeuS file whose matrices were multiplied by diag(s, s, 1, 1) for resized photos needs -0.5 (1 - s) for both.
        memory: bytes, or an amount such as "8GB", that the images may take before they are kept in a temporary file, by default half of
        the machine's memory.

    Raises:
        CaptureError: a file cannot be read, files do not match, an option makes no sense, or neither memory nor disk has space for the
        images.
    """
    check_options(
        downscale=downscale,
        center=center,
        radius=radius,
        up=up,
        test_every=test_every,
        leave_out=leave_out,
        normal_maps=normal_maps,
        normal_maps_frame=normal_maps_frame,
        masks=masks,
        camera_axes=camera_axes,
        principal_shift=principal_shift,
        memory=memory,
    )
    folder, normal_folder = Path(path), None if normal_maps is None else Path(normal_maps).absolute()
    # Where the images are kept (memory) and where the normals are does not change the capture.
    maps = "None" if normal_folder is None else "normal maps"
    settings = (downscale, center, radius, up, test_every, maps, normal_maps_frame, masks, camera_axes, principal_shift)
    settings = (*settings, *sorted(leave_out)) if leave_out else settings  # runs of earlier versions had no such option
    with errors_of(folder):
        source, notes = read_source(
            folder,
            test_every=test_every,
            leave_out=leave_out,
            masks=masks,
            camera_axes=camera_axes,
            principal_shift=principal_shift,
        )
        room = ImageMemory(None if memory is None else bytes_of(memory))
        room.check(int(source.sizes.prod(1).sum()), _bytes_of_a_pixel(source, normal_folder is not None), downscale)
        pictures = read_pictures(source, downscale=downscale, masks=masks, memory=room)
        notes += pictures.notes
        photos, ignored = pictures.photos, pictures.ignored
        outlines = _Outlines(photos) if pictures.has_masks else None
        region = normalize(source, outlines, center=center, radius=radius, up=up)
        notes += region.notes
        frame = region.source_from_world
        exact_poses = normalized_poses(source.source_from_camera, frame)
        check_world(exact_poses, frame, source.names)
        cameras = _cameras(source, exact_poses, downscale, notes)
        prior = None
        if normal_folder is not None:
            prior, without = read_normals(
                normal_folder,
                source.names,
                sizes=source.sizes,
                downscale=downscale,
                frame=normal_maps_frame,
                world_from_camera=exact_poses,
                world_from_source=(inverse_similarity(frame)[:3, :3] * scale_of(frame)).float(),
                memory=room,
            )
            if without:
                notes.append(f"{without} of {len(source.names)} views have no normal image")
        points = _points(folder, source)
        fingerprint, copies = _fingerprint(folder, source, normal_folder, settings)
        if any(images is not None and images.on_disk for images in (photos, ignored, prior)):
            notes.append("the images exceed the memory they may take, so they are kept in a temporary file; raise memory to change that")
        return Capture(
            name=Path(os.path.realpath(folder)).name,
            photos=photos,
            has_masks=pictures.has_masks,
            cameras=cameras,
            names=source.names,
            split=source.split,
            source_from_world=frame,
            up=region.up,
            unbounded=region.unbounded,
            ignored=ignored,
            normals=prior,
            normal_files=bundled_normals(source.images),
            truth=source.truth,
            true_poses=true_poses(folder, source.names, frame),
            points=None if points is None else transformed(points, inverse_similarity(frame)).float(),
            copies=copies,
            camera_axes=source.camera_axes,
            fingerprint=fingerprint,
            notes=tuple(map(printable, notes)),
        )


class _Outlines(Sequence[Tensor]):
    """The masks of photos, of which some may still be decoded: each is there when it is taken."""

    def __init__(self, photos: Images) -> None:
        self._photos, self._block = photos, outline_block(photos)

    def __len__(self) -> int:
        return len(self._photos)

    @overload
    def __getitem__(self, view: int) -> Tensor: ...
    @overload
    def __getitem__(self, view: slice) -> list[Tensor]: ...
    def __getitem__(self, view: int | slice) -> Tensor | list[Tensor]:
        if isinstance(view, slice):
            return [self[index] for index in range(*view.indices(len(self)))]
        return outline(self._photos, view, self._block)


def read_capture(folder: Path, options: CaptureOptions) -> Capture:
    """Read the posed photos in a folder with an options object; see :func:`load_capture`."""
    return load_capture(folder, **vars(options))


def read_source(
    folder: Path,
    *,
    test_every: int | HoldOut = EVERY,
    leave_out: Sequence[str] = (),
    masks: MaskUse | None = None,
    camera_axes: CameraAxes | None = None,
    principal_shift: tuple[float, float] = (0.0, 0.0),
) -> tuple[Source, list[str]]:
    """Read what the files of a capture say, without decoding a pixel, and return notes about it; see :func:`load_capture`.

    Raises:
        CaptureError: a file cannot be read, or files do not match.
    """
    layout, cameras_file, others = _located(folder)
    every = EVERY if isinstance(test_every, str) else test_every
    source, about_left = without(layout.read(folder, cameras_file, every), leave_out, every)
    shift = torch.tensor([0.0, 0.0, *principal_shift], dtype=torch.float64)
    source = replace(source, intrinsics=source.intrinsics + shift)
    about_masks: list[str] = []
    if masks != "none":
        source = with_masks_of_names(source, folder, about_masks.append)
    source = source if camera_axes is None else source.with_camera_axes(camera_axes)
    source, about_views = checked_source(source, folder, every)
    if isinstance(test_every, str):
        source = replace(source, split=split_by_rule(source.names, test_every, source.split))
    notes = [*source.notes, *about_left, *about_masks, *about_views, *format_notes(source.images)]
    if others:
        notes.append(f"read {layout.cameras} and not {' or '.join(others)}, which is there too")
    return source, notes


@contextmanager
def errors_of(folder: Path) -> Iterator[None]:
    """Turn what the system says while a capture is read into a :class:`CaptureError`.

    Warnings are ignored: what Pillow and NumPy warn about is either refused or harmless.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise CaptureError(
            f"the memory that this process may use is not enough to read {folder}; use a larger downscale (--downscale N)"
        ) from error
    except OSError as error:  # a file that changes or vanishes while it is read
        raise CaptureError(f"{error.filename or folder} cannot be read ({reason(error)}); check it and load again") from error


def _located(folder: Path) -> tuple[Format, Path, list[str]]:
    """Return the format of a folder, its file of cameras, and the cameras of other formats that are there too."""
    if not is_folder(folder) and not is_regular_file(folder):
        raise CaptureError(f"{folder} does not exist{_suggestion(folder)}; give the folder of a capture")
    if not is_folder(folder) and is_video(folder):
        raise CaptureError(f"{folder} is a video without camera poses; solve them first: unrender poses {folder}")
    if not is_folder(folder):
        is_known = any(layout.find(folder.parent) == folder for layout in FORMATS)
        hint = f"give its folder {folder.parent}" if is_known else "give the folder of a capture"
        raise CaptureError(f"{folder} is a file; {hint}")
    present = [(layout, file) for layout in FORMATS if (file := layout.find(folder)) is not None]
    if not present:
        named = ", ".join(layout.cameras for layout in FORMATS[:_NAMED_FORMATS])
        raise CaptureError(
            f"{folder} has no camera poses: looked for {named} and the files of {len(FORMATS) - _NAMED_FORMATS} other formats; give the "
            f"folder that holds one of them, or solve the poses of its photos: unrender poses {folder}"
        )
    return *present[0], [layout.cameras for layout, _ in present[1:]]


def _suggestion(missing: Path) -> str:
    parent = missing.absolute().parent
    if not is_folder(parent):
        return _suggestion(parent) if parent != parent.parent else ""
    near = difflib.get_close_matches(missing.absolute().name, entries(parent)[:10_000], n=1)
    return f" (did you mean {parent / near[0]}?)" if near else ""


def _bytes_of_a_pixel(source: Source, has_normals: bool) -> int:
    """Return the bytes that images take for each pixel.

    Four for RGBA, one if pixels are ignored, and twelve for normals.
    """
    return 4 + (source.masks is not None or any(source.ignored)) + 12 * has_normals


def _cameras(source: Source, poses: Float[Tensor, "views 4 4"], downscale: int, notes: list[str]) -> Cameras:
    cameras = Cameras(
        world_from_camera=poses.float(),
        intrinsics=source.intrinsics.float(),
        distortion=source.distortion.float(),
        sizes=source.sizes,
        fisheye=source.fisheye,
    )
    if cameras.has_distortion:
        notes.append("lens distortion is followed by the rays; the images are not resampled")
        lens = cameras.lens_of_view
        missed = max(_uninvertible(cameras[int((lens == number).nonzero()[0])]) for number in range(int(lens.max()) + 1))
        if missed > 0:
            notes.append(f"the lens polynomial folds back at {missed:.1%} of the image border, where rays are wrong; refit the lens")
    return cameras.downscaled(downscale)


def _uninvertible(camera: Cameras) -> float:
    """Return the share of an image's border at which the lens polynomial has no inverse."""
    x, y = torch.linspace(0, camera.width, 65), torch.linspace(0, camera.height, 65)
    zero = torch.zeros(65)
    border = torch.cat([torch.stack(pair, -1) for pair in ((x, zero), (x, zero + camera.height), (zero, y), (zero + camera.width, y))])
    rays = camera.rays(torch.zeros(len(border), dtype=torch.int64), border)
    again, _ = camera.project(rays.origins + rays.directions, 0)
    return float(((again - border).norm(dim=-1) > _LENS_TOLERANCE).float().mean())


def _points(folder: Path, source: Source) -> Float[Tensor, "points 3"] | None:
    """Return points from structure from motion in the source frame, float64."""
    if source.points is not None:
        return source.points
    file = points_file(folder)
    return None if file is None else read_points(file)


def _fingerprint(
    folder: Path, source: Source, normals: Path | None, settings: tuple[object, ...]
) -> tuple[str, tuple[tuple[int, int], ...]]:
    """Hash the read settings and each file's relative name, size, first and last 64 KiB, with SHA-256.

    With the hash come the views whose photo has the size and the ends of an earlier one's, and that one.
    """
    root = folder.absolute()
    read = [*source.files, *source.images, *(source.masks or ()), *(file for file in source.ignored if file is not None)]
    files = [(file, root) for file in read]
    if normals is not None:
        files += [(file, normals) for file in sorted(normals.rglob("*")) if is_regular_file(file) and file.stat().st_size]

    def digest(located: tuple[Path, Path]) -> tuple[bytes, bytes]:
        file, root = located
        size, content = size_and_ends(file)
        whole_path = file.absolute()
        name = whole_path.relative_to(root).as_posix() if whole_path.is_relative_to(root) else file.name
        named = hashlib.sha256(f"{name}\n{size}\n".encode() + content).digest()
        return named, hashlib.sha256(f"{size}\n".encode() + content).digest()

    whole, first = hashlib.sha256(repr(settings).encode()), dict[bytes, int]()
    found = in_threads(digest, files)
    for named, _ in found:
        whole.update(named)
    photos = [content for _, content in found[len(source.files) :][: len(source.images)]]
    pairs = ((view, first.setdefault(content, view)) for view, content in enumerate(photos))
    return whole.hexdigest(), tuple((view, earlier) for view, earlier in pairs if earlier != view)
