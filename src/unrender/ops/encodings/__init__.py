"""Encodings of points and directions, small perceptrons, and optimizers that skip untouched entries."""

from __future__ import annotations

from unrender.ops.encodings.adam import Adam, RmsProp, all_finite
from unrender.ops.encodings.contraction import contract, uncontract
from unrender.ops.encodings.encoded_mlp import encoded_mlp
from unrender.ops.encodings.frequency_encoding import frequency_encode
from unrender.ops.encodings.grid_bending import add_grid_bending
from unrender.ops.encodings.grid_lookup import grid_lookup, grid_lookup_with_jacobian
from unrender.ops.encodings.grid_smoothing import smoothed_grid
from unrender.ops.encodings.hash_encoding import hash_encode
from unrender.ops.encodings.hash_grid import HashGrid
from unrender.ops.encodings.mlp import mlp
from unrender.ops.encodings.spherical_harmonics_encoding import spherical_harmonics_encode

__all__ = [
    "Adam",
    "HashGrid",
    "RmsProp",
    "add_grid_bending",
    "all_finite",
    "contract",
    "encoded_mlp",
    "frequency_encode",
    "grid_lookup",
    "grid_lookup_with_jacobian",
    "hash_encode",
    "mlp",
    "smoothed_grid",
    "spherical_harmonics_encode",
    "uncontract",
]
