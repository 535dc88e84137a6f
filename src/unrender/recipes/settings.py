"""Settings that recipes share, bundled by use. Shares are fractions of the budget, 0 to 1.

PyTorch is imported by the methods that build something, so that help pages are fast.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from unrender.recipes.clock import check_budget
from unrender.words import Background

if TYPE_CHECKING:
    from unrender.ops.encodings import Adam, HashGrid

C = TypeVar("C")


@dataclass(frozen=True)
class Sampling:
    """The rays and samples of a step."""

    samples_per_ray: int = 1024
    """Steps along the diagonal of the cube."""
    prune: bool = True
    """Drop invisible samples, after evaluating the field without gradients."""
    target_samples: int = 2**18
    """Target number of samples of a step; the number of rays adapts to it."""
    start_rays: int = 256
    """Rays of the first step."""
    max_rays: int = 8192
    """Largest number of rays of a step."""
    occupancy_resolution: int = 128
    """Cells along an axis of the occupancy grid."""
    occupancy_threshold: float = 0.01
    """A cell is empty if the opacity of one step through it is below this."""
    occupancy_every: int = 16
    """Steps between two updates of the occupancy grid."""
    background: Background = "random"
    """Background while fitting; a random color per ray forces the opacity to be right."""
    downscale_first: int = 1
    """The fit begins on photos averaged over blocks of this many pixels squared."""
    downscale_until: float = 0.1
    """Share of the budget for which ``downscale_first`` holds."""

    def __post_init__(self) -> None:
        at_least_one = ("samples_per_ray", "target_samples", "start_rays", "max_rays", "occupancy_every", "downscale_first")
        for name in at_least_one:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")


@dataclass(frozen=True)
class HashLevels:
    """The levels of a hash grid."""

    levels: int = 16
    """Levels of the grid."""
    features: int = 2
    """Features per entry: 1, 2, 4 or 8."""
    log2_entries: int = 19
    """Base-2 logarithm of the number of entries of the largest level."""
    base_resolution: int = 16
    """Cells along an axis of the coarsest level."""
    finest_resolution: int = 4096
    """Cells along an axis of the finest level."""

    def __post_init__(self) -> None:
        if self.finest_resolution <= self.base_resolution:
            raise ValueError(f"finest_resolution is {self.finest_resolution}; it must exceed base_resolution {self.base_resolution}")

    def grid(self) -> HashGrid:
        """Return the hash grid of these levels."""
        from unrender.ops.encodings import HashGrid

        return HashGrid.spanning(**dataclasses.asdict(self))


@dataclass(frozen=True)
class AdamSettings:
    """Adam with betas 0.9 and 0.99 and epsilon 1e-15."""

    learning_rate: float = 1e-2
    """Peak learning rate."""
    warm_up: float = 0.005
    """Share of the budget over which the learning rate rises from a hundredth of its peak."""
    weight_decay: float = 0.0
    """Decoupled weight decay of the perceptrons (AdamW)."""

    def optimizer(self, groups: list[dict[str, Any]]) -> Adam:
        """Return Adam over groups that name their own rates and decays, as the fields give them."""
        from unrender.ops.encodings import Adam

        return Adam(groups, lr=self.learning_rate, betas=(0.9, 0.99), eps=1e-15)


def with_budget(config: C, *, steps: int | None = None, max_seconds: float | None = None) -> C:
    """Return a configuration with another budget; one given alone replaces both of the configuration's.

    Args:
        config: of any recipe, with ``steps`` and ``max_seconds``.
        steps: optimizer steps.
        max_seconds: seconds of training.

    Raises:
        ValueError: see :func:`unrender.recipes.clock.check_budget`.
    """
    if steps is None and max_seconds is None:
        return config
    check_budget(steps, max_seconds)
    changes: dict[str, Any] = {"steps": steps, "max_seconds": None if max_seconds is None else float(max_seconds)}
    return dataclasses.replace(config, **changes)  # pyright: ignore[reportArgumentType]  every config is a dataclass


def override(config: C, **values: Any) -> C:
    """Return a configuration with settings replaced by name, in whichever bundle they are.

    >>> override(Sampling(), max_rays=512).max_rays
    512

    Raises:
        ValueError: for a name that no bundle has, or that several have.
    """
    own = {name: value for name, value in values.items() if name in _names(config)}
    bundles = {name: own.get(name, getattr(config, name)) for name in _names(config)}
    bundles = {name: bundle for name, bundle in bundles.items() if dataclasses.is_dataclass(bundle)}
    inner: dict[str, dict[str, Any]] = {}
    for name in values.keys() - own.keys():
        homes = [home for home, bundle in bundles.items() if _has(bundle, name)]
        if len(homes) != 1:
            where = "in several bundles of" if homes else "not in"
            raise ValueError(f"{name} is {where} {type(config).__name__}; name a setting that is there once")
        inner.setdefault(homes[0], {})[name] = values[name]
    changes = own | {home: override(bundles[home], **parts) for home, parts in inner.items()}
    return dataclasses.replace(config, **changes)  # pyright: ignore[reportArgumentType]  every config is a dataclass


def _names(config: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(config)]


def _has(bundle: Any, name: str) -> bool:
    """Tell whether a bundle, or a bundle inside it, has a setting."""
    inner = [getattr(bundle, field) for field in _names(bundle)]
    return name in _names(bundle) or any(_has(value, name) for value in inner if dataclasses.is_dataclass(value))
