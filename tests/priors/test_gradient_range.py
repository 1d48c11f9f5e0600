"""Gradients that pass half precision on a scale of their own."""

import pytest
import torch
from threestudio_jointdreamer.priors.gradient_range import TARGET, within_half_range


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def double(x):
    return 2.0 * x


def test_values_and_gradients_are_those_of_the_function_to_the_last_bit():
    x, probe = random(3, 4, 5).requires_grad_(), random(3, 4, seed=1)

    def function(x):
        return x.sin().sum(dim=2)

    y, expected = within_half_range(function, x), function(x)
    assert torch.equal(y, expected)
    (g,) = torch.autograd.grad((y * probe).sum(), x)
    (g_expected,) = torch.autograd.grad((expected * probe).sum(), x)
    assert torch.equal(g, g_expected)


@pytest.mark.parametrize("size", [1e-30, 1e-9, 1.0, 1e9, 1e30])
def test_gradients_of_any_size_pass_half_precision(size):
    x = random(2, 6).requires_grad_()
    probe = random(2, 6, seed=1)
    y = within_half_range(lambda x: x.half().float(), x)
    (g,) = torch.autograd.grad((y * (size * probe)).sum(), x)
    torch.testing.assert_close(g / size, probe, rtol=1e-3, atol=1e-3)


def test_each_sample_has_its_own_scale():
    x = random(3, 6).requires_grad_()
    probe = random(3, 6, seed=1) * torch.tensor([[1e-9], [1.0], [1e9]])
    y = within_half_range(lambda x: x.half().float(), x)
    (g,) = torch.autograd.grad((y * probe).sum(), x)
    torch.testing.assert_close(g, probe, rtol=1e-3, atol=0)


def test_inside_the_largest_gradient_is_near_the_target():
    seen = []
    x = random(4, 6).requires_grad_()

    def watched(x):
        y = double(x)
        y.register_hook(lambda grad: seen.append(grad.abs().amax(dim=1)))
        return y

    within_half_range(watched, x).square().sum().backward()
    assert ((TARGET / 2 < seen[0]) & (seen[0] <= TARGET)).all()


def test_samples_without_a_gradient_stay_without():
    x = random(2, 6).requires_grad_()
    (g,) = torch.autograd.grad(within_half_range(double, x)[0].sum(), x)
    assert torch.equal(g, torch.tensor([[2.0] * 6, [0.0] * 6]))


def test_a_graph_can_be_gone_through_twice():
    x = random(2, 6).requires_grad_()
    y = within_half_range(double, x)
    first = torch.autograd.grad((1e-6 * y).sum(), x, retain_graph=True)[0]
    second = torch.autograd.grad((1e6 * y).sum(), x)[0]
    torch.testing.assert_close(first * 1e12, second)
