"""Grain of pictures and prints: what is texture all over, what it looks like, and what a print does to a photo."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from data.images import read_image, to_tensor
from models.grain import Grain, Screen
from models.look import window_mean
from models.tones import opponent

ROOT = Path(__file__).resolve().parent.parent
SIDE = 128


@pytest.fixture(scope="module")
def photo() -> torch.Tensor:
    return to_tensor(read_image(ROOT / "data" / "style_images_aligned" / "source_sample.png"), SIDE)


def dots(period: float) -> torch.Tensor:
    """Return a lattice of dots, [1, 1, S, S] in [-1, 1]."""
    across = torch.cos(2.0 * torch.pi * torch.arange(SIDE) / period)
    return (across[:, None] + across)[None, None] / 2.0


def printed(image: torch.Tensor, period: float = 4.0) -> torch.Tensor:
    """Return images [N, 3, S, S] as dots of dark red ink on yellow paper, larger in the shade."""
    light = image.mean(dim=1, keepdim=True)
    cover = ((dots(period) - light) * 3.0 + 0.5).clamp(0.0, 1.0)
    paper, ink = (torch.tensor(colour).reshape(1, 3, 1, 1) for colour in ((0.9, 0.8, 0.4), (-0.4, -0.9, -0.8)))
    return torch.lerp(paper, ink, cover)


def fine(image: torch.Tensor) -> torch.Tensor:
    return image - window_mean(image, 2.0)


def test_prints_have_grain_all_over_and_drawings_with_lines_have_none(photo):
    assert Grain.read(printed(photo)).share == 1.0
    lines = torch.ones(1, 3, SIDE, SIDE)
    lines[:, :, 20:100:16, 20:100] = lines[:, :, 20:100, 20:100:16] = -1.0
    for other in (lines, torch.zeros(1, 3, SIDE, SIDE), window_mean(photo, 2.0)):
        grain = Grain.read(other)
        assert grain.share == 0.0 and torch.isfinite(grain.field).all() and torch.isfinite(grain.strengths).all()


def test_a_screen_comes_out_as_that_screen_where_the_picture_has_it(photo):
    grain = Grain.read(printed(photo))
    spectrum = torch.fft.rfft2(grain.field[0, 0]).abs()
    peak = spectrum.flatten().argmax()
    down, right = int(peak // spectrum.shape[1]), int(peak % spectrum.shape[1])
    assert sorted((min(down, SIDE - down), right)) == [0, SIDE // 4]  # once in four px, up and down or across
    middle, white = (torch.full((1, 3, SIDE, SIDE), light) for light in (0.0, 1.0))
    assert torch.equal(grain.on(middle, strength=0.0), middle)
    strengths = [float(fine(grain.on(image)).std()) for image in (middle, white)]
    assert strengths[0] > 0.25 and strengths[1] < 0.6 * strengths[0]
    assert abs(float((grain.on(middle) - middle).mean())) < 0.05
    # What has it already gets no more of it.
    again = grain.on(printed(photo))
    assert (again - printed(photo)).abs().mean() < 0.3 * (grain.on(photo) - photo).abs().mean()


def test_what_a_print_does_is_told_from_one_and_done_to_others(photo):
    other = (photo.flip(3).roll(1, dims=1) * 0.8).clamp(-1.0, 1.0)  # other hues, other places
    screen = Screen.read(photo, printed(photo))
    truth = window_mean(printed(other), 3.0)

    def away(image: torch.Tensor) -> float:
        return float((window_mean(image, 3.0) - truth).abs().mean())

    made = screen.on(other)
    assert away(made) < 0.25 * away(other)
    assert away(Grain.read(printed(photo)).on(made)) < 0.3 * away(other)
    # Inks follow lightness, so hues of the photo itself are gone.
    hues = opponent(made)[:, 1:] - opponent(truth)[:, 1:]
    assert hues.abs().mean() < 0.2 * (opponent(other)[:, 1:] - opponent(truth)[:, 1:]).abs().mean()
    kept = Screen.read(photo, photo).on(other)
    assert (kept - other).abs().mean() < 0.05
