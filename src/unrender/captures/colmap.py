"""Captures of COLMAP: photos, and a sparse model with cameras, poses and points."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from unrender.captures.capture import CaptureError, Split
from unrender.captures.colmap_lenses import Lens, lens_of
from unrender.captures.colmap_model import ColmapCamera, ColmapImage, files_of, read_cameras, read_images, read_model_points
from unrender.captures.images import in_threads
from unrender.captures.lenses import plausible_intrinsics
from unrender.captures.photo_files import IMAGE_FOLDERS, MASK_FOLDERS, PhotoFinder, check_format_of, smaller_folders, unread_message
from unrender.captures.photo_sizes import PhotoSize, fitting_size
from unrender.captures.photos import image_files
from unrender.captures.points import are_finite
from unrender.captures.posed_photos import affine, first_three, inverse_motions, name_below, rotation_about
from unrender.captures.reading import entries, is_folder, is_regular_file, read_bytes
from unrender.captures.source import Source, held_out, rigid_motions

_PLACES = ("sparse", "colmap/sparse")
"""Where models are, below the folder of a capture."""

_LISTS = {"train": "train_list.txt", "test": "test_list.txt", "validation": "validation_list.txt"}
_MOST_LIST_BYTES = 16 * 2**20


def find_colmap(folder: Path) -> Path | None:
    """Return the folder that holds a sparse model, or several in numbered folders; None if there is none."""
    for place in _PLACES:
        if _models(folder / place):
            return folder / place
    return folder if files_of(folder, "cameras") and files_of(folder, "images") else None


def read_colmap(folder: Path, place: Path, test_every: int) -> Source:
    """Read a sparse model, and the photos and masks of its folder.

    Photos are those of ``images``, or of a smaller copy such as ``images_4``; views are sorted by name. Of several models the one with most
    images is read.

    Raises:
        CaptureError: a file is damaged, photos are missing, a lens is not supported, or a split names no view.
    """
    notes: list[str] = []
    model = _largest_model(_models(place) or [place], folder, notes)
    cameras_file, images_file = (_one_of(model, name, notes) for name in ("cameras", "images"))
    points_files = [file for file in files_of(model, "points3D") if file.stat().st_size]
    posed = sorted(read_images(images_file), key=lambda image: image.name)
    if not posed:
        raise CaptureError(f"{images_file} has no images, so no pose was solved; solve the poses again, or read another model")
    photos_at, posed, images = _photos(folder, posed, images_file, notes)
    cameras = read_cameras(cameras_file)
    for image in posed:
        if image.camera not in cameras:
            raise CaptureError(f"{image.name} in {images_file} has the camera {image.camera}, which {cameras_file} lacks; solve again")
    lenses = {number: _lens(number, cameras[number], cameras_file) for number in sorted({image.camera for image in posed})}
    _note_fits(lenses, cameras, notes)
    names = tuple(name_below(folder, image) for image in images)
    intrinsics, sizes, apply_exif = _scaled(posed, cameras, lenses, images, cameras_file, photos_at, notes)
    fisheye = torch.tensor([lenses[image.camera].fisheye for image in posed])
    intrinsics, doubts = plausible_intrinsics(intrinsics, sizes, fisheye, names, cameras_file)
    poses, repairs = rigid_motions(_poses(posed), names, images_file)
    split, lists = _split(folder, [image.name for image in posed], names, test_every, notes)
    points, colors = _points(points_files[0]) if points_files else (None, None)
    return Source(
        files=(cameras_file, images_file, *points_files[:1], *lists),
        names=names,
        images=images,
        masks=_masks(folder, photos_at, [image.name for image in posed], notes),
        mask_meaning="by content",
        source_from_camera=poses,
        intrinsics=intrinsics,
        distortion=torch.tensor([lenses[image.camera].distortion for image in posed], dtype=torch.float64),
        sizes=sizes,
        fisheye=fisheye,
        apply_exif=apply_exif,
        split=split,
        points=points,
        point_colors=colors,
        notes=(*notes, *repairs, *doubts),
    )


def _models(place: Path) -> list[Path]:
    """List the models in numbered folders, in order; or the folder itself if it is one."""
    if not is_folder(place):
        return []
    numbered = [place / name for name in sorted((name for name in entries(place) if name.isdecimal()), key=lambda name: (len(name), name))]
    found = [model for model in numbered if is_folder(model) and _is_model(model)]
    return found or ([place] if _is_model(place) else [])


def _is_model(folder: Path) -> bool:
    return bool(files_of(folder, "cameras") or files_of(folder, "images"))


def _largest_model(models: Sequence[Path], folder: Path, notes: list[str]) -> Path:
    if len(models) == 1:
        return models[0]
    counts = [_image_count(model) for model in models]
    best = counts.index(max(counts))
    listed = ", ".join(f"{model.relative_to(folder)}: {count}" for model, count in list(zip(models, counts, strict=True))[:8])
    notes.append(f"of {len(models)} models the one with most images is read, {models[best].relative_to(folder)} (images: {listed})")
    return models[best]


def _image_count(model: Path) -> int:
    """Count the images of a model; zero if its files are damaged."""
    try:
        return max((len(read_images(file)) for file in files_of(model, "images")[:1]), default=0)
    except CaptureError:
        return 0


def _one_of(model: Path, name: str, notes: list[str]) -> Path:
    files = files_of(model, name)
    if not files:
        raise CaptureError(f"{model} has no {name}.bin or {name}.txt; copy all files of the model")
    if len(files) > 1:
        notes.append(f"{model.name} has both {files[0].name} and {files[1].name}; the former is read")
    return files[0]


def _photos(folder: Path, posed: list[ColmapImage], file: Path, notes: list[str]) -> tuple[Path, list[ColmapImage], tuple[Path, ...]]:
    """Find the folder of the photos, and the photo of each image. Images without one are left out if they are fewer than half."""
    places = [folder / name for name in (*IMAGE_FOLDERS, *smaller_folders(folder)) if is_folder(folder / name)]
    best: tuple[Path, PhotoFinder, list[Path | None]] | None = None
    for place in (*places, folder):
        finder = PhotoFinder(place)
        found = [finder.find(image.name) for image in posed]
        if best is None or len(posed) - found.count(None) > len(posed) - best[2].count(None):
            best = place, finder, found
        if 2 * found.count(None) < len(posed):
            break
    assert best is not None
    place, finder, found = best
    missing = [image.name for image, path in zip(posed, found, strict=True) if path is None]
    if missing and 2 * len(missing) >= len(posed):
        if (unread := next((path for name in missing if (path := finder.unread(name)) is not None), None)) is not None:
            raise CaptureError(unread_message(unread))
        for other in places:
            check_format_of(other)
        above = f"; the photos seem to be in {folder.parents[1]}, so give that folder" if folder.parent.name == "sparse" else ""
        raise CaptureError(
            f"{len(missing)} of the {len(posed)} images of {file} have no photo below {folder} ({first_three(missing)}); "
            f"put the photos into {folder / 'images'}{above}"
        )
    if missing:
        notes.append(f"{len(missing)} of the {len(posed)} images of the model have no photo and were left out ({first_three(missing)})")
    if place.name not in IMAGE_FOLDERS and place != folder:
        notes.append(f"the photos are those of {place.name}, because there are none in images")
    if finder.moved:
        notes.append(f"{len(finder.moved)} names of the model lead nowhere here, so their photos were found by the ends of the paths")
    kept = [(image, path) for image, path in zip(posed, found, strict=True) if path is not None]
    images = tuple(path for _, path in kept)
    known = set(images)
    others = [photo.name for parent in sorted({path.parent for path in images}) for photo in image_files(parent) if photo not in known]
    if others and place != folder:
        notes.append(f"{len(others)} photos have no pose in the model and are not used ({first_three(others)})")
    return place, [image for image, _ in kept], images


def _lens(number: int, camera: ColmapCamera, file: Path) -> Lens:
    return lens_of(camera.model, camera.parameters, camera.width, camera.height, f"camera {number} in {file}")


def _note_fits(lenses: dict[int, Lens], cameras: dict[int, ColmapCamera], notes: list[str]) -> None:
    fitted = [(number, lens.error) for number, lens in lenses.items() if lens.error is not None]
    if fitted:
        models = ", ".join(sorted({cameras[number].model for number, _ in fitted}))
        worst = max(error for _, error in fitted)
        notes.append(
            f"the lens of {len(fitted)} cameras ({models}) is replaced by a polynomial, which is off by at most {worst:.2g} pixels"
        )


def _scaled(
    posed: Sequence[ColmapImage],
    cameras: dict[int, ColmapCamera],
    lenses: dict[int, Lens],
    images: Sequence[Path],
    file: Path,
    photos_at: Path,
    notes: list[str],
) -> tuple[Float[Tensor, "views 4"], Int[Tensor, "views 2"], tuple[bool, ...]]:
    """Return intrinsics for the sizes of the photos, these sizes, and whether EXIF orientation applies, which COLMAP ignores."""
    photos = in_threads(PhotoSize.read, images)
    stated = [(float(cameras[image.camera].width), float(cameras[image.camera].height)) for image in posed]
    sized = [fitting_size(photo, size, file, as_stored=True) for photo, size in zip(photos, stated, strict=True)]
    if any(photo.shown != photo.stored and not apply for photo, (_, apply) in zip(photos, sized, strict=True)):
        notes.append("the cameras are of the photos as stored, so their EXIF orientation is not applied")
    different = [(size, wanted) for (size, _), wanted in zip(sized, stated, strict=True) if size != wanted]
    if different:
        (width, height), (wide, high) = different[0]
        notes.append(f"intrinsics were scaled from {wide:g}x{high:g} to the {width}x{height} pixels of the photos in {photos_at.name}")
    sizes = torch.tensor([size for size, _ in sized])
    factors = sizes.double() / torch.tensor(stated, dtype=torch.float64)
    numbers = torch.tensor([lenses[image.camera].intrinsics for image in posed], dtype=torch.float64)
    return numbers * torch.cat((factors, factors), 1), sizes, tuple(apply for _, apply in sized)


def _poses(posed: Sequence[ColmapImage]) -> Float[Tensor, "views 4 4"]:
    """Return ``source_from_camera``, the inverse of what the file holds."""
    camera_from_source = [affine(rotation_about(*image.wxyz), np.array(image.translation)) for image in posed]
    return inverse_motions(torch.from_numpy(np.stack(camera_from_source)))


def _points(file: Path) -> tuple[Float[Tensor, "points 3"] | None, UInt8[Tensor, "points 3"] | None]:
    positions, colors = (torch.from_numpy(values) for values in read_model_points(file))
    good = are_finite(positions)
    return (positions[good], colors[good]) if bool(good.any()) else (None, None)


def _split(folder: Path, listed: Sequence[str], names: Sequence[str], test_every: int, notes: list[str]) -> tuple[Split, list[Path]]:
    """Return the split that text files beside the photos list, and these files; else every N-th view is held out."""
    files = {key: folder / name for key, name in _LISTS.items() if is_regular_file(folder / name)}
    if not files:
        return held_out(names, test_every), []
    index = {name: view for view, name in enumerate(listed)}
    by_stem = {Path(name).stem: view for view, name in enumerate(listed)}
    chosen: dict[str, tuple[int, ...]] = {}
    for key, file in files.items():
        wanted = [line.strip() for line in os.fsdecode(read_bytes(file, _MOST_LIST_BYTES)).splitlines() if line.strip()]
        found = [index.get(name, by_stem.get(Path(name).stem)) for name in wanted]
        chosen[key] = tuple(view for view in found if view is not None)
        if wanted and not chosen[key]:
            raise CaptureError(f"{file} lists no view of the model ({first_three(wanted)}); correct its names or remove the file")
        if None in found:
            notes.append(f"{found.count(None)} names in {file.name} are of no view of the model")
    train, test = chosen.get("train"), chosen.get("test", chosen.get("validation"))
    if train is None:
        held = {view for views in chosen.values() for view in views}
        train = tuple(view for view in range(len(names)) if view not in held)
    if test is None:
        test = tuple(view for view in range(len(names)) if view not in set(train))
    if not train:
        listing = first_three([file.name for file in files.values()])
        raise CaptureError(f"the lists {listing} in {folder} leave no view to fit; correct them")
    return Split(train, test, f"the lists {' and '.join(file.name for file in files.values())}", given=True), list(files.values())


def _masks(folder: Path, photos_at: Path, listed: Sequence[str], notes: list[str]) -> tuple[Path, ...] | None:
    """Find the mask of each photo: ``masks/NAME.png`` as COLMAP names them, or ``masks/NAME``."""
    smaller = photos_at.name.partition("_")[2]
    places = [f"{name}_{smaller}" for name in MASK_FOLDERS if smaller.isdecimal()] + list(MASK_FOLDERS)
    for place in (folder / name for name in places if is_folder(folder / name)):
        finder = PhotoFinder(place)
        found = [finder.find(f"{name}.png") or finder.find(name) for name in listed]
        missing = [name for name, path in zip(listed, found, strict=True) if path is None]
        if not missing:
            return tuple(path for path in found if path is not None)
        if len(missing) < len(listed):
            raise CaptureError(f"{place} has no mask for {missing[0]} and {len(missing) - 1} more views; add them, or remove the folder")
        check_format_of(place)
        notes.append(f"no file in {place.name} has the name of a photo, so there are no masks")
    return None
