"""What lies beyond the unit ball, as a multi-sphere image; see :mod:`unrender.ops.rays.multi_sphere`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unrender.cameras import Rays
from unrender.ops.rays.multi_sphere import SphereRays, render_multi_sphere

_SHARE = 0.01
"""Share of the rows whose variation a step measures."""
_STRIDE = 7919
"""A prime, so that the rows of successive steps spread over the layers."""


class MultiSphere(nn.Module):
    """Layers of density and color on spheres around the world.

    Args:
        layers: their number.
        height: rows of a layer, which has twice as many columns.
        unit: of densities, the ratio of their learning rate to that of colors.
        opacity: of all layers together at the start.
    """

    def __init__(self, layers: int, height: int, *, unit: float = 30.0, opacity: float = 0.5) -> None:
        super().__init__()
        self.unit = unit
        self.image = nn.Parameter(torch.zeros(layers, height, 2 * height, 4))
        with torch.no_grad():
            self.image[..., 0] = -torch.log(torch.tensor(1 - opacity)) / unit

    def render(self, rays: Rays, *, arriving: Tensor | None = None, stop: float = 1e-7) -> SphereRays:
        """Render rays behind the light that arrives."""
        return render_multi_sphere(rays, self.image, unit=self.unit, arriving=arriving, stop=stop)

    def regularize(self, step: int, *, density: float, color: float) -> dict[str, Tensor]:
        """Add the gradient of the total variation of some rows of a layer, other ones at each step."""
        layers, height = self.image.shape[:2]
        rows = max(2, min(height, round(_SHARE * layers * height)))
        place = step * _STRIDE % (layers * max(1, height - rows + 1))
        layer, begin = place % layers, place // layers
        if self.image.grad is None:
            self.image.grad = torch.zeros_like(self.image)
        with torch.enable_grad():
            part = self.image.detach()[layer, begin : begin + rows].requires_grad_()
            down = torch.nn.functional.pad(part.diff(dim=0), (0, 0, 0, 0, 0, 1))
            across = part.roll(-1, 1) - part
            lengths = (down.square() + across.square() + 1e-9).sqrt() - 1e-9**0.5
            weights = lengths.new_tensor([density * self.unit, color, color, color])
            total = (lengths * weights).sum() / (rows * 2 * height)
            self.image.grad[layer, begin : begin + rows] += torch.autograd.grad(total, part)[0]
        return {"sphere_variation": total.detach()}
