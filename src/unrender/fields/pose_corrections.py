"""Corrections of camera poses as unknowns of a fit, besides its scene (Lin et al. 2021, BARF).

The pose of view v is T_v = exp(ξ_v^) T_v⁰, with T_v⁰ the pose before the fit and ξ_v a twist of :func:`~unrender.transforms.rigid_motion`.
What is fitted are the coordinates r_v of ξ_v = B_v r_v in a basis of motions that change a picture in different ways, so that Adam, which
scales each coordinate by itself, need not follow a narrow valley between them:

- three turns of the camera about itself, which shift and turn the picture,
- two turns about the point straight ahead at the distance of the origin, which show the object from another side at the same place,
- one move along the viewing direction in shares of that distance, which scales the picture.

Photos determine cameras up to a similarity, with which the scene moves too: equal twists turn and move the world, and ξ_v = (s p_v, 0) at
the positions p_v scales it. These seven directions are projected out of the twists (v_v, ω_v) of the fitted views,

    ω_v ← ω_v − ω̄,    v_v ← v_v − v̄ − s (p_v − p̄),    s = Σ (p_v − p̄)·v_v / Σ |p_v − p̄|²,

so that the cameras as a whole, and the scene with them, stay where they began.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unrender.cameras import Cameras
from unrender.numerics import SMALLEST_LENGTH
from unrender.transforms import rigid_motion

_NEAREST = 0.5
"""Smallest distance of the point about which a camera is turned, in world units: a camera may stand at the origin."""

_AROUND = 0.4
"""Scale of the last three motions: they change a picture less than a turn of the camera, and Adam moves all coordinates alike."""


class PoseCorrections(nn.Module):
    """The poses of the views of a capture, of which some are unknown.

    >>> from unrender.transforms import look_at
    >>> places = torch.tensor([[2.0, 0.0, 0.0], [-2.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    >>> poses = look_at(places, torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]))
    >>> corrections = PoseCorrections(poses, fitted=(0, 1), held_out=(2,))
    >>> bool((corrections.poses() - poses).abs().max() < 1e-6)
    True
    """

    start: Tensor
    """``world_from_camera`` of all views before the fit."""
    fitted: Tensor
    """The views that determine the scene, by their index into all."""
    held_out: Tensor
    """The views that have no effect on the scene, by their index into all."""
    basis: Tensor
    """The six motions of each view; see the module's text."""

    def __init__(self, start: Float[Tensor, "views 4 4"], fitted: tuple[int, ...], held_out: tuple[int, ...]) -> None:
        """Begin without corrections.

        Args:
            start: ``world_from_camera`` of all views of the capture.
            fitted: the views that determine the scene, by their index into all.
            held_out: the views that have no effect on it.
        """
        super().__init__()
        self.motions = nn.Parameter(torch.zeros(len(fitted), 6))
        self.held_out_motions = nn.Parameter(torch.zeros(len(held_out), 6))
        self.register_buffer("start", start.float().clone())
        self.register_buffer("fitted", torch.tensor(fitted, dtype=torch.int64))
        self.register_buffer("held_out", torch.tensor(held_out, dtype=torch.int64))
        self.register_buffer("basis", basis_of(self.start), persistent=False)

    @classmethod
    def like(cls, state: dict[str, Tensor], prefix: str) -> PoseCorrections | None:
        """Return corrections of the sizes of a saved state; None for a state without any."""
        if f"{prefix}start" not in state:
            return None
        start, fitted, held_out = (state[f"{prefix}{name}"] for name in ("start", "fitted", "held_out"))
        return cls(start, tuple(fitted.tolist()), tuple(held_out.tolist()))

    def twists(self) -> Float[Tensor, "fitted 6"]:
        """Return the twists of the fitted views, without a similarity of the whole."""
        start = self.start[self.fitted]
        twists = (self.basis[self.fitted] @ self.motions[:, :, None])[:, :, 0]
        twists = twists - twists.mean(0)
        places = start[:, :3, 3]
        places = places - places.mean(0)
        scale = (places * twists[:, :3]).sum() / places.square().sum().clamp_min(SMALLEST_LENGTH)
        return torch.cat([twists[:, :3] - scale * places, twists[:, 3:]], 1)

    def fitted_poses(self) -> Float[Tensor, "views 4 4"]:
        """Return ``world_from_camera`` of all views, differentiable in the motions of the fitted ones, with the others as they began."""
        return self.start.index_copy(0, self.fitted, rigid_motion(self.twists()) @ self.start[self.fitted])

    def held_out_poses(self) -> Float[Tensor, "views 4 4"]:
        """Return ``world_from_camera`` of all views, differentiable in the motions of those held out, with the others as they began."""
        start = self.start[self.held_out]
        twists = (self.basis[self.held_out] @ self.held_out_motions[:, :, None])[:, :, 0]
        return self.start.index_copy(0, self.held_out, rigid_motion(twists) @ start)

    @torch.no_grad()
    def poses(self) -> Float[Tensor, "views 4 4"]:
        """Return the corrected ``world_from_camera`` of all views."""
        return self.fitted_poses().index_copy(0, self.held_out, self.held_out_poses()[self.held_out])

    def corrected(self, cameras: Cameras) -> Cameras:
        """Return cameras at the corrected poses, on the device of the given ones."""
        return replace(cameras, world_from_camera=self.poses().to(cameras.world_from_camera))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return a group for the fitted views and one for those held out."""
        return [{"params": [motions], "lr": 0.0, "weight_decay": 0.0} for motions in (self.motions, self.held_out_motions)]


def basis_of(poses: Float[Tensor, "views 4 4"]) -> Float[Tensor, "views 6 6"]:
    """Return the six motions of each camera as columns of twists; see the module's text."""
    axes, places = poses[:, :3, :3].unbind(2), poses[:, :3, 3]
    forward = axes[2]
    distance = places.norm(dim=1, keepdim=True).clamp_min(_NEAREST)
    pivot = places + distance * forward

    def turn(axis: Tensor, about: Tensor) -> Tensor:
        return torch.cat([torch.linalg.cross(about, axis), axis], 1)

    turns = [turn(axis, places) for axis in axes]
    around = [_AROUND * turn(axis, pivot) for axis in axes[:2]]
    along = _AROUND * torch.cat([distance * forward, torch.zeros_like(forward)], 1)
    return torch.stack([*turns, *around, along], 2)
