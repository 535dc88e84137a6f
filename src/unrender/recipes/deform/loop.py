"""The scene and the training loop of ``deform``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unrender.cameras import Cameras
from unrender.captures.capture import Capture, CaptureError
from unrender.captures.upright import upward_direction
from unrender.geometry.cage import cage_weights
from unrender.geometry.mesh import Mesh
from unrender.losses.surface import as_rigid_as_possible, edge_length_change, mean_edge_length, uniform_laplacian
from unrender.losses.weighting import weighted_mean
from unrender.ops.encodings import Adam
from unrender.recipes.clock import Clock
from unrender.recipes.deform.config import DeformConfig, DeformLosses
from unrender.recipes.fitting import FitResult, Fitting, Observer, scene_state, tensors_under
from unrender.recipes.inputs import FittedRun
from unrender.recipes.mesh_pbr.appearance import KnownMaterial
from unrender.recipes.mesh_pbr.shapes import KnownShape
from unrender.recipes.pixels import picture_background
from unrender.recipes.schedules import exponential, ramp
from unrender.recipes.windows import WindowSampler
from unrender.render.asset import Asset, PbrMaterial
from unrender.render.lit import DEPTHS, over_gray, values_of
from unrender.render.rendering import Rendering
from unrender.render.scene import Scene
from unrender.render.surface import render_surface
from unrender.shading.gbuffer import GBuffer
from unrender.shading.lights import Light
from unrender.shading.materials import Shaded

_RESOLUTION = 256
"""Cells along a side of the region of interest, with which a fitted surface is extracted."""
_MARGIN = 0.05
"""Share of its longest side by which the cage is wider than the template."""
_FINAL_RATE = 0.1
"""Learning rates at the end, as a share of those at the begin."""
_GRAY = 0.7
"""Base color of a template without colors, in pictures."""


class DeformScene(Scene):
    """A template whose vertices have moved."""

    has_masks: Tensor

    def __init__(self, template: KnownShape, material: KnownMaterial, *, handles: int, masked: bool) -> None:
        """Begin with the template where it is."""
        super().__init__()
        self.template, self.material = template, material
        mesh = template.mesh()
        self.handles = nn.Parameter(torch.zeros(handles**3, 3))
        self.moves = nn.Parameter(torch.zeros_like(mesh.vertices))
        self.register_buffer("has_masks", torch.tensor(masked))
        low, high = mesh.bounding_box
        margin = _MARGIN * (high - low).max()
        self._weights = cage_weights(mesh.vertices, torch.stack([low - margin, high + margin]), handles)

    @property
    def has_colors(self) -> bool:
        """Whether the template has colors."""
        return self.material.material().base_color is not None or self.template.mesh().colors is not None

    def vertices(self) -> Float[Tensor, "vertices 3"]:
        """Return the moved vertices."""
        start = self.template.mesh().vertices
        if self._weights.device != start.device:
            self._weights = self._weights.to(start.device)
        return start + self._weights @ self.handles + self.moves

    def moved(self) -> Mesh:
        """Return the moved mesh, with normals and tangents of its own."""
        mesh = replace(self.template.mesh(), vertices=self.vertices()).with_vertex_normals()
        return mesh if mesh.uvs is None else mesh.with_tangents()

    def render(self, mesh: Mesh, cameras: Cameras) -> Rendering:
        """Render a mesh with the colors of the template, over black."""
        return render_surface(mesh, self._shaded, [], cameras, depth_range=DEPTHS)

    def _shaded(self, surface: GBuffer, lights: Sequence[Light]) -> Shaded:
        """Return unlit colors; a template without any is gray, brighter where it faces the viewer."""
        opaque = torch.ones_like(surface.distance)
        if self.has_colors:
            return Shaded(values_of(self.material.material())(surface).base_color, opaque)
        return Shaded((_GRAY * (surface.normal * surface.to_viewer).sum(-1, keepdim=True).clamp_min(0)).expand_as(surface.normal), opaque)

    @torch.no_grad()
    def render_view(self, cameras: Cameras, view: int) -> Rendering:
        gray = picture_background("random", masked=bool(self.has_masks))
        return over_gray(self.render(self.moved(), cameras[view])[0], gray)

    @torch.no_grad()
    def asset(self, resolution: int = 256, *, largest_only: bool = True) -> Asset:
        found = self.material.material()
        textures = (found.base_color, found.roughness_metallic, found.normal)
        is_none = all(texture is None for texture in textures) and (found.roughness, found.metallic) == (1.0, 0.0)
        return Asset(self.moved(), None if is_none else found)


def fit(
    given: Capture | FittedRun,
    config: DeformConfig,
    *,
    device: torch.device,
    seed: int,
    resume: Mapping[str, Tensor] | None = None,
    observer: Observer | None = None,
) -> FitResult:
    """Deform a template until it fits the masks of a capture.

    Raises:
        CaptureError: the capture has no masks.
        ValueError: there is no template, or there is a light.
    """
    capture, losses = given.capture if isinstance(given, FittedRun) else given, config.losses
    asset = given.scene.asset(_RESOLUTION) if isinstance(given, FittedRun) else Asset.empty()
    if asset.is_empty:
        raise ValueError(f"{given.name} comes without a template; give one with --mesh FILE, in the frame of the poses")
    if isinstance(given, FittedRun) and given.environment is not None:
        raise ValueError("a template is fitted to masks, and a light has no part in that; leave --env out")
    if not capture.has_masks:
        raise CaptureError(
            f"{capture.name} has no masks, whose outlines a template is fitted to; make some with `unrender mask`, or let `unrender fit "
            "mesh-pbr` move its vertices by the colors"
        )
    scene = _scene_of(asset, config, masked=capture.has_masks).to(device)
    scene.poses = given.scene.poses if isinstance(given, FittedRun) else None
    template = scene.template.mesh()
    edges = torch.from_numpy(template.edges()[0]).to(device)
    edge = float(mean_edge_length(template.vertices, template.faces))
    longest = float((template.bounding_box[1] - template.bounding_box[0]).max())
    groups = [{"params": [scene.handles], "lr": config.handle_rate * longest, "weight_decay": 0.0}]
    if config.by == "vertices":
        groups.append({"params": [scene.moves], "lr": config.vertex_rate * edge, "weight_decay": 0.0})
    generator = torch.Generator(device).manual_seed(seed)
    windows = WindowSampler(capture, device, largest_side=config.largest_side, side=config.window)
    optimizer = Adam(groups, lr=edge, betas=(0.9, 0.99), eps=1e-15)
    clock = Clock(config.steps, config.max_seconds)
    fitting = Fitting(scene, optimizer, clock, observer, generator=generator, parts={"windows": windows})
    if resume is not None:
        fitting.restore(resume)
    for _ in fitting:
        fraction = clock.fraction
        fitting.set_learning_rate(exponential(_FINAL_RATE, fraction))
        batch = windows.draw(config.windows, generator)
        mesh = scene.moved()
        rendering = scene.render(mesh, batch.cameras)
        weight = batch.counts.reshape(-1).float()
        terms = _regularization(losses, mesh, template, edges, edge, fraction)
        terms["mask"] = losses.mask * weighted_mean((rendering.opacity - batch.alpha).reshape(-1, 1).square(), weight)
        fitting.take_step(terms, counts={"triangles": len(mesh.faces)})
    return fitting.result(capture.source_from_world, up=upward_direction(capture))


def _regularization(losses: DeformLosses, mesh: Mesh, template: Mesh, edges: Tensor, edge: float, fraction: float) -> dict[str, Tensor]:
    """Return the weighted terms that keep the mesh like the template."""
    now, start = mesh.vertices / edge, template.vertices / edge
    return {
        "laplacian": ramp(losses.laplacian, fraction) * uniform_laplacian(now - start, mesh.faces),
        "rigid": ramp(losses.rigid, fraction) * as_rigid_as_possible(now, start, edges),
        "edge_length": ramp(losses.edge_length, fraction) * edge_length_change(now, start, edges),
    }


def _scene_of(asset: Asset, config: DeformConfig, *, masked: bool) -> DeformScene:
    mesh = asset.mesh.welded().to("cpu")  # triangles on both sides of a seam move together
    material = KnownMaterial(PbrMaterial() if asset.material is None else asset.material)
    return DeformScene(KnownShape(replace(mesh, vertices=mesh.vertices.detach())), material, handles=config.handles, masked=masked)


def load_scene(config: DeformConfig, tensors: Mapping[str, Tensor], device: torch.device) -> DeformScene:
    """Rebuild the scene of a snapshot."""
    state = scene_state(tensors)
    template = KnownShape.from_state(tensors_under("template.", state))
    material = KnownMaterial.from_state(tensors_under("material.", state))
    scene = DeformScene(template, material, handles=round(len(state["handles"]) ** (1 / 3)), masked=True)
    scene.load_state_dict(state)
    return scene.to(device)
