"""Whole steps of surface rendering, forward and backward, with interpolation, a texture and antialiased silhouettes.

The mesh has as many triangles as "spot", 5,856. For comparison, quoted from a machine of the same kind with two cores, because neither is a
dependency: PyTorch3D 0.7.9 takes 3.9 s to rasterize spot at 512 x 512, and 4.9 s with interpolation, a squared error and the backward pass;
Mitsuba 3.9 takes 0.75 to 1.05 s for a textured step at 256 x 256 with 16 samples (direct_projective in its fast settings).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from harness import Row, measure
from torch import Tensor

from unrender.cameras import Cameras
from unrender.geometry.mesh import Mesh
from unrender.ops.raster import Topology, antialias, edge_topology, interpolate, interpolate_with_derivatives, rasterize, texture
from unrender.render.surface import render_surface
from unrender.shading.lights import AmbientLight, DirectionalLight
from unrender.shading.materials import Lambert, Texture
from unrender.transforms import look_at


def rows(quick: bool) -> list[Row]:
    """Measure the acceptance rows at 512² and 256², then steps of all four functions and ``render_surface`` up to 2048²."""
    repeats = 3 if quick else 9
    mesh, uvs, uv_faces = bumpy_ring()
    texels = torch.rand(1024, 1024, 3)
    topology = edge_topology(mesh.faces)

    def clip_positions(vertices: Tensor) -> Tensor:
        return camera(512).clip_positions(vertices, 0.1, 10.0)

    def rasterized() -> None:
        rasterize(clip_positions(mesh.vertices), mesh.faces, (512, 512))

    def fitted() -> None:
        vertices, colors = mesh.vertices.detach().requires_grad_(), mesh.vertices.detach().clone().requires_grad_()
        raster = rasterize(clip_positions(vertices), mesh.faces, (512, 512))
        loss = (interpolate(colors, raster, mesh.faces) - 0.5).square().mean()
        torch.autograd.grad(loss, (vertices, colors))

    def textured(side: int) -> Callable[[], None]:
        return textured_step(mesh, uvs, uv_faces, texels, topology, side)

    def lit(side: int) -> Callable[[], None]:
        lights = [AmbientLight(torch.full((3,), 0.3)), DirectionalLight(torch.tensor([1.0, -1.0, 2.0]), torch.ones(3))]
        view = camera(side)

        def step() -> None:
            vertices, image = mesh.vertices.detach().requires_grad_(), texels.detach().requires_grad_()
            deformed = replace(mesh, vertices=vertices).with_vertex_normals()
            rendering = render_surface(deformed, Lambert(Texture(image)), lights, view, topology=topology)
            torch.autograd.grad((rendering.color - 0.5).square().mean(), (vertices, image))

        return step

    count = f"{len(mesh.faces):,} triangles"
    results = [
        measure(f"rasterize {count}, 512² (PyTorch3D 0.7.9, quoted: 3,900 ms)", rasterized, items=1, repeats=repeats),
        measure(
            f"rasterize + interpolate + MSE and back, {count}, 512² (PyTorch3D 0.7.9, quoted: 4,900 ms)", fitted, items=1, repeats=repeats
        ),
        measure(
            f"textured, antialiased step and back, {count}, 256² (Mitsuba 3.9, 16 spp, quoted: 750 to 1,050 ms)",
            textured(256),
            items=1,
            repeats=repeats,
        ),
    ]
    for side in () if quick else (512, 1024, 2048):
        results.append(measure(f"textured, antialiased step and back, {count}, {side}²", textured(side), items=1, repeats=repeats))
    for side in (256,) if quick else (256, 512, 1024, 2048):
        results.append(measure(f"the same, lit, through render_surface, {count}, {side}²", lit(side), items=1, repeats=repeats))
    return results


def textured_step(mesh: Mesh, uvs: Tensor, uv_faces: Tensor, texels: Tensor, topology: Topology, side: int) -> Callable[[], None]:
    """Return a step: render, average (picture − ½)², and compute its gradient to vertices and texels."""

    def step() -> None:
        vertices, image = mesh.vertices.detach().requires_grad_(), texels[None].requires_grad_()
        positions = camera(side).clip_positions(vertices, 0.1, 10.0)
        raster = rasterize(positions, mesh.faces, (side, side), derivatives=True)
        uv, uv_derivatives = interpolate_with_derivatives(uvs, raster, uv_faces)
        color = torch.where(raster.face[..., None] >= 0, texture(image, uv, uv_derivatives), 0.0)
        smooth = antialias(color, raster, positions, mesh.faces, topology)
        torch.autograd.grad((smooth - 0.5).square().mean(), (vertices, image))

    return step


def camera(side: int) -> Cameras:
    pose = look_at(torch.tensor([1.5, -2.0, 1.6]), torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]))
    return Cameras.alike(pose[None], torch.tensor([[1.3 * side, 1.3 * side, side / 2, side / 2]]), torch.zeros(1, 6), side, side)


def bumpy_ring() -> tuple[Mesh, Tensor, Tensor]:
    """Return a torus with bumps, its texture coordinates, and their faces.

    It has 61 x 48 squares and covers a quarter of the picture.
    """
    around, along = 61, 48
    t, s = torch.meshgrid(torch.arange(along + 1) / along, torch.arange(around + 1) / around, indexing="ij")
    azimuth, tube = 2 * math.pi * s, 2 * math.pi * t
    thickness = 0.3 + 0.03 * (9 * azimuth).sin() * (6 * tube).sin()
    radius = 0.7 + thickness * tube.cos()
    points = torch.stack((radius * azimuth.cos(), radius * azimuth.sin(), thickness * tube.sin()), -1)[:-1, :-1].reshape(-1, 3)
    row, column = torch.meshgrid(torch.arange(along), torch.arange(around), indexing="ij")
    rows, columns = torch.stack((row, row, row + 1, row + 1)), torch.stack((column, column + 1, column + 1, column))
    split = torch.tensor([[0, 1, 2], [0, 2, 3]])
    faces = (rows % along * around + columns % around)[split].permute(0, 2, 3, 1).reshape(-1, 3)
    uv_faces = (rows * (around + 1) + columns)[split].permute(0, 2, 3, 1).reshape(-1, 3)
    uvs = torch.stack((s, t), -1).reshape(-1, 2)
    return Mesh(points, faces.int(), uvs=uvs, uv_faces=uv_faces.int()), uvs, uv_faces.int()
