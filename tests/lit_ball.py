"""A ball with a texture under an environment, and photos of it that our own renderer makes."""

from __future__ import annotations

from dataclasses import replace

import torch

from unrender.cameras import Cameras
from unrender.captures.capture import Capture, Split
from unrender.geometry.mesh import Mesh
from unrender.render.asset import Asset, PbrMaterial
from unrender.render.lit import LitScene
from unrender.shading.cubes import cube_directions
from unrender.shading.lights import EnvironmentLight
from unrender.transforms import look_at

RADIUS = 0.6


def ball(rings: int = 12) -> Mesh:
    """A ball of latitudes and longitudes around the origin."""
    polar = torch.pi * torch.arange(1, rings) / rings
    around = 2 * torch.pi * torch.arange(2 * rings) / (2 * rings)
    p, a = torch.meshgrid(polar, around, indexing="ij")
    inner = torch.stack([p.sin() * a.cos(), p.sin() * a.sin(), p.cos()], -1).reshape(-1, 3)
    vertices = RADIUS * torch.cat([inner, torch.tensor([[0.0, 0, 1], [0, 0, -1]])])
    index = torch.arange((rings - 1) * 2 * rings).reshape(rings - 1, 2 * rings)
    right, top, bottom = index.roll(-1, 1), len(inner), len(inner) + 1
    quads = [torch.stack([index[:-1], index[1:], right[1:]], -1), torch.stack([index[:-1], right[1:], right[:-1]], -1)]
    caps = [torch.stack([torch.full_like(index[0], top), index[0], right[0]], -1)]
    caps.append(torch.stack([torch.full_like(index[-1], bottom), right[-1], index[-1]], -1))
    return Mesh(vertices, torch.cat([part.reshape(-1, 3) for part in (*quads, *caps)]))


def mapped_ball(rings: int = 12) -> Mesh:
    """The ball with a texture of longitude and latitude: each triangle keeps the longitudes of its corners together."""
    mesh = ball(rings)
    corners = mesh.vertices[mesh.faces] / RADIUS
    u = torch.atan2(corners[..., 1], corners[..., 0]) / (2 * torch.pi) + 0.5
    u = torch.where((u.amax(1) - u.amin(1) > 0.5)[:, None] & (u < 0.5), u + 1, u)
    at_pole = corners[..., 2].abs() > 0.9999
    middle = (torch.where(at_pole, 0.0, u).sum(1) / (~at_pole).sum(1))[:, None].expand_as(u)
    u = torch.where(at_pole, middle, u) / 1.25  # the seam continues to the right of one turn
    v = torch.acos(corners[..., 2].clamp(-1, 1)) / torch.pi
    uvs = torch.stack([u, v], -1).reshape(-1, 2)
    return Mesh(mesh.vertices, mesh.faces, uvs=uvs, uv_faces=torch.arange(len(uvs)).view(-1, 3)).with_vertex_normals()


def stripes(size: int = 32) -> PbrMaterial:
    """Smooth bands of red and green, the middle glossy."""
    v, u = torch.meshgrid(torch.linspace(0, 1, size), torch.linspace(0, 1.25, size), indexing="ij")
    waves = 2 * torch.pi * u
    color = torch.stack([0.45 + 0.3 * waves.cos(), 0.45 + 0.3 * (2 * torch.pi * v).cos(), torch.full_like(u, 0.25)], -1)
    gloss = torch.stack([0.35 + 0.3 * (v - 0.5).abs(), torch.zeros_like(u)], -1)
    return PbrMaterial(color, gloss)


def sky(size: int = 8) -> EnvironmentLight:
    """A blue sky, a brown ground and a warm lamp."""
    directions = torch.nn.functional.normalize(cube_directions(size), dim=-1)
    above = (0.5 + 0.5 * directions[..., 2:]).clamp(0, 1)
    lamp = (4 * ((directions @ torch.nn.functional.normalize(torch.tensor([1.0, 0.6, 0.8]), dim=0)) - 1)).exp()[..., None]
    return EnvironmentLight(
        above * torch.tensor([0.4, 0.55, 0.8]) + (1 - above) * torch.tensor([0.35, 0.28, 0.2]) + lamp * torch.tensor([2.0, 1.7, 1.2])
    )


def cameras_around(count: int, side: int = 40) -> Cameras:
    """Cameras on a wave around the ball."""
    angle = torch.arange(count) * 2 * torch.pi / count
    positions = 3 * torch.nn.functional.normalize(torch.stack([angle.cos(), angle.sin(), 0.8 * (3 * angle).sin()], -1), dim=-1)
    poses = look_at(positions, torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]))
    lens = torch.tensor([[1.5 * side, 1.5 * side, side / 2, side / 2]])
    return Cameras.alike(poses, lens.expand(count, -1), None, side, side)


def photographed(asset: Asset, cameras: Cameras, *, turning: bool = False) -> Capture:
    """Photos of an asset with masks, whose light may turn with the camera; one of every eight is held out."""
    scenes = [LitScene(asset)] * len(cameras)
    if turning:
        assert asset.environment is not None
        turned = [replace(asset.environment, light_from_world=pose[None, :3, :3].mT) for pose in cameras.world_from_camera]
        scenes = [LitScene(replace(asset, environment=light)) for light in turned]
    seen = [scene.render_view(cameras, view) for view, scene in enumerate(scenes)]
    straight = torch.stack([each.color / each.opacity.clamp_min(1e-3)[..., None] for each in seen]).clamp(0, 1)
    images = (straight * 255).round().to(torch.uint8)
    masks = (torch.stack([each.opacity for each in seen]) * 255).round().to(torch.uint8)
    test = tuple(range(3, len(cameras), 8))
    split = Split(tuple(view for view in range(len(cameras)) if view not in test), test, "every eighth view is held out")
    return Capture.from_tensors(images, cameras, masks=masks, split=split, name="ball", fingerprint="ball")
