"""The look that a drawing gives to features: exact for the pair's own face, statistics for others, carried by landmarks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models import look
from models.look import landmark_grid, look_maps, matched, tone_maps, toned, window_deviation, window_mean
from models.sampling_grids import pixel_lattice
from models.spatial_transformer import sample

SIDE = 16


def maps(seed: int, *, channels: int = 6) -> Tensor:
    """Return smooth random features [1, C, SIDE, SIDE]."""
    noise = torch.randn(1, channels, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    return window_mean(noise, 1.0) * 3.0


def test_windows_know_mean_and_deviation():
    flat, floor = torch.full((1, 2, SIDE, SIDE), 3.0), torch.tensor(0.1)
    assert torch.allclose(window_mean(flat, 1.5), flat, atol=1e-5)
    assert torch.allclose(window_deviation(flat, 1.5, floor), torch.full_like(flat, 0.2), atol=1e-3)
    noise = torch.randn(1, 2, 64, 64, generator=torch.Generator().manual_seed(0)) * 2.0
    assert 1.6 < float(window_deviation(noise, 3.0, floor).mean()) < 2.2


@pytest.mark.parametrize("sigma", [0.7, 4.0, 30.0])
def test_windows_by_matrix_are_those_of_a_convolution(monkeypatch, sigma) -> None:  # noqa: ANN001
    maps = torch.randn(2, 3, 40, 56, generator=torch.Generator().manual_seed(4))
    by_matrix = [window_mean(one, sigma) for one in (maps, maps.contiguous(memory_format=torch.channels_last))]
    monkeypatch.setattr(look, "MOST_BY_MATRIX", 0)
    expected = window_mean(maps, sigma)
    assert all(torch.allclose(one, expected, atol=2e-6) for one in by_matrix)
    exact = window_mean(maps.double(), sigma)
    monkeypatch.undo()
    assert torch.allclose(window_mean(maps.double(), sigma), exact, rtol=0, atol=1e-13)


def test_own_face_becomes_the_drawing_and_strength_0_nothing():
    source, drawn = maps(1), maps(2) * 2.0 + 1.0
    prepared = look_maps(drawn - source, source)
    assert torch.allclose(matched(source, prepared), drawn, atol=1e-5)
    assert torch.equal(matched(source, prepared, strength=0.0), source)
    assert torch.allclose(matched(source, prepared, strength=0.25), (source + drawn) / 2.0, atol=1e-5)
    assert torch.allclose(matched(source, prepared, strength=0.5), drawn, atol=1e-5)


def test_another_face_gets_statistics_and_keeps_its_own_detail():
    source, drawn, other = maps(1), maps(2) * 2.0 + 1.0, maps(3)
    made = matched(other, look_maps(drawn - source, source))
    # As bright and as contrasted as the drawing where that is, but with its own pattern.
    assert abs(float(made.mean() - (drawn - source + other).mean())) < 0.1
    assert 1.4 < float(made.std() / other.std()) < 2.6

    def pattern(x: Tensor) -> Tensor:
        return (x - window_mean(x, 1.5)).flatten()

    likeness = torch.nn.functional.cosine_similarity
    assert likeness(pattern(made), pattern(other), dim=0) > 0.7
    added = other + drawn - source
    assert likeness(pattern(made), pattern(drawn), dim=0) < likeness(pattern(added), pattern(drawn), dim=0) - 0.2


def test_maps_are_carried_to_landmarks():
    generator = torch.Generator().manual_seed(0)
    origin = 0.3 + 0.4 * torch.rand(1, 68, 2, generator=generator)
    still = landmark_grid(origin.expand(2, -1, -1), origin, SIDE)
    assert torch.equal(still[0], pixel_lattice(SIDE, mode="exact").reshape(SIDE, SIDE, 2))
    moved = origin + torch.tensor([0.0625, 0.0])
    picture = torch.zeros(1, 1, 64, 64)
    picture[:, :, 30:34, 30:34] = 1.0
    after = sample(picture, landmark_grid(moved, origin, 64), mode="exact")
    columns = (after.clamp_min(0.0)[0, 0].sum(dim=0) * torch.arange(64)).sum() / after.clamp_min(0.0).sum()
    assert abs(float(columns) - 31.5 - 4.0) < 0.8
    assert torch.allclose(landmark_grid(moved, origin, 64)[:, 0, 0], still.new_tensor([-63 / 64, -63 / 64]), atol=0.02)


def test_a_picture_gives_its_tones_and_contrast_and_no_lines():
    drawn, other = maps(2) * 2.0 + 1.0, maps(3)
    made = toned(other, tone_maps(drawn))
    assert abs(float(made.mean() - drawn.mean())) < 0.05 and 1.2 < float(made.std() / other.std()) < 2.6
    assert torch.equal(toned(other, tone_maps(drawn), strength=0.0), other)

    def pattern(x: Tensor) -> Tensor:
        return (x - window_mean(x, 1.5)).flatten()

    likeness = torch.nn.functional.cosine_similarity
    assert likeness(pattern(made), pattern(other), dim=0) > 0.8 and abs(likeness(pattern(made), pattern(drawn), dim=0)) < 0.2
    assert torch.allclose(toned(other, tone_maps(other)), other, atol=1e-4)
