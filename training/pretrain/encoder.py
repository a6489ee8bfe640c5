"""Third stage: the e4e encoder with all its heads, trained against the frozen generator.

Losses as in e4e (Tov et al. 2021): L1 + perceptual on the image, and a penalty on the offsets that keeps every row near
the common one, so that inverted photos stay where the generator can be edited and warped. The distance between the
landmarks that the bundled network finds in both images takes the place of e4e's identity network: pose and features of
the face must stay where they are.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from checkpoints.features import load_landmark_net
from models.e4e import E4EEncoder
from models.layers import EqualLinear
from models.stylegan2 import Generator
from training.ema import update_average
from training.pretrain import parallel
from training.pretrain.autoencoder import starter_encoder_config, starter_generator_config
from training.pretrain.common import (
    Clock,
    PretrainStage,
    RandomFaces,
    half_precision,
    require_state,
    resume,
    run_stage,
    starter_weights,
)
from training.pretrain.faces import FacePack
from training.pretrain.teacher import SqueezeNetTeacher, feature_distance


@dataclass(frozen=True)
class EncoderTrainingConfig:
    """Hyper-parameters of the stage."""

    batch: int = 8
    lr: float = 4e-4
    head_boost: float = 4.0  # times `lr` for the equalised layers
    perceptual_weight: float = 1.5
    delta_weight: float = 0.02
    landmark_weight: float = 10.0
    photo_share: float = 0.5
    average: float = 0.995
    compile: bool = True


class EncoderTrainer(PretrainStage):
    """Encoder in training, its average, and the frozen generator.

    Args:
        config: hyper-parameters; the batch is per process.
        teacher: frozen perceptual network; it is moved to the device.
        gan: state of the gan stage, or ``starter_weights``.
        fresh: set the offsets to zero, which the gan stage has not trained.
        device: where to train.
    """

    parts = ("encoder", "average", "optimizer")

    def __init__(
        self, config: EncoderTrainingConfig, teacher: SqueezeNetTeacher, gan: dict, *, fresh: bool = True,
        device: torch.device | str = "cpu",
    ) -> None:
        torch.manual_seed(2)
        self.device = torch.device(device)
        self.config, self.teacher = config, teacher.to(self.device)
        self.generator = Generator(starter_generator_config())
        self.generator.load_state_dict(gan["g_average"])
        self.generator.requires_grad_(False).eval().to(self.device)
        self.landmarks = load_landmark_net(device=self.device).module
        self.encoder = E4EEncoder(starter_encoder_config())
        self.encoder.load_state_dict(gan["e_average"])
        if fresh:
            for head in self.encoder.styles[1:]:
                # Offsets begin at zero: the stage starts from the autoencoder's single w.
                nn.init.zeros_(head.linear.weight)
                nn.init.zeros_(head.linear.bias)
        self.encoder.to(self.device)
        self.average = deepcopy(self.encoder).requires_grad_(False)
        # Weights of equalised layers are of size one and scaled when used: at the common rate they would hardly move.
        scaled = [p for module in self.encoder.modules() if isinstance(module, EqualLinear) for p in module.parameters()]
        marked = {id(p) for p in scaled}
        self.optimizer = torch.optim.Adam(
            [{"params": [p for p in self.encoder.parameters() if id(p) not in marked], "boost": 1.0},
             {"params": scaled, "boost": config.head_boost}], lr=config.lr, betas=(0.9, 0.99))
        self.forward = torch.compile(self._forward) if config.compile else self._forward

    def _forward(self, image: Tensor) -> Tensor:
        codes = self.encoder(image).float()
        fake = self.generator.synthesis(codes, noise=self.generator.fixed_noise())
        with torch.no_grad():
            goal, places = self.teacher(image), self.landmarks(image).points
        delta = (codes[:, 1:] - codes[:, :1]).square().mean()
        moved = (self.landmarks(fake).points - places).square().sum(dim=2)  # [N, 68], fractions of the side
        return torch.stack([(fake - image).abs().mean(), feature_distance(self.teacher(fake), goal).mean(), delta,
                            (moved + 1e-8).sqrt().mean()])

    def step(self, faces: RandomFaces, lr: float) -> dict[str, float]:
        """Run one iteration and return its loss terms."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["boost"]
        image = faces(self.config.batch)
        with half_precision(self.device):
            terms = self.forward(image)
        config = self.config
        weights = terms.new_tensor([1.0, config.perceptual_weight, config.delta_weight, config.landmark_weight])
        self.descend((terms * weights).sum(), self.encoder, images=config.batch, most=5.0)
        update_average(self.average, self.encoder, self.warm(config.average))
        return dict(zip(("l1", "perc", "delta", "marks"), terms.tolist(), strict=True))


@torch.no_grad()
def encoder_sheet(trainer: EncoderTrainer, pack: FacePack, path: Path) -> dict[str, float]:
    """Write held-out faces above their inversions; returns L1 and perceptual distance over the first 64."""
    from torchvision.utils import save_image

    _, held = pack.split()
    trainer.average.eval()
    image = pack.batch(held[:64]).to(trainer.device)
    with half_precision(trainer.device):
        fake = trainer.generator.synthesis(trainer.average(image).float(), noise=trainer.generator.fixed_noise())
        distance = feature_distance(trainer.teacher(fake), trainer.teacher(image)).mean()
        other = feature_distance(trainer.teacher(image.roll(1, 0)), trainer.teacher(image)).mean()
    save_image(torch.cat([image[:10], fake[:10]]).clamp(-1, 1) * 0.5 + 0.5, path, nrow=10)
    return {"held_out_l1": float((fake - image).abs().mean()), "held_out_perceptual_fraction": float(distance / other)}


def train_encoder(
    pack: FacePack, teacher_path: Path, folder: Path, *, minutes: float, start: Path | None = None,
    device: torch.device | str = "cpu",
) -> dict:
    """Train for ``minutes`` from ``folder/gan.pt``, saving ``folder/encoder.pt``; resumes.

    ``start`` names a folder of starter files whose generator and encoder to begin with in place of that state.
    """
    gan = require_state(folder / "gan.pt") if start is None else starter_weights(start)
    trainer = EncoderTrainer(EncoderTrainingConfig(), SqueezeNetTeacher(teacher_path), gan, fresh=start is None,
                             device=device)
    path = folder / "encoder.pt"
    resume(trainer, path)
    parallel.share(trainer.encoder, trainer.average)
    faces = RandomFaces(pack, seed=2000 + trainer.seen, photo_share=trainer.config.photo_share, device=device)
    trainer.encoder.train()
    terms = run_stage(
        trainer, lambda spent: trainer.step(faces, trainer.config.lr * min(1.0, 2.5 * (1.0 - spent) + 0.02)), path,
        clock=Clock(minutes), report=lambda: encoder_sheet(trainer, pack, folder / "encoder.png"))
    if not parallel.leads():
        return {"images": trainer.seen}
    return {"images": trainer.seen, **terms, **encoder_sheet(trainer, pack, folder / "encoder.png")}
