"""Where the report looks at a surface from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.captures.capture import Capture
from unrender.numerics import normalized

ELEVATION = 20.0
"""Height above the horizon of every viewer, in degrees."""

_ONE_SIDED = 0.35
"""Cameras whose mean direction has a longer horizontal part than this look at one side of the scene; it is zero for a full circle."""


@dataclass(frozen=True)
class Viewpoint:
    """Where a page looks at a scene from at first."""

    up: Float[Tensor, " 3"]
    """Unit vector that points up in the picture."""
    front: Float[Tensor, " 3"]
    """Unit vector from the scene towards the viewer, perpendicular to ``up``."""

    @classmethod
    def along(cls, up: Float[Tensor, " 3"], towards: Float[Tensor, " 3"]) -> Viewpoint:
        """Return the viewpoint with the part of ``towards`` that is perpendicular to ``up``.

        >>> Viewpoint.along(torch.tensor([0.0, 0.0, 2.0]), torch.tensor([3.0, 0.0, 1.0])).front.tolist()
        [1.0, 0.0, 0.0]
        """
        up = normalized(up.detach().double().cpu())
        front = towards.detach().double().cpu()
        front = front - up * torch.dot(front, up)
        if float(front.norm()) < 1e-6:  # seen from straight above: any direction will do
            front = torch.eye(3, dtype=torch.float64)[up.abs().argmin()]
            front = front - up * torch.dot(front, up)
        return cls(up.float(), normalized(front).float())

    @property
    def page_from_world(self) -> Float[Tensor, "3 3"]:
        """Rotation to the axes of the page: +X right, +Y up, +Z towards the viewer."""
        return torch.stack([torch.linalg.cross(self.up, self.front), self.up, self.front])

    def direction(self, azimuth: float, elevation: float) -> Float[Tensor, " 3"]:
        """Return the unit vector towards a viewer.

        Args:
            azimuth: to the right of ``front``, degrees.
            elevation: above the horizon, degrees.
        """
        a, e = math.radians(azimuth), math.radians(elevation)
        page = torch.tensor([math.cos(e) * math.sin(a), math.sin(e), math.cos(e) * math.cos(a)], dtype=torch.float32)
        return self.page_from_world.T @ page


UPRIGHT = Viewpoint(torch.tensor([0.0, 0.0, 1.0]), torch.tensor([1.0, 0.0, 0.0]))
"""+Z is up, seen from +X."""

WITHOUT_PHOTOS = (UPRIGHT, (20.0, 200.0))
"""Where to look at a surface from that no photos show, and the azimuths of two pictures of it, in degrees."""


def viewpoint_of(capture: Capture, up: tuple[float, float, float]) -> tuple[Viewpoint, tuple[float, float]]:
    """Return where to look at the surface of a capture from, and the azimuths of two pictures of it.

    If all photos show one side, the viewer stands in their middle and both pictures show that side. Otherwise the viewer stands where the
    first picture of the report was taken.

    Args:
        capture: in its normalized world.
        up: upward direction there.
    """
    upward = torch.tensor(up)
    directions = normalized(capture.cameras.to("cpu").positions.float())
    middle = directions.mean(0)
    level = middle - upward * torch.dot(middle, upward) / upward.square().sum()
    if float(level.norm()) > _ONE_SIDED:
        return Viewpoint.along(upward, middle), (-25.0, 25.0)
    return Viewpoint.along(upward, directions[(capture.split.test or capture.split.train)[0]]), (20.0, 200.0)
