"""What every fitted scene can do."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import nn

from unrender.cameras import Cameras, Rays
from unrender.geometry.mesh import Mesh
from unrender.render.rendering import Rendering


class Scene(nn.Module, ABC):
    """A fitted scene: it can be looked at and, where it has a surface, turned into a mesh."""

    @abstractmethod
    def render_rays(self, rays: Rays) -> Rendering:
        """Color, opacity, distance and normal along each ray, without gradients, in pieces that fit in memory."""

    @abstractmethod
    def mesh(self, resolution: int = 256, *, largest_only: bool = True) -> Mesh:
        """The surface in the normalized world, with vertex colors; may be empty (``mesh.is_empty``)."""

    def render_view(self, cameras: Cameras, view: int) -> Rendering:
        """The whole image of one camera: fields shaped [height, width, ...]."""
        flat = self.render_rays(cameras.image_rays(view))
        shape = (cameras.height, cameras.width)
        return Rendering(
            color=flat.color.reshape(*shape, 3),
            opacity=flat.opacity.reshape(shape),
            distance=flat.distance.reshape(shape),
            normal=flat.normal.reshape(*shape, 3),
        )
