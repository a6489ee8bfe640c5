"""Drawn looks: deterministic, different from each other, and warps that do not fold."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from data.drawing import edge_flow, flattened, paper_grain, smoothed
from data.features import head_mask
from data.landmarks68 import MEAN_FACE, MIRROR
from data.looks import LOOKS
from data.random_drawings import drawing, random_deformation
from data.warps import Caricature, backward_grid, least_area

SIDE, SAMPLE = 96, Caricature(eyes=1.45, jaw=0.78, mouth=1.3)


@pytest.fixture(scope="module")
def face() -> torch.Tensor:
    """A schematic face: hair, skin with shading, and a grey ground."""
    y, x = (np.indices((SIDE, SIDE)) + 0.5) / SIDE
    picture = np.full((SIDE, SIDE, 3), 0.6) + 0.1 * y[..., None]
    picture[((x - 0.5) / 0.34) ** 2 + ((y - 0.48) / 0.44) ** 2 < 1] = (0.25, 0.16, 0.10)
    skin = ((x - 0.5) / 0.27) ** 2 + ((y - 0.58) / 0.33) ** 2 < 1
    picture[skin] = (np.array([0.85, 0.62, 0.50]) * (1.1 - 0.5 * np.abs(x - 0.4))[..., None])[skin]
    return torch.from_numpy(picture * 2.0 - 1.0).permute(2, 0, 1)[None].float()


def draw_look(name: str, image: torch.Tensor, *, seed: int) -> torch.Tensor:
    """Draw a face in a look, deformed as the look says, [S, S, 3] in 0..1."""
    return torch.from_numpy(drawing(image, MEAN_FACE, LOOKS[name], seed=seed, recoloured=0.0, own_warp=True)[0])


def test_every_look_is_a_deterministic_drawing_of_its_own(face):
    drawings = {name: draw_look(name, face, seed=3) for name in LOOKS}
    for name, made in drawings.items():
        assert made.shape == (SIDE, SIDE, 3) and made.min() >= 0.0 and made.max() <= 1.0 and torch.isfinite(made).all(), name
    assert torch.equal(drawings["ink"], draw_look("ink", face, seed=3))
    assert not torch.equal(drawings["pastel"], draw_look("pastel", face, seed=4))
    names = list(drawings)
    for i, one in enumerate(names):
        for other in names[i + 1:]:
            assert (drawings[one] - drawings[other]).abs().mean() > 0.025, (one, other)


@pytest.mark.parametrize("name", LOOKS)
def test_warps_do_not_fold(name):
    look = LOOKS[name]
    moved = look.warp.scaled(look.strength).displace(MEAN_FACE)
    assert least_area(backward_grid(MEAN_FACE, moved, 64)) > 0.1
    assert moved.min() > 0.0 and moved.max() < 1.0


@pytest.mark.parametrize("warp", [
    SAMPLE.scaled(1.5), *(Caricature(**{part: getattr(SAMPLE, part)}).scaled(2.0) for part in ("eyes", "jaw", "mouth")),
    Caricature(length=1.16).scaled(2.0), Caricature(length=1.16, lift=0.5).scaled(2.0)])
def test_stronger_warps_do_not_fold(warp):
    assert least_area(backward_grid(MEAN_FACE, warp.displace(MEAN_FACE), 64)) > 0.0


def test_strength_is_a_power_and_folding_is_seen():
    assert SAMPLE.scaled(2.0).eyes == pytest.approx(SAMPLE.eyes**2) and SAMPLE.scaled(0.0) == Caricature()
    assert least_area(backward_grid(MEAN_FACE, MEAN_FACE, 32)) == pytest.approx(1.0)
    assert least_area(backward_grid(MEAN_FACE, Caricature(eyes=4.0).displace(MEAN_FACE), 64)) < 0.0


def test_free_deformations_move_every_part_alike_on_both_sides_and_do_not_fold():
    moved = [random_deformation(MEAN_FACE, torch.Generator().manual_seed(seed)) for seed in range(12)]
    again = random_deformation(MEAN_FACE, torch.Generator().manual_seed(3))
    assert np.array_equal(again, moved[3]) and not np.allclose(moved[3], moved[4])
    for points in moved:
        assert least_area(backward_grid(MEAN_FACE, points, 64)) > 0.0
        shift, mirrored = points - MEAN_FACE, (points - MEAN_FACE)[MIRROR]
        # A nose or a mouth may lie aside; eyes, brows and outline grow and part evenly.
        assert np.abs(shift[17:27, 1] - mirrored[17:27, 1]).max() < 0.03
    far = np.abs(np.stack(moved) - MEAN_FACE)
    for part in (slice(0, 17), slice(17, 27), slice(27, 36), slice(36, 48), slice(48, 68)):
        assert far[:, part].max() > 0.01


def test_lift_moves_the_whole_face_up_by_a_share_of_what_it_gains():
    plain, lifted = (Caricature(length=1.2, lift=lift).displace(MEAN_FACE) for lift in (0.0, 0.5))
    gain = 0.2 * (MEAN_FACE[8, 1] - MEAN_FACE[36:48, 1].mean())
    assert np.allclose(plain - lifted, [0.0, 0.5 * gain], atol=1e-3)


def test_primitives_do_what_they_say(face):
    picture = face[0].permute(1, 2, 0).double().numpy() / 2.0 + 0.5
    noisy = np.clip(picture + 0.03 * np.random.default_rng(0).standard_normal(picture.shape), 0.0, 1.0)
    assert np.abs(smoothed(noisy, 0.02) - picture).mean() < 0.7 * np.abs(noisy - picture).mean()
    flow = edge_flow(np.repeat(np.arange(SIDE)[:, None] % 16 < 8, SIDE, axis=1).astype(float), 0.02)
    assert np.abs(flow.x[20:-20, 20:-20]).min() > 0.99  # horizontal stripes run along x
    flat = flattened(picture, 3, width=0.01, rng=np.random.default_rng(0))
    assert len(np.unique((flat * 20).round().reshape(-1, 3), axis=0)) < 60
    tooth = paper_grain(SIDE, rng=np.random.default_rng(0))
    assert tooth.shape == (SIDE, SIDE) and tooth.std() == pytest.approx(1.0, abs=1e-3)
    head = head_mask(picture, MEAN_FACE)
    assert head[SIDE // 2, SIDE // 2] > 0.99 and head[2, 2] < 0.01 and head[2, -3] < 0.01
