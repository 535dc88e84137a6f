"""Samples drawn by proposal networks, and their loss (Barron et al. 2022, "Mip-NeRF 360", sections 3 and 4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unrender.compat.nerfacc.data_specs import RayIntervals
from unrender.compat.nerfacc.pdf import importance_sampling, searchsorted
from unrender.compat.nerfacc.volrend import render_transmittance_from_density
from unrender.words import suggestion

_SPACINGS = ("uniform", "lindisp")
_EPSILON = 1e-7
"""Added to weights that divide: without it, empty intervals give 0 / 0."""


class PropNetEstimator(nn.Module):
    """Draws samples by networks that predict where weights are, from coarse to fine, and fits these networks."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer | None = None,
        scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    ) -> None:
        """Keep the optimizer of the proposal networks.

        Args:
            optimizer: of the parameters of all proposal networks, needed for fitting.
            scheduler: of its learning rate.
        """
        super().__init__()
        self.optimizer, self.scheduler = optimizer, scheduler
        self.prop_cache: list[tuple[RayIntervals, Tensor | None]] = []

    @torch.no_grad()
    def sampling(
        self,
        prop_sigma_fns: Sequence[Callable[..., Tensor]],
        prop_samples: Sequence[int],
        num_samples: int,
        n_rays: int,
        near_plane: float,
        far_plane: float,
        sampling_type: str = "lindisp",
        stratified: bool = False,
        requires_grad: bool = False,
    ) -> tuple[Float[Tensor, "rays samples"], Float[Tensor, "rays samples"]]:
        """Draw samples by one proposal network after the other.

        Args:
            prop_sigma_fns: density of ``(t_starts, t_ends)``, of each network.
            prop_samples: number of samples for each network.
            num_samples: number of samples returned.
            n_rays: number of rays.
            near_plane: where samples begin.
            far_plane: where they end.
            sampling_type: whether the first samples are equally spaced in distance ("uniform") or in its inverse ("lindisp").
            stratified: whether to draw at random.
            requires_grad: whether to keep what :meth:`compute_loss` needs.

        Returns:
            where each interval begins and ends.

        Raises:
            ValueError: there is not one number of samples for each network, or the sampling type is unknown.
        """
        if len(prop_sigma_fns) != len(prop_samples):
            raise ValueError(
                f"sampling takes one of prop_samples for each of {len(prop_sigma_fns)} prop_sigma_fns, got {len(prop_samples)}"
            )
        device = _device_of(self.optimizer)
        heights = torch.tensor([0.0, 1.0], device=device).expand(n_rays, 2).contiguous()
        intervals = RayIntervals(heights)
        for density_of, count in zip(prop_sigma_fns, prop_samples, strict=True):
            intervals, _ = importance_sampling(intervals, heights, count, stratified)
            starts, ends = _distances(sampling_type, intervals.vals, near_plane, far_plane)
            with torch.set_grad_enabled(requires_grad):
                heights = _reached(render_transmittance_from_density(starts, ends, density_of(starts, ends))[0])
            if requires_grad:
                self.prop_cache.append((intervals, heights))
        intervals, _ = importance_sampling(intervals, heights.detach(), num_samples, stratified)
        if requires_grad:
            self.prop_cache.append((intervals, None))
        return _distances(sampling_type, intervals.vals, near_plane, far_plane)

    def compute_loss(self, trans: Float[Tensor, "rays samples"], loss_scaler: float = 1.0) -> Float[Tensor, ""]:
        """Compute how much weight of the final samples the proposals miss.

        The mean of max(0, w - bound)² / w, as in the source, with the weight that a proposal has around a sample as its bound.

        Args:
            trans: transmittance in front of each final sample; no gradient flows to it.
            loss_scaler: factor on the loss.
        """
        if not self.prop_cache:
            return torch.zeros((), device=trans.device)
        intervals, _ = self.prop_cache.pop()
        weights = _reached(trans.detach()).diff(dim=-1)
        losses = []
        while self.prop_cache:
            proposed, heights = self.prop_cache.pop()
            assert heights is not None
            left, right = searchsorted(proposed, intervals)
            bound = heights.gather(-1, right[..., 1:]) - heights.gather(-1, left[..., :-1])
            losses.append(((weights - bound).clamp_min(0.0).square() / (weights + _EPSILON)).mean())
        return torch.stack(losses).sum() * loss_scaler if losses else torch.zeros((), device=trans.device)

    @torch.enable_grad()
    def update_every_n_steps(self, trans: Float[Tensor, "rays samples"], requires_grad: bool = False, loss_scaler: float = 1.0) -> float:
        """Make a step of the proposal networks if ``requires_grad``, and one of the schedule; return the loss.

        Raises:
            ValueError: there is no optimizer.
        """
        loss = 0.0
        if requires_grad:
            if self.optimizer is None:
                raise ValueError("PropNetEstimator takes an optimizer of the proposal networks for fitting, got None")
            found = self.compute_loss(trans, loss_scaler)
            self.optimizer.zero_grad()
            if found.requires_grad:
                found.backward()
                self.optimizer.step()
            loss = found.item()
        if self.scheduler is not None:
            self.scheduler.step()
        return loss


def get_proposal_requires_grad_fn(target: float = 5.0, num_steps: int = 1000) -> Callable[[int], bool]:
    """Return a function of the step that tells when to fit the proposal networks.

    At every step at first; from ``num_steps`` on about once in ``target`` steps.
    """
    since = [0]

    def requires_grad(step: int) -> bool:
        due = since[0] > min(step / num_steps, 1.0) * target
        since[0] = 1 if due else since[0] + 1
        return due

    return requires_grad


def _device_of(optimizer: torch.optim.Optimizer | None) -> torch.device:
    """Return the device of the networks, else PyTorch's default."""
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"]) if optimizer else iter(())
    first = next(parameters, None)
    return torch.get_default_device() if first is None else first.device


def _reached(transmittance: Tensor) -> Tensor:
    """Return the opacity at each edge, from the transmittance in front of each sample; one at the last edge."""
    return 1.0 - torch.cat([transmittance, torch.zeros_like(transmittance[..., :1])], dim=-1)


def _distances(spacing: str, places: Tensor, near: float, far: float) -> tuple[Tensor, Tensor]:
    """Return where intervals begin and end, from edges in [0, 1]."""
    if spacing not in _SPACINGS:
        raise ValueError(f"sampling takes 'uniform' or 'lindisp' as sampling_type, got {spacing!r}: {suggestion(str(spacing), _SPACINGS)}")
    edges = near + places * (far - near) if spacing == "uniform" else 1.0 / (places / far + (1.0 - places) / near)
    return edges[..., :-1], edges[..., 1:]
