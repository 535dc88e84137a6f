"""Encodings and networks from their JSON descriptions, with the keys and defaults of tiny-cuda-nn's documentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from unrender.compat.tinycudann.encodings import (
    LARGEST_DEGREE,
    Composite,
    Frequency,
    Identity,
    InputEncoding,
    OneBlob,
    Part,
    SphericalHarmonics,
    TriangleWave,
    added,
    multiplied,
)
from unrender.compat.tinycudann.keys import Keys, name_in
from unrender.compat.tinycudann.lattices import LARGEST_DIMENSIONS, Grid
from unrender.compat.tinycudann.networks import ACTIVATIONS, Perceptron
from unrender.ops.kernels.checks import Arguments, describe

_LARGEST_FREQUENCIES = 24
"""Octaves beyond which float32 angles have no correct digit."""
_MOST_COLUMNS = 2**16
"""Numbers that may enter or leave an encoding or a network, per point."""
_JOINS = MappingProxyType({"Concatenation": None, "Sum": added, "Product": multiplied})
_GRIDS = MappingProxyType({"HashGrid": "Hash", "DenseGrid": "Dense", "TiledGrid": "Tiled"})
"""Short names of kinds of grids."""
_FUSED_WIDTHS = (16, 32, 64, 128)


def _identity(inputs: int, given: Mapping[str, Any], otype: str) -> InputEncoding:
    keys = Keys(otype, given, ("scale", "offset"))
    return Identity(inputs, keys.number("scale", 1.0), keys.number("offset", 0.0))


def _frequency(inputs: int, given: Mapping[str, Any], otype: str) -> InputEncoding:
    return Frequency(inputs, Keys(otype, given, ("n_frequencies",)).integer("n_frequencies", 12, 1, _LARGEST_FREQUENCIES))


def _triangle_wave(inputs: int, given: Mapping[str, Any], otype: str) -> InputEncoding:
    return TriangleWave(inputs, Keys(otype, given, ("n_frequencies",)).integer("n_frequencies", 12, 1, _LARGEST_FREQUENCIES))


def _one_blob(inputs: int, given: Mapping[str, Any], otype: str) -> InputEncoding:
    return OneBlob(inputs, Keys(otype, given, ("n_bins",)).integer("n_bins", 16, 1, 4096))


def _spherical_harmonics(inputs: int, given: Mapping[str, Any], otype: str) -> InputEncoding:
    keys = Keys(otype, given, ("degree",))
    if inputs != 3:
        raise ValueError(f"SphericalHarmonics takes 3 dimensions, a direction v as (v + 1) / 2, got {inputs}")
    return SphericalHarmonics(3, keys.integer("degree", 4, 1, LARGEST_DEGREE))


def _grid(inputs: int, given: Mapping[str, Any], otype: str) -> InputEncoding:
    known = ("type", "n_levels", "n_features_per_level", "n_features", "log2_hashmap_size", "base_resolution", "per_level_scale")
    keys = Keys(otype, given, (*known, "interpolation", "stochastic_interpolation", "hash", "fixed_point_pos"))
    if not 1 <= inputs <= LARGEST_DIMENSIONS:
        raise ValueError(f"{otype} takes 1 to {LARGEST_DIMENSIONS} dimensions, got {inputs}")
    keys.refuse("stochastic_interpolation", False)
    keys.refuse("hash", "CoherentPrime")
    keys.refuse("fixed_point_pos", False)
    features = keys.integer("n_features_per_level", 2, 1, 8)
    if features not in (1, 2, 4, 8):
        raise ValueError(f"{otype} takes 1, 2, 4 or 8 as 'n_features_per_level', got {features}")
    levels = keys.integer("n_levels", 16, 1, 128)
    if keys.has("n_features"):
        columns = keys.integer("n_features", 1, 1, 1024)
        if columns % features or (keys.has("n_levels") and columns != levels * features):
            raise ValueError(f"{otype} takes 'n_levels' times 'n_features_per_level' as 'n_features', got {columns}")
        levels = columns // features
    return Grid(
        inputs,
        keys.name("type", _GRIDS.get(otype, "Hash"), _GRIDS.values()),
        levels,
        features,
        keys.integer("log2_hashmap_size", 19, 1, 30),
        keys.integer("base_resolution", 16, 1, 2**24),
        keys.number("per_level_scale", 2.0, 1e-3),
        keys.name("interpolation", "Linear", ("Nearest", "Linear", "Smoothstep")),
    )


def _composite(inputs: int, given: Mapping[str, Any], otype: str) -> InputEncoding:
    keys = Keys(otype, given, ("nested", "reduction"))
    nested = given.get("nested", ())
    if not isinstance(nested, Sequence) or isinstance(nested, str) or not nested or not all(isinstance(one, Mapping) for one in nested):
        raise ValueError(f"Composite takes a list of encodings as 'nested', got {describe(nested)}")
    takes = Arguments("Composite")
    begins: list[int | None] = [
        takes.integer(one["dims_to_encode_begin"], "dims_to_encode_begin", 0, inputs) if "dims_to_encode_begin" in one else None
        for one in nested
    ]
    sizes = [takes.integer(one["n_dims_to_encode"], "n_dims_to_encode", 1) if "n_dims_to_encode" in one else None for one in nested]
    if sizes.count(None) > 1:
        raise ValueError("Composite takes 'n_dims_to_encode' in all nested encodings but one, which gets the remaining dimensions")
    remaining = inputs - sum(size or 0 for size in sizes)
    parts, first = [], 0
    for one, begin, size in zip(nested, begins, sizes, strict=True):
        width = remaining if size is None else size
        first = first if begin is None else begin
        if width < 1 or first + width > inputs:
            named = ", ".join("the rest" if known is None else str(known) for known in sizes)
            raise ValueError(f"Composite of {inputs} dimensions takes nested encodings that fit, got 'n_dims_to_encode' {named}")
        parts.append(Part(first, encoding_from(width, one)))
        first += width
    joined = keys.name("reduction", "Concatenation", _JOINS)
    widths = [part.encoding.outputs for part in parts]
    if joined != "Concatenation" and len(set(widths)) > 1:
        raise ValueError(f"Composite takes nested encodings of one width for the 'reduction' {joined}, got {widths}")
    return Composite(inputs, tuple(parts), _JOINS[joined])


_ENCODINGS: Mapping[str, Callable[[int, Mapping[str, Any], str], InputEncoding]] = MappingProxyType(
    {
        "HashGrid": _grid,
        "DenseGrid": _grid,
        "TiledGrid": _grid,
        "Grid": _grid,
        "Frequency": _frequency,
        "TriangleWave": _triangle_wave,
        "OneBlob": _one_blob,
        "SphericalHarmonics": _spherical_harmonics,
        "Identity": _identity,
        "Composite": _composite,
    }
)


def encoding_from(inputs: int, given: Mapping[str, Any]) -> InputEncoding:
    """Make an encoding from its description.

    Raises:
        ValueError: for an unknown otype, a misspelled key, or values that are out of range; the message names the key.
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"Encoding takes a dictionary as encoding_config, got {describe(given)}")
    inputs = Arguments("Encoding").integer(inputs, "n_input_dims", 1, _MOST_COLUMNS)
    otype = name_in(given.get("otype"), "otype", "Encoding", _ENCODINGS)
    encoding = _ENCODINGS[otype](inputs, given, otype)
    if encoding.outputs > _MOST_COLUMNS:
        raise ValueError(f"{otype} takes sizes that give at most {_MOST_COLUMNS} columns, got {encoding.outputs}")
    return encoding


def network_from(inputs: int, outputs: int, given: Mapping[str, Any]) -> Perceptron:
    """Make a network from its description.

    Raises:
        ValueError: as :func:`encoding_from`.
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"Network takes a dictionary as network_config, got {describe(given)}")
    takes = Arguments("Network")
    inputs = takes.integer(inputs, "n_input_dims", 1, _MOST_COLUMNS)
    outputs = takes.integer(outputs, "n_output_dims", 1, _MOST_COLUMNS)
    otype = name_in(given.get("otype", "FullyFusedMLP"), "otype", "Network", ("FullyFusedMLP", "CutlassMLP", "MLP"))
    keys = Keys(otype, given, ("activation", "output_activation", "n_neurons", "n_hidden_layers", "feedback_alignment"))
    keys.refuse("feedback_alignment", False)
    neurons = keys.integer("n_neurons", 128, 1, 4096)
    fused = otype == "FullyFusedMLP"
    if fused and neurons not in _FUSED_WIDTHS:
        raise ValueError(f"FullyFusedMLP takes 16, 32, 64 or 128 as 'n_neurons', got {neurons}: take CutlassMLP for other widths")
    return Perceptron(
        inputs,
        outputs,
        neurons,
        keys.integer("n_hidden_layers", 5, 1 if fused else 0, 64),
        keys.name("activation", "ReLU", ACTIVATIONS),
        keys.name("output_activation", "None", ACTIVATIONS),
        16 if fused or (otype == "MLP" and neurons in _FUSED_WIDTHS) else 8,
    )
