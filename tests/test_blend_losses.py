"""Losses of the blended styles: known values, invariants, gradients, failures."""

from __future__ import annotations

import math

import pytest
import torch

from losses.blending import Judged, discriminator_terms, generator_terms
from losses.contrastive import code_distance, normality_loss, nt_xent


def test_nt_xent_of_two_pairs_by_hand() -> None:
    first = torch.tensor([[2.0, 0.0], [0.0, 3.0]], dtype=torch.float64)
    # Every row sees its partner at cosine 1 and two others at cosine 0.
    expected = -math.log(math.exp(2.0) / (math.exp(2.0) + 2.0))
    assert nt_xent(first, 5.0 * first, temperature=0.5).item() == pytest.approx(expected, abs=1e-12)


def test_nt_xent_prefers_matching_rows_and_ignores_order() -> None:
    first, second = torch.randn(6, 8, dtype=torch.float64), torch.randn(6, 8, dtype=torch.float64)
    near = first + 0.1 * second
    assert nt_xent(first, near) < nt_xent(first, near.roll(1, dims=0))
    order = torch.randperm(6)
    assert torch.allclose(nt_xent(first, second), nt_xent(second[order], first[order]))


def test_gradients() -> None:
    first, second = (torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, temperature=0.7), (first, second))
    assert torch.autograd.gradcheck(normality_loss, (first,))


def test_normality_is_zero_for_normal_codes_and_grows_with_what_is_wrong() -> None:
    codes = torch.randn(4000, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    right = normality_loss(codes).item()
    assert abs(right) < 1e-3
    shared = codes + 2.0 * codes[:, :1]
    for wrong in (codes + 1.0, 2.0 * codes, 0.3 * codes, shared):
        assert normality_loss(wrong).item() > right + 0.05
    assert normality_loss(codes + 1.0).item() == pytest.approx(right + 0.5, abs=0.05)
    assert math.isfinite(normality_loss(torch.ones(5, 4)).item())


def test_code_distance() -> None:
    codes = torch.randn(50, 20, dtype=torch.float64)
    assert code_distance(codes, codes).item() == 0.0
    assert code_distance(codes + 0.5, codes).item() == pytest.approx(0.25)


def test_terms_of_the_three_discriminators() -> None:
    real, fake = (Judged(*torch.randn(3, 5, 1, dtype=torch.float64)) for _ in range(2))
    terms = discriminator_terms(real, fake)
    for name in Judged._fields:
        expected = (-getattr(real, name)).exp().log1p().mean() + getattr(fake, name).exp().log1p().mean()
        assert torch.allclose(getattr(terms, name), expected)
        assert torch.allclose(getattr(generator_terms(fake), name), (-getattr(fake, name)).exp().log1p().mean())
    assert torch.allclose(terms.total(), terms.face + terms.styled + terms.match)


@pytest.mark.parametrize("call", [
    lambda: nt_xent(torch.zeros(1, 4), torch.zeros(1, 4)), lambda: nt_xent(torch.zeros(3, 4), torch.zeros(3, 5)),
    lambda: nt_xent(torch.ones(3, 4), torch.ones(3, 4), temperature=0.0), lambda: normality_loss(torch.zeros(2, 4)),
    lambda: code_distance(torch.zeros(2, 4), torch.zeros(2, 3)),
])
def test_bad_shapes_are_named(call) -> None:
    with pytest.raises(ValueError, match="got"):
        call()
