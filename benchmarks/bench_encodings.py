"""Encodings against plain PyTorch: the twins, and for the hash encoding also a weighted ``embedding_bag`` per level."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from harness import Row, compare
from torch import Tensor

from unrender.ops.encodings import HashGrid, frequency_encode, hash_encode, spherical_harmonics_encode
from unrender.reference import frequency_encoding as frequency_twin
from unrender.reference import hash_encoding as hash_twin
from unrender.reference import spherical_harmonics_encoding as harmonics_twin


def embedding_bag_encode(positions: Tensor, table: Tensor, grid: HashGrid) -> Tensor:
    """Interpolate linearly with one weighted ``embedding_bag`` over eight rows per level."""
    corners = torch.tensor([[c & 1, c >> 1 & 1, c >> 2] for c in range(8)], device=positions.device)
    sizes = [end - start for start, end in zip(grid.offsets, grid.offsets[1:], strict=False)]
    columns = []
    for level, level_table in enumerate(table.split(sizes)):
        place = positions * grid.scales[level] + 0.5
        cell = place.floor()
        upper = (place - cell)[:, None, :]
        x_share, y_share, z_share = torch.where(corners == 1, upper, 1.0 - upper).unbind(-1)
        x, y, z = (cell.long()[:, None, :] + corners).unbind(-1)
        resolution, entries = grid.resolutions[level], sizes[level]
        if resolution**3 <= entries:
            index = (x + resolution * (y + resolution * z)) % entries
        else:
            index = (x ^ y * 2654435761 ^ z * 805459861) % entries
        columns.append(F.embedding_bag(index, level_table, mode="sum", per_sample_weights=x_share * y_share * z_share))
    return torch.cat(columns, dim=1)


def rows(quick: bool) -> list[Row]:
    """Measure each encoding, forward and backward."""
    points, repeats = (2**14, 3) if quick else (2**17, 7)
    generator, device = torch.Generator("cpu").manual_seed(0), torch.get_default_device()
    grid = HashGrid()
    positions = torch.rand(points, 3, generator=generator, device="cpu").to(device)
    table = grid.initial_table(generator, device).requires_grad_()
    cotangent = torch.randn(grid.columns, points, device=device).T
    title = f"hash encoding 16 x 2, 2^19 entries, {points} random points"

    def forward(encode):
        with torch.no_grad():
            encode(positions, table, grid)

    def backward(encode):
        torch.autograd.grad(encode(positions, table, grid), table, cotangent)

    def second_order(encode):
        x = positions.detach().requires_grad_()
        (normal,) = torch.autograd.grad(encode(x, table, grid), x, cotangent, create_graph=True)
        torch.autograd.grad(normal.square().sum(), table)

    results = []
    for name, work in (("forward", forward), ("forward + backward to the table", backward)):
        for peer_name, peer in (("PyTorch twin", hash_twin.hash_encode), ("PyTorch embedding_bag", embedding_bag_encode)):
            ours, theirs = (lambda work=work: work(hash_encode)), (lambda work=work, peer=peer: work(peer))
            results.append(compare(f"{title}, {name}", ours, theirs, peer_name=peer_name, items=points, repeats=repeats))
    results.append(
        compare(
            f"{title}, loss on its gradient: forward, gradient, gradient of that to the table",
            lambda: second_order(hash_encode),
            lambda: second_order(hash_twin.hash_encode),
            peer_name="PyTorch twin",
            items=points,
            repeats=min(repeats, 3),
        )
    )

    directions = F.normalize(torch.randn(points, 3, device=device), dim=-1)
    for name, inputs, ours, twin in (
        ("frequency encoding, 10 octaves", positions, lambda x: frequency_encode(x, 10), lambda x: frequency_twin.frequency_encode(x, 10)),
        (
            "spherical harmonics, 4 bands",
            directions,
            lambda x: spherical_harmonics_encode(x, 4),
            lambda x: harmonics_twin.spherical_harmonics_encode(x, 4),
        ),
    ):
        weights = torch.randn(ours(inputs).shape[1], points, device=device).T

        def both(encode, inputs=inputs, weights=weights):
            x = inputs.detach().requires_grad_()
            torch.autograd.grad(encode(x), x, weights)

        results.append(
            compare(
                f"{name}, {points} points, forward + backward",
                lambda both=both, ours=ours: both(ours),
                lambda both=both, twin=twin: both(twin),
                peer_name="PyTorch twin",
                items=points,
                repeats=repeats,
            )
        )
    return results
