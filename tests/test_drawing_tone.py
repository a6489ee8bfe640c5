"""Tone: what a drawing does to colours, contrast and sharpness of parts."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from drawn_styles import parts_of, photo_of, tone_of

from drawing.pyramids import laplacian, opponent
from drawing.tone import (
    LEAST_SPREAD,
    OWN,
    SLOPE,
    Tone,
    octaves,
    read_tone,
    sparser,
    sparsity_of,
    toned,
    with_headroom,
    within,
)

SIDE = 128


def skin_alone() -> torch.Tensor:
    parts = torch.zeros(1, 4, SIDE, SIDE)
    parts[:, 0] = 1.0
    return parts


def split_parts() -> torch.Tensor:
    """Skin on the left, background on the right, nothing soft between."""
    parts = torch.zeros(1, 4, SIDE, SIDE)
    parts[:, 0, :, :64], parts[:, 2, :, 64:] = 1.0, 1.0
    return parts


def kept(photo: torch.Tensor, parts: torch.Tensor) -> Tone:
    """The tone of a drawing that has exactly the photo's statistics."""
    tone = read_tone(photo, parts, photo, parts)
    return replace(tone, slope=torch.ones_like(tone.slope))


def test_octaves_follow_the_frame():
    assert [octaves(frame) for frame in (16, 128, 256, 512, 1024)] == [1, 3, 4, 5, 6]


def test_a_photo_with_the_drawings_statistics_stays():
    photo, parts = photo_of(SIDE), skin_alone()
    torch.testing.assert_close(toned(photo, parts, kept(photo, parts), frame=SIDE), photo, atol=1e-4, rtol=0.0)
    photo, parts = photo_of(SIDE), split_parts()
    made = toned(photo, parts, kept(photo, parts), frame=SIDE)
    assert (made - photo).abs().mean() < 0.02  # detail across borders of parts belongs to neither


def test_strength_0_is_the_photo_and_half_lies_between():
    photo, parts, tone = photo_of(SIDE), parts_of(SIDE), tone_of()
    assert torch.equal(toned(photo, parts, tone, frame=SIDE, strength=0.0), photo)
    half, whole = (toned(photo, parts, tone, frame=SIDE, strength=s) for s in (0.5, 1.0))
    torch.testing.assert_close(half, (photo + whole) / 2.0, atol=1e-5, rtol=0.0)
    assert (whole - photo).abs().mean() > 0.05


def test_colours_become_the_drawings_but_dark_skin_stays_dark():
    light, parts = photo_of(SIDE), skin_alone()
    dark, tone = light - 0.4, read_tone(photo_of(SIDE, 1), skin_alone(), light, skin_alone())
    means = [opponent(toned(photo, parts, tone, frame=SIDE)).mean(dim=(0, 2, 3)) for photo in (light, dark)]
    torch.testing.assert_close(means[0], tone.mean[0], atol=5e-3, rtol=0.0)
    assert float(means[0][0] - means[1][0]) == pytest.approx(
        0.4 * OWN[0][0] * min(1.0, float(tone.slope[0, 0]) / SLOPE), abs=1e-3)


def test_contrast_becomes_the_drawings():
    parts = skin_alone()
    flat, rough = photo_of(SIDE), photo_of(SIDE) + 0.1 * torch.randn(1, 3, SIDE, SIDE)
    tone = read_tone(flat, parts, None, None)
    found = laplacian(opponent(toned(rough, parts, tone, frame=SIDE)), octaves(SIDE))[0]
    before = laplacian(opponent(rough), octaves(SIDE))[0]
    assert before[0][:, 0].square().mean() > 2.0 * tone.energy[0, 0, 0]
    assert float(found[0][:, 0].square().mean() / tone.energy[0, 0, 0]) == pytest.approx(1.0, rel=0.1)


def test_nothing_of_one_part_shines_into_another():
    photo, parts, tone = photo_of(SIDE), split_parts(), tone_of()
    other = photo.clone()
    other[..., 64:] = -0.9 + 0.1 * torch.rand(1, 3, SIDE, 64)
    first, second = (toned(image, parts, tone, frame=SIDE) for image in (photo, other))
    torch.testing.assert_close(first[..., :64], second[..., :64], atol=1e-5, rtol=0.0)
    assert (first - second)[..., 64:].abs().mean() > 0.01


def test_the_slope_is_that_of_the_pair():
    photo, parts = photo_of(SIDE), skin_alone()
    low = read_tone(0.4 * photo + 0.2, parts, photo, parts)
    assert (low.slope[0] < 0.6).all() and (low.slope[1:] - 0.5).abs().max() < 0.01  # parts that are not there
    torch.testing.assert_close(low.mean[0], 0.4 * low.photo_mean[0] + opponent(torch.full((1, 3, 1, 1), 0.2))[0, :, 0, 0],
                               atol=1e-4, rtol=0.0)


def test_any_size_any_frame_and_parts_that_are_not_there():
    photo, tone = photo_of(SIDE)[..., :101], tone_of()
    for frame in (40.0, 300.0, 1400.0):  # the last has finer octaves than the drawing
        made = toned(photo, parts_of(SIDE)[..., :101], tone, frame=frame, placed=tone.placed.flatten(0, 1)[None])
        assert made.shape == photo.shape and torch.isfinite(made).all()
    made = toned(photo, skin_alone()[..., :101], tone, frame=SIDE)
    assert torch.isfinite(made).all()


def test_mixtures_and_tensors_come_back():
    a, b = tone_of(1), tone_of(2)
    torch.testing.assert_close(Tone.mix([a, b], [0.5, 0.5]).mean, (a.mean + b.mean) / 2.0)
    assert all(torch.equal(one, getattr(Tone.of_tensors(a.tensors()), name)) for name, one in a.tensors().items())


def test_what_sets_a_person_apart_leaves_room_for_shading():
    """Half of the room to white is left in a drawing of 0.5 of a photo of 0: half of what is lighter, all of what is darker."""
    pale, dark, photo = (torch.tensor([light, 0.1, 0.2]) for light in (0.5, -0.6, 0.0))
    lighter, darker = torch.tensor([0.2, 0.3, -0.4]), torch.tensor([-0.2, 0.3, -0.4])
    torch.testing.assert_close(with_headroom(lighter, pale, photo), torch.tensor([0.1, 0.3, -0.4]))
    torch.testing.assert_close(with_headroom(darker, pale, photo), darker)
    torch.testing.assert_close(with_headroom(darker, dark, photo), torch.tensor([-0.08, 0.3, -0.4]))


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def test_sparsity_is_two_over_pi_for_normal_values_and_the_share_of_lines_on_flat_grounds():
    weight = torch.ones(1, 1, SIDE, SIDE)
    assert float(sparsity_of(noise(1, 3, SIDE, SIDE), weight)[0]) == pytest.approx(2.0 / math.pi, abs=0.02)
    lines = torch.zeros(1, 3, SIDE, SIDE)
    lines[..., ::8] = 0.5
    assert float(sparsity_of(lines, weight)[0]) == pytest.approx(1.0 / 8.0, abs=0.01)


def test_a_band_becomes_as_sparse_as_asked_keeps_its_energy_and_is_never_blurred():
    band, weight = 0.2 * noise(1, 3, SIDE, SIDE), torch.ones(1, 1, SIDE, SIDE)
    made = sparser(band, weight, torch.tensor(0.4))
    assert float(sparsity_of(made, weight)[0]) == pytest.approx(0.4, abs=0.02)
    torch.testing.assert_close(made[:, :1].square().mean(), band[:, :1].square().mean())
    assert torch.equal(made.sign(), band.sign())
    torch.testing.assert_close(sparser(band, weight, torch.tensor(0.9)), band)


def test_the_borders_of_parts_say_nothing_but_thin_parts_do():
    parts = split_parts()
    inner = within(parts)
    assert (inner[:, 0, :, 62:] == 0.0).all() and (inner[:, 0, :, :60] == 1.0).all()
    thin = torch.zeros(1, 4, SIDE, SIDE)
    thin[:, 1, :, 40:42] = 1.0
    thin[:, 0] = 1.0 - thin[:, 1]
    assert torch.equal(within(thin)[:, 1], thin[:, 1])


def test_a_flat_background_stays_flat_whatever_the_photo_shows():
    parts, flat = split_parts(), photo_of(SIDE)
    flat[..., 64:] = 0.8
    photo = photo_of(SIDE)
    photo[..., 64:] = torch.where(torch.arange(SIDE)[:, None] < 64, -0.7, 0.7)
    made = opponent(toned(photo, parts, read_tone(flat, parts, None, None), frame=SIDE))[0, 0, :, 80:]
    assert float(made[90:].mean() - made[:40].mean()) == pytest.approx(1.4 * SLOPE * LEAST_SPREAD, abs=0.03)
