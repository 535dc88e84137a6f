"""Inputs that nvdiffrast refuses and the stand-in accepts: other float types, mip levels of odd sides, ranges beside a minibatch."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import unrender.compat.nvdiffrast.torch as dr
from raster_scenes import in_clip_space, perspective, sphere, turned
from unrender.compat.nvdiffrast.leniency import last_mip_level, set_strict

CONTEXT = dr.RasterizeCudaContext()
OTHER_TYPES = [torch.float16, torch.bfloat16, torch.float64]


@pytest.fixture
def strict() -> Iterator[None]:
    set_strict(True)
    yield
    set_strict(False)


def inputs(dtype: torch.dtype) -> list[Tensor]:
    """Positions, texture coordinates and a texture that every float type represents exactly."""
    vertices, _ = sphere(2)
    pos = in_clip_space(vertices, perspective() @ turned(0.3, 0.2, 4.0))[None]
    uv, tex = torch.rand(1, pos.shape[1], 2), torch.rand(1, 16, 16, 3)
    return [tensor.to(torch.bfloat16).to(dtype).requires_grad_() for tensor in (pos, uv, tex)]


def picture(pos: Tensor, uv: Tensor, tex: Tensor) -> tuple[Tensor, Tensor]:
    """Return the picture of a textured sphere, and its raster."""
    tri = sphere(2)[1]
    rast, rast_db = dr.rasterize(CONTEXT, pos, tri, (32, 32))
    at, at_da = dr.interpolate(uv, rast, tri, rast_db=rast_db, diff_attrs="all")
    assert at.dtype == at_da.dtype == uv.dtype
    return dr.antialias(dr.texture(tex, at, at_da), rast, pos, tri), rast


@pytest.mark.parametrize("dtype", OTHER_TYPES, ids=str)
def test_results_and_gradients_return_in_the_type_of_the_caller(dtype: torch.dtype) -> None:
    given, reference = inputs(dtype), inputs(torch.float32)
    for theirs, ours in zip(given, reference, strict=True):
        ours.data = theirs.detach().float()
    (found, rast), (expected, rast32) = picture(*given), picture(*reference)
    cotangent = torch.randn(1, 32, 32, 3).to(torch.bfloat16)
    found.backward(cotangent.to(dtype))
    expected.backward(cotangent.float())
    tolerance = {torch.float16: 0.02, torch.bfloat16: 0.1, torch.float64: 1e-6}[dtype]
    assert found.dtype == dtype and rast.dtype == (dtype if dtype == torch.float64 else torch.float32)
    assert torch.equal(rast.float(), rast32)
    assert (found.float() - expected).abs().mean() < tolerance * expected.abs().mean()
    assert given[2].grad is not None and reference[2].grad is not None
    assert (given[2].grad.float() - reference[2].grad).abs().mean() < 3 * tolerance * reference[2].grad.abs().mean()
    for theirs in given:
        assert theirs.grad is not None and theirs.grad.dtype == dtype and theirs.grad.isfinite().all() and theirs.grad.any()


def test_half_positions_keep_the_numbers_of_many_triangles() -> None:
    corners = torch.tensor([[-1.0, -1, 0, 1], [3, -1, 0, 1], [-1, 3, 0, 1]]).half()
    tri = torch.zeros(5000, 3, dtype=torch.int32)
    tri[4097] = torch.tensor([0, 1, 2])
    rast, _ = dr.rasterize(CONTEXT, corners[None], tri, (2, 2))
    assert torch.equal(rast[..., 3], torch.full((1, 2, 2), 4098.0))
    with pytest.raises(ValueError, match="rast is torch.float16, which cannot number 5000 triangles"):
        dr.interpolate(torch.rand(1, 3, 1), rast.half(), tri)


def test_types_may_be_mixed() -> None:
    pos, uv, tex = inputs(torch.float32)
    expected, _ = picture(pos, uv, tex)
    found, _ = picture(pos.double(), uv, tex)
    assert found.dtype == torch.float32 and torch.equal(found, expected)
    bias = torch.full((1, 4, 4), 0.5, dtype=torch.float64)
    levels = [level.double() for level in dr.texture_construct_mip(tex).levels]
    at = torch.rand(1, 4, 4, 2)
    assert torch.equal(dr.texture(tex, at.double(), mip_level_bias=bias, mip=levels), dr.texture(tex, at, mip_level_bias=bias.float()))
    assert dr.texture(tex.double(), at, mip_level_bias=bias, mip=dr.texture_construct_mip(tex.double())).dtype == torch.float64


def test_autocast_changes_no_picture() -> None:
    given = inputs(torch.float32)
    expected, _ = picture(*given)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype=dtype):
            found, rast = picture(*given)
            assert torch.equal(found, expected) and rast.dtype == torch.float32
            found.sum().backward()
    with torch.inference_mode():
        assert torch.equal(picture(*given)[0], expected)


def test_strict_refuses_other_types(strict: None) -> None:
    for dtype in OTHER_TYPES:
        with pytest.raises(ValueError, match=r"rasterize takes float32 \[views, vertices, 4\] or \[vertices, 4\] as pos, got "):
            picture(*inputs(dtype))


@pytest.mark.parametrize(
    "sides, last",
    [((16, 16), None), ((48, 16), 4), ((12, 6), 1), ((3, 5), 0), ((1, 8), None), ((1, 3), 0), ((2, 6), 1), ((1, 1), None), ((64, 40), 3)],
)
def test_mip_levels_end_at_an_odd_side_with_a_warning(sides: tuple[int, int], last: int | None) -> None:
    tex, uv, bias = torch.rand(1, *sides, 2, requires_grad=True), torch.rand(1, 5, 5, 2), 9 * torch.rand(1, 5, 5)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = dr.texture(tex, uv, mip_level_bias=bias)
        by_stack = dr.texture(tex, uv, mip_level_bias=bias, mip=dr.texture_construct_mip(tex))
    assert len(caught) == (0 if last is None else 2)
    assert all(f"pass max_mip_level={last}" in str(warning.message) for warning in caught)
    assert torch.equal(found, by_stack) and torch.equal(found, dr.texture(tex, uv, mip_level_bias=bias, max_mip_level=last))
    found.sum().backward()
    assert tex.grad is not None and tex.grad.any()


def test_a_limit_that_can_be_reached_warns_of_nothing() -> None:
    assert last_mip_level(12, 6, 1, "texture") == 1 and last_mip_level(3, 5, 0, "texture") == 0
    dr.texture(torch.rand(1, 3, 5, 1), torch.rand(1, 2, 2, 2), torch.rand(1, 2, 2, 4), filter_mode="linear")
    dr.texture(torch.rand(1, 6, 6, 6, 1), torch.randn(1, 2, 2, 3), torch.rand(1, 2, 2, 6), boundary_mode="cube", max_mip_level=1)


def test_strict_refuses_odd_sides(strict: None) -> None:
    with pytest.raises(ValueError, match="max_mip_level"):
        dr.texture(torch.rand(1, 12, 6, 1), torch.rand(1, 2, 2, 2), mip_level_bias=torch.ones(1, 2, 2))
    with pytest.raises(ValueError, match="max_mip_level"):
        dr.texture_construct_mip(torch.rand(1, 3, 3, 1))


def test_ranges_are_ignored_beside_a_minibatch() -> None:
    pos, tri = inputs(torch.float32)[0].detach(), sphere(2)[1]
    expected = dr.rasterize(CONTEXT, pos, tri, (16, 16))[0]
    for ranges in (torch.tensor([[0, 4]]), torch.tensor([[0, 10**6], [-1, 0]]), torch.zeros(0, 2)):
        assert torch.equal(dr.rasterize(CONTEXT, pos, tri, (16, 16), ranges)[0], expected)
        with dr.DepthPeeler(CONTEXT, pos, tri, (16, 16), ranges) as peeler:
            assert torch.equal(peeler.rasterize_next_layer()[0], expected)
