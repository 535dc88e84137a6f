"""Comparison of a fitted material and its relit pictures with the scene that the photos were rendered of.

Photos determine the product of material and light, so base colors are compared after one factor for each channel, the least-squares one
over all views in linear light, s = Σ c t / Σ c². Relit pictures are scaled view by view, as the table of Stanford-ORB does
(:func:`unrender.runs.stanford_orb.picture_scores`), with an exposure at which nearly all of the true object is below white. Pixels inside
the mask are those that the photos show as the object. Values of a view are averaged over its pixels, and measures over the views.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unrender.cameras import Cameras
from unrender.captures.capture import Capture, KnownScene
from unrender.color import srgb_from_linear
from unrender.devices import pytorch_on_one_thread
from unrender.render.asset import Asset, PbrMaterial, read_asset
from unrender.render.lit import DEPTHS, SMALLEST_OPACITY, LitScene, values_of
from unrender.render.rendering import Rendering
from unrender.render.surface import render_surface
from unrender.runs.display import Display
from unrender.runs.evaluation import SMALLEST_VARIANCE
from unrender.runs.measures import Measure
from unrender.runs.relighting import exposure_of
from unrender.runs.stanford_orb import picture_scores
from unrender.runs.view_measures import OPAQUE, psnr_of_colors
from unrender.shading.gbuffer import GBuffer
from unrender.shading.lights import EnvironmentLight, Light
from unrender.shading.materials import Shaded
from unrender.shading.metallic_roughness import PbrValues
from unrender.transforms import inverse_similarity

MATERIAL_GROUP = "material against the true one"

_METERED = 8
"""Views by which the exposure of another light is chosen."""
_MOST = 100.0
"""Decibels of pictures that are equal."""


@dataclass(frozen=True)
class Relit:
    """A light under which a fitted asset is compared with the true one."""

    name: str
    light: EnvironmentLight
    """In the axes of the world."""


def true_asset(scene: KnownScene, source_from_world: Float[Tensor, "4 4"]) -> Asset:
    """Read the true mesh and its material into the world.

    Raises:
        ValueError: the file cannot be read.
        OSError: likewise.
    """
    asset = read_asset(scene.mesh).transformed(inverse_similarity(source_from_world.double()))
    return replace(asset, mesh=replace(asset.mesh, vertices=asset.mesh.vertices.float()))


def material_measures(
    asset: Asset,
    truth: Asset,
    photos: Capture,
    views: Sequence[int],
    relit: Relit | None,
    device: torch.device,
    display: Display,
) -> tuple[Measure, ...]:
    """Compare the material of an asset with the true one in some views, and both under another light.

    Args:
        asset: with a material, in the world.
        truth: the true one, in the world.
        photos: whose cameras and masks are used.
        views: the views.
        relit: the other light; None compares materials alone.
        device: where to render.
        display: shows how far it is.
    """
    ours, true = (_Maps(some.to(device)) for some in (asset, truth))
    cameras = photos.cameras.to(device)
    with pytorch_on_one_thread(), torch.no_grad():
        with display.task("comparing the material", 2 * len(views)) as task:
            factors = _factors(ours, true, photos, cameras, task.each(views))
            found = [_material_scores(ours, true, factors, photos, cameras, view) for view in task.each(views)]
        lit = [] if relit is None else _relit_scores(asset, truth, photos, views, relit, device, display)
    inside, frame, roughness, metallic = zip(*found, strict=True)
    scaled = f"base color, scaled by {' '.join(f'{factor:.3g}' for factor in factors.tolist())}"
    measures = [
        *_mean(f"PSNR of the {scaled}, inside the mask", inside, MATERIAL_GROUP, unit="dB"),
        *_mean("PSNR of the scaled base color, whole frame over white", frame, MATERIAL_GROUP, unit="dB"),
        *_mean("error of roughness inside the mask", roughness, MATERIAL_GROUP),
        *_mean("error of metallic inside the mask", metallic, MATERIAL_GROUP),
    ]
    if relit is not None:
        group = f"relit by {relit.name} against the truth, each view scaled by channel, inside the mask"
        for name, values, unit in zip(
            ("PSNR of sRGB", "PSNR of linear light", "SSIM"), zip(*lit, strict=True), ("dB", "dB", ""), strict=False
        ):
            measures += _mean(name, values, group, unit=unit, higher=True)
    return tuple(measures)


class _Maps:
    """An asset whose material is rendered as colors."""

    def __init__(self, asset: Asset) -> None:
        mesh = asset.mesh if asset.mesh.normals is not None else asset.mesh.with_vertex_normals()
        self._mesh, self._values = mesh, values_of(PbrMaterial() if asset.material is None else asset.material)

    def base_color(self, cameras: Cameras, view: int) -> tuple[Float[Tensor, "height width 3"], Float[Tensor, "height width"]]:
        """Return the base color of a view over black in linear light, and the opacity."""
        seen = self._seen(lambda values: values.base_color, cameras, view)
        return seen.color, seen.opacity

    def gloss(self, cameras: Cameras, view: int) -> tuple[Float[Tensor, "height width 2"], Bool[Tensor, "height width"]]:
        """Return roughness and metallic of a view, and where the surface is opaque."""
        seen = self._seen(lambda values: torch.stack([values.roughness, values.metallic, values.metallic], -1), cameras, view)
        return seen.color[..., :2] / seen.opacity.clamp_min(OPAQUE)[..., None], seen.opacity > OPAQUE

    def _seen(self, channels: Callable[[PbrValues], Tensor], cameras: Cameras, view: int) -> Rendering:
        def shown(surface: GBuffer, lights: Sequence[Light]) -> Shaded:
            values = self._values(surface)
            opacity = torch.ones_like(values.roughness) if values.opacity is None else values.opacity
            return Shaded(channels(values), opacity)

        return render_surface(self._mesh, shown, [], cameras[view], depth_range=DEPTHS)[0]


def _inside(photos: Capture, view: int, device: torch.device) -> Bool[Tensor, "height width"]:
    return photos.mask(view).to(device) > 127


def _factors(ours: _Maps, true: _Maps, photos: Capture, cameras: Cameras, views: Iterable[int]) -> Float[Tensor, " 3"]:
    """Return the factors of the channels with which our base color is nearest to the true one in all views."""
    both = power = torch.zeros(3, dtype=torch.float64, device=cameras.world_from_camera.device)
    for view in views:
        inside = _inside(photos, view, both.device)
        color, wanted = (maps.base_color(cameras, view)[0][inside].double() for maps in (ours, true))
        both, power = both + (color * wanted).sum(0), power + color.square().sum(0)
    return torch.where(power > SMALLEST_VARIANCE, both / power.clamp_min(SMALLEST_VARIANCE), 1.0)


def _material_scores(
    ours: _Maps, true: _Maps, factors: Float[Tensor, " 3"], photos: Capture, cameras: Cameras, view: int
) -> tuple[float | None, float | None, float | None, float | None]:
    """Return PSNR of the base color inside the mask and over the frame, and errors of roughness and metallic."""
    inside = _inside(photos, view, factors.device)
    pictures = []
    for maps, factor in ((ours, factors), (true, torch.ones_like(factors))):
        color, opacity = maps.base_color(cameras, view)
        straight = color * factor.to(color) / opacity.clamp_min(SMALLEST_OPACITY)[..., None]
        pictures.append(srgb_from_linear(straight.clamp(0, 1)) * opacity[..., None] + (1 - opacity[..., None]))
    color, wanted = pictures
    (gloss, opaque), (true_gloss, truly_opaque) = (maps.gloss(cameras, view) for maps in (ours, true))
    both = inside & opaque & truly_opaque
    errors: list[float | None] = [None, None]
    if bool(both.any()):
        errors = (gloss[both] - true_gloss[both]).abs().mean(0).tolist()
    return psnr_of_colors(color[inside], wanted[inside]), psnr_of_colors(color.flatten(0, 1), wanted.flatten(0, 1)), errors[0], errors[1]


def _relit_scores(
    asset: Asset, truth: Asset, photos: Capture, views: Sequence[int], relit: Relit, device: torch.device, display: Display
) -> list[tuple[float, float, float]]:
    """Return the scores of the views under another light: PSNR of sRGB and of linear light, SSIM."""
    with display.task("casting rays for the shadows on the objects"):
        ours, true = (LitScene(replace(some, environment=relit.light).to(device)) for some in (asset, truth))
    cameras, found = photos.cameras.to(device), []
    with display.task("comparing relit pictures", len(views)) as task:
        exposure = exposure_of(true, cameras.select(views[:: -(-len(views) // _METERED)])) or 1.0
        for view in task.each(views):
            inside = _inside(photos, view, device)
            if bool(inside.any()):
                color, wanted = (exposure * scene.lit_view(cameras, view).color for scene in (ours, true))
                scores = picture_scores(color, wanted, inside)
                found.append((min(scores.psnr_l, _MOST), min(scores.psnr_h, _MOST), scores.ssim))
    return found


def _mean(name: str, values: Iterable[float | None], group: str, *, unit: str = "", higher: bool | None = None) -> list[Measure]:
    """Return the mean of the known values as a measure; nothing if none is known."""
    known = [value for value in values if value is not None]
    better = "higher" if unit == "dB" or higher else "lower"
    return [Measure(name, sum(known) / len(known), unit, 2 if unit == "dB" else 4, group, better)] if known else []
