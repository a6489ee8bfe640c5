"""train_exemplars.py from the command line, on tiny networks."""

from __future__ import annotations

import pytest
import torch
from tuner_worker import tiny_networks

import train_exemplars
from checkpoints import save_model
from data.images import save_image
from models.dino import ViTConfig
from models.e4e import E4EConfig, E4EEncoder
from models.face import Face
from styles.controls import Look
from styles.registry import load_style
from training.exemplar_run import STAGES, ExemplarRun

ENCODER = E4EConfig(input_size=64, n_styles=10, style_dim=32, stem=4, widths=(4, 4, 4, 8), units=(1, 1, 1, 1), base_width=8,
                    delta_width=8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Folder with tiny networks and three portraits."""
    folder = tmp_path_factory.mktemp("weights")
    generator, discriminator, dino = tiny_networks()
    save_model(folder / "generator.safetensors", {**generator.state_dict(), "w_avg": torch.zeros(32)},
               {"kind": "generator", "generator": generator.config.to_dict()})
    save_model(folder / "discriminator.safetensors", discriminator.state_dict(),
               {"kind": "discriminator", "discriminator": discriminator.config.to_dict()})
    save_model(folder / "vit.safetensors", dino.vit.state_dict(),
               {"kind": "vit", "vit": ViTConfig(32, 8, 24, 12, 3).to_dict()})
    torch.manual_seed(2)
    save_model(folder / "encoder.safetensors", {"latent_avg": torch.zeros(10, 32), **E4EEncoder(ENCODER).state_dict()},
               {"kind": "encoder", "encoder": ENCODER.to_dict()})
    for name in ("ann", "bob", "cid"):
        save_image(folder / "portraits" / f"{name}.png", torch.rand(1, 3, 64, 64) * 2 - 1)
    (folder / "portraits" / "broken.png").write_bytes(b"no picture")
    return folder


@pytest.fixture()
def command(weights, tmp_path, monkeypatch):
    monkeypatch.setenv("CHECKPOINTS_DIR", str(tmp_path / "styles"))
    monkeypatch.chdir(tmp_path)

    def run(*options: str, style: str = "toons") -> int:
        steps = [word for name in ("tune", "destylize", "pretrain", "finetune", "refine") for word in (f"--{name}_steps", "2")]
        return train_exemplars.main([str(weights / "portraits"), "--style", style, "--align", "false", "--batch", "2",
                                     "--base", str(weights / "generator.safetensors"),
                                     "--vit", str(weights / "vit.safetensors"), "--encoder",
                                     str(weights / "encoder.safetensors"), *steps, "--sampler_samples", "100",
                                     "--save_every", "1", *options])

    return run


def test_run_stopped_in_every_stage_ends_as_one_that_was_not(command, tmp_path, monkeypatch, capsys):
    assert command(style="whole") == 0
    printed = capsys.readouterr()
    assert printed.out.split() == [str(tmp_path / "styles" / "whole.safetensors")]
    assert "broken.png" in printed.err and "finetune 2/2" in printed.err
    folder = tmp_path / "outputs" / "exemplars" / "whole"
    assert {path.stem for path in folder.glob("sheet_*.png")} == {
        f"sheet_{stage}" for stage in ("tune", "destylize", "finetune", "refine")}
    assert (folder / "pretrain.csv").read_text().startswith("step,adversarial,critic,features,r1")

    monkeypatch.setattr("training.exemplar_run.plot_losses", lambda path, history: None)  # seen above, and slow
    pause, stops = ExemplarRun._pause, {}

    def interrupted(self, stage, state, *, due, where):
        stops[stage] = stops.get(stage, 0) + 1
        self.flag.raised = stops[stage] == 1
        pause(self, stage, state, due=due, where=where)

    monkeypatch.setattr(ExemplarRun, "_pause", interrupted)
    codes = [command("--resume", style="parts") for _ in range(len(STAGES) + 1)]
    assert codes == [130] * len(STAGES) + [0] and set(stops) == set(STAGES)
    assert capsys.readouterr().err.count("--resume goes on") == len(STAGES)
    whole, parts = load_style("whole"), load_style("parts")
    assert whole.fingerprint == parts.fingerprint and whole.gallery.names == ("ann", "bob", "cid")
    assert list(whole.pictures("exemplar")) == ["ann", "bob", "cid"]
    face = Face(torch.randn(1, 10, 32))
    drawn = [whole.draw(face, Look(exemplar=name)) for name in ("ann", "bob", "random")]
    assert all(torch.isfinite(image).all() for image in drawn) and not torch.equal(drawn[0], drawn[1])
    # Another gallery: the same path and samplers, and none of the portraits that were trained on.
    for name in ("dan", "eve"):
        save_image(tmp_path / "shown" / f"{name}.png", torch.rand(1, 3, 64, 64) * 2 - 1)
    assert command("--resume", "--gallery", str(tmp_path / "shown"), style="whole") == 0
    other = load_style("whole")
    assert other.gallery.names == ("dan", "eve") and other.gallery.codes.shape == (2, 10, 32)
    assert torch.equal(other.network.res[0].conv[0].weight, whole.network.res[0].conv[0].weight)
    assert torch.equal(other.random_code(3), whole.random_code(3))
    # A gallery for networks that are there takes no training.
    assert command("--network", "parts", style="shown") == 0
    shown = load_style("shown")
    assert shown.gallery.names == ("ann", "bob", "cid") and len(shown.gallery.portraits) == 3
    assert shown.portrait("ann").size == (512, 512)
    assert torch.equal(shown.random_code(3), whole.random_code(3))
    assert command("--network", "absent", style="other") == 2


def test_single_stages_and_what_is_refused(command, tmp_path, weights, capsys):
    assert command("--stages", "tune") == 0 and capsys.readouterr().out == ""
    for options, words in (((), "--resume"), (("--resume", "--stages", "finetune"), "needs stage destylize"),
                           (("--resume", "--seed", "5"), "comes from other portraits"),
                           (("--stages", "sleep"), "some of tune"),
                           (("--resume", "--vit", "absent.safetensors"), "absent.safetensors")):
        assert command(*options) == 2
        assert words in capsys.readouterr().err.strip().splitlines()[-1]
    assert command("--overwrite", "--stages", "tune", "--seed", "5") == 0
    assert train_exemplars.main([str(tmp_path / "absent"), "--style", "x", "--base", str(weights / "generator.safetensors"),
                                 "--vit", str(weights / "vit.safetensors"), "--encoder",
                                 str(weights / "encoder.safetensors")]) == 2
    assert "absent" in capsys.readouterr().err


def test_a_kept_network_may_be_chosen(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("training.exemplar_run.plot_losses", lambda path, history: None)
    early = ("--stages", "tune,destylize,pretrain,finetune")
    assert command(*early, "--snapshot_every", "1", "--CX_loss", "0.5", "--lr", "0.01", "--truncation", "0.8") == 0
    folder = tmp_path / "outputs" / "exemplars" / "toons"
    assert {path.name for path in folder.glob("finetune_*.pt")} == {"finetune_00001.pt", "finetune_00002.pt"}
    assert (folder / "sheet_snapshots.png").is_file()
    options = ("--resume", "--CX_loss", "0.5", "--lr", "0.01", "--truncation", "0.8")
    capsys.readouterr()
    assert command(*options, "--snapshot", "7") == 2
    assert "kept are 1, 2" in capsys.readouterr().err
    assert command(*options, "--snapshot", "1") == 0
    first, last = (torch.load(folder / f"finetune_{step:05d}.pt", weights_only=True)["result"] for step in (1, 2))
    assert any(not torch.equal(first[name], last[name]) for name in first)
    state = load_style("toons").network.state_dict()
    assert all(torch.allclose(value, state[name], rtol=2e-3, atol=1e-4) for name, value in first.items() if name in state)
    assert command(*options) == 2
    assert "was made from the network of step 1" in capsys.readouterr().err
    assert command(*options, "--lr", "-1") == 2
    assert "--lr -1" in capsys.readouterr().err


def test_published_names_reach_the_settings():
    args = train_exemplars.parse(["a", "--style", "b", "--CX_loss", "0.3", "--style-loss", "0.4", "--perc_loss", "2",
                                  "--id_loss", "0", "--L2_reg_loss", "0.015", "--truncation", "0.6"])
    config = train_exemplars.settings(args, size=1024)
    fine = config.finetune
    assert (fine.contextual, fine.means, fine.identity, fine.norm) == (0.3, 0.4, 0.0, 0.015)
    assert fine.pair == (1.0, 2.0) and config.destylize.truncation == 0.6
