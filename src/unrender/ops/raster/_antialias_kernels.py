"""Kernels of antialiasing; :mod:`unrender.ops.raster.antialias` has the notation and launches them, ``antialias.h`` their C++."""

from __future__ import annotations

from typing import no_type_check

import warp as wp

from unrender.ops.kernels.native import native_sections

wp.set_module_options({"enable_backward": False, "optimization_level": 3})

_CPP = native_sections(__file__, "antialias.h")


class _Scene:
    """The inputs of a search for silhouettes. Addresses are those of contiguous arrays."""

    face: wp.uint64
    """int32 [views, height, width]"""
    depth: wp.uint64
    """float32 [views, height, width]"""
    positions: wp.uint64
    """float32 [views or 1, vertices, 4]"""
    faces: wp.uint64
    """int32 [faces, 3]"""
    across: wp.uint64
    """int32 [faces, 3]"""
    vertices: wp.int32
    face_count: wp.int32
    view_stride: wp.int64
    """Floats from one view's vertices to the next one's; zero if all views share them."""
    height: wp.int32
    width: wp.int32
    walk: wp.int32
    """1 for the rule "walk", 0 for "owner"."""
    band_rows: wp.int32
    """Rows of a band, which is one work item on a CPU."""
    bands: wp.int32
    """Bands of a view."""


class _Crossings:
    """On a CPU: the crossings found between neighboring pixels, one list for each band of each view."""

    edge: wp.uint64
    """int32 number of the edge"""
    place: wp.uint64
    """int32, 4 · pixel + 2 if the second pixel is below the first + 1 if the search started from the second"""
    alpha: wp.uint64
    """float32, share of the second's color that the first takes, or if negative the second of the first's"""
    count: wp.uint64
    """int32, the length of each list, which :func:`list_crossings_kernel` writes; 0 afterwards"""
    first: wp.uint64
    """int64 [lists + 1], the start of each list after concatenation; 0 before"""


class _Picture:
    """Colors and gradients, float32 [views, height, width, channels]; 0 if not given or not needed."""

    color: wp.uint64
    result: wp.uint64
    grad_result: wp.uint64
    grad_color: wp.uint64
    grad_positions: wp.uint64
    """float32, as the positions"""
    channels: wp.int32
    gradient_scale: wp.float32


Scene = wp.struct(_Scene)
Crossings = wp.struct(_Crossings)
Picture = wp.struct(_Picture)


@no_type_check
@wp.func_native(_CPP.list_crossings)
def _list_crossings(scene: Scene, crossings: Crossings, view: int, band: int): ...


@no_type_check
@wp.func_native(_CPP.blend_crossings)
def _blend_crossings(scene: Scene, crossings: Crossings, picture: Picture, view: int): ...


@no_type_check
@wp.func_native(_CPP.color_gradients)
def _color_gradients(scene: Scene, crossings: Crossings, picture: Picture, view: int): ...


@no_type_check
@wp.func_native(_CPP.share_crossings)
def _share_crossings(scene: Scene, crossings: Crossings, picture: Picture, view: int, list: int, shares: wp.array(dtype=wp.float32)): ...


@no_type_check
@wp.func_native(_CPP.add_shares)
def _add_shares(
    scene: Scene,
    crossings: Crossings,
    begin: int,
    end: int,
    shares: wp.array(dtype=wp.float32),
    grad_positions: wp.array(dtype=wp.float32),
): ...


@no_type_check
@wp.func_native(_CPP.at_pixel)
def _at_pixel(scene: Scene, picture: Picture, view: int, place: int): ...


@no_type_check
@wp.kernel
def list_crossings_kernel(first: int, scene: Scene, crossings: Crossings):
    """List the crossings of one band."""
    i = first + wp.tid()
    _list_crossings(scene, crossings, i / scene.bands, i % scene.bands)


@no_type_check
@wp.kernel
def blend_crossings_kernel(first: int, scene: Scene, crossings: Crossings, picture: Picture):
    """Blend the colors of one view."""
    _blend_crossings(scene, crossings, picture, first + wp.tid())


@no_type_check
@wp.kernel
def color_gradients_kernel(first: int, scene: Scene, crossings: Crossings, picture: Picture):
    """Compute the gradient to the colors of one view."""
    _color_gradients(scene, crossings, picture, first + wp.tid())


@no_type_check
@wp.kernel
def share_crossings_kernel(first: int, scene: Scene, crossings: Crossings, picture: Picture, shares: wp.array(dtype=wp.float32)):
    """Compute the position gradients of the crossings of one band."""
    i = first + wp.tid()
    _share_crossings(scene, crossings, picture, i / scene.bands, i, shares)


@no_type_check
@wp.kernel
def add_shares_kernel(
    first: int,
    scene: Scene,
    crossings: Crossings,
    lists: int,
    shares: wp.array(dtype=wp.float32),
    grad_positions: wp.array(dtype=wp.float32),
):
    """Add the shares of ``lists`` bands, which have the same vertices."""
    i = first + wp.tid()
    _add_shares(scene, crossings, i * lists, (i + 1) * lists, shares, grad_positions)


@no_type_check
@wp.kernel
def pixels_kernel(first: int, scene: Scene, picture: Picture):
    """Search at one pixel, and blend or add gradients there."""
    i = first + wp.tid()
    _at_pixel(scene, picture, i / (scene.height * scene.width), i % (scene.height * scene.width))
