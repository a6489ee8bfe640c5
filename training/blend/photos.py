"""Third stage: the pSp encoder of photos, against the frozen face path of the blending generator (Richardson et al. 2021)."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from models.e4e import E4EConfig
from models.psp import PSPEncoder
from models.stylegan2 import Generator
from training.blend.stage import StageTrainer
from training.pretrain.common import RandomFaces, half_precision


@dataclass(frozen=True)
class PhotoStageConfig:
    """Settings of the stage, pSp's weights; ``batch`` is per process."""

    batch: int = 8
    lr: float = 1e-4
    l2_weight: float = 1.0
    perceptual_weight: float = 0.8
    norm_weight: float = 0.005
    average: float = 0.998


class PhotoEncoderTrainer(StageTrainer):
    """pSp encoder and its average.

    Args:
        config: settings.
        shape: of the encoder.
        generator: frozen.
        w_avg: [D], the mean latent that codes are added to.
        distance: perceptual distance of two batches [N, 3, S, S], per image or their mean.
        faces: photos of faces.
        device: where to train.
    """

    def __init__(
        self, config: PhotoStageConfig, shape: E4EConfig, *, generator: Generator, w_avg: Tensor,
        distance: Callable[[Tensor, Tensor], Tensor], faces: RandomFaces, device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(facts={"photo encoder": shape.to_dict(), "generator": generator.config.to_dict()}, device=device)
        if (shape.n_styles, shape.style_dim) != (generator.config.n_latent, generator.config.style_dim):
            raise ValueError(f"the encoder gives {shape.n_styles} rows of {shape.style_dim}, but the generator takes "
                             f"{generator.config.n_latent} of {generator.config.style_dim}")
        self.config, self.faces, self.distance = config, faces, distance
        self.generator = generator.requires_grad_(False).eval().to(self.device)
        self.w_avg = w_avg.to(self.device)
        torch.manual_seed(13)
        self.encoder = PSPEncoder(shape).to(self.device).train()
        self.average = deepcopy(self.encoder).requires_grad_(False).eval()
        self.networks, self.averages = {"encoder": self.encoder}, {"encoder": self.average}
        self.optimizers = {"encoder": torch.optim.Adam(self.encoder.parameters(), lr=config.lr, betas=(0.9, 0.999))}

    def step(self) -> dict[str, float]:
        config, photo = self.config, self.faces(self.config.batch)
        side, size = self.encoder.config.input_size, self.generator.config.size
        with half_precision(self.device):
            codes = self.encoder(_resized(photo, side)).float()
            image = self.generator.synthesis(codes + self.w_avg, noise=self.generator.fixed_noise()).float()
        goal = _resized(photo, size)
        l2, perceptual = F.mse_loss(image, goal), self.distance(image, goal).mean()
        # pSp's regulariser: the length of the rows' distance from the mean latent.
        norm = codes.norm(dim=2).mean()
        loss = config.l2_weight * l2 + config.perceptual_weight * perceptual + config.norm_weight * norm
        self.update(loss, "encoder", self.encoder)
        self.advance(config.batch, decay=config.average)
        return {"l2": l2.item(), "perceptual": perceptual.item(), "norm": norm.item()}


def _resized(image: Tensor, size: int) -> Tensor:
    if image.shape[2] == size:
        return image
    return F.interpolate(image, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
