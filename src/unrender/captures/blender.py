"""Blender captures (NeRF-synthetic): one ``transforms_{train,val,test}.json`` per split, images with alpha beside them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from PIL import Image

from unrender.captures.capture import Capture, CaptureError, Split
from unrender.captures.posed_photos import name_below
from unrender.captures.reading import is_regular_file, read_json
from unrender.captures.source import Region, Source, held_out
from unrender.captures.transforms_json import any_photo_of, dynamic_mask, read_frames
from unrender.transforms import scale_of

_REGION = Region.cube((0.0, 0.0, 0.0), 1.5)
"""Half the extent of the region of interest: objects lie within 1.5 units of the origin."""


def read_blender(folder: Path, file: Path, test_every: int) -> Source:
    """Read the cameras of ``transforms_train.json`` and of ``transforms_test.json``, or ``transforms_val.json``.

    The first of the two whose photos exist is held out: exporters write poses of pictures that are still to be rendered. Without either,
    every ``test_every``-th training view is held out.

    Raises:
        CaptureError: see :func:`unrender.captures.transforms_json.read_frames`; or only one of the files has masks.
    """
    contents = {file: read_json(file)}
    notes: list[str] = []
    for path in (folder / "transforms_test.json", folder / "transforms_val.json"):
        if not is_regular_file(path):
            continue
        content = read_json(path)
        if any_photo_of(path, content):
            contents[path] = content
            break
        notes.append(f"{path.name} has poses but none of its photos exist, so it is not used")
    parts = [read_frames(path, content) for path, content in contents.items()]
    files = tuple(contents)
    if len({part.masks is None for part in parts}) > 1:
        raise CaptureError(f"{files[1].name} and {file.name} in {folder} must both give masks to their frames, or neither")
    images = tuple(image for part in parts for image in part.images)
    names = tuple(name_below(folder, image) for image in images)
    if len(parts) == 1:
        split = held_out(names, test_every)
    else:
        count = len(parts[0].images)
        rule = f"{file.name} is fitted, {files[1].name} is held out"
        split = Split(tuple(range(count)), tuple(range(count, len(images))), rule, given=True)
    return Source(
        files=files,
        names=names,
        images=images,
        masks=None if parts[0].masks is None else tuple(mask for part in parts for mask in part.masks or ()),
        mask_meaning=parts[0].mask_meaning,
        alpha_meaning=parts[0].alpha_meaning,
        transparent_colors=parts[0].transparent_colors,
        ignored=tuple(dynamic_mask(image) for image in images),
        source_from_camera=torch.cat([part.source_from_camera for part in parts]),
        intrinsics=torch.cat([part.intrinsics for part in parts]),
        distortion=torch.cat([part.distortion for part in parts]),
        sizes=torch.cat([part.sizes for part in parts]),
        fisheye=torch.cat([part.fisheye for part in parts]),
        apply_exif=tuple(turn for part in parts for turn in part.apply_exif),
        split=split,
        region=_REGION,
        up=(0.0, 0.0, 1.0),
        camera_axes=parts[0].camera_axes,
        notes=(*notes, *dict.fromkeys(note for part in parts for note in part.notes)),
    )


def write_blender(capture: Capture, folder: str | Path) -> None:
    """Write a capture as RGBA photos with ``transforms_train.json`` and ``transforms_test.json``.

    Poses are written in the source frame, with OpenGL camera axes (+Y up, looking down -Z).

    Raises:
        ValueError: the cameras differ in focal length or size, or have an off-center principal point or lens distortion, which the format
        cannot express.
    """
    folder = Path(folder)
    cameras = capture.cameras
    focal, (width, height) = float(cameras.intrinsics[0, 0]), cameras.sizes[0].tolist()
    plain = torch.tensor([focal, focal, width / 2, height / 2])
    if not cameras.same_size or not torch.allclose(cameras.intrinsics.cpu().float(), plain, rtol=1e-5) or cameras.has_distortion:
        raise ValueError(f"{capture.name}: this format holds one size, one focal length, a centered principal point and no distortion")
    similarity = capture.source_from_world.double().cpu()
    opengl_axes = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
    for part, chosen in (("train", capture.split.train), ("test", capture.split.test)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        frames = []
        for view in chosen:
            pose = similarity @ cameras.world_from_camera[view].double().cpu()
            pose[:3, :3] /= scale_of(similarity)
            stem = Path(capture.names[view]).stem
            frames.append({"file_path": f"./{part}/{stem}", "transform_matrix": (pose @ opengl_axes).tolist()})
            photo = capture.photos[view][..., : 4 if capture.has_masks else 3].cpu()
            Image.fromarray(photo.contiguous().numpy()).save(folder / part / f"{stem}.png")
        text = json.dumps({"camera_angle_x": 2 * math.atan(width / (2 * focal)), "frames": frames}, indent=2)
        (folder / f"transforms_{part}.json").write_text(text + "\n", encoding="utf-8")
