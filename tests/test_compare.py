"""The comparison's measures and baselines on small images, and its command on made drawings."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from benchmarks import compare, exemplars
from benchmarks.baselines import FIRST_ROW, activations, colour_transfer, jojogan
from benchmarks.exemplars import told_among
from benchmarks.judged import Judges, alike, frechet, judge
from checkpoints.builders import Base
from data.images import save_image
from models.discriminator import Discriminator, DiscriminatorConfig
from models.stylegan2 import Generator, GeneratorConfig

CHANNELS = {4: 8, 8: 8, 16: 8, 32: 8, 64: 8}


@pytest.fixture(scope="module")
def judges() -> Judges:
    return Judges.load()


def smooth(count: int, seed: int) -> torch.Tensor:
    small = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed)) * 1.6 - 0.8
    return torch.nn.functional.interpolate(small, size=(64, 64), mode="bicubic").clamp(-1, 1)


def test_colours_get_the_drawings_mean_and_deviation() -> None:
    from skimage.color import rgb2lab

    photo, drawing = 0.5 * smooth(2, 1), 0.3 * smooth(1, 2) + 0.1
    labs = [rgb2lab((image.permute(0, 2, 3, 1).double().numpy() + 1) / 2) for image in (colour_transfer(photo, drawing), drawing)]
    for made in labs[0]:
        assert np.allclose(made.mean(axis=(0, 1)), labs[1][0].mean(axis=(0, 1)), atol=1.0)
        assert np.allclose(made.std(axis=(0, 1)), labs[1][0].std(axis=(0, 1)), rtol=0.15)


def test_jojogan_learns_the_drawing_and_leaves_the_base_alone() -> None:
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(size=64, style_dim=16, n_mlp=1, channels=CHANNELS)).requires_grad_(False)
    base = Base(generator, Discriminator(DiscriminatorConfig(64, CHANNELS)), torch.zeros(16), "toy", "0")
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    w_plus, drawing = torch.randn(1, 10, 16), smooth(1, 3)
    made = jojogan(base, w_plus, drawing, steps=12, lr=1e-2)
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())

    def distance(network) -> float:  # noqa: ANN001
        with torch.no_grad():
            image = network.synthesis(w_plus, noise=network.fixed_noise())
            pairs = zip(activations(base.discriminator, image), activations(base.discriminator, drawing), strict=True)
            return float(sum((a - b).abs().mean() for a, b in pairs))

    assert distance(made) < 0.9 * distance(generator) and FIRST_ROW < 10


def test_frechet_distance_of_known_normals() -> None:
    rng = np.random.RandomState(0)
    one = torch.from_numpy(rng.randn(20_000, 3))
    assert frechet(one, one) == pytest.approx(0, abs=1e-6)
    assert frechet(one, one + torch.tensor([2.0, 0, 0])) == pytest.approx(4, rel=0.01)
    assert frechet(one, 3 * one) == pytest.approx(3 * 4, rel=0.03)


def test_measures_at_their_ends(judges) -> None:  # noqa: ANN001
    photos, drawing = smooth(3, 4), smooth(1, 5)
    same = judge(judges, photos, photos, drawing)
    assert same["lpips"] == pytest.approx(0, abs=1e-5) and same["identity"] == pytest.approx(0, abs=1e-4)
    assert same["look"] == pytest.approx(1) and same["frechet"] == pytest.approx(1)
    pasted = judge(judges, photos, drawing.expand(3, -1, -1, -1), drawing)
    assert pasted["look"] == pytest.approx(0, abs=1e-3) and pasted["frechet"] == pytest.approx(0, abs=1e-2)
    assert pasted["alike"] == pytest.approx(1, abs=1e-5) and pasted["lpips"] > 0.1
    assert alike(photos) < 0.5


def test_command_makes_a_table_and_goes_on(tmp_path, monkeypatch, capsys) -> None:  # noqa: ANN001
    from faces import find as faces

    monkeypatch.setattr(faces, "face_aligner", lambda size: lambda image, name: image.resize((size, size)))
    for index in range(2):
        save_image(tmp_path / "photos" / f"{index}.png", smooth(1, index))
    for name, seed in (("source_a", 7), ("target_a", 8)):
        save_image(tmp_path / "pairs" / f"{name}.png", smooth(1, seed))
    argv = ["--pairs", str(tmp_path / "pairs"), "--photos", str(tmp_path / "photos"), "--methods", "colour", "--size", "64",
            "--outdir", str(tmp_path / "out")]
    assert compare.main([*argv, "--one", "colour:_a"]) == 0
    facts = json.loads((tmp_path / "out" / "colour__a" / "facts.json").read_text())
    assert set(facts) == {"training_s", "photo_s", "memory_mb"}
    monkeypatch.setattr(compare.subprocess, "run", lambda *a, **k: pytest.fail("done already"))
    assert compare.main(argv) == 0
    printed = capsys.readouterr().out
    assert "| colour | 0." in printed and "1 pairs, 2 photos" in printed and (tmp_path / "out" / "sheet.png").is_file()
    assert compare.main([*argv, "--names", "b"]) == 2 and "there is no such pair" in capsys.readouterr().err
    assert compare.main([*argv, "--methods", "magic"]) == 2


def test_exemplars_are_told_among_eight(tmp_path) -> None:  # noqa: ANN001
    """Nothing nearer: always; all nearer: never; else by drawing sets of seven others, here all of them."""
    from itertools import combinations

    assert told_among(0, 15) == 1.0 and told_among(15, 15) == 0.0 and told_among(1, 3) == 0.0
    others = list(combinations(range(9), 7))
    assert told_among(2, 9) == pytest.approx(sum(min(chosen) >= 2 for chosen in others) / len(others))
    assert exemplars.main(["--style", "ink", "--photos", "data/test_inputs", "--outdir", str(tmp_path)]) == 2
