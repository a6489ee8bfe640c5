"""Degrees by region: parsing, weights, and what each region's degree moves."""

from __future__ import annotations

import argparse

import numpy as np
import pytest
import torch

from data.landmarks68 import MEAN_FACE, MIRROR
from data.landmarks68 import REGIONS as LANDMARKS
from models.deformable import DeformableGenerator
from models.sampling_grids import pixel_lattice
from models.spatial_transformer import resting_points, strength_field
from models.stylegan2 import Generator, GeneratorConfig
from styles.controls import REGIONS, ByRegion, parse_regions
from styles.regions import point_strengths, region_weights

CONFIG = GeneratorConfig(size=64, style_dim=16, n_mlp=1, channels={4: 8, 8: 8, 16: 8, 32: 8, 64: 8})


@pytest.fixture(scope="module")
def deformable():
    """A generator that pulls all control points outwards and shifts by its affine block, in exact mode."""
    made = DeformableGenerator.for_generator(Generator(CONFIG))
    with torch.no_grad():
        for block in made.tps.stns:
            block.loc_net.fc[2].bias.mul_(0.85)
        for block in made.affine.stns:
            block.fc_loc[2].bias[2] += 0.08
    return made.requires_grad_(False)


def test_numbers_and_regions_are_parsed():
    assert parse_regions("0.8") == 0.8 and parse_regions("-1") == -1.0
    mixed = parse_regions("0.5, eyes=1.2,jaw=-0.3")
    assert (mixed.degree("eyes"), mixed.degree("jaw"), mixed.degree("mouth")) == (1.2, -0.3, 0.5)
    assert parse_regions("mouth=0").degree("eyes") == 1.0
    assert parse_regions(str(mixed)) == mixed


@pytest.mark.parametrize("text", ["", "strong", "ears=1", "eyes=", "eyes=nan", "1,2", "eyes=1,eyes=2", "inf", "eyes=1,"])
def test_wrong_degrees_are_refused(text):
    with pytest.raises(argparse.ArgumentTypeError) as error:
        parse_regions(text)
    assert "\n" not in str(error.value)


def test_regions_know_their_landmarks():
    weights = region_weights(MEAN_FACE, MEAN_FACE)
    assert np.allclose(weights.sum(axis=1), 1.0)
    for number, part in enumerate(LANDMARKS.values()):
        assert (weights[part].argmax(axis=1) == number).mean() > 0.9
    corners = region_weights(np.array([[0.02, 0.02], [0.98, 0.02]]), MEAN_FACE)
    assert (corners.argmax(axis=1) == REGIONS.index("rest")).all() and corners[:, -1].min() > 0.99


def test_mean_face_is_symmetric_and_upright():
    assert np.allclose(MEAN_FACE[MIRROR] * [-1, 1] + [1, 0], MEAN_FACE, atol=2e-3)
    assert MEAN_FACE[36:48, 1].mean() < MEAN_FACE[27:36, 1].mean() < MEAN_FACE[48:, 1].mean() < MEAN_FACE[8, 1] < 1


def test_field_follows_the_order_of_the_points():
    """A strength that is the x of a control point becomes a field that is the x of a pixel."""
    points = resting_points(10, 0.95)
    for axis in (0, 1):
        field = strength_field(points[None, :, axis], 32, extent=0.95)
        expected = pixel_lattice(32, mode="exact").reshape(32, 32, 2)[..., axis].clamp(-0.95, 0.95)
        assert torch.allclose(field[0], expected, atol=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0, -0.5])
def test_equal_degrees_everywhere_are_one_degree(deformable, alpha):
    rng = torch.Generator().manual_seed(0)
    w_plus = torch.randn(2, CONFIG.n_latent, 16, generator=rng)
    noise = deformable.generator.zero_noise()
    field = point_strengths(ByRegion(alpha), np.stack([MEAN_FACE] * 2), deformable.config)
    assert field.shape == (2, 100)
    one = deformable.synthesis(w_plus, alpha=alpha, noise=noise)
    other = deformable.synthesis(w_plus, alpha=field, noise=noise)
    assert torch.allclose(one.image, other.image, atol=1e-5 * float(one.image.abs().max()) + 1e-6)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(one.grids, other.grids, strict=True))


def displacement(deformable, alpha, part):
    """Return the mean length of the TPS displacement at a region's landmarks, in fractions of the side."""
    features = torch.zeros(1, 8, 64, 64)
    block = deformable.tps.stns[1]
    strength = point_strengths(alpha, MEAN_FACE[None], deformable.config)
    grid = block.grid(features, alpha=strength)[0].numpy()
    rest = pixel_lattice(64, mode="exact").reshape(64, 64, 2).numpy()
    column, row = (MEAN_FACE[part] * 64).astype(int).T
    return np.linalg.norm((grid - rest)[row, column], axis=1).mean()


@pytest.mark.parametrize(("name", "still"), [("eyes", "mouth"), ("mouth", "eyes"), ("jaw", "eyes")])
def test_one_region_moves_and_another_stays(deformable, name, still):
    full = {part: displacement(deformable, 1.0, LANDMARKS[part]) for part in (name, still)}
    only = ByRegion(0.0, ((name, 1.0),))
    assert displacement(deformable, only, LANDMARKS[name]) > 0.7 * full[name]
    assert displacement(deformable, only, LANDMARKS[still]) < 0.2 * full[still]


def test_published_mode_takes_regions_too():
    made = DeformableGenerator.for_generator(Generator(CONFIG), mode="published").requires_grad_(False)
    with torch.no_grad():
        made.affine.stns[0].fc_loc[2].bias[2] += 0.1
    w_plus = torch.randn(1, CONFIG.n_latent, 16, generator=torch.Generator().manual_seed(0))
    noise = made.generator.zero_noise()
    one = made.synthesis(w_plus, alpha=0.3, noise=noise).image
    other = made.synthesis(w_plus, alpha=torch.full((1, 100), 0.3), noise=noise).image
    assert torch.allclose(one, other, atol=1e-5)


def test_wrong_shapes_are_named(deformable):
    w_plus = torch.zeros(2, CONFIG.n_latent, 16)
    with pytest.raises(ValueError, match="alpha must be"):
        deformable.synthesis(w_plus, alpha=torch.zeros(2, 9), noise=deformable.generator.zero_noise())
    with pytest.raises(ValueError, match="different ones"):
        ByRegion(1.0, (("ears", 1.0),))
