"""Random faces: the prior, the two-times decoder, what a base draws with them, and the files and scripts that show them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import squeezenet1_1

import generate_samples
import pretrain
from benchmarks.sample_figures import alike, nearest
from checkpoints.builders import Base, has_prior, load_base
from checkpoints.features import load_network
from checkpoints.io import save_model
from checkpoints.paths import starter_dir
from models.decoder import FACE, Decoder, DecoderConfig, enlarged, no_sketch, placed, sketch_of, smoothed
from models.face import Face
from models.face_prior import SHARE, FacePrior, FacePriorConfig, condition, packed, unpacked
from models.stylegan2 import Generator, GeneratorConfig
from pipeline.cli import UserError, int_ranges
from pipeline.face_files import load_faces, save_faces
from pipeline.sampling import random_face, seed_path, shown, slerp
from training.pretrain import whole
from training.pretrain.common import MissingStageError
from training.pretrain.prior import Faces, PriorTrainer, PriorTrainingConfig, fit_gaussian, mirrored

SMALL = DecoderConfig(widths=(8, 8, 8), fine=4, blocks=(1, 1, 1))
SHAPE = FacePriorConfig(n_latent=8, style_dim=16, row_parts=6, widths=(8, 8, 8), blocks=(1, 1, 1), steps=3)
GENERATOR = GeneratorConfig(size=32, style_dim=16, n_mlp=2, channels={4: 8, 8: 8, 16: 8, 32: 8})


def faces(count: int, rng: torch.Generator) -> Faces:
    """Return faces with a known mean whose rows and sketches vary in few ways."""
    ways = torch.randn(count, 6, generator=rng)
    rows = 2.0 + (ways[:, :3] @ torch.randn(3, 8 * 16, generator=rng)).unflatten(1, (8, 16))
    sketches = -1.0 + (ways[:, 3:] @ torch.randn(3, 5 * 256, generator=rng)).unflatten(1, (5, 16, 16))
    return Faces(rows, sketches, condition(torch.rand(count, 3, 32, 32, generator=rng)))


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture()
def prior(rng):
    made = FacePrior(SHAPE).requires_grad_(False)
    fit_gaussian(made, faces(200, rng))
    return made


@pytest.fixture()
def folder(tmp_path, prior):
    """A starter folder of tiny networks: generator, prior and decoder."""
    torch.manual_seed(3)
    generator = Generator(GENERATOR)
    save_model(tmp_path / "generator.safetensors", {**generator.state_dict(), "w_avg": torch.zeros(16)},
               {"kind": "generator", "generator": GENERATOR.to_dict()})
    digest = load_base(tmp_path / "generator.safetensors").fingerprint
    for name, network in (("prior", prior), ("decoder", Decoder(SMALL))):
        save_model(tmp_path / f"{name}.safetensors", network.state_dict(),
                   {"kind": name, name: network.config.to_dict(), "generator": digest})
    return tmp_path


def test_prior_starts_at_the_mean_and_covariance_of_the_faces(prior, rng):
    known = faces(200, torch.Generator().manual_seed(1))
    assert torch.allclose(prior.rows(torch.zeros(1, 16))[0], known.rows.mean(dim=0), atol=1e-4)
    image = torch.zeros(3000, 3, 32, 32)
    z = torch.randn(3000, 16, generator=rng)
    drawn = prior.rows(z), prior.sketch(z, image)  # an untrained flow leaves the Gaussian as it is
    for truth, got, share in zip((known.rows, known.sketches), drawn, (1.0, SHARE), strict=True):
        truth, got = (torch.cov(part.flatten(1)[:, :6].T) for part in (share * truth, got))
        assert (truth - got).abs().max() < 0.1 * truth.abs().max()
    assert prior.sketch(torch.zeros(1, 16), image[:1]).sub(known.sketches.mean(dim=0)).abs().max() < 1e-4


def test_sketches_are_packed_where_the_face_is(rng):
    photo, image = torch.rand(2, 2, 3, 64, 64, generator=rng)
    sketch = sketch_of(photo, image)
    maps = packed(sketch)
    assert maps.shape == (2, 8, 16, 16) and torch.allclose(unpacked(maps), sketch, atol=1e-6)
    grey = torch.nn.functional.avg_pool2d((photo - image).mean(dim=1, keepdim=True), 2)
    assert torch.allclose(maps[:, 4, 5:13, 4:12], grey[:, 0, 10:26:2, 8:24:2], atol=1e-5)
    assert torch.allclose(mirrored(maps, single=4), packed(sketch_of(photo.flip(3), image.flip(3))), atol=1e-5)
    assert torch.allclose(mirrored(condition(image)), condition(image.flip(3)), atol=1e-6)


def test_flow_learns_what_the_image_says(rng):
    """Sketches that follow from the image are drawn after it, though the Gaussian knows nothing of it."""
    light = torch.rand(64, 1, 1, 1, generator=rng) * 2.0 - 1.0
    image = light.expand(64, 3, 32, 32)
    sketches = light.expand(64, 5, 16, 16) + 0.05 * torch.randn(64, 5, 16, 16, generator=rng)
    known = Faces(torch.randn(64, 8, 16, generator=rng), sketches, condition(image))
    made = FacePrior(SHAPE)
    fit_gaussian(made, known)
    trainer = PriorTrainer(PriorTrainingConfig(batch=16, lr=5e-3, warm=16, average=0.9), made, "")
    before, *_ = [trainer.step(known, 0.0)["flow"] for _ in range(150)]
    z = torch.randn(64, 16, generator=rng)
    means = made.sketch(z, image).mean(dim=(1, 2, 3))
    assert float((means - light.flatten()).abs().mean()) < 0.25 * float(light.abs().mean())
    assert float((made.rough(z).mean(dim=(1, 2, 3)) * made.scale.mean() - light.flatten()).abs().mean()) > 0.5
    with pytest.raises(MissingStageError, match="another generator"):
        PriorTrainer(PriorTrainingConfig(), made, "other").load(trainer.state())


def test_truncation_goes_to_the_mean_in_a_straight_line(prior):
    z = torch.randn(3, 16)
    mean, half, full = (prior.rows(z, truncation_psi=psi) for psi in (0.0, 0.5, 1.0))
    assert torch.allclose(half, (mean + full) / 2, atol=1e-5) and torch.allclose(mean[0], mean[1])
    with pytest.raises(ValueError, match=r"expected z \[N, 16\]"):
        prior.rows(torch.randn(3, 8))


@pytest.mark.parametrize("values", [{"row_parts": 16}, {"row_parts": 0}, {"n_latent": 0}, {"steps": 0}])
def test_impossible_priors_are_refused(values):
    with pytest.raises(ValueError, match="row_parts"):
        replace(SHAPE, **values)
    with pytest.raises(ValueError, match="multiples of 8"):
        replace(SHAPE, widths=(8, 8, 12))
    with pytest.raises(ValueError, match="unknown settings"):
        FacePriorConfig.from_dict({"depth": 3})


def test_untrained_decoder_is_bicubic_and_trained_one_uses_the_sketch(rng):
    decoder = Decoder(SMALL)
    image = torch.rand(2, 3, 32, 32, generator=rng)
    assert torch.equal(decoder(image, no_sketch(2, image)), enlarged(image))
    torch.nn.init.normal_(decoder.head.weight, generator=rng)
    sketch = torch.zeros(2, 5, 16, 16)
    sketch[1, FACE] = 1.0
    one, two = decoder(image[:1].repeat(2, 1, 1, 1), sketch)
    assert one.shape == (3, 64, 64) and not torch.allclose(one, two)
    for bad in (torch.rand(2, 3, 30, 30), torch.rand(2, 3, 32, 16), torch.rand(1, 3, 32, 32)):
        with pytest.raises(ValueError, match="expected images"):
            decoder(bad, sketch)
    with pytest.raises(ValueError, match="expected sketches"):
        decoder(image, sketch[:, :4])


def test_sketches_say_what_is_missing(rng):
    image = torch.rand(1, 3, 64, 64, generator=rng)
    assert torch.equal(sketch_of(image, image), torch.zeros(1, 5, 16, 16))
    lighter = sketch_of(image + 0.25, image)
    assert torch.allclose(lighter[:, :3], torch.full((1, 3, 16, 16), 0.25), atol=1e-5)
    assert torch.allclose(lighter[:, FACE], torch.full((1, 1, 16, 16), 0.25), atol=1e-5) and lighter[:, 3].abs().max() < 1e-4
    assert float(placed(lighter[:, FACE], 32).sum()) == pytest.approx(0.25 * 16 * 16, rel=1e-4)
    with pytest.raises(ValueError, match="one shape"):
        sketch_of(image, image[:, :, :32])


def test_patterns_of_two_pixels_are_smoothed_away():
    board = (torch.arange(16)[:, None] + torch.arange(16)) % 2 * 2.0 - 1.0
    assert smoothed(board[None, None])[..., 1:-1, 1:-1].abs().max() < 1e-6
    assert torch.allclose(smoothed(torch.ones(1, 2, 8, 8)), torch.ones(1, 2, 8, 8))


def test_base_draws_photos_with_a_prior_and_rows_without(folder, tmp_path):
    base = load_base(folder / "generator.safetensors")
    z = torch.randn(2, 16)
    face = random_face(base, z, truncation_psi=0.8)
    assert face.photo.shape == (2, 3, 64, 64) and face.residual is None and torch.equal(shown(base, face), face.photo)
    assert torch.equal(face.w_plus, base.prior.rows(z, truncation_psi=0.8))
    assert torch.equal(random_face(base, 4, index=2).w_plus, random_face(base, 4, index=2).w_plus)
    assert base.enlarge(torch.zeros(1, 3, 32, 32)).shape == (1, 3, 64, 64)
    assert has_prior(base.name)
    (folder / "prior.safetensors").unlink()
    plain = load_base(folder / "generator.safetensors")
    assert not has_prior(plain.name)
    drawn, generator = random_face(plain, z, truncation_psi=0.7), plain.generator
    w = generator.mapping(z, truncation_psi=0.7, w_avg=plain.w_avg)
    assert torch.equal(drawn.w_plus, generator.broadcast(w)) and drawn.photo is None


def test_files_of_another_generator_are_not_taken(folder):
    base = load_base(folder / "generator.safetensors")
    assert base.prior is not None and base.decoder is not None
    other = Base(base.generator, None, base.w_avg, base.name, "another")
    assert other.prior is None and other.decoder is None
    assert torch.equal(other.enlarge(torch.zeros(1, 3, 32, 32)), torch.zeros(1, 3, 64, 64))


def test_faces_are_kept_in_files(tmp_path, rng):
    face = Face(torch.randn(2, 8, 16, generator=rng), torch.randn(2, 8, 4, 4, generator=rng), torch.rand(2, 3, 32, 32) * 2 - 1)
    save_faces(tmp_path / "a.npz", face, ["x", "y"], base="toy")
    again, names = load_faces(tmp_path / "a.npz", base="toy", shape=(8, 16))
    assert names == ["x", "y"] and torch.equal(again.w_plus, face.w_plus)
    assert torch.equal(again.residual, face.residual.half().float()) and (again.photo - face.photo).abs().max() <= 1 / 127
    np.savez(tmp_path / "rows.npz", w_plus=face.w_plus.numpy())
    alone, names = load_faces(tmp_path / "rows.npz", base="toy", shape=(8, 16))
    assert names == ["0", "1"] and alone.residual is None and alone.photo is None
    with pytest.raises(ValueError, match="expected 2 names"):
        save_faces(tmp_path / "a.npz", face, ["x"], base="toy")


@pytest.mark.parametrize(("make", "words"), [
    (lambda path: None, "not found"),
    (lambda path: path.write_bytes(b"PK\x03\x04 no archive"), "is no .npz file"),
    (lambda path: np.savez(path, z=np.zeros(3)), "holds no w_plus"),
    (lambda path: np.savez(path, w_plus=np.zeros((1, 4, 16))), r"holds w_plus [1, 4, 16]"),
    (lambda path: np.savez(path, w_plus=np.full((1, 8, 16), np.nan)), "expected finite numbers"),
    (lambda path: np.savez(path, w_plus=np.zeros((1, 8, 16)), base="official"), "holds faces of the base official"),
    (lambda path: np.savez(path, w_plus=np.zeros((1, 8, 16)), residual=np.zeros((3, 8, 4, 4))), "does not fit together"),
])
def test_wrong_latent_files_are_named(tmp_path, make, words):
    path = tmp_path / "wrong.npz"
    make(path)
    with pytest.raises(UserError) as error:
        load_faces(path, base="toy", shape=(8, 16))
    assert words in str(error.value) and "wrong.npz" in str(error.value) and "\n" not in str(error.value)


def test_paths_between_seeds_stay_as_long_as_their_ends():
    one, two = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    assert torch.allclose(slerp(one, two, 0.5), torch.full((1, 2), 2.0**0.5)) and torch.allclose(slerp(one, two, 1.0), two)
    assert torch.allclose(slerp(one, one, 0.3), one)
    path = seed_path([1, 2, 3], 4, 512)
    assert path.shape == (12, 512) and (path.norm(dim=1) - 512**0.5).abs().max() < 3.0
    assert not torch.allclose(path[0], path[4])


@pytest.mark.parametrize(("text", "numbers"), [("3", (3,)), ("1-3, 7", (1, 2, 3, 7)), ("0-0", (0,))])
def test_ranges_of_seeds(text, numbers):
    assert int_ranges(text) == numbers


@pytest.mark.parametrize("text", ["", "a", "3-1", "1-20000", "-4", "1-"])
def test_wrong_ranges_of_seeds(text):
    import argparse

    with pytest.raises(argparse.ArgumentTypeError):
        int_ranges(text)


def test_alike_is_one_for_copies_and_none_for_noise(rng):
    noise = torch.rand(6, 3, 32, 32, generator=rng)
    assert alike(noise[:1].expand(3, 3, 32, 32)) == pytest.approx(1.0, abs=1e-4) and abs(alike(noise)) < 0.05
    assert nearest(torch.zeros(2, 3), torch.tensor([[3.0, 4.0, 0.0], [1.0, 0.0, 0.0]])) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="at least two"):
        alike(noise[:1])


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_samples_by_seeds_from_files_and_mixed(tmp_path):
    common = ["--style", "ink", "--style_only", "--output", str(tmp_path)]
    kept = tmp_path / "kept" / "faces.npz"
    assert generate_samples.main([*common, "--seeds", "3-4", "--save_latents", str(kept)]) == 0
    first = pixels(tmp_path / "ink_seed_0003.png")
    assert (tmp_path / "ink_seed_0003_to_seed_0004.png").is_file() and (first != pixels(tmp_path / "ink_seed_0004.png")).any()
    again = tmp_path / "again"
    assert generate_samples.main([*common[:-1], str(again), "--latents", str(kept)]) == 0
    assert abs(pixels(again / "ink_seed_0003.png") - first).mean() < 2.0
    assert generate_samples.main([*common, "--mix_seeds", "3,4", "--batch", "7"]) == 0
    mixtures = sorted(tmp_path.glob("ink_mix_3_4_from_row_??.png"))
    assert len(mixtures) == 7
    assert abs(pixels(mixtures[-1]) - first).mean() < 2.0 < abs(pixels(mixtures[0]) - first).mean()


def test_film_between_seeds(tmp_path):
    argv = ["--style", "ink", "--style_only", "--seeds", "1,2", "--interpolate", "2", "--film", "gif", "--output", str(tmp_path)]
    assert generate_samples.main(argv) == 0
    with Image.open(tmp_path / "ink_seeds_1_2.gif") as film:
        assert film.n_frames == 4


@pytest.mark.parametrize(("argv", "words"), [
    (["--seeds", "1-2", "--mix_seeds", "1,2"], "give one of them"), (["--mix_seeds", "1,2,3"], "expected two seeds"),
    (["--interpolate", "3"], "at least two --seeds"), (["--seeds", "2-1"], "rising ranges"),
    (["--seeds", "1,2", "--interpolate", "2", "--save_latents", "a.npz"], "--save_latents: goes with"),
    (["--latents", "none.npz"], "none.npz: not found"),
])
def test_wrong_wishes_are_one_line(argv, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert generate_samples.main(["--style", "ink", *argv]) == 2
    printed = capsys.readouterr().err
    assert words in printed and printed.count("\n") == 1


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher") / "squeezenet.npz"
    torch.manual_seed(0)
    np.savez(path, **{f"features.{k}": v.numpy() for k, v in squeezenet1_1(weights=None).features.state_dict().items()})
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(8):
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).resize((256, 256)).save(folder / f"photo_{number}.png")
    return folder


def test_stages_of_random_faces_follow_each_other(photos, teacher, tmp_path, capsys):
    pack, state = tmp_path / "faces.npz", ["--state", str(tmp_path / "state")]
    assert pretrain.main(["pack", "--data", str(photos), "--size", "256", "--output", str(pack)]) == 0
    decoder = ["decoder", "--data", str(pack), "--teacher", str(teacher), "--minutes", "0.0001", *state]
    assert pretrain.main(decoder) == 2
    assert "prior.pt: not found; run the prior stage first" in capsys.readouterr().err
    assert pretrain.main(["prior", "--data", str(pack), "--minutes", "0.02", *state]) == 0
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert facts["faces"] == 6 and facts["sketches"] >= 32 and facts["held_out_flow"] > 0.0
    assert pretrain.main(decoder) == 0
    assert pretrain.main(["export", *state, "--output", str(tmp_path / "starter")]) == 0
    base = load_base("starter")
    random, twice = (load_network(name, tmp_path / "starter" / f"{name}.safetensors") for name in ("prior", "decoder"))
    assert random.generator == twice.generator == base.fingerprint and random.module.config.n_latent == 12
    small = tmp_path / "small.npz"
    assert pretrain.main(["pack", "--data", str(photos), "--size", "128", "--output", str(small)]) == 0
    assert pretrain.main(["decoder", "--data", str(small), *decoder[3:]]) == 2
    assert "pack them with --size 256" in capsys.readouterr().err


def test_all_stages_end_with_a_starter_folder(photos, teacher, tmp_path, monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(whole, "_stage", lambda name, *args, minutes, **kwargs: lambda: ran.append((name, minutes)))
    argv = ["all", "--data", str(photos), "--teacher", str(teacher), "--hours", "1", "--state", str(tmp_path / "state"),
            "--output", str(tmp_path / "mine")]
    assert pretrain.main(argv) == 0
    assert [name for name, _ in ran] == [name for name, _ in whole.SHARES]
    assert sum(minutes for _, minutes in ran) == pytest.approx(60.0)
    assert "vit.safetensors" in json.loads(capsys.readouterr().out.splitlines()[-1])["files"]
    ran.clear()
    assert pretrain.main(argv) == 0 and not ran  # what is finished stays finished
    monkeypatch.setenv("STARTER_DIR", str(tmp_path / "mine"))
    assert starter_dir() == tmp_path / "mine"
