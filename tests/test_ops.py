"""The operators' plain definitions: values, shapes, first and second derivatives."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

from op import fused_leaky_relu, upfirdn2d

CASES = [(1, 1, (1, 2)), (2, 1, (2, 1)), (1, 2, (1, 1)), (2, 2, (1, 1)), (3, 1, (2, 2)), (1, 1, (-1, 0)), (2, 1, (-1, 3))]


def by_definition(x: torch.Tensor, kernel: torch.Tensor, up: int, down: int, pad: tuple[int, int]) -> torch.Tensor:
    """Zero insertion, padding, convolution with the flipped kernel, decimation: one step after the other."""
    n, c, h, w = x.shape
    wide = x.new_zeros(n, c, h * up, w * up)
    wide[:, :, ::up, ::up] = x
    wide = F.pad(wide, (pad[0], pad[1], pad[0], pad[1]))
    weight = kernel.flip(0, 1).expand(c, 1, *kernel.shape)
    return F.conv2d(wide, weight, groups=c)[:, :, ::down, ::down]


@pytest.mark.parametrize(("up", "down", "pad"), CASES)
@pytest.mark.parametrize("taps", [(4, 4), (3, 2)])
def test_upfirdn2d_is_its_definition(up, down, pad, taps):
    x, kernel = torch.randn(2, 3, 7, 9, dtype=torch.double), torch.randn(taps, dtype=torch.double)
    assert torch.allclose(upfirdn2d(x, kernel, up=up, down=down, pad=pad), by_definition(x, kernel, up, down, pad))


@pytest.mark.parametrize(("up", "down", "pad"), CASES)
def test_upfirdn2d_derivatives(up, down, pad):
    x = torch.randn(1, 2, 6, 5, dtype=torch.double, requires_grad=True)
    kernel = torch.randn(4, 4, dtype=torch.double)
    assert gradcheck(lambda t: upfirdn2d(t, kernel, up=up, down=down, pad=pad), (x,))
    assert gradgradcheck(lambda t: upfirdn2d(t, kernel, up=up, down=down, pad=pad), (x,))


def test_fused_leaky_relu_values_and_derivatives():
    x = torch.tensor([[[-2.0]], [[1.0]]])
    y = fused_leaky_relu(x.transpose(0, 1), torch.tensor([0.5, 1.0]))
    assert torch.allclose(y.flatten(), torch.tensor([-0.3, 2.0]) * 2**0.5)
    x = torch.randn(2, 3, 4, 4, dtype=torch.double, requires_grad=True)
    bias = torch.randn(3, dtype=torch.double, requires_grad=True)
    assert gradcheck(fused_leaky_relu, (x, bias)) and gradgradcheck(fused_leaky_relu, (x, bias))


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="expected x"):
        upfirdn2d(torch.zeros(3, 3), torch.ones(4, 4))
    with pytest.raises(ValueError, match="up and down"):
        upfirdn2d(torch.zeros(1, 1, 3, 3), torch.ones(4, 4), up=0)
    with pytest.raises(ValueError, match="leaves nothing"):
        upfirdn2d(torch.zeros(1, 1, 3, 3), torch.ones(4, 4))
    with pytest.raises(ValueError, match="bias must have shape"):
        fused_leaky_relu(torch.zeros(1, 3, 2, 2), torch.zeros(2))
