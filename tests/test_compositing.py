from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import unrender.ops.rays as ops
from unrender.cameras import Rays
from unrender.ops.rays import Samples
from unrender.reference import compositing as plain_compositing
from unrender.reference import sdf_weights as plain_sdf
from unrender.reference import weights as plain_weights

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]),
]


def packed(counts: list[int], *, tail: int = 5, seed: int = 0, length: float = 0.1) -> Samples:
    """Adjacent intervals of random length on rays with the given counts, and some unused samples."""
    random = torch.Generator().manual_seed(seed)
    count = torch.tensor(counts, dtype=torch.int32)
    used = int(count.sum())
    ray_index = torch.cat([torch.repeat_interleave(torch.arange(len(counts)), count), torch.full((tail,), -1)]).int()
    starts, ends = torch.zeros(used + tail), torch.zeros(used + tail)
    first = (count.cumsum(0) - count).int()
    for begin, number in zip(first.tolist(), counts, strict=True):
        edges = 1.0 + (torch.rand(number + 1, generator=random) * length + 0.01).cumsum(0)
        starts[begin : begin + number], ends[begin : begin + number] = edges[:-1], edges[1:]
    return Samples(ray_index, starts, ends, first, count)


def on(samples: Samples, device: str) -> Samples:
    return Samples(*(x.to(device) for x in (samples.ray_index, samples.starts, samples.ends, samples.first, samples.count)))


SAMPLES = packed([7, 0, 1, 40, 13, 0, 100])
SIZE = SAMPLES.starts.shape[0]


def drawn(*shape: int, low: float = 0.0, high: float = 1.0, seed: int = 1) -> Tensor:
    return low + (high - low) * torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_gradients_agree(ours: list[Tensor], plain: list[Tensor], inputs: list[Tensor], exact_inputs: list[Tensor], tol: float) -> None:
    cotangents = [drawn(*y.shape, low=-1.0, seed=9 + i) for i, y in enumerate(plain)]
    got = torch.autograd.grad(ours, inputs, [c.float().to(ours[0].device) for c in cotangents])
    expected = torch.autograd.grad(plain, exact_inputs, cotangents)
    for y, e in zip(ours, plain, strict=True):
        torch.testing.assert_close(y.detach().cpu().double(), e.detach(), rtol=tol, atol=tol)
    for y, e in zip(got, expected, strict=True):
        torch.testing.assert_close(y.cpu().double(), e, rtol=tol, atol=tol * max(1.0, float(e.abs().max())))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("early_stop", [0.0, 0.02])
def test_weights_from_density_equal_the_twin(device: str, early_stop: float) -> None:
    exact = drawn(SIZE, high=8.0).requires_grad_()
    density = exact.detach().float().to(device).requires_grad_()
    ours = ops.weights_from_density(density, on(SAMPLES, device), early_stop=early_stop)
    plain = plain_weights.weights_from_density(exact, SAMPLES, early_stop=early_stop)
    assert_gradients_agree([ours], [plain], [density], [exact], 2e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("early_stop", [0.0, 0.02])
def test_weights_from_alpha_equal_the_twin_also_behind_an_opaque_sample(device: str, early_stop: float) -> None:
    values = drawn(SIZE, high=0.4)
    values[20], values[60], values[61] = 1.0, 1.0, 0.0
    exact = values.requires_grad_()
    alpha = exact.detach().float().to(device).requires_grad_()
    ours = ops.weights_from_alpha(alpha, on(SAMPLES, device), early_stop=early_stop)
    plain = plain_weights.weights_from_alpha(exact, SAMPLES, early_stop=early_stop)
    cotangent = drawn(SIZE, low=-1.0, seed=9)
    (got,) = torch.autograd.grad(ours, alpha, cotangent.float().to(device))
    torch.testing.assert_close(ours.detach().cpu().double(), plain.detach(), rtol=2e-6, atol=2e-6)
    for i in range(SIZE):  # the weights are linear in each opacity, so one difference from below is the derivative, at one, too
        step = torch.zeros(SIZE, dtype=torch.float64)
        step[i] = 1e-6
        lowered = plain_weights.weights_from_alpha(values.detach() - step, SAMPLES, early_stop=early_stop)
        slope = ((plain.detach() - lowered) * cotangent).sum() / 1e-6
        torch.testing.assert_close(got[i].cpu().double(), slope, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("sharpness", "anneal", "early_stop"), [(20.0, 0.3, 0.0), (300.0, 1.0, 0.0), (64.0, 0.0, 0.05)])
def test_weights_from_sdf_equal_the_twin(device: str, sharpness: float, anneal: float, early_stop: float) -> None:
    sdf, cosine = drawn(SIZE, low=-0.1, high=0.15).requires_grad_(), drawn(SIZE, low=-1.0, seed=2).requires_grad_()
    s = torch.tensor(sharpness, dtype=torch.float64, requires_grad=True)
    inputs = [x.detach().float().to(device).requires_grad_() for x in (sdf, cosine, s)]
    ours = ops.weights_from_sdf(inputs[0], inputs[1], on(SAMPLES, device), inputs[2], anneal=anneal, early_stop=early_stop)
    plain = plain_sdf.weights_from_sdf(sdf, cosine, SAMPLES, s, anneal=anneal, early_stop=early_stop)
    assert_gradients_agree([ours], [plain], inputs, [sdf, cosine, s], 2e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("sharpness", [20.0, 1000.0])
def test_sdf_alpha_equals_the_twin(device: str, sharpness: float) -> None:
    sdf, cosine = drawn(SIZE, low=-0.1, high=0.15).requires_grad_(), drawn(SIZE, low=-1.0, seed=2).requires_grad_()
    s = torch.tensor(sharpness, dtype=torch.float64, requires_grad=True)
    inputs = [x.detach().float().to(device).requires_grad_() for x in (sdf, cosine, s)]
    ours = ops.sdf_alpha(inputs[0], inputs[1], SAMPLES.lengths.to(device), inputs[2], 0.4)
    plain = plain_sdf.sdf_alpha(sdf, cosine, SAMPLES.lengths, s, 0.4)
    assert_gradients_agree([ours], [plain], inputs, [sdf, cosine, s], 2e-5)


def test_sdf_alpha_and_its_gradients_stay_finite_when_very_sharp() -> None:
    sdf = torch.tensor([0.5, 1e-3, 1e-6, 0.0, -1e-6, -1e-3, -0.5], requires_grad=True)
    cosine = torch.full((7,), -1.0, requires_grad=True)
    sharpness = torch.tensor(1e6, requires_grad=True)
    alpha = ops.sdf_alpha(sdf, cosine, torch.full((7,), 0.01), sharpness, 1.0)
    gradients = torch.autograd.grad(alpha.sum(), [sdf, cosine, sharpness])
    assert all(x.isfinite().all() for x in (alpha, *gradients))
    assert alpha[0] < 2e-5 and (alpha[1:] > 0.99).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels", [1, 3, 16])
@pytest.mark.parametrize("feature_major", [False, True])
def test_composite_equals_the_twin_in_both_layouts(device: str, channels: int, feature_major: bool) -> None:
    weights, values = drawn(SIZE).requires_grad_(), drawn(SIZE, channels, low=-1.0, seed=2).requires_grad_()
    w = weights.detach().float().to(device).requires_grad_()
    stored = values.detach().float().to(device)
    stored = (stored.t().contiguous() if feature_major else stored).requires_grad_()
    ours = ops.composite(w, stored.t() if feature_major else stored, on(SAMPLES, device))
    plain = plain_compositing.composite(weights, values, SAMPLES)
    cotangent = drawn(*plain.shape, low=-1.0, seed=3)
    got = torch.autograd.grad(ours, [w, stored], cotangent.float().to(device))
    expected = torch.autograd.grad(plain, [weights, values], cotangent)
    torch.testing.assert_close(ours.detach().cpu().double(), plain.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got[0][: SIZE - 5].cpu().double(), expected[0][: SIZE - 5], rtol=1e-5, atol=1e-5)
    assert (got[0][SIZE - 5 :] == 0).all()
    torch.testing.assert_close((got[1].t() if feature_major else got[1]).cpu().double(), expected[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_opacity_and_distance_equal_the_twin(device: str) -> None:
    exact = drawn(SIZE).requires_grad_()
    weights = exact.detach().float().to(device).requires_grad_()
    ours = ops.opacity_and_distance(weights, on(SAMPLES, device))
    assert_gradients_agree(list(ours), list(plain_compositing.opacity_and_distance(exact, SAMPLES)), [weights], [exact], 1e-5)


def test_twins_differentiate_as_finite_differences_do() -> None:
    few = packed([3, 0, 4], tail=1)
    size = few.starts.shape[0]
    density, sdf, cosine = drawn(size), drawn(size, low=-0.1, high=0.1), drawn(size, low=-0.9, high=-0.1)
    s = torch.tensor(15.0, dtype=torch.float64)
    for x in (density, sdf, cosine, s):
        x.requires_grad_()
    assert torch.autograd.gradcheck(lambda d: plain_weights.weights_from_density(d, few), density)
    assert torch.autograd.gradcheck(lambda f, c, k: plain_sdf.weights_from_sdf(f, c, few, k, anneal=0.5), (sdf, cosine, s))
    assert torch.autograd.gradcheck(lambda w: plain_compositing.composite(w, drawn(size, 2), few), density)


def test_weights_sum_to_at_most_one_and_unused_samples_weigh_nothing() -> None:
    for weights in (
        ops.weights_from_density(drawn(SIZE, high=50.0).float(), SAMPLES),
        ops.weights_from_alpha(drawn(SIZE).float(), SAMPLES),
        ops.weights_from_sdf(
            drawn(SIZE, low=-0.2, high=0.2).float(), drawn(SIZE, low=-1.0).float(), SAMPLES, torch.tensor(100.0), anneal=0.5
        ),
    ):
        opacity, _ = ops.opacity_and_distance(weights, SAMPLES)
        assert (weights >= 0).all() and (opacity <= 1 + 1e-6).all()
        assert (weights[-5:] == 0).all() and opacity[1] == 0 and opacity[5] == 0


def test_transmittance_never_increases() -> None:
    weights = ops.weights_from_density(drawn(SIZE, high=30.0).float(), SAMPLES)
    for first, count in zip(SAMPLES.first.tolist(), SAMPLES.count.tolist(), strict=True):
        light = 1.0 - weights[first : first + count].double().cumsum(0)
        assert (light.diff() <= 0).all()


@pytest.mark.parametrize("number", [1, 10, 333])
def test_a_homogeneous_medium_has_the_same_opacity_whatever_the_step(number: int) -> None:
    edges = torch.linspace(1.0, 3.0, number + 1)
    zero = torch.zeros(1, dtype=torch.int32)
    samples = Samples(torch.zeros(number, dtype=torch.int32), edges[:-1], edges[1:], zero, zero + number)
    opacity, _ = ops.opacity_and_distance(ops.weights_from_density(torch.full((number,), 0.7), samples), samples)
    torch.testing.assert_close(opacity, 1.0 - torch.exp(torch.tensor([-1.4])), rtol=1e-5, atol=0.0)


def planar(number: int, sharpness: float, cosine: float = -1.0) -> tuple[Samples, Tensor, Tensor]:
    """A ray that crosses the plane at distance 2, at the given slope."""
    edges = torch.linspace(1.0, 3.0, number + 1)
    zero = torch.zeros(1, dtype=torch.int32)
    samples = Samples(torch.zeros(number, dtype=torch.int32), edges[:-1], edges[1:], zero, zero + number)
    sdf = cosine * (samples.midpoints - 2.0)
    return samples, sdf, ops.weights_from_sdf(sdf, torch.full((number,), cosine), samples, torch.tensor(sharpness), anneal=1.0)


@pytest.mark.parametrize("cosine", [-1.0, -0.4])
def test_neus_weight_peaks_at_the_zero_crossing(cosine: float) -> None:
    samples, sdf, weights = planar(201, 60.0, cosine)
    assert weights.argmax() == sdf.abs().argmin()


def test_neus_transmittance_telescopes_to_the_ratio_of_logistic_values() -> None:
    samples, _, weights = planar(100, 20.0)
    for cut in (30, 50, 60):
        light = 1.0 - weights[:cut].double().sum()
        ratio = torch.sigmoid(torch.tensor(20.0 * (2.0 - float(samples.ends[cut - 1])))) / torch.sigmoid(torch.tensor(20.0))
        assert abs(float(light) - float(ratio)) < 100 * 1e-5  # each factor carries the constant 1e-5


def test_a_surface_seen_from_behind_is_transparent_once_annealed() -> None:
    samples, _, _ = planar(100, 20.0)
    leaving = samples.midpoints - 1.2
    leaving_weights, entering_weights = (
        ops.weights_from_sdf(leaving, torch.ones(100), samples, torch.tensor(20.0), anneal=1.0),
        ops.weights_from_sdf(leaving, -torch.ones(100), samples, torch.tensor(20.0), anneal=1.0),
    )
    assert leaving_weights.sum() < 0.02 and (leaving_weights >= 0).all() and entering_weights.sum() > 0.9


def test_early_stop_changes_the_color_by_less_than_its_threshold() -> None:
    density, values = drawn(SIZE, high=60.0).float(), drawn(SIZE, 3).float()
    full, stopped = (ops.composite(ops.weights_from_density(density, SAMPLES, early_stop=e), values, SAMPLES) for e in (0.0, 1e-4))
    assert 0.0 < (full - stopped).abs().max() < 1e-4


def test_samples_behind_early_stop_have_no_gradient() -> None:
    density = torch.full((SIZE,), 100.0, requires_grad=True)
    weights = ops.weights_from_density(density, SAMPLES, early_stop=1e-3)
    (grad,) = torch.autograd.grad((weights * drawn(SIZE).float()).sum(), density)
    assert ((grad == 0) | (weights.detach() > 0)).all() and (weights[-30:] == 0).all()


def test_positions_and_gathered_values_follow_their_rays() -> None:
    rays = Rays(drawn(7, 3).float().requires_grad_(), drawn(7, 3, seed=2).float().requires_grad_())
    used = SAMPLES.ray_index >= 0
    index = SAMPLES.ray_index.clamp_min(0).long()
    expected = torch.where(used[:, None], rays.origins[index] + SAMPLES.midpoints[:, None] * rays.directions[index], 0.0)
    repeated = torch.where(used[:, None], rays.directions[index], 0.0)
    cotangent = drawn(SIZE, 3, seed=3).float()
    for ours, plain in ((SAMPLES.positions(rays), expected), (SAMPLES.gather(rays.directions), repeated)):
        torch.testing.assert_close(ours, plain)
        got = torch.autograd.grad(ours, [rays.origins, rays.directions], cotangent, allow_unused=True)
        wanted = torch.autograd.grad(plain, [rays.origins, rays.directions], cotangent, allow_unused=True)
        for g, w in zip(got, wanted, strict=True):
            assert (g is None) == (w is None)
            if g is not None:
                torch.testing.assert_close(g, w, rtol=1e-4, atol=1e-4)


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    samples = packed([60] * 1500, seed=4)
    size = samples.starts.shape[0]
    results = []
    kept = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        sdf, s = drawn(size, low=-0.2, high=0.3).float().requires_grad_(), torch.tensor(40.0, requires_grad=True)
        weights = ops.weights_from_sdf(sdf, -torch.ones(size), samples, s, anneal=0.5)
        sums = ops.composite(weights, drawn(size, 3).float(), samples)
        results.append([sums.detach(), *torch.autograd.grad(sums.square().sum(), [sdf, s])])
    torch.set_num_threads(kept)
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


def test_an_empty_batch_gives_empty_results() -> None:
    none = packed([0, 0], tail=0)
    nothing = torch.zeros(0)
    weights = ops.weights_from_density(nothing, none)
    assert weights.shape == (0,)
    assert ops.composite(weights, torch.zeros(0, 3), none).tolist() == [[0.0] * 3] * 2
    assert ops.opacity_and_distance(weights, none)[0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("with_normals", [False, True])
def test_colors_over_a_background_equal_the_twin(device: str, with_normals: bool) -> None:
    """Values and gradients, of all results and of the colors alone."""
    exact = [drawn(SIZE), drawn(SIZE, 3, seed=2), drawn(len(SAMPLES.count), 3, seed=4), drawn(SIZE, 3, low=-1.0, seed=3)]
    exact = [x.requires_grad_() for x in exact[: 4 if with_normals else 3]]
    inputs = [x.detach().float().to(device).requires_grad_() for x in exact]
    results, alone = [], []
    functions: list[Callable[..., tuple[Tensor, ...]]] = [ops.composite_over, plain_compositing.composite_over]
    for function, samples, leaves in zip(functions, (on(SAMPLES, device), SAMPLES), (inputs, exact), strict=True):
        weights, colors, background, *normals = leaves
        found = function(weights, colors, normals[0] if normals else None, samples, background)
        results.append(list(found[: len(inputs)]))
        alone.append(torch.autograd.grad(found[0].square().sum(), weights, retain_graph=True)[0].cpu().double())
    assert_gradients_agree(results[0], results[1], inputs, exact, 2e-6)
    torch.testing.assert_close(*alone, rtol=1e-4, atol=1e-5)
