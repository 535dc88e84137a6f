"""The training loop of ``mesh-pbr``: shape or materials in space first, then textures; each step renders windows of photos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from unrender.captures.capture import Capture, CaptureError
from unrender.captures.upright import upward_direction
from unrender.color import srgb_from_linear
from unrender.fields.exposure import Exposure
from unrender.losses.photometric import mse, photometric
from unrender.losses.regularizers import few_colors, white_balance
from unrender.losses.weighting import weighted_mean
from unrender.ops.encodings import Adam
from unrender.recipes.clock import Clock
from unrender.recipes.exposures import exposed, exposure_of, part_of
from unrender.recipes.fitting import FitResult, Fitting, Observer
from unrender.recipes.inputs import FittedRun
from unrender.recipes.mesh_pbr.appearance import InSpace, InTextures, KnownMaterial
from unrender.recipes.mesh_pbr.config import FittedSurface, MeshPbrConfig, PbrLosses
from unrender.recipes.mesh_pbr.scene import (
    MeshPbrScene,
    Watching,
    given_parts,
    has_textures,
    load_pbr_scene,
    scene_in_space,
    scene_in_textures,
    scene_of_asset,
    stays_in_picture,
)
from unrender.recipes.neus import loop as neus
from unrender.recipes.neus.config import PRESETS as SURFACES
from unrender.recipes.neus.config import GridField, NeusConfig
from unrender.recipes.phases import Phase, PhaseStart, fit_in_phases, phase_of
from unrender.recipes.schedules import ramp
from unrender.recipes.windows import WindowBatch, WindowSampler
from unrender.render.asset import Asset
from unrender.render.lit import LitScene
from unrender.render.refined_poses import refined
from unrender.render.rendering import Rendering
from unrender.render.scene import Scene

_SHAPE_PHASES = 2
"""Number of phases for the shape alone, which come first: those of ``neus``, of which the second may be that of a lattice."""
_ONE_COLOR = 0.1
"""Standard deviation of the logarithms of base colors that count as one."""
_WHITE = 0.99
"""Linear value from which a channel of a photo counts as clipped, and opacity from which it shows the object alone."""


def fit(
    given: Capture | FittedRun,
    config: MeshPbrConfig,
    *,
    device: torch.device,
    seed: int,
    resume: Mapping[str, Tensor] | None = None,
    observer: Observer | None = None,
) -> FitResult:
    """Fit shape, material and light to the photos of a capture, or go on from a run.

    Locked parts stay as they are given.

    Raises:
        CaptureError: the capture has no masks, and there is no surface to begin with.
        ValueError: a locked part is not given, or nothing is left to fit.
    """
    run = given if isinstance(given, FittedRun) else None
    capture = given.capture if isinstance(given, FittedRun) else given
    known = given_parts(run)
    field = None if run is None or isinstance(run.scene, LitScene | MeshPbrScene) else run.scene
    has_mesh = field is not None or not known.is_empty
    _check_settings(config, known, capture.name, has_mesh=has_mesh)
    lock, shape = config.lock, config.shape
    textured = not known.is_empty and ("material" in lock or has_textures(known))
    surface_first = not has_mesh and isinstance(shape, FittedSurface)
    if not (capture.has_masks or surface_first or has_mesh):
        raise CaptureError(
            f"{capture.name} has no masks, which a shape on a lattice needs to begin with; fit the surface first (--shape neus), go on "
            "from a run of neus, or make masks with `unrender mask`"
        )
    exposure = exposure_of(capture, config.exposure, device, resumes=resume is not None)
    fields = neus.phases_of(capture, _surface_settings(config, device), exposure, device=device, seed=seed)
    before = shape.surface_share if surface_first and isinstance(shape, FittedSurface) else 0.0
    first = 0.0 if textured else (1 - before) * config.first_share
    on_lattice = first > 0 and not has_mesh and not surface_first
    alone = 0.0 if isinstance(shape, FittedSurface) or not on_lattice else shape.shape_first * first
    light_first = 0.0 if known.environment is not None and "light" in lock else config.light_first

    def begun(previous: Scene | None) -> MeshPbrScene:
        seen = capture if previous is None else refined(capture, previous)
        return scene_in_space(seen, config, known, field if previous is None else previous, device=device, seed=seed)

    def fit_pass(start: PhaseStart, scene: MeshPbrScene, *, light_first: float, seed: int) -> FitResult:
        before = start.previous.scene if start.previous is not None else None if run is None else run.scene
        if start.resume is None and before is not None:
            scene.poses = before.poses
        return _fit_pass(refined(capture, scene), config, start, scene, exposure, light_first=light_first, device=device, seed=seed)

    def pass_of_shape(start: PhaseStart) -> FitResult:
        scene = begun(None) if start.resume is None else load_pbr_scene(config, start.resume, device)
        return fit_pass(start, scene, light_first=0.0, seed=seed)

    def pass_in_space(start: PhaseStart) -> FitResult:
        if start.resume is not None:
            scene = load_pbr_scene(config, start.resume, device)
        else:
            scene = begun(None if start.previous is None else start.previous.scene)
        return fit_pass(start, scene, light_first=light_first, seed=seed)

    def pass_in_textures(start: PhaseStart) -> FitResult:
        if start.resume is not None:
            scene = load_pbr_scene(config, start.resume, device)
        else:
            previous = None if start.previous is None else start.previous.scene
            with start.clock.running():
                if textured:
                    scene = scene_of_asset(capture, config, known, device=device)
                else:
                    scene = scene_in_textures(previous if isinstance(previous, MeshPbrScene) else begun(previous), config)
        return fit_pass(start, scene, light_first=0.0, seed=seed + 1)

    shapes = [replace(phase, share=before * phase.share) for phase in fields]
    if alone > 0:
        shapes[-1] = Phase("shape", alone, pass_of_shape)
    phases = (
        *shapes,
        Phase("shape and materials in space" if on_lattice and not alone else "materials in space", first - alone, pass_in_space),
        Phase("light" if "material" in lock else "textures", 1 - before - first, pass_in_textures),
    )
    return fit_in_phases(phases, Clock(config.steps, config.max_seconds), resume=resume, observer=observer)


def _surface_settings(config: MeshPbrConfig, device: torch.device) -> NeusConfig:
    """Return the settings of the surface that is fitted first."""
    shape = config.shape if isinstance(config.shape, FittedSurface) else FittedSurface()
    settings = SURFACES["cpu" if device.type == "cpu" else "gpu"]
    settings = replace(settings, exposure=config.exposure, refine_poses=shape.refine_poses)
    if shape.density_first is None or not isinstance(settings.field, GridField):
        return settings
    return replace(settings, field=replace(settings.field, density_first=shape.density_first))


def _check_settings(config: MeshPbrConfig, known: Asset, name: str, *, has_mesh: bool) -> None:
    """Check that what is locked is given, and that the rest can be fitted as wanted.

    Raises:
        ValueError: one of these does not hold; the message says what to do.
    """
    locked, shape = config.lock, config.shape
    if has_mesh and isinstance(shape, FittedSurface) and shape.refine_poses:
        raise ValueError(f"poses are refined while a surface is fitted, and {name} comes with one; leave refine_poses out")
    if "shape" in locked and not has_mesh and not isinstance(shape, FittedSurface):
        raise ValueError(f"the shape is locked, and {name} comes without one; give it with --mesh FILE, or go on from a run of neus")
    if "material" in locked and known.material is None:
        raise ValueError(
            f"the material is locked, and {name} comes without one; give a GLB, or an OBJ with its MTL, with --mesh FILE, "
            "or go on from a run of mesh-pbr"
        )
    pictures = () if known.material is None else (known.material.base_color, known.material.roughness_metallic, known.material.normal)
    needed = "material" in locked or has_textures(known)
    if needed and any(picture is not None for picture in pictures) and not stays_in_picture(known.mesh):
        what = "no texture coordinates" if known.mesh.uvs is None else "texture coordinates beyond [0, 1], where they would repeat"
        raise ValueError(
            f"the mesh given with {name} has textures and {what}; unwrap it in another program, or give it without its material"
        )
    if {"shape", "material", "light"} <= set(locked) and known.environment is not None:
        raise ValueError("shape, material and light are locked and given, so nothing is left to fit; lock fewer parts (--lock)")


def load_scene(config: MeshPbrConfig, tensors: Mapping[str, Tensor], device: torch.device) -> Scene:
    """Rebuild the scene of a snapshot."""
    if phase_of(tensors) < _SHAPE_PHASES and isinstance(config.shape, FittedSurface):
        return neus.load_scene(_surface_settings(config, device), tensors, device)
    return load_pbr_scene(config, tensors, device)


def _fit_pass(
    capture: Capture,
    config: MeshPbrConfig,
    start: PhaseStart,
    scene: MeshPbrScene,
    exposure: Exposure | None,
    *,
    light_first: float,
    device: torch.device,
    seed: int,
) -> FitResult:
    """Run one pass: Adam over everything that the scene does not know, and the exposures of the photos."""
    generator = torch.Generator(device).manual_seed(seed)
    windows = WindowSampler(capture, device, largest_side=config.largest_side, side=config.window)
    in_space = isinstance(scene.appearance, InSpace)
    terms, rates = config.losses, config.rates
    rates = rates if in_space else rates.of_second_pass()
    groups = scene.parameter_groups(rates)
    groups += [] if exposure is None else exposure.parameter_groups(rates.material_rate)
    optimizer = Adam(groups, lr=rates.material_rate, betas=rates.other_betas, eps=1e-15)
    fitting = Fitting(scene, optimizer, start.clock, start.observer, generator=generator, parts={"windows": windows, **part_of(exposure)})
    if start.resume is not None:
        fitting.restore(start.resume)
    material_known = isinstance(scene.appearance, KnownMaterial)
    for _ in fitting:
        fraction = start.clock.fraction
        fitting.set_learning_rate(rates.factor(fraction, first=in_space))
        batch = windows.draw(config.windows, generator)
        background = torch.rand(batch.color.shape, generator=generator, device=device)
        scene.gray_light = fraction < light_first
        watching = None if material_known or scene.gray_light else Watching(scene.appearance, generator)
        mesh = scene.shape.mesh()
        rendering = scene.render(mesh, batch.cameras, background, watching or scene.values)
        views = batch.views[:, None, None].expand_as(batch.alpha)
        # As long as all is gray, gains would take the mean color of each photo.
        rendering, of_exposures = exposed(exposure, start.clock, rendering, background, views, learned=not scene.gray_light)
        losses, error = _picture_losses(
            terms, batch, rendering, background, masked=capture.has_masks, mask_l1=terms.first_mask_l1 if in_space else 0.0
        )
        losses |= of_exposures
        if watching is not None:
            losses |= _material_losses(terms, scene, watching, fraction)
        if scene.light_log is not None:
            losses |= {"white_light": terms.white_light * white_balance(scene.light_log.exp())}
        losses |= scene.shape.regularization(terms, fraction)
        fitting.take_step(losses, error=error, counts={"triangles": mesh.faces.shape[0]})
        scene.project()
    result = fitting.result(capture.source_from_world, up=upward_direction(capture), empty=scene.shape.mesh().is_empty)
    found = scene.axes.sentence
    return result if found is None else replace(result, remarks=(*result.remarks, found))


def _picture_losses(
    losses: PbrLosses, batch: WindowBatch, rendering: Rendering, background: Tensor, *, masked: bool, mask_l1: float
) -> tuple[dict[str, Tensor], Tensor]:
    """Return the losses of the pictures, and the mean squared error of their sRGB values.

    Without masks, only the pixels that the surface covers are compared. A channel that is white in a photo may be of any greater radiance.
    """
    counts = batch.counts if masked else batch.counts & (rendering.opacity.detach() > 0.5)
    alpha = batch.alpha[..., None]
    truth = (alpha * batch.color + (1 - alpha) * background).reshape(-1, 3)
    clipped = ((batch.color > _WHITE) & (alpha > _WHITE)).reshape(-1, 3)
    color, weight = rendering.color.reshape(-1, 3), counts.reshape(-1).float()
    color = torch.where(clipped, torch.minimum(color, truth), color)
    inside = alpha.reshape(-1, 1) if losses.within_masks else 1.0
    terms = {"picture": photometric(losses.picture_loss)(color * inside, truth * inside, weight)}
    if masked:
        off = (rendering.opacity - batch.alpha).reshape(-1, 1)
        terms["mask"] = weighted_mean(mask_l1 * off.abs() if mask_l1 > 0 else losses.mask * off.square(), weight)
    with torch.no_grad():
        return terms, mse(srgb_from_linear(color.clamp(0, 1)), srgb_from_linear(truth.clamp(0, 1)), weight)


def _material_losses(losses: PbrLosses, scene: MeshPbrScene, watching: Watching, fraction: float) -> dict[str, Tensor]:
    """Return the terms that prefer smooth materials, or the baked ones."""
    color, gloss = watching.differences()
    if isinstance(scene.appearance, InTextures):
        return {"keep": ramp(losses.keep, fraction) * color, "keep_gloss": ramp(losses.keep_gloss, fraction) * gloss}
    terms = {"smooth": ramp(losses.smooth, fraction) * color, "smooth_gloss": ramp(losses.smooth_gloss, fraction) * gloss}
    weight = ramp(losses.few_colors, fraction)
    if weight > 0 and len(colors := watching.some_colors()) > 0:
        terms["few_colors"] = weight * few_colors(colors, _ONE_COLOR)
    return terms
