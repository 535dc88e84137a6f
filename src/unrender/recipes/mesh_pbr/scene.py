"""The scene of ``mesh-pbr``: a shape, its material, and the light around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unrender.cameras import Cameras
from unrender.captures.capture import Capture
from unrender.fields.grid_sdf import sphere_distance
from unrender.geometry.mesh import Mesh
from unrender.geometry.unwrapping import unwrapped
from unrender.numerics import normalized
from unrender.recipes.fitting import scene_state
from unrender.recipes.mesh_pbr.appearance import Appearance, InSpace, InTextures, with_straight_normals
from unrender.recipes.mesh_pbr.config import Cubes, FittedSurface, MeshPbrConfig, Rates, Tetrahedra
from unrender.recipes.mesh_pbr.shapes import CubicShape, MeshShape, Shape, TetrahedralShape
from unrender.recipes.pixels import picture_background
from unrender.recipes.visual_hull import box_of_object, seen_cells, surface_of_hull
from unrender.render.asset import Asset, PbrMaterial
from unrender.render.baking import baked
from unrender.render.lit import DEPTHS, over_gray
from unrender.render.rendering import Rendering
from unrender.render.scene import Scene
from unrender.render.surface import render_surface
from unrender.shading.gbuffer import GBuffer
from unrender.shading.lights import EnvironmentLight, Light, prefiltered
from unrender.shading.metallic_roughness import MetallicRoughness, PbrValues
from unrender.shading.shadows import LightTransport, light_transport, shadowed

_RESOLUTION = 256
"""Cells along a side of the region of interest, with which a fitted surface is extracted."""


_HULL = 96
"""Cells along a side of the visual hull."""
_BALL = 0.7
"""Radius of the ball with which a shape begins that masks do not bound, in world units."""
_MARGIN = 0.05
"""Share of its longest side by which the box of the materials is wider than the mesh."""


class MeshPbrScene(Scene):
    """A shape, its material, and the light around it."""

    has_masks: Tensor

    def __init__(self, shape: Shape, appearance: Appearance, light: Float[Tensor, "6 size size 3"], *, masked: bool) -> None:
        """Begin with a shape, a material and the radiance of the light."""
        super().__init__()
        self.shape, self.appearance = shape, appearance
        self.gray_light = False
        """Whether the light has no color, as long as the material is gray: it would take over that of surfaces that face it."""
        self.light_log = nn.Parameter(light.detach().clamp_min(1e-4).log())
        self.register_buffer("has_masks", torch.tensor(masked))
        self._transport: LightTransport | None = None

    def light(self) -> EnvironmentLight:
        """Return the light."""
        log = self.light_log.mean(-1, keepdim=True).expand_as(self.light_log) if self.gray_light else self.light_log
        return EnvironmentLight(log.exp())

    def parameter_groups(self, rates: Rates) -> list[dict[str, object]]:
        """Return the groups of all unknowns for an optimizer."""
        light = {"params": [self.light_log], "lr": rates.light_rate, "weight_decay": 0.0}
        return [*self.shape.parameter_groups(rates), *self.appearance.parameter_groups(rates), light]

    def project(self) -> None:
        """Bring the unknowns back into their limits after a step."""
        self.appearance.project()

    def render(self, mesh: Mesh, cameras: Cameras, background: Tensor, values: Callable[[GBuffer], PbrValues]) -> Rendering:
        """Render the mesh of this step with gradients."""
        return render_surface(mesh, MetallicRoughness(values), [self._arriving(mesh)], cameras, background=background, depth_range=DEPTHS)

    def _arriving(self, mesh: Mesh) -> Light:
        """Return the light, with the shadows of a mesh whose triangles stay the same."""
        light = prefiltered(self.light())
        if not isinstance(self.shape, MeshShape):
            return light
        if self._transport is None or self._transport.free.device != self.light_log.device:
            self._transport = light_transport(self.shape.first_mesh())
        with torch.no_grad():
            base_color = self.appearance.base_color_of_vertices(mesh)
        return shadowed(light, self._transport, base_color)

    @torch.no_grad()
    def render_view(self, cameras: Cameras, view: int) -> Rendering:
        gray = picture_background("random", masked=bool(self.has_masks))
        black = torch.zeros(3, device=self.light_log.device)
        seen = self.render(self.shape.mesh(), cameras[view], black, lambda surface: values_of(self.appearance.channels(surface)))
        return over_gray(seen[0], gray)

    def asset(self, resolution: int = 256, *, largest_only: bool = True) -> Asset:
        with torch.no_grad():
            mesh = self.shape.mesh()
            if mesh.is_empty:
                return Asset.empty()
            environment = EnvironmentLight(self.light_log.exp())
            if not isinstance(self.appearance, InTextures):
                mesh = mesh.largest_component() if largest_only else mesh
                return Asset(mesh, environment=environment)
            color, gloss, normal = self.appearance.texels.detach().split((3, 2, 3), dim=-1)
            return Asset(mesh, PbrMaterial(color, gloss, normalized(normal)), environment)


class Watching:
    """Returns the material in a training step, and remembers how far it is from what is expected."""

    def __init__(self, appearance: Appearance, generator: torch.Generator, *, fixed: bool) -> None:
        """Watch a material; a fixed one gets no gradients from the picture."""
        self._appearance, self._generator, self._fixed = appearance, generator, fixed
        self._color: list[Tensor] = []
        self._gloss: list[Tensor] = []

    def __call__(self, surface: GBuffer) -> PbrValues:
        here = self._appearance.channels(surface)
        there = self._appearance.expected(surface, self._generator)
        difference = (here - there).abs() * surface.covered[..., None]
        count = surface.covered.sum().clamp_min(1)
        self._color.append(difference[..., :3].sum() / (3 * count))
        self._gloss.append(difference[..., 3:5].sum() / (2 * count))
        return values_of(here.detach() if self._fixed else here)

    def differences(self) -> tuple[Tensor, Tensor]:
        """Return the mean differences of base color, and of roughness and metallic."""
        return torch.stack(self._color).mean(), torch.stack(self._gloss).mean()


def values_of(channels: Float[Tensor, "views height width channels"]) -> PbrValues:
    """Return the channels of a material by their meaning; those of a field in space have no normals."""
    normal = channels[..., 5:] if channels.shape[-1] > 5 else None
    return PbrValues(channels[..., :3], channels[..., 3], channels[..., 4], normal)


def scene_in_space(capture: Capture, config: MeshPbrConfig, previous: Scene | None, *, device: torch.device, seed: int) -> MeshPbrScene:
    """Return the scene of the first pass: with a fitted surface, or a lattice that starts from the visual hull."""
    generator, masked = torch.Generator().manual_seed(seed), capture.has_masks
    mesh = None if previous is None else previous.mesh(_RESOLUTION).to("cpu")
    if mesh is None or mesh.is_empty:
        shape, box = _shape_of_hull(capture, config, device)
    else:
        shape, box = MeshShape(mesh.simplified(config.faces)), mesh.bounding_box
        margin = _MARGIN * (box[1] - box[0]).max()
        box = torch.stack([box[0] - margin, box[1] + margin])
    appearance = InSpace(config.materials, box.cpu(), generator)
    light = torch.full((6, config.light_size, config.light_size, 3), config.start_light)
    return MeshPbrScene(shape, appearance, light, masked=masked).to(device)


def _shape_of_hull(capture: Capture, config: MeshPbrConfig, device: torch.device) -> tuple[Shape, Float[Tensor, "2 3"]]:
    """Return a lattice over the box of the object that starts as its visual hull, or as a ball."""
    hull = seen_cells(capture, _HULL, device, within_masks=True)
    distance = surface_of_hull(hull, _BALL)
    distance = sphere_distance(_HULL + 1, _BALL) if distance is None else distance
    box = box_of_object(distance, hull)
    assert box is not None
    settings = Cubes() if isinstance(config.shape, FittedSurface) else config.shape  # its surface was empty
    box = box.cpu()
    longest = float((box[1] - box[0]).max())
    cells = [max(2, round(settings.resolution * side / longest)) for side in (box[1] - box[0]).tolist()]
    kind = TetrahedralShape if isinstance(settings, Tetrahedra) else CubicShape
    return kind((cells[0], cells[1], cells[2]), box, distance.cpu()), box


def scene_in_textures(scene: MeshPbrScene, config: MeshPbrConfig) -> MeshPbrScene:
    """Return the scene at the start of the second pass: the mesh unwrapped, its material baked."""
    found, size = scene.shape.mesh(), config.materials.texture_size
    plain = Mesh(found.vertices.detach(), found.faces.long()).largest_component()
    mesh = unwrapped(plain.simplified(config.faces), resolution=size)
    texels = with_straight_normals(baked(mesh, scene.appearance.channels, size))
    textured = MeshPbrScene(MeshShape(mesh), InTextures(config.materials, texels), scene.light_log.exp(), masked=bool(scene.has_masks))
    return textured.to(scene.light_log.device)


def load_pbr_scene(config: MeshPbrConfig, tensors: Mapping[str, Tensor], device: torch.device) -> MeshPbrScene:
    """Rebuild the scene of a snapshot."""
    state = scene_state(tensors)
    in_space = "appearance.field.table" in state
    if "shape.cells" in state:
        x, y, z = state["shape.cells"].tolist()
        kind = CubicShape if "shape.weights" in state else TetrahedralShape
        shape: Shape = kind((x, y, z), state["shape.box"])
    else:
        shape = MeshShape()
    box = state.get("appearance.field.box", torch.zeros(2, 3))
    appearance = InSpace(config.materials, box, torch.Generator()) if in_space else InTextures(config.materials)
    scene = MeshPbrScene(shape, appearance, torch.ones_like(state["light_log"]), masked=True)
    scene.load_state_dict(state)
    return scene.to(device)
