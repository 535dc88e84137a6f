"""The stand-in for nvdiffrast: its layouts, where its gradients flow, what it refuses, and programs that run on it unchanged."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import unrender.compat
import unrender.compat.nvdiffrast.torch as dr
from raster_scenes import in_clip_space, perspective, sphere, turned
from unrender.compat.nvdiffrast.leniency import set_strict
from unrender.compat.nvdiffrast.packing import face_from_float, float_from_face, pack, unpack
from unrender.compat.without_cuda import cuda_on_cpu
from unrender.ops.raster import Raster, antialias, interpolate_with_derivatives, rasterize, rasterize_layers, texture

PROGRAMS = Path(__file__).parents[1] / "examples"

CONTEXT = dr.RasterizeCudaContext()


def scene(views: int = 2) -> tuple[Tensor, Tensor]:
    """Clip positions [views, vertices, 4] of a sphere, and its triangles."""
    vertices, faces = sphere(2)
    return torch.stack([in_clip_space(vertices, perspective() @ turned(0.3 + k, 0.2, 4.0)) for k in range(views)]), faces


# Layouts


def test_a_raster_is_packed_as_weights_depth_and_triangle_plus_one() -> None:
    pos, tri = scene()
    rast, rast_db = dr.rasterize(CONTEXT, pos, tri, (40, 56))
    raster = rasterize(pos, tri, (40, 56), derivatives=True)
    assert rast.shape == rast_db.shape == (2, 40, 56, 4)
    assert rast.is_contiguous() and rast.dtype == torch.float32
    assert torch.equal(rast[..., :2], raster.barycentrics)
    assert torch.equal(rast[..., 2], raster.depth)
    assert torch.equal(rast[..., 3].int() - 1, raster.face)
    assert raster.barycentric_derivatives is not None and torch.equal(rast_db, raster.barycentric_derivatives)
    empty = rast[..., 3] == 0
    assert 0 < empty.float().mean() < 1
    assert not rast[empty].any() and not rast_db[empty].any()


def test_weights_and_depth_stay_in_their_range() -> None:
    pos, tri = scene()
    rast, _ = dr.rasterize(CONTEXT, pos, tri, (64, 64))
    assert 0 <= rast[..., :2].min() and rast[..., :2].max() <= 1 and rast[..., :2].sum(-1).max() <= 1
    assert rast[..., 2].abs().max() <= 1


def test_row_0_is_where_y_is_smallest() -> None:
    low = torch.tensor([[[-1.0, -1.0, 0.0, 1.0], [1.0, -1.0, 0.0, 1.0], [0.0, -0.5, 0.0, 1.0]]])
    rast, _ = dr.rasterize(CONTEXT, low, torch.tensor([[0, 1, 2]], dtype=torch.int32), (8, 8))
    assert rast[0, 0, :, 3].any() and not rast[0, 4:, :, 3].any()


def test_range_mode_draws_its_triangles_into_each_image() -> None:
    pos, tri = scene(1)
    ranges = torch.tensor([[0, 40], [40, 88], [8, 0]], dtype=torch.int32)
    rast, rast_db = dr.rasterize(CONTEXT, pos[0], tri, (32, 32), ranges=ranges)
    assert rast.shape == rast_db.shape == (3, 32, 32, 4)
    assert torch.equal(rast[..., 3].int() - 1, rasterize(pos[0], tri, (32, 32), ranges).face)
    values, _ = dr.interpolate(torch.ones(pos.shape[1], 1), rast, tri)
    assert torch.equal(values[..., 0] > 0.5, rast[..., 3] > 0)
    assert not rast[2].any()


def test_triangle_numbers_are_exact_and_in_order_beyond_what_a_float_counts() -> None:
    face = torch.tensor([-1, 0, 1, 2**24 - 2, 2**24 - 1, 2**24, 2**24 + 1, 2**24 + 2, 2**25 + 1, 2**29 + 7], dtype=torch.int32)
    channel = float_from_face(face, 2**30)
    assert torch.equal(face_from_float(channel, 2**30), face)
    assert (channel.diff() > 0).all() and channel.isfinite().all()
    assert channel[:5].tolist() == [0.0, 1.0, 2.0, 2.0**24 - 1, 2.0**24]
    bits = channel.view(torch.int32)
    assert bits[4:8].tolist() == [0x4B800000, 0x4B800001, 0x4B800002, 0x4B800003]


def test_small_meshes_are_packed_as_large_ones() -> None:
    face = torch.randint(-1, 1000, (1, 5, 7), dtype=torch.int32)
    assert torch.equal(float_from_face(face, 1000), float_from_face(face, 2**25))
    assert torch.equal(face_from_float(float_from_face(face, 1000), 2**25), face)


@pytest.mark.parametrize("crop", [(slice(None), slice(None)), (slice(1, 5), slice(1, 6)), (slice(None), slice(0, 8, 2))])
def test_unpacking_gives_back_what_was_packed(crop: tuple[slice, slice]) -> None:
    face = torch.randint(-1, 50, (2, 6, 8), dtype=torch.int32)
    raster = Raster(face, torch.rand(2, 6, 8, 2), torch.rand(2, 6, 8))
    where = (slice(None), *crop)
    again = unpack(pack(raster, 50)[where], 50)
    assert torch.equal(again.face, face[where])
    assert torch.equal(again.barycentrics, raster.barycentrics[where])
    assert torch.equal(again.depth, raster.depth[where])


def test_interpolate_returns_derivatives_of_the_channels_asked_for() -> None:
    pos, tri = scene()
    attr = torch.randn(1, pos.shape[1], 5)
    rast, rast_db = dr.rasterize(CONTEXT, pos, tri, (24, 24))
    values, every = dr.interpolate(attr, rast, tri, rast_db=rast_db, diff_attrs="all")
    assert values.shape == (2, 24, 24, 5) and every.shape == (2, 24, 24, 10)
    _, some = dr.interpolate(attr, rast, tri, rast_db=rast_db, diff_attrs=[3, -5])
    assert torch.equal(some, every[..., [6, 7, 0, 1]])
    for unasked in (
        dr.interpolate(attr, rast, tri),
        dr.interpolate(attr, rast, tri, rast_db),
        dr.interpolate(attr, rast, tri, None, "all"),
    ):
        assert torch.equal(unasked[0], values)
        assert unasked[1].shape == (2, 24, 24, 0)


def test_a_mip_stack_replaces_the_levels_of_its_texture() -> None:
    tex, uv, bias = torch.rand(1, 16, 16, 3), torch.rand(1, 9, 9, 2), 4 * torch.rand(1, 9, 9)
    stack = dr.texture_construct_mip(tex)
    assert torch.equal(dr.texture(tex, uv, mip_level_bias=bias, mip=stack), dr.texture(tex, uv, mip_level_bias=bias))
    short = dr.texture_construct_mip(tex, max_mip_level=1)
    assert torch.equal(dr.texture(tex, uv, mip_level_bias=bias, mip=short), dr.texture(tex, uv, mip_level_bias=bias, max_mip_level=1))
    none = dr.texture_construct_mip(tex, max_mip_level=0)
    assert torch.equal(dr.texture(tex, uv, mip_level_bias=bias, mip=none), dr.texture(tex, uv))


def test_a_cube_map_has_a_mip_stack() -> None:
    tex, directions, bias = torch.rand(1, 6, 8, 8, 3), torch.randn(1, 9, 9, 3), 3 * torch.rand(1, 9, 9)
    stack = dr.texture_construct_mip(tex, cube_mode=True)
    by_stack = dr.texture(tex, directions, mip_level_bias=bias, mip=stack, boundary_mode="cube")
    assert torch.equal(by_stack, dr.texture(tex, directions, mip_level_bias=bias, boundary_mode="cube"))


def test_a_topology_made_once_changes_nothing() -> None:
    pos, tri = scene()
    rast, _ = dr.rasterize(CONTEXT, pos, tri, (32, 32))
    color = torch.rand(2, 32, 32, 3)
    assert torch.equal(dr.antialias(color, rast, pos, tri, dr.antialias_construct_topology_hash(tri)), dr.antialias(color, rast, pos, tri))


def test_the_log_level_is_kept() -> None:
    assert dr.get_log_level() == 1
    dr.set_log_level(3)
    assert dr.get_log_level() == 3
    dr.set_log_level(1)


def test_an_opengl_context_is_as_good_as_the_other() -> None:
    pos, tri = scene()
    context = dr.RasterizeGLContext(output_db=False, mode="manual", device="cpu")
    context.set_context()
    for one, other in zip(dr.rasterize(context, pos, tri, (16, 16)), dr.rasterize(CONTEXT, pos, tri, (16, 16)), strict=True):
        assert torch.equal(one, other)
    context.release_context()


def test_strides_and_integers_of_any_kind_are_accepted() -> None:
    pos, tri = scene()
    rast, rast_db = dr.rasterize(CONTEXT, pos.mT.contiguous().mT, tri.T.long().contiguous().T, (24, 32))
    for one, other in zip((rast, rast_db), dr.rasterize(CONTEXT, pos, tri, (24, 32)), strict=True):
        assert torch.equal(one, other)
    attr = torch.rand(pos.shape[1], 3)
    color, _ = dr.interpolate(attr.T.contiguous().T, rast.movedim(-1, 0).contiguous().movedim(0, -1), tri)
    assert torch.equal(color, dr.interpolate(attr, rast, tri)[0])
    smooth = dr.antialias(color.movedim(-1, 0).contiguous().movedim(0, -1), rast.transpose(1, 2).contiguous().transpose(1, 2), pos, tri)
    assert torch.equal(smooth, dr.antialias(color, rast, pos, tri))
    crop = rast[:, 3:20, 5:]
    assert torch.equal(dr.interpolate(attr, crop, tri)[0], color[:, 3:20, 5:])


# Agreement with the functions behind it


def test_a_picture_and_its_gradients_are_those_of_the_primitives() -> None:
    pos, tri = scene()
    start = [pos, torch.rand(1, pos.shape[1], 2), torch.rand(1, 16, 16, 3)]
    cotangent = torch.randn(2, 48, 48, 3)

    def theirs(pos: Tensor, uv: Tensor, tex: Tensor) -> Tensor:
        rast, rast_db = dr.rasterize(CONTEXT, pos, tri, (48, 48))
        at, at_da = dr.interpolate(uv, rast, tri, rast_db=rast_db, diff_attrs="all")
        return dr.antialias(dr.texture(tex, at, at_da), rast, pos, tri, pos_gradient_boost=2.0)

    def ours(pos: Tensor, uv: Tensor, tex: Tensor) -> Tensor:
        raster = rasterize(pos, tri, (48, 48), derivatives=True)
        color = texture(tex, *interpolate_with_derivatives(uv, raster, tri))
        return antialias(color, raster, pos, tri, rule="owner", position_gradient_scale=2.0)

    results = []
    for program in (theirs, ours):
        inputs = [tensor.clone().requires_grad_() for tensor in start]
        picture = program(*inputs)
        results.append([picture, *torch.autograd.grad(picture, inputs, cotangent)])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


# Where gradients flow


def gradient(output: Tensor, *inputs: Tensor) -> list[Tensor | None]:
    """Return the gradient of a random weighting of the output; None where there is none."""
    if not output.requires_grad:
        return [None] * len(inputs)
    return list(torch.autograd.grad(output, inputs, torch.randn_like(output), allow_unused=True))


def flows(tensor: Tensor | None) -> bool:
    return tensor is not None and bool(tensor.any())


@pytest.mark.parametrize(
    "part, arrives",
    [
        (lambda rast, rast_db: rast[..., :2], True),
        (lambda rast, rast_db: rast[..., 2], False),
        (lambda rast, rast_db: rast[..., 3], False),
        (lambda rast, rast_db: rast_db, True),
    ],
    ids=["weights", "depth", "triangle", "derivatives"],
)
def test_rasterize_passes_gradients_from_weights_and_their_derivatives_to_x_y_and_w(
    part: Callable[[Tensor, Tensor], Tensor], arrives: bool
) -> None:
    pos, tri = scene()
    pos.requires_grad_()
    (to_pos,) = gradient(part(*dr.rasterize(CONTEXT, pos, tri, (32, 32))), pos)
    assert flows(to_pos) == arrives
    if to_pos is not None and arrives:
        assert all(flows(to_pos[..., k]) for k in (0, 1, 3)) and not flows(to_pos[..., 2])


def test_without_grad_db_derivatives_have_no_gradient_and_the_same_value() -> None:
    pos, tri = scene()
    pos.requires_grad_()
    rast, rast_db = dr.rasterize(CONTEXT, pos, tri, (32, 32), grad_db=False)
    assert not rast_db.requires_grad and rast.requires_grad
    assert torch.equal(rast_db, dr.rasterize(CONTEXT, pos, tri, (32, 32))[1])


def test_interpolate_passes_gradients_to_attributes_weights_and_derivatives() -> None:
    pos, tri = scene()
    rast, rast_db = (tensor.requires_grad_() for tensor in dr.rasterize(CONTEXT, pos, tri, (32, 32)))
    attr = torch.randn(1, pos.shape[1], 3, requires_grad=True)
    values, slopes = dr.interpolate(attr, rast, tri, rast_db=rast_db, diff_attrs=[0])
    to_attr, to_rast, to_rast_db = gradient(values, attr, rast, rast_db)
    assert flows(to_attr) and to_rast is not None and not flows(to_rast_db)
    assert flows(to_rast[..., 0]) and flows(to_rast[..., 1]) and not flows(to_rast[..., 2:])
    to_attr, to_rast, to_rast_db = gradient(slopes, attr, rast, rast_db)
    assert flows(to_attr) and not flows(to_rast) and flows(to_rast_db)


@pytest.mark.parametrize(
    "filter_mode, reached",
    [
        ("nearest", "tex"),
        ("linear", "tex uv"),
        ("linear-mipmap-nearest", "tex uv"),
        ("linear-mipmap-linear", "tex uv uv_da bias"),
        ("auto", "tex uv uv_da bias"),
    ],
)
@pytest.mark.parametrize("cube_map", [False, True], ids=["flat", "cube"])
def test_texture_passes_gradients_to_what_the_filter_depends_on(filter_mode: str, reached: str, cube_map: bool) -> None:
    axes = 3 if cube_map else 2
    given = {
        "tex": torch.rand(1, 6, 16, 16, 3) if cube_map else torch.rand(1, 16, 16, 3),
        "uv": torch.rand(1, 12, 12, axes) + 0.1,
        "uv_da": 0.1 * torch.randn(1, 12, 12, 2 * axes),
        "bias": 0.2 * torch.randn(1, 12, 12),
    }
    inputs = [tensor.requires_grad_() for tensor in given.values()]
    picture = dr.texture(*inputs, filter_mode=filter_mode, boundary_mode="cube" if cube_map else "wrap")  # pyright: ignore[reportArgumentType]
    found = [name for name, value in zip(given, gradient(picture, *inputs), strict=True) if flows(value)]
    assert found == reached.split()


def test_a_mip_stack_hands_its_gradients_to_the_texture_and_a_list_keeps_them() -> None:
    tex, uv, bias = torch.rand(1, 16, 16, 3, requires_grad=True), torch.rand(1, 9, 9, 2), 4 * torch.rand(1, 9, 9)
    cotangent = torch.randn(1, 9, 9, 3)
    (expected,) = torch.autograd.grad(dr.texture(tex, uv, mip_level_bias=bias), tex, cotangent)
    stack = dr.texture_construct_mip(tex)
    for _ in range(2):  # a stack serves any number of steps
        (found,) = torch.autograd.grad(dr.texture(tex, uv, mip_level_bias=bias, mip=stack), tex, cotangent)
        torch.testing.assert_close(found, expected)
    own = [torch.rand(1, 8, 8, 3, requires_grad=True), torch.rand(1, 4, 4, 3, requires_grad=True)]
    to_base, *to_own = gradient(dr.texture(tex, uv, mip_level_bias=bias, mip=own), tex, *own)
    assert all(flows(value) for value in to_own)
    (alone,) = gradient(dr.texture(tex, uv, mip_level_bias=torch.full_like(bias, 2.0), mip=own), tex)
    assert flows(to_base) and not flows(alone)


def test_antialias_passes_gradients_to_colors_and_to_x_y_and_w_of_outlines() -> None:
    pos, tri = scene()
    rast, _ = dr.rasterize(CONTEXT, pos, tri, (32, 32))
    rast.requires_grad_()
    pos.requires_grad_()
    color = torch.rand(2, 32, 32, 3, requires_grad=True)
    to_color, to_pos, to_rast = gradient(dr.antialias(color, rast, pos, tri), color, pos, rast)
    assert flows(to_color) and to_pos is not None and to_rast is None
    assert all(flows(to_pos[..., k]) for k in (0, 1, 3)) and not flows(to_pos[..., 2])


def test_pos_gradient_boost_multiplies_the_gradient_to_positions_only() -> None:
    pos, tri = scene()
    rast, _ = dr.rasterize(CONTEXT, pos, tri, (32, 32))
    inputs = [torch.rand(2, 32, 32, 3, requires_grad=True), pos.requires_grad_()]
    cotangent = torch.randn(2, 32, 32, 3)

    def gradients(boost: float) -> tuple[Tensor, ...]:
        return torch.autograd.grad(dr.antialias(inputs[0], rast, inputs[1], tri, pos_gradient_boost=boost), inputs, cotangent)

    once, thrice = gradients(1.0), gradients(3.0)
    assert torch.equal(once[0], thrice[0])
    torch.testing.assert_close(3 * once[1], thrice[1])


@pytest.mark.parametrize("start", ["pos", "attr", "tex"])
def test_a_second_derivative_is_refused_whatever_it_is_taken_by(start: str) -> None:
    pos, tri = scene(1)
    inputs = {
        "pos": pos.requires_grad_(),
        "attr": torch.rand(1, pos.shape[1], 2).requires_grad_(),
        "tex": torch.rand(1, 8, 8, 1).requires_grad_(),
    }
    rast, rast_db = dr.rasterize(CONTEXT, pos, tri, (16, 16))
    uv, uv_da = dr.interpolate(inputs["attr"], rast, tri, rast_db=rast_db, diff_attrs="all")
    picture = dr.texture(inputs["tex"], uv, uv_da, mip=dr.texture_construct_mip(inputs["tex"]))
    (first,) = torch.autograd.grad(picture.square().sum(), inputs[start], create_graph=True)
    for other in inputs.values():
        with pytest.raises(RuntimeError, match="has a first derivative only"):
            torch.autograd.grad(first.sum(), other, retain_graph=True)


# Depth peeling


def nested() -> tuple[Tensor, Tensor]:
    """Two spheres, one inside the other: four layers in the middle."""
    vertices, faces = sphere(2)
    both = torch.cat([vertices, 0.5 * vertices])
    return in_clip_space(both, perspective() @ turned(0.3, 0.2, 4.0))[None], torch.cat([faces, faces + len(vertices)])


def test_layers_are_peeled_from_near_to_far() -> None:
    pos, tri = nested()
    pos.requires_grad_()
    context = dr.RasterizeCudaContext()
    with dr.DepthPeeler(context, pos, tri, [32, 32]) as peeler:
        layers = [peeler.rasterize_next_layer() for _ in range(5)]
    for (rast, rast_db), expected in zip(layers, rasterize_layers(pos, tri, (32, 32), layers=5, derivatives=True), strict=True):
        assert torch.equal(rast[..., 3].int() - 1, expected.face)
        assert torch.equal(rast[..., :2], expected.barycentrics)
        assert expected.barycentric_derivatives is not None and torch.equal(rast_db, expected.barycentric_derivatives)
    assert [bool(rast[0, 16, 16, 3]) for rast, _ in layers] == [True] * 4 + [False]
    assert torch.equal(layers[0][0], dr.rasterize(context, pos, tri, (32, 32))[0])
    assert flows(gradient(layers[2][0][..., :2], pos)[0])


def test_a_context_serves_one_peeler_at_a_time_and_nothing_else_meanwhile() -> None:
    pos, tri = nested()
    context = dr.RasterizeCudaContext()
    with dr.DepthPeeler(context, pos, tri, (8, 8)) as peeler:
        with pytest.raises(RuntimeError, match="rasterize_next_layer"):
            dr.rasterize(context, pos, tri, (8, 8))
        with pytest.raises(RuntimeError, match="second context"), dr.DepthPeeler(context, pos, tri, (8, 8)):
            pass
        dr.rasterize(dr.RasterizeCudaContext(), pos, tri, (8, 8))
        peeler.rasterize_next_layer()
    with pytest.raises(RuntimeError, match="with DepthPeeler"):
        peeler.rasterize_next_layer()
    with pytest.raises(KeyError), dr.DepthPeeler(context, pos, tri, (8, 8)):
        raise KeyError
    dr.rasterize(context, pos, tri, (8, 8))


# What is refused, in the words of the caller


@pytest.fixture
def strict() -> Iterator[None]:
    """Refuse what nvdiffrast refuses."""
    set_strict(True)
    yield
    set_strict(False)


POS, TRI = torch.zeros(1, 3, 4), torch.tensor([[0, 1, 2]], dtype=torch.int32)
RAST, COLOR = torch.zeros(1, 4, 4, 4), torch.zeros(1, 4, 4, 3)
UV = torch.zeros(1, 4, 4, 2)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: dr.rasterize(CONTEXT, POS[0], TRI, (4, 4)), "pos is .minibatch, vertices, 4. without ranges"),
        (lambda: dr.rasterize(CONTEXT, POS[0], TRI, (4, 4), torch.tensor([0, 1])), "ranges is .minibatch, 2."),
        (lambda: dr.rasterize(CONTEXT, POS[0], TRI, (4, 4), torch.tensor([[0, 2]])), "2 triangles from face 0|range of view 0"),
        (lambda: dr.rasterize(CONTEXT, POS.double(), TRI, (4, 4)), "as pos, got float64"),
        (lambda: dr.rasterize(CONTEXT, POS, TRI + 1, (4, 4)), "vertex 3 as corner 2 of face 0"),
        (lambda: dr.rasterize(CONTEXT, POS, TRI, (4, 0)), "from 1 to"),
        (lambda: dr.rasterize(CONTEXT, POS, TRI, (4,)), "height, width"),
        (lambda: dr.RasterizeGLContext(mode="both"), "automatic"),
        (lambda: dr.interpolate(torch.zeros(1, 3, 2), RAST[0], TRI), "rast is float32"),
        (lambda: dr.interpolate(torch.zeros(1, 3, 2), RAST, TRI, RAST[..., :2], "all"), "rast_db is float32"),
        (
            lambda: dr.interpolate(torch.zeros(1, 3, 2), RAST, TRI, RAST, [2]),
            "^interpolate takes an integer from -2 to 1 as a channel, got 2",
        ),
        (lambda: dr.interpolate(torch.zeros(2, 3, 2), RAST, TRI), "1 view or 1, as rast has, as attr, got 2"),
        (lambda: dr.interpolate(torch.zeros(1, 3, 2).double(), RAST, TRI), "as attr, got float64"),
        (lambda: dr.texture(COLOR, UV, uv_da=UV), "uv_da"),
        (lambda: dr.texture(COLOR, UV, mip_level_bias=UV), "mip_level_bias"),
        (lambda: dr.texture(COLOR, UV, filter_mode="linear-mipmap-linear"), "uv_da or mip_level_bias"),
        (lambda: dr.texture(COLOR[:, :3], UV, mip_level_bias=UV[..., 0]), "max_mip_level"),
        (lambda: dr.texture_construct_mip(COLOR[:, :3]), "max_mip_level"),
        (lambda: dr.texture(COLOR, UV, mip_level_bias=UV[..., 0], mip=dr.texture_construct_mip(COLOR[:, :2])), "build it from this tex"),
        (lambda: dr.antialias(COLOR, RAST[..., :2], POS, TRI), "rast is float32"),
        (lambda: dr.antialias(COLOR, RAST, POS, TRI, dr.antialias_construct_topology_hash(TRI.repeat(2, 1))), "topology_hash"),
        (lambda: dr.antialias(COLOR.double(), RAST, POS, TRI), "as color, got float64"),
        (lambda: dr.antialias(COLOR, RAST, POS, TRI, pos_gradient_boost=float("nan")), "pos_gradient_boost"),
    ],
)
@pytest.mark.cpu
def test_wrong_arguments_are_named(call: Callable[[], object], message: str, strict: None) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        call()
    names = r"clip_positions|build_mips|with_derivatives|uv_derivatives|(?<!mip_)level_bias|\bmax_level|edge_topology|position_gradient"
    assert not re.search(names, str(caught.value))


def test_arguments_of_another_type_are_named() -> None:
    """In a process of its own: the tests' type checker would refuse them first."""
    run_python(
        "-c",
        """
import re, torch
import unrender.compat.nvdiffrast.torch as dr
context, pos, tri = dr.RasterizeCudaContext(), torch.zeros(1, 3, 4), torch.tensor([[0, 1, 2]], dtype=torch.int32)
rast, color, uv, attr = torch.zeros(1, 4, 4, 4), torch.zeros(1, 4, 4, 3), torch.zeros(1, 4, 4, 2), torch.zeros(1, 3, 2)
for call, message in (
    (lambda: dr.rasterize(None, pos, tri, (4, 4)), "RasterizeCudaContext.*NoneType"),
    (lambda: dr.DepthPeeler(None, pos, tri, (4, 4)), "RasterizeCudaContext"),
    (lambda: dr.rasterize(context, pos.numpy(), tri, (4, 4)), "pos is a tensor, got ndarray"),
    (lambda: dr.rasterize(context, pos[..., :3], tri, (4, 4)), "as pos, got float32 .1, 3, 3"),
    (lambda: dr.rasterize(context, pos, tri.float(), (4, 4)), "as triangles, got float32"),
    (lambda: dr.rasterize(context, pos[0], tri, (4, 4), [[0, 1]]), "ranges is an int32 tensor"),
    (lambda: dr.interpolate(attr, rast, tri, rast, "some"), "diff_attrs"),
    (lambda: dr.texture(color, uv, filter_mode="cubic"), "cubic"),
    (lambda: dr.texture(color, uv, boundary_mode="mirror"), "mirror"),
    (lambda: dr.antialias(color, rast, pos, tri, tri), "antialias_construct_topology_hash, got Tensor"),
):
    try:
        call()
    except (TypeError, ValueError) as error:
        assert re.search(message, str(error)), (message, error)
    else:
        raise AssertionError(message)
""",
    )


def test_an_empty_mesh_and_broken_vertices_give_background() -> None:
    rast, _ = dr.rasterize(CONTEXT, POS, TRI[:0], (4, 4))
    assert rast.shape == (1, 4, 4, 4) and not rast.any()
    pos, tri = scene(1)
    pos[0, 3] = float("nan")
    rast, _ = dr.rasterize(CONTEXT, pos, tri, (16, 16))
    assert rast.isfinite().all() and rast[..., 3].any()


# Under the name of nvdiffrast


def run_python(*arguments: str, cwd: Path | None = None) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *arguments], check=False, capture_output=True, text=True, cwd=cwd, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_install_is_lazy_and_gives_one_module_by_two_names() -> None:
    run_python(
        "-c",
        """
import importlib.util, sys
assert importlib.util.find_spec("nvdiffrast") is None
import unrender.compat
assert unrender.compat.install() and unrender.compat.install()
assert len([finder for finder in sys.meta_path if type(finder).__module__ == "unrender.compat"]) == 1
assert "torch" not in sys.modules and "nvdiffrast" not in sys.modules and "unrender.compat.nvdiffrast" not in sys.modules
import nvdiffrast
assert nvdiffrast.__version__ == "0.4.0" and "torch" not in sys.modules
import nvdiffrast.torch as dr
from nvdiffrast import torch as again
from nvdiffrast.torch import rasterize
import unrender.compat.nvdiffrast.torch as ours
assert dr is again is ours is nvdiffrast.torch and rasterize is ours.rasterize
assert dr.__spec__.name == dr.__name__ == "unrender.compat.nvdiffrast.torch"
""",
    )


def test_an_installed_nvdiffrast_is_left_alone_unless_it_is_to_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "nvdiffrast").mkdir()
    (tmp_path / "nvdiffrast" / "__init__.py").write_text("")
    (tmp_path / "nvdiffrast" / "torch.py").write_text("real = True\n")
    run_python(
        "-c",
        """
import unrender.compat
assert not unrender.compat.install()
import nvdiffrast.torch as dr
assert dr.real
assert not unrender.compat.install()
assert unrender.compat.install(replace=True)
import nvdiffrast as ours
assert ours.__name__ == "unrender.compat.nvdiffrast" and dr.real
""",
        cwd=tmp_path,
    )


def test_a_program_runs_from_the_command_line_as_it_is() -> None:
    program = PROGRAMS / "nvdiffrast_envphong.py"
    printed = run_python("-m", "unrender.compat", str(program), "--steps", "2", "--resolution", "24", "--detail", "6", "--env-size", "4")
    assert re.search(r"step 2: phong_rgb_rmse=0\.\d+ phong_exp_rel_err=0\.\d+", printed)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    assert unrender.compat.install()
    yield
    for name in ("nvdiffrast", "nvdiffrast.torch"):
        sys.modules.pop(name, None)


def test_a_program_that_finds_a_pose_runs_as_it_is(
    installed: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["pose", "--steps", "40", "--resolution", "32", "--seed", "3", "--log-interval", "20"])
    runpy.run_path(str(PROGRAMS / "nvdiffrast_pose.py"), run_name="__main__")
    losses = [float(value) for value in re.findall(r"loss=(\S+)", capsys.readouterr().out)]
    assert len(losses) == 2 and losses[1] < losses[0]


def test_a_program_that_names_a_gpu_runs_where_there_is_none() -> None:
    pos, tri = scene(1)
    with cuda_on_cpu():
        glctx = dr.RasterizeCudaContext(device="cuda")
        model = torch.nn.Sequential(torch.nn.Linear(4, 4)).cuda().to("cuda")
        vertices = torch.as_tensor(pos, device="cuda:0").to(0).to(dtype=torch.float32, device=torch.device("cuda"), non_blocking=True)
        background = torch.ones(1, 16, 16, 1, device="cuda")
        rast, _ = dr.rasterize(glctx, model(vertices), tri.cuda(), (16, 16))
        loss = (dr.antialias(background, rast, model(vertices), tri.to("cuda")) - rast[..., :1]).square().mean()
        loss.backward()
        assert {tensor.device.type for tensor in (vertices, background, rast, *model.parameters())} == {"cpu"}
        assert torch.zeros(2).to(torch.int64).dtype == torch.int64 and torch.zeros(2, device="meta").device.type == "meta"
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_what_a_cpu_gives() -> None:
    pos, tri = scene()
    attr, cotangent = torch.rand(1, pos.shape[1], 3), torch.randn(2, 48, 48, 3)
    results = []
    for device in ("cpu", "cuda"):
        inputs = [pos.to(device).requires_grad_(), attr.to(device).requires_grad_()]
        rast, _ = dr.rasterize(dr.RasterizeCudaContext(device), inputs[0], tri.to(device), (48, 48))
        color, _ = dr.interpolate(inputs[1], rast, tri.to(device))
        picture = dr.antialias(color, rast, inputs[0], tri.to(device))
        results.append([rast, picture, *torch.autograd.grad(picture, inputs, cotangent.to(device))])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(other.cpu(), one, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_environment_and_highlight_are_recovered(
    installed: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["envphong", "--steps", "600"])
    runpy.run_path(str(PROGRAMS / "nvdiffrast_envphong.py"), run_name="__main__")
    found = re.search(r"step 600: phong_rgb_rmse=(\S+) phong_exp_rel_err=(\S+)", capsys.readouterr().out)
    assert found is not None and float(found[1]) < 0.01 and float(found[2]) < 0.05


@pytest.mark.slow
def test_pose_of_a_cube_is_found_from_most_starts(installed: None) -> None:
    """Greedy search, then Adam, as published: 1,000 steps at 256 pixels."""
    find_pose = runpy.run_path(str(PROGRAMS / "nvdiffrast_pose.py"), run_name="program")["find_pose"]
    errors = [find_pose(seed, 1000, 256, 0) for seed in range(10)]
    assert sum(error < 0.1 for error in errors) >= 7, errors


@pytest.mark.slow
def test_better_search_finds_nearly_every_pose() -> None:
    example = runpy.run_path(str(PROGRAMS / "10_recover_a_pose.py"), run_name="program")
    truths = torch.randn(20, 4)
    targets = [example["render"](truth[None], example["SIZE"])[0] for truth in truths]
    errors = [example["degrees_between"](example["find"](target, 40)[1], truth) for target, truth in zip(targets, truths, strict=True)]
    assert sum(error < 0.1 for error in errors) >= 19, errors
