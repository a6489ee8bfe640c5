"""What frozen functions gave is remembered for as long as the same tensor comes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from losses.perceptual import ViTTokenDistance
from models.layers import ModulatedConv2d
from models.remembered import Remembered


def test_the_same_tensor_is_asked_for_once_until_it_is_written_to() -> None:
    calls = []

    def double(x: Tensor) -> Tensor:
        calls.append(1)
        return 2 * x

    remembered, x = Remembered(double), torch.ones(2, requires_grad=True)
    assert not remembered(x).requires_grad and remembered(x) is remembered(x) and len(calls) == 1
    with torch.no_grad():
        x.add_(1.0)
    assert torch.equal(remembered(x), torch.full((2,), 4.0)) and len(calls) == 2
    assert torch.equal(remembered(x.detach().clone()), remembered(x)) and len(calls) == 4
    with torch.inference_mode():
        y = torch.ones(1)
        assert torch.equal(remembered(y), remembered(y)) and len(calls) == 6


class Rows(nn.Module):
    """Images as tokens: a token per row."""

    def tokens(self, image: Tensor, *, layers: tuple[int, ...], facets: str) -> dict[tuple[str, int], Tensor]:
        return {(facets, layer): image[:, 0] * (layer + 1.0) + 1.0 for layer in layers}


def test_gradients_of_the_perceptual_distance_reach_both_images() -> None:
    distance = ViTTokenDistance(Rows(), layers=(0, 2))
    a, b = (torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(seed)).requires_grad_(True) for seed in (0, 1))
    distance(a, b).backward()
    assert bool(a.grad.any()) and bool(b.grad.any())
    assert torch.equal(distance(a, b), distance(a, b.detach())) and torch.equal(distance(a, b), distance(a, b.detach()))
    assert float(distance(a.detach(), a.detach())) < 1e-6


def test_gradients_of_the_style_alone_are_those_that_come_with_the_weights() -> None:
    torch.manual_seed(0)
    conv, grads = ModulatedConv2d(4, 5, 3, 6, upsample=True).double(), []
    x, w = torch.randn(1, 4, 8, 8, dtype=torch.float64), torch.randn(1, 6, dtype=torch.float64)
    for trained in (True, False):
        conv.requires_grad_(trained)
        style = w.clone().requires_grad_(True)
        conv(x, style).square().sum().backward()
        grads.append(style.grad)
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-5, atol=1e-5)  # factors are float32
