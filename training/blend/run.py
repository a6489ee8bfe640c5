"""The stages of ``train_blend.py``: what each needs, its state file, and the files that come out of them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from checkpoints.builders import Base, compute_w_avg, load_base
from checkpoints.io import save_model
from models.blending import BlendGenerator
from models.e4e import E4EConfig
from models.psp import PSPEncoder
from models.style_encoder import StyleEncoder, StyleEncoderConfig
from models.stylegan2 import GeneratorConfig
from training.blend.generator import BlendStageConfig, BlendTrainer, Critics
from training.blend.photos import PhotoEncoderTrainer, PhotoStageConfig
from training.blend.stage import ResumeError, resume, run_stage
from training.blend.style_encoder import StyleEncoderTrainer, StyleStageConfig
from training.pretrain.autoencoder import starter_encoder_config
from training.pretrain.common import RandomFaces, load_state, require_state
from training.pretrain.faces import FacePack
from training.pretrain.teacher import SqueezeNetTeacher, feature_distance

STYLE, BLEND, PHOTOS = "style_encoder.pt", "blend.pt", "photos.pt"
# Seeds of the stages' random pictures, apart from each other; what was seen is added, so that a resumed run draws others.
SEEDS = {STYLE: 5000, BLEND: 6000, PHOTOS: 7000}


def draws(pack: FacePack, folder: Path, name: str, *, device: torch.device, offset: int = 0) -> RandomFaces:
    """Return random pictures of a pack for the stage whose state lies at ``folder/name``."""
    saved = load_state(folder / name)
    return RandomFaces(pack, seed=SEEDS[name] + offset + (saved["seen"] if saved else 0), device=device)


def check_size(pack: FacePack, size: int, what: str) -> None:
    """Raise ResumeError unless the pack's pictures are of ``size`` px."""
    if pack.images.shape[2] != size:
        raise ResumeError(f"{what}: its pictures are of {pack.images.shape[2]} px, but the generator makes {size} px; pack "
                          f"them anew with --size {size}")


def train_style_encoder(
    styles: FacePack, folder: Path, *, minutes: float, config: StyleStageConfig | None = None, device: torch.device,
) -> dict[str, float]:
    """Train the style encoder from pictures, saving ``folder/style_encoder.pt``; resumes."""
    trainer = StyleEncoderTrainer(config or StyleStageConfig(), draws(styles, folder, STYLE, device=device), device=device)
    resume(trainer, folder / STYLE)
    return run_stage(trainer, folder / STYLE, minutes=minutes)


def trained_style_encoder(folder: Path) -> StyleEncoder:
    """Return the average of the first stage; raises MissingStageError where that was not run."""
    state = require_state(folder / STYLE)
    encoder = StyleEncoder(StyleEncoderConfig.from_dict(state["facts"]["style encoder"]))
    encoder.load_state_dict(state["averages"]["encoder"])
    return encoder.eval().requires_grad_(False)


def train_blend(
    faces: FacePack, styles: FacePack, folder: Path, *, base: Base, minutes: float, config: BlendStageConfig | None = None,
    device: torch.device,
) -> dict[str, float]:
    """Train the blending generator from ``base`` and its discriminator, saving ``folder/blend.pt``; resumes."""
    shape, path = base.generator.config, folder / BLEND
    check_size(faces, shape.size, "--faces")
    check_size(styles, shape.size, "--styles")
    critics = Critics(base.discriminator.config, style_dim=shape.style_dim, start=base.discriminator)
    trainer = BlendTrainer(
        config or BlendStageConfig(), base.generator, critics, encoder=trained_style_encoder(folder),
        faces=draws(faces, folder, BLEND, device=device), styles=draws(styles, folder, BLEND, offset=500, device=device),
        device=device)
    resume(trainer, path)
    return run_stage(trainer, path, minutes=minutes, sheet=partial(blend_sheet, trainer, path.with_suffix(".png")))


@torch.no_grad()
def blend_sheet(trainer: BlendTrainer, path: Path, *, count: int = 8) -> None:
    """Write artworks, faces, and the faces in the styles of these artworks, one column each."""
    from torchvision.utils import save_image

    generator, rng = trainer.average, torch.Generator().manual_seed(5)
    index = trainer.styles.train[torch.linspace(0, len(trainer.styles.train) - 1, count).long()]
    art = trainer.styles.pack.batch(index).to(trainer.device)
    z = torch.randn(count, generator.config.style_dim, generator=rng).to(trainer.device)
    w_avg = generator.mean_w(1024, generator=rng)
    face = generator.broadcast(generator.mapping(z, truncation_psi=0.7, w_avg=w_avg))
    styled = generator.blend(face, generator.map_style(trainer.encode(art)), shares=generator.face_shares())
    images = [generator.synthesis(w_plus, noise=generator.fixed_noise()) for w_plus in (face, styled)]
    save_image(torch.cat([art, *images]).clamp(-1, 1) * 0.5 + 0.5, path, nrow=count)


def trained_generator(folder: Path) -> BlendGenerator:
    """Return the average of the second stage; raises MissingStageError where that was not run."""
    state = require_state(folder / BLEND)
    generator = BlendGenerator(GeneratorConfig.from_dict(state["facts"]["generator"]))
    generator.load_state_dict(state["averages"]["generator"])
    return generator.eval().requires_grad_(False)


class PerceptualDistance(nn.Module):
    """Distance of two batches of images [N, 3, S, S] by a frozen feature network, [N]."""

    def __init__(self, teacher: SqueezeNetTeacher) -> None:
        super().__init__()
        self.teacher = teacher

    def forward(self, image: Tensor, goal: Tensor) -> Tensor:
        return feature_distance(self.teacher(image), self.teacher(goal))


def train_photos(
    faces: FacePack, teacher: Path, folder: Path, *, minutes: float, config: PhotoStageConfig | None = None,
    shape: E4EConfig | None = None, device: torch.device,
) -> dict[str, float]:
    """Train the pSp encoder of photos for the generator of the second stage, saving ``folder/photos.pt``; resumes."""
    generator = trained_generator(folder)
    rows, width = generator.config.n_latent, generator.config.style_dim
    shape = replace(shape or starter_encoder_config(), n_styles=rows, style_dim=width)
    trainer = PhotoEncoderTrainer(
        config or PhotoStageConfig(), shape, generator=generator, w_avg=compute_w_avg(generator),
        distance=PerceptualDistance(SqueezeNetTeacher(teacher)).to(device), faces=draws(faces, folder, PHOTOS, device=device),
        device=device)
    resume(trainer, folder / PHOTOS)
    return run_stage(trainer, folder / PHOTOS, minutes=minutes)


def export_photos(folder: Path, path: Path) -> int:
    """Write the pSp encoder of the third stage as a file that ``load_encoder`` reads; returns its bytes."""
    state = require_state(folder / PHOTOS)
    shape = E4EConfig.from_dict(state["facts"]["photo encoder"])
    encoder = PSPEncoder(shape)
    encoder.load_state_dict(state["averages"]["encoder"])
    w_avg = compute_w_avg(trained_generator(folder))
    save_model(path, {"latent_avg": w_avg.expand(shape.n_styles, -1), **encoder.state_dict()},
               {"kind": "encoder", "network": "psp", "encoder": shape.to_dict()})
    return path.stat().st_size


def blend_parts(folder: Path, *, base_name: str) -> dict[str, Any]:
    """Return what a style file of the trained stages holds: networks, mean latent, base and facts of the training."""
    state, generator = require_state(folder / BLEND), trained_generator(folder)
    base = load_base(base_name)
    return {"generator": generator, "encoder": trained_style_encoder(folder), "w_avg": compute_w_avg(generator),
            "base": {"name": base.name, "fingerprint": base.fingerprint},
            "training": {"images": state["seen"], "styles": require_state(folder / STYLE)["seen"]}}
