"""``transforms.json`` of instant-ngp, nerfstudio and their exporters, and the frames of Blender captures.

Poses are camera-to-world with OpenGL axes (+X right, +Y up, +Z backward) and pixel centers at +0.5. Intrinsics and distortion may be global
or per frame; a focal length in pixels overrides a field of view. Every key is used or named in a note; docs/captures.md lists them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unrender.captures.capture import CaptureError, KnownScene, Split
from unrender.captures.images import in_threads
from unrender.captures.lenses import LENS_KEYS, LensReader, number_of, plausible_intrinsics
from unrender.captures.photo_files import MASK_FOLDERS, PhotoFinder
from unrender.captures.photo_sizes import PhotoSize, fitting_size
from unrender.captures.points import read_points
from unrender.captures.posed_photos import first_three, missing_files, moved_note, name_below, scaling_notes
from unrender.captures.reading import finite_matrix, flag, is_regular_file, number, read_json, shown
from unrender.captures.source import CameraAxes, MaskMeaning, Region, Source, held_out, opencv_from, rigid_motions

_USED = LENS_KEYS | {
    "frames", "file_path", "transform_matrix", "mask_path", "ply_file_path", "train_filenames", "val_filenames", "test_filenames",
    "from_mitsuba", "white_transparent", "black_transparent", "mask_color", "applied_transform", "applied_scale", "rolling_shutter",
    "time", "depth_file_path", "depth_path", "enable_depth_loading", "depth_unit_scale_factor", "integer_depth_scale", "unrender",
}  # fmt: skip
"""Keys that are used, or have a note of their own."""

_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)


@dataclass(frozen=True)
class Frames:
    """The posed photos that one JSON file lists."""

    listed: tuple[str, ...]
    """Each frame's ``file_path`` as written."""
    images: tuple[Path, ...]
    masks: tuple[Path, ...] | None
    mask_meaning: MaskMeaning
    alpha_meaning: MaskMeaning
    transparent_colors: tuple[tuple[int, int, int], ...]
    source_from_camera: Float[Tensor, "views 4 4"]
    intrinsics: Float[Tensor, "views 4"]
    distortion: Float[Tensor, "views 6"]
    sizes: Int[Tensor, "views 2"]
    fisheye: Bool[Tensor, " views"]
    apply_exif: tuple[bool, ...]
    camera_axes: CameraAxes
    notes: tuple[str, ...]


def read_transforms(folder: Path, file: Path, test_every: int) -> Source:
    """Read the cameras of a ``transforms.json``.

    Raises:
        CaptureError: see :func:`read_frames`; or a split with unknown frames or no view.
    """
    content = read_json(file)
    frames = read_frames(file, content)
    focus, z_is_up = _placement(content, file)
    truth, without = _known_scene(content, file)
    names = tuple(name_below(folder, image) for image in frames.images)
    points = None if content.get("ply_file_path") is None else folder / _text(content["ply_file_path"], "ply_file_path", file)
    notes = (*frames.notes, *without)
    if points is not None and not is_regular_file(points):
        notes = (*notes, f"the points {points.name} that {file.name} names do not exist")
        points = None
    return Source(
        files=(file,),
        names=names,
        images=frames.images,
        masks=frames.masks,
        mask_meaning=frames.mask_meaning,
        alpha_meaning=frames.alpha_meaning,
        transparent_colors=frames.transparent_colors,
        ignored=tuple(dynamic_mask(image) for image in frames.images),
        source_from_camera=frames.source_from_camera,
        intrinsics=frames.intrinsics,
        distortion=frames.distortion,
        sizes=frames.sizes,
        fisheye=frames.fisheye,
        apply_exif=frames.apply_exif,
        split=_split(file, content, frames, names, test_every),
        focus=focus,
        up=(0.0, 0.0, 1.0) if z_is_up else None,
        points=None if points is None else read_points(points),
        camera_axes=frames.camera_axes,
        truth=truth,
        notes=notes,
    )


def _known_scene(content: Mapping[str, Any], file: Path) -> tuple[KnownScene | None, list[str]]:
    """Return the true scene that the key ``unrender``, which ``unrender capture`` writes, names in the folder of the capture."""
    about = content.get("unrender")
    if not isinstance(about, dict) or about.get("truth_mesh") is None:
        return None, []
    names = (_text(about.get("truth_mesh"), "truth_mesh", file), _text(about.get("truth_environment", ""), "truth_environment", file))
    folder = file.parent.resolve()
    mesh, light = ((folder / name).resolve() if name else None for name in names)
    for found in (mesh, light):
        if found is not None and not found.is_relative_to(folder):
            raise CaptureError(f'"unrender" in {file} names {found}, which is not in the folder of the capture; move it there')
    if mesh is None or not is_regular_file(mesh):
        return None, [f"the true mesh {names[0]} that {file.name} names does not exist"]
    return KnownScene(mesh, light if light is not None and is_regular_file(light) else None), []


def _placement(content: Mapping[str, Any], file: Path) -> tuple[Region | None, bool]:
    """Return what the key ``unrender``, which ``unrender poses`` writes, says about the object and the upward direction."""
    found = content.get("unrender")
    if found is None:
        return None, False
    if not isinstance(found, dict):
        raise CaptureError(f'"unrender" in {file} is {shown(found)}; write an object with center and radius, or take it out')
    where = f'"unrender" in {file}'
    z_is_up = flag(found.get("z_is_up", False), f"z_is_up of {where}")
    if "center" not in found and "radius" not in found:
        return None, z_is_up
    center = finite_matrix([found.get("center")], [(1, 3)], f"the center of {where}")[0]
    radius = number(found.get("radius"), f"the radius of {where}")
    if radius <= 0:
        raise CaptureError(f"the radius of {where} is {radius:g}; give a positive number in the units of the poses")
    return Region.cube((float(center[0]), float(center[1]), float(center[2])), radius), z_is_up


def any_photo_of(file: Path, content: Mapping[str, Any]) -> bool:
    """Tell whether a photo that a JSON file lists exists; True if the list is not one, which :func:`read_frames` reports."""
    frames = content.get("frames")
    if not isinstance(frames, list):
        return True
    finder = PhotoFinder(file.parent)
    names = [frame["file_path"] for frame in frames if isinstance(frame, dict) and isinstance(frame.get("file_path"), str)]
    return any(finder.find(name) is not None or finder.unread(name) is not None for name in names)


def read_frames(file: Path, content: Mapping[str, Any]) -> Frames:
    """Read the posed photos listed under ``frames``, with intrinsics scaled to the size of each photo.

    Frames without a photo are skipped with a note if they are fewer than half, because exporters list photos that were later removed as
    blurred; otherwise a missing photo is an error.

    Args:
        file: for paths and messages.
        content: content of the file.

    Raises:
        CaptureError: no frames, a key that is missing or not a number, photos that are missing or of a format that is not read, an unknown
            lens, a focal length that is not positive, a pose that is not a rigid motion, masks for some frames only, ``w`` and ``h`` of
            another shape than the photo, or photos of several sizes with shared intrinsics in pixels that do not state their size.
    """
    frames = content.get("frames")
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        raise CaptureError(f'{file} has no list "frames"; each frame needs a file_path and a transform_matrix')
    if not frames:
        raise CaptureError(f"{file} lists no frames; a capture needs at least one view")
    listed = tuple(_text(_needed(frame, "file_path", file, f"frame {k}"), "file_path", file) for k, frame in enumerate(frames))
    finder = PhotoFinder(file.parent)
    notes: list[str] = []
    there = [finder.find(name) is not None for name in listed]
    if 2 * sum(there) > len(listed) > sum(there):
        absent = [name for name, present in zip(listed, there, strict=True) if not present]
        notes.append(f"{len(absent)} of the {len(listed)} frames have no photo and were left out ({first_three(absent)})")
        frames = [frame for frame, present in zip(frames, there, strict=True) if present]
        listed = tuple(name for name, present in zip(listed, there, strict=True) if present)
    finder.moved.clear()
    images = _found(finder, listed, "image", file)
    masks, mask_meaning = _masks(finder, frames, listed, images, file)
    if finder.moved:
        notes.append(moved_note(finder, file, images[0]))
    keys = [{**content, **frame} for frame in frames]
    written = [_needed(frame, "transform_matrix", file, name) for frame, name in zip(frames, listed, strict=True)]
    poses = torch.stack([_pose(rows, name, file) for rows, name in zip(written, listed, strict=True)])
    poses, repairs = rigid_motions(poses, listed, file)
    photos = in_threads(PhotoSize.read, images)
    stated = [_stated_size(own, name, file) for own, name in zip(keys, listed, strict=True)]
    sized = [fitting_size(photo, size, file) for photo, size in zip(photos, stated, strict=True)]
    sizes = torch.tensor([size for size, _ in sized])
    _check_pixels_have_a_size(photos, [size for size, _ in sized], frames, content, file)
    if not all(apply for _, apply in sized):
        notes.append("the cameras are of the photos as stored, so their EXIF orientation is not applied")
    notes += scaling_notes([size for size, _ in sized], stated, file)
    lens = LensReader(file)
    fisheye = [lens.is_fisheye(own, name) for own, name in zip(keys, listed, strict=True)]
    numbers = [lens.intrinsics(own, size, name) for own, (size, _), name in zip(keys, sized, listed, strict=True)]
    distortion = [lens.distortion(own, name, bent) for own, name, bent in zip(keys, listed, fisheye, strict=True)]
    intrinsics, doubts = plausible_intrinsics(torch.tensor(numbers, dtype=torch.float64), sizes, torch.tensor(fisheye), listed, file)
    colors, alpha_meaning = _transparent_colors(content, file, notes)
    axes: CameraAxes = "mitsuba" if _is_set(content, "from_mitsuba", file) else "opengl"
    if axes == "mitsuba":
        notes.append("from_mitsuba is set, so the cameras have +X left, +Y up and +Z forward")
    return Frames(
        listed=listed,
        images=images,
        masks=masks,
        mask_meaning=mask_meaning,
        alpha_meaning=alpha_meaning,
        transparent_colors=colors,
        source_from_camera=poses * opencv_from(axes),
        intrinsics=intrinsics,
        distortion=torch.tensor(distortion, dtype=torch.float64),
        sizes=sizes,
        fisheye=torch.tensor(fisheye),
        apply_exif=tuple(apply for _, apply in sized),
        camera_axes=axes,
        notes=(*notes, *repairs, *lens.notes(), *doubts, *_unused(file, content, frames)),
    )


def _unused(file: Path, content: Mapping[str, Any], frames: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return notes about what the file says and nothing here uses."""
    notes: list[str] = []
    if any("rolling_shutter" in frame or any(_list(content, "rolling_shutter", file)) for frame in frames):
        notes.append("the file describes a rolling shutter, which is not modeled")
    if "applied_transform" in content or "applied_scale" in content:
        notes.append("results are exported in the frame of the poses in transforms.json; applied_transform leads back to the one before")
    times = {repr(frame["time"]) for frame in frames if "time" in frame}
    if len(times) > 1:
        notes.append(f"the frames are at {len(times)} different times; the scene is fitted as if nothing moved")
    if content.get("enable_depth_loading") or any("depth_file_path" in frame or "depth_path" in frame for frame in frames):
        notes.append("the depth images are not used")
    given = dict.fromkeys(key for own in (content, *frames) for key, value in own.items() if key not in _USED and value)
    if given:
        shortened = [shown(key)[1:-1] for key in given][:12]
        notes.append(f"keys in the file of cameras that are not used: {', '.join(shortened)}{', ...' if len(given) > 12 else ''}")
    return notes


def _transparent_colors(content: Mapping[str, Any], file: Path, notes: list[str]) -> tuple[tuple[tuple[int, int, int], ...], MaskMeaning]:
    """Return the colors that count as transparent, and what that means.

    In instant-ngp ``white_transparent`` and ``black_transparent`` make pixels transparent, and ``mask_color`` leaves them out.
    """
    colors = [color for key, color in (("white_transparent", _WHITE), ("black_transparent", _BLACK)) if _is_set(content, key, file)]
    color = _color(content.get("mask_color"), file)
    if color is not None and colors:
        notes.append("mask_color is not used, because white_transparent or black_transparent is set")
    elif color is not None:
        notes.append(f"pixels of the mask_color {color} are left out")
        return (color,), "ignore"
    return tuple(colors), "object" if colors else "by content"


def _color(value: Any, file: Path) -> tuple[int, int, int] | None:
    """Return a color written as [r, g, b], "#rrggbb" or instant-ngp's integer 0xaabbggrr; None if there is none."""
    if value is None or value is False or value == 0:
        return None
    if isinstance(value, str) and len(digits := value.removeprefix("#").removeprefix("0x")) in (6, 8):
        try:
            red, green, blue = bytes.fromhex(digits[-6:])
        except ValueError as error:
            raise CaptureError(f"mask_color in {file} is {shown(value)}; write [red, green, blue], each from 0 to 255") from error
        return red, green, blue
    if isinstance(value, int):
        return value & 255, (value >> 8) & 255, (value >> 16) & 255
    if isinstance(value, list) and len(value) in (3, 4) and all(isinstance(part, int) and 0 <= part <= 255 for part in value):
        return value[0], value[1], value[2]
    raise CaptureError(f"mask_color in {file} is {shown(value)}; write [red, green, blue], each from 0 to 255")


def _is_set(content: Mapping[str, Any], key: str, file: Path) -> bool:
    return content.get(key) is not None and flag(content[key], f'"{key}" in {file}')


def _found(finder: PhotoFinder, written: Sequence[str], kind: str, file: Path, prefer: Sequence[str] | None = None) -> tuple[Path, ...]:
    found = [finder.find(name) if prefer is None else finder.find(name, prefer=prefer) for name in written]
    missing = [name for name, path in zip(written, found, strict=True) if path is None]
    if missing:
        raise missing_files(finder, missing, len(written), kind, file)
    return tuple(path for path in found if path is not None)


def _masks(
    finder: PhotoFinder, frames: Sequence[Mapping[str, Any]], listed: Sequence[str], images: Sequence[Path], file: Path
) -> tuple[tuple[Path, ...] | None, MaskMeaning]:
    """Return the mask files, and what the format says about them."""
    written = [frame.get("mask_path") for frame in frames]
    if any(path is not None for path in written):
        without = [name for name, path in zip(listed, written, strict=True) if path is None]
        if without:
            raise CaptureError(f"{file} gives a mask_path to some frames but not to {without[0]}; give one to all frames or to none")
        return _found(finder, [_text(path, "mask_path", file) for path in written], "mask", file, MASK_FOLDERS), "by content"
    beside = [image.with_name(f"{image.stem}.alpha{suffix}") for image in images[:1] for suffix in (image.suffix, ".png")]
    suffix = next((path.suffix for path in beside if is_regular_file(path)), None)
    if suffix is None:
        return None, "by content"
    return _found(finder, [str(image.with_name(f"{image.stem}.alpha{suffix}").absolute()) for image in images], "alpha", file), "object"


def dynamic_mask(image: Path) -> Path | None:
    """Return instant-ngp's mask of moving things beside a photo, if there is one."""
    path = image.with_name(f"dynamic_mask_{image.stem}.png")
    return path if is_regular_file(path) else None


def _text(value: Any, key: str, file: Path) -> str:
    if not isinstance(value, str) or not value:
        raise CaptureError(f'a "{key}" in {file} is {shown(value)}; it must be the name of a file')
    return value


def _needed(frame: Mapping[str, Any], key: str, file: Path, where: str) -> Any:
    if key not in frame:
        raise CaptureError(f'{where} in {file} has no "{key}"; every frame needs a file_path and a transform_matrix')
    return frame[key]


def _pose(rows: Any, name: str, file: Path) -> Float[Tensor, "4 4"]:
    matrix = torch.from_numpy(finite_matrix(rows, [(4, 4), (3, 4)], f"the transform_matrix of {name} in {file}"))
    return matrix if len(matrix) == 4 else torch.cat((matrix, torch.tensor([[0.0, 0.0, 0.0, 1.0]], dtype=torch.float64)))


def _stated_size(keys: Mapping[str, Any], name: str, file: Path) -> tuple[float, float] | None:
    width, height = number_of(keys, "w", name, file), number_of(keys, "h", name, file)
    return None if width is None or height is None else (width, height)


def _check_pixels_have_a_size(
    photos: Sequence[PhotoSize],
    sizes: Sequence[tuple[int, int]],
    frames: Sequence[Mapping[str, Any]],
    content: Mapping[str, Any],
    file: Path,
) -> None:
    """Reject shared pixel intrinsics for photos of several sizes, if they do not state their size."""
    if content.get("w") is not None and content.get("h") is not None:
        return
    shared = [key for key in ("fl_x", "fl_y", "cx", "cy") if content.get(key) is not None]
    for photo, size, frame in zip(photos, sizes, frames, strict=True):
        sized = frame.get("w") is not None and frame.get("h") is not None
        if size != sizes[0] and not sized and any(key not in frame for key in shared):
            raise CaptureError(
                f"{photo.path.name} is {size[0]}x{size[1]} but {photos[0].path.name} is {sizes[0][0]}x{sizes[0][1]}, and {file} does not "
                "say for which of them its intrinsics are; give w and h, or intrinsics on each frame"
            )


def _split(file: Path, content: Mapping[str, Any], frames: Frames, names: Sequence[str], test_every: int) -> Split:
    lists = {key: _list(content, f"{key}_filenames", file) for key in ("train", "val", "test") if f"{key}_filenames" in content}
    if not lists:
        return held_out(names, test_every)
    index = {_plain(written): view for view, written in enumerate(frames.listed)}
    known = {_plain(str(frame["file_path"])) for frame in content["frames"]}
    chosen: dict[str, tuple[int, ...]] = {}
    for key, wanted in lists.items():
        unknown = [written for written in wanted if _plain(str(written)) not in known]
        if unknown:
            raise CaptureError(f"{key}_filenames of {file} names {unknown[0]}, which no frame has as its file_path; correct one of the two")
        chosen[key] = tuple(index[name] for name in (_plain(str(written)) for written in wanted) if name in index)
    if not chosen.get("train"):
        raise CaptureError(f"train_filenames of {file} is missing or empty; list the views to fit, or take all the lists out")
    test = "test" if chosen.get("test") else "val"
    if not chosen.get(test):
        raise CaptureError(f"test_filenames and val_filenames of {file} are missing or empty; list views there, or take all the lists out")
    return Split(chosen["train"], chosen[test], f"the train_filenames and {test}_filenames of {file.name}", given=True)


def _list(content: Mapping[str, Any], key: str, file: Path) -> list[Any]:
    value = content.get(key)
    if not isinstance(value, list | None):
        raise CaptureError(f'"{key}" in {file} is {shown(value)}; it must be a list')
    return value or []


def _plain(written: str) -> str:
    return written.replace("\\", "/").removeprefix("./")
