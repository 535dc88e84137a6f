"""Training throughput of ``nerf`` against a hash-grid NeRF in PyTorch alone."""

from __future__ import annotations

import statistics
from itertools import pairwise

import torch
from harness import Row, timed
from torch import nn

from unrender.demo import make_demo_capture
from unrender.ops.encodings import HashGrid
from unrender.recipes import nerf
from unrender.recipes.fitting import Progress
from unrender.recipes.settings import with_budget
from unrender.reference.hash_encoding import hash_encode
from unrender.reference.spherical_harmonics_encoding import spherical_harmonics_encode

_RAYS, _COARSE, _FINE = 1024, 64, 64


def rows(quick: bool) -> list[Row]:
    """Measure network evaluations per second of training.

    Both count samples that pass through the networks forward and backward. Samples that our recipe evaluates without gradients, to
    drop hidden ones, are not counted. The peer takes a step whenever the fit reports, while the fit's clock is stopped, so both run under
    the same load. It uses all threads; a fit gives PyTorch one.
    """
    threads = torch.get_num_threads()
    peer = _EagerNerf()
    peer.step()
    seen: list[Progress] = []
    peer_times: list[float] = []
    steps = 60 if quick else 300

    def observer(progress: Progress) -> None:
        if progress.step >= steps // 2:
            seen.append(progress)
            torch.set_num_threads(threads)
            peer_times.append(timed(peer.step))
            torch.set_num_threads(1)

    config = with_budget(nerf.PRESETS["cpu"], steps=steps)
    nerf.fit(make_demo_capture(views=24, size=128), config, device=torch.get_default_device(), seed=0, observer=observer)
    evaluations = _RAYS * (_COARSE + _COARSE + _FINE)
    rates = [0.5 * (a.counts["samples"] + b.counts["samples"]) * (b.step - a.step) / (b.seconds - a.seconds) for a, b in pairwise(seen)]
    ours = [evaluations / rate for rate in rates]
    return [
        Row(
            name="`nerf` recipe, training, a network evaluation forward and backward (time of 196,608)",
            ours=statistics.median(ours),
            peer=statistics.median(peer_times),
            peer_name="hash-grid NeRF in PyTorch alone, 1,024 rays × (64 + 128) samples",
            items=evaluations,
            spread=(max(ours) - min(ours)) / statistics.median(ours),
        )
    ]


class _EagerNerf(nn.Module):
    """A coarse and a fine pass over one field: 64 stratified samples per ray, then 64 more where the weights are, 64 + 128 evaluations."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.grid = HashGrid(16, 2, 19, 16, 2 ** (5 / 15))
        self.table = nn.Parameter(self.grid.initial_table(generator))
        self.density = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 16))
        self.color = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))
        self.optimizer = torch.optim.Adam(self.parameters(), lr=1e-2)

    def render(self, origins: torch.Tensor, directions: torch.Tensor, distances: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return colors and weights of samples at the given distances along rays."""
        rays, samples = distances.shape
        points = (origins[:, None] + distances[..., None] * directions[:, None]).reshape(-1, 3)
        features = self.density(hash_encode(points.clamp(-1, 1) * 0.5 + 0.5, self.table, self.grid))
        harmonics = spherical_harmonics_encode(directions, 4)[:, None].expand(-1, samples, -1).reshape(-1, 16)
        color = torch.sigmoid(self.color(torch.cat([features, harmonics], dim=-1))).reshape(rays, samples, 3)
        lengths = torch.cat([distances.diff(dim=1), torch.full((rays, 1), 1e-2)], dim=1)
        alpha = 1 - torch.exp(-torch.relu(features[:, 0]).reshape(rays, samples) * lengths)
        light = torch.cumprod(torch.cat([torch.ones(rays, 1), 1 - alpha + 1e-10], dim=1), dim=1)[:, :-1]
        return ((alpha * light)[..., None] * color).sum(1), alpha * light

    def step(self) -> None:
        """Take one training step on random rays and colors."""
        origins = torch.zeros(_RAYS, 3) - torch.tensor([0.0, 0.0, 2.0])
        directions = torch.nn.functional.normalize(torch.randn(_RAYS, 3) * 0.2 + torch.tensor([0.0, 0.0, 1.0]), dim=-1)
        truth = torch.rand(_RAYS, 3)
        coarse = torch.linspace(1, 3, _COARSE) + torch.rand(_RAYS, _COARSE) * 2 / _COARSE
        first, weights = self.render(origins, directions, coarse)
        drawn = torch.multinomial(weights.detach() + 1e-5, _FINE, replacement=True)
        fine = torch.cat([coarse, coarse.gather(1, drawn) + torch.rand(_RAYS, _FINE) * 2 / _COARSE], dim=1).sort(dim=1).values
        second, _ = self.render(origins, directions, fine)
        loss = ((first - truth) ** 2).mean() + ((second - truth) ** 2).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
