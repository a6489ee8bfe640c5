"""Seeds, projected latents and mixing, as the commands of stylegan2-ada-pytorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_projection import CONFIG

from checkpoints import save_model
from models.stylegan2 import Generator
from projection import generate, style_mixing
from projection.stills import save_latents


@pytest.fixture
def network(tmp_path) -> Path:
    """A generator's file, small."""
    torch.manual_seed(0)
    generator = Generator(CONFIG)
    for name, value in generator.named_parameters():
        if name.endswith("noise.weight"):
            value.data.fill_(0.5)
    save_model(tmp_path / "g.safetensors", {**generator.state_dict(), "w_avg": torch.zeros(CONFIG.style_dim)},
               {"kind": "generator", "generator": CONFIG.to_dict()})
    return tmp_path / "g.safetensors"


def drawn_pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def test_seeds_are_numpys(network, tmp_path):
    from checkpoints.builders import load_base
    from data.images import to_pil

    argv = ["--network", str(network), "--outdir", str(tmp_path / "seeds"), "--trunc", "0.7"]
    assert generate.main([*argv, "--seeds", "1-2,7"]) == 0
    assert sorted(path.name for path in (tmp_path / "seeds").iterdir()) == ["seed0001.png", "seed0002.png", "seed0007.png"]
    base = load_base(network)
    z = torch.from_numpy(np.random.RandomState(7).randn(1, CONFIG.style_dim)).float()
    w_plus = base.generator.broadcast(base.generator.mapping(z, truncation_psi=0.7, w_avg=base.w_avg))
    images = {}
    with torch.no_grad():
        for mode, maps in (("const", base.generator.fixed_noise()), ("none", base.generator.zero_noise())):
            images[mode] = np.asarray(to_pil(base.generator.synthesis(w_plus, noise=maps))).astype(int)
    assert np.array_equal(drawn_pixels(tmp_path / "seeds" / "seed0007.png"), images["const"])
    for mode in ("none", "random"):
        assert generate.main([*argv, "--seeds", "7", "--noise-mode", mode]) == 0
        again = drawn_pixels(tmp_path / "seeds" / "seed0007.png")
        assert np.array_equal(again, images["none"]) == (mode == "none") and not np.array_equal(again, images["const"])


def test_projected_latents_are_drawn_with_their_features(network, tmp_path, capsys):
    w = torch.randn(2, CONFIG.n_latent, CONFIG.style_dim)
    argv = ["--network", str(network), "--outdir", str(tmp_path / "out"), "--projected_w", str(tmp_path / "w.npz")]
    for residual in (None, torch.randn(2, 8, 32, 32)):
        save_latents(tmp_path / "w.npz", w, residual)
        assert generate.main(argv) == 0
        if residual is None:
            plain = drawn_pixels(tmp_path / "out" / "proj01.png")
    assert not np.array_equal(drawn_pixels(tmp_path / "out" / "proj01.png"), plain)
    save_latents(tmp_path / "w.npz", w[:, :3])
    capsys.readouterr()
    assert generate.main(argv) == 2 and "expected [N, 8, 16]" in capsys.readouterr().err
    (tmp_path / "w.npz").write_bytes(b"nothing")
    assert generate.main(argv) == 2 and capsys.readouterr().err.count("\n") == 1


def test_mixing_takes_the_named_rows_from_the_column(network, tmp_path, capsys):
    argv = ["--network", str(network), "--outdir", str(tmp_path / "mix"), "--rows", "1", "--cols", "2-3"]
    assert style_mixing.main([*argv, "--styles", "0-7"]) == 0
    assert sorted(path.name for path in (tmp_path / "mix").iterdir()) == ["1-2.png", "1-3.png", "grid.png"]
    assert generate.main(["--network", str(network), "--outdir", str(tmp_path), "--seeds", "3"]) == 0
    assert np.array_equal(drawn_pixels(tmp_path / "mix" / "1-3.png"), drawn_pixels(tmp_path / "seed0003.png")), "all rows"
    assert style_mixing.main([*argv, "--styles", "8"]) == 2 and "rows 0 to 7" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "3-1", "a", "1,,2", "0-999999999"])
def test_wrong_seeds_are_one_line(text, capsys):
    assert generate.main([f"--seeds={text}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
