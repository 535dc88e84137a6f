"""The interface of every fitted scene: render a view, and export an asset."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeAlias, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unrender.cameras import Cameras, Rays
from unrender.devices import pytorch_on_one_thread
from unrender.fields.pose_corrections import PoseCorrections
from unrender.geometry.mesh import Mesh
from unrender.render.asset import Asset
from unrender.render.rendering import Rendering
from unrender.render.volume import render_in_chunks

SurfaceColor: TypeAlias = Callable[[Float[Tensor, "points 3"], Float[Tensor, "points 3"]], Float[Tensor, "points 3"]]
"""Returns sRGB at points of a surface, each seen along a unit direction away from the viewer."""


class Scene(nn.Module, ABC):
    """A fitted scene. Scenes made of triangles rasterize; scenes rendered along rays derive from :class:`RayScene`."""

    poses: PoseCorrections | None
    """The poses of the photos, if they were unknowns besides the scene, or besides the one that it goes on from."""

    def __init__(self) -> None:
        super().__init__()
        self.poses = None

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take the poses of a saved state, if it has any."""
        if self.poses is None:
            self.poses = PoseCorrections.like(state_dict, f"{prefix}poses.")
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @abstractmethod
    def render_view(self, cameras: Cameras, view: int) -> Rendering:
        """Render the whole image of one camera without gradients; fields are shaped [height, width, ...]."""

    def asset(self, resolution: int = 256, *, largest_only: bool = True) -> Asset:
        """Return the asset for other programs, in the normalized world; empty for a scene without a surface.

        Args:
            resolution: cells along a side of the region of interest, for scenes whose surface is extracted.
            largest_only: keep the largest connected component alone.
        """
        return Asset.empty()

    def mesh(self, resolution: int = 256, *, largest_only: bool = True) -> Mesh:
        """Return the surface alone; it may be empty (``mesh.is_empty``)."""
        return self.asset(resolution, largest_only=largest_only).mesh

    def surface_color(self) -> SurfaceColor | None:
        """Return the color of the points of :meth:`mesh`, or None if the mesh alone does not show the scene.

        With it a view is rasterized, which takes one evaluation per pixel instead of dozens along a ray.
        """
        return None


class RayScene(Scene):
    """A scene that is rendered along rays."""

    viewpoints: Tensor
    """Positions [views, 3] of the fitted cameras, from which a mesh without photos is colored; empty if they are not known."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("viewpoints", torch.zeros(0, 3))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Resize the viewpoints to those of a saved state; states of earlier versions have none."""
        saved = state_dict.setdefault(f"{prefix}viewpoints", self.viewpoints)
        self.viewpoints = torch.empty_like(saved, device=self.viewpoints.device)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @abstractmethod
    def render_chunk(self, rays: Rays) -> Rendering:
        """Render as many rays as fit into memory at once: color, opacity, distance and normal along each."""

    def render_differentiably(self, rays: Rays, background: Float[Tensor, "rays 3"] | None = None) -> Rendering | None:
        """Render color and opacity of rays, differentiable in their origins and directions; None for a scene that cannot.

        The distances at which the scene is sampled are constants: what a ray sees does not depend on them.

        Args:
            rays: as many as fit into memory at once.
            background: the color behind each; by default that of pictures.
        """
        return None

    @final
    def render_rays(self, rays: Rays) -> Rendering:
        """Render any number of rays without gradients."""
        return render_in_chunks(rays, self.render_chunk)

    @final
    def render_view(self, cameras: Cameras, view: int) -> Rendering:
        camera = cameras[view]
        return self.render_rays(camera.image_rays(0)).reshaped(camera.height, camera.width)


_MOST_POINTS = 2**16
"""Points of a picture that are colored at once."""


def picture_points(height: int, width: int) -> Float[Tensor, "pixels 2"]:
    """Return the centers of pixels, row by row, as (x, y) in units of the longer side of their picture.

    >>> picture_points(1, 2).tolist()
    [[0.25, 0.25], [0.75, 0.25]]
    """
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return (torch.stack([columns, rows], dim=-1).reshape(-1, 2) + 0.5) / max(height, width)


class PictureScene(Scene):
    """A scene that is a picture: an sRGB color for each point of the plane."""

    @abstractmethod
    def color(self, points: Float[Tensor, "points 2"]) -> Float[Tensor, "points 3"]:
        """Return the sRGB colors of points (x, y), in units of the picture's longer side from its top left corner."""

    @final
    @torch.no_grad()
    def picture(self, height: int, width: int) -> Float[Tensor, "height width 3"]:
        """Return the picture at any resolution, as sRGB values."""
        device = next(self.parameters()).device
        points = picture_points(height, width).to(device)
        with pytorch_on_one_thread():
            return torch.cat([self.color(part) for part in points.split(_MOST_POINTS)]).reshape(height, width, 3)

    @final
    def render_view(self, cameras: Cameras, view: int) -> Rendering:
        """Return the picture at the size of a camera; where the camera stands has no effect."""
        width, height = cameras.sizes[view].tolist()
        color = self.picture(height, width)
        empty = torch.zeros_like(color)
        return Rendering(color, torch.ones_like(color[..., 0]), empty[..., 0], empty, "srgb")
