"""The refined poses of a run as a capture of its own: ``cameras/transforms.json``, which names the photos where they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unrender.cameras import Cameras
from unrender.captures.capture import Capture
from unrender.captures.load import read_source
from unrender.files.atomic import write_json
from unrender.runs.directory import CaptureRecord
from unrender.runs.locating import as_frame
from unrender.transforms import scale_of


def write_refined(file: Path, photos: Capture, known: CaptureRecord | None) -> None:
    """Write the cameras of a capture, in the frame of its input poses.

    Args:
        file: ``transforms.json``.
        photos: at their refined poses.
        known: where the photos were read; without files the frames have the names of the photos.

    Raises:
        OSError: the file cannot be written.
    """
    cameras, names, masks = photos.cameras.to("cpu"), list(photos.names), None
    folder = None if known is None or not known.path else Path(known.path)
    if known is not None and folder is not None and folder.is_dir():
        options = known.options
        source, _ = read_source(
            folder,
            test_every=options.test_every,
            leave_out=options.leave_out,
            masks=options.masks,
            camera_axes=options.camera_axes,
            principal_shift=options.principal_shift,
        )
        if source.names == photos.names:  # lenses of the photos as they are stored: a fit may have used smaller or undistorted ones
            lenses = (source.intrinsics.float(), source.distortion.float(), source.sizes, source.fisheye)
            cameras = Cameras(cameras.world_from_camera, *lenses)
            names = [str(image.absolute()) for image in source.images]
            masks = None if source.masks is None else [str(mask.absolute()) for mask in source.masks]
    frames: list[dict[str, Any]] = []
    for view, name in enumerate(names):
        model = "OPENCV_FISHEYE" if bool(cameras.fisheye[view]) else "OPENCV"
        mask = {} if masks is None else {"mask_path": masks[view]}
        frames.append({"camera_model": model, **as_frame(name, cameras[view], photos.source_from_world), **mask})
    content: dict[str, Any] = {
        "unrender": {
            "center": photos.source_from_world[:3, 3].tolist(),
            "radius": scale_of(photos.source_from_world),
            "z_is_up": photos.up == (0.0, 0.0, 1.0),
        }
    }
    if photos.split.test:
        train, test = ([names[view] for view in views] for views in (photos.split.train, photos.split.test))
        content |= {"train_filenames": train, "test_filenames": test}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, {**content, "frames": frames})
