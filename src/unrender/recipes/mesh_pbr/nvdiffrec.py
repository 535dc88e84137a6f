"""The configurations of nvdiffrec as presets, by the names of its files: ``nvdiffrec-spot``, ``nvdiffrec-nerf-lego``.

Budgets, sizes, limits, weights, learning rates and schedules are theirs. What differs is in docs/recipes.md.

Source: Munkberg et al., Extracting triangular 3D models, materials, and lighting from images, 2022, and the released configurations.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from unrender.recipes.mesh_pbr.config import Cubes, Imaging, Materials, MeshPbrConfig, PbrLosses, Rates, Tetrahedra
from unrender.recipes.settings import HashLevels

_HASH = HashLevels(levels=16, features=2, log2_entries=19, base_resolution=16, finest_resolution=4096)
_RISING = 500
"""Steps over which the smoothness of the material gains its weight."""
_WARM_UP = 100
"""Steps of the second pass over which the learning rates rise."""
_DECAY = 0.0002
"""Learning rates fall by ten to the minus this in each step."""


def _configuration(
    iterations: int = 5_000,
    batch: int = 8,
    *,
    side: int = 512,
    texels: int = 1024,
    cells: int = 64,
    rates: tuple[float, float] = (0.03, 0.003),
    roughness: float = 0.08,
    color: tuple[float, float] = (0.0, 1.0),
    laplacian: float = 1e4,
    laplacian_of: Literal["moves", "positions"] = "moves",
    layers: int = 1,
    light_axes: Literal["world", "camera"] = "world",
    keep_light: bool = False,
) -> MeshPbrConfig:
    """Return a configuration of two passes, with equally many iterations each."""
    first, second = rates
    second *= 10 ** (_DECAY * _WARM_UP)  # their rates begin to fall after they have risen, ours at once
    smooth = (0.0, 0.03, 0.0, _RISING / iterations)
    return MeshPbrConfig(
        steps=2 * iterations,
        shape=Tetrahedra(cells, shape_first=0.0),
        first_share=0.5,
        light_first=0.0,
        faces=10_000_000,  # their meshes are not simplified
        materials=Materials(
            hash=_HASH,
            hidden=(32, 32),
            smallest_base_color=color[0],
            largest_base_color=color[1],
            smallest_roughness=roughness,
            texture_size=texels,
        ),
        imaging=Imaging(layers=layers, light_axes=light_axes),
        losses=PbrLosses(
            picture_loss="logl1",
            within_masks=True,
            mask=1.0,
            sign_changes=(0.2, 0.01, 0.0, 0.25),
            deviation=0.25,
            smooth=smooth,
            smooth_gloss=0.0,
            few_colors=0.0,
            keep_to="neighbors",
            keep=smooth,
            keep_gloss=0.0,
            white_light=0.005,
            laplacian=(laplacian, 0.0, 0.0, 1.0),
            laplacian_of=laplacian_of,
        ),
        rates=Rates(
            position_rate=second,
            distance_rate=first,
            material_rate=first,
            texture_rate=second,
            light_rate=first,
            second_light_rate=0.0 if keep_light else second,
            constant_until=0.0,
            final_rate=10 ** (-_DECAY * iterations),
            first_warm_up=0.0,
            second_warm_up=_WARM_UP / iterations,
            shape_betas=(0.9, 0.999),
            other_betas=(0.9, 0.999),
        ),
        windows=batch,
        window=side,
        largest_side=side,
        light_size=512,
        start_light=0.5,
    )


def _with_cubes(configuration: MeshPbrConfig, cells: int) -> MeshPbrConfig:
    """Return a configuration with FlexiCubes in place of DMTet."""
    return replace(
        configuration,
        shape=Cubes(cells, shape_first=0.0),
        losses=replace(configuration.losses, first_mask_l1=5.0),
        rates=replace(configuration.rates, shape_betas=(0.7, 0.9)),
    )


def _with_mesh(configuration: MeshPbrConfig, iterations: int, rate: float) -> MeshPbrConfig:
    """Return a configuration for a known mesh, which has the second pass alone."""
    rate *= 10 ** (_DECAY * _WARM_UP)
    rates = replace(configuration.rates, texture_rate=rate, light_rate=rate, second_light_rate=None)
    return replace(configuration, steps=iterations, first_share=0.0, lock=("shape",), rates=rates)


def _nerf(
    roughness: float,
    layers: int = 1,
    rates: tuple[float, float] = (0.03, 0.01),
    laplacian_of: Literal["moves", "positions"] = "moves",
    *,
    keep_light: bool = False,
) -> MeshPbrConfig:
    """Return a configuration for a scene of NeRF-synthetic."""
    return _configuration(
        side=800, texels=2048, cells=128, rates=rates, roughness=roughness, laplacian=3e3, laplacian_of=laplacian_of, layers=layers,
        keep_light=keep_light,
    )  # fmt: skip


_BOB = _configuration(1_000, 4, roughness=0.25)
_SPOT = _configuration(roughness=0.1)
CONFIGURATIONS: dict[str, MeshPbrConfig] = {
    "nvdiffrec-bob": _BOB,
    "nvdiffrec-bob-flexi": _with_cubes(_BOB, 48),
    "nvdiffrec-spot": _SPOT,
    "nvdiffrec-spot-fixlight": replace(_SPOT, lock=("light",)),
    "nvdiffrec-spot-metal": _with_mesh(_configuration(texels=512, roughness=0.2), 5_000, 0.01),
    "nvdiffrec-nerd-ehead": _configuration(texels=2048, rates=(0.03, 0.03), color=(0.03, 0.8), light_axes="camera"),
    "nvdiffrec-nerd-gold": _configuration(texels=2048, cells=128, rates=(0.03, 0.01), color=(0.03, 0.8)),
    "nvdiffrec-nerf-chair": _nerf(0.08),
    "nvdiffrec-nerf-drums": _nerf(0.1, layers=4),
    "nvdiffrec-nerf-ficus": _nerf(0.25, layers=8),
    "nvdiffrec-nerf-hotdog": _nerf(0.25, keep_light=True),
    "nvdiffrec-nerf-lego": _nerf(0.25),
    "nvdiffrec-nerf-materials": _nerf(0.1, rates=(0.03, 0.003), laplacian_of="positions", keep_light=True),
    "nvdiffrec-nerf-mic": _nerf(0.25, layers=4),
    "nvdiffrec-nerf-ship": _nerf(0.1, layers=4),
}
