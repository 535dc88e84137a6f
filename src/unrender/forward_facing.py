"""Forward-facing captures: how to recognize them, and the space in which their scenes are fitted.

Normalized device coordinates (NDC) map everything in front of a near plane, to infinity, into a cube, evenly in disparity. Notation:
(x, y, z) a point in the axes of a reference camera, +Z forward; s_x, s_y the reciprocal half widths of its view at z = 1; n the depth of
the near plane. A point becomes

    (s_x x / z, s_y y / z, 1 - 2 n / z),

so that z' is -1 at the near plane and 1 at infinity, and a straight ray stays straight.

Source: Mildenhall et al. 2020, "NeRF", appendix C.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.cameras import Cameras, Rays
from unrender.numerics import normalized

_FORWARD = math.radians(20.0)
"""Nine of ten cameras of a forward-facing capture look less far than this from their mean direction."""

_STEEPEST = 1e-3
"""Smallest cosine of a ray to the reference axis; one that turns away further, which no photo of such a capture does, is cut there."""

_FARTHEST = 1.0 - 1e-6
"""Largest share of a ray in NDC, which stands for infinity, whose distance is still finite."""

_ALONG_BORDER = 5
"""Points along each side of a photo by which it is measured; lines are straight in NDC, and lenses bend them little."""


def faces_forward(cameras: Cameras) -> bool:
    """Tell whether several cameras look in nearly one direction, as for forward-facing captures."""
    forward = cameras.world_from_camera[:, :3, 2]
    cosines = forward @ normalized(forward.mean(0))
    return len(cameras) > 2 and float(torch.quantile(cosines, 0.1)) > math.cos(_FORWARD)


@dataclass(frozen=True)
class NdcFrame:
    """The normalized device coordinates of a reference camera."""

    camera_from_world: Float[Tensor, "4 4"]
    scale: Float[Tensor, " 2"]
    """s_x and s_y: twice the focal length over the size of the photo."""
    near: float
    """n, the depth of the near plane."""

    @classmethod
    def of(cls, cameras: Cameras, near: float) -> NdcFrame:
        """Return the frame of the mean camera; the widest photo fills it from -1 to 1.

        Args:
            cameras: of a forward-facing capture.
            near: depth of the near plane, in world units.

        Raises:
            ValueError: ``near`` is not a positive number.
        """
        if not 0 < near < math.inf:
            raise ValueError(f"near is {near}; it must be a positive distance")
        poses = cameras.world_from_camera.float()
        forward = normalized(poses[:, :3, 2].mean(0))
        right = normalized(torch.linalg.cross(poses[:, :3, 1].mean(0), forward))
        pose = torch.eye(4, device=poses.device)
        pose[:3, :3] = torch.stack([right, torch.linalg.cross(forward, right), forward], dim=1)
        pose[:3, 3] = poses[:, :3, 3].mean(0)
        scale = (2 * cameras.intrinsics[:, :2].float() / cameras.sizes.to(poses.device)).amin(0)
        return cls(torch.linalg.inv(pose), scale, near)

    def containing(self, cameras: Cameras) -> NdcFrame:
        """Return the frame whose cube, from -1 to 1, holds all that these cameras see, as a grid needs it."""
        farthest = torch.zeros_like(self.scale)
        for view in range(len(cameras)):
            camera = cameras[view]
            steps = torch.linspace(0.0, 1.0, _ALONG_BORDER, device=self.scale.device)
            sides = [(steps, steps * 0), (steps, steps * 0 + 1), (steps * 0, steps), (steps * 0 + 1, steps)]
            border = torch.cat([torch.stack(side, dim=1) for side in sides]) * torch.tensor([camera.width, camera.height]).to(steps)
            mapped, length = self.rays(camera.rays(torch.zeros(len(border), dtype=torch.int64), border))
            ends = torch.cat([mapped.origins, mapped.origins + length[:, None] * mapped.directions])
            farthest = torch.maximum(farthest, ends[:, :2].abs().amax(0))
        return replace(self, scale=self.scale / farthest)

    def points(self, points: Float[Tensor, "points 3"]) -> Float[Tensor, "points 3"]:
        """Map points of the world, which must lie in front of the reference camera."""
        x, y, z = self._in_camera(points).unbind(1)
        z = z.clamp_min(1e-3 * self.near)
        return torch.stack([self.scale[0] * x / z, self.scale[1] * y / z, 1 - 2 * self.near / z], dim=1)

    def directions(self, points: Float[Tensor, "points 3"], directions: Float[Tensor, "points 3"]) -> Float[Tensor, "points 3"]:
        """Return the unit directions in NDC of rays of the world that pass these points."""
        (x, y, z), (dx, dy, dz) = self._in_camera(points).unbind(1), (directions @ self.camera_from_world[:3, :3].t()).unbind(1)
        along = [self.scale[0] * (dx * z - x * dz), self.scale[1] * (dy * z - y * dz), 2 * self.near * dz]
        return normalized(torch.stack(along, dim=1))

    def rays(self, rays: Rays) -> tuple[Rays, Float[Tensor, " rays"]]:
        """Map rays of the world, from the near plane to infinity.

        Returns:
            Rays with unit directions in NDC, and the lengths at which they reach infinity, z' = 1.
        """
        origins, directions, _ = self._from_near_plane(rays)
        (ox, oy, oz), (dx, dy, dz) = origins.unbind(1), directions.unbind(1)
        begin = torch.stack([self.scale[0] * ox / oz, self.scale[1] * oy / oz, 1 - 2 * self.near / oz], dim=1)
        along = [self.scale[0] * (dx / dz - ox / oz), self.scale[1] * (dy / dz - oy / oz), 2 * self.near / oz]
        direction = torch.stack(along, dim=1)
        length = direction.norm(dim=1)
        return Rays(begin, direction / length[:, None]), length

    def distances(self, rays: Rays, along: Float[Tensor, " rays"]) -> Float[Tensor, " rays"]:
        """Return the distances along rays of the world of points at these lengths along their rays in NDC.

        A point o + t d of a ray that begins on the near plane is at the share t' = t d_z / (o_z + t d_z) of its ray in NDC.
        """
        origins, directions, shift = self._from_near_plane(rays)
        share = (along / self.rays(rays)[1]).clamp(0.0, _FARTHEST)
        return shift + origins[:, 2] / directions[:, 2] * share / (1 - share)

    def _in_camera(self, points: Float[Tensor, "points 3"]) -> Float[Tensor, "points 3"]:
        return points @ self.camera_from_world[:3, :3].t() + self.camera_from_world[:3, 3]

    def _from_near_plane(self, rays: Rays) -> tuple[Float[Tensor, "rays 3"], Float[Tensor, "rays 3"], Float[Tensor, " rays"]]:
        """Return origins on the near plane and directions, in the camera's axes, and how far the origins were moved."""
        origins, directions = self._in_camera(rays.origins), rays.directions @ self.camera_from_world[:3, :3].t()
        directions = torch.cat([directions[:, :2], directions[:, 2:].clamp_min(_STEEPEST)], dim=1)
        shift = (self.near - origins[:, 2]) / directions[:, 2]
        return origins + shift[:, None] * directions, directions, shift
