"""The cases of dual marching cubes, generated when the module is imported.

The corners, edges and faces of a cell are numbered along its axes x, y, z = 0, 1, 2. Corner c has the coordinates (bit 0, bit 1, bit 2 of
c). Edge 4 a + j + 2 k runs along axis a, at j along the next axis and k along the one after. Face 2 a + s is at s along axis a. A *case* is
a number from 0 to 255 whose bit c tells whether corner c is inside.

On a face the surface separates inside from outside corners by lines that join edges with a sign change. Where inside and outside corners
alternate around a face there are two ways; we cut off each inside corner on its own. Edges joined by lines form a *patch*, and each patch
has one vertex of the dual mesh. Neighboring cells agree about their common face, so the mesh is closed.

It is a manifold unless both lines on a face join the same patch on both sides: then four quadrilaterals meet at one edge. Where that
happens, both cells cut off the outside corners instead, which separates the patches. ``OWN_FACE`` names the face where a case may have to,
the only one of an alternating kind it has, and row 256 + case of ``PATCHES`` holds its patches then.

Source: Nielson, Dual marching cubes, 2004; Wenger, Isosurfaces, 2013, and Shen et al., Flexible isosurface extraction for gradient-based
mesh optimization, 2023 (C16 and C19) for the correction.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

CORNERS = np.array([[corner >> axis & 1 for axis in range(3)] for corner in range(8)])


def _edges() -> Int[np.ndarray, "12 2"]:
    """Return the two corners of each edge."""
    ends = np.zeros((12, 2), np.int64)
    for axis in range(3):
        for j, k in np.ndindex(2, 2):
            first = (j << (axis + 1) % 3) + (k << (axis + 2) % 3)
            ends[4 * axis + j + 2 * k] = first, first + (1 << axis)
    return ends


EDGES = _edges()


def _patches(case: int, flipped: int | None = None) -> tuple[Int[np.ndarray, " 12"], list[int]]:
    """Return the patch of each edge, −1 for none, and the faces with two lines of one patch.

    Args:
        case: which corners are inside.
        flipped: a face where outside corners are cut off.
    """
    inside = case >> np.arange(8) & 1
    patch = np.where(inside[EDGES[:, 0]] != inside[EDGES[:, 1]], np.arange(12), -1)
    alternating: dict[int, tuple[int, int]] = {}
    for face in range(6):
        on_face = [edge for edge in range(12) if (CORNERS[EDGES[edge], face // 2] == face % 2).all() and patch[edge] >= 0]
        lines = [on_face] if on_face else []
        if len(on_face) == 4:
            cut = [c for c in {*EDGES[on_face].ravel().tolist()} if inside[c] != (face == flipped)]
            lines = [[edge for edge in on_face if corner in EDGES[edge]] for corner in cut]
            alternating[face] = lines[0][0], lines[1][0]
        for first, second in lines:
            patch[patch == patch[second]] = patch[first]
    names = {label: k for k, label in enumerate(np.unique(patch[patch >= 0]))}
    doubled = [face for face, (a, b) in alternating.items() if patch[a] == patch[b]]
    return np.array([names.get(label, -1) for label in patch]), doubled


def _tables() -> tuple[Int[np.ndarray, "512 12"], Int[np.ndarray, " 256"]]:
    patches, own_face = np.zeros((512, 12), np.int64), np.full(256, -1)
    for case in range(256):
        patches[case], doubled = _patches(case)
        patches[256 + case] = patches[case]
        if doubled:
            (own_face[case],) = doubled
            patches[256 + case], _ = _patches(case, doubled[0])
    return patches, own_face


PATCHES, OWN_FACE = _tables()
"""The patch of each edge in each case, −1 for none; and the face where a case may have to cut off the outside corners, −1 for none."""

PATCH_COUNT = PATCHES.max(1) + 1
