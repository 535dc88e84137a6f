"""The command ``unrender locate``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from unrender.cli.commands import photos_behind
from unrender.cli.displays import display_of
from unrender.cli.options import OutputOptions
from unrender.cli.terminal import Ending
from unrender.devices import select_device
from unrender.files.atomic import write_json
from unrender.losses.metrics import psnr
from unrender.recipes import table
from unrender.recipes.pose import PoseError, Where, locate, pose_error
from unrender.runs.figures import color_picture, side_by_side, write_picture
from unrender.runs.inserting import view_named
from unrender.runs.locating import as_frame, as_scene, camera_at, most_similar_view, searched_scene, wanted_photo
from unrender.runs.opening import open_run


def locate_photo(
    output: OutputOptions,
    *,
    run: Path,
    photo: Path,
    start: str | None,
    pixels: Where,
    steps: int,
    seed: int,
    out: Path | None,
    capture: Path | None,
    device: str | None,
) -> Ending:
    """Run ``unrender locate``."""
    target, display = select_device(device), display_of(output)
    if steps < 1:
        raise ValueError(f"--steps is {steps}; it must be at least 1")
    if out is not None and out.suffix.lower() != ".json":
        raise ValueError(f"--out {out} is no camera file; give a name that ends in .json")
    opened = open_run(run, table.recipes(), target)
    scene = searched_scene(opened)
    shown = as_scene(scene)
    photos = photos_behind(opened, capture, display)
    wanted = wanted_photo(photos, photo)
    if start is None:
        with display.task("looking for a start"):
            first = most_similar_view(shown, photos, wanted, target)
    else:
        first = view_named(photos, start, "--start")
    camera = camera_at(photos, first, wanted).to(target)
    color = wanted.color.to(target)
    with display.task("searching", steps) as task:
        found = locate(
            scene, color, camera, where=pixels, steps=steps, only_object=not wanted.outlined, seed=seed, on_step=task.advance
        ).camera
    file = out or opened.directory.path / "located" / f"{Path(wanted.name).stem}.json"
    picture = file.with_suffix(".png")
    file.parent.mkdir(parents=True, exist_ok=True)
    before, after = (shown.render_view(one, 0).srgb for one in (camera, found))
    write_json(file, as_frame(wanted.name, found, opened.source_from_world))
    write_picture(picture, side_by_side([color_picture(one) for one in (color, before, after)]))
    true = None if wanted.view is None else photos.cameras.world_from_camera[wanted.view].to(target)
    errors = [None if true is None else pose_error(one.world_from_camera[0], true) for one in (camera, found)]
    scores = [round(float(psnr(one, color)), 2) for one in (before, after)]
    display.say(f"start: the pose of {photos.names[first]}, PSNR {scores[0]:.2f} dB{_in_words(errors[0])}")
    display.say(f"found: PSNR {scores[1]:.2f} dB{_in_words(errors[1])}")
    display.say(f"{file}; photo, start and result in {picture}")
    results = {
        "run": str(opened.directory.path),
        "file": str(file),
        "picture": str(picture),
        "photo": wanted.name,
        "start": photos.names[first],
        "psnr_start": scores[0],
        "psnr": scores[1],
        "error_start": None if errors[0] is None else asdict(errors[0]),
        "error": None if errors[1] is None else asdict(errors[1]),
    }
    return Ending(0, results)


def _in_words(error: PoseError | None) -> str:
    return "" if error is None else f", {error.degrees:.2f} degrees and {error.percent:.2f} % of the distance away from its own pose"
