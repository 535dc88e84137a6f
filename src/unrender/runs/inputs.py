"""Reading of a fit's input: a capture, a picture, a mesh, or a finished run of another recipe.

Each kind of :mod:`unrender.recipes.inputs` has one reader. :class:`Origin` records the source of an input, for ``run.json``.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from unrender.captures.capture import Capture, CaptureError
from unrender.captures.load import read_capture
from unrender.captures.options import CaptureOptions
from unrender.captures.silhouettes import without_contradicting_masks
from unrender.captures.undistortion import undistorted
from unrender.captures.upright import upward_direction
from unrender.color import linear_from_srgb
from unrender.demo import make_demo_capture
from unrender.geometry.mesh import Mesh, read_mesh
from unrender.recipes.inputs import FittedRun, MeshInput, Picture
from unrender.recipes.kinds import Input, InputName
from unrender.recipes.pose_refinement import HULL_MARGIN
from unrender.recipes.table import C, I, Recipe
from unrender.render.asset import Asset, read_asset
from unrender.render.lit import LitScene
from unrender.render.refined_poses import refined
from unrender.runs.directory import RunDirectory, RunRecord
from unrender.runs.opening import open_run
from unrender.runs.read_options import ReadOptions, RunOptions, StartOptions
from unrender.runs.scores import refines_poses
from unrender.shading.latlong import LIGHT_SIZE, read_environment
from unrender.transforms import upright

DEMO_CAPTURE = "demo"
"""Path in ``run.json`` of the capture that ``unrender demo`` makes."""


_MOST_PIXELS = 2**26
"""Pixels of a picture; a fit keeps a few dozen bytes of each."""

INPUT_TYPES: dict[InputName, tuple[type, ...]] = {
    "capture": (Capture,),
    "picture": (Picture,),
    "mesh": (MeshInput,),
    "run": (FittedRun,),
    "capture|run": (Capture, FittedRun),
}
"""The classes of each kind of input."""


@dataclass(frozen=True)
class Origin:
    """The source of an input; paths are empty for inputs passed in Python."""

    path: str = ""
    photos: str = ""
    """Folder of the capture that comes with the input."""
    options: CaptureOptions = CaptureOptions()
    """How the photos were read."""


@dataclass(frozen=True)
class Reading(Generic[I]):
    """An input and its source."""

    input: I
    origin: Origin


def read_input(
    recipe: Recipe[C, I],
    config: C,
    path: Path,
    options: ReadOptions | None = None,
    *,
    recipes: Mapping[str, Recipe[Any, Any]],
    device: torch.device,
) -> Reading[I]:
    """Read the input of a recipe.

    Args:
        recipe: defines the kind of input.
        config: says whether its poses are exact.
        path: a folder or a file.
        options: options of that kind, by default the defaults.
        recipes: the table, for runs of other recipes.
        device: of the scene of such a run.

    Raises:
        ValueError: the input cannot be read.
        OSError: likewise.
    """
    kind, absolute = recipe.input.name, str(path.absolute())
    if kind == "capture|run":
        reading = _read_start(path, options if isinstance(options, StartOptions) else StartOptions(), recipes, device)
    elif kind == "capture":
        options = with_absolute_paths(options if isinstance(options, CaptureOptions) else CaptureOptions())
        reading = Reading(read_capture(path, options), Origin(absolute, absolute, options))
    elif kind == "run":
        reading = read_run(path, options.capture if isinstance(options, RunOptions) else None, recipes=recipes, device=device)
    elif kind == "picture":
        reading = Reading(read_picture(path), Origin(absolute))
    else:
        reading = Reading(read_mesh_input(path), Origin(absolute))
    return Reading(prepared(recipe, config, reading.input), reading.origin)


def _read_start(
    path: Path, options: StartOptions, recipes: Mapping[str, Recipe[Any, Any]], device: torch.device
) -> Reading[Capture] | Reading[FittedRun]:
    """Read a capture, with the mesh and the light to begin with if they are given, or a run.

    Raises:
        ValueError: options for photos are given with a run, or something cannot be read.
    """
    if is_run(path):
        if replace(options, env=None) != StartOptions():
            raise ValueError(f"{path} is a run, whose photos are read as they were for it; leave the options of reading photos out")
        reading = read_run(path, recipes=recipes, device=device)
        return reading if options.env is None else Reading(_lit_by(reading.input, options.env), reading.origin)
    absolute, of_capture = str(path.absolute()), with_absolute_paths(options.of_capture)
    capture = read_capture(path, of_capture)
    if options.mesh is None and options.env is None:
        return Reading(capture, Origin(absolute, absolute, of_capture))
    given = FittedRun(capture.name, "capture", LitScene(Asset.empty()), capture, capture.fingerprint, capture.notes)
    given = given if options.mesh is None else _beginning_with(given, options.mesh)
    given = given if options.env is None else _lit_by(given, options.env)
    return Reading(given, Origin(absolute if options.mesh is None else str(options.mesh.absolute()), absolute, of_capture))


def _beginning_with(given: FittedRun, file: Path) -> FittedRun:
    """Return an input that begins with a mesh and its material.

    Raises:
        ValueError: the file holds no mesh, or none that a photo shows.
    """
    fingerprint = _with_file(given.fingerprint, file)
    asset = read_asset(file).transformed(torch.linalg.inv(given.capture.source_from_world))
    asset = replace(asset, mesh=replace(asset.mesh, vertices=asset.mesh.vertices.float()))
    _check_mesh_in_view(asset.mesh, given.capture, file)
    note = f"begins with {file.name}, {len(asset.mesh.faces):,} triangles"
    return replace(given, recipe="mesh", scene=LitScene(asset), fingerprint=fingerprint, notes=(note, *given.notes))


def _lit_by(given: FittedRun, file: Path) -> FittedRun:
    """Return an input with a known light.

    Raises:
        ValueError: the file holds no picture of a light.
    """
    fingerprint = _with_file(given.fingerprint, file)
    source_from_world = given.capture.source_from_world
    environment = read_environment(file, LIGHT_SIZE, upright(source_from_world, upward_direction(given.capture)))
    return replace(given, environment=environment, fingerprint=fingerprint, notes=(f"the light is that of {file.name}", *given.notes))


def _with_file(fingerprint: str, file: Path) -> str:
    """Return the fingerprint of an input and a file together."""
    return hashlib.sha256(hashlib.sha256(_bytes_of(file)).hexdigest().encode() + fingerprint.encode()).hexdigest()


def _check_mesh_in_view(mesh: Mesh, capture: Capture, path: Path) -> None:
    """Check that some photo shows a mesh.

    Raises:
        ValueError: none does.
    """
    for view in capture.split.train:
        if len(capture.cameras.project_inside(mesh.vertices.to(capture.cameras.intrinsics), view)[0]) > 0:
            return
    raise ValueError(
        f"{path} lies outside of every photo of {capture.name}: it must be in the frame of the poses, as exports of unrender are; "
        "move or scale it there first"
    )


def prepared(recipe: Recipe[C, I], config: C, given: Input) -> I:
    """Return an input as a recipe needs it.

    Views whose masks contradict the others are not fitted, by more than inexact poses explain where these are refined. Methods that
    rasterize get photos without lens distortion.

    Raises:
        ValueError: the recipe takes another kind of input.
    """
    if not isinstance(given, INPUT_TYPES[recipe.input.name]):
        raise ValueError(f"the recipe {recipe.name} takes {recipe.input.summary} as input, got {type(given).__name__}")
    refines = recipe.refines_poses(config)
    margin = mask_margin(refines_poses=refines)
    if isinstance(given, Capture):
        given = _usable(given, margin, undistort=recipe.undistorted)
        given = replace(given, notes=(*given.notes, _POSES_WITHOUT_MASKS)) if refines and not given.has_masks else given
    elif isinstance(given, FittedRun):
        capture = _usable(given.capture, margin, undistort=recipe.undistorted)
        given = replace(given, capture=capture, notes=(*given.notes, *capture.notes[len(given.capture.notes) :]))
    return given  # pyright: ignore[reportReturnType]  the class was checked above


def is_run(path: Path) -> bool:
    """Tell whether a folder is that of a run."""
    return RunDirectory(path).record_file.is_file()


def kind_of(recipe: Recipe[C, I], given: Input) -> InputName:
    """Return the kind of an input, for a recipe that takes several."""
    if recipe.input.name != "capture|run":
        return recipe.input.name
    return "run" if isinstance(given, FittedRun) else "capture"


_POSES_WITHOUT_MASKS = (
    "poses are refined without masks: they may end farther from the true ones than they were; compare with a fit without --refine-poses, "
    "or solve the poses again (unrender poses)"
)


def mask_margin(*, refines_poses: bool) -> float:
    """Return the share of the image size by which masks may be off, because poses are."""
    return HULL_MARGIN if refines_poses else 0.0


def _usable(capture: Capture, margin: float, *, undistort: bool) -> Capture:
    capture = without_contradicting_masks(capture, margin=margin)
    return undistorted(capture) if undistort else capture


def with_absolute_paths(options: CaptureOptions) -> CaptureOptions:
    """Return options that mean the same from any working folder."""
    return options if options.normal_maps is None else replace(options, normal_maps=options.normal_maps.absolute())


def read_run(
    path: Path, photos: Path | None = None, *, recipes: Mapping[str, Recipe[Any, Any]], device: torch.device
) -> Reading[FittedRun]:
    """Read a finished run and the capture it was fitted to.

    Args:
        path: the folder of the run.
        photos: the folder of its capture, if that has moved.
        recipes: the table.
        device: of its scene.

    Raises:
        FileNotFoundError: the folder holds no run.
        ValueError: the run is not finished, cannot be read, or its photos cannot.
    """
    run = open_run(path, recipes, device)
    if not run.record.is_finished:
        raise ValueError(f"{path} is not finished; run the command that began it again first")
    capture = refined(read_photos(run.record, photos), run.scene)
    fingerprint = hashlib.sha256(f"{run.checkpoint.sha256}\n{capture.fingerprint}".encode()).hexdigest()
    poses = "" if run.scene.poses is None else ", at the poses that were refined with it, those of held-out photos too"
    fitted = FittedRun(
        name=path.resolve().name,
        recipe=run.record.recipe,
        scene=run.scene,
        capture=capture,
        fingerprint=fingerprint,
        notes=(f"goes on from {run.record.recipe}, {run.record.outcome} after {run.record.steps} steps{poses}", *capture.notes),
    )
    assert run.record.capture is not None
    where = run.record.capture.path if photos is None else str(photos.absolute())
    return Reading(fitted, Origin(str(path.absolute()), where, run.record.capture.options))


def read_photos(record: RunRecord, moved_to: Path | None = None) -> Capture:
    """Read the capture behind a run again, with the same options.

    Normal maps only matter while fitting; where they have moved, the capture is read without them.

    Args:
        record: of the run.
        moved_to: the folder of the capture, if it has moved.

    Raises:
        ValueError: there is no capture, it has moved, or its files have changed.
    """
    known = record.capture
    if known is None:
        raise ValueError(f"a run of {record.recipe} is fitted to a {record.input.kind}: there are no photos to compare with")
    if moved_to is None and known.path == DEMO_CAPTURE:
        return make_demo_capture()
    path = moved_to or Path(known.path)
    if moved_to is None and (not known.path or not path.exists()):
        where = f"at {path} any more" if known.path else "named in run.json (it was handed over in Python)"
        raise ValueError(f"the capture is not {where}; say where it is with --capture DIR")
    maps = known.options.normal_maps
    if maps is not None and not maps.is_dir():
        capture = read_capture(path, replace(known.options, normal_maps=None))
        split = without_contradicting_masks(capture, margin=mask_margin(refines_poses=refines_poses(record))).split
        same = (len(split.train), len(split.test)) == (known.train_views, known.test_views)  # the fingerprint covers the normal maps too
        capture = replace(capture, notes=(*capture.notes, f"the normal maps are not at {maps} any more; the photos are read without them"))
    else:
        capture = read_capture(path, known.options)
        same = capture.fingerprint == known.fingerprint
    if not same:
        raise ValueError(f"the files in {path} are not those the run was fitted to; give the original capture with --capture DIR")
    return capture


def read_picture(path: Path) -> Picture:
    """Read a picture file as linear light; transparent parts become white.

    Raises:
        ValueError: the file is not a picture, is truncated, or has too many pixels.
    """
    data = _bytes_of(path)
    try:
        with _large_ones_allowed(), Image.open(path) as file:
            width, height = file.size
            if width * height > _MOST_PIXELS:
                raise CaptureError(f"the picture {path} has {width:,} x {height:,} pixels; give one of at most {_MOST_PIXELS:,} pixels")
            straight = ImageOps.exif_transpose(file)
            transparent = straight.has_transparency_data
            rgba = np.asarray(straight.convert("RGBA"), dtype=np.float32) / 255.0
    except CaptureError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"the picture {path} cannot be read ({error}); give a PNG or JPEG file") from error
    notes = ("transparent parts of the picture are white",) if transparent else ()
    return Picture(path.stem, _over_white(torch.from_numpy(rgba)), hashlib.sha256(data).hexdigest(), notes)


@contextmanager
def _large_ones_allowed() -> Iterator[None]:
    """Keep Pillow from warning about large pictures, which are refused here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def read_mesh_input(path: Path) -> MeshInput:
    """Read a mesh file.

    Raises:
        ValueError: the file holds no mesh.
    """
    data = _bytes_of(path)
    return MeshInput(path.stem, read_mesh(path), hashlib.sha256(data).hexdigest())


def _bytes_of(path: Path) -> bytes:
    if not path.is_file():
        raise ValueError(f"{path} is {'a folder' if path.is_dir() else 'not there'}; give a file")
    return path.read_bytes()


def _over_white(rgba: Float[Tensor, "height width 4"]) -> Float[Tensor, "height width 3"]:
    return linear_from_srgb(rgba[..., :3] * rgba[..., 3:] + (1 - rgba[..., 3:]))
