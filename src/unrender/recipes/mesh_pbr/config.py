"""Settings of the ``mesh-pbr`` recipe and its presets. Shares and ramps are in fractions of the budget, 0 to 1.

PyTorch is not imported, so that help pages are fast.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from unrender.recipes.clock import check_budget
from unrender.recipes.schedules import Ramp, exponential, warm_up
from unrender.recipes.settings import HashLevels
from unrender.words import OnOff, Photometric

Part: TypeAlias = Literal["shape", "material", "light"]
"""What an image is made of."""


@dataclass(frozen=True)
class Tetrahedra:
    """A signed distance on a lattice of tetrahedra, whose surface is extracted in every step (DMTet)."""

    resolution: int = 64
    """Cells along the longest side of the box of the object."""
    shape_first: float = 0.5
    """Share of the first pass for the shape, with colors that are forgotten: materials and light begin again on its mesh. 0 for none."""

    def __post_init__(self) -> None:
        _check_lattice(self.resolution, self.shape_first)


@dataclass(frozen=True)
class Cubes:
    """A signed distance with weights on a lattice of cubes, whose surface is extracted in every step (FlexiCubes)."""

    resolution: int = 64
    """Cells along the longest side of the box of the object."""
    shape_first: float = 0.5
    """Share of the first pass for the shape, with colors that are forgotten: materials and light begin again on its mesh. 0 for none."""

    def __post_init__(self) -> None:
        _check_lattice(self.resolution, self.shape_first)


@dataclass(frozen=True)
class FittedSurface:
    """The surface of ``neus``, which is fitted first."""

    surface_share: float = 0.5
    """Share of the budget for the surface, with the default settings of ``neus``."""
    density_first: float | None = None
    """Share of that for a radiance field, by default that of ``neus``; 0 begins with the visual hull, which suits polished objects."""
    refine_poses: bool = False
    """Refine the poses of the cameras while the surface is fitted, from coarse to fine (BARF)."""

    def __post_init__(self) -> None:
        if not 0 < self.surface_share < 1:
            raise ValueError(f"surface_share is {self.surface_share}; it is a share of the budget, between 0 and 1")
        if self.density_first is not None and not 0 <= self.density_first < 1:
            raise ValueError(f"density_first is {self.density_first}; it is a share of the surface's budget, from 0 to below 1")


def _check_lattice(resolution: int, shape_first: float) -> None:
    if not 4 <= resolution <= 512:
        raise ValueError(f"resolution is {resolution}; it is a number of cells from 4 to 512")
    if not 0 <= shape_first < 1:
        raise ValueError(f"shape_first is {shape_first}; it is a share of the first pass, from 0 to below 1")


@dataclass(frozen=True)
class Materials:
    """The material: base color, roughness, metallic and normals."""

    hash: HashLevels = HashLevels(levels=8, features=4, log2_entries=16, base_resolution=16, finest_resolution=1024)
    """Hash grid of the material in space, in the first pass."""
    hidden: tuple[int, ...] = (32, 32)
    """Units of the hidden layers of its perceptron."""
    smallest_base_color: float = 0.0
    """Smallest base color, linear."""
    largest_base_color: float = 1.0
    """Largest base color, linear."""
    smallest_roughness: float = 0.08
    """Smallest roughness; a mirror has 0."""
    largest_metallic: float = 1.0
    """Largest metallic; 0 for scenes without metal."""
    texture_size: int = 512
    """Texels along a side of the textures."""

    def __post_init__(self) -> None:
        if not 0 <= self.smallest_base_color < self.largest_base_color <= 1:
            raise ValueError(
                f"base colors reach from {self.smallest_base_color} to {self.largest_base_color}; give 0 to 1, the first the smaller one"
            )
        if not 0 <= self.smallest_roughness < 1 or not 0 <= self.largest_metallic <= 1:
            raise ValueError(
                f"smallest_roughness is {self.smallest_roughness} and largest_metallic {self.largest_metallic}; both are from 0 to 1"
            )
        if not 16 <= self.texture_size <= 8192:
            raise ValueError(f"texture_size is {self.texture_size}; it is a number of texels from 16 to 8192")


@dataclass(frozen=True)
class Imaging:
    """How pictures are made of a scene."""

    samples: int = 1
    """Samples along each side of a pixel."""
    layers: int = 1
    """Surfaces behind each other that are seen in the second pass; with more than one, textures have an opacity."""
    light_axes: Literal["auto", "world", "camera"] = "auto"
    """Whether the light stays with the world, or turns with the camera, as in photos of a turntable; by default, what the photos say."""

    def __post_init__(self) -> None:
        if not 1 <= self.samples <= 8 or not 1 <= self.layers <= 16:
            raise ValueError(f"samples is {self.samples} and layers {self.layers}; give 1 to 8 samples and 1 to 16 layers")


@dataclass(frozen=True)
class PbrLosses:
    """Losses and their weights."""

    picture_loss: Photometric = "logl1"
    """Loss of the colors, in linear light."""
    within_masks: bool = False
    """Compare colors times the mask, instead of colors before a random background."""
    mask: float = 1.0
    """Weight of the squared difference of opacity and mask."""
    first_mask_l1: float = 0.0
    """Weight of the absolute difference of opacity and mask in the first pass, which replaces the squared one; 0 for the latter."""
    sign_changes: Ramp = (0.2, 0.01, 0.0, 0.25)
    """Weight of the cross entropy of neighboring distances of different signs, which removes floaters and inner surfaces."""
    deviation: float = 0.25
    """Weight of the regularizer that keeps the vertices of cubes inside their cells."""
    smooth: Ramp = 0.1
    """Weight of differences of the base color between close points, in the first pass."""
    smooth_gloss: Ramp = 0.03
    """Weight of differences of roughness and metallic between close points, in the first pass."""
    few_colors: Ramp = 0.0005
    """Weight of the entropy of the base colors, in the first pass: what light could explain is not taken for another color."""
    keep_to: Literal["baked", "neighbors"] = "baked"
    """What texels are kept close to in the second pass: those that were baked, or those nearby."""
    keep: Ramp = 0.005
    """Weight of differences of the base color from it."""
    keep_gloss: Ramp = 0.03
    """Weight of differences of roughness and metallic from it."""
    white_light: float = 0.005
    """Weight of the difference of the light's channels from their mean."""
    laplacian: Ramp = 1e4
    """Weight of uneven vertices of a mesh."""
    laplacian_of: Literal["moves", "positions"] = "moves"
    """What is to be even: the moves of the vertices since the beginning of the pass, or their positions."""


@dataclass(frozen=True)
class Rates:
    """Learning rates of Adam."""

    position_rate: float = 3e-4
    """Of vertices, in world units."""
    distance_rate: float = 0.03
    """Of signed distances, in cells."""
    material_rate: float = 0.01
    """Of the material in space."""
    texture_rate: float = 0.01
    """Of texels."""
    light_rate: float = 0.1
    """Of the logarithms of the light's texels."""
    second_light_rate: float | None = None
    """The same in the second pass; 0 keeps the light of the first one. By default the same."""
    constant_until: float = 0.5
    """Share of each pass before the rates begin to fall."""
    final_rate: float = 0.1
    """Rates at the end of each pass, as a share of those at its begin."""
    first_warm_up: float = 0.02
    """Share of the first pass over which the rates rise."""
    second_warm_up: float = 0.02
    """Share of the second pass over which they rise."""
    shape_betas: tuple[float, float] = (0.9, 0.99)
    """Decay of the moments of Adam for the shape."""
    other_betas: tuple[float, float] = (0.9, 0.99)
    """The same for material and light."""

    def factor(self, fraction: float, *, first: bool) -> float:
        """Return the factor of all rates at a fraction of the first or the second pass."""
        over = self.first_warm_up if first else self.second_warm_up
        return exponential(self.final_rate, fraction, after=self.constant_until) * warm_up(fraction, over=over)

    def of_second_pass(self) -> Rates:
        """Return the rates of the second pass, with its light rate as the light rate."""
        return self if self.second_light_rate is None else replace(self, light_rate=self.second_light_rate)


@dataclass(frozen=True)
class MeshPbrConfig:
    """Settings of the ``mesh-pbr`` recipe. Shares are fractions of the budget, 0 to 1."""

    steps: int | None = 4_000
    """Optimizer steps; every schedule spans them. None if ``max_seconds`` alone ends the fit."""
    max_seconds: float | None = None
    """Seconds of training, after which the fit ends even if steps are left; schedules run faster accordingly."""
    lock: tuple[Part, ...] = ()
    """Parts that stay as they are given: shape, material, light. A light that is not given is fitted."""
    shape: Tetrahedra | Cubes | FittedSurface = Cubes()
    first_share: float = 0.7
    """Share of the first pass in what the surface leaves of the budget: shape or materials in space; the rest is for textures."""
    light_first: float = 0.5
    """Share of the first pass in which the material stays gray: the light then explains what shading it can."""
    faces: int = 20_000
    """Largest number of triangles of the textured mesh."""
    materials: Materials = Materials()
    imaging: Imaging = Imaging()
    losses: PbrLosses = PbrLosses()
    rates: Rates = Rates()
    windows: int = 1
    """Windows of photos in a step."""
    window: int = 256
    """Side of a window in pixels."""
    largest_side: int = 512
    """Photos are averaged over blocks of pixels until they are at most this large."""
    light_size: int = 32
    """Texels along an edge of the cube map of the light."""
    exposure: OnOff = "off"
    """Whether exposure and white balance of each photo are unknowns too."""
    start_light: float | None = None
    """Radiance of the light at first, the same from everywhere; by default, that under which base colors are about 0.5."""

    def __post_init__(self) -> None:
        check_budget(self.steps, self.max_seconds)
        if not 0 <= self.first_share < 1:
            raise ValueError(f"first_share is {self.first_share}; it is a share of the budget, from 0 to below 1")
        if not 0 <= self.light_first < 1:
            raise ValueError(f"light_first is {self.light_first}; it is a share of the first pass, from 0 to below 1")
        for name in ("faces", "windows", "window", "largest_side", "light_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")


_CPU = MeshPbrConfig()

PRESETS: dict[str, MeshPbrConfig] = {"cpu": _CPU, "gpu": replace(_CPU, windows=4, light_size=128)}
MATERIAL_PRESETS: dict[str, MeshPbrConfig] = {
    name: replace(preset, lock=("shape", "light"), steps=2_000) for name, preset in PRESETS.items()
}
LIGHT_PRESETS: dict[str, MeshPbrConfig] = {
    # A known material leaves nothing to balance against the color of the light.
    name: replace(preset, lock=("shape", "material"), steps=1_000, losses=replace(preset.losses, white_light=0.0))
    for name, preset in PRESETS.items()
}
ASSET_PRESETS: dict[str, MeshPbrConfig] = {name: replace(preset, shape=FittedSurface()) for name, preset in PRESETS.items()}
SHAPES: dict[str, Tetrahedra | Cubes | FittedSurface] = {"cubes": Cubes(), "tets": Tetrahedra(), "neus": FittedSurface()}
"""The shapes by name, for the option ``--shape``."""

WITHOUT_SHAPE = (
    *("shape", "first_mask_l1", "sign_changes", "deviation", "laplacian", "laplacian_of", "position_rate", "distance_rate", "shape_betas"),
)
"""Settings, and a bundle, that do nothing where the shape is locked."""
WITHOUT_MATERIAL = (
    *WITHOUT_SHAPE,
    *("first_share", "light_first", "faces", "materials", "layers", "mask", "smooth", "smooth_gloss", "few_colors"),
    *("keep_to", "keep", "keep_gloss", "texture_rate", "first_warm_up"),
)
"""Those that do nothing where the material is locked too."""
