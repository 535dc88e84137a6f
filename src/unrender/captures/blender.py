"""Blender captures (NeRF-synthetic): one ``transforms_{train,val,test}.json`` per split, images with alpha beside them."""

from __future__ import annotations

from pathlib import Path

import torch

from unrender.captures.capture import CaptureError, Split
from unrender.captures.source import Source, held_out
from unrender.captures.transforms_json import name_below, read_frames, read_json


def read_blender(folder: Path, *, test_every: int) -> Source:
    """The cameras of ``transforms_train.json`` and of ``transforms_test.json``, or of ``transforms_val.json`` where there is no test file.

    Without either, every ``test_every``-th training view is held out.

    Raises:
        CaptureError: see :func:`unrender.captures.transforms_json.read_frames`; or splits of different lens or image size.
    """
    files = [folder / "transforms_train.json"]
    files += [path for path in (folder / "transforms_test.json", folder / "transforms_val.json") if path.is_file()][:1]
    parts = [read_frames(file, read_json(file), skip_missing=False) for file in files]
    first = parts[0]
    for file, part in zip(files, parts, strict=True):
        if (part.width, part.height) != (first.width, first.height):
            raise CaptureError(
                f"the photos of {file.name} are {part.width}x{part.height} but those of transforms_train.json in {folder} are "
                f"{first.width}x{first.height}; a capture needs images of one size"
            )
        if part.lens != first.lens or part.turn != first.turn or (part.masks is None) != (first.masks is None):
            raise CaptureError(f"{file.name} and transforms_train.json in {folder} differ in lens, orientation or masks; make them agree")
    images = tuple(image for part in parts for image in part.images)
    names = tuple(name_below(folder, image) for image in images)
    if len(parts) == 1:
        split = held_out(names, test_every)
    else:
        count = len(first.images)
        split = Split(
            tuple(range(count)), tuple(range(count, len(images))), f"transforms_train.json is fitted, {files[1].name} is held out"
        )
    return Source(
        form="blender",
        files=tuple(files),
        names=names,
        images=images,
        masks=None if first.masks is None else tuple(mask for part in parts for mask in part.masks or ()),
        ignored=(None,) * len(images),
        source_from_camera=torch.cat([part.source_from_camera for part in parts]),
        intrinsics=torch.cat([part.intrinsics for part in parts]),
        distortion=torch.cat([part.distortion for part in parts]),
        lens=first.lens,
        width=first.width,
        height=first.height,
        turn=first.turn,
        split=split,
        source_from_world=None,
        points=None,
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
    )
