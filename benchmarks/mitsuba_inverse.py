"""Material and light recovered by ``mesh-pbr`` and by Mitsuba 3's own inverse renderer ``prb``, from the same photos and the same surface.

    python benchmarks/mitsuba_inverse.py CAPTURE RUN RELIT.hdr OUT [--our-steps 150 500 1500] [--steps 800] [--samples 8] [--views 1]

CAPTURE is one of ``mitsuba_captures.py``, RUN a run of ``neus`` fitted to it. Both begin with the surface of the run, simplified to 20,000
triangles and unwrapped, and with the same gray material under a uniform light.

*Mitsuba*: Adam over a texture of the base color, one of the roughness and the logarithms of a lat-long light, of one random view or several
in a step, with ``prb``, box filter and independent sampler. Each variable keeps to its limits, rates fall to a tenth, and channels that are
white in a photo do not count. Metallic is known to be zero, which ``mesh-pbr`` has to find out.

*Ours*: ``mesh-pbr`` with its defaults, which also moves the vertices; see docs/recipes.md.

Each result is rendered by its own renderer, Mitsuba's with 64 samples per pixel. The scores are means over the held-out views:

- *view*: PSNR of sRGB over the whole frame, both over white;
- *relit*: PSNR under RELIT.hdr after a scale per channel and view, as in the table of Stanford-ORB: linear and sRGB, inside the mask, and
  linear over the whole frame;
- *base color*: PSNR of sRGB over the whole frame, over black, after one scale per channel.

Times are those of the processors, summed over threads, and of the clock; both without scoring, ours with unwrapping and extraction.
The differentiable variant of Mitsuba compiles while it runs, which counts.

Mitsuba is not a dependency: ``pip install mitsuba==3.9.*``. It needs an LLVM library, found automatically or set by DRJIT_LIBLLVM_PATH;
versions 19 and 22 work, 15 and 16 crash.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import drjit as dr  # pyright: ignore[reportMissingImports]
import mitsuba as mi  # pyright: ignore[reportMissingImports]
import numpy as np
import torch
from torch import Tensor

mi.set_variant("llvm_ad_rgb")

from mitsuba_asset import light_of, picture_of, sensor_of, shape_of  # noqa: E402  the variant is chosen first

import unrender  # noqa: E402
from unrender.cameras import Cameras  # noqa: E402
from unrender.captures.capture import Capture  # noqa: E402
from unrender.color import linear_from_srgb, srgb_from_linear  # noqa: E402
from unrender.geometry.mesh import Mesh  # noqa: E402
from unrender.geometry.unwrapping import unwrapped  # noqa: E402
from unrender.recipes import mesh_pbr  # noqa: E402
from unrender.recipes.mesh_pbr.scene import scene_in_space  # noqa: E402
from unrender.render.asset import Asset, PbrMaterial  # noqa: E402
from unrender.render.lit import DEPTHS, LitScene, values_of  # noqa: E402
from unrender.render.surface import render_surface  # noqa: E402
from unrender.runs.stanford_orb import picture_scores  # noqa: E402
from unrender.shading.gbuffer import GBuffer  # noqa: E402
from unrender.shading.latlong import cube_from_latlong, latlong_from_cube, read_environment, read_latlong  # noqa: E402
from unrender.shading.lights import EnvironmentLight  # noqa: E402
from unrender.shading.materials import Shaded  # noqa: E402

_SCORED = 64
"""Samples per pixel of the pictures that are scored."""
_DEPTH = 6
"""Vertices of a path in them, as in the photos."""
_WHITE = 0.99
_BASE_COLOR, _ROUGHNESS, _LIGHT = "surface.bsdf.brdf_0.base_color.data", "surface.bsdf.brdf_0.roughness.data", "light.data"

Pictures = Callable[[Cameras, int], tuple[Tensor, Tensor]]
"""Returns linear color over black and opacity of a view."""


@dataclass(frozen=True)
class Line:
    """A line of the table."""

    name: str
    steps: int
    processor_seconds: float
    seconds: float
    view: float
    relit_linear: float
    relit_srgb: float
    relit_whole: float
    base_color: float


class Stopwatch:
    """Sums the time of the processors, those of finished child processes included, and of the clock."""

    def __init__(self) -> None:
        self.processor = self.clock = 0.0

    def __enter__(self) -> None:
        self._begun = _processor_seconds(), time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.processor += _processor_seconds() - self._begun[0]
        self.clock += time.perf_counter() - self._begun[1]


def _processor_seconds() -> float:
    return sum(os.times()[:4])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("capture", "run", "relit", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--our-steps", type=int, nargs="*", default=[150, 500, 1500])
    parser.add_argument("--steps", type=int, default=800, help="of Mitsuba; 0 leaves it out")
    parser.add_argument("--samples", type=int, default=8, help="per pixel, of Mitsuba")
    parser.add_argument("--views", type=int, default=1, help="in a step, of Mitsuba")
    parser.add_argument("--depth", type=int, default=3, help="vertices of a path, of Mitsuba")
    parser.add_argument("--texture", type=int, default=256, help="side of its textures")
    parser.add_argument(
        "--rates", type=float, nargs=3, default=(0.02, 0.02, 0.05), help="of base color, roughness, logarithms of the light"
    )
    parser.add_argument("--loss", choices=("l1", "l2"), default="l2", help="in linear light")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    run, lines = unrender.open_run(given.run, device="cpu"), []
    capture = unrender.load(given.capture)
    for steps in given.our_steps:
        watch = Stopwatch()
        with watch:
            found = unrender.fit("mesh-pbr", given.run, steps=steps, device="cpu", progress=False)
        asset = found.scene.asset()
        lines.append(scored("mesh-pbr", steps, watch, capture, given, *_ours(asset, given.relit, capture)))
    if given.steps:
        config = mesh_pbr.PRESETS["cpu"]
        simple = scene_in_space(capture, config, Asset.empty(), run.scene, device=torch.device("cpu"), seed=0).shape.mesh()
        mesh = unwrapped(Mesh(simple.vertices.detach(), simple.faces.long()), resolution=512).with_vertex_normals()
        recovered = Recovery(mesh, capture, given)
        for name, watch, steps in recovered.run(given.steps):
            asset = recovered.asset()
            asset.export(given.out / f"mitsuba_{steps}.glb")
            lines.append(scored(name, steps, watch, capture, given, *_theirs(asset, given.relit)))
    (given.out / "scores.json").write_text(json.dumps([asdict(line) for line in lines], indent=1))


class Recovery:
    """Mitsuba's side: textures and light of a known mesh, by Adam through ``prb``."""

    def __init__(self, mesh: Mesh, capture: Capture, given: Any) -> None:
        self._mesh, self._given, self._capture = mesh, given, capture
        gray = torch.full((given.texture, given.texture, 3), 0.5)
        start = _mean_radiance(capture) / 0.5
        surface = _principled(gray, torch.full_like(gray[..., :1], 0.6))
        self._scene = mi.load_dict(
            {
                "type": "scene",
                "integrator": {"type": "prb", "max_depth": given.depth, "hide_emitters": True},
                "light": light_of(torch.full((32, 64, 3), start)),
                "surface": shape_of(mesh, surface),
            }
        )
        self._params: Any = mi.traverse(self._scene)
        self._optimizer: Any = mi.ad.Adam(lr=0.02)
        self._optimizer["color"] = mi.TensorXf(self._params[_BASE_COLOR])
        self._optimizer["roughness"] = mi.TensorXf(self._params[_ROUGHNESS])
        self._optimizer["log_light"] = dr.log(mi.TensorXf(self._params[_LIGHT]))

    def run(self, steps: int) -> Any:
        """Yield after each of a few numbers of steps, with the time so far."""
        given, capture, watch = self._given, self._capture, Stopwatch()
        random = np.random.default_rng(0)
        stops = sorted({max(1, steps // 4), steps})
        for step in range(1, steps + 1):
            with watch:
                factor = 0.1 ** ((step - 1) / steps)
                rates = dict(zip(("color", "roughness", "log_light"), (factor * rate for rate in given.rates), strict=True))
                self._optimizer.set_learning_rate(rates)
                self._show()
                for view in random.choice(capture.split.train, given.views, replace=False).tolist():
                    self._back(view, seed=step * 1000 + view)
                self._optimizer.step()
                self._optimizer["color"] = dr.clip(self._optimizer["color"], 0.0, 1.0)
                self._optimizer["roughness"] = dr.clip(self._optimizer["roughness"], 0.08, 1.0)
                dr.eval(*self._optimizer.values())
            if step % 20 == 0 or step == 1:
                print(f"  step {step}: {watch.processor:.0f} s of the processors, {watch.clock:.0f} s", flush=True)
            if step in stops:
                self._show()
                yield f"Mitsuba prb, {given.views} x {given.samples} samples", watch, step

    def _show(self) -> None:
        self._params[_BASE_COLOR] = self._optimizer["color"]
        self._params[_ROUGHNESS] = self._optimizer["roughness"]
        self._params[_LIGHT] = dr.exp(self._optimizer["log_light"])
        self._params.update()

    def _back(self, view: int, seed: int) -> None:
        photo = linear_from_srgb(self._capture.color(view)) * self._capture.alpha(view)[..., None]
        counts = ((photo <= _WHITE) & (self._capture.alpha(view)[..., None] > 0)).float()
        sensor = mi.load_dict(sensor_of(self._capture.cameras[view], self._given.samples, "rgb"))
        render: Any = mi.render  # its stubs know one variant only
        seen = render(self._scene, self._params, sensor=sensor, spp=self._given.samples, seed=seed)
        off = (seen - mi.TensorXf(photo.numpy())) * mi.TensorXf(counts.numpy())
        dr.backward(dr.sum(abs(off) if self._given.loss == "l1" else off * off) / (float(counts.sum()) * self._given.views))

    def asset(self) -> Asset:
        """Return what has been recovered so far."""
        color, roughness, light = (torch.from_numpy(np.array(self._params[key])) for key in (_BASE_COLOR, _ROUGHNESS, _LIGHT))
        gloss = torch.cat([roughness.view(*color.shape[:2], 1), torch.zeros(*color.shape[:2], 1)], -1)
        # The last column repeats the first. The middle of a lat-long picture is the same direction here and there (light_of).
        latlong = light[:, :64, :3]
        return Asset(self._mesh, PbrMaterial(color[..., :3], gloss, metallic=0.0), EnvironmentLight(cube_from_latlong(latlong, 32)))


def _principled(color: Tensor, roughness: Tensor) -> dict[str, Any]:
    bsdf = {
        "type": "principled",
        "base_color": picture_of(color),
        "roughness": picture_of(roughness),
        "metallic": 0.0,
        "specular": 0.5,
    }
    return {"type": "twosided", "bsdf": bsdf}


def _mean_radiance(capture: Capture) -> float:
    views = capture.split.train[::12]
    linear = [(linear_from_srgb(capture.color(view)) * capture.alpha(view)[..., None]).mean(-1).sum() for view in views]
    return float(torch.stack(linear).sum() / torch.stack([capture.alpha(view).sum() for view in views]).sum())


def _ours(asset: Asset, relit: Path, capture: Capture) -> tuple[Asset, Pictures, Pictures]:
    other = replace(asset, environment=read_environment(relit, 128, capture.source_from_world))

    def pictures(some: Asset) -> Pictures:
        scene = LitScene(some)

        def picture(cameras: Cameras, view: int) -> tuple[Tensor, Tensor]:
            seen = scene.lit_view(cameras, view)
            return seen.color, seen.opacity

        return picture

    return asset, pictures(asset), pictures(other)


def _theirs(asset: Asset, relit: Path) -> tuple[Asset, Pictures, Pictures]:
    assert asset.material is not None and asset.environment is not None and asset.material.base_color is not None
    assert asset.material.roughness_metallic is not None
    shape = shape_of(asset.mesh, _principled(asset.material.base_color, asset.material.roughness_metallic[..., :1]))

    def pictures(light: Tensor) -> Pictures:
        scene = {"type": "scene", "integrator": {"type": "path", "max_depth": _DEPTH, "hide_emitters": True}, "shape": shape}
        loaded: Any = mi.load_dict({**scene, "light": light_of(light)})

        def picture(cameras: Cameras, view: int) -> tuple[Tensor, Tensor]:
            sensor = mi.load_dict(sensor_of(cameras[view], _SCORED, "rgba"))
            render: Any = mi.render  # its stubs know one variant only
            rgba = torch.from_numpy(np.array(render(loaded, sensor=sensor, spp=_SCORED, seed=view), dtype=np.float32))
            return rgba[..., :3], rgba[..., 3]

        return picture

    return asset, pictures(latlong_from_cube(asset.environment.texels, 64)), pictures(read_latlong(relit))


@torch.no_grad()
def scored(name: str, steps: int, watch: Stopwatch, capture: Capture, given: Any, asset: Asset, lit: Pictures, relit: Pictures) -> Line:
    """Score an asset and its pictures, and print the line."""
    views, scores, base, truths = capture.split.test, [], [], []
    for number, view in enumerate(views):
        color, opacity = lit(capture.cameras, view)
        photo = capture.color(view) * capture.alpha(view)[..., None] + 1 - capture.alpha(view)[..., None]
        straight = srgb_from_linear((color / opacity.clamp_min(1e-4)[..., None]).clamp(0, 1))
        seen = straight * opacity[..., None] + 1 - opacity[..., None]
        wanted = torch.from_numpy(np.load(given.capture / "truth" / f"relit_{number:03d}.npy"))
        other = relit(capture.cameras, view)[0]
        inside = wanted[..., 3] > 0.99
        orb = picture_scores(other, wanted[..., :3], inside)
        power = (other[inside].square()).sum(0)
        whole = other * ((other[inside] * wanted[..., :3][inside]).sum(0) / power)
        scores.append((_decibels(seen, photo), orb.psnr_h, orb.psnr_l, _decibels(whole.clamp(0, 4), wanted[..., :3].clamp(0, 4))))
        base.append(torch.where(inside[..., None], _base_color(asset, capture.cameras, view), 0.0))
        truths.append(torch.where(inside[..., None], torch.from_numpy(np.load(given.capture / "truth" / f"albedo_{number:03d}.npy")), 0.0))
    ours, true = torch.stack(base), torch.stack(truths)
    scaled = ours * ((ours * true).sum((0, 1, 2)) / ours.square().sum((0, 1, 2)))
    albedo = _decibels(srgb_from_linear(scaled.clamp(0, 1)), srgb_from_linear(true))
    view_mean, linear, srgb, frame = np.mean(scores, 0).tolist()
    line = Line(name, steps, watch.processor, watch.clock, view_mean, linear, srgb, frame, albedo)
    print(f"{name}, {steps} steps: {line.processor_seconds:.0f} s of the processors, {line.seconds:.0f} s; view {line.view:.2f} dB, relit "
          f"{line.relit_linear:.2f} dB linear, {line.relit_srgb:.2f} dB sRGB, {line.relit_whole:.2f} dB whole frame, base color "
          f"{line.base_color:.2f} dB", flush=True)  # fmt: skip
    return line


def _base_color(asset: Asset, cameras: Cameras, view: int) -> Tensor:
    assert asset.material is not None
    values = values_of(asset.material)

    def shown(surface: GBuffer, lights: object) -> Shaded:
        found = values(surface)
        return Shaded(found.base_color, torch.ones_like(found.roughness))

    return render_surface(asset.mesh, shown, [], cameras[view], depth_range=DEPTHS)[0].color


def _decibels(a: Tensor, b: Tensor) -> float:
    return -10 * math.log10(float((a - b).square().mean()))


if __name__ == "__main__":
    main()
