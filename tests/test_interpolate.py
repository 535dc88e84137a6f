"""Interpolation of vertex attributes: kernels against the twin, and laws."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from hostile_world import remade
from raster_scenes import in_clip_space, perspective, sphere, turned
from unrender.ops.raster import Raster, interpolate, interpolate_with_derivatives, rasterize
from unrender.ops.raster.interpolate import _shift
from unrender.reference.interpolate import interpolate as twin
from unrender.reference.interpolate import interpolate_with_derivatives as twin_with_derivatives

CASES = [
    pytest.param(5, 6, 33, 1, 1, None, id="few vertices"),
    pytest.param(40, 70, 33, 3, 2, [-1, 0], id="a mesh for each view"),
    pytest.param(400, 700, 65, 5, 2, [1, 2, 2], id="five channels"),
    pytest.param(20_000, 40_000, 90, 3, 1, [0, 1], id="more vertices than pixels"),
    pytest.param(3, 1, 9, 64, 1, None, id="64 channels"),
]


def _case(vertices: int, face_count: int, side: int, channels: int, attribute_views: int, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    faces = torch.randint(0, vertices, (face_count, 3), generator=generator)
    face = torch.randint(-1, face_count, (2, side, side), generator=generator, dtype=torch.int32)
    corner = torch.rand(2, side, side, 3, generator=generator, dtype=dtype) + 0.01
    barycentrics = (corner / corner.sum(-1, keepdim=True))[..., :2].contiguous().requires_grad_()
    derivatives = torch.randn(2, side, side, 4, generator=generator, dtype=dtype).requires_grad_()
    attributes = torch.randn(attribute_views, vertices, channels, generator=generator, dtype=dtype).requires_grad_()
    return attributes, Raster(face, barycentrics, torch.zeros(2, side, side, dtype=dtype), derivatives), faces, generator


def _derivatives(raster: Raster) -> Tensor:
    assert raster.barycentric_derivatives is not None
    return raster.barycentric_derivatives


@pytest.mark.parametrize("vertices, face_count, side, channels, attribute_views, chosen", CASES)
def test_values_and_gradients_equal_the_twin(vertices, face_count, side, channels, attribute_views, chosen):
    attributes, raster, faces, generator = _case(vertices, face_count, side, channels, attribute_views)
    ours = interpolate_with_derivatives(attributes, raster, faces, chosen)
    theirs = twin_with_derivatives(attributes, raster, faces, chosen)
    inputs = (attributes, raster.barycentrics, _derivatives(raster))
    cotangents = [torch.randn(values.shape, generator=generator) for values in ours]
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)
    for a, b in zip(torch.autograd.grad(ours, inputs, cotangents), torch.autograd.grad(theirs, inputs, cotangents), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_values_alone_equal_the_twin(channels: int):
    attributes, raster, faces, generator = _case(50, 60, 20, channels, 1)
    ours, theirs = interpolate(attributes, raster, faces), twin(attributes, raster, faces)
    cotangent = torch.randn(ours.shape, generator=generator)
    inputs = (attributes, raster.barycentrics)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(torch.autograd.grad(ours, inputs, cotangent), torch.autograd.grad(theirs, inputs, cotangent), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_the_twin_passes_gradcheck():
    attributes, raster, faces, _ = _case(5, 6, 2, 2, 1, torch.float64)

    def run(attributes: Tensor, barycentrics: Tensor, derivatives: Tensor) -> tuple[Tensor, Tensor]:
        changed = dataclasses.replace(raster, barycentrics=barycentrics, barycentric_derivatives=derivatives)
        return twin_with_derivatives(attributes, changed, faces, [1])

    assert torch.autograd.gradcheck(run, (attributes, raster.barycentrics, _derivatives(raster)))


def test_a_constant_is_reproduced_where_there_is_a_triangle():
    attributes, raster, faces, _ = _case(30, 40, 40, 2, 1)
    values, slopes = interpolate_with_derivatives(torch.full_like(attributes, 2.5), raster, faces)
    covered = raster.face >= 0
    assert covered.any() and not covered.all()
    torch.testing.assert_close(values[covered], torch.full_like(values[covered], 2.5))
    assert torch.equal(values[~covered], torch.zeros_like(values[~covered]))
    assert torch.equal(slopes, torch.zeros_like(slopes))


def test_the_gradient_to_the_attributes_sums_to_that_of_the_covered_pixels():
    attributes, raster, faces, generator = _case(400, 700, 65, 3, 1)
    cotangent = torch.randn(2, 65, 65, 3, generator=generator)
    (gradient,) = torch.autograd.grad(interpolate(attributes, raster, faces), attributes, cotangent)
    torch.testing.assert_close(gradient.sum((0, 1)), cotangent[raster.face >= 0].sum(0), atol=1e-3, rtol=1e-4)


def test_the_weight_of_a_corner_is_that_of_the_raster():
    attributes, raster, faces, _ = _case(3, 1, 20, 3, 1)
    faces = torch.tensor([[0, 1, 2]])
    values = interpolate(torch.eye(3), raster, faces)
    covered = raster.face >= 0
    torch.testing.assert_close(values[covered][:, :2], raster.barycentrics[covered], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(values[covered].sum(-1), torch.ones(int(covered.sum())))


def test_derivatives_are_the_differences_of_neighboring_pixels_of_an_affine_field():
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    barycentrics = torch.stack([0.05 * columns + 0.01 * rows, 0.02 * columns + 0.04 * rows], dim=-1)[None]
    slopes = torch.tensor([0.05, 0.01, 0.02, 0.04]).expand(1, 8, 8, 4)
    raster = Raster(torch.zeros(1, 8, 8, dtype=torch.int32), barycentrics, torch.zeros(1, 8, 8), slopes)
    values, derivatives = interpolate_with_derivatives(
        torch.tensor([[1.0, 5.0], [-2.0, 0.0], [0.5, 3.0]]), raster, torch.tensor([[0, 1, 2]])
    )
    torch.testing.assert_close(derivatives[:, :, :-1, 0::2], values[:, :, 1:] - values[:, :, :-1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(derivatives[:, :-1, :, 1::2], values[:, 1:] - values[:, :-1], atol=1e-5, rtol=1e-4)


def test_interpolated_clip_positions_project_back_to_the_pixel_centers():
    """x / w of the interpolated position is the pixel's own x, and its derivative along the picture is one pixel: 2 / width."""
    height, width = 48, 64
    vertices, faces = sphere(2)
    clip = in_clip_space(vertices, perspective(aspect=width / height) @ turned(0.4, -0.3, 4.0))
    raster = rasterize(clip, faces, (height, width), torch.tensor([[0, len(faces)]], dtype=torch.int32), derivatives=True)
    position, slopes = interpolate_with_derivatives(clip, raster, faces)
    covered = raster.face[0] >= 0
    assert covered.sum() > 300
    x, y, _, w = position[0][covered].unbind(-1)
    rows, columns = covered.nonzero(as_tuple=True)
    torch.testing.assert_close(x / w, 2 * (columns + 0.5) / width - 1, atol=1e-5, rtol=0)
    torch.testing.assert_close(y / w, 2 * (rows + 0.5) / height - 1, atol=1e-5, rtol=0)
    torch.testing.assert_close(raster.depth[0][covered], position[0][covered][:, 2] / w, atol=1e-5, rtol=0)
    d_x, d_y, d_w = (slopes[0][covered][:, 2 * k : 2 * k + 2] for k in (0, 1, 3))
    of_x = (d_x - (x / w)[:, None] * d_w) / w[:, None]
    of_y = (d_y - (y / w)[:, None] * d_w) / w[:, None]
    torch.testing.assert_close(of_x, torch.tensor([2 / width, 0.0]).expand_as(of_x), atol=1e-5, rtol=0)
    torch.testing.assert_close(of_y, torch.tensor([0.0, 2 / height]).expand_as(of_y), atol=1e-5, rtol=0)


@pytest.mark.parametrize("vertices", [8, 20_000])
def test_bits_do_not_depend_on_the_number_of_threads(vertices: int):
    attributes, raster, faces, generator = _case(vertices, 2 * vertices, 120, 3, 1)
    cotangent = torch.randn(2, 120, 120, 3, generator=generator)
    threads = torch.get_num_threads()
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append(torch.autograd.grad(interpolate(attributes, raster, faces), (attributes, raster.barycentrics), cotangent))
    torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_both_ways_of_adding_up_are_taken():
    """The tests of bits and of the twin cover both ways only if their sizes choose both."""
    few, many = torch.zeros(1, 8, 3), torch.zeros(1, 20_000, 3)
    assert _shift(few, 2 * 120 * 120) == -1
    assert _shift(many, 2 * 120 * 120) >= 0 and _shift(many, 2 * 90 * 90) >= 0


def test_tensors_that_are_not_contiguous_are_accepted():
    attributes, raster, faces, _ = _case(40, 70, 20, 3, 1)
    strided = Raster(
        raster.face.mT.contiguous().mT,
        torch.stack(raster.barycentrics.unbind(-1)).movedim(0, -1),
        raster.depth,
        torch.stack(_derivatives(raster).unbind(-1)).movedim(0, -1),
    )
    transposed = attributes.mT.contiguous().mT
    expected = interpolate_with_derivatives(attributes, raster, faces)
    for a, b in zip(interpolate_with_derivatives(transposed, strided, faces.mT.contiguous().mT), expected, strict=True):
        assert torch.equal(a, b)


def test_attributes_without_views_serve_all_of_them():
    attributes, raster, faces, _ = _case(40, 70, 20, 3, 1)
    assert torch.equal(interpolate(attributes[0], raster, faces), interpolate(attributes.expand(2, -1, -1), raster, faces))


def test_an_empty_mesh_gives_zeros():
    raster = Raster(torch.full((1, 4, 4), -1, dtype=torch.int32), torch.zeros(1, 4, 4, 2), torch.zeros(1, 4, 4), torch.zeros(1, 4, 4, 4))
    attributes = torch.zeros(0, 3, requires_grad=True)
    values, slopes = interpolate_with_derivatives(attributes, raster, torch.zeros(0, 3, dtype=torch.int32))
    assert torch.equal(values, torch.zeros(1, 4, 4, 3)) and torch.equal(slopes, torch.zeros(1, 4, 4, 6))
    values.sum().backward()
    assert attributes.grad is not None and attributes.grad.shape == (0, 3)


def test_a_raster_of_more_faces_than_there_are_counts_as_empty_there():
    attributes, raster, faces, _ = _case(10, 8, 12, 2, 1)
    values = interpolate(attributes, raster, faces[:4])
    assert torch.equal(values[raster.face >= 4], torch.zeros_like(values[raster.face >= 4]))
    assert torch.equal(values[raster.face < 4], interpolate(attributes, raster, faces)[raster.face < 4])


def test_an_attribute_that_is_not_a_number_stays_in_its_triangles():
    attributes, raster, faces, _ = _case(10, 30, 12, 2, 1)
    attributes = attributes.detach().clone()
    attributes[:, 3] = float("nan")
    touched = (faces == 3).any(1)
    values = interpolate(attributes, raster, faces)
    sees = (raster.face >= 0) & touched[raster.face.clamp(min=0).long()]
    assert torch.equal(values.isnan().any(-1), sees)


def test_no_chosen_channel_gives_no_derivative():
    attributes, raster, faces, _ = _case(10, 8, 12, 2, 1)
    assert interpolate_with_derivatives(attributes, raster, faces, [])[1].shape == (2, 12, 12, 0)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda a, r, f: (a.double(), r, f), r"as attributes, got float64 \["),
        (
            lambda a, r, f: (a, dataclasses.replace(r, barycentrics=r.barycentrics.double()), f),
            r"as raster.barycentrics, got float64 \[",
        ),
        (lambda a, r, f: (a[0, 0], r, f), r"\[views, vertices, channels\] or \[vertices, channels\] as attributes, got float32 \[2\]"),
        (lambda a, r, f: (a.expand(3, -1, -1), r, f), "takes 1 view or 2, as the raster has, as attributes, got 3 views"),
        (lambda a, r, f: (a[:, :, :0], r, f), "at least one channel"),
        (lambda a, r, f: (a, r, f + 4), "takes rows of the 10 vertices, counted from 0, as faces, got vertex 1[0-3] as corner . of face"),
        (lambda a, r, f: (a, r, f - 9), "got vertex -. as corner . of face"),
        (lambda a, r, f: (a, r, f.short()), r"int32 or int64 \[faces, 3\] as faces, got int16"),
        (lambda a, r, f: (a, r, f[:, :2]), r"int32 or int64 \[faces, 3\] as faces, got int32 \[\d+, 2\]|got int64 \[\d+, 2\]"),
        (lambda a, r, f: (a, remade(r, face=r.face.float()), f), r"Raster takes int32 or int64 .* as face, got float32"),
        (lambda a, r, f: (a, r, f.to("meta")), "on one device"),
    ],
)
@pytest.mark.cpu
def test_bad_input_is_named(change, message: str):
    attributes, raster, faces, _ = _case(10, 30, 12, 2, 1)
    with pytest.raises(ValueError, match=message):
        interpolate(*change(attributes, raster, faces))


@pytest.mark.parametrize("name", ["face", "barycentrics", "depth", "barycentric_derivatives"])
def test_a_raster_whose_tensors_do_not_fit_each_other_cannot_be_made(name: str):
    _, raster, _, _ = _case(10, 30, 12, 2, 1)
    with pytest.raises(ValueError, match=r"^Raster takes .* as \w+, got \w+ \["):
        remade(raster, **{name: getattr(raster, name)[:, :5]})


@pytest.mark.parametrize("name", ["faces", "face"])
def test_a_triangle_that_is_changed_before_the_gradient_is_noticed(name: str):
    attributes, raster, faces, _ = _case(10, 30, 12, 2, 1)
    faces = faces.int()
    values = interpolate(attributes, raster, faces)
    (faces if name == "faces" else raster.face).add_(0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        values.sum().backward()


def test_a_second_derivative_is_refused_by_name():
    attributes, raster, faces, _ = _case(10, 30, 12, 2, 1)
    (gradient,) = torch.autograd.grad(interpolate(attributes, raster, faces).sum(), raster.barycentrics, create_graph=True)
    with pytest.raises(RuntimeError, match="interpolate has a first derivative only"):
        torch.autograd.grad(gradient.sum(), attributes)


def test_derivatives_need_a_raster_that_has_them():
    attributes, raster, faces, _ = _case(10, 8, 12, 2, 1)
    with pytest.raises(ValueError, match="pass derivatives=True"):
        interpolate_with_derivatives(attributes, dataclasses.replace(raster, barycentric_derivatives=None), faces)


def test_a_channel_that_does_not_exist_is_named():
    attributes, raster, faces, _ = _case(10, 8, 12, 2, 1)
    with pytest.raises(ValueError, match="an integer from -2 to 1 as a channel, got 2"):
        interpolate_with_derivatives(attributes, raster, faces, [0, 2])
    with pytest.raises(ValueError, match="an integer from -2 to 1 as a channel, got 0.5"):
        unchecked: Any = getattr(interpolate_with_derivatives, "__wrapped__", interpolate_with_derivatives)
        unchecked(attributes, raster, faces, [0.5])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("vertices, face_count, side, channels, attribute_views, chosen", CASES)
def test_values_and_gradients_on_a_gpu_equal_those_of_the_cpu(vertices, face_count, side, channels, attribute_views, chosen):
    attributes, raster, faces, generator = _case(vertices, face_count, side, channels, attribute_views)
    cotangents = None
    results = []
    for device in ("cpu", "cuda"):
        a, b, d = (x.detach().to(device).requires_grad_() for x in (attributes, raster.barycentrics, _derivatives(raster)))
        moved = Raster(raster.face.to(device), b, raster.depth.to(device), d)
        outputs = interpolate_with_derivatives(a, moved, faces.to(device), chosen)
        cotangents = cotangents or [torch.randn(values.shape, generator=generator) for values in outputs]
        gradients = torch.autograd.grad(outputs, (a, b, d), [cotangent.to(device) for cotangent in cotangents])
        results.append([x.detach().cpu() for x in (*outputs, *gradients)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
