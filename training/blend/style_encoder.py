"""First stage: a style encoder that learns by contrast, without labels.

Two views of a picture attract and all other pictures repel (NT-Xent behind a projector, Chen et al. 2020); a second term
keeps the codes standard normal, so that random codes are styles. BlendGAN keeps VGG19 frozen below the mapping; a small
network is trained with it.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from losses.contrastive import normality_loss, nt_xent
from models.layers import EqualLinear
from models.style_encoder import StyleEncoder, StyleEncoderConfig
from training.blend.stage import StageTrainer
from training.blend.views import ViewConfig, style_view
from training.pretrain.common import RandomFaces

COMPACT = StyleEncoderConfig(widths=(16, 32, 64, 96), units=(1, 1, 2, 2), input_size=128, hidden=256, style_dim=512,
                             gram_gain=120.0)


@dataclass(frozen=True)
class StyleStageConfig:
    """Settings of the stage; ``batch`` is the number of pictures per process, ``feature_lr`` 0 freezes the convolutions."""

    encoder: StyleEncoderConfig = COMPACT
    views: ViewConfig = field(default_factory=ViewConfig)
    batch: int = 32
    lr: float = 2e-3
    feature_lr: float = 5e-4
    temperature: float = 0.1
    normality_weight: float = 1.0
    projector_width: int = 256
    average: float = 0.998

    def __post_init__(self) -> None:
        if self.batch < 3:
            raise ValueError(f"batch must be at least 3, for codes are compared with each other, got {self.batch}")


def projector(style_dim: int, width: int) -> nn.Sequential:
    """Return the four linear layers behind which views are compared; they are thrown away afterwards."""
    dims = [style_dim, width, width, width]
    layers = [EqualLinear(before, width, activate=True) for before in dims[:3]]
    return nn.Sequential(*layers, EqualLinear(width, width))


@torch.no_grad()
def begin(encoder: StyleEncoder, image: Tensor) -> None:
    """Give a new encoder weights by which pictures [N, 3, H, W] differ from the first step on.

    Convolutions keep the size of what passes them (He et al. 2015); the first linear layer is scaled and shifted so that
    its outputs, before the activation, have mean 0 and variance 1 over the pictures (Kraehenbuehl et al. 2016).
    """
    for layer in encoder.embedder.feature_extractor.vgg_layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    first = encoder.embedder_mlp[0]
    gram = encoder.config.gram_gain * encoder.gram(image)
    outputs = F.linear(gram, first.weight * first.scale)  # [N, hidden]
    # One factor for all outputs, so that none is blown up whose input hardly varies.
    factor = 1.0 / outputs.std(dim=0).square().mean().sqrt().clamp_min(1e-8)
    first.weight.mul_(factor)
    first.bias.copy_(-factor * outputs.mean(dim=0) / first.lr_mul)


class StyleEncoderTrainer(StageTrainer):
    """Style encoder, its average and the projector.

    Args:
        config: settings.
        styles: pictures, as many styles as can be had.
        device: where to train.
    """

    def __init__(self, config: StyleStageConfig, styles: RandomFaces, *, device: torch.device | str = "cpu") -> None:
        super().__init__(facts={"style encoder": config.encoder.to_dict(), "views": asdict(config.views)}, device=device)
        self.config, self.styles = config, styles
        torch.manual_seed(11)
        self.encoder = StyleEncoder(config.encoder).to(self.device)
        begin(self.encoder, styles(max(config.batch, 16)))
        self.projector = projector(config.encoder.style_dim, config.projector_width).to(self.device)
        self.networks = {"encoder": self.encoder, "projector": self.projector}
        self.average = deepcopy(self.encoder).requires_grad_(False).eval()
        self.averages = {"encoder": self.average}
        self.encoder.embedder.requires_grad_(config.feature_lr > 0.0)
        groups = [{"params": [*self.encoder.embedder_mlp.parameters(), *self.projector.parameters()], "lr": config.lr}]
        if config.feature_lr > 0.0:
            groups.append({"params": list(self.encoder.embedder.parameters()), "lr": config.feature_lr})
        self.optimizers = {"encoder": torch.optim.Adam(groups, betas=(0.9, 0.99))}

    def step(self) -> dict[str, float]:
        config, image = self.config, self.styles(self.config.batch)
        views = [style_view(image, config.views, generator=self.styles.rng) for _ in range(2)]
        codes = self.encoder(torch.cat(views))  # [2N, D]
        contrast = nt_xent(*self.projector(codes).chunk(2), temperature=config.temperature)
        # The views of one picture are no independent codes, so each half is judged for itself.
        normality = sum(normality_loss(half) for half in codes.chunk(2)) / 2.0
        self.update(contrast + config.normality_weight * normality, "encoder", self.encoder, self.projector)
        self.advance(config.batch, decay=config.average)
        return {"contrast": contrast.item(), "normality": normality.item()}
