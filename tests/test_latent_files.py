"""Latents in files: what was written is drawn again, published files are read, the rest is refused in one line."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import astronaut

import deformation_control
import inference
from checkpoints.builders import load_base
from models.deformable import DeformableGenerator
from models.face import Face
from pipeline.cli import UserError
from pipeline.face_files import load_faces
from pipeline.latent_files import read_face, read_faces, save_face
from styles.deformable import save_style

SHAPE = (6, 8)


@pytest.fixture(scope="module")
def styles(tmp_path_factory):
    """Two styles of the starter: as it is, and with warps of their own."""
    path, base = tmp_path_factory.mktemp("styles"), load_base("starter")
    for name, seed in (("toy", 0), ("other", 1)):
        deformable = DeformableGenerator.for_generator(base.generator, rng=torch.Generator().manual_seed(seed))
        if seed:
            for parameter in deformable.tps.parameters():
                parameter.data += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
        save_style(path / f"{name}.safetensors", deformable, w_avg=base.w_avg,
                   base={"name": "starter", "fingerprint": base.fingerprint}, training={})
    return path


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "me.png"
    Image.fromarray(astronaut()[:300, 60:360]).save(path)
    return path


def face(seed=0):
    rng = torch.Generator().manual_seed(seed)
    return Face(torch.randn(1, *SHAPE, generator=rng), torch.randn(1, 2, 4, 4, generator=rng).half().float(),
                (torch.randint(0, 256, (1, 3, 5, 5), generator=rng) / 127.5 - 1.0))


def test_a_face_comes_back(tmp_path):
    save_face(tmp_path / "a.npz", face(), landmarks=np.full((68, 2), 0.25), fingerprint="base")
    stored = read_face(tmp_path / "a.npz")
    for name in ("w_plus", "residual"):
        assert torch.equal(getattr(stored.face, name), getattr(face(), name))
    assert torch.allclose(stored.face.photo, face().photo, atol=1e-6) and stored.fingerprint == "base"
    assert stored.landmarks.shape == (68, 2) and stored.name == "a"
    samples, names = load_faces(tmp_path / "a.npz", base="toy", shape=SHAPE)
    assert torch.equal(samples.w_plus, face().w_plus) and names == ["a"]
    with pytest.raises(UserError, match="another generator"):
        load_faces(tmp_path / "a.npz", base="toy", shape=SHAPE, fingerprint="other")
    with pytest.raises(UserError, match="expected finite numbers"):
        load_faces(tmp_path / "a.npz", base="toy", shape=(SHAPE[0] + 1, SHAPE[1]))


def test_published_files_are_read(tmp_path):
    rows = torch.randn(18, 512)
    np.savez(tmp_path / "projected_w.npz", w=rows[None].numpy())
    torch.save({"latent": rows}, tmp_path / "code.pt")
    torch.save(rows[None], tmp_path / "bare.pt")
    for name in ("projected_w.npz", "code.pt", "bare.pt"):
        assert torch.equal(read_face(tmp_path / name).face.w_plus, rows[None])


@pytest.mark.parametrize(("content", "word"), [
    ({"x": np.zeros(3)}, "no rows of latents, only x"), ({"w": np.zeros((2, 6, 8))}, "2 faces"),
    ({"w": np.zeros(5)}, "another form"), ({"w": np.full((1, 6, 8), np.nan)}, "NaN"), (b"<html>", "damaged"),
    ({"w": np.array([object()])}, "damaged"), ({"w": np.zeros((1, 7, 8))}, "style's generator takes"),
    ({"w": np.zeros((1, 6, 8)), "fingerprint": np.array("else")}, "another generator"),
])
def test_the_rest_is_refused_in_one_line(tmp_path, content, word):
    if isinstance(content, dict):
        buffer = io.BytesIO()
        np.savez(buffer, **content)
        content = buffer.getvalue()
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UserError, match=word) as error:
        read_faces([tmp_path / "a.npz"], shape=SHAPE, fingerprint="base", device="cpu")
    assert "\n" not in str(error.value) and "a.npz" in str(error.value)


def test_folders_in_natural_order_and_empty_ones(tmp_path):
    with pytest.raises(UserError, match="holds no latents"):
        read_faces([tmp_path], shape=SHAPE, fingerprint="", device="cpu")
    for number in (10, 9, 1):
        save_face(tmp_path / f"{number}.npz", face(), landmarks=None, fingerprint="")
    assert [one.name for one in read_faces([tmp_path], shape=SHAPE, fingerprint="", device="cpu")] == ["1", "9", "10"]


def test_what_was_drawn_is_drawn_again(styles, photo, tmp_path, monkeypatch, capsys):
    """A photo's result and that of its latents are the same to the bit; sweeps and morphs take photo and latents."""
    monkeypatch.setenv("CHECKPOINTS_DIR", str(styles))
    assert inference.main(["--style", "other", "--input_image", str(photo), "--inversion", "e4e", "--save-latents",
                           "--output", str(tmp_path / "a")]) == 0
    latents = tmp_path / "a" / "other_me_latents.npz"
    assert inference.main(["--style", "other", "--latents", str(latents), "--output", str(tmp_path / "b")]) == 0
    first, second = (np.asarray(Image.open(path)) for path in (tmp_path / "a/other_me.png",
                                                              tmp_path / "b/other_other_me_latents.png"))
    assert np.array_equal(first, second)
    sweep = ["--style", "other", "--split", "2", "--output", str(tmp_path / "c")]
    assert deformation_control.main([*sweep, "--input_image", str(photo), "--animate", "gif", "--frames", "2"]) == 0
    assert deformation_control.main([*sweep, "--latents", str(latents), "--styles", "toy,other", "--animate", "mp4",
                                     "--frames", "2"]) == 0
    made = {path.name for path in (tmp_path / "c").iterdir()}
    assert made == {"other_me.png", "other_me.gif", "toy-other_other_me_latents.png", "toy-other_other_me_latents.mp4"}
    strip = np.asarray(Image.open(tmp_path / "c" / "other_me.png"), int)
    size = first.shape[0]
    step = (strip.shape[1] - size) // 3  # four cells with gaps between them
    cells = [strip[-size:, i * step:i * step + size] for i in range(4)]
    assert abs(cells[1] - cells[3]).mean() > 0.5, "alpha must change the face"
    assert deformation_control.main([*sweep, "--input_image", str(styles / "toy.safetensors")]) == 2
    assert "toy.safetensors" in capsys.readouterr().err
