"""In place of the second stage, where no generator is to be trained: a mapping from style codes to rows of latents.

The generator stays the base. Its second mapping learns to give, for the code of a picture, the fine rows that the encoder of
photos gives that picture, so that random codes are random styles. What a picture adds to the features needs no training, see
``styles.picture_look``.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor

from models.blending import FINE_ROW
from models.style_encoder import StyleEncoder
from models.stylegan2 import Generator
from training.blend.generator import blend_generator_from
from training.blend.stage import StageTrainer
from training.pretrain.common import RandomFaces


@dataclass(frozen=True)
class RowsStageConfig:
    """Settings of the stage; ``lr`` makes up for the rate multiplier of the mapping (0.01)."""

    batch: int = 32
    lr: float = 0.2
    average: float = 0.998


class RowsTrainer(StageTrainer):
    """The second mapping and its average.

    Args:
        config: settings.
        base: the generator, which is not changed.
        encoder: trained style encoder, frozen.
        rows: what the encoder of photos makes of pictures [N, 3, S, S], [N, L, D].
        styles: pictures, at the generator's size.
        device: where to train.
    """

    def __init__(
        self, config: RowsStageConfig, base: Generator, *, encoder: StyleEncoder, rows: Callable[[Tensor], Tensor],
        styles: RandomFaces, device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(facts={"generator": base.config.to_dict(), "style encoder": encoder.config.to_dict()}, device=device)
        self.config, self.styles, self.rows = config, styles, rows
        self.encoder = encoder.requires_grad_(False).eval().to(self.device)
        self.generator = blend_generator_from(base).requires_grad_(False).to(self.device)
        self.generator.embedding.requires_grad_(True)
        self.average = deepcopy(self.generator).requires_grad_(False).eval()
        self.networks, self.averages = {"generator": self.generator}, {"generator": self.average}
        self.optimizers = {"mapping": torch.optim.Adam(self.generator.embedding.parameters(), lr=config.lr, betas=(0.9, 0.99))}

    def step(self) -> dict[str, float]:
        picture = self.styles(self.config.batch)
        with torch.no_grad():
            codes, wanted = self.encoder(picture), self.rows(picture)[:, FINE_ROW:]
        found = self.generator.map_style(codes)[:, None]
        # Beside the rows' distance, that of always giving their mean.
        loss = (found - wanted).square().mean()
        spread = (wanted - wanted.mean(dim=(0, 1), keepdim=True)).square().mean()
        self.update(loss, "mapping", self.generator.embedding)
        self.advance(self.config.batch, decay=self.config.average)
        return {"rows": loss.item(), "share": (loss / spread).item()}
