"""Results as the table of Stanford-ORB states them (Kuang et al. 2023).

Pictures are compared over the pixels M of the object. The decomposition into material and light leaves their scale open, so each channel of
each rendering is first scaled by the least squares, s = Σ_M c t / Σ_M c² in linear light.

``psnr_h``
    −10 log₁₀ of the mean squared error in linear light, both limited to [0, 4].
``psnr_l``, ``ssim``
    of sRGB values in [0, 1], SSIM with a window of 3 × 3 pixels, black outside of M.
``depth_si_mse``
    variance of log z − log z*, which no common factor changes (Eigen et al. 2014, with λ = 1).
``normal_cosine_distance``
    mean of 1 − n · n*.
``chamfer``
    mean squared distance of the points of each surface from the other one, the sum of both directions.

docs/runs.md says which of these definitions are not certain.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy.spatial import KDTree
from torch import Tensor

from unrender.captures.capture import Capture
from unrender.captures.decoding import linear_colors
from unrender.captures.reading import check_file, is_regular_file, reason
from unrender.color import linear_from_srgb, srgb_from_linear
from unrender.geometry.mesh import Mesh, read_mesh
from unrender.losses.metrics import ssim
from unrender.numerics import normalized
from unrender.render.rendering import Rendering
from unrender.runs.evaluation import ViewScore
from unrender.runs.view_measures import OPAQUE
from unrender.transforms import scale_of

_BRIGHTEST = 4.0
"""Linear light to which pictures are limited."""

_WINDOW = 3
"""Side of the window of SSIM in pixels."""

_DARKEST = 1e-12
"""Mean square of a channel below which it is not scaled."""

_POINTS = 100_000
"""Of each surface."""

_LARGEST = 2**30
"""Bytes of a file of the truth."""

_AXES = {
    "OpenGL axes of the camera": torch.diag(torch.tensor([1.0, -1.0, -1.0])),
    "OpenCV axes of the camera": torch.eye(3),
    "the frame of the poses": None,
}
"""Axes in which true normals may be stored; those in which they face the cameras are taken."""

_DOWNLOAD = "download blender_HDR and ground_truth from stanfordorb.github.io, and give their folder as --truth"


@dataclass(frozen=True)
class PictureScores:
    """Scores of one picture."""

    psnr_h: float
    psnr_l: float
    ssim: float


def picture_scores(
    color: Float[Tensor, "height width 3"], truth: Float[Tensor, "height width 3"], inside: Bool[Tensor, "height width"]
) -> PictureScores:
    """Compare a picture with the truth, both in linear light, after each of its channels was scaled.

    Args:
        color: the rendering.
        truth: the photo.
        inside: the pixels of the object, at least one.

    >>> truth = torch.rand(8, 8, 3, generator=torch.Generator().manual_seed(0))
    >>> picture_scores(truth * torch.tensor([0.5, 2.0, 1.0]), truth, torch.ones(8, 8, dtype=torch.bool)).ssim > 0.999999
    True
    """
    seen, wanted = color[inside].double(), truth[inside].double()
    power = seen.square().mean(0)
    scale = torch.where(power > _DARKEST, (seen * wanted).mean(0) / power.clamp_min(_DARKEST), 1.0)
    seen = seen * scale
    pictures = []
    for values in (seen, wanted):
        picture = torch.zeros(*inside.shape, 3, dtype=torch.float64, device=inside.device)
        picture[inside] = srgb_from_linear(values.clamp(0, 1))
        pictures.append(picture)
    return PictureScores(
        psnr_h=_decibels(seen.clamp(0, _BRIGHTEST), wanted.clamp(0, _BRIGHTEST)),
        psnr_l=_decibels(pictures[0][inside], pictures[1][inside]),
        ssim=float(ssim(pictures[0].float(), pictures[1].float(), window=_WINDOW)),
    )


def _decibels(a: Tensor, b: Tensor) -> float:
    return float(-10 * torch.log10((a - b).square().mean()))


def depth_si_mse(z: Float[Tensor, " pixels"], truth: Float[Tensor, " pixels"]) -> float:
    """Return the scale-invariant mean squared error of depths, the variance of d = log z − log z*.

    >>> depth = torch.tensor([1.0, 2.0, 4.0])
    >>> round(depth_si_mse(3 * depth, depth), 9)
    0.0
    """
    difference = z.double().log() - truth.double().log()
    return float((difference - difference.mean()).square().mean())


@dataclass
class OrbViews:
    """Collects the scores of views while they are rendered; called with each of them."""

    capture: Capture
    data: Path
    """The folder with ``blender_HDR`` and ``ground_truth``."""
    scene: str
    pictures: list[PictureScores] = field(default_factory=list)
    depths: list[float] = field(default_factory=list)
    normals: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: {axes: [] for axes in _AXES})
    """For each axes the cosine distance of each view, and the share of true normals that face its camera."""
    missing: dict[str, None] = field(default_factory=dict)
    """Truths that are not there, in the order of their first use."""

    def __call__(self, score: ViewScore, truth: Tensor, rendering: Rendering) -> None:
        view, stem = score.view, PurePosixPath(score.name).stem
        inside = self.capture.mask(view).to(truth.device) > 127
        if not self.capture.has_masks or not bool(inside.any()):
            return
        photo = self._file("pictures of high dynamic range", f"blender_HDR/{self.scene}/test/{stem}.exr")
        wanted = linear_from_srgb(truth) if photo is None else torch.from_numpy(linear_colors(photo)).to(truth)
        self._check(wanted, truth, photo)
        self.pictures.append(picture_scores(rendering.linear, wanted, inside))
        self._compare_depth(view, stem, rendering, inside)
        self._compare_normals(view, stem, rendering, inside)

    def _compare_depth(self, view: int, stem: str, rendering: Rendering, inside: Tensor) -> None:
        file = self._file("depths", f"ground_truth/{self.scene}/z_depth/{stem}.npy")
        if file is None:
            return
        depth = torch.from_numpy(_array(file)).to(inside.device)
        true = depth[..., 0] if depth.ndim == 3 and depth.shape[-1] == 1 else depth
        self._check(true, inside, file)
        rays = self.capture.cameras[view].image_rays(0).directions.reshape(*inside.shape, 3).to(inside.device)
        forward = self.capture.cameras.world_from_camera[view, :3, 2].to(inside.device)
        z = rendering.distance / rendering.opacity.clamp_min(OPAQUE) * (rays @ forward)
        known = inside & (rendering.opacity > OPAQUE) & (true > 0) & true.isfinite() & (z > 0)
        if bool(known.any()):
            self.depths.append(depth_si_mse(z[known], true[known]))

    def _compare_normals(self, view: int, stem: str, rendering: Rendering, inside: Tensor) -> None:
        file = self._file("normals", f"ground_truth/{self.scene}/surface_normal/{stem}.npy")
        if file is None:
            return
        stored = torch.from_numpy(_array(file)).to(rendering.normal)
        self._check(stored, rendering.normal, file)
        known = inside & (rendering.opacity > OPAQUE) & (stored.norm(dim=-1) > 0.5) & stored.isfinite().all(-1)
        if not bool(known.any()):
            return
        ours, true = normalized(rendering.normal[known]), normalized(stored[known])
        rays = self.capture.cameras[view].image_rays(0).directions.reshape(*inside.shape, 3).to(ours)[known]
        for axes, flips in _AXES.items():
            if flips is None:
                frame = self.capture.source_from_world
                rotation = (frame[:3, :3] / scale_of(frame)).T
            else:
                rotation = self.capture.cameras.world_from_camera[view, :3, :3].double() @ flips.double()
            world = true @ rotation.to(true).T
            self.normals[axes].append((float(1 - (ours * world).sum(-1).mean()), float(((world * rays).sum(-1) < 0).float().mean())))

    def _file(self, what: str, name: str) -> Path | None:
        file = self.data / name
        if is_regular_file(file):
            return file
        self.missing[what] = None
        return None

    def _check(self, found: Tensor, like: Tensor, file: Path | None) -> None:
        if found.shape != like.shape:
            raise ValueError(f"{file} is {tuple(found.shape)} but the view is {tuple(like.shape)}; fit and evaluate photos at full size")

    def result(self, mesh: Mesh) -> dict[str, Any]:
        """Return the row of the table.

        Args:
            mesh: in the frame of the poses.

        Raises:
            ValueError: no view has a mask.
        """
        if not self.pictures:
            raise ValueError("stanford-orb compares pixels of the object, and no view has a mask; fit with train_mask and test_mask there")
        surface = self._file("surface", f"ground_truth/{self.scene}/mesh_blender/mesh.obj")
        row = {
            "protocol": "stanford-orb",
            "scene": self.scene,
            "views": len(self.pictures),
            "psnr_h": None if "pictures of high dynamic range" in self.missing else _mean([score.psnr_h for score in self.pictures]),
            "psnr_l": _mean([score.psnr_l for score in self.pictures]),
            "ssim": _mean([score.ssim for score in self.pictures]),
            "lpips": None,
            "depth_si_mse": _mean(self.depths) if self.depths else None,
        }
        facing = {axes: _mean([share for _, share in found]) for axes, found in self.normals.items() if found}
        axes = max(facing, key=lambda name: facing[name], default=None)
        row["normal_cosine_distance"] = None if axes is None else _mean([distance for distance, _ in self.normals[axes]])
        row["normals_are_in"] = axes
        row["chamfer"] = None if surface is None else squared_chamfer(mesh, read_mesh(surface, own_axes=True))
        row["relighting"] = None
        row["official"] = False
        row["differences"] = [
            "LPIPS is not computed, because its network is not part of this package",
            "relighting needs renderings under the environments of ground_truth for the views of transforms_novel.json; download both from "
            "stanfordorb.github.io",
            *([f"the true {', '.join(self.missing)} are not there; {_DOWNLOAD}"] if self.missing else []),
        ]
        return row


def squared_chamfer(mesh: Mesh, truth: Mesh) -> float:
    """Return the mean squared distance from each surface to the other one, the sum of both directions.

    Raises:
        ValueError: a mesh has no area.
    """
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (surface.sample_surface(_POINTS, generator)[0].double().cpu().numpy() for surface in (mesh, truth))
    forth, back = KDTree(theirs).query(ours)[0], KDTree(ours).query(theirs)[0]
    return float(np.square(forth).mean() + np.square(back).mean())


def _array(file: Path) -> Float[ndarray, "height width ..."]:
    if check_file(file) > _LARGEST:
        raise ValueError(f"{file} has more than {_LARGEST / 2**30:.0f} GB; download it again")
    try:
        array = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{file} cannot be read ({reason(error)}); download it again") from error
    if not isinstance(array, ndarray) or array.dtype.kind not in "fiu" or array.ndim not in (2, 3):
        raise ValueError(f"{file} holds no image of numbers; download it again")
    return array.astype(np.float32)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
