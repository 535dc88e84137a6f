"""The unknown materials: a field in space, or textures. Both return one tensor of channels.

The channels are linear base color (3), roughness, metallic, and normal in tangent space (3), which a field in space lacks; and opacity,
which only translucent textures have.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unrender.fields.material import SpatialMaterial
from unrender.geometry.mesh import Mesh
from unrender.recipes.mesh_pbr.config import Materials, Rates
from unrender.render.asset import PbrMaterial
from unrender.render.lit import base_color_of_vertices, looked_up, looked_up_at_vertices, values_of
from unrender.shading.gbuffer import GBuffer

_IN_SPACE = 5
"""Channels of a field in space."""
_CHANNELS = 8
"""Channels of opaque textures."""
_STRAIGHT_UP = (0.0, 0.0, 1.0)
_TEXTURES = ("base_color", "roughness_metallic", "normal")
"""The textures of a material."""


def limits(materials: Materials) -> tuple[Tensor, Tensor, Tensor]:
    """Return the smallest, the largest and the first value of each channel."""
    low = [*[materials.smallest_base_color] * 3, materials.smallest_roughness, 0.0, -1.0, -1.0, 0.0, 0.0]
    high = [*[materials.largest_base_color] * 3, 1.0, materials.largest_metallic, 1.0, 1.0, 1.0, 1.0]
    start = [0.5, 0.5, 0.5, 0.6, 0.05 * materials.largest_metallic, *_STRAIGHT_UP, _OPACITY]
    return torch.tensor(low), torch.tensor(high), torch.tensor(start)


_OPACITY = 0.9
"""Opacity of a texture at first: below one, where it would have no gradient."""
_CLOSE = 0.01
"""Standard deviation of the offsets to close points, in world units."""
_CLOSE_TEXELS = 0.005
"""The same in textures, as a share of their side."""


class Appearance(nn.Module, ABC):
    """An unknown material."""

    @abstractmethod
    def channels(self, surface: GBuffer) -> Float[Tensor, "views height width channels"]:
        """Return the channels at every pixel."""

    @abstractmethod
    def expected(self, surface: GBuffer, generator: torch.Generator) -> Float[Tensor, "views height width channels"]:
        """Return the channels that those of the pixels should be close to."""

    @abstractmethod
    def base_color_of_vertices(self, mesh: Mesh) -> Float[Tensor, "vertices 3"]:
        """Return the base color at every vertex."""

    @abstractmethod
    def parameter_groups(self, rates: Rates) -> list[dict[str, Any]]:
        """Return the groups of the unknowns for an optimizer."""

    def project(self) -> None:  # noqa: B027  a field keeps to its limits by itself
        """Bring the unknowns back into their limits after a step."""


class InSpace(Appearance):
    """A material at every point in space."""

    def __init__(self, materials: Materials, box: Float[Tensor, "2 3"], generator: torch.Generator) -> None:
        super().__init__()
        low, high, start = (values[:_IN_SPACE] for values in limits(materials))
        grid = materials.hash.grid()
        self.field = SpatialMaterial(grid, hidden=materials.hidden, box=box, low=low, high=high, start=start, generator=generator)

    def channels(self, surface: GBuffer) -> Float[Tensor, "views height width channels"]:
        return self._at(surface.position)

    def expected(self, surface: GBuffer, generator: torch.Generator) -> Float[Tensor, "views height width channels"]:
        """Return the channels at random points close to those of the pixels: a smooth material is preferred."""
        offsets = torch.randn(surface.position.shape, generator=generator, device=surface.position.device)
        return self._at(surface.position.detach() + _CLOSE * offsets)

    def base_color_of_vertices(self, mesh: Mesh) -> Float[Tensor, "vertices 3"]:
        return self.field(mesh.vertices.detach())[:, :3]

    def _at(self, points: Float[Tensor, "views height width 3"]) -> Float[Tensor, "views height width channels"]:
        return self.field(points.reshape(-1, 3)).reshape(*points.shape[:-1], _IN_SPACE)

    def parameter_groups(self, rates: Rates) -> list[dict[str, Any]]:
        return self.field.parameter_groups(rates.material_rate)


class KnownMaterial(Appearance):
    """A material that stays as it is given; its opacity is not rendered."""

    factors: Tensor

    def __init__(self, material: PbrMaterial) -> None:
        super().__init__()
        for name in _TEXTURES:
            self.register_buffer(name, getattr(material, name))
        self._factors = material.roughness, material.metallic
        self.register_buffer("factors", torch.tensor(self._factors, dtype=torch.float64))

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> KnownMaterial:
        """Rebuild a material from its tensors."""
        roughness, metallic = state["factors"].tolist()
        return cls(PbrMaterial(**{name: state.get(name) for name in _TEXTURES}, roughness=roughness, metallic=metallic))

    def material(self) -> PbrMaterial:
        """Return the material as it was given."""
        roughness, metallic = self._factors
        return PbrMaterial(**{name: getattr(self, name) for name in _TEXTURES}, roughness=roughness, metallic=metallic)

    def channels(self, surface: GBuffer) -> Float[Tensor, "views height width channels"]:
        found = values_of(self.material())(surface)
        gloss = torch.stack([found.roughness, found.metallic], -1)
        return torch.cat([found.base_color, gloss, *([] if found.normal is None else [found.normal])], -1)

    def expected(self, surface: GBuffer, generator: torch.Generator) -> Float[Tensor, "views height width channels"]:
        return self.channels(surface)

    def base_color_of_vertices(self, mesh: Mesh) -> Float[Tensor, "vertices 3"]:
        return base_color_of_vertices(mesh, self.material())

    def parameter_groups(self, rates: Rates) -> list[dict[str, Any]]:
        return []


def with_straight_normals(texels: Float[Tensor, "height width channels"]) -> Float[Tensor, "height width 8"]:
    """Return baked channels with normals along the surface's own, if they have none."""
    straight = torch.tensor(_STRAIGHT_UP, device=texels.device).expand(*texels.shape[:2], 3)
    return torch.cat([texels, straight], -1)[..., :_CHANNELS]


class InTextures(Appearance):
    """A material in textures, with mip levels."""

    baked: Tensor
    low: Tensor
    high: Tensor

    def __init__(
        self,
        materials: Materials,
        texels: Float[Tensor, "height width 8"] | None = None,
        *,
        neighbors: bool = False,
        translucent: bool = False,
    ) -> None:
        """Begin with baked textures; None for some whose state will be loaded.

        Args:
            materials: limits and size.
            texels: channels without an opacity.
            neighbors: whether texels are expected to be like those nearby, instead of the baked ones.
            translucent: whether there is a channel of opacity.
        """
        super().__init__()
        low, high, start = (values[: _CHANNELS + translucent] for values in limits(materials))
        size, self._neighbors = materials.texture_size, neighbors
        if texels is not None and translucent:
            texels = torch.cat([texels, torch.full_like(texels[..., :1], _OPACITY)], -1)
        self.texels = nn.Parameter(start.expand(size, size, -1).clone() if texels is None else texels.detach().clone())
        self.register_buffer("baked", self.texels.detach().clone())
        self.register_buffer("low", low)
        self.register_buffer("high", high)

    def channels(self, surface: GBuffer) -> Float[Tensor, "views height width channels"]:
        return looked_up(self.texels, surface)

    def expected(self, surface: GBuffer, generator: torch.Generator) -> Float[Tensor, "views height width channels"]:
        """Return the baked channels: differences between close texels would smooth each chart by itself, and show its border."""
        if not self._neighbors:
            return looked_up(self.baked, surface)
        assert surface.uv is not None
        offsets = torch.randn(surface.uv.shape, generator=generator, device=surface.uv.device)
        return looked_up(self.texels, replace(surface, uv=surface.uv.detach() + _CLOSE_TEXELS * offsets))

    def base_color_of_vertices(self, mesh: Mesh) -> Float[Tensor, "vertices 3"]:
        return looked_up_at_vertices(self.texels[..., :3], mesh)

    @torch.no_grad()
    def project(self) -> None:
        self.texels.clamp_(self.low, self.high)

    def parameter_groups(self, rates: Rates) -> list[dict[str, Any]]:
        return [{"params": [self.texels], "lr": rates.texture_rate, "weight_decay": 0.0}]
