"""A textured surface, forward and backward, against Mitsuba 3 with ``direct_projective``, on the CPU.

Both render the ring of ``bench_surface`` with the same texels and camera at 256 x 256, and both compute the gradients of
mean((image − ½)²) to vertices and texels, silhouettes included. Mitsuba's settings:

- variant ``llvm_ad_rgb`` with as many threads as PyTorch;
- ``direct_projective`` with 16 samples per pixel for each part (spp, sppc, sppp), and either sppi = 0, which ignores moving shadows, or
  sppi = 16 with guiding "none"; with its default guiding a step takes many times as long. ``hide_emitters``, for a black background;
- box filter, independent sampler; a diffuse surface under constant light of radiance 1, which looks like an unlit surface except for the
  ring's shadow on itself; a raw float32 bitmap with bilinear lookups;
- each step passes new vertices and texels (``params.update()``), as a fit does, and a new seed that is not a constant of the kernels, so
  nothing is compiled after the warm-up.

Ours is the step with one antialiased sample per pixel, and ``render_surface`` with 4 x 4 samples per pixel.

Mitsuba is not a dependency; without it there are no rows. They need ``pip install mitsuba==3.9.*`` and an LLVM library, found automatically
or set by DRJIT_LIBLLVM_PATH; version 19 works, 15 and 16 crash.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from bench_surface import bumpy_ring, camera, textured_step
from harness import Row, compare
from torch import Tensor

from unrender.geometry.mesh import Mesh
from unrender.ops.raster import Topology, edge_topology
from unrender.render.surface import render_surface
from unrender.shading.materials import Texture, Unlit

_SAMPLES_PER_SIDE = 4
"""Ours, along each side of a pixel."""
_SAMPLES = _SAMPLES_PER_SIDE**2
"""Mitsuba's, per pixel."""


def rows(quick: bool) -> list[Row]:
    """Compare steps with 1 and 16 samples per pixel with Mitsuba without moving shadows, and one with them."""
    if torch.get_default_device().type != "cpu":
        print("mitsuba: left out, the comparison is one of CPUs", flush=True)
        return []
    modules = _mitsuba()
    if modules is None:
        return []
    dr, mi = modules

    side, repeats = (64, 3) if quick else (256, 7)
    mesh, uvs, uv_faces = bumpy_ring()
    texels = torch.rand(1024, 1024, 3)
    topology = edge_topology(mesh.faces)
    one = textured_step(mesh, uvs, uv_faces, texels, topology, side)
    many = _supersampled(mesh, texels, topology, side)
    still = _Mitsuba(dr, mi, mesh, uvs, uv_faces, texels, side, {"sppi": 0})
    moving = _Mitsuba(dr, mi, mesh, uvs, uv_faces, texels, side, {"guiding": "none"})

    count = f"{len(mesh.faces):,} triangles, {side}²"
    peer = f"Mitsuba {mi.__version__} direct_projective, {_SAMPLES} spp"
    cases = (
        (f"textured, antialiased step and back, {count}", one, still, f"{peer}, sppi = 0"),
        (f"the same, {_SAMPLES} samples per pixel, through render_surface, {count}", many, still, f"{peer}, sppi = 0"),
        (f"textured, antialiased step and back, {count}", one, moving, f"{peer}, no guiding"),
    )
    return [compare(name, ours, peer, peer_name=peer_name, items=1, repeats=repeats) for name, ours, peer, peer_name in cases]


def _supersampled(mesh: Mesh, texels: Tensor, topology: Topology, side: int) -> Callable[[], None]:
    """Return a step with as many samples per pixel as Mitsuba takes."""
    view = camera(side)

    def step() -> None:
        vertices, image = mesh.vertices.detach().requires_grad_(), texels.detach().requires_grad_()
        ring = Mesh(vertices, mesh.faces, uvs=mesh.uvs, uv_faces=mesh.uv_faces)
        seen = render_surface(ring, Unlit(Texture(image)), [], view, samples=_SAMPLES_PER_SIDE, topology=topology)
        torch.autograd.grad((seen.color - 0.5).square().mean(), (vertices, image))

    return step


def _mitsuba() -> tuple[Any, Any] | None:
    """Return the modules ``drjit`` and ``mitsuba``; None, after printing why, if they or LLVM are missing."""
    try:
        import drjit as dr  # pyright: ignore[reportMissingImports]
        import mitsuba as mi  # pyright: ignore[reportMissingImports]

        mi.set_variant("llvm_ad_rgb")  # raises ImportError as well if there is no LLVM
    except ImportError as missing:
        print(f"mitsuba: left out, {missing}", flush=True)
        return None
    mi.set_log_level(mi.LogLevel.Error)
    dr.set_thread_count(torch.get_num_threads())
    return dr, mi


class _Mitsuba:
    """Mitsuba's side of the comparison; each call is a step."""

    def __init__(
        self, dr: Any, mi: Any, mesh: Mesh, uvs: Tensor, uv_faces: Tensor, texels: Tensor, side: int, integrator: dict[str, Any]
    ) -> None:
        self._dr, self._mi = dr, mi
        film = {"type": "hdrfilm", "width": side, "height": side, "pixel_format": "rgb", "rfilter": {"type": "box"}}
        # Mitsuba's camera looks along +Z too, but has +X to the left and +Y up.
        to_world = camera(side).world_from_camera[0].double() @ torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0]).double())
        focal = float(camera(side).intrinsics[0, 0])
        sensor = {
            "type": "perspective",
            "fov": math.degrees(2 * math.atan(side / (2 * focal))),
            "to_world": mi.ScalarTransform4f(to_world.numpy()),
            "near_clip": 0.1,
            "far_clip": 10.0,
            "film": film,
            "sampler": {"type": "independent", "sample_count": _SAMPLES},
        }
        self._scene = mi.load_dict(
            {
                "type": "scene",
                "integrator": {"type": "direct_projective", "hide_emitters": True, **integrator},
                "sensor": sensor,
                "light": {"type": "constant"},
                "ring": self._shape(mesh, uvs, uv_faces, texels),
            }
        )
        self._params = mi.traverse(self._scene)
        # Copies, because gradients of what the scene holds would add up from step to step.
        fitted = {key: self._params[key] for key in ("ring.vertex_positions", "ring.bsdf.reflectance.data")}
        self._fitted = {key: type(value)(value) for key, value in fitted.items()}
        self._steps = 0

    def _shape(self, mesh: Mesh, uvs: Tensor, uv_faces: Tensor, texels: Tensor) -> Any:
        """Return the mesh with one index for positions and uvs; a vertex at a seam of the texture appears twice."""
        mi = self._mi
        index = torch.empty(len(uvs), dtype=torch.int64)
        index[uv_faces.flatten().long()] = mesh.faces.flatten().long()
        properties = mi.Properties()
        bitmap = {"type": "bitmap", "data": mi.TensorXf(texels.numpy()), "raw": True}
        properties["bsdf"] = mi.load_dict({"type": "diffuse", "reflectance": bitmap})
        shape = mi.Mesh("ring", len(uvs), len(uv_faces), has_vertex_texcoords=True, props=properties)
        params = mi.traverse(shape)
        params["vertex_positions"] = mi.Float(mesh.vertices[index].flatten().numpy())
        params["vertex_texcoords"] = mi.Float(uvs.flatten().numpy())
        params["faces"] = mi.UInt32(uv_faces.flatten().numpy())
        params.update()
        return shape

    def __call__(self) -> dict[str, Any]:
        """Take a step and return the gradients."""
        dr, mi, params = self._dr, self._mi, self._params
        self._steps += 1
        seed = mi.UInt32(self._steps)
        dr.make_opaque(seed)
        for key, value in self._fitted.items():
            params[key] = type(value)(value)
            dr.enable_grad(params[key])
        params.update()
        image = mi.render(self._scene, params, seed=seed, spp=_SAMPLES)
        loss = dr.mean(dr.square(image - 0.5), axis=None)
        dr.backward(loss)
        gradients = {key: dr.grad(params[key]) for key in self._fitted}
        dr.eval(loss, gradients)
        dr.sync_thread()
        return gradients
