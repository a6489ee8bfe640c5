"""Faces: rows of latents and the residual of features that moves with every warp."""

from __future__ import annotations

import pytest
import torch

from models.deformable import DeformableGenerator
from models.face import Face
from models.sampling_grids import composed, enlarged, pixel_lattice
from models.stylegan2 import Generator, GeneratorConfig

SIZE, DIM = 64, 16


@pytest.fixture(scope="module")
def generator() -> Generator:
    config = GeneratorConfig(size=SIZE, style_dim=DIM, n_mlp=1, channels={4: 8, 8: 8, 16: 8, 32: 8, 64: 8})
    return Generator(config).eval().requires_grad_(False)


def rows(generator: Generator, count: int = 1) -> torch.Tensor:
    return torch.randn(count, generator.config.n_latent, DIM)


def test_without_residual_nothing_is_transformed(generator: Generator) -> None:
    assert Face(rows(generator)).transforms() == {} and Face(rows(generator)).resolution is None


@pytest.mark.parametrize("resolution", [16, 32, 64])
def test_style_at_rest_draws_what_the_base_draws(generator: Generator, resolution: int) -> None:
    style = DeformableGenerator.for_generator(generator)
    face = Face(rows(generator, 2), torch.randn(2, 8, resolution, resolution))
    noise = generator.fixed_noise()
    base = generator.synthesis(face.w_plus, noise=noise, feature_transforms=face.transforms())
    drawn = style.synthesis(face.w_plus, alpha=0.0, noise=noise, residual=face.residual).image
    torch.testing.assert_close(drawn, base, rtol=0, atol=2e-4)
    without = style.synthesis(face.w_plus, alpha=0.0, noise=noise).image
    assert (drawn - without).abs().max() > 0.01


def test_residual_above_the_first_warp_is_moved_by_it(generator: Generator) -> None:
    """A residual at 64 px, warped by a shift of four pixels at 32 px, lies eight pixels further."""
    style = DeformableGenerator.for_generator(generator, resolutions=(32,), tps=False)
    with torch.no_grad():
        style.affine.stns[0].fc_loc[2].bias.copy_(torch.tensor([1.0, 0.0, 8 / 32, 0.0, 1.0, 0.0]))
    residual = torch.zeros(1, 8, 64, 64)
    residual[:, :, 30:34, 40:44] = 5.0
    w_plus, noise = rows(generator), generator.zero_noise()
    with_, without = (style.synthesis(w_plus, noise=noise, residual=part).image for part in (residual, None))
    seen = (with_ - without).abs().sum(dim=(0, 1, 2))
    assert seen[32:36].min() > 0.1 * seen.max() and seen[39:].max() < 1e-4 * seen.max()


def test_enlarged_grid_is_the_same_map() -> None:
    lattice = pixel_lattice(16, mode="exact").reshape(1, 16, 16, 2)
    larger = enlarged(lattice * 0.8 + 0.1, 32)
    expected = pixel_lattice(32, mode="exact").reshape(1, 32, 32, 2) * 0.8 + 0.1
    # Beyond the outermost pixel centres the displacement of the last one goes on.
    assert (larger - expected)[:, 1:-1, 1:-1].abs().max() < 1e-6 and (larger - expected).abs().max() < 0.01


def test_batches_and_misfits(generator: Generator) -> None:
    face = Face(rows(generator, 3), torch.randn(3, 8, 32, 32))
    assert len(face) == 3 and len(face[1:]) == 2 and face[1:].residual.shape[0] == 2 and face.resolution == 32
    joined = Face.join([face[:1], face[1:]])
    assert torch.equal(joined.w_plus, face.w_plus) and torch.equal(joined.residual, face.residual)
    for wrong in (torch.randn(2, 8, 32, 32), torch.randn(3, 8, 32, 16), torch.randn(3, 8, 32)):
        with pytest.raises(ValueError, match=r"expected a residual \[3, C, R, R\]"):
            Face(face.w_plus, wrong)
    with pytest.raises(ValueError, match="cannot share a batch"):
        Face.join([face, Face(face.w_plus)])


def test_composed_grids_read_what_one_after_the_other_reads() -> None:
    rest = pixel_lattice(64, mode="exact").reshape(1, 64, 64, 2)
    first, second = rest * 0.8 + torch.tensor([0.1, 0.0]), rest * torch.tensor([1.0, 0.9]) - 0.05
    both = composed([first, second], 64)
    # image -> image at first -> that at second: the second says where the first is read.
    torch.testing.assert_close(both[:, 4:-4, 4:-4], (second * 0.8 + torch.tensor([0.1, 0.0]))[:, 4:-4, 4:-4])
    assert composed([first], 128).shape == (1, 128, 128, 2)


def test_photos_go_along_with_their_faces(generator: Generator) -> None:
    photo = torch.randn(2, 3, SIZE, SIZE)
    face = Face(rows(generator, 2), photo=photo)
    assert torch.equal(face[:1].photo, photo[:1]) and torch.equal(face.to("cpu").photo, photo)
    assert torch.equal(Face.join([face, face]).photo, torch.cat([photo, photo]))
    assert torch.equal(face.with_rows(rows(generator, 2)).photo, photo)
    with pytest.raises(ValueError, match="photo"):
        Face.join([face, Face(rows(generator))])
    with pytest.raises(ValueError, match="photos"):
        Face(rows(generator), photo=photo)
