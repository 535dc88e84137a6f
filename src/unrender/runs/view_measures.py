"""Measures of a surface in the views that are evaluated: the color of its mesh, and the normals of its renderings.

Both are collected while the views are rendered for their scores, so nothing is rendered twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from unrender.cameras import Cameras
from unrender.captures.capture import Capture
from unrender.captures.normal_truth import NormalTruth
from unrender.color import linear_from_srgb, srgb_from_linear
from unrender.geometry.mesh import Mesh
from unrender.numerics import normalized
from unrender.ops.raster import TriangleTree, interpolate
from unrender.render.photo_views import raster_by_rays
from unrender.render.rendering import Rendering
from unrender.render.scene import Scene
from unrender.runs.evaluation import ViewScore, truth_of
from unrender.runs.measures import Measure

OPAQUE = 0.95
"""Opacity from which a pixel of a rendering belongs to the surface."""

MOST_VIEWS = 8
MOST_PIXELS = 4_000_000
"""Views, and pixels of all of them, in which the color of a mesh is measured: a few seconds on two CPU cores."""

WIDE_ANGLE = 30.0
"""Degrees above which a normal is wrong, not inexact."""

_SHORTEST = 0.1
"""Length of a composited normal below which it has no direction."""

_ROUNDING = (1 / 255) ** 2 / 12
"""Mean squared error of colors of 8 bits; a smaller one is not measured."""


@dataclass(frozen=True)
class KeptView:
    """A rendered view, as it is compared with the mesh."""

    view: int
    color: UInt8[Tensor, "height width 3"]
    """sRGB."""
    opaque: Bool[Tensor, "height width"]


class ViewMeasures:
    """Collects, view by view, what a rendering says about a surface; called with each evaluated view.

    The renderings of some views are kept for the color of the mesh: at most :data:`MOST_VIEWS`, evenly spaced, and fewer large ones.
    """

    def __init__(self, capture: Capture, views: Sequence[int], truth: NormalTruth | None) -> None:
        """Prepare to collect.

        Args:
            capture: the photos.
            views: the views that are evaluated.
            truth: the true normals of these views.
        """
        self.truth = truth
        self.capture = capture
        most = MOST_PIXELS * len(views) // max(1, sum(capture.mask(view).numel() for view in views))
        self._chosen = views[:: math.ceil(len(views) / min(MOST_VIEWS, max(1, most)))] if views else ()
        self._kept: dict[int, KeptView] = {}
        self._angles: list[Tensor] = []

    def __call__(self, score: ViewScore, truth: Tensor, rendering: Rendering) -> None:
        self._keep(score.view, rendering)
        if self.truth is None:
            return
        true = self.truth.normals(self.capture, score.view).to(rendering.normal)
        known = true.any(-1) & (rendering.opacity > OPAQUE) & (rendering.normal.norm(dim=-1) > _SHORTEST)
        if self.capture.ignored is not None:
            known &= ~self.capture.ignored[score.view].to(known.device)
        self._angles.append(angle_between(rendering.normal[known], true[known]).cpu())

    @property
    def normals(self) -> tuple[Measure, ...]:
        """The angles between rendered and true normals, where both are known; nothing where none are."""
        return angle_measures(torch.cat(self._angles), "rendered normals against the true ones") if self._angles else ()

    def kept(self, scene: Scene, cameras: Cameras) -> list[KeptView]:
        """Return the views that are compared with the mesh; those not evaluated yet are rendered."""
        for view in self._chosen:
            if view not in self._kept:
                with torch.no_grad():
                    self._keep(view, scene.render_view(cameras, view))
        return [self._kept[view] for view in self._chosen]

    def _keep(self, view: int, rendering: Rendering) -> None:
        if view in self._chosen:
            color = (rendering.srgb.detach().clamp(0, 1) * 255).round().to(torch.uint8)
            self._kept[view] = KeptView(view, color.cpu(), (rendering.opacity.detach() > OPAQUE).cpu())


def angle_between(a: Float[Tensor, "vectors 3"], b: Float[Tensor, "vectors 3"]) -> Float[Tensor, " vectors"]:
    """Compute the angle between vectors of any length, in degrees."""
    a, b = normalized(a.double()), normalized(b.double())
    return torch.atan2(torch.linalg.cross(a, b).norm(dim=-1), (a * b).sum(-1)).rad2deg()


def angle_measures(angles: Float[Tensor, " angles"], group: str) -> tuple[Measure, ...]:
    """Return the median and the mean of angles, and the share of wide ones; nothing for no angles."""
    if not len(angles):
        return ()
    return (
        Measure("median", float(angles.median()), "°", digits=2, group=group, better="lower"),
        Measure("mean", float(angles.mean()), "°", digits=2, group=group, better="lower"),
        Measure(f"above {WIDE_ANGLE:.0f}°", 100 * float((angles > WIDE_ANGLE).double().mean()), "%", digits=1, group=group, better="lower"),
    )


@torch.no_grad()
def color_measures(mesh: Mesh, views: Sequence[KeptView], capture: Capture, group: str, device: torch.device) -> tuple[Measure, ...]:
    """Compare the vertex colors of a mesh with the scene's own renderings and with the photos.

    PSNR of sRGB values, the mean over the views: against a rendering over the pixels where both are opaque; against a photo over those
    inside its mask, where the mesh leaves white, or without masks over those that the mesh covers.

    Args:
        mesh: in the world, with vertex colors.
        views: renderings of some views.
        capture: the photos.
        group: of the measures.
        device: where to compute.
    """
    mesh = mesh.to(device)
    tree = TriangleTree(mesh.vertices.float(), mesh.faces)
    against_rendering, against_photo = [], []
    for kept in views:
        color, covered = seen_colors(mesh, tree, capture.cameras[kept.view].to(device))
        truth = truth_of(capture, kept.view, device)
        inside = capture.mask(kept.view).to(device) > 127 if capture.has_masks else covered
        counts = torch.ones_like(inside) if capture.ignored is None else ~capture.ignored[kept.view].to(device)
        both = covered & kept.opaque.to(device) & counts
        against_rendering.append(psnr_of_colors(color[both], kept.color.to(device)[both].float() / 255))
        against_photo.append(psnr_of_colors(color[inside & counts], truth[inside & counts]))
    where = "photos inside the mask" if capture.has_masks else "photos"
    found = (("color against the rendering", _mean(against_rendering)), (f"color against the {where}", _mean(against_photo)))
    return tuple(Measure(name, value, "dB", digits=2, group=group, better="higher") for name, value in found if value is not None)


def seen_colors(mesh: Mesh, tree: TriangleTree, camera: Cameras) -> tuple[Float[Tensor, "height width 3"], Bool[Tensor, "height width"]]:
    """Return the sRGB vertex colors that a camera of any lens sees, and where; white beside the mesh."""
    assert mesh.colors is not None
    raster = raster_by_rays(tree, camera)
    covered = raster.face[0] >= 0
    color = srgb_from_linear(interpolate(linear_from_srgb(mesh.colors), raster, mesh.faces)[0])
    return torch.where(covered[..., None], color, 1.0), covered


def psnr_of_colors(color: Float[Tensor, "pixels 3"], truth: Float[Tensor, "pixels 3"]) -> float | None:
    """Return the PSNR of colors, at most that of 8 bits; None for no pixels."""
    if not len(color):
        return None
    return -10 * math.log10(max(float(((color - truth) ** 2).double().mean()), _ROUNDING))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
