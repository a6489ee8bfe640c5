"""Pictures that are taken as aligned and are not square: no command squeezes them in silence."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import adapt
import any_style
import encapsulate
import inference
import pretrain
import train
import train_encoder
import train_exemplars
import versions
from data.images import ImageError, aligned_tensor, squeezed
from training.folder import FolderImages, check_aligned

ROOT = Path(train.__file__).parent
FACE, PHOTO = (ROOT / "data" / "style_images_aligned" / f"{name}_sample.png" for name in ("target", "source"))
STYLE = str(ROOT / "checkpoints" / "styles" / "encapsulated.safetensors")


@pytest.fixture()
def photos(tmp_path, monkeypatch):
    """A folder with a square picture and one that is not."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (64, 64)), ("wide.png", (96, 64))):
        Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(folder / name)
    return folder


def test_what_is_square_enough():
    assert squeezed("a", (100, 100)) == "" == squeezed("a", (102, 100))
    assert squeezed("a", (100, 103), remedy="cut it") == "a: is 100 x 103 px and would be squeezed to a square; cut it"
    assert aligned_tensor(Image.new("RGB", (51, 50)), 8, name="a").shape == (1, 3, 8, 8)
    with pytest.raises(ImageError, match="--align"):
        aligned_tensor(Image.new("RGB", (60, 50)), 8, name="a")


COMMANDS = {
    "encapsulate": lambda folder: encapsulate.main([str(folder), "--style", "new"]),
    "encapsulate anew": lambda folder: encapsulate.main([str(folder), "--style", "new", "--network", STYLE]),
    "adapt": lambda folder: adapt.main(["--style", STYLE, "--name", "new", "--photos", str(folder), "--align", "false"]),
    "train_encoder": lambda folder: train_encoder.main([str(folder), "--base", "starter", "--output", "new.safetensors"]),
    "pack": lambda folder: pretrain.main(["pack", "--data", str(folder), "--size", "32", "--output", "pack.npz"]),
    "style_ref": lambda folder: train.main(["--style", "new", "--source", str(PHOTO), "--target", str(FACE), "--style_ref",
                                              str(folder / "wide.png"), "--num_iter", "1"]),
    "versions": lambda folder: versions.main(["--style", STYLE, "--input_image", str(folder / "wide.png"), "--align", "false"]),
    "inference": lambda folder: inference.main(["--style", "ink", "--input_image", str(folder / "wide.png"), "--align", "false"]),
    "any_style": lambda folder: any_style.main(["--style_images", str(FACE), "--input_image", str(folder / "wide.png"), "--align",
                                                "false"]),
}


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_commands_refuse_them_by_name(photos, tmp_path, monkeypatch, capsys, name):
    monkeypatch.setenv("CHECKPOINTS_DIR", str(tmp_path / "styles"))
    if name == "encapsulate anew":
        (photos / "a.png").unlink()
    assert COMMANDS[name](photos) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "squeezed" in line]
    assert "wide.png: is 96 x 64 px" in line and ("--align" in line or "cut it" in line)
    assert not list((tmp_path / "styles").glob("new*")) and not Path("new.safetensors").exists() and not Path("pack.npz").exists()


def test_a_drawing_alone_is_checked_as_a_pair_is(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CHECKPOINTS_DIR", str(tmp_path / "styles"))
    Image.open(FACE).convert("RGB").resize((400, 260)).save(tmp_path / "flat.png")
    for name, word in (("flat.png", "400 x 260 px"), ("photos/a.png", "no face found"), ("photos", "is a folder")):
        assert train.main(["--style", "new", "--target", name, "--num_iter", "1"]) == 2
        error = capsys.readouterr().err
        assert word in error and error.startswith(name) and error.count("\n") == 1


def test_portraits_are_left_out_with_a_line(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CHECKPOINTS_DIR", str(tmp_path / "styles"))
    assert train_exemplars.main([str(photos), "--style", "new", "--align", "false"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "wide.png: is 96 x 64 px" in lines[0] and "holds 1 usable portraits" in lines[1]


def test_folders_in_memory(photos):
    with pytest.raises(ImageError, match="wide.png: is 96 x 64 px"):
        FolderImages.read(photos, size=32)
    whole = FolderImages.read(photos, size=32, align=lambda image, name: image.crop((0, 0, 64, 64)))
    assert len(whole) == 2


@pytest.mark.parametrize(("name", "content", "word"), [
    ("b.jpg", b"hello", "is no image that can be read"), ("b.png", "cut", "is no image that can be read"),
    ("none", None, "holds no images")])
def test_folders_and_tars_that_are_packed(photos, tmp_path, name, content, word):
    if content == "cut":
        content = (photos / "a.png").read_bytes()[:500]
    for file in photos.iterdir():
        if name == "none" or file.name == "wide.png":
            file.unlink()
    if content:
        check_aligned(photos)
        (photos / name).write_bytes(content)
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        archive.add(photos, "photos")
    for source in (photos, tmp_path / "all.tar"):
        with pytest.raises(ImageError, match=word) as error:
            check_aligned(source)
        assert not content or name in str(error.value)
    (tmp_path / "text.tar").write_bytes(b"no tar")
    with pytest.raises(ImageError, match="neither a folder nor a tar"):
        check_aligned(tmp_path / "text.tar")
