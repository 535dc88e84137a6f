"""What each subcommand of ``unrender`` takes: one data class per command, whose docstrings are the help pages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Generic, Literal, TypeVar

from tyro.conf import OmitArgPrefixes, Positional, arg

C = TypeVar("C")
DeviceOption = Annotated[str | None, arg(metavar="DEVICE", help_behavior_hint="(default: the first GPU, else the CPU)")]
CaptureOption = Annotated[Path | None, arg(name="capture", metavar="DIR", help_behavior_hint="(default: where it was when it was fitted)")]
Vector = tuple[float, float, float]
Up = Vector | Literal["cameras", "x", "y", "z", "-x", "-y", "-z"]


@dataclass(frozen=True)
class FitOptions(Generic[C]):
    """Fits a scene to a capture. The same command again resumes a fit that was stopped, and writes what is missing of a finished one."""

    capture: Positional[Annotated[Path, arg(metavar="CAPTURE")]]
    """Folder of posed photos: NeRF-synthetic, instant-ngp or nerfstudio transforms.json, NeuS npz."""
    config: OmitArgPrefixes[C]
    out: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: runs/RECIPE-CAPTURE)")] = None
    """Where the run goes."""
    preset: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: cpu or gpu, whichever the fit runs on)")] = None
    """Where the values of the options below start from."""
    device: DeviceOption = None
    """cpu, cuda or cuda:1."""
    seed: int = 0
    """Of every random number; on a CPU the same seed gives the same bits."""
    downscale: int = 1
    """Averages the photos over blocks of this many pixels squared."""
    center: Annotated[Vector | None, arg(metavar="X Y Z", help_behavior_hint="(default: from the capture)")] = None
    """Middle of the region of interest, in the frame the poses come in."""
    radius: Annotated[float | None, arg(metavar="R", help_behavior_hint="(default: from the capture)")] = None
    """Half the side of the region of interest, in the units the poses come in."""
    up: Annotated[Up | None, arg(metavar="X Y Z|AXIS", help_behavior_hint="(default: from the capture)")] = None
    """Which way is up in the frame the poses come in: a vector, x, y, z, -x, -y, -z, or cameras for the mean of the cameras'."""
    normal_maps: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: none)")] = None
    """Folder of normal maps, one image per photo, as a prior."""
    normal_maps_frame: Literal["opengl", "opencv", "world"] = "opengl"
    """Axes of those normals: of the camera, Y up or Y down, or of the frame the poses come in."""
    test_every: Annotated[int, arg(metavar="K")] = 8
    """Holds out every K-th view where the capture brings no split of its own; 0 holds out nothing."""
    masks: bool = True
    """Uses masks and alpha channels; without them the surroundings become part of the scene."""
    mesh_resolution: int = 256
    """Cells along a side of the region of interest when the mesh is extracted."""
    overwrite: bool = False
    """Removes another run that is in the output folder."""


@dataclass(frozen=True)
class EvalOptions:
    """Renders the views of a split, compares them with the photos, and writes metrics.json and renders/."""

    run: Positional[Annotated[Path, arg(metavar="RUN")]]
    """Folder that `unrender fit` wrote."""
    split: Literal["test", "train"] = "test"
    """Held-out views, or those fitted (written to metrics_train.json)."""
    capture: CaptureOption = None
    """The photos, where they have moved."""
    device: DeviceOption = None
    """cpu, cuda or cuda:1."""


@dataclass(frozen=True)
class RenderOptions:
    """Renders a camera path: PNG files in renders/PATH/ and a video PATH.mp4 beside them."""

    run: Positional[Annotated[Path, arg(metavar="RUN")]]
    """Folder that `unrender fit` wrote."""
    path: Literal["test", "orbit", "interpolated"] = "orbit"
    """The held-out views; a circle about the scene; a smooth path between the photos."""
    frames: int = 120
    """Of the orbit or the interpolated path."""
    fps: int = 24
    """Frames per second of the video."""
    downscale: int = 1
    """Renders pictures this many times smaller than the photos."""
    capture: CaptureOption = None
    """The photos, where they have moved."""
    device: DeviceOption = None
    """cpu, cuda or cuda:1."""


@dataclass(frozen=True)
class ExportOptions:
    """Extracts the surface and writes it with vertex colors."""

    run: Positional[Annotated[Path, arg(metavar="RUN")]]
    """Folder that `unrender fit` wrote."""
    format: Literal["ply", "obj", "glb"] = "glb"
    """GLB opens in browsers, Blender and game engines; PLY and OBJ in everything else."""
    resolution: int = 512
    """Cells along a side of the region of interest."""
    frame: Literal["source", "normalized"] = "source"
    """Coordinates: those the poses came in, or the cube [-1, 1] the fit works in."""
    all_parts: bool = False
    """Keeps every connected piece instead of the largest one."""
    out: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: RUN/mesh.FORMAT)")] = None
    """Where the file goes."""
    device: DeviceOption = None
    """cpu, cuda or cuda:1."""


@dataclass(frozen=True)
class DemoOptions:
    """Makes a capture of an analytic scene, fits `neus` to it, and compares the mesh with the truth. Needs no data and no network."""

    out: Annotated[Path, arg(metavar="DIR")] = Path("runs/demo")
    """Where the run goes."""
    max_seconds: float = 120.0
    """Training time."""
    device: DeviceOption = None
    """cpu, cuda or cuda:1."""
    seed: int = 0
    """Of every random number."""
    overwrite: bool = False
    """Removes another run that is in the output folder."""


@dataclass(frozen=True)
class DoctorOptions:
    """Says what this machine can do, and what is wrong with it; the exit code is 1 if anything is."""
