"""Tones of one picture for another."""

from __future__ import annotations

import pytest
import torch

from models.tones import CELL, in_tones, joined, opponent, pyramid, read_tones


@pytest.fixture
def pictures(rng):
    """A smooth blue one and a rough warm one."""
    smooth = torch.randn(1, 3, 8, 8, generator=rng) * 0.15 + torch.tensor([-0.3, -0.1, 0.4])[None, :, None, None]
    smooth = torch.nn.functional.interpolate(smooth, size=(64, 64), mode="bicubic")
    rough = torch.randn(1, 3, 64, 64, generator=rng) * 0.1 + torch.tensor([0.3, 0.0, -0.4])[None, :, None, None]
    return smooth, rough


def test_colours_and_bands_are_only_another_way_to_write_an_image(pictures):
    for image in pictures:
        colours = opponent(image)
        assert torch.allclose(colours.square().sum(dim=1), image.square().sum(dim=1), atol=1e-5)
        assert torch.allclose(opponent(joined(*pyramid(colours)), back=True), image, atol=1e-5)


def test_statistics_become_the_pictures(pictures):
    smooth, rough = pictures
    drawn = in_tones(smooth, read_tones(rough)._replace(logs=None))
    assert torch.allclose(drawn.mean(dim=(2, 3)), rough.mean(dim=(2, 3)), atol=0.02)
    mine, theirs = (read_tones(image).bands for image in (drawn, rough))
    assert ((mine - theirs).abs() < (read_tones(smooth).bands - theirs).abs()).all()
    # What is drawn stays: bands are scaled, not exchanged.
    before, after = (pyramid(opponent(image))[0][2][0, 0].flatten() for image in (smooth, drawn))
    assert torch.corrcoef(torch.stack([before, after]))[0, 1] > 0.95


def test_magnitudes_are_shared_out_as_in_the_picture(pictures):
    """Lines on flat ground and grain of the same deviation are two things."""
    smooth, rough = pictures
    lines = rough * (rough.abs() > 0.9 * rough.abs().amax())
    grain = in_tones(rough, read_tones(lines)._replace(logs=None))
    drawn = in_tones(rough, read_tones(lines))

    def share_of_weak(image):
        band = pyramid(opponent(image))[0][1][0, 0].abs()
        return float((band < 0.3 * band.std()).float().mean())

    assert share_of_weak(drawn) > share_of_weak(grain) + 0.1
    assert read_tones(lines).mixed(read_tones(rough)._replace(logs=None), 0.5).logs is None


def test_own_tones_change_nothing_and_strength_goes_all_the_way(pictures):
    smooth, rough = pictures
    assert torch.allclose(in_tones(smooth, read_tones(smooth)), smooth, atol=0.01)
    assert in_tones(smooth, read_tones(rough), strength=0.0) is smooth
    ways = [float((in_tones(smooth, read_tones(rough), strength=s) - smooth).abs().mean()) for s in (0.25, 0.5, 0.75, 1.0)]
    assert ways == sorted(ways) and ways[0] > 0.01
    greyer = in_tones(smooth, read_tones(rough), strength=1.0, colour=0.0)
    assert torch.allclose(greyer.mean(dim=(2, 3)), smooth.mean(dim=(2, 3)), atol=0.02)


def test_colours_come_from_the_place_that_the_grid_names(pictures):
    smooth, _ = pictures
    picture = torch.zeros(1, 3, 64, 64)
    picture[:, 0, :, :32] = 0.6  # red on the left
    side = 64 // CELL
    ticks = (torch.arange(side) + 0.5) / side * 2.0 - 1.0
    rest = torch.stack([ticks[None].expand(side, -1), ticks[:, None].expand(-1, side)], dim=2)[None]
    tones = read_tones(picture)
    for grid, sign in ((rest, 1), (rest * torch.tensor([-1.0, 1.0]), -1)):
        red = in_tones(smooth, tones, grid=grid)[0, 0] - in_tones(smooth, tones)[0, 0]
        assert sign * float(red[:, :24].mean() - red[:, 40:].mean()) > 0.1


def test_between_two_pictures(pictures):
    one, other = (read_tones(image) for image in pictures)
    middle = one.mixed(other, 0.5)
    assert torch.allclose(middle.mean, (one.mean + other.mean) / 2) and torch.equal(one.mixed(other, 0.0).bands, one.bands)


@pytest.mark.parametrize("shape", [(1, 3, 60, 60), (1, 1, 64, 64), (1, 3, 64, 32), (3, 64, 64)])
def test_wrong_shapes_are_told(shape):
    with pytest.raises(ValueError, match="multiple of 16"):
        read_tones(torch.zeros(shape))
