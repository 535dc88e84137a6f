"""The functions of ``nvdiffrast.torch.ops``, version 0.4, for tensors on a CPU or a GPU.

Arguments, defaults and layouts are nvdiffrast's, described in its manual; the formulas are those of :mod:`unrender.ops.raster`, which does
the work. Row 0 of every image tensor is y = −1 in normalized device coordinates, the bottom in OpenGL's terms.

Gradients flow to ``pos`` (x, y and w) from u, v and ``rast_db``, and from colors through :func:`antialias`; and to attributes, textures,
texture coordinates and their derivatives. None flow to z, from z / w, or from the triangle index;
:func:`unrender.ops.raster.rasterize` has a differentiable depth.

All is computed in float32. Inputs of another float type are converted; results and gradients return in the caller's type: that of ``attr``,
``tex`` and ``color``. A raster is float32, or float64 for such positions, since half precision cannot hold the number of a triangle.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from unrender.compat.nvdiffrast.leniency import as_float32, last_mip_level, like, most_triangles, type_of_raster
from unrender.compat.nvdiffrast.packing import pack, unpack, unpack_visibility
from unrender.ops import raster
from unrender.ops.kernels.derivatives import differentiable_once
from unrender.ops.raster import Boundary, Filter, Raster, Topology, build_mips, edge_topology

__all__ = [
    "DepthPeeler",
    "RasterizeCudaContext",
    "RasterizeGLContext",
    "antialias",
    "antialias_construct_topology_hash",
    "get_log_level",
    "interpolate",
    "rasterize",
    "set_log_level",
    "texture",
    "texture_construct_mip",
]

_THEIR_NAMES = {
    "clip_positions": "pos",
    "faces": "triangles",
    "attributes": "attr",
    "the raster": "rast",
    "uv_derivatives": "uv_da",
    "level_bias": "mip_level_bias",
    "max_level": "max_mip_level",
    "clip positions": "pos",
    "position_gradient_scale": "pos_gradient_boost",
    "edge_topology": "antialias_construct_topology_hash",
    "build_mips": "texture_construct_mip",
    "interpolate_with_derivatives": "interpolate",
}
"""Names of arguments and functions in our errors, and nvdiffrast's names for them."""
_OUR_NAME = re.compile(r"\b(" + "|".join(_THEIR_NAMES) + r")\b")


@contextmanager
def _errors_in_their_names() -> Iterator[None]:
    """Replace argument names in errors of :mod:`unrender.ops` by nvdiffrast's."""
    try:
        yield
    except ValueError as error:
        raise ValueError(_OUR_NAME.sub(lambda match: _THEIR_NAMES[match.group()], str(error))) from None


class RasterizeCudaContext:
    """The first argument of :func:`rasterize`. It holds no resources; the device follows the tensors.

    Args:
        device: ignored.
    """

    def __init__(self, device: torch.device | str | int | None = None) -> None:
        self.output_db = True
        self.active_depth_peeler: DepthPeeler | None = None


class RasterizeGLContext(RasterizeCudaContext):
    """The same as :class:`RasterizeCudaContext`, for programs that use the OpenGL context. OpenGL is not used; derivatives are always
    computed.

    Args:
        output_db: ignored.
        mode: "automatic" or "manual"; has no effect.
        device: ignored.
    """

    def __init__(self, output_db: bool = True, mode: str = "automatic", device: torch.device | str | int | None = None) -> None:
        if mode not in ("automatic", "manual"):
            raise ValueError(f'RasterizeGLContext takes "automatic" or "manual" as mode, got {mode!r}')
        super().__init__(device)

    def set_context(self) -> None:
        """Do nothing."""

    def release_context(self) -> None:
        """Do nothing."""


class _Plugin:
    """Stands in for the compiled plugin of nvdiffrast, which programs fetch early so that it is built before training."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"nvdiffrast's compiled plugin does not exist here, nor its {name}: call the functions of nvdiffrast.torch")


_cached_plugin: dict[bool, _Plugin] = {}
"""Plugins by ``gl``, as some programs read or clear them."""


def _get_plugin(gl: bool = False) -> _Plugin:
    """Return the stand-in of the plugin; nothing has to be compiled."""
    return _cached_plugin.setdefault(gl, _Plugin())


_log_level = 1


def get_log_level() -> int:
    """Return the current log level: 0 information, 1 warnings, 2 errors, 3 fatal errors."""
    return _log_level


def set_log_level(level: int) -> None:
    """Set the level that :func:`get_log_level` returns. Nothing is logged here: errors are raised."""
    global _log_level  # noqa: PLW0603
    _log_level = int(level)


def _check_mesh(glctx: RasterizeCudaContext, pos: Tensor, tri: Tensor, ranges: Tensor | None) -> None:
    if not isinstance(glctx, RasterizeCudaContext):
        raise TypeError(f"glctx is a RasterizeCudaContext or a RasterizeGLContext, got {type(glctx).__name__}")
    for name, tensor in (("pos", pos), ("tri", tri)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} is a tensor, got {type(tensor).__name__}: use torch.as_tensor")
    if pos.ndim == 3:  # ranges are ignored in instanced mode
        return
    if ranges is None:
        raise ValueError(f"pos is [minibatch, vertices, 4] without ranges, got {tuple(pos.shape)}: add the dimension, or pass ranges")
    if not isinstance(ranges, Tensor):
        raise TypeError(f"ranges is an int32 tensor [minibatch, 2], got {type(ranges).__name__}: use torch.as_tensor")
    if ranges.ndim != 2 or ranges.shape[1] != 2:
        raise ValueError(f"ranges is [minibatch, 2], first triangle and number of triangles, got {tuple(ranges.shape)}")


def _raster_of(rast: Tensor, name: str, tri: Tensor) -> Tensor:
    """Check a tensor that :func:`rasterize` returned, and return it in float32."""
    single = as_float32(rast)
    if rast.ndim != 4 or rast.shape[3] != 4 or single.dtype != torch.float32:
        raise ValueError(f"{name} is float32 [minibatch, height, width, 4], as rasterize returns it, got {rast.dtype} {tuple(rast.shape)}")
    if tri.shape[0] > most_triangles(rast.dtype):
        raise ValueError(f"{name} is {rast.dtype}, which cannot number {tri.shape[0]} triangles: keep the type that rasterize returns")
    return single


def _layer(
    pos: Tensor, tri: Tensor, resolution: Sequence[int], ranges: Tensor | None, grad_db: bool, behind: Raster | None
) -> tuple[Raster, Tensor, Tensor]:
    """Rasterize one layer; return it as a raster, and as the two tensors that nvdiffrast returns."""
    if len(resolution) != 2:
        raise ValueError(f"resolution is (height, width), got {tuple(resolution)}")
    size = (int(resolution[0]), int(resolution[1]))
    with _errors_in_their_names():
        layer = raster.rasterize(as_float32(pos), tri, size, None if pos.ndim == 3 else ranges, derivatives=True, behind=behind)
    derivatives = layer.barycentric_derivatives
    assert derivatives is not None  # because of derivatives=True
    dtype = type_of_raster(pos.dtype)
    return layer, like(pack(layer, tri.shape[0]), dtype), like(derivatives if grad_db else derivatives.detach(), dtype)


def rasterize(
    glctx: RasterizeCudaContext,
    pos: Tensor,
    tri: Tensor,
    resolution: Sequence[int],
    ranges: Tensor | None = None,
    grad_db: bool = True,
) -> tuple[Float[Tensor, "views height width 4"], Float[Tensor, "views height width 4"]]:
    """Find the visible triangle at every pixel; see :func:`unrender.ops.raster.rasterize`.

    Args:
        glctx: a context.
        pos: [minibatch, vertices, 4] in clip space, or [vertices, 4] with ``ranges``.
        tri: [triangles, 3] rows of vertices, int32.
        resolution: (height, width).
        ranges: [minibatch, 2] first triangle and number of triangles of each image, on any device; ignored with a minibatch of ``pos``.
        grad_db: whether the second result has a gradient.

    Returns:
        (u, v, z / w, triangle + 1), zero on the background, see :mod:`unrender.compat.nvdiffrast.packing`; and
        (∂u/∂X, ∂u/∂Y, ∂v/∂X, ∂v/∂Y) per pixel.

    Raises:
        TypeError: for arguments that are not a context, or not a tensor.
        ValueError: for wrong types, shapes and devices.
        RuntimeError: while a :class:`DepthPeeler` uses the context.

    >>> corners = torch.tensor([[[-1.0, -1.0, 0.0, 1.0], [3.0, -1.0, 0.0, 1.0], [-1.0, 3.0, 0.5, 1.0]]])
    >>> rast, rast_db = rasterize(RasterizeCudaContext(), corners, torch.tensor([[0, 1, 2]], dtype=torch.int32), (2, 2))
    >>> rast[0, 0].tolist()
    [[0.75, 0.125, 0.0625, 1.0], [0.5, 0.375, 0.0625, 1.0]]
    """
    _check_mesh(glctx, pos, tri, ranges)
    if glctx.active_depth_peeler is not None:
        raise RuntimeError(
            "rasterize was called inside a DepthPeeler of the same context: call rasterize_next_layer, or use a second context"
        )
    _, rast, rast_db = _layer(pos, tri, resolution, ranges, grad_db, None)
    return rast, rast_db


class DepthPeeler:
    """Rasterizes layer by layer, from the nearest surface to the farthest.

    >>> glctx = RasterizeCudaContext()
    >>> corners = torch.tensor([[[-1.0, -1, 0, 1], [3, -1, 0, 1], [-1, 3, 0, 1], [-1, -1, 0.5, 1], [3, -1, 0.5, 1], [-1, 3, 0.5, 1]]])
    >>> with DepthPeeler(glctx, corners, torch.tensor([[0, 1, 2], [3, 4, 5]], dtype=torch.int32), (1, 1)) as peeler:
    ...     [peeler.rasterize_next_layer()[0][0, 0, 0, 3].item() for _ in range(3)]
    [1.0, 2.0, 0.0]
    """

    def __init__(
        self,
        glctx: RasterizeCudaContext,
        pos: Tensor,
        tri: Tensor,
        resolution: Sequence[int],
        ranges: Tensor | None = None,
        grad_db: bool = True,
    ) -> None:
        """Take the arguments of :func:`rasterize`."""
        _check_mesh(glctx, pos, tri, ranges)
        self._glctx = glctx
        self._scene = (pos, tri, resolution, ranges, grad_db)
        self._last: Raster | None = None

    def __enter__(self) -> DepthPeeler:
        if self._glctx.active_depth_peeler is not None:
            raise RuntimeError("DepthPeeler was entered inside another one of the same context: use a second context")
        self._glctx.active_depth_peeler = self
        self._last = None
        return self

    def __exit__(self, *exception: object) -> None:
        self._glctx.active_depth_peeler = None
        self._last = None

    def rasterize_next_layer(self) -> tuple[Float[Tensor, "views height width 4"], Float[Tensor, "views height width 4"]]:
        """Rasterize the nearest surface, or, from the second call on, the one strictly behind the last.

        Returns:
            as :func:`rasterize`.

        Raises:
            RuntimeError: outside the ``with`` block.
        """
        if self._glctx.active_depth_peeler is not self:
            raise RuntimeError("rasterize_next_layer works inside the block of its DepthPeeler: with DepthPeeler(...) as peeler: ...")
        self._last, rast, rast_db = _layer(*self._scene, self._last)
        return rast, rast_db


def interpolate(
    attr: Tensor,
    rast: Tensor,
    tri: Tensor,
    rast_db: Tensor | None = None,
    diff_attrs: Sequence[int] | Literal["all"] | None = None,
) -> tuple[Float[Tensor, "views height width channels"], Float[Tensor, "views height width columns"]]:
    """Interpolate vertex attributes at every pixel; see :func:`unrender.ops.raster.interpolate_with_derivatives`.

    Args:
        attr: [minibatch or 1, vertices, channels], or [vertices, channels].
        rast: the first result of :func:`rasterize`.
        tri: [triangles, 3] rows of vertices.
        rast_db: the second result of :func:`rasterize`.
        diff_attrs: "all", or the channels to differentiate, negative ones counted from the end.

    Returns:
        the values, zero on the background; and (∂A/∂X, ∂A/∂Y) of each channel of ``diff_attrs``, or
        [minibatch, height, width, 0] unless both ``rast_db`` and ``diff_attrs`` are given.

    Raises:
        ValueError: for wrong types, shapes and devices, or a channel that does not exist.
    """
    single = _raster_of(rast, "rast", tri)
    if isinstance(diff_attrs, str) and diff_attrs != "all":
        raise ValueError(f'interpolate takes "all" or a list of channels as diff_attrs, got {diff_attrs!r}')
    if rast_db is None or diff_attrs is None or len(diff_attrs) == 0:
        with _errors_in_their_names():
            values = raster.interpolate(as_float32(attr), unpack(single, tri.shape[0]), tri)
        return like(values, attr.dtype), attr.new_empty(*values.shape[:3], 0)
    single_db = _raster_of(rast_db, "rast_db", tri[:0])
    channels = None if isinstance(diff_attrs, str) else [int(channel) for channel in diff_attrs]
    with _errors_in_their_names():
        raster_and_db = unpack(single, tri.shape[0], single_db)
        values, derivatives = raster.interpolate_with_derivatives(as_float32(attr), raster_and_db, tri, channels)
    return like(values, attr.dtype), like(derivatives, attr.dtype)


@dataclass(frozen=True)
class _MipStack:
    """The mip levels of a texture, as :func:`texture_construct_mip` returns them."""

    levels: tuple[Tensor, ...]
    """Levels 1, 2, ..., without gradients."""
    shape: torch.Size
    """Shape of the base."""
    cube: bool
    """Whether the base is a cube map."""


class _LevelsOf(torch.autograd.Function):
    """Levels that were built before, as a function of their texture, to which their gradients flow."""

    @staticmethod
    def forward(ctx: Any, tex: Tensor, stack: _MipStack) -> tuple[Tensor, ...]:
        ctx.stack = stack
        return tuple(level.detach() for level in stack.levels)

    @staticmethod
    @differentiable_once("texture")
    def backward(ctx: Any, *grad_levels: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        stack: _MipStack = ctx.stack
        with torch.enable_grad():  # building is linear, so that the gradient is the same for any texture
            base = grad_levels[0].new_zeros(stack.shape).requires_grad_()
            levels = build_mips(base, len(stack.levels), cube=stack.cube)
        return torch.autograd.grad(levels, base, grad_levels)[0], None


def texture(
    tex: Tensor,
    uv: Tensor,
    uv_da: Tensor | None = None,
    mip_level_bias: Tensor | None = None,
    mip: _MipStack | Sequence[Tensor] | None = None,
    filter_mode: Filter = "auto",
    boundary_mode: Boundary = "wrap",
    max_mip_level: int | None = None,
) -> Float[Tensor, "views height width channels"]:
    """Look up a texture or a cube map; see :func:`unrender.ops.raster.texture`.

    Args:
        tex: [minibatch or 1, height, width, channels]; with ``boundary_mode="cube"``, [minibatch or 1, 6, side, side, channels].
        uv: [minibatch, height, width, 2], or 3 for a cube map.
        uv_da: [minibatch, height, width, 4 or 6], the second result of :func:`interpolate`.
        mip_level_bias: [minibatch, height, width], added to the mip level, or the level itself without ``uv_da``.
        mip: from :func:`texture_construct_mip`, whose gradients flow to ``tex``; or a list of levels 1, 2, ... with their own.
        filter_mode: "auto", "nearest", "linear", "linear-mipmap-nearest" or "linear-mipmap-linear".
        boundary_mode: "wrap", "clamp", "zero" or "cube".
        max_mip_level: coarsest mip level to build and use.

    Mip levels end at the first with an odd side, which cannot be halved; a warning says so. nvdiffrast refuses such a texture.

    Raises:
        ValueError: for wrong types, shapes, devices and names.
    """
    levels: Sequence[Tensor] | None = None
    single = as_float32(tex)
    if isinstance(mip, _MipStack):
        if mip.shape != tex.shape or mip.cube != (boundary_mode == "cube"):
            kind = "a cube map" if mip.cube else "a texture"
            raise ValueError(f"mip belongs to {kind} of shape {tuple(mip.shape)}, and tex is {tuple(tex.shape)}: build it from this tex")
        levels = _LevelsOf.apply(single, mip) if mip.levels else ()
    elif mip is not None:
        levels = [as_float32(level) for level in mip]
    elif tex.ndim >= 4 and _uses_mips(filter_mode, uv_da, mip_level_bias):
        max_mip_level = last_mip_level(tex.shape[-3], tex.shape[-2], max_mip_level, "texture")
    samples = [None if tensor is None else as_float32(tensor) for tensor in (uv_da, mip_level_bias)]
    with _errors_in_their_names():
        values = raster.texture(
            single, as_float32(uv), *samples, mips=levels, filter=filter_mode, boundary=boundary_mode, max_level=max_mip_level
        )
    return like(values, tex.dtype)


def _uses_mips(filter_mode: str, uv_da: Tensor | None, mip_level_bias: Tensor | None) -> bool:
    """Tell whether a lookup with these arguments reads mip levels."""
    return filter_mode.startswith("linear-mipmap") or (filter_mode == "auto" and not (uv_da is None and mip_level_bias is None))


def texture_construct_mip(tex: Tensor, max_mip_level: int | None = None, cube_mode: bool = False) -> _MipStack:
    """Build the mip levels of a texture that does not change, for the argument ``mip`` of :func:`texture`.

    They end at the first with an odd side, as in :func:`texture`.

    Raises:
        ValueError: for wrong types and shapes.
    """
    if tex.ndim >= 4:
        max_mip_level = last_mip_level(tex.shape[-3], tex.shape[-2], max_mip_level, "texture_construct_mip")
    with _errors_in_their_names():
        levels = build_mips(as_float32(tex.detach()), max_mip_level, cube=cube_mode)
    return _MipStack(tuple(levels), tex.shape, cube_mode)


def antialias(
    color: Tensor,
    rast: Tensor,
    pos: Tensor,
    tri: Tensor,
    topology_hash: Topology | None = None,
    pos_gradient_boost: float = 1.0,
) -> Float[Tensor, "views height width channels"]:
    """Blend pixels along silhouettes by the published rule; :func:`unrender.ops.raster.antialias` has a better one.

    Args:
        color: [minibatch, height, width, channels].
        rast: the first result of :func:`rasterize`.
        pos: [minibatch, vertices, 4] in clip space, or [vertices, 4].
        tri: [triangles, 3] rows of vertices.
        topology_hash: from :func:`antialias_construct_topology_hash`; by default it is computed here, on a CPU only when ``tri`` changes.
        pos_gradient_boost: factor of the gradient to ``pos``.

    Raises:
        TypeError: for a topology_hash from elsewhere.
        ValueError: for wrong types, shapes and devices.
    """
    single = _raster_of(rast, "rast", tri)
    if topology_hash is not None and not isinstance(topology_hash, Topology):
        raise TypeError(f"topology_hash comes from antialias_construct_topology_hash, got {type(topology_hash).__name__}")
    with _errors_in_their_names():
        visible = unpack_visibility(single, tri.shape[0])
        boost = float(pos_gradient_boost)
        smooth = raster.antialias(
            as_float32(color), visible, as_float32(pos), tri, topology_hash, rule="owner", position_gradient_scale=boost
        )
    return like(smooth, color.dtype)


def antialias_construct_topology_hash(tri: Tensor) -> Topology:
    """Find the triangles that share each edge, once for all calls of :func:`antialias` with the same ``tri``."""
    with _errors_in_their_names():
        return edge_topology(tri)
