"""Feed-forward residuals: the network, its place between the halves of a generator, its training and where it is used."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from drawn_styles import save_drawn
from PIL import Image
from skimage.data import astronaut

from checkpoints import CheckpointError
from checkpoints.builders import load_base, load_encoder
from checkpoints.features import load_residual_encoder
from checkpoints.io import load_model, save_model
from data.images import read_image, to_tensor
from models.residual_encoder import ResidualEncoder, ResidualEncoderConfig, residual_of, space_to_depth
from models.stylegan2 import Generator, GeneratorConfig, Halfway
from pipeline.latents import LatentCache
from pipeline.sampling import undeformed
from pipeline.stylize import InversionSettings, Stylizer, residual_encoder
from styles.registry import load_style
from training.pretrain.common import MissingStageError, RandomFaces
from training.pretrain.faces import FacePack
from training.pretrain.residual import (
    STARTER_RESIDUAL,
    Firsts,
    ResidualTrainer,
    ResidualTrainingConfig,
    residual_sheet,
    train_residual,
)

SAMPLE = "data/style_images_aligned/source_sample.png"
TINY = ResidualEncoderConfig(stem=4, width=8, inner=8)


@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(0)
    return Generator(GeneratorConfig(size=64, style_dim=16, n_mlp=1, channels=dict.fromkeys((4, 8, 16, 32, 64), 8))).eval()


@pytest.fixture(scope="module")
def pack() -> FacePack:
    rng = np.random.default_rng(1)
    small = torch.from_numpy(rng.integers(0, 255, (9, 3, 8, 8), dtype=np.uint8))
    images = small.repeat_interleave(16, 2).repeat_interleave(16, 3)
    names = [f"photo_{i}" for i in range(8)] + ["synthetic_0"]
    return FacePack(names, images, torch.zeros(9, 68, 2), torch.zeros(9))


def colours(image: torch.Tensor) -> torch.Tensor:
    """Stand for the identity network: the mean colour [N, 3]."""
    return image.mean(dim=(2, 3))


@pytest.mark.parametrize("resolution", [4, 8, 32, 64])
def test_two_halves_make_one_synthesis(generator: Generator, resolution: int) -> None:
    w_plus, noise = torch.randn(2, 10, 16), generator.fixed_noise()
    half = generator.halfway(w_plus, noise=noise, resolution=resolution)
    assert list(half.features.shape) == [2, 8, resolution, resolution]
    assert torch.equal(generator.finish(half, w_plus, noise=noise, resolution=resolution),
                       generator.synthesis(w_plus, noise=noise))


def test_generator_without_such_features_says_so(generator: Generator) -> None:
    with pytest.raises(ValueError, match="no features of 128 px"):
        generator.halfway(torch.zeros(1, 10, 16), noise=generator.fixed_noise(), resolution=128)


def test_network_is_local_and_takes_squares() -> None:
    torch.manual_seed(2)
    network = ResidualEncoder(replace(TINY, channels=6, style_dim=16)).eval()
    for block in (*network.before, *network.inner, *network.after):
        torch.nn.init.normal_(block.second.weight, std=0.05)
    network.deviation.uniform_(0.5, 2.0)
    photo, features, w_plus = torch.randn(1, 3, 128, 128), torch.randn(1, 6, 32, 32), torch.randn(1, 10, 16)
    whole = network(photo, features, w_plus)
    assert whole.shape == features.shape
    part = network(photo[:, :, :96, :96], features[:, :, :24, :24], w_plus)
    torch.testing.assert_close(part[:, :, :8, :8], whole[:, :, :8, :8])
    other = network(photo, features, w_plus + 5.0 * (torch.arange(10) <= 6)[None, :, None])
    assert torch.equal(other, whole), "rows that do not draw the features must not matter"


@pytest.mark.parametrize("change", [{"photo": (1, 3, 64, 64)}, {"features": (1, 6, 16, 16)}, {"w_plus": (1, 10, 8)},
                                    {"features": (1, 5, 32, 32)}, {"photo": (2, 3, 128, 128)}])
def test_wrong_shapes_are_named(change: dict) -> None:
    shapes = {"photo": (1, 3, 128, 128), "features": (1, 6, 32, 32), "w_plus": (1, 10, 16)} | change
    with pytest.raises(ValueError, match="expected photo and features of"):
        ResidualEncoder(replace(TINY, channels=6, style_dim=16))(*(torch.zeros(shape) for shape in shapes.values()))


def test_squares_become_channels() -> None:
    image = torch.randn(2, 3, 12, 8)
    for step in (2, 4):
        assert torch.equal(space_to_depth(image, step), torch.nn.functional.pixel_unshuffle(image, step))


def test_config_survives_json_and_rejects_nonsense() -> None:
    assert ResidualEncoderConfig.from_dict(STARTER_RESIDUAL.to_dict()) == STARTER_RESIDUAL
    for values in ({"widht": 3}, {"width": 0}, {"blocks": [1, 2]}, {"resolution": 24}):
        with pytest.raises(ValueError):
            ResidualEncoderConfig.from_dict(values)


def test_bundled_encoder_brings_the_face_nearer() -> None:
    base, encoder, finder = load_base(), load_encoder(), load_residual_encoder()
    assert finder.generator == base.fingerprint and residual_encoder(base, 32, device="cpu") is not None
    photo = to_tensor(Image.fromarray(astronaut()).crop((125, 0, 325, 200)), 128)
    with torch.no_grad():
        w_plus = encoder.module(photo) + encoder.latent_avg
        half = base.generator.halfway(w_plus, noise=base.generator.fixed_noise(), resolution=32)
        residual = residual_of(finder.module, base.generator, photo, w_plus)
        images = [base.generator.finish(Halfway(half.features + r, half.image), w_plus, resolution=32,
                                        noise=base.generator.fixed_noise()) for r in (0.0 * residual, residual)]
    before, after = (float((image - photo).abs().mean()) for image in images)
    assert after < 0.6 * before, (before, after)


def test_it_is_used_only_where_it_fits() -> None:
    base = load_base()
    assert residual_encoder(base, 0, device="cpu") is None and residual_encoder(base, 64, device="cpu") is None
    for other in (replace(base, fingerprint="another"), replace(base, name="official")):
        assert residual_encoder(other, 32, device="cpu") is None


def test_damaged_file_is_named(tmp_path) -> None:
    path = tmp_path / "residual.safetensors"
    save_model(path, {"head.bias": torch.zeros(3)}, {"kind": "residual", "residual": STARTER_RESIDUAL.to_dict()})
    with pytest.raises(CheckpointError, match="residual.safetensors"):
        load_residual_encoder(path)


@pytest.fixture(scope="module")
def stylizers(tmp_path_factory):
    """Stylizers of e4e with and without the residual encoder, which share nothing but networks."""
    base, encoder, finder, style = load_base(), load_encoder(), load_residual_encoder(), load_style(
        save_drawn(tmp_path_factory.mktemp("styles") / "drawn.safetensors"))

    def make(folder=None, *, residual: int = 32, mode: str = "e4e", steps: int = 1) -> Stylizer:
        return Stylizer(style, base, encoder=encoder, objective=lambda: Far(), finder=None, cache=LatentCache(folder),
                        settings=InversionSettings(mode, steps, residual=residual), residual=finder if residual else None)
    return make


class Far(torch.nn.Module):
    """An objective without a slope."""

    def forward(self, image: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return 0.0 * image.sum()


def test_inversion_and_its_cache(stylizers, tmp_path) -> None:
    image = read_image(SAMPLE)
    plain, full = stylizers(tmp_path, residual=0), stylizers(tmp_path)
    rows, face = plain.invert(image), full.invert(image)
    assert rows.residual is None and face.residual is not None and torch.equal(rows.w_plus, face.w_plus)
    assert len(list(tmp_path.iterdir())) == 2
    again = stylizers(tmp_path)
    found = again.invert(image)
    assert again.cache.hits == 1 and torch.equal(found.residual, face.residual)
    assert torch.equal(undeformed(full.base, found), undeformed(full.base, face))
    # Latents of before the residual encoder was there: the same key, without its digest.
    old = LatentCache(tmp_path).key(image, mode="e4e", generator=full.base.fingerprint, encoder=full.encoder.fingerprint)
    assert torch.equal(LatentCache(tmp_path).get(old).w_plus, rows.w_plus)


def test_optimisation_starts_from_it(stylizers) -> None:
    image = read_image(SAMPLE)
    start, refined = stylizers().invert(image), stylizers(mode="e4e+optimize").invert(image)
    # The objective is flat and one step of the penalty moves each number by one rate at most.
    moved = (refined.residual - start.residual).abs() / load_residual_encoder().module.deviation
    assert float(moved.max()) < 0.06 and float(refined.residual.abs().max()) > 0.1


def test_frames_are_completed_from_steady_rows(stylizers) -> None:
    image, stylizer = read_image(SAMPLE), stylizers()
    face = stylizer.invert_frame(image, lambda rows: rows * 0.5)
    torch.testing.assert_close(face.w_plus, stylizer.encode(image) * 0.5)
    expected = stylizer.completed(image, face.w_plus)
    assert torch.equal(face.residual, expected.residual)
    assert not stylizer.rows_alone and not stylizers(residual=0).rows_alone
    stylizer.residual = None
    assert stylizer.rows_alone and stylizer.invert_frame(image, lambda rows: rows).residual is None


def trainer(**settings) -> ResidualTrainer:
    from checkpoints import starter_dir

    return ResidualTrainer(ResidualTrainingConfig(**settings), colours, folder=starter_dir(), network=TINY)


def test_squares_of_the_training_are_the_face(pack) -> None:
    made = trainer()
    first = made.first(pack.batch(torch.tensor([0])))
    part, noise = made.square(first, (8, 4))
    with torch.no_grad():
        image = made.generator.finish(Halfway(part.features, part.image), part.w_plus, noise=noise, resolution=32)
        whole = made.generator.synthesis(first.w_plus, noise=made.noise)[:, :, 32:96, 16:80]
    inside = (..., slice(12, -12), slice(12, -12))
    torch.testing.assert_close(image[inside], whole[inside], rtol=0, atol=1e-3)
    assert torch.equal(part.photo, first.photo[:, :, 32:96, 16:80])


def test_training_lowers_the_loss_and_goes_on(pack, tmp_path) -> None:
    made = trainer(lr=1e-2, kept=2)
    firsts = Firsts(RandomFaces(pack, seed=0), made.first, made.config)
    losses = [made.step(firsts, 1e-2, local=number % 3 > 0)["l1"] for number in range(8)]
    assert len(firsts.rows) == 2 and made.seen == 3 + 2 * 5 and losses[-2] < losses[0]
    facts = residual_sheet(made, pack, tmp_path / "sheet.png", count=2)
    assert facts["held_out_l1"] < facts["first_l1"] and Image.open(tmp_path / "sheet.png").width > 256
    other = trainer()
    other.load(made.state())
    assert other.seen == made.seen
    assert all(torch.equal(a, b) for a, b in zip(made.average.parameters(), other.average.parameters(), strict=True))
    with pytest.raises(MissingStageError, match="another generator"):
        other.load(made.state() | {"generator": "other"})


def test_stage_saves_and_is_exported(pack, tmp_path, monkeypatch) -> None:
    from checkpoints import starter_dir
    from training.pretrain import residual
    from training.pretrain.export import export_starter

    monkeypatch.setattr(residual, "residual_sheet", lambda *arguments, **settings: {"held_out_l1": 0.5})
    given = {"start": starter_dir(), "identity": colours, "minutes": 0.001}
    facts = train_residual(pack, tmp_path, config=ResidualTrainingConfig(local_share=1.0), **given)
    assert train_residual(pack, tmp_path, **given)["images"] > facts["images"] > 0
    assert set(export_starter(tmp_path, tmp_path / "out")) == {"residual.safetensors"}
    _, config = load_model(tmp_path / "out" / "residual.safetensors", kind="residual")
    assert config["generator"] == load_base().fingerprint == load_residual_encoder(
        tmp_path / "out" / "residual.safetensors").generator
