"""Options of each subcommand of ``unrender``: one dataclass per command, whose texts are the help pages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unrender.cli.arguments import styled
from unrender.words import CameraAxes, CaptureLayout, HoldOut, MaskMethod, Protocol, TruthFrame

CameraPath = Literal["test", "orbit", "spiral", "interpolated"]
"""The held-out views; a circle about the scene; a spiral before it; a smooth path between the photos."""
MeshFormat = Literal["ply", "obj", "glb"]
ExportFrame = Literal["upright", "source", "normalized"]
"""The frame of the input, turned upright; the same as it is; the normalized world, whose region of interest is [-1, 1]³."""
UpAxes = Literal["y-up", "z-up"]
AxisOrVector = tuple[float, float, float] | Literal["x", "y", "z", "-x", "-y", "-z"]
Shell = Literal["bash", "zsh", "fish"]

StudyName = Literal["encodings", "ntk", "fourier"]
"""What Fourier features do to positions; how wide networks learn; what an encoding does to a picture."""

_CAPTURE = "where it was when it was fitted"
_DEVICE = "the first GPU, else the CPU"


@dataclass(frozen=True)
class OutputOptions:
    """Options of what is printed."""

    quiet: bool = False
    """Print errors only."""
    json: bool = False
    """Print the results as one JSON object; everything else goes to standard error."""


@dataclass(frozen=True)
class FitOptions:
    """Fit a scene. The same command resumes a stopped fit, and writes missing outputs of a finished one."""

    out: Path | None = styled(None, metavar="DIR", text="runs/RECIPE-INPUT")
    """Output folder of the run."""
    preset: str | None = styled(None, metavar="NAME", text="cpu or gpu, whichever the fit runs on")
    """Defaults of the settings."""
    config: Path | None = styled(None, metavar="FILE")
    """Take the settings from the run.json of another run."""
    device: str | None = styled(None, metavar="DEVICE", text=_DEVICE)
    """cpu, cuda or cuda:1."""
    seed: int = 0
    """Seed of all random numbers; on a CPU the same seed gives the same bits."""
    mesh_resolution: int = 256
    """Cells along a side of the region of interest when the mesh is extracted."""
    overwrite: bool = False
    """Remove another run in the output folder."""
    tensorboard: bool = False
    """Write the curves for TensorBoard too, into RUN/tensorboard."""


@dataclass(frozen=True)
class PosesOptions:
    """Solve the camera poses of photos or of a video, and write a capture. The same command goes on where it was stopped."""

    photos: Path = styled(metavar="PHOTOS_OR_VIDEO", positional=True)
    """A folder of photos, with masks in its folder masks if there are any, or a video."""
    out: Path | None = styled(None, metavar="DIR", text="captures/PHOTOS")
    """Folder of the capture."""
    frames: int | None = styled(None, metavar="N", text="two per second, at least 60 and at most 150")
    """Number of frames that are taken from a video."""
    focal: float | None = styled(None, metavar="PIXELS", text="from EXIF, else solved")
    """Focal length of the photos, kept where they do not determine it: one ring of similar views does not."""
    overwrite: bool = False
    """Replace a capture of other photos in the output folder."""


@dataclass(frozen=True)
class PhotographOptions:
    """Render photos of a mesh under a light from all sides, as a capture with the truth beside it. The same command goes on."""

    mesh: Path = styled(metavar="MESH", positional=True)
    """A mesh with its material: GLB, glTF, OBJ with its MTL, or PLY with vertex colors."""
    env: Path = styled(metavar="FILE")
    """The light: a lat-long picture of all directions, HDR or EXR, +Z up; the middle of it is seen along +X."""
    out: Path | None = styled(None, metavar="DIR", text="captures/MESH")
    """Folder of the capture."""
    views: int = 100
    """Number of photos to fit."""
    held_out: int = 20
    """Number of photos that are held out, from other directions."""
    resolution: int = styled(512, metavar="PIXELS")
    """Width and height of the photos."""
    exposure: float | None = styled(None, metavar="FACTOR", text="99 % of the object below white")
    """Factor of the light."""
    seed: int = 0
    """Seed of the directions of the cameras; the same seed gives the same photos."""
    overwrite: bool = False
    """Replace another capture in the output folder."""
    device: str | None = styled(None, metavar="DEVICE", text=_DEVICE)
    """cpu, cuda or cuda:1."""


@dataclass(frozen=True)
class CheckOptions:
    """Tell whether a capture will work and what is wrong with it; exit code 1 if a fit would fail. It writes check.html and check.png."""

    capture: Path = styled(metavar="CAPTURE", positional=True)
    """A folder of posed photos."""
    out: Path | None = styled(None, metavar="DIR", text="runs/check-NAME")
    """Folder for check.html and check.png."""


@dataclass(frozen=True)
class StudyOptions:
    """Run a small experiment and write one page with its pictures, numbers and an explanation."""

    study: StudyName = styled(metavar="STUDY", positional=True)
    """encodings (what Fourier features do to positions), ntk (how wide networks learn) or fourier (what they do to a picture)."""
    picture: Path | None = styled(None, metavar="FILE", text="a made picture")
    """A photograph for fourier, of whose middle square 256 x 256 pixels are made."""
    steps: int = 1_000
    """Steps of each fit of fourier."""
    out: Path | None = styled(None, metavar="DIR", text="runs/study-STUDY")
    """Folder of the page, and of the fits of fourier."""
    device: str | None = styled(None, metavar="DEVICE", text=_DEVICE)
    """cpu, cuda or cuda:1, for fourier."""
    seed: int = 0
    """Seed of all random numbers."""


@dataclass(frozen=True)
class EvalOptions:
    """Render the views of a split, compare them with the photos and the surface with a truth, and write metrics.json and renders/."""

    run: Path = styled(metavar="RUN", positional=True)
    """Folder that `unrender fit` wrote."""
    truth: Path | None = styled(None, metavar="PATH", text="the normal maps or the true scene that the capture brings, if any")
    """A true surface: a mesh (PLY, OBJ, GLB, STL), points (PLY, npz, npy), or a folder of normal maps of the views."""
    truth_frame: TruthFrame | None = styled(None, text="source for a mesh or points; for normal maps it is found")
    """Frame of the truth: that of the poses or the normalized world; the axes of normal maps: of the poses or of the camera."""
    relight: Path | None = styled(None, metavar="FILE", text="none")
    """Another light (HDR, EXR) under which the asset is compared with the true scene that the capture brings."""
    protocol: Protocol | None = None
    """Also write RUN/NAME.json as a benchmark's tables state results; dtu and stanford-orb take the folder of their truth as --truth."""
    split: Literal["test", "train"] = "test"
    """Held-out views, or fitted views (written to metrics_train.json)."""
    capture: Path | None = styled(None, metavar="DIR", text=_CAPTURE)
    """The photos, if they have moved."""
    device: str | None = styled(None, metavar="DEVICE", text=_DEVICE)
    """cpu, cuda or cuda:1."""


@dataclass(frozen=True)
class RenderOptions:
    """Render a camera path: PNG files in renders/PATH/ and a video PATH.mp4 beside them."""

    run: Path = styled(metavar="RUN", positional=True)
    """Folder that `unrender fit` wrote."""
    path: CameraPath | Path = "orbit"
    """The held-out views; a circle about the scene; a spiral before it; a smooth path between the photos; or a JSON path of nerfstudio."""
    frames: int = 120
    """Number of frames of the orbit, the spiral or the interpolated path."""
    fps: int = 24
    """Frames per second of the video."""
    downscale: int = styled(1, metavar="K")
    """Render pictures smaller than the photos by this factor."""
    capture: Path | None = styled(None, metavar="DIR", text=_CAPTURE)
    """The photos, if they have moved."""
    device: str | None = styled(None, metavar="DEVICE", text=_DEVICE)
    """cpu, cuda or cuda:1."""


@dataclass(frozen=True)
class RelightOptions:
    """Render the held-out views and a turntable under another light: PNG files in relit/LIGHT/ and a video beside them."""

    run: Path = styled(metavar="RUN", positional=True)
    """Folder that `unrender fit asset` or `unrender fit mesh-pbr` wrote."""
    env: Path = styled(metavar="FILE")
    """The light: a lat-long picture of all directions, HDR or EXR; the middle of it is seen along +X."""
    turn: float = styled(0.0, metavar="DEGREES")
    """Turn the light about the upward direction, counterclockwise seen from above."""
    frames: int = 120
    """Number of frames of the video."""
    fps: int = 24
    """Frames per second of the video."""
    capture: Path | None = styled(None, metavar="DIR", text=_CAPTURE)
    """The photos, if they have moved."""
    device: str | None = styled(None, metavar="DEVICE", text=_DEVICE)
    """cpu, cuda or cuda:1."""


@dataclass(frozen=True)
class InsertOptions:
    """Render the object of a run into a photo, under the recovered light, with its shadow on the ground."""

    run: Path = styled(metavar="RUN", positional=True)
    """Folder of a run whose mesh has a material."""
    photo: Path = styled(metavar="FILE|NAME")
    """A photo of the capture, by its name, or another picture file."""
    at: tuple[float, float] | None = styled(None, metavar="X Y", text="its own place, or below the middle of another photo")
    """Pixel where the middle of its base stands, counted from the top left."""
    size: float | None = styled(None, metavar="PIXELS", text="its own size, or 40 % of another photo")
    """Height of the object in the photo."""
    turn: float = styled(0.0, metavar="DEGREES")
    """Turn the object about the upward direction, counterclockwise seen from above; the light stays."""
    turn_light: float = styled(0.0, metavar="DEGREES")
    """Turn the light likewise, until shadows fall as those of the photo."""
    env: Path | None = styled(None, metavar="FILE", text="the recovered one")
    """Another light: a lat-long picture of all directions, HDR or EXR."""
    exposure: float | None = styled(None, metavar="FACTOR", text="1; with --env 99 % of the object below white")
    """Factor of the light."""
    shadow: bool = True
    """Darken the ground under and beside the object."""
    camera: Path | None = styled(None, metavar="FILE", text="level ground and --tilt")
    """JSON with the camera of a photo from elsewhere: transform_matrix and fl_x in the frame of the poses, as in a transforms.json."""
    tilt: float = styled(20.0, metavar="DEGREES")
    """By how much the camera of a photo without one looks down."""
    out: Path | None = styled(None, metavar="FILE", text="RUN/inserted/NAME.png")
    """The picture to write, PNG or JPEG."""
    capture: Path | None = styled(None, metavar="DIR", text=_CAPTURE)
    """The photos, if they have moved."""
    device: str | None = styled(None, metavar="DEVICE", text=_DEVICE)
    """cpu, cuda or cuda:1."""


@dataclass(frozen=True)
class LocateOptions:
    """Find the camera of a photo against the scene of a run, by gradient descent on its pose."""

    run: Path = styled(metavar="RUN", positional=True)
    """Folder of a run: a radiance field, a surface, or a mesh with its material."""
    photo: Path = styled(metavar="FILE|NAME")
    """A photo of the capture, by its name, or another picture file."""
    start: str | None = styled(None, metavar="NAME", text="the fitted photo whose rendering is most similar")
    """The photo of the capture at whose pose the search starts."""
    pixels: Literal["random", "points", "regions"] = "regions"
    """Which pixels are compared with a field: any, corners of the photo, or regions around its corners. A mesh is compared in all."""
    steps: int = 300
    """Steps of the search."""
    seed: int = 0
    """Seed of the pixels that are compared."""
    out: Path | None = styled(None, metavar="FILE", text="RUN/located/NAME.json")
    """The camera to write, a frame as in a transforms.json; a picture that shows the search is written beside it."""
    capture: Path | None = styled(None, metavar="DIR", text=_CAPTURE)
    """The photos, if they have moved."""
    device: str | None = styled(None, metavar="DEVICE", text=_DEVICE)
    """cpu, cuda or cuda:1."""


@dataclass(frozen=True)
class ExportOptions:
    """Extract the surface and write it with its material or vertex colors."""

    run: Path = styled(metavar="RUN", positional=True)
    """Folder that `unrender fit` wrote."""
    format: MeshFormat = "glb"
    """GLB opens in browsers, Blender and game engines; PLY and OBJ in everything else. Textures of an OBJ are in files beside it."""
    resolution: int = 512
    """Cells along a side of the region of interest."""
    frame: ExportFrame | None = styled(None, text="upright for GLB and OBJ, source for PLY")
    """Frame: that of the input turned upright, as importers expect; that of the input, exactly; or the normalized world."""
    axes: UpAxes | None = styled(None, text="y-up, as glTF prescribes and importers of OBJ expect")
    """The up axis of an upright file."""
    up: AxisOrVector | None = styled(None, metavar="X Y Z|AXIS", text="from the capture")
    """The upward direction of the frame of the input: a vector, x, y, z, -x, -y or -z."""
    all_parts: bool = False
    """Keep every connected component that the photos show instead of the largest one."""
    faces: int | None = styled(None, metavar="N", text="as extracted")
    """Simplify the mesh to about this many triangles."""
    viewer: bool = False
    """Write a page too that shows the surface in a browser, beside the file: mesh.html beside mesh.glb."""
    capture: Path | None = styled(None, metavar="DIR", text=_CAPTURE)
    """The photos, which give the colors, if they have moved."""
    out: Path | None = styled(None, metavar="FILE", text="RUN/mesh.FORMAT")
    """The file to write."""
    env: Path | None = styled(None, metavar="FILE", text="in RUN/environment.hdr alone")
    """Write the light here too: a lat-long picture, HDR or EXR."""
    device: str | None = styled(None, metavar="DEVICE", text=_DEVICE)
    """cpu, cuda or cuda:1."""


@dataclass(frozen=True)
class ConvertOptions:
    """Write a capture in the layout of another program. Photos are copied, and poses stay in the frame of the input."""

    capture: Path = styled(metavar="CAPTURE", positional=True)
    """Folder of posed photos, in any format that `unrender fit` reads."""
    to: CaptureLayout = styled()
    """The layout to write: transforms_*.json, transforms.json, sparse/0, cameras_sphere.npz or poses_bounds.npy."""
    out: Path = styled(metavar="DIR")
    """The folder to write."""
    test_every: int | HoldOut = styled(8, metavar="N|RULE")
    """Hold out every N-th view if the capture has no split of its own, 0 for none; or by a rule such as llff."""
    camera_axes: CameraAxes | None = styled(None, text="those of the format")
    """Axes of the cameras in the files."""
    overwrite: bool = False
    """Replace an earlier conversion in the output folder."""


@dataclass(frozen=True)
class MaskOptions:
    """Make masks of the object in all photos, with a contact sheet to check them; no weights are downloaded."""

    capture: Path = styled(metavar="CAPTURE", positional=True)
    """Folder of a capture, or of photos without poses."""
    method: MaskMethod | None = styled(None, text="the first that fits the photos")
    """A background of one color; cameras that stand still before a turning object; or the colors in and around a region."""
    command: str | None = styled(None, metavar="'PROGRAM {image} {mask}'", text="none")
    """Run another program on each photo instead; it is started without a shell."""
    box: tuple[float, float, float, float] | None = styled(None, metavar="LEFT TOP RIGHT BOTTOM", text="none")
    """Where the object is in all photos, as shares of width and height."""
    center: tuple[float, float, float] | None = styled(None, metavar="X Y Z", text="where the cameras look")
    """Center of a sphere that contains the object, in the frame of the poses."""
    radius: float | None = styled(None, metavar="R", text="as large as the photos show whole")
    """Radius of this sphere."""
    independent: bool = False
    """Keep each mask as its photo alone says, instead of making all agree with the visual hull."""
    out: Path | None = styled(None, metavar="DIR", text="CAPTURE/masks, where readers find them")
    """Where the masks go."""
    overwrite: bool = False
    """Make masks again that exist."""


@dataclass(frozen=True)
class DemoOptions:
    """Make a capture of an analytic scene, fit `neus` to it, and compare the mesh with the truth; no data and no network needed."""

    out: Path = styled(Path("runs/demo"), metavar="DIR")
    """Output folder of the run."""
    steps: int | None = styled(None, metavar="N", text="enough for a distance below 0.5 % from the true surface")
    """Number of steps."""
    max_seconds: float | None = styled(None, metavar="S", text="none")
    """Training time in seconds instead."""
    device: str | None = styled(None, metavar="DEVICE", text=_DEVICE)
    """cpu, cuda or cuda:1."""
    seed: int = 0
    """Seed of all random numbers."""
    overwrite: bool = False
    """Remove another run in the output folder."""


@dataclass(frozen=True)
class DoctorOptions:
    """Report what this machine can do and any problems, which give exit code 1."""


@dataclass(frozen=True)
class CompletionOptions:
    """Print a script that completes commands and options in a shell."""

    shell: Shell = styled(metavar="SHELL", positional=True)
    """bash, zsh or fish."""
