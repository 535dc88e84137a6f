"""The scene of ``mesh-pbr``: a shape, its material, and the light around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unrender.cameras import Cameras
from unrender.captures.capture import Capture
from unrender.color import linear_from_srgb
from unrender.fields.grid_sdf import sphere_distance
from unrender.geometry.mesh import Mesh
from unrender.geometry.unwrapping import unwrapped
from unrender.numerics import normalized
from unrender.recipes.fitting import scene_state, tensors_under
from unrender.recipes.inputs import FittedRun
from unrender.recipes.mesh_pbr.appearance import Appearance, InSpace, InTextures, KnownMaterial, with_straight_normals
from unrender.recipes.mesh_pbr.config import Cubes, FittedSurface, Imaging, MeshPbrConfig, Rates, Tetrahedra
from unrender.recipes.mesh_pbr.shapes import CubicShape, KnownShape, MeshShape, Shape, TetrahedralShape
from unrender.recipes.pixels import picture_background
from unrender.recipes.visual_hull import box_of_object, seen_cells, surface_of_hull
from unrender.render.asset import Asset, PbrMaterial
from unrender.render.baking import baked
from unrender.render.lit import DEPTHS, MOST_SHADOWED_VERTICES, LitScene, over_gray
from unrender.render.rendering import Rendering
from unrender.render.scene import Scene
from unrender.render.surface import render_surface
from unrender.render.turning_light import LightAxes, axes_of_light
from unrender.shading.cubes import reduced
from unrender.shading.gbuffer import GBuffer
from unrender.shading.lights import EnvironmentLight, Light, PrefilteredLight, prefiltered
from unrender.shading.metallic_roughness import MetallicRoughness, PbrValues
from unrender.shading.shadows import LightTransport, light_transport, shadowed

_RESOLUTION = 256
"""Cells along a side of the region of interest, with which a fitted surface is extracted."""
_HULL = 96
"""Cells along a side of the visual hull."""
_BALL = 0.7
"""Radius of the ball with which a shape begins that masks do not bound, in world units."""
_START_COLOR = 0.5
"""Base color that the object has under the first light, on average."""
_PHOTOS = 8
"""Photos whose radiance is averaged."""
_DARKEST = 0.01
"""Smallest radiance of the object that is believed."""
_MARGIN = 0.05
"""Share of its longest side by which the box of the materials is wider than the mesh."""
_COMPARED = 512
"""Pixels of a layer whose base colors are compared with each other."""
_BEYOND = 1e-3
"""Share of the picture by which texture coordinates may leave it."""


class MeshPbrScene(Scene):
    """A shape, its material, and the light around it."""

    has_masks: Tensor
    known_light: Tensor | None
    light_axes: Tensor
    """:class:`LightAxes` as a tensor."""
    first_camera: Tensor
    """Rotation from the axes of the first fitted photo to the world: a light that turns with the camera is exported as it stood there."""

    def __init__(
        self,
        shape: Shape,
        appearance: Appearance,
        light: Float[Tensor, "6 size size 3"],
        known_light: bool = False,
        *,
        masked: bool,
        axes: LightAxes,
        imaging: Imaging,
        first_camera: Float[Tensor, "3 3"] | None = None,
    ) -> None:
        """Begin with a shape, a material and the radiance of the light, which may be known.

        ``first_camera`` is a rotation to the world; None for the axes of the world, or of a state to be loaded.
        """
        super().__init__()
        self.shape, self.appearance, self._imaging = shape, appearance, imaging
        self.gray_light = False
        """Whether the light has no color, as long as the material is gray: it would take over that of surfaces that face it."""
        self.light_log = None if known_light else nn.Parameter(light.detach().clamp_min(1e-4).log())
        """Logarithms of an unknown light."""
        self.register_buffer("known_light", light.detach().clone() if known_light else None)
        self.register_buffer("has_masks", torch.tensor(masked))
        self.register_buffer("light_axes", axes.as_tensor())
        self.register_buffer("first_camera", torch.eye(3) if first_camera is None else first_camera.detach().float().clone())
        self._light_turns = axes.turn
        self._prefiltered: PrefilteredLight | None = None
        self._transport: LightTransport | None = None

    def light(self) -> EnvironmentLight:
        """Return the light of this step."""
        if self.gray_light and self.light_log is not None:
            return EnvironmentLight(self.light_log.mean(-1, keepdim=True).expand_as(self.light_log).exp())
        return EnvironmentLight(self.radiance())

    def radiance(self) -> Float[Tensor, "6 size size 3"]:
        """Return the radiance of the light."""
        if self.light_log is None:
            assert self.known_light is not None
            return self.known_light
        return self.light_log.exp()

    def _convolved_light(self) -> PrefilteredLight:
        """Return the light for all rough surfaces, which is computed once if it is known."""
        if self.light_log is not None:
            return prefiltered(self.light())
        if self._prefiltered is None or self._prefiltered.irradiance.device != self.device:
            self._prefiltered = prefiltered(self.light())
        return self._prefiltered

    @property
    def device(self) -> torch.device:
        """The device of all tensors."""
        return self.has_masks.device

    def parameter_groups(self, rates: Rates) -> list[dict[str, object]]:
        """Return the groups of all unknowns for an optimizer."""
        light = [] if self.light_log is None else [{"params": [self.light_log], "lr": rates.light_rate, "weight_decay": 0.0}]
        return [*self.shape.parameter_groups(rates), *self.appearance.parameter_groups(rates), *light]

    def project(self) -> None:
        """Bring the unknowns back into their limits after a step."""
        self.appearance.project()

    @property
    def axes(self) -> LightAxes:
        """The axes of the light, and how they were found."""
        return LightAxes.from_tensor(self.light_axes)

    def render(self, mesh: Mesh, cameras: Cameras, background: Tensor, values: Callable[[GBuffer], PbrValues]) -> Rendering:
        """Render the mesh of this step with gradients."""
        return render_surface(
            mesh,
            MetallicRoughness(values),
            [self._arriving(mesh, cameras)],
            cameras,
            background=background,
            samples=self._imaging.samples,
            layers=self._imaging.layers if isinstance(self.appearance, InTextures) else 1,
            depth_range=DEPTHS,
        )

    def _arriving(self, mesh: Mesh, cameras: Cameras) -> Light:
        """Return the light, with the shadows of a mesh whose triangles stay the same."""
        light = self._convolved_light()
        if self._light_turns:
            camera_from_world = cameras.world_from_camera[:, :3, :3].mT.to(light.irradiance)
            light = replace(light, environment=replace(light.environment, light_from_world=camera_from_world))
        if not isinstance(self.shape, MeshShape | KnownShape) or len(mesh.vertices) > MOST_SHADOWED_VERTICES:
            return light
        if self._transport is None or self._transport.free.device != self.device:
            self._transport = light_transport(self.shape.first_mesh())
        with torch.no_grad():
            base_color = self.appearance.base_color_of_vertices(mesh)
        return shadowed(light, self._transport, base_color)

    def values(self, surface: GBuffer) -> PbrValues:
        """Return the material at surface points; it is an unknown only after the light has been gray."""
        channels = self.appearance.channels(surface)
        return values_of(channels.detach() if self.gray_light else channels)

    @torch.no_grad()
    def render_view(self, cameras: Cameras, view: int) -> Rendering:
        gray = picture_background("random", masked=bool(self.has_masks))
        black = torch.zeros(3, device=self.device)
        seen = self.render(self.shape.mesh(), cameras[view], black, self.values)
        return over_gray(seen[0], gray)

    def asset(self, resolution: int = 256, *, largest_only: bool = True) -> Asset:
        with torch.no_grad():
            mesh = self.shape.mesh()
            if mesh.is_empty:
                return Asset.empty()
            environment = EnvironmentLight(self.radiance())
            environment = environment.as_seen_from(self.first_camera) if self._light_turns else environment
            if isinstance(self.appearance, KnownMaterial):
                return Asset(mesh, self.appearance.material(), environment)
            if not isinstance(self.appearance, InTextures):
                mesh = mesh.largest_component() if largest_only else mesh
                return Asset(mesh, environment=environment)
            color, gloss, normal, opacity = self.appearance.texels.detach().tensor_split((3, 5, 8), dim=-1)
            return Asset(mesh, PbrMaterial(torch.cat([color, opacity], -1), gloss, normalized(normal)), environment)


class Watching:
    """Returns the material in a training step, and remembers how far it is from what is expected."""

    def __init__(self, appearance: Appearance, generator: torch.Generator) -> None:
        """Watch a material."""
        self._appearance, self._generator = appearance, generator
        self._color: list[Tensor] = []
        self._gloss: list[Tensor] = []
        self._seen: list[tuple[Tensor, Tensor]] = []

    def __call__(self, surface: GBuffer) -> PbrValues:
        here = self._appearance.channels(surface)
        there = self._appearance.expected(surface, self._generator)
        difference = (here - there).abs() * surface.covered[..., None]
        count = surface.covered.sum().clamp_min(1)
        self._color.append(difference[..., :3].sum() / (3 * count))
        self._gloss.append(difference[..., 3:5].sum() / (2 * count))
        self._seen.append((here, surface.covered))
        return values_of(here)

    def differences(self) -> tuple[Tensor, Tensor]:
        """Return the mean differences of base color, and of roughness and metallic."""
        return torch.stack(self._color).mean(), torch.stack(self._gloss).mean()

    def some_colors(self) -> Float[Tensor, "points 3"]:
        """Draw covered pixels of each layer, and return their base colors."""
        chosen: list[Tensor] = []
        for channels, covered in self._seen:
            inside = covered.flatten().nonzero()[:, 0]
            place = torch.rand(min(_COMPARED, len(inside)), generator=self._generator, device=inside.device) * len(inside)
            chosen.append(channels.flatten(0, 2)[inside[place.long()], :3])
        return torch.cat(chosen)


def values_of(channels: Float[Tensor, "views height width channels"]) -> PbrValues:
    """Return the channels of a material by their meaning; those of a field in space have no normals."""
    normal = channels[..., 5:8] if channels.shape[-1] > 5 else None
    opacity = channels[..., 8] if channels.shape[-1] > 8 else None
    return PbrValues(channels[..., :3], channels[..., 3], channels[..., 4], normal, opacity)


def given_parts(run: FittedRun | None) -> Asset:
    """Return the mesh, the material and the light that an input brings; the surface of a field is extracted later."""
    if run is None:
        return Asset.empty()
    asset = run.scene.asset(largest_only=False) if isinstance(run.scene, LitScene | MeshPbrScene) else Asset.empty()
    if isinstance(run.scene, MeshPbrScene) and run.scene.axes.turn:
        asset = replace(asset, environment=None)  # it is the light of one photo
    return asset if run.environment is None else replace(asset, environment=run.environment)


def has_textures(asset: Asset) -> bool:
    """Tell whether a mesh comes with textures of base color, roughness and metallic, from which a fit can go on."""
    found = asset.material
    return found is not None and found.base_color is not None and found.roughness_metallic is not None


def stays_in_picture(mesh: Mesh) -> bool:
    """Tell whether a mesh has texture coordinates, all of them in [0, 1]."""
    return mesh.uvs is not None and bool(((mesh.uvs >= -_BEYOND) & (mesh.uvs <= 1 + _BEYOND)).all())


def scene_in_space(
    capture: Capture, config: MeshPbrConfig, given: Asset, surface: Scene | None, *, device: torch.device, seed: int
) -> MeshPbrScene:
    """Return the scene of the first pass.

    Its shape is a mesh that is given, a fitted surface, or a lattice that starts from the visual hull.

    Args:
        capture: the photos.
        config: the settings.
        given: what is known; its mesh may be empty.
        surface: a fitted scene whose surface is taken if no mesh is given.
        device: of the scene.
        seed: of the material.
    """
    generator = torch.Generator().manual_seed(seed)
    mesh = surface.mesh(_RESOLUTION) if given.is_empty and surface is not None else given.mesh
    if mesh.is_empty:
        shape, box = _shape_of_hull(capture, config, device)
    else:
        is_known = "shape" in config.lock
        simple = mesh if is_known and not given.is_empty else _bare(mesh).simplified(config.faces)
        shape = KnownShape(simple) if is_known else MeshShape(simple)
        box = mesh.bounding_box.cpu()
        margin = _MARGIN * (box[1] - box[0]).max()
        box = torch.stack([box[0] - margin, box[1] + margin])
    appearance = InSpace(config.materials, box, generator)
    axes = surface.axes if isinstance(surface, MeshPbrScene) else None  # those that the shape was found with
    return _scene(capture, config, given, shape, appearance, axes).to(device)


def scene_of_asset(capture: Capture, config: MeshPbrConfig, given: Asset, *, device: torch.device) -> MeshPbrScene:
    """Return the scene that begins with a mesh and its material."""
    assert given.material is not None
    lock = config.lock
    shape = KnownShape(given.mesh) if "shape" in lock else MeshShape(given.mesh.welded())
    appearance: Appearance = KnownMaterial(given.material)
    if "material" not in lock:
        size = config.materials.texture_size
        appearance = _in_textures(config, with_straight_normals(baked(shape.mesh(), appearance.channels, size)))
    return _scene(capture, config, given, shape, appearance).to(device)


def _scene(
    capture: Capture, config: MeshPbrConfig, given: Asset, shape: Shape, appearance: Appearance, axes: LightAxes | None = None
) -> MeshPbrScene:
    """Return the scene of a shape and a material under the light to begin with."""
    light, known = _light_of(given, config, capture)
    axes = _light_axes(shape, config, given, capture) if axes is None else axes
    first_camera = capture.cameras.world_from_camera[capture.split.train[0], :3, :3]
    return MeshPbrScene(
        shape, appearance, light, known, masked=capture.has_masks, axes=axes, imaging=config.imaging, first_camera=first_camera
    )


def _light_axes(shape: Shape, config: MeshPbrConfig, given: Asset, capture: Capture) -> LightAxes:
    """Return the axes of the light; the photos decide if neither the settings nor a given light do."""
    if config.imaging.light_axes != "auto" or given.environment is not None:
        return LightAxes(turn=config.imaging.light_axes == "camera")
    return axes_of_light(shape.mesh(), capture)


def _in_textures(config: MeshPbrConfig, texels: Float[Tensor, "height width 8"] | None = None) -> InTextures:
    """Return textures as the settings want them; None for some whose state will be loaded."""
    neighbors, translucent = config.losses.keep_to == "neighbors", config.imaging.layers > 1
    return InTextures(config.materials, texels, neighbors=neighbors, translucent=translucent)


def _bare(mesh: Mesh) -> Mesh:
    """Return the triangles of a mesh alone, on the CPU."""
    return Mesh(mesh.vertices.detach(), mesh.faces.long()).to("cpu")


def _light_of(given: Asset, config: MeshPbrConfig, capture: Capture) -> tuple[Float[Tensor, "6 size size 3"], bool]:
    """Return the light to begin with, and whether it is known."""
    size = config.light_size
    if given.environment is None:
        radiance = _radiance(capture) / _START_COLOR if config.start_light is None else config.start_light
        return torch.full((6, size, size, 3), radiance), False
    known = "light" in config.lock
    return given.environment.texels if known else reduced(given.environment.texels, size), known


def _radiance(capture: Capture) -> float:
    """Return the mean radiance of the object in a few photos."""
    views = capture.split.train[:: max(1, len(capture.split.train) // _PHOTOS)]
    total, weight = 0.0, 0.0
    for view in views:
        rgba = capture.photos[view].float() / 255
        total += float((linear_from_srgb(rgba[..., :3]) * rgba[..., 3:]).mean(-1).sum())
        weight += float(rgba[..., 3].sum())
    return max(total / max(weight, 1.0), _DARKEST)


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
    if isinstance(scene.shape, KnownShape):
        mesh = found if stays_in_picture(found) else unwrapped(found, resolution=size)
        shape: Shape = KnownShape(mesh)
    else:
        plain = Mesh(found.vertices.detach(), found.faces.long()).largest_component()
        mesh = unwrapped(plain.simplified(config.faces), resolution=size)
        shape = MeshShape(mesh)
    texels = with_straight_normals(baked(mesh, scene.appearance.channels, size))
    light, known = scene.radiance(), scene.light_log is None or config.rates.second_light_rate == 0
    return MeshPbrScene(
        shape,
        _in_textures(config, texels),
        light,
        known,
        masked=bool(scene.has_masks),
        axes=scene.axes,
        imaging=config.imaging,
        first_camera=scene.first_camera,
    ).to(scene.device)


def load_pbr_scene(config: MeshPbrConfig, tensors: Mapping[str, Tensor], device: torch.device) -> MeshPbrScene:
    """Rebuild the scene of a snapshot."""
    state = scene_state(tensors)
    # Snapshots of earlier versions have no axes, or do not say how the first camera stood.
    state.setdefault("light_axes", LightAxes(turn=config.imaging.light_axes == "camera").as_tensor())
    state.setdefault("first_camera", torch.eye(3))
    axes, imaging = LightAxes.from_tensor(state["light_axes"]), config.imaging
    scene = MeshPbrScene(_shape_in(state), _appearance_in(state, config), *_light_in(state), masked=True, axes=axes, imaging=imaging)
    scene.load_state_dict(state)
    return scene.to(device)


def _shape_in(state: Mapping[str, Tensor]) -> Shape:
    if "shape.cells" in state:
        x, y, z = state["shape.cells"].tolist()
        kind = CubicShape if "shape.weights" in state else TetrahedralShape
        return kind((x, y, z), state["shape.box"])
    return KnownShape.from_state(tensors_under("shape.", state)) if "shape.normals" in state else MeshShape()


def _appearance_in(state: Mapping[str, Tensor], config: MeshPbrConfig) -> Appearance:
    if "appearance.factors" in state:
        return KnownMaterial.from_state(tensors_under("appearance.", state))
    if "appearance.field.table" in state:
        return InSpace(config.materials, state["appearance.field.box"], torch.Generator())
    return _in_textures(config)


def _light_in(state: Mapping[str, Tensor]) -> tuple[Tensor, bool]:
    return (state["known_light"], True) if "known_light" in state else (torch.ones_like(state["light_log"]), False)
