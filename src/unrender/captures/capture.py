"""A capture: posed photos in a normalized world, with the way back to the frame they came in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from unrender.cameras import Cameras
from unrender.color import linear_from_srgb


class CaptureError(ValueError):
    """A capture that cannot be read: one sentence that says what is wrong, in which file or view, and what to do."""


@dataclass(frozen=True)
class Split:
    """Which views are fitted and which are held out, and the rule that decided."""

    train: tuple[int, ...]
    test: tuple[int, ...]
    rule: str
    """One sentence, for example "every 8th view, sorted by file name, is held out"."""


@dataclass(frozen=True)
class Capture:
    """Posed photos of one scene. The world is right-handed, +Z up, and scaled so that the region of interest fills [-1, 1]³."""

    name: str
    images: UInt8[Tensor, "views height width 3"]
    """sRGB, straight alpha (color is not multiplied by the mask)."""
    masks: UInt8[Tensor, "views height width"] | None
    """255 where the object is, 0 where it is not, between on its edge; from the alpha channel or from mask files."""
    cameras: Cameras
    names: tuple[str, ...]
    split: Split
    source_from_world: Float[Tensor, "4 4"]
    """Similarity from the normalized world to the frame the poses came in (float64)."""
    unbounded: bool = False
    """True where the photos show surroundings beyond [-1, 1]³ and no mask separates them."""
    ignored: Bool[Tensor, "views height width"] | None = None
    """True at pixels that say nothing about the scene (something moved there); a fit must not sample them."""
    normals: Float[Tensor, "views height width 3"] | None = None
    """Optional per-view prior: unit surface normals in the world frame, zero where unknown."""
    points: Float[Tensor, "points 3"] | None = None
    """Optional surface points from structure from motion, in the world frame."""
    fingerprint: str = ""
    """Hash of the files read: a run resumes only on the capture it began with."""
    notes: tuple[str, ...] = field(default=())
    """Plain sentences about what the reader did: distortion, normalization, missing masks."""

    @property
    def has_masks(self) -> bool:
        """Whether masks separate the object from what is around it."""
        return self.masks is not None

    def __len__(self) -> int:
        return self.images.shape[0]

    def to(self, device: torch.device | str) -> Capture:
        """The capture with its images, masks, cameras and priors on ``device``; the similarity stays where it is."""

        def moved(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device)

        return replace(
            self,
            images=self.images.to(device),
            masks=moved(self.masks),
            cameras=self.cameras.to(device),
            ignored=moved(self.ignored),
            normals=moved(self.normals),
            points=moved(self.points),
        )

    def colors(
        self, views: Sequence[int] | Int[Tensor, " selected"] | slice = slice(None), *, linear: bool = False
    ) -> Float[Tensor, "selected height width 3"]:
        """The images of some views as float32 in [0, 1], straight alpha: sRGB code values, or light with ``linear``."""
        srgb = self.images[_index(views)].float() / 255
        return linear_from_srgb(srgb) if linear else srgb

    def alphas(self, views: Sequence[int] | Int[Tensor, " selected"] | slice = slice(None)) -> Float[Tensor, "selected height width"]:
        """The masks of some views as float32 in [0, 1]; ones where the capture has no masks."""
        if self.masks is None:
            return torch.ones_like(self.images[_index(views)][..., 0], dtype=torch.float32)
        return self.masks[_index(views)].float() / 255


def _index(views: Sequence[int] | Int[Tensor, " selected"] | slice) -> Tensor | slice:
    return views if isinstance(views, slice) else torch.as_tensor(views, dtype=torch.int64)
