"""``transforms.json`` of instant-ngp, nerfstudio and their exporters, and the frames of Blender captures.

Poses are camera-to-world with OpenGL axes (+X right, +Y up, +Z backward) and pixel centers at +0.5. Intrinsics and distortion may be global
or per frame; a focal length in pixels overrides a field of view.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unrender.captures.capture import CaptureError, Split
from unrender.captures.images import in_threads
from unrender.captures.photos import IMAGE_SUFFIXES, image_size
from unrender.captures.points import read_points
from unrender.captures.reading import FileFinder, finite_matrix, flag, is_regular_file, number, read_json, shown
from unrender.captures.source import Source, checked_intrinsics, held_out, rigid_motions

_OPENCV_FROM_OPENGL = torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64)

_FISHEYE: Mapping[str, bool] = {
    "SIMPLE_PINHOLE": False,
    "PINHOLE": False,
    "SIMPLE_RADIAL": False,
    "RADIAL": False,
    "OPENCV": False,
    "OPENCV_FISHEYE": True,
}
"""Camera models, and whether each is a fisheye."""

_DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")


@dataclass(frozen=True)
class Frames:
    """The posed photos that one JSON file lists."""

    listed: tuple[str, ...]
    """Each frame's ``file_path`` as written."""
    images: tuple[Path, ...]
    masks: tuple[Path, ...] | None
    source_from_camera: Float[Tensor, "views 4 4"]
    intrinsics: Float[Tensor, "views 4"]
    distortion: Float[Tensor, "views 6"]
    sizes: Int[Tensor, "views 2"]
    fisheye: Bool[Tensor, " views"]
    apply_exif: tuple[bool, ...]
    notes: tuple[str, ...]


def read_transforms(folder: Path, file: Path, test_every: int) -> Source:
    """Read the cameras of a ``transforms.json``.

    Raises:
        CaptureError: see :func:`read_frames`; or a split with unknown frames or no view.
    """
    content = read_json(file)
    frames = read_frames(file, content, skip_missing=True)
    names = tuple(name_below(folder, image) for image in frames.images)
    points = None if content.get("ply_file_path") is None else folder / _text(content["ply_file_path"], "ply_file_path", file)
    return Source(
        files=(file,),
        names=names,
        images=frames.images,
        masks=frames.masks,
        mask_meaning="by brightness",
        ignored=tuple(_dynamic_mask(image) for image in frames.images),
        source_from_camera=frames.source_from_camera,
        intrinsics=frames.intrinsics,
        distortion=frames.distortion,
        sizes=frames.sizes,
        fisheye=frames.fisheye,
        apply_exif=frames.apply_exif,
        split=_split(file, content, frames, names, test_every),
        points=read_points(points) if points is not None and is_regular_file(points) else None,
        notes=frames.notes,
    )


def read_frames(file: Path, content: Mapping[str, Any], *, skip_missing: bool) -> Frames:
    """Read the posed photos listed under ``frames``, with intrinsics scaled to the size of each photo.

    Args:
        file: for paths and messages.
        content: content of the file.
        skip_missing: skip frames without a photo, with a note, if they are fewer than half (exporters list photos that were
            later removed as blurred); otherwise one missing photo is an error.

    Raises:
        CaptureError: no frames, a key that is missing or not a number, photos that are missing, an unknown lens, a focal length that is not
            positive, a pose that is not a rigid motion, masks for some frames only, ``w`` and ``h`` of another shape than the photo, or
            photos of several sizes with shared intrinsics in pixels that do not state their size.
    """
    frames = content.get("frames")
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        raise CaptureError(f'{file} has no list "frames"; each frame needs a file_path and a transform_matrix')
    if not frames:
        raise CaptureError(f"{file} lists no frames; a capture needs at least one view")
    listed = tuple(_text(_needed(frame, "file_path", file, f"frame {k}"), "file_path", file) for k, frame in enumerate(frames))
    look_up = FileFinder(file.parent)
    notes: list[str] = []
    if skip_missing:
        there = [_image(look_up, name) is not None for name in listed]
        if 2 * sum(there) > len(listed) > sum(there):
            absent = [name for name, present in zip(listed, there, strict=True) if not present]
            notes.append(f"{len(absent)} of the {len(listed)} frames have no photo and were left out ({_first_three(absent)})")
            frames = [frame for frame, present in zip(frames, there, strict=True) if present]
            listed = tuple(name for name, present in zip(listed, there, strict=True) if present)
    images = _found(look_up, listed, "image", file)
    keys = [{**content, **frame} for frame in frames]
    written = [_needed(frame, "transform_matrix", file, name) for frame, name in zip(frames, listed, strict=True)]
    poses = torch.stack([_pose(rows, name, file) for rows, name in zip(written, listed, strict=True)])
    photos = in_threads(_Photo.read, images)
    stated = [_stated_size(own, name, file) for own, name in zip(keys, listed, strict=True)]
    sized = [_size(photo, size, file) for photo, size in zip(photos, stated, strict=True)]
    _check_pixels_have_a_size(photos, [size for size, _ in sized], frames, content, file)
    if not all(apply for _, apply in sized):
        notes.append("the cameras are of the photos as stored, so their EXIF orientation is not applied")
    scaled = {size for (size, _), wanted in zip(sized, stated, strict=True) if wanted not in (None, size)}
    if scaled:
        found = f"the photos' {'x'.join(map(str, scaled.pop()))}" if len(scaled) == 1 else "the size of each photo"
        notes.append(f"intrinsics were scaled from the w and h of {file.name} to {found}")
    fisheye = [_is_fisheye(own, name, file) for own, name in zip(keys, listed, strict=True)]
    if any("rolling_shutter" in frame or any(_list(content, "rolling_shutter", file)) for frame in frames):
        notes.append("the file describes a rolling shutter, which is not modeled")
    if "applied_transform" in content or "applied_scale" in content:
        notes.append("results are exported in the frame of the poses in transforms.json; applied_transform leads back to the one before")
    intrinsics = [_intrinsics(own, size, name, file) for own, (size, _), name in zip(keys, sized, listed, strict=True)]
    distortion = [_distortion(own, name, file) for own, name in zip(keys, listed, strict=True)]
    return Frames(
        listed=listed,
        images=images,
        masks=_masks(look_up, frames, listed, images, file),
        source_from_camera=rigid_motions(poses, listed, file) * _OPENCV_FROM_OPENGL,
        intrinsics=checked_intrinsics(torch.tensor(intrinsics, dtype=torch.float64), listed, file),
        distortion=torch.tensor(distortion, dtype=torch.float64),
        sizes=torch.tensor([size for size, _ in sized]),
        fisheye=torch.tensor(fisheye),
        apply_exif=tuple(apply for _, apply in sized),
        notes=tuple(notes),
    )


def name_below(folder: Path, image: Path) -> str:
    """Return the path of an image below the capture's folder, with forward slashes."""
    try:
        return image.relative_to(folder).as_posix()
    except ValueError:
        return image.as_posix()


def _candidates(name: str) -> list[str]:
    """Return the file names that a written name may mean.

    It may lack a suffix, or have that of an earlier conversion.
    """
    path = PurePosixPath(name)
    has_suffix = path.suffix.lower() in IMAGE_SUFFIXES
    bases = [path.stem, path.name] if has_suffix else [path.name]
    suffixes = (*IMAGE_SUFFIXES, *map(str.upper, IMAGE_SUFFIXES))
    return [path.name] * has_suffix + [base + suffix for base in bases for suffix in suffixes]


def _image(look_up: FileFinder, written: str) -> Path | None:
    path = look_up.path(written)
    return look_up.first(path.parent, _candidates(path.name))


def _found(look_up: FileFinder, written: Sequence[str], kind: str, file: Path) -> tuple[Path, ...]:
    found = [_image(look_up, name) for name in written]
    missing = [name for name, path in zip(written, found, strict=True) if path is None]
    if missing:
        raise CaptureError(
            f"{len(missing)} of the {len(written)} {kind} files that {file} lists do not exist ({_first_three(missing)}); "
            f"put them below {file.parent} or take their frames out"
        )
    return tuple(path for path in found if path is not None)


def _first_three(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _masks(
    look_up: FileFinder, frames: Sequence[Mapping[str, Any]], listed: Sequence[str], images: Sequence[Path], file: Path
) -> tuple[Path, ...] | None:
    written = [frame.get("mask_path") for frame in frames]
    if any(path is not None for path in written):
        without = [name for name, path in zip(listed, written, strict=True) if path is None]
        if without:
            raise CaptureError(f"{file} gives a mask_path to some frames but not to {without[0]}; give one to all frames or to none")
        return _found(look_up, [_text(path, "mask_path", file) for path in written], "mask", file)
    beside = [image.with_name(f"{image.stem}.alpha{suffix}") for image in images[:1] for suffix in (image.suffix, ".png")]
    suffix = next((path.suffix for path in beside if is_regular_file(path)), None)
    if suffix is None:
        return None
    return _found(look_up, [str(image.with_name(f"{image.stem}.alpha{suffix}").absolute()) for image in images], "alpha", file)


def _dynamic_mask(image: Path) -> Path | None:
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


def _number(keys: Mapping[str, Any], key: str, name: str, file: Path) -> float | None:
    value = keys.get(key)
    return None if value is None else number(value, f'"{key}" of {name} in {file}')


def _stated_size(keys: Mapping[str, Any], name: str, file: Path) -> tuple[float, float] | None:
    width, height = _number(keys, "w", name, file), _number(keys, "h", name, file)
    return None if width is None or height is None else (width, height)


@dataclass(frozen=True)
class _Photo:
    """The two sizes of a photo: after EXIF orientation, and as stored."""

    path: Path
    shown: tuple[int, int]
    stored: tuple[int, int]

    @classmethod
    def read(cls, path: Path) -> _Photo:
        return cls(path, image_size(path), image_size(path, apply_exif=False))


def _size(photo: _Photo, stated: tuple[float, float] | None, file: Path) -> tuple[tuple[int, int], bool]:
    """Decide the size of a photo, and whether to apply its EXIF orientation.

    It is not applied if only the stored size matches the one stated in the file.
    """
    if stated is None or _same_shape(stated, photo.shown):
        return photo.shown, True
    if _same_shape(stated, photo.stored):
        return photo.stored, False
    raise CaptureError(
        f"{file} gives w and h as {stated[0]:g}x{stated[1]:g} but {photo.path.name} is {photo.shown[0]}x{photo.shown[1]}, another shape; "
        "correct w and h, or use the photos the cameras were solved on"
    )


def _check_pixels_have_a_size(
    photos: Sequence[_Photo], sizes: Sequence[tuple[int, int]], frames: Sequence[Mapping[str, Any]], content: Mapping[str, Any], file: Path
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


def _same_shape(stated: tuple[float, float], size: tuple[int, int]) -> bool:
    """Tell whether two sizes are equal up to a scale, where each side may have been rounded."""
    if min(stated) <= 0:
        return False
    across, down = size[0] / stated[0], size[1] / stated[1]
    return abs(across - down) <= max(across, down) * (1 / min(size) + 1 / min(stated))


def _intrinsics(keys: Mapping[str, Any], size: tuple[int, int], name: str, file: Path) -> list[float]:
    width, height = _number(keys, "w", name, file) or float(size[0]), _number(keys, "h", name, file) or float(size[1])

    def focal(pixels: str, radians: str, degrees: str, extent: float) -> float | None:
        length, angle, angle_in_degrees = (_number(keys, key, name, file) for key in (pixels, radians, degrees))
        if length is not None:
            return length
        if angle is None and angle_in_degrees is not None:
            angle = math.radians(angle_in_degrees)
        if angle is None:
            return None
        if not 0 < angle < math.pi:
            raise CaptureError(f"the field of view of {name} in {file} is {angle:g} radians; it must lie between 0 and π")
        return 0.5 * extent / math.tan(0.5 * angle)

    fx, fy = focal("fl_x", "camera_angle_x", "x_fov", width), focal("fl_y", "camera_angle_y", "y_fov", height)
    if _number(keys, "fl_x", name, file) is not None and _number(keys, "fl_y", name, file) is None:
        fy = fx
    if fx is None and fy is None:
        raise CaptureError(f'{file} says nothing about the focal length of {name}; give "fl_x" in pixels or "camera_angle_x" in radians')
    fx, fy = (fy if fx is None else fx), (fx if fy is None else fy)
    if fx is None or fy is None:
        raise CaptureError(f"{file} says nothing about the focal length of {name}")
    cx, cy = _number(keys, "cx", name, file), _number(keys, "cy", name, file)
    across, down = size[0] / width, size[1] / height
    return [fx * across, fy * down, (width / 2 if cx is None else cx) * across, (height / 2 if cy is None else cy) * down]


def _is_fisheye(keys: Mapping[str, Any], name: str, file: Path) -> bool:
    if any(key.startswith("ftheta_p") for key in keys):
        raise CaptureError(f"{name} in {file} has an F-theta lens, which is not supported; undistort the photos first")
    model = str(keys.get("camera_model", "OPENCV"))
    if model not in _FISHEYE:
        raise CaptureError(
            f'{name} in {file} has the camera_model "{model}"; supported are {", ".join(_FISHEYE)}; undistort the photos first'
        )
    declared = keys.get("is_fisheye")
    return _FISHEYE[model] or (declared is not None and flag(declared, f'"is_fisheye" of {name} in {file}'))


def _distortion(keys: Mapping[str, Any], name: str, file: Path) -> list[float]:
    written = keys.get("distortion_params")
    if written is None:
        values = [_number(keys, key, name, file) or 0.0 for key in _DISTORTION]
    else:
        if not isinstance(written, list):
            raise CaptureError(
                f"distortion_params of {name} in {file} are {shown(written)}; they must be a list of the numbers k1, k2, k3, k4, p1, p2"
            )
        values = [number(value, f"distortion_params of {name} in {file}") for value in [*written, *[0.0] * 6][:6]]
    return values


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
    return Split(chosen["train"], chosen[test], f"the train_filenames and {test}_filenames of {file.name}")


def _list(content: Mapping[str, Any], key: str, file: Path) -> list[Any]:
    value = content.get(key)
    if not isinstance(value, list | None):
        raise CaptureError(f'"{key}" in {file} is {shown(value)}; it must be a list')
    return value or []


def _plain(written: str) -> str:
    return written.replace("\\", "/").removeprefix("./")
