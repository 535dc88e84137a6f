"""Minimum cuts on the pixel grid: the labeling that agrees best with the evidence at each pixel and changes along edges of the photo.

The energy of a labeling is Σ_p [-u_p if p is inside] + Σ_pq w_pq [labels of the neighbors p and q differ], with the evidence u (log-odds of
inside to outside) and w = λ exp(-‖c_p - c_q‖² / 2σ²), where σ² is the mean squared difference of neighbors' colors.

Source: Boykov and Jolly, Interactive graph cuts for optimal boundary and region segmentation of objects in N-D images, 2001.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy.ndimage import binary_dilation, binary_erosion
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

_SCALE = 256.0
"""Capacities of the flow are integers; this many are one unit of evidence."""

_FLAT = 0.02
"""Least strength of an edge between neighbors, as a share of the largest, so that shapes stay compact across strong texture."""

_NOISE = 4.0
"""Least mean squared difference of neighbors' colors in CIELAB, so that the noise of flat photos is no edge."""


_COARSE_PIXELS = 20_000
"""Larger pictures are cut at half their size first."""

_BAND = 3
"""Pixels on both sides of a coarse border that are decided again at full size."""


def cut(
    evidence: Float[ndarray, "rows columns"], lab: Float[ndarray, "rows columns 3"], smoothness: float
) -> Bool[ndarray, "rows columns"]:
    """Return the labeling of least energy, found at half the size first and near its borders again at full size.

    Args:
        evidence: log-odds of inside to outside.
        lab: colors in CIELAB.
        smoothness: λ, the price of a border of one pixel where the photo is flat.
    """
    rows, columns = evidence.shape
    if evidence.size <= _COARSE_PIXELS or min(rows, columns) < 8:
        return exact_cut(evidence, lab, smoothness)
    # The sum of four pixels' evidence, and twice the length of a border: the coarse energy is that of blocky labelings.
    pad = ((0, rows % 2), (0, columns % 2))
    half = _block_mean(np.pad(evidence, pad, mode="edge")) * 2
    coarse = cut(half, _block_mean(np.pad(lab, (*pad, (0, 0)), mode="edge")), smoothness)
    label = coarse.repeat(2, 0).repeat(2, 1)[:rows, :columns]
    sure = binary_erosion(label, iterations=_BAND, border_value=1) | ~np.asarray(binary_dilation(label, iterations=_BAND), bool)
    sure &= (evidence > 0) == label
    strong = 16 * smoothness
    return exact_cut(np.where(sure, np.where(label, strong, -strong), evidence), lab, smoothness)


def _block_mean(values: ndarray) -> ndarray:
    return (values[::2, ::2] + values[1::2, ::2] + values[::2, 1::2] + values[1::2, 1::2]) / 4


def exact_cut(
    evidence: Float[ndarray, "rows columns"], lab: Float[ndarray, "rows columns 3"], smoothness: float
) -> Bool[ndarray, "rows columns"]:
    """Return the labeling of least energy.

    Pixels whose evidence exceeds all that their neighbors can add keep its sign in every optimum. They are decided first, again and again,
    and only what is left goes into a flow network; the result is the exact optimum.

    Args:
        evidence: log-odds of inside to outside.
        lab: colors in CIELAB.
        smoothness: λ, the price of a border of one pixel where the photo is flat.
    """
    weights = _weights(lab, smoothness)
    rest = evidence.astype(np.float64)
    label = np.zeros(rest.shape, np.int8)
    while True:
        pull, drawn = _pulls(weights, label)
        undecided = label == 0
        bound = np.abs(rest + drawn) > pull
        decided = undecided & bound
        if 20 * int(decided.sum()) <= int(undecided.sum()):
            break  # a few at a time are faster in the network
        label[decided] = np.where((rest + drawn)[decided] > 0, 1, -1)
    if undecided.any():
        label[undecided] = np.where(_flow(rest + drawn, weights, undecided), 1, -1)
    return label > 0


_Weights = tuple[Float[ndarray, "rows left"], Float[ndarray, "above columns"]]
"""Between each pixel and its right neighbor, and the one below."""


def _weights(lab: Float[ndarray, "rows columns 3"], smoothness: float) -> _Weights:
    differences = [(np.diff(lab, axis=axis) ** 2).sum(-1) for axis in (1, 0)]
    mean = max(_NOISE, float(np.concatenate([part.reshape(-1) for part in differences]).mean()))
    across, down = (smoothness * np.maximum(np.exp(-part / (2 * mean)), _FLAT) for part in differences)
    return across, down


def _pulls(weights: _Weights, label: ndarray) -> tuple[ndarray, ndarray]:
    """Return the sum of weights to undecided neighbors, and the signed sum to decided ones."""
    pull, drawn = np.zeros(label.shape), np.zeros(label.shape)
    for axis, weight in zip((1, 0), weights, strict=True):
        near, far = _halves(axis)
        for here, there in ((near, far), (far, near)):
            other = label[there]
            pull[here] += np.where(other == 0, weight, 0.0)
            drawn[here] += weight * other
    return pull, drawn


def _halves(axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return the slices of all pixels that have a next neighbor along an axis, and of these neighbors."""
    first, last = slice(None, -1), slice(1, None)
    return ((slice(None), first), (slice(None), last)) if axis == 1 else ((first,), (last,))


def _flow(evidence: ndarray, weights: _Weights, undecided: ndarray) -> Bool[ndarray, " nodes"]:
    """Cut the network of the undecided pixels, in row-major order."""
    count = int(undecided.sum())
    node = np.full(undecided.shape, -1, np.int32)
    node[undecided] = np.arange(count)
    source, sink = count, count + 1
    starts, ends, capacities = [], [], []
    for axis, weight in zip((1, 0), weights, strict=True):
        near, far = _halves(axis)
        both = (node[near] >= 0) & (node[far] >= 0)
        starts += [node[near][both], node[far][both]]
        ends += [node[far][both], node[near][both]]
        capacities += [weight[both]] * 2
    own = evidence[undecided]
    inner, outer = np.flatnonzero(own > 0), np.flatnonzero(own < 0)
    starts += [np.full(len(inner), source), outer]
    ends += [inner, np.full(len(outer), sink)]
    capacities += [own[inner], -own[outer]]
    capacity = np.rint(np.concatenate(capacities) * _SCALE).astype(np.int32)
    shape = (count + 2, count + 2)
    network = csr_matrix((capacity, (np.concatenate(starts), np.concatenate(ends))), shape=shape, dtype=np.int32)
    residual = network - maximum_flow(network, source, sink).flow
    residual.data[residual.data < 0] = 0
    residual.eliminate_zeros()
    reached = breadth_first_order(residual, source, return_predecessors=False)
    inside = np.zeros(count + 2, bool)
    inside[reached] = True
    return inside[:count]
