"""The sparse Adam against PyTorch's."""

from __future__ import annotations

import pytest
import torch

from unrender.ops.encodings import Adam, RmsProp, all_finite


def _run(make, gradients: list[torch.Tensor], start: torch.Tensor) -> torch.Tensor:
    parameter = torch.nn.Parameter(start.clone())
    optimizer = make([parameter])
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach()


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_dense_gradients_give_the_steps_of_pytorch(weight_decay: float):
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(1000, 3, generator=generator)
    gradients = [torch.randn(1000, 3, generator=generator) for _ in range(5)]
    settings = {"lr": 1e-2, "betas": (0.9, 0.99), "eps": 1e-15, "weight_decay": weight_decay}
    ours = _run(lambda p: Adam(p, **settings), gradients, start)
    theirs = _run(lambda p: torch.optim.AdamW(p, **settings), gradients, start)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_entries_never_touched_stay_and_touched_ones_move_as_in_pytorch():
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(4096, generator=generator)
    touched = torch.zeros(4096, dtype=torch.bool)
    touched[100:300] = True
    gradients = [torch.randn(4096, generator=generator) * touched for _ in range(4)]
    ours = _run(lambda p: Adam(p, lr=0.1, eps=1e-8), gradients, start)
    theirs = _run(lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.9, 0.99), eps=1e-8), gradients, start)
    assert torch.equal(ours[~touched], start[~touched])
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_momentum_carries_on_where_the_gradient_has_gone():
    start = torch.zeros(32)
    gradients = [torch.ones(32), torch.zeros(32)]
    ours = _run(lambda p: Adam(p, lr=0.1), gradients, start)
    theirs = _run(lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.9, 0.99), eps=1e-15), gradients, start)
    torch.testing.assert_close(ours, theirs)


def test_a_skipped_step_changes_nothing():
    parameter = torch.nn.Parameter(torch.ones(40))
    optimizer = Adam([parameter], lr=0.1)
    parameter.grad = torch.full((40,), float("nan"))
    optimizer.step(skip=torch.ones(()))
    assert torch.equal(parameter.detach(), torch.ones(40))
    assert torch.equal(optimizer.state[parameter]["exp_avg"], torch.zeros(40))


def test_a_skip_on_another_device_than_the_parameters_is_refused():
    parameter = torch.nn.Parameter(torch.ones(4))
    parameter.grad = torch.ones(4)
    with pytest.raises(ValueError, match="the parameters on cpu and skip on meta"):
        Adam([parameter], lr=0.1).step(skip=torch.ones(1, device="meta"))


@pytest.mark.parametrize("size", [5, 300_001])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_number_that_is_not_finite_is_found(size: int, value: float) -> None:
    numbers = torch.linspace(-1e30, 1e30, size)
    assert bool(all_finite([numbers]))
    for place in (0, size // 2, size - 1):
        wrong = numbers.clone()
        wrong[place] = value
        assert not bool(all_finite([wrong])) and not bool(all_finite([numbers, wrong, numbers[:3]]))


def test_rms_prop_is_that_of_its_formula_and_leaves_untouched_entries_alone():
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(1000, generator=generator) * (torch.rand(1000, generator=generator) > 0.7) for _ in range(5)]
    parameter = torch.nn.Parameter(torch.randn(1000, generator=generator))
    values, moment = parameter.detach().clone().double(), torch.zeros(1000, dtype=torch.float64)
    optimizer = RmsProp([parameter], lr=0.1)
    for gradient in gradients:
        g = gradient.double()
        moment = torch.where(g == 0, moment, torch.where(moment == 0, g**2, 0.95 * moment + 0.05 * g**2))
        values -= torch.where(g == 0, 0.0, 0.1 * g / (moment.sqrt() + 1e-8))
        parameter.grad = gradient
        before = parameter.detach().clone()
        optimizer.step()
        assert torch.equal(parameter.detach()[gradient == 0], before[gradient == 0])
    torch.testing.assert_close(parameter.detach().double(), values, rtol=1e-5, atol=1e-6)
    before = parameter.detach().clone()
    optimizer.step(skip=torch.ones(1))
    assert torch.equal(parameter.detach(), before)


def test_rms_prop_refuses_what_it_cannot_do():
    parameter = torch.nn.Parameter(torch.zeros(3))
    for options in ({"beta": 1.0}, {"lr": -1.0}, {"eps": float("nan")}):
        with pytest.raises(ValueError, match="RmsProp takes"):
            RmsProp([parameter], **{"lr": 0.1, **options})
