"""train.py from the command line."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from PIL import Image
from tuner_worker import tiny_networks, tiny_pair

import train
from checkpoints import load_model, save_model
from data.images import save_image
from models.dino import ViTConfig
from styles.registry import load_style
from training import registration
from training.state import read_state

VIT = ViTConfig(32, 8, 24, 12, 3)
# What the published file can hold.
PLAIN = ("--guarded", "false", "--carry_image", "false", "--warp-grid", "10")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Folder with a tiny base, its discriminator, a tiny transformer and a pair."""
    folder = tmp_path_factory.mktemp("weights")
    generator, discriminator, dino = tiny_networks()
    w_avg = generator.mean_w(64, generator=torch.Generator().manual_seed(0))
    save_model(folder / "generator.safetensors", {**generator.state_dict(), "w_avg": w_avg},
               {"kind": "generator", "generator": generator.config.to_dict()})
    save_model(folder / "discriminator.safetensors", discriminator.state_dict(),
               {"kind": "discriminator", "discriminator": discriminator.config.to_dict()})
    save_model(folder / "vit.safetensors", dino.vit.state_dict(), {"kind": "vit", "vit": VIT.to_dict()})
    for name, image in tiny_pair()._asdict().items():
        save_image(folder / f"{name}.png", image)
    return folder


@pytest.fixture()
def command(weights, tmp_path, monkeypatch):
    """Return a function that runs train.py on the tiny networks in ``tmp_path``."""
    monkeypatch.setenv("CHECKPOINTS_DIR", str(tmp_path / "styles"))
    monkeypatch.chdir(tmp_path)

    def run(*options: str) -> int:
        standard = {"--style": "tiny", "--base": weights / "generator.safetensors", "--vit": weights / "vit.safetensors",
                    "--source": weights / "source.png", "--target": weights / "target.png", "--num_iter": 2,
                    "--batch": 2, "--adversarial-batch": 1, "--inversion-steps": 2, "--warp-res": 16, "--warp-grid": 6,
                    "--save-every": 1, "--dtype": "float32", "--drawing": "false"}
        words = [str(word) for pair in standard.items() if pair[0] not in options for word in pair]
        # The tiny pair is noise, which the check of pairs refuses.
        return train.main([*words, *options, *(() if "--source" in options else ("--force",))])

    def alone(*options: str) -> int:
        return train.main(["--base", str(weights / "generator.safetensors"), "--vit", str(weights / "vit.safetensors"),
                           "--num_iter", "1", "--batch", "1", "--inversion-steps", "1", "--warp-res", "16", "--warp-grid", "6",
                           "--dtype", "float32", *options])

    run.alone = alone
    return run


def test_writes_a_style_a_published_file_and_reports(command, tmp_path, capsys):
    assert command("--export-published", "old/tiny.pt", "--g_lr", "1e-3", *PLAIN) == 0
    printed = capsys.readouterr()
    assert printed.out.split() == [str(tmp_path / "styles" / "tiny.safetensors"), "old/tiny.pt"]
    assert "adv" in printed.err and "ViTTokenDistance" in printed.err
    style = load_style("tiny")
    assert style.config["training"]["steps"] == 2 and style.config["training"]["settings"]["g_lr"] == 1e-3
    folder = tmp_path / "outputs" / "train" / "tiny"
    assert {"state.pt", "losses.csv", "losses.png", "sheet_00002.png"} <= {path.name for path in folder.iterdir()}
    published = load_style("old/tiny.pt")
    w_plus, noise = style.deformable.broadcast(style.w_avg[None]), style.deformable.generator.fixed_noise()
    images = [s.deformable.synthesis(w_plus, noise=noise).image for s in (style, published)]
    assert (images[0] - images[1]).abs().max() < 1e-5


def test_guarded_warps_cannot_be_exported_as_published(command, capsys, tmp_path):
    assert command("--export-published", "old/tiny.pt") == 2
    assert "--guarded false" in one_line(capsys) and not (tmp_path / "outputs" / "train" / "tiny" / "state.pt").exists()


def test_resumed_run_is_the_whole_run(command, tmp_path):
    assert command("--num_iter", "3", "--style", "whole") == 0
    assert command("--num_iter", "1", "--style", "cut") == 0
    assert command("--num_iter", "3", "--style", "cut", "--resume") == 0
    whole, cut = (load_model(tmp_path / "styles" / f"{name}.safetensors")[0] for name in ("whole", "cut"))
    assert whole.keys() == cut.keys() and all(torch.equal(whole[name], cut[name]) for name in whole)
    rows = list(csv.DictReader(open(tmp_path / "outputs/train/cut/losses.csv")))
    assert [row["step"] for row in rows] == ["0", "1", "2"]


def test_resume_before_the_first_state_starts_anew(command):
    assert command("--resume", "--num_iter", "1") == 0


def one_line(capsys) -> str:
    lines = capsys.readouterr().err.strip().splitlines()
    assert "Traceback" not in "\n".join(lines)
    return lines[-1]


def test_resume_refuses_other_settings_and_another_base(command, weights, tmp_path, capsys):
    assert command() == 0
    assert command("--resume", "--g_lr", "0.5") == 2
    assert "--g_lr" in one_line(capsys)
    generator = tiny_networks()[0]
    other = tmp_path / "other"
    save_model(other / "generator.safetensors",
               {**{k: v + 1 for k, v in generator.state_dict().items()}, "w_avg": torch.zeros(32)},
               {"kind": "generator", "generator": generator.config.to_dict()})
    (other / "discriminator.safetensors").write_bytes((weights / "discriminator.safetensors").read_bytes())
    assert command("--resume", "--base", str(other / "generator.safetensors")) == 2
    assert "another base" in one_line(capsys)


def test_nothing_is_overwritten_unasked(command, tmp_path, capsys):
    assert command("--num_iter", "1") == 0
    assert command("--num_iter", "1") == 2
    assert "--overwrite" in one_line(capsys)
    assert command("--num_iter", "1", "--outdir", "elsewhere") == 2
    assert "this style exists" in one_line(capsys)
    assert command("--num_iter", "1", "--overwrite") == 0
    assert read_state(tmp_path / "outputs/train/tiny/state.pt")["tuner"]["step"] == 1


@pytest.mark.parametrize(("options", "message"), [
    (("--batch", "0"), "batch must be at least 1, got 0"),
    (("--num_iter", "many"), "expected a whole number"),
    (("--g_lr", "nan"), "expected a number"),
    (("--source", "nowhere.png"), "nowhere.png: no such image"),
    (("--base", "nowhere.safetensors"), "nowhere.safetensors"),
    (("--vit", "nowhere.pth"), "nowhere.pth"),
    (("--style", "../evil"), "plain name"),
    (("--style", ""), "plain name"),
    (("--img_res", "1024"), "the base makes images of 64 px"),
    (("--swap_layer", "40"), "swap_layer must be within"),
    (("--cross_layers", "5,99"), "layers must be within"),
    (("--mode", "other"), "invalid choice"),
    (("--lpips_dir", "nowhere"), "alexnet-owt"),
    (("--dtype", "float16"), "float16"),
    (("--warp-res", "128"), "128"),
])
def test_bad_options_are_one_line_and_exit_code_2(command, capsys, options, message):
    assert command(*options) == 2
    assert message in one_line(capsys)


@pytest.mark.parametrize(("name", "content"), [("empty.png", b""), ("text.png", b"hello"), ("cut.jpg", None)])
def test_bad_images_are_one_line_and_exit_code_2(command, tmp_path, capsys, name, content):
    path = tmp_path / name
    if content is None:
        Image.effect_noise((200, 200), 90).convert("RGB").save(path)
        path.write_bytes(path.read_bytes()[:2000])
    else:
        path.write_bytes(content)
    assert command("--target", str(path)) == 2
    assert name in one_line(capsys)


def test_style_instead_of_a_base_and_weights_that_are_nan(command, weights, tmp_path, capsys):
    assert command("--num_iter", "1") == 0
    assert command("--style", "b", "--base", str(tmp_path / "styles/tiny.safetensors")) == 2
    assert "tiny.safetensors" in one_line(capsys)
    data = bytearray((weights / "generator.safetensors").read_bytes())
    data[-4:] = b"\x00\x00\xc0\x7f"
    (tmp_path / "generator.safetensors").write_bytes(bytes(data))
    assert command("--style", "c", "--base", str(tmp_path / "generator.safetensors")) == 2
    assert "generator.safetensors" in one_line(capsys)


def test_unwritable_output(command, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    assert command("--outdir", "file/inside") == 2
    assert "cannot be written" in one_line(capsys)


def test_a_run_goes_on_with_its_own_images_only(command, weights, tmp_path, capsys):
    Image.effect_noise((64, 64), 90).convert("RGB").save(tmp_path / "other.png")
    assert command("--num_iter", "1") == 0
    for option in ("--target", "--source", "--style_ref"):
        assert command("--num_iter", "2", "--resume", option, str(tmp_path / "other.png")) == 2
        assert f"{option} " in (line := one_line(capsys)) and "another image" in line
    assert command("--num_iter", "2", "--resume") == 0


def test_wrong_pairs_are_refused_before_training(command, tmp_path, capsys):
    face = Path(train.__file__).parent / "data" / "style_images_aligned" / "source_sample.png"
    Image.open(face).rotate(180).save(tmp_path / "down.png")
    Image.new("RGB", (64, 64), (90, 120, 60)).save(tmp_path / "green.png")
    for target, word in ((face, "same picture"), (tmp_path / "down.png", "down.png"), (tmp_path / "green.png", "no face")):
        assert command("--source", str(face), "--target", str(target)) == 2
        line = one_line(capsys)
        assert word in line and "--force" in line and not (tmp_path / "styles" / "tiny.safetensors").exists()
    assert command("--source", str(face), "--target", str(tmp_path / "green.png"), "--force", "--num_iter", "1") == 0
    assert "no face" in capsys.readouterr().err


def test_both_spellings_and_help():
    args = train.parse(["--num-iter", "3", "--stn-lr", "1e-3", "--use_rtstn", "false", "--cross-layers", "1,2"])
    assert (args.iterations, args.tps_lr, args.use_affine, args.directional_layers) == (3, 1e-3, False, (1, 2))
    assert train.main(["--help"]) == 0


@pytest.fixture()
def quick(monkeypatch):
    """Registration in a few steps."""
    monkeypatch.setattr(registration, "STEPS", 2)


FOLDER = Path(train.__file__).parent / "data" / "style_images_aligned"
FACES = ("--source", str(FOLDER / "source_sample.png"), "--target", str(FOLDER / "target_sample.png"), "--drawing", "true")


def test_a_pair_of_faces_gives_a_style_that_draws_photos(command, quick, tmp_path):
    assert command(*FACES) == 0
    folder = tmp_path / "outputs" / "train" / "tiny"
    assert (folder / "pictures" / "target_0.png").is_file() and (folder / "drawn.png").is_file()
    style = load_style("tiny")
    assert style.draws_pictures and [control.name for control in style.controls] == ["alpha", "tone_strength", "stroke_strength"]
    assert len(style.drawn.strokes) == 1 and style.drawn.strokes[0][0].drawing.shape == (1, 3, 512, 512)
    # Goes on from the end: nothing is trained again, and the same style is written.
    before = (tmp_path / "styles" / "tiny.safetensors").read_bytes()
    assert command("--drawing", "true", "--resume", "--source", FACES[1], "--target", FACES[3]) == 0
    assert (tmp_path / "styles" / "tiny.safetensors").read_bytes() == before


def test_a_drawing_needs_no_photo(command, quick, capsys, tmp_path):
    words = ("--style", "alone", "--target", FACES[3], "--drawing", "true")
    assert command.alone(*words) == 0
    style = load_style("alone")
    assert style.draws_pictures and len(style.drawn.strokes) == 1
    assert command.alone(*[word if word != "true" else "false" for word in words], "--overwrite") == 2
    assert "a drawing alone needs the drawing stages" in one_line(capsys)


def test_photos_and_drawings_come_in_pairs(command, capsys):
    assert command("--source", FACES[1], "--target", FACES[3], FACES[3]) == 2
    assert "got 1 photos and 2 drawings" in one_line(capsys)
