"""Steps of ``mesh-pbr`` with windows of 256 x 256 pixels, part by part: forward and backward, on one thread.

Each part gets what it got in a step, and a random gradient of what it returns. Times are those of the processor, so that other processes
hardly disturb them; the whole step is timed by itself, and what the parts lack of it is the work of PyTorch between them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace

import torch
from harness import Row
from torch import Tensor

from unrender.captures.capture import Capture
from unrender.demo import make_demo_capture
from unrender.geometry.mesh import Mesh
from unrender.losses.regularizers import white_balance
from unrender.ops.encodings import Adam
from unrender.ops.raster import antialias, rasterize_layers, topology_of
from unrender.recipes import mesh_pbr
from unrender.recipes.mesh_pbr import loop
from unrender.recipes.mesh_pbr.config import MeshPbrConfig
from unrender.recipes.mesh_pbr.scene import MeshPbrScene, Watching, scene_in_space, scene_in_textures, values_of
from unrender.recipes.mesh_pbr.shapes import CubicShape
from unrender.recipes.windows import WindowBatch, WindowSampler
from unrender.render import surface
from unrender.render.asset import Asset
from unrender.render.lit import DEPTHS
from unrender.shading.gbuffer import GBuffer
from unrender.shading.lights import Light, PrefilteredLight, prefiltered
from unrender.shading.materials import Shaded
from unrender.shading.metallic_roughness import MetallicRoughness, PbrValues
from unrender.shading.shadows import ShadowedLight, shadowed


def rows(quick: bool) -> list[Row]:
    """Time a step with a shape on a lattice, one with a given surface, and one with textures."""
    if torch.get_default_device().type != "cpu":
        return []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    capture, config = make_demo_capture(views=8, size=64 if quick else 256), mesh_pbr.PRESETS["cpu"]
    config = replace(config, window=64, faces=1_000, materials=replace(config.materials, texture_size=64)) if quick else config
    lattice = scene_in_space(capture, config, Asset.empty(), None, device=torch.device("cpu"), seed=0)
    assert isinstance(lattice.shape, CubicShape)
    with torch.no_grad():
        found = lattice.shape.mesh()
    given = scene_in_space(capture, config, Asset(Mesh(found.vertices, found.faces)), None, device=torch.device("cpu"), seed=0)
    textured = scene_in_textures(given, config)
    names = ("shape and materials in space", lattice), ("materials in space", given), ("textures", textured)
    timed = [row for name, scene in names for row in _rows_of(name, scene, capture, config, repeats=3 if quick else 9)]
    torch.set_num_threads(threads)
    return timed


def _rows_of(phase: str, scene: MeshPbrScene, capture: Capture, config: MeshPbrConfig, *, repeats: int) -> list[Row]:
    generator = torch.Generator().manual_seed(0)
    batch = WindowSampler(capture, torch.device("cpu"), largest_side=config.largest_side, side=config.window).draw(1, generator)
    background = torch.rand(batch.color.shape, generator=generator)
    terms = config.losses
    optimizer = Adam(scene.parameter_groups(config.rates), lr=config.rates.material_rate, betas=config.rates.other_betas, eps=1e-15)

    def step() -> None:
        watching = Watching(scene.appearance, generator)
        mesh = scene.shape.mesh()
        rendering = scene.render(mesh, batch.cameras, background, watching)
        losses, _ = loop._picture_losses(terms, batch, rendering, background, masked=True, mask_l1=0.0)
        losses |= loop._material_losses(terms, scene, watching, 0.5)
        losses |= {"white_light": terms.white_light * white_balance(scene.radiance())} | scene.shape.regularization(terms, 0.5)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()

    whole, spread = _timed(step, repeats)
    found = [Row(f"a step of {phase}, {config.window}², one thread", whole, None, "", 1, spread)]
    for name, work in _parts(scene, batch, background, config, optimizer):
        seconds, spread = _timed(work, repeats)
        found.append(Row(f"{phase}: {name}, {100 * seconds / whole:.0f} %", seconds, None, "", 1, spread))
    return found


def _parts(
    scene: MeshPbrScene, batch: WindowBatch, background: Tensor, config: MeshPbrConfig, optimizer: Adam
) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield each part of a step with the function that does it again."""
    mesh, cameras = _leaves(scene.shape.mesh()), batch.cameras
    clip = cameras.clip_positions(mesh.vertices.detach(), *DEPTHS).detach().requires_grad_()
    size = cameras.height, cameras.width
    raster = rasterize_layers(clip, mesh.faces, size, layers=1, derivatives=mesh.uvs is not None)[0]
    still = replace(raster, **{field.name: _detached(getattr(raster, field.name)) for field in fields(raster)})
    seen: list[GBuffer] = []

    def remember(points: GBuffer, lights: Sequence[Light]) -> Shaded:
        seen.append(points)
        return Shaded(torch.zeros_like(points.position), torch.ones_like(points.distance))

    colors = surface._shaded(mesh, still, cameras.positions, remember, []).detach().requires_grad_()
    points = _leaves(seen[0])
    generator = torch.Generator().manual_seed(0)
    found = values_of(scene.appearance.channels(points))
    normal = None if found.normal is None else found.normal.detach().requires_grad_()
    base_color, roughness, metallic = (value.detach().requires_grad_() for value in found[:3])
    known = PbrValues(base_color, roughness, metallic, normal)
    convolved = prefiltered(scene.light())
    light = _leaves_of_light(convolved)
    arriving = scene._arriving(mesh, cameras)
    if isinstance(arriving, ShadowedLight):
        arriving = replace(arriving, light=light, shares=arriving.shares.detach().requires_grad_())
    else:
        arriving = light

    yield "the mesh", lambda: _back(*_tensors(scene.shape.mesh()))
    yield "rasterize", lambda: _back(*_tensors(rasterize_layers(clip, mesh.faces, size, layers=1, derivatives=mesh.uvs is not None)[0]))
    yield "interpolate", lambda: _back(surface._shaded(mesh, still, cameras.positions, _position_and_normal, []))
    yield "textures" if mesh.uvs is not None else "field", lambda: _material(scene, points, generator)
    yield "prefilter", lambda: _back(*_tensors(prefiltered(scene.light())))
    if isinstance(arriving, ShadowedLight):
        transport = scene._transport
        assert transport is not None
        colors_of_vertices = scene.appearance.base_color_of_vertices

        def shadows() -> None:
            with torch.no_grad():
                base_color = colors_of_vertices(mesh)
            _back(shadowed(light, transport, base_color).shares)

        yield "shadows", shadows
    yield "shading", lambda: _back(MetallicRoughness(lambda _: known)(points, [arriving]).color)
    yield "antialias", lambda: _back(antialias(colors, still, clip, mesh.faces, topology_of(mesh.faces)))
    rendering = scene.render(mesh, cameras, background, scene.values)
    leaf = replace(rendering, color=rendering.color.detach().requires_grad_(), opacity=rendering.opacity.detach().requires_grad_())

    def losses() -> None:
        found, _ = loop._picture_losses(config.losses, batch, leaf, background, masked=True, mask_l1=0.0)
        torch.stack(list(found.values())).sum().backward()

    yield "losses", losses
    yield "regularizers of the shape", lambda: _back(*(value for value in _regularization(scene, config).values()))
    yield "optimizer", optimizer.step


def _regularization(scene: MeshPbrScene, config: MeshPbrConfig) -> dict[str, Tensor]:
    found = scene.shape.regularization(config.losses, 0.5)
    return {name: value for name, value in found.items() if name != "deviation"}  # it is part of the mesh


def _material(scene: MeshPbrScene, points: GBuffer, generator: torch.Generator) -> None:
    watching = Watching(scene.appearance, generator)
    values = watching(points)
    _back(*(value for value in values if value is not None), *watching.differences())


def _position_and_normal(points: GBuffer, lights: Sequence[Light]) -> Shaded:
    total = points.position + points.normal + points.to_viewer
    if points.tangent is not None and points.uv is not None:
        total = total + points.tangent[..., :3] + points.uv.sum(-1, keepdim=True)
    return Shaded(total, torch.ones_like(points.distance))


def _timed(work: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Return the median of the processor's seconds, and their spread."""
    work()
    times = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    median = statistics.median(times)
    return median, (max(times) - min(times)) / median


def _back(*outputs: Tensor) -> None:
    """Run the backward pass for random gradients of all outputs that have one."""
    wanted = [output for output in outputs if output.requires_grad]
    torch.autograd.backward(wanted, [torch.ones_like(output) for output in wanted])


def _tensors(bundle: Mesh | PrefilteredLight | object) -> list[Tensor]:
    if isinstance(bundle, PrefilteredLight):
        return [bundle.irradiance, *(texels for _, texels in bundle.levels)]
    values = (getattr(bundle, field.name) for field in fields(bundle))  # pyright: ignore[reportArgumentType]
    return [value for value in values if isinstance(value, Tensor)]


def _detached(value: object) -> object:
    return value.detach() if isinstance(value, Tensor) else value


def _leaves(bundle):  # type: ignore[no-untyped-def]
    """Return a frozen dataclass whose tensors begin their own graphs."""
    values = {field.name: getattr(bundle, field.name) for field in fields(bundle)}
    kept = {name: value.detach() for name, value in values.items() if isinstance(value, Tensor)}
    made = {name: value.requires_grad_() if value.is_floating_point() else value for name, value in kept.items()}
    return replace(bundle, **made)


def _leaves_of_light(light: PrefilteredLight) -> PrefilteredLight:
    levels = tuple((cube, texels.detach().requires_grad_()) for cube, texels in light.levels)
    environment = replace(light.environment, texels=light.environment.texels.detach().requires_grad_())
    return replace(light, environment=environment, irradiance=light.irradiance.detach().requires_grad_(), levels=levels)
