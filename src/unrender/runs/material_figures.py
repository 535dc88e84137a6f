"""Pictures of a material and its light for the report: channels on the surface, the textures with their charts, the environment."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from unrender.color import linear_from_srgb, srgb_from_linear
from unrender.geometry.mesh import Mesh
from unrender.render.asset import Asset
from unrender.runs.figures import Picture, color_picture, mesh_picture
from unrender.runs.viewpoint import ELEVATION, Viewpoint
from unrender.shading.latlong import latlong_from_cube
from unrender.shading.materials import Texture

_ENVIRONMENT_HEIGHT = 160
_WIRE = (255, 80, 0)
"""Color of the borders of triangles, which no base color has by accident."""


@dataclass(frozen=True)
class Captioned:
    """A picture and what it shows."""

    caption: str
    picture: Picture


def material_pictures(asset: Asset, viewpoint: Viewpoint, azimuth: float) -> list[Captioned]:
    """Return pictures of the channels of a textured material on its surface; none for an asset without textures."""
    material, found = asset.material, list[Captioned]()
    if material is None or asset.mesh.uvs is None:
        return found

    def add(caption: str, linear: Float[Tensor, "height width 3"]) -> None:
        picture = mesh_picture(asset.mesh, azimuth, ELEVATION, viewpoint=viewpoint, color=Texture(linear, boundary="clamp"))
        found.append(Captioned(caption, picture))

    if material.base_color is not None:
        add("base color", material.base_color[..., :3])
    if material.roughness_metallic is not None:
        for caption, channel in zip(("roughness", "metallic"), material.roughness_metallic.unbind(-1), strict=True):
            add(caption, linear_from_srgb(channel[..., None].expand(-1, -1, 3).contiguous()))
    if material.normal is not None:
        add("normal map", linear_from_srgb(0.5 * material.normal + 0.5))
    return found


def texture_pictures(asset: Asset) -> list[Captioned]:
    """Return the textures as pictures, the base color also with the borders of the triangles."""
    material, found = asset.material, list[Captioned]()
    if material is None or asset.mesh.uvs is None:
        return found
    if material.base_color is not None:
        base = color_picture(srgb_from_linear(material.base_color[..., :3]))
        found += [Captioned("base color", base), Captioned("triangles", _wired(base, asset.mesh))]
    if material.roughness_metallic is not None:
        roughness, metallic = material.roughness_metallic.unbind(-1)
        found.append(Captioned("roughness, metallic", color_picture(torch.stack([torch.zeros_like(roughness), roughness, metallic], -1))))
    if material.normal is not None:
        found.append(Captioned("normals", color_picture(0.5 * material.normal + 0.5)))
    return found


def environment_picture(asset: Asset) -> Captioned | None:
    """Return the light as a lat-long picture, its mean at medium gray; None without one."""
    if asset.environment is None:
        return None
    texels = asset.environment.texels.detach()
    linear = latlong_from_cube(texels, _ENVIRONMENT_HEIGHT)
    exposed = linear * (0.2 / texels.mean().clamp_min(1e-8))
    return Captioned("light, its mean at medium gray", color_picture(srgb_from_linear(exposed.clamp(0, 1))))


def chart_count(mesh: Mesh) -> int:
    """Count the connected parts of a mesh in its texture."""
    assert mesh.uv_faces is not None and mesh.uvs is not None
    faces = mesh.uv_faces.cpu().numpy()
    ends = np.concatenate([faces[:, :2], faces[:, 1:]])
    graph = coo_matrix((np.ones(len(ends), np.bool_), (ends[:, 0], ends[:, 1])), shape=(len(mesh.uvs), len(mesh.uvs)))
    return len(np.unique(connected_components(graph, directed=False)[1][faces[:, 0]]))


def _wired(picture: Picture, mesh: Mesh) -> Picture:
    assert mesh.uv_faces is not None and mesh.uvs is not None
    image = Image.fromarray(picture)
    size = np.array([image.width, image.height], np.float32)
    corners = mesh.uvs.detach().cpu().numpy()[mesh.uv_faces.cpu().numpy()] * size
    draw = ImageDraw.Draw(image)
    for triangle in corners.reshape(-1, 6).tolist():
        draw.polygon(triangle, outline=_WIRE)
    return np.asarray(image)
