"""Options of each subcommand of ``unrender``: one dataclass per command, whose docstrings are the help pages.

``execute`` runs the command with these options and returns the exit code; it imports PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Generic, Literal, TypeVar

from tyro.conf import Positional, arg

from unrender.cli.arguments import CameraPath, MeshFormat

C = TypeVar("C")
N = TypeVar("N")
K = TypeVar("K")
R = TypeVar("R")
DeviceOption = Annotated[str | None, arg(metavar="DEVICE", help_behavior_hint="(default: the first GPU, else the CPU)")]
CaptureOption = Annotated[Path | None, arg(name="capture", metavar="DIR", help_behavior_hint="(default: where it was when it was fitted)")]


@dataclass(frozen=True)
class FitOptions(Generic[N, C, K, R]):
    """Fit a scene. The same command resumes a stopped fit, and writes missing outputs of a finished one."""

    input: Positional[N]
    """The input of the recipe."""
    config: C
    choices: K
    reading: R
    out: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: runs/RECIPE-INPUT)")] = None
    """Output folder of the run."""
    preset: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: cpu or gpu, whichever the fit runs on)")] = None
    """Defaults of the options below."""
    device: DeviceOption = None
    """cpu, cuda or cuda:1."""
    seed: int = 0
    """Seed of all random numbers; on a CPU the same seed gives the same bits."""
    mesh_resolution: int = 256
    """Cells along a side of the region of interest when the mesh is extracted."""
    overwrite: bool = False
    """Remove another run in the output folder."""


@dataclass(frozen=True)
class EvalOptions:
    """Render the views of a split, compare them with the photos, and write metrics.json and renders/."""

    run: Positional[Annotated[Path, arg(metavar="RUN")]]
    """Folder that `unrender fit` wrote."""
    split: Literal["test", "train"] = "test"
    """Held-out views, or fitted views (written to metrics_train.json)."""
    capture: CaptureOption = None
    """The photos, if they have moved."""
    device: DeviceOption = None
    """cpu, cuda or cuda:1."""

    def execute(self) -> int:
        """Evaluate."""
        from unrender.cli.commands import evaluate_run

        return evaluate_run(self.run, split=self.split, moved_to=self.capture, device=self.device)


@dataclass(frozen=True)
class RenderOptions:
    """Render a camera path: PNG files in renders/PATH/ and a video PATH.mp4 beside them."""

    run: Positional[Annotated[Path, arg(metavar="RUN")]]
    """Folder that `unrender fit` wrote."""
    path: CameraPath = "orbit"
    """The held-out views; a circle about the scene; a smooth path between the photos."""
    frames: int = 120
    """Number of frames of the orbit or the interpolated path."""
    fps: int = 24
    """Frames per second of the video."""
    downscale: int = 1
    """Render pictures smaller than the photos by this factor."""
    capture: CaptureOption = None
    """The photos, if they have moved."""
    device: DeviceOption = None
    """cpu, cuda or cuda:1."""

    def execute(self) -> int:
        """Render."""
        from unrender.cli.commands import render_run

        return render_run(
            self.run,
            path=self.path,
            frames=self.frames,
            fps=self.fps,
            downscale=self.downscale,
            moved_to=self.capture,
            device=self.device,
        )


@dataclass(frozen=True)
class ExportOptions:
    """Extract the surface and write it with its material or vertex colors."""

    run: Positional[Annotated[Path, arg(metavar="RUN")]]
    """Folder that `unrender fit` wrote."""
    format: MeshFormat = "glb"
    """GLB opens in browsers, Blender and game engines; PLY and OBJ in everything else."""
    resolution: int = 512
    """Cells along a side of the region of interest."""
    frame: Literal["source", "normalized"] = "source"
    """Frame: that of the input, or the normalized world, whose region of interest is [-1, 1]³."""
    all_parts: bool = False
    """Keep every connected component instead of the largest one."""
    out: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: RUN/mesh.FORMAT)")] = None
    """The file to write."""
    device: DeviceOption = None
    """cpu, cuda or cuda:1."""

    def execute(self) -> int:
        """Export."""
        from unrender.cli.commands import export_run

        return export_run(
            self.run,
            format=self.format,
            resolution=self.resolution,
            frame=self.frame,
            all_parts=self.all_parts,
            out=self.out,
            device=self.device,
        )


@dataclass(frozen=True)
class DemoOptions:
    """Make a capture of an analytic scene, fit `neus` to it, and compare the mesh with the truth; no data and no network needed."""

    out: Annotated[Path, arg(metavar="DIR")] = Path("runs/demo")
    """Output folder of the run."""
    steps: int | None = None
    """Number of steps; by default enough for a distance below 0.5 % from the true surface."""
    max_seconds: float | None = None
    """Training time in seconds instead."""
    device: DeviceOption = None
    """cpu, cuda or cuda:1."""
    seed: int = 0
    """Seed of all random numbers."""
    overwrite: bool = False
    """Remove another run in the output folder."""

    def execute(self) -> int:
        """Fit the demo."""
        from unrender.cli.commands import run_demo

        return run_demo(
            self.out, steps=self.steps, max_seconds=self.max_seconds, device=self.device, seed=self.seed, overwrite=self.overwrite
        )


@dataclass(frozen=True)
class DoctorOptions:
    """Report what this machine can do and any problems, which give exit code 1."""
