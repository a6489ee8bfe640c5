"""The residual encoder: what a photo shows beyond its rows, as features, trained through the frozen generator's upper half.

Generator and encoder are frozen, so first inversions, the rows of a face and the features that they make, are computed
once and drawn many times, and only the layers above the features run in every step. In the first part of the budget
they run on random squares of a quarter of the area, four times as many; after it on whole faces. Losses: L1, a Laplacian
pyramid, on whole faces the distance of the identity network's embeddings, and a small penalty on the residual's square in
units of the features' deviation, which keeps the warps' inputs as they know them.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from checkpoints.builders import load_base, load_encoder
from losses.perceptual import detail_distance
from models.residual_encoder import ResidualEncoder, ResidualEncoderConfig
from models.stylegan2 import Halfway
from training.ema import update_average
from training.inversion import feature_deviation
from training.pretrain import parallel
from training.pretrain.common import (
    Clock,
    MissingStageError,
    PretrainStage,
    RandomFaces,
    half_precision,
    resume,
    run_stage,
)
from training.pretrain.faces import FacePack

STARTER_RESIDUAL = ResidualEncoderConfig()
# Aligned faces [N, 3, S, S] to embeddings [N, D], differentiable.
Identity = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ResidualTrainingConfig:
    """Hyper-parameters of the stage.

    Attributes:
        batch: faces per step, and ``squares`` in the first part.
        local_share: share of the budget in which squares of ``side`` features are trained on.
        lr, warmup, decay: learning rate, and the shares of the budget in which it rises, and falls at the end.
        kept: first inversions (0.6 MB each) that stay in memory, of which one is added every ``fresh`` steps.
    """

    batch: int = 1
    squares: int = 2
    side: int = 16
    local_share: float = 0.45
    lr: float = 1.5e-3
    warmup: float = 0.02
    decay: float = 0.5
    detail_weight: float = 1.0
    identity_weight: float = 0.25
    penalty: float = 2e-2
    photo_share: float = 0.8
    average: float = 0.99
    kept: int = 2000
    fresh: int = 4

    def rate(self, fraction: float) -> float:
        """Return the learning rate after a share of the budget."""
        return self.lr * min(1.0, (fraction + 1e-3) / self.warmup, (1.0 - fraction) / self.decay)


class First(NamedTuple):
    """Photos [N, 3, S, S] with their first inversions: w_plus [N, L, D], features and image as ``Generator.halfway`` gives
    them, and the identity [N, E] of the photos."""

    photo: Tensor
    w_plus: Tensor
    features: Tensor
    image: Tensor
    identity: Tensor


class Firsts:
    """First inversions of random faces, computed now and then and drawn often: one costs as much as a step.

    Args:
        faces: the faces, and the random numbers.
        make: turns photos into a First.
        config: how many, how often.
    """

    def __init__(self, faces: RandomFaces, make: Callable[[Tensor], First], config: ResidualTrainingConfig) -> None:
        self.faces, self.make, self.config = faces, make, config
        self.rows: list[First] = []
        self.drawn = 0

    def __call__(self, n: int) -> First:
        """Return n random faces."""
        self.drawn += 1
        wanted = min(self.config.kept, max(8 * n, self.drawn // self.config.fresh))
        while len(self.rows) < wanted:
            self.rows.append(First(*(value.half() for value in self.make(self.faces(1)))))
        chosen = torch.randint(len(self.rows), (n,), generator=self.faces.rng).tolist()
        batch = (torch.cat(values).float() for values in zip(*(self.rows[i] for i in chosen), strict=True))
        return First(*(v.contiguous(memory_format=torch.channels_last) if v.ndim == 4 else v for v in batch))


class ResidualTrainer(PretrainStage):
    """The network in training, its average, and the frozen networks around it.

    Args:
        config: hyper-parameters; the batch is per process.
        identity: frozen, on the device.
        folder: of the starter's generator and encoder.
        device: where to train.
        network: shape of the residual encoder.
    """

    parts = ("residual", "average", "optimizer")

    def __init__(
        self, config: ResidualTrainingConfig, identity: Identity, *, folder: Path, device: torch.device | str = "cpu",
        network: ResidualEncoderConfig = STARTER_RESIDUAL,
    ) -> None:
        torch.manual_seed(5)
        self.device = torch.device(device)
        self.config, self.identity = config, identity
        base = load_base(folder / "generator.safetensors", device=self.device)
        self.generator, self.fingerprint = base.generator, base.fingerprint
        self.encoder = load_encoder(folder / "encoder.safetensors", device=self.device)
        self.residual = ResidualEncoder(network)
        self.residual.deviation.copy_(feature_deviation(self.generator, network.resolution))
        self.residual.to(self.device, memory_format=torch.channels_last)
        self.average = deepcopy(self.residual).requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.residual.parameters(), lr=config.lr, betas=(0.9, 0.99))
        self.noise = self.generator.fixed_noise()

    @torch.no_grad()
    def first(self, photo: Tensor) -> First:
        """Return photos [N, 3, S, S] with their first inversions."""
        w_plus = self.encoder.module(photo) + self.encoder.latent_avg
        half = self.generator.halfway(w_plus, noise=self.noise, resolution=self.residual.config.resolution)
        return First(photo, w_plus, half.features, half.image, self.identity(photo))

    def square(self, first: First, place: tuple[int, int]) -> tuple[First, list[Tensor]]:
        """Cut the square with its corner at the features (y, x), both even, out of all maps and of the noise."""
        whole, side = self.residual.config.resolution, self.config.side

        def cut(maps: Tensor) -> Tensor:
            top, left, length = (value * maps.shape[3] // whole for value in (*place, side))
            maps = maps[:, :, top:top + length, left:left + length]
            return maps.contiguous(memory_format=torch.channels_last)

        maps = first._replace(photo=cut(first.photo), features=cut(first.features), image=cut(first.image))
        return maps, [cut(noise) if noise.shape[3] >= whole else noise for noise in self.noise]

    def show(self, network: ResidualEncoder, first: First, noise: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return images [N, 3, S, S] with their residuals, and the residuals in units of the deviation."""
        residual = network(first.photo, first.features, first.w_plus).float()
        image = self.generator.finish(Halfway(first.features + residual, first.image), first.w_plus, noise=noise,
                                      resolution=network.config.resolution)
        return image, residual / network.deviation

    def step(self, firsts: Firsts, lr: float, *, local: bool = False) -> dict[str, float]:
        """Run one iteration, ``local`` on squares, and return its loss terms."""
        self.set_rate(lr)
        config, noise, rim = self.config, self.noise, 0
        first = firsts(config.squares if local else config.batch)
        if local:
            last = (self.residual.config.resolution - config.side) // 2
            place = torch.randint(last + 1, (2,), generator=firsts.faces.rng) * 2
            first, noise = self.square(first, tuple(place.tolist()))
            rim = 8  # along the cut the layers miss their neighbours
        with half_precision(self.device):
            image, residual = self.show(self.residual, first, noise)
            inside = (slice(None), slice(None), *[slice(rim, image.shape[3] - rim)] * 2)
            terms = {"l1": (image[inside] - first.photo[inside]).abs().mean(),
                     "detail": detail_distance(image[inside], first.photo[inside]), "square": residual.square().mean()}
            if not local:
                terms["id"] = (self.identity(image) - first.identity).float().norm(dim=1).mean()
        weights = {"detail": config.detail_weight, "id": config.identity_weight, "square": config.penalty}
        loss = sum(weights.get(name, 1.0) * value for name, value in terms.items())
        self.descend(loss, self.residual, images=len(image), most=1.0)
        update_average(self.average, self.residual, self.warm(config.average))
        return {name: float(value.detach()) for name, value in terms.items()}

    def state(self) -> dict:
        return super().state() | {"generator": self.fingerprint}

    def load(self, state: dict) -> None:
        """Go on from a state; raises MissingStageError where it was trained against another generator."""
        if state["generator"] != self.fingerprint:
            raise MissingStageError("residual.pt: was trained against another generator; take that one, or another --state")
        super().load(state)


@torch.no_grad()
def residual_sheet(trainer: ResidualTrainer, pack: FacePack, path: Path, *, count: int = 32) -> dict[str, float]:
    """Write held-out faces, their first inversions and those with the residual; returns figures over ``count`` faces."""
    from torchvision.utils import save_image

    _, held = pack.split()
    first = trainer.first(pack.batch(held[:count]).to(trainer.device))
    image, _ = trainer.show(trainer.average, first, trainer.noise)
    before = trainer.generator.synthesis(first.w_plus, noise=trainer.noise)
    rows = torch.cat([first.photo[:10], before[:10], image[:10]])
    save_image(rows.clamp(-1, 1) * 0.5 + 0.5, path, nrow=min(10, len(image)))

    def figures(shown: Tensor) -> tuple[float, float]:
        away = (trainer.identity(shown.clamp(-1, 1)) - first.identity).norm(dim=1).mean()
        return float((shown - first.photo).abs().mean()), float(away)

    names = ("held_out_l1", "held_out_identity", "first_l1", "first_identity")
    return dict(zip(names, figures(image) + figures(before), strict=True))


def train_residual(
    pack: FacePack, folder: Path, *, start: Path, identity: Identity, minutes: float, device: torch.device | str = "cpu",
    config: ResidualTrainingConfig | None = None,
) -> dict:
    """Train for ``minutes`` against the starter files in ``start``, saving ``folder/residual.pt``; resumes."""
    trainer = ResidualTrainer(config or ResidualTrainingConfig(), identity, folder=start, device=device)
    path = folder / "residual.pt"
    resume(trainer, path)
    parallel.share(trainer.residual, trainer.average)
    faces = RandomFaces(pack, seed=6000 + trainer.seen, photo_share=trainer.config.photo_share, device=device)
    firsts, config = Firsts(faces, trainer.first, trainer.config), trainer.config
    terms = run_stage(
        trainer, lambda spent: trainer.step(firsts, config.rate(spent), local=spent < config.local_share), path,
        clock=Clock(minutes), report=lambda: residual_sheet(trainer, pack, folder / "residual.png", count=6))
    if not parallel.leads():
        return {"images": trainer.seen}
    return {"images": trainer.seen, **terms, **residual_sheet(trainer, pack, folder / "residual.png")}
