"""Stages of the blended style on tiny networks: they learn, stop, resume, and their file draws."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import squeezenet1_1

import train_blend
from checkpoints.builders import Base
from models.blending import BlendGenerator
from models.discriminator import Discriminator, DiscriminatorConfig
from models.e4e import E4EConfig
from models.face import Face
from models.style_encoder import StyleEncoderConfig
from models.stylegan2 import Generator, GeneratorConfig
from styles.controls import Look
from styles.registry import load_style
from training.blend import run, stage
from training.blend.generator import BlendStageConfig, BlendTrainer, Critics, blend_generator_from
from training.blend.style_encoder import StyleEncoderTrainer, StyleStageConfig
from training.blend.views import ViewConfig, style_view
from training.pretrain import common
from training.pretrain.common import Clock, RandomFaces
from training.pretrain.faces import FacePack, pack_faces
from training.session import Interrupted

SIZE = 32
WIDTHS = {4: 8, 8: 8, 16: 8, 32: 8}
GENERATOR = GeneratorConfig(size=SIZE, style_dim=16, n_mlp=2, channels=WIDTHS)
STYLE = StyleStageConfig(encoder=StyleEncoderConfig((4, 8), (1, 1), input_size=16, hidden=16, style_dim=16, n_mlp=2,
                                            gram_gain=9.0),
                         views=ViewConfig(size=32), batch=8, projector_width=16)
PHOTO = E4EConfig(input_size=32, n_styles=8, style_dim=16, stem=4, widths=(4, 4, 4, 8), units=(1, 1, 1, 1), base_width=8,
                  delta_width=8)


class StepClock(Clock):
    """Stop after a number of steps."""

    limit = 3

    def __init__(self, minutes: float) -> None:
        super().__init__(minutes)
        self.asked = 0

    def done(self) -> bool:
        self.asked += 1
        return self.asked > self.limit

    def should_save(self) -> bool:
        return False


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng, (y, x) = np.random.default_rng(0), np.mgrid[:SIZE, :SIZE]
    for index in range(12):
        waves = np.sin(x * (0.1 + 0.1 * index) + index) + np.cos(y * 0.3) + rng.normal(0, 0.2, (3, SIZE, SIZE))
        pixels = np.clip(128 + 50 * waves * rng.uniform(0.3, 1.0, (3, 1, 1)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels.transpose(1, 2, 0)).save(folder / f"{index}.png")
    pack_faces(folder, folder / "pack.npz", size=SIZE)
    return folder / "pack.npz"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher") / "teacher.npz"
    np.savez(path, **{name: value.numpy() for name, value in squeezenet1_1(weights=None).features.state_dict().items()})
    return path


def blend_trainer(pack):
    torch.manual_seed(0)
    faces = [RandomFaces(FacePack.load(pack), seed=seed) for seed in (1, 2)]
    encoder = StyleEncoderTrainer(STYLE, faces[1]).average
    critics = Critics(DiscriminatorConfig(SIZE, WIDTHS), style_dim=16)
    return BlendTrainer(BlendStageConfig(batch=2, r1_every=2, path_every=2), Generator(GENERATOR), critics, encoder=encoder,
                        faces=faces[0], styles=faces[1])


def test_views_keep_the_range_and_obey_the_seed():
    image = torch.rand(3, 3, 20, 30) * 2 - 1
    one, same = (style_view(image, ViewConfig(size=16), generator=torch.Generator().manual_seed(4)) for _ in range(2))
    other = style_view(image, ViewConfig(size=16), generator=torch.Generator().manual_seed(5))
    assert one.shape == (3, 3, 16, 16) and torch.equal(one, same) and not torch.equal(one, other)
    assert one.abs().max() <= 1.0 + 1e-5
    square, still = image[:, :, :, :20], ViewConfig(size=20, least_crop=1.0, turn=0.0, warp=0.0)
    views = style_view(square, still, generator=torch.Generator())
    for plain, view in zip(square, views, strict=True):  # nothing but mirroring is left
        assert min(float((view - plain).abs().max()), float((view - plain.flip(2)).abs().max())) < 1e-5


def test_style_encoder_learns_to_tell_pictures_apart(pack):
    trainer = StyleEncoderTrainer(STYLE, RandomFaces(FacePack.load(pack), seed=1))
    terms = [trainer.step() for _ in range(40)]
    early, late = (np.mean([term["contrast"] for term in part]) for part in (terms[:5], terms[-5:]))
    assert late < 0.8 * early, (early, late)
    with torch.no_grad():  # codes did not collapse, nor run away
        assert 0.3 < float(trainer.encoder(trainer.styles.pack.batch(trainer.styles.train)).std(dim=0).mean()) < 3.0
    assert trainer.seen == 40 * 8 and not torch.equal(trainer.average.embedder_mlp[0].weight,
                                                      trainer.encoder.embedder_mlp[0].weight)


def test_generator_begins_as_its_base():
    base = Generator(GENERATOR)
    made = blend_generator_from(base)
    z = torch.randn(2, 16)
    assert isinstance(made, BlendGenerator) and torch.equal(made.map_style(z), base.mapping(z))
    assert torch.equal(made.synthesis(base.broadcast(base.mapping(z)), noise=base.fixed_noise()),
                       base.synthesis(base.broadcast(base.mapping(z)), noise=base.fixed_noise()))


def test_every_part_of_the_blend_is_trained(pack):
    trainer = blend_trainer(pack)
    before = {part: {key: value.clone() for key, value in trainer.networks[part].state_dict().items()}
              for part in ("generator", "critics")}
    for _ in range(2):
        assert all(np.isfinite(list(trainer.step().values())))
    still = [f"{part}.{key}" for part, state in before.items() for key, value in state.items()
             if torch.equal(value, trainer.networks[part].state_dict()[key])]
    assert all("noises." in key or ".kernel" in key for key in still), still
    assert trainer.path.mean_length > 0.0


def test_critics_begin_as_the_given_one():
    start = Discriminator(DiscriminatorConfig(SIZE, WIDTHS))
    critics, image = Critics(start.config, style_dim=16, start=start), torch.randn(2, 3, SIZE, SIZE)
    judged = critics(image, image, torch.randn(2, 16))
    assert torch.equal(judged.face, start(image)) and torch.equal(judged.styled, start(image))
    assert torch.equal(critics.match.features(image), start.features(image))


def test_interrupted_stage_saves_and_its_table_goes_on(pack, tmp_path):
    class Counting:
        """Counts images and stops itself by SIGINT after three steps."""

        seen = 0

        def state(self):
            return {"seen": self.seen}

        def load(self, state):
            self.seen = state["seen"]

    def step(spent):
        trainer.seen += 2
        if trainer.seen == 6:
            signal.raise_signal(signal.SIGINT)
        return {"loss": 1.0 / trainer.seen}

    trainer, path = Counting(), tmp_path / "count.pt"
    with pytest.raises(Interrupted, match="stopped after 6 images.*count.pt"):
        common.run_stage(trainer, step, path, clock=common.Clock(10.0))
    assert common.load_state(path) == {"seen": 6}
    trainer = Counting()
    assert common.resume(trainer, path)
    clock = common.Clock(10.0, save_every=0.0)

    def last(spent):
        if trainer.seen == 8:
            clock.stop()
        return step(spent)

    common.run_stage(trainer, last, path, clock=clock)
    with open(tmp_path / "count.csv", newline="") as file:
        assert [float(row["images"]) for row in csv.DictReader(file)] == [6, 8, 10]
    assert (tmp_path / "count_terms.png").stat().st_size > 1000


def test_a_saved_state_goes_on_as_if_nothing_had_happened(pack, tmp_path):
    whole, part = blend_trainer(pack), blend_trainer(pack)
    for _ in range(3):
        expected = whole.step()
    part.step()
    part.step()
    torch.save(part.state(), tmp_path / "blend.pt")
    resumed = blend_trainer(pack)
    stage.resume(resumed, tmp_path / "blend.pt")
    for mine, other in ((resumed.faces, part.faces), (resumed.styles, part.styles)):
        mine.rng.set_state(other.rng.get_state())
    assert resumed.step() == pytest.approx(expected, rel=1e-5) and resumed.seen == whole.seen == 6


def test_command_line_from_pictures_to_a_style_that_draws(pack, teacher, tmp_path, monkeypatch, capsys):

    torch.manual_seed(0)
    base = Base(Generator(GENERATOR), Discriminator(DiscriminatorConfig(SIZE, WIDTHS)), torch.zeros(16), "toy", "0")
    monkeypatch.setattr("checkpoints.builders.load_base", lambda *args, **settings: base)
    monkeypatch.setattr(run, "load_base", lambda *args, **settings: base)
    monkeypatch.setattr(run, "StyleStageConfig", lambda: STYLE)
    monkeypatch.setattr(run, "BlendStageConfig", lambda: BlendStageConfig(batch=2))
    monkeypatch.setattr(run, "starter_encoder_config", lambda: PHOTO)
    monkeypatch.setattr(stage, "Clock", StepClock)
    state, given = ["--state", str(tmp_path / "state")], ["--device", "cpu"]
    faces, styles = ["--faces", str(pack)], ["--styles", str(pack)]
    assert train_blend.main(["generator", *faces, *styles, *state, *given]) == 2
    assert "run the style_encoder stage first" in capsys.readouterr().err
    assert train_blend.main(["encoder", *styles, *state, *given]) == 0
    for _ in range(2):
        assert train_blend.main(["generator", *faces, *styles, *state, *given]) == 0
    assert train_blend.main(["photos", *faces, "--teacher", str(teacher), *state, *given]) == 0
    seen = [json.loads(line)["images"] for line in capsys.readouterr().out.splitlines()]
    assert seen == [24, 6, 12, 24]
    monkeypatch.setenv("CHECKPOINTS_DIR", str(tmp_path))
    photos = tmp_path / "encoders" / "photos.safetensors"
    assert train_blend.main(["export", *state, "--output", str(tmp_path / "blend.safetensors"), "--photos", str(photos),
                             "--photo_encoder", str(photos)]) == 0
    style = load_style("blend")
    drawn = style.draw(Face(torch.randn(1, 8, 16)), Look(style_image=str(tmp_path / "state" / "blend.png")))
    assert drawn.shape == (1, 3, SIZE, SIZE) and style.encoder_name == str(photos)
    from checkpoints.features import load_encoder
    assert load_encoder(style.encoder_name).latent_avg.shape == (8, 16)


def test_other_settings_and_sizes_are_told(pack, tmp_path, monkeypatch, capsys):
    trainer = StyleEncoderTrainer(STYLE, RandomFaces(FacePack.load(pack), seed=1))
    torch.save(trainer.state(), tmp_path / "style_encoder.pt")
    assert train_blend.main(["encoder", "--styles", str(pack), "--state", str(tmp_path), "--device", "cpu"]) == 2
    message = capsys.readouterr().err
    assert "style_encoder.pt: was trained with another style encoder" in message and message.count("\n") == 1
    assert train_blend.main(["encoder", "--styles", str(tmp_path / "absent.npz"), "--state", str(tmp_path)]) == 2
    assert "absent.npz: not found" in capsys.readouterr().err
    with pytest.raises(stage.ResumeError, match="are of 32 px, but the generator makes 64 px"):
        run.check_size(FacePack.load(pack), 64, "--faces")


@pytest.mark.nightly
def test_two_processes_train_as_one(pack, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
               str(Path(__file__).with_name("blend_worker.py")), str(tmp_path / "state"), str(pack)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=tmp_path,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    assert first["weights"] == second["weights"] and len(set(first["weights"])) == 2
    assert all(mine != other for mine, other in zip(first["pictures"], second["pictures"], strict=True))
    assert first["saved"] == ["style_encoder.pt", "blend.pt"] and second["saved"] == []
    assert torch.load(tmp_path / "state" / "blend.pt", weights_only=True)["seen"] == 2 * 2 * 2
