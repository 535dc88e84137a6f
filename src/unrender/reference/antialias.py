"""Antialiasing of silhouettes in plain PyTorch: the twin of :mod:`unrender.ops.raster.antialias`, in any floating type.

All pairs of neighboring pixels are processed together. The edge of the mesh between the two is found without derivatives. Its crossing of
the line through both centers is then computed again from its two corners, with automatic differentiation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unrender.ops.raster import Raster, Topology

_MOST_STEPS = 64
"""Largest number of edges that a walk crosses, as in the kernel."""

_FARTHEST_BACK = 3.0
"""Pixels behind its start at which a walk that has turned back ends, as in the kernel."""


@dataclass(frozen=True)
class _Pairs:
    """Pairs of neighboring pixels, the second to the right of or below the first, and from which of them the walk starts."""

    view: Int[Tensor, " pairs"]
    column: Int[Tensor, " pairs"]
    row: Int[Tensor, " pairs"]
    down: Bool[Tensor, " pairs"]
    from_second: Bool[Tensor, " pairs"]

    def __getitem__(self, chosen: Tensor) -> _Pairs:
        return _Pairs(self.view[chosen], self.column[chosen], self.row[chosen], self.down[chosen], self.from_second[chosen])

    @property
    def second(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.view, self.row + self.down.long(), self.column + (~self.down).long()

    @property
    def first(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.view, self.row, self.column


class _Mesh(NamedTuple):
    positions: Float[Tensor, "views vertices 4"]
    faces: Int[Tensor, "faces 3"]
    across: Int[Tensor, "faces 3"]
    height: int
    width: int

    def local(self, vertex: Int[Tensor, " pairs"], pairs: _Pairs) -> tuple[Tensor, Tensor, Tensor]:
        """Return (s, t, w) of a vertex.

        It lies s / w pixels along the line from the walk's start to the other center, and t / w across it.
        """
        corner = self.positions[pairs.view, vertex]
        column = pairs.column + (pairs.from_second & ~pairs.down)
        row = pairs.row + (pairs.from_second & pairs.down)
        x = corner[:, 0] * (self.width / 2) + corner[:, 3] * (self.width / 2 - 0.5 - column)
        y = corner[:, 1] * (self.height / 2) + corner[:, 3] * (self.height / 2 - 0.5 - row)
        s, t = torch.where(pairs.down, y, x), torch.where(pairs.down, x, y)
        return torch.where(pairs.from_second, -s, s), t, corner[:, 3]

    def ends(self, edge: Int[Tensor, " pairs"]) -> tuple[Tensor, Tensor]:
        return self.faces[edge // 3, edge % 3], self.faces[edge // 3, (edge + 1) % 3]

    def third(self, edge: Int[Tensor, " pairs"]) -> Tensor:
        return self.faces[edge // 3, (edge + 2) % 3]

    def crossing(self, edge: Int[Tensor, " pairs"], pairs: _Pairs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return (S, W, straddles, steep); the line through the centers meets the edge at S / W.

        With t > 0 at one end and t ≤ 0 at the other, the point t_a b − t_b a has t = 0 and lies on the edge.
        """
        a, b = (self.local(vertex, pairs) for vertex in self.ends(edge))
        swap = b[1] > a[1]
        sign = torch.where(swap, -1.0, 1.0).to(a[0].dtype)
        along = sign * (a[1] * b[0] - b[1] * a[0])
        w = sign * (a[1] * b[2] - b[1] * a[2])
        va, vb = (self.positions[pairs.view, vertex] for vertex in self.ends(edge))
        x = ((va[:, 0] * vb[:, 3] - vb[:, 0] * va[:, 3]) * self.width).abs()
        y = ((va[:, 1] * vb[:, 3] - vb[:, 1] * va[:, 3]) * self.height).abs()
        return along, w, (a[1] > 0) != (b[1] > 0), torch.where(pairs.down, x > y, y >= x)


def antialias(
    color: Float[Tensor, "views height width channels"],
    raster: Raster,
    clip_positions: Float[Tensor, "views vertices 4"] | Float[Tensor, "vertices 4"],
    faces: Int[Tensor, "faces 3"],
    topology: Topology | None = None,
    *,
    rule: Literal["walk", "owner"] = "walk",
    position_gradient_scale: float = 1.0,
) -> Float[Tensor, "views height width channels"]:
    """Blend neighboring pixels across a silhouette.

    If it crosses at the distance d from the first center, the first pixel keeps ½ + d of its color if d < ½, and otherwise the second keeps
    3/2 − d of its own; the rest is the other's.
    """
    views, height, width, _ = color.shape
    positions = clip_positions if clip_positions.ndim == 3 else clip_positions[None].expand(views, -1, -1)
    across = (edge_topology(faces) if topology is None else topology).across.long()
    mesh = _Mesh(positions, faces.long(), across, height, width)
    constant = mesh._replace(positions=positions.detach())
    pairs, edge = (_walk_all if rule == "walk" else _owner_edges)(constant, raster)
    along, w, _, _ = mesh.crossing(edge, pairs)
    distance = along / w
    if position_gradient_scale != 1.0:
        distance = distance.detach() + position_gradient_scale * (distance - distance.detach())
    if rule == "owner":
        distance = _published_derivative(distance, constant, edge, pairs)
    distance = distance.clamp(0, 1)
    alpha = torch.where(pairs.from_second, distance - 0.5, 0.5 - distance)
    changes_first = alpha > 0
    first, second = pairs.first, pairs.second
    step = color[second] - color[first]
    target = tuple(torch.where(changes_first, a, b) for a, b in zip(first, second, strict=True))
    return color.index_put(target, alpha[:, None] * step, accumulate=True)


def _published_derivative(distance: Tensor, mesh: _Mesh, edge: Tensor, pairs: _Pairs) -> Tensor:
    """Return the same value with the derivative as published, softened for short extents and zero outside the centers."""
    a, b = (mesh.local(vertex, pairs) for vertex in mesh.ends(edge))
    extent = (a[1] * b[2] - b[1] * a[2]).abs()
    factor = torch.where((distance > 0) & (distance < 1), extent / (extent + 1e-3 * (a[2] * b[2]).abs()), 0.0)
    return distance.detach() + factor * (distance - distance.detach())


def _pairs_of(raster: Raster) -> tuple[_Pairs, Tensor, Tensor, Tensor]:
    """Return the pairs of pixels with different faces, each started from the nearer.

    Further results are the face at the start, the other face, and whether both exist.
    """
    found = []
    for down in (False, True):
        face, other = (raster.face[:, :-1], raster.face[:, 1:]) if down else (raster.face[:, :, :-1], raster.face[:, :, 1:])
        view, row, column = torch.nonzero(face != other, as_tuple=True)
        found.append((view, column, row, torch.full_like(view, down, dtype=torch.bool)))
    view, column, row, down = (torch.cat(parts) for parts in zip(*found, strict=True))
    pairs = _Pairs(view, column, row, down, torch.zeros_like(down))
    face, other = raster.face[pairs.first].long(), raster.face[pairs.second].long()
    nearer = raster.depth[pairs.second] < raster.depth[pairs.first]
    from_second = (other >= 0) & ((face < 0) | nearer)
    pairs = _Pairs(view, column, row, down, from_second)
    return pairs, torch.where(from_second, other, face), torch.where(from_second, face, other), (face >= 0) & (other >= 0)


def _walk_all(mesh: _Mesh, raster: Raster) -> tuple[_Pairs, Tensor]:
    pairs, face, other, both_faces = _pairs_of(raster)
    edge, beyond = _walk(mesh, pairs, face, other)
    again = beyond & both_faces & (edge < 0)
    back = _Pairs(pairs.view, pairs.column, pairs.row, pairs.down, ~pairs.from_second)[again]
    other_edge, _ = _walk(mesh, back, other[again], face[again])
    from_second, edge = pairs.from_second.clone(), edge.clone()
    edge[again] = other_edge
    from_second[again] = back.from_second
    pairs = _Pairs(pairs.view, pairs.column, pairs.row, pairs.down, from_second)
    _, _, _, steep = mesh.crossing(edge.clamp_min(0), pairs)
    chosen = (edge >= 0) & steep
    return pairs[chosen], edge[chosen]


def _walk(mesh: _Mesh, pairs: _Pairs, face: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
    """Find the farthest silhouette edge before the other center, and whether the surface continues beyond.

    The edge is -1 if there is none.
    """
    found = torch.full_like(face, -1)
    beyond = torch.zeros_like(face, dtype=torch.bool)
    best_s, best_w = torch.full_like(face, -1, dtype=mesh.positions.dtype), torch.ones_like(face, dtype=mesh.positions.dtype)
    edge, s, w = _way_out(mesh, pairs, face)
    forward = torch.ones_like(beyond)
    walking = torch.arange(face.shape[0], device=face.device)
    for _ in range(_MOST_STEPS):
        gone = forward & ~((w > 0) & (s <= w))
        beyond[walking[(edge >= 0) & gone]] = True
        on = (edge >= 0) & ~gone & (forward | ((w > 0) & (s > -_FARTHEST_BACK * w)))
        walking, edge, s, w, forward = walking[on], edge[on], s[on], w[on], forward[on]
        if walking.numel() == 0:
            break
        onward, next_edge, next_s, next_w, arrived = _step(mesh, pairs[walking], edge, s, w, forward, goal[walking])
        farther = forward & ~onward & ~arrived & (s * best_w[walking] > best_s[walking] * w)
        turned = walking[farther]
        found[turned], best_s[turned], best_w[turned] = edge[farther], s[farther], w[farther]
        edge, s, w, forward = torch.where(arrived, -1, next_edge), next_s, next_w, onward
    return found, beyond


def _way_out(mesh: _Mesh, pairs: _Pairs, face: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Find the edge by which the line leaves a face: of the edges that it crosses, the farthest."""
    found = torch.full_like(face, -1)
    s = torch.zeros_like(face, dtype=mesh.positions.dtype)
    w = torch.ones_like(s)
    for k in range(3):
        edge = 3 * face + k
        next_s, next_w, straddles, _ = mesh.crossing(edge, pairs)
        better = straddles & ((found < 0) | (next_s * w - s * next_w > 0))
        found, s, w = torch.where(better, edge, found), torch.where(better, next_s, s), torch.where(better, next_w, w)
    return found, s, w


def _step(
    mesh: _Mesh, pairs: _Pairs, edge: Tensor, s: Tensor, w: Tensor, forward: Tensor, goal: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Step across an edge into a face and to the edge by which the line leaves it.

    Return whether that leads forward, the edge, S and W there, and whether the face is the goal. If several faces meet, take the first that
    continues in the walk's direction, otherwise the first.
    """
    chosen, chosen_s, chosen_w = torch.full_like(edge, -1), s, w
    leads, arrived, settled = (torch.zeros_like(forward) for _ in range(3))
    entered = edge
    for _ in range(_MOST_STEPS):
        entered = torch.where(settled, edge, mesh.across[entered // 3, entered % 3])
        settled = settled | (entered < 0) | (entered == edge)
        arrived |= ~settled & (entered // 3 == goal)
        settled |= arrived
        if settled.all():
            break
        upper = [mesh.local(vertex, pairs)[1] > 0 for vertex in (*mesh.ends(entered), mesh.third(entered))]
        turned = torch.where(upper[2] == upper[0], 1, 2)
        out = torch.where(settled, edge, 3 * (entered // 3) + (entered + turned) % 3)
        out_s, out_w, _, _ = mesh.crossing(out, pairs)
        advance = out_s * w - s * out_w
        onward = torch.where(advance == 0, forward, advance > 0)
        take = ~settled & ((chosen < 0) | (onward == forward))
        chosen, leads = torch.where(take, out, chosen), torch.where(take, onward, leads)
        chosen_s, chosen_w = torch.where(take, out_s, chosen_s), torch.where(take, out_w, chosen_w)
        settled = settled | (onward == forward)
    return leads, chosen, chosen_s, chosen_w, arrived


def _owner_edges(mesh: _Mesh, raster: Raster) -> tuple[_Pairs, Tensor]:
    pairs, face, _, _ = _pairs_of(raster)
    edge, s, w = _way_out(mesh, pairs, face)
    found = edge >= 0
    edge = edge.clamp_min(0)
    side = _side(mesh, pairs, edge, edge)
    silhouette = torch.ones_like(found)
    entered, settled = edge, ~found
    for _ in range(_MOST_STEPS):
        entered = torch.where(settled, edge, mesh.across[entered // 3, entered % 3])
        settled = settled | (entered < 0) | (entered == edge)
        if settled.all():
            break
        same = side * _side(mesh, pairs, edge, entered.clamp_min(0)) > 0
        silhouette &= settled | same
    _, _, _, steep = mesh.crossing(edge, pairs)
    near = (w > 0) & (s > -w / 16) & (s < w + w / 16)
    chosen = found & silhouette & steep & near
    return pairs[chosen], edge[chosen]


def _side(mesh: _Mesh, pairs: _Pairs, edge: Tensor, of: Tensor) -> Tensor:
    """Return on which side of an edge, as seen, a face's third corner lies.

    This is the sign of the determinant of the corners' (x, y, w).
    """
    a, b, c = *mesh.ends(edge), mesh.third(of)
    rows = [mesh.positions[pairs.view, vertex][:, [0, 1, 3]] for vertex in (a, b, c)]
    volume = (rows[2] * torch.linalg.cross(rows[0], rows[1])).sum(-1)
    return torch.where((c == a) | (c == b), 0.0, volume)


def edge_topology(faces: Int[Tensor, "faces 3"]) -> Topology:
    """Collect the edges by their two vertices; each names the next with the same two."""
    meeting: dict[tuple[int, int], list[int]] = {}
    for face, corners in enumerate(faces.tolist()):
        for k in range(3):
            ends = corners[k], corners[(k + 1) % 3]
            meeting.setdefault((min(ends), max(ends)), []).append(3 * face + k)
    across = [-1] * (3 * faces.shape[0])
    for edges in meeting.values():
        if len(edges) > 1:
            for edge, following in zip(edges, edges[1:] + edges[:1], strict=True):
                across[edge] = following
    return Topology(torch.tensor(across, dtype=torch.int32, device=faces.device).view(-1, 3))
