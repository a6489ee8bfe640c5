"""In place of the second stage, where no generator is to be trained: a mapping from style codes to rows of latents.

The generator stays the base. Its second mapping learns to give, for the code of a picture, the mean of the fine rows that the
encoder of photos gives that picture, so that random codes are random styles. What a picture adds to the features needs no
training, see ``styles.picture_look``.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from tqdm import tqdm

from models.blending import FINE_ROW
from models.style_encoder import StyleEncoder
from models.stylegan2 import Generator
from training.blend.generator import blend_generator_from
from training.blend.stage import StageTrainer
from training.pretrain import parallel
from training.pretrain.common import RandomFaces


@dataclass(frozen=True)
class RowsStageConfig:
    """Settings of the stage; ``lr`` makes up for the rate multiplier of the mapping (0.01)."""

    batch: int = 64
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
        # Nothing here could learn shares of the face: the style's rows are taken whole, and what a user sets is their measure.
        self.generator.add_weight.data.zero_()
        self.average = deepcopy(self.generator).requires_grad_(False).eval()
        self.networks, self.averages = {"generator": self.generator}, {"generator": self.average}
        self.optimizers = {"mapping": torch.optim.Adam(self.generator.embedding.parameters(), lr=config.lr, betas=(0.9, 0.99))}

    @cached_property
    @torch.no_grad()
    def table(self) -> tuple[Tensor, Tensor]:
        """Codes [M, D] and means of the fine rows [M, D] of all pictures; nothing that is trained is in it."""
        codes, rows = [], []
        for index in tqdm(self.styles.train.split(self.config.batch), desc="pictures", disable=not parallel.leads()):
            picture = self.styles.pack.batch(index).to(self.device)
            codes.append(self.encoder(picture))
            rows.append(self.rows(picture)[:, FINE_ROW:].mean(dim=1))
        return torch.cat(codes), torch.cat(rows)

    def step(self) -> dict[str, float]:
        codes, rows = self.table
        index = torch.randint(len(codes), (self.config.batch,), generator=self.styles.rng).to(self.device)
        wanted = rows[index]
        loss = (self.generator.map_style(codes[index]) - wanted).square().mean()
        # Beside the distance, that of always giving the mean.
        spread = (wanted - rows.mean(dim=0)).square().mean()
        self.update(loss, "mapping", self.generator.embedding)
        self.advance(self.config.batch, decay=self.config.average)
        return {"rows": loss.item(), "share": (loss / spread).item()}
