"""The command ``unrender insert``."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch

from unrender.cli.commands import photos_behind
from unrender.cli.displays import display_of
from unrender.cli.options import OutputOptions
from unrender.cli.terminal import Ending
from unrender.devices import select_device
from unrender.recipes import table
from unrender.runs.display import Display
from unrender.runs.figures import color_picture, write_picture
from unrender.runs.inserting import Background, inserted, lit_in, plain_photo, posed_photo, standing, view_named, view_of
from unrender.runs.opening import OpenRun, open_run
from unrender.runs.relighting import exposure_of, lit_asset
from unrender.shading.latlong import checked_suffix, turned
from unrender.transforms import inverse_similarity

_SUFFIXES = (".png", ".jpg", ".jpeg")


def insert_object(
    output: OutputOptions,
    *,
    run: Path,
    photo: Path,
    at: tuple[float, float] | None,
    size: float | None,
    turn: float,
    turn_light: float,
    env: Path | None,
    exposure: float | None,
    shadow: bool,
    camera: Path | None,
    tilt: float,
    out: Path | None,
    capture: Path | None,
    device: str | None,
) -> Ending:
    """Run ``unrender insert``."""
    target, display = select_device(device), display_of(output)
    for name, value, right in (
        ("--size", size, size is None or 0 < size < math.inf),
        ("--exposure", exposure, exposure is None or 0 < exposure < math.inf),
        ("--tilt", tilt, -90 < tilt < 90),
        ("--turn", turn, math.isfinite(turn)),
        ("--turn-light", turn_light, math.isfinite(turn_light)),
    ):
        if not right:
            limits = {"--tilt": " from -90 to 90", "--size": " above zero", "--exposure": " above zero"}.get(name, "")
            raise ValueError(f"{name} is {value}; give a finite number{limits}")
    if env is not None:
        checked_suffix(env)
    opened = open_run(run, table.recipes(), target)
    asset = lit_asset(opened).to("cpu")
    if env is not None:
        with display.task("reading the light"):
            asset = replace(asset, environment=opened.light(env))
    if turn_light != 0 and asset.environment is not None:
        asset = replace(asset, environment=turned(asset.environment, math.radians(turn_light)))
    background = _background(opened, photo, camera, tilt, capture, display)
    stands, background = standing(asset, background, at=at, size=size, turn=turn)
    file = out or opened.directory.path / "inserted" / f"{Path(background.name).stem}.png"
    if file.suffix.lower() not in _SUFFIXES:
        raise ValueError(f"--out {file} is no picture file; give a name that ends in {', '.join(_SUFFIXES)}")
    file.parent.mkdir(parents=True, exist_ok=True)
    with display.task("casting rays for the shadows on the object"):
        scene = lit_in(stands, background, target)
    if exposure is None:
        exposure = 1.0 if env is None else exposure_of(scene, background.camera.to(target)) or 1.0
    with display.task("rendering"):
        seen = inserted(stands, background, exposure=exposure, shadow=shadow, device=target, scene=scene)
        write_picture(file, color_picture(seen))
    where = stands.asset.mesh.bounding_box.mean(0)
    pixels, _ = background.camera.project(where[None].to(torch.float32), 0)
    display.say(f"{file}: the object in {background.name}")
    results = {
        "file": str(file),
        "photo": background.name,
        "middle": [round(value, 2) for value in pixels[0].tolist()],
        "exposure": exposure,
    }
    return Ending(0, {"run": str(opened.directory.path), **results})


def _background(run: OpenRun, photo: Path, camera: Path | None, tilt: float, moved_to: Path | None, display: Display) -> Background:
    """Return the photo that is meant: one of the capture, or a file with a camera or without."""
    folder = moved_to or (Path(run.record.capture.path) if run.record.capture is not None and run.record.capture.path else None)
    is_of_capture = folder is not None and photo.exists() and photo.resolve().is_relative_to(folder.resolve())
    if photo.is_file() and not is_of_capture:
        if camera is not None:
            return posed_photo(photo, camera, inverse_similarity(run.source_from_world))
        display.say(f"note: {photo} has no camera, so its ground is taken for level and its camera for tilted by {tilt:g} degrees")
        return plain_photo(photo, tilt)
    if camera is not None:
        raise ValueError(f"--camera {camera} is for a photo file outside of the capture, and {photo} is none; leave out --camera")
    photos = photos_behind(run, moved_to, display)
    name = photo.resolve().relative_to(folder.resolve()).as_posix() if is_of_capture and folder is not None else photo.as_posix()
    return view_of(photos, view_named(photos, name), folder)
