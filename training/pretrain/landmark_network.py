"""The starter's differentiable landmark network, trained on labelled faces that are turned, caricatured and redrawn."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from checkpoints.features import load_landmark_net
from data.landmarks68 import MIRROR
from data.random_drawings import random_deformation
from data.warps import backward_grid
from models.landmarks import LandmarkConfig, LandmarkNet, Landmarks
from training.ema import update_average
from training.mixed import precision, training_dtype
from training.pretrain.common import Clock, MissingStageError, PretrainStage, resume, run_stage
from training.pretrain.faces import FacePack
from training.pretrain.vit import draw, landmark_targets, random_grids

STARTER_LANDMARKS = LandmarkConfig()
WARP_SIDE = 64
# Rate of a network that is trained further, and the images that its average counts as seen.
FURTHER_RATE, AVERAGED = 8e-4, 32_000
# Brows, nose, eyes and mouth: parts whose own size must be right however small they are.
PARTS = (slice(17, 22), slice(22, 27), slice(31, 36), slice(36, 42), slice(42, 48), slice(48, 68))


@dataclass(frozen=True)
class LandmarkTrainingConfig:
    """Hyper-parameters; weights multiply the terms, probabilities are per face.

    Attributes:
        drawn: of a face whose medium is changed at random.
        negative: of a picture in inverted colours, as chalk on a board is beside ink on paper.
        from_drawings: share of a batch that comes from the pack of drawings, where there is one.
        caricatured: of a face that is deformed.
        max_doubt: largest disagreement of labels with those of the mirrored face.
    """

    batch: int = 32
    lr: float = 2e-3
    weight_decay: float = 0.02
    average: float = 0.998
    map_weight: float = 0.05
    shape_weight: float = 0.25
    drawn: float = 0.5
    negative: float = 0.05
    from_drawings: float = 0.4
    caricatured: float = 0.7
    max_doubt: float = 0.075


def caricature_grid(points: Tensor, rng: torch.Generator, side: int) -> tuple[Tensor, Tensor]:
    """Return the grid [side, side, 2] of a random caricature of one face and its landmarks [68, 2], fractions."""
    moved = random_deformation(points.numpy(), rng)
    coarse = backward_grid(points.numpy().astype(np.float64), moved, WARP_SIDE)  # smooth, so a coarse lattice will do
    fine = F.interpolate(coarse.permute(0, 3, 1, 2), size=(side, side), mode="bicubic", align_corners=False)
    return fine[0].permute(1, 2, 0), torch.from_numpy(moved).float()


class LandmarkBatches:
    """Random labelled training batches of a pack, and of a pack of drawings, see ``training.pretrain.drawings``."""

    def __init__(
        self, pack: FacePack, config: LandmarkTrainingConfig, *, seed: int, drawings: FacePack | None = None
    ) -> None:
        self.pack, self.config, self.drawings = pack, config, drawings
        train, _ = pack.split()
        self.index = train[pack.doubt[train] <= config.max_doubt]  # NaN, no label, compares as false
        if len(self.index) == 0:
            raise MissingStageError("the pack has no labelled training faces; run the pack stage with --landmarks")
        self.rng = torch.Generator().manual_seed(seed)

    def __call__(self) -> tuple[Tensor, Tensor]:
        """Return images [N, 3, S, S] in [-1, 1] and their landmarks [N, 68, 2] as fractions of the side."""
        config, rng = self.config, self.rng
        drawings = 0 if self.drawings is None else round(config.from_drawings * config.batch)
        index = self.index[torch.randint(len(self.index), (config.batch - drawings,), generator=rng)]
        image, points = self._flipped(self.pack, index)
        if self.drawings is not None:
            index = torch.randint(len(self.drawings.names), (drawings,), generator=rng)
            image, points = (torch.cat(both) for both in zip((image, points), self._flipped(self.drawings, index)))
        image, points = self._caricature(image, points)
        size = image.shape[3]
        grid, theta = random_grids(config.batch, size, rng, scale=(0.8, 1.15))
        image = F.grid_sample(image, grid, padding_mode="reflection", align_corners=False)
        inverse = torch.linalg.inv(theta[:, :, :2])
        points = ((points * 2.0 - 1.0 - theta[:, None, :, 2]) @ inverse.transpose(1, 2) + 1.0) / 2.0
        drawn = torch.rand(config.batch, generator=rng) < config.drawn
        if drawn.any():
            image[drawn] = draw(image[drawn], rng)
        negative = torch.rand(config.batch, 1, 1, 1, generator=rng) < config.negative
        image = torch.where(negative, -image, image)
        light = 1.0 + 0.2 * torch.randn(config.batch, 1, 1, 1, generator=rng)
        tint = 0.1 * torch.randn(config.batch, 3, 1, 1, generator=rng)
        return (image * light + tint).clamp(-1.0, 1.0), points

    def _flipped(self, pack: FacePack, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return images [N, 3, S, S] and landmarks [N, 68, 2] of faces [N] of a pack, half of them mirrored."""
        flip = torch.rand(len(index), generator=self.rng) < 0.5
        points = pack.landmarks[index]
        mirrored = points[:, torch.from_numpy(MIRROR)] * torch.tensor([-1.0, 1.0]) + torch.tensor([1.0, 0.0])
        return pack.batch(index, flip=flip), torch.where(flip[:, None, None], mirrored, points)

    def _caricature(self, image: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Exaggerate some of the faces; their labels move along exactly."""
        chosen = torch.nonzero(torch.rand(len(image), generator=self.rng) < self.config.caricatured)[:, 0]
        if len(chosen) == 0:
            return image, points
        side = image.shape[3]
        grids, moved = zip(*(caricature_grid(points[i], self.rng, side) for i in chosen.tolist()), strict=True)
        image, points = image.clone(), points.clone()
        image[chosen] = F.grid_sample(image[chosen], torch.stack(grids), padding_mode="reflection", align_corners=False)
        points[chosen] = torch.stack(moved)
        return image, points


def eye_distances(points: Tensor) -> Tensor:
    """Return the distance between the eye centres of landmarks [N, 68, 2], [N]."""
    return (points[:, 36:42].mean(dim=1) - points[:, 42:48].mean(dim=1)).norm(dim=1)


def shape_distance(found: Tensor, points: Tensor, inside: Tensor) -> Tensor:
    """Return how far the parts' shapes are off, in units of their size, the parts laid on each other's centres.

    An eye that is twice as large as usual is a small distance in the face and a large one here; without this term the
    network finds eyes of the usual size everywhere. Parts with a point outside are left out.

    Args:
        found, points: [N, 68, 2].
        inside: [N, 68] bool.
    """
    errors, known = [], []
    for part in PARTS:
        true = points[:, part] - points[:, part].mean(dim=1, keepdim=True)
        guess = found[:, part] - found[:, part].mean(dim=1, keepdim=True)
        size = true.norm(dim=2).mean(dim=1).clamp(min=1e-3)
        errors.append((guess - true).norm(dim=2).mean(dim=1) / size)
        known.append(inside[:, part].all(dim=1))
    errors, known = torch.stack(errors), torch.stack(known)  # [P, N]
    return (errors * known).sum() / known.sum().clamp(min=1)


def landmark_terms(found: Landmarks, points: Tensor) -> dict[str, Tensor]:
    """Return the distance of the points in eye distances, the shape distance, and the cross-entropy of the maps to
    narrow Gaussians.

    Points [N, 68, 2] outside of the image are left out.
    """
    inside = ((points > 0.0) & (points < 1.0)).all(dim=2)  # [N, 68]
    count = inside.sum().clamp(min=1)
    distance = (found.points - points).norm(dim=2) / eye_distances(points)[:, None]
    target = landmark_targets(points * 2.0 - 1.0, found.log_maps.shape[3], sigma=0.8)
    entropy = -(target * found.log_maps.flatten(2)).sum(dim=2)
    return {"distance": (distance * inside).sum() / count, "shape": shape_distance(found.points, points, inside),
            "maps": (entropy * inside).sum() / count}


@torch.no_grad()
def landmark_error(network: LandmarkNet, images: Tensor, points: Tensor) -> Tensor:
    """Return each face's mean distance to its labels [N, 68, 2] in % of eye distance, [N]."""
    network.eval()
    found = torch.cat([network(part).points for part in images.split(50)])
    return (found - points).norm(dim=2).mean(dim=1) / eye_distances(points) * 100.0


def evaluate(network: LandmarkNet, pack: FacePack) -> dict[str, float]:
    """Return the held-out error on photos and on drawn photos, % of eye distance."""
    _, held = pack.split()
    held = held[~pack.landmarks[held].isnan().any(dim=2).any(dim=1)]
    images, points = pack.batch(held), pack.landmarks[held]
    drawn = draw(images, torch.Generator().manual_seed(1))
    return {"held_out_percent": float(landmark_error(network, images, points).mean()),
            "held_out_drawn_percent": float(landmark_error(network, drawn, points).mean())}


class LandmarkTrainer(PretrainStage):
    """Network, its average and optimiser."""

    def __init__(self, config: LandmarkTrainingConfig) -> None:
        torch.manual_seed(0)
        self.config = config
        self.network = LandmarkNet(STARTER_LANDMARKS).to(memory_format=torch.channels_last)
        self.average = deepcopy(self.network).requires_grad_(False).eval()
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        self.dtype = getattr(torch, training_dtype("auto", torch.device("cpu")))

    def step(self, batches: LandmarkBatches, lr: float) -> dict[str, float]:
        """Run one iteration and return its terms."""
        image, points = batches()
        self.network.train()
        with precision(torch.device("cpu"), self.dtype):
            found = self.network(image)
        terms = landmark_terms(found, points)
        self.set_rate(lr)
        config, step = self.config, self.seen // self.config.batch
        loss = terms["distance"] + config.shape_weight * terms["shape"] + config.map_weight * terms["maps"]
        self.descend(loss, self.network, images=config.batch, most=1.0)
        # A short run must not average over its random start.
        update_average(self.average, self.network, min(config.average, (1 + step) / (10 + step)))
        return {name: float(value.detach()) for name, value in terms.items()}


def train_landmark_network(
    pack: FacePack, folder: Path, *, minutes: float, drawings: FacePack | None = None, start: Path | None = None
) -> dict:
    """Train for ``minutes``, saving ``folder/landmarks_net.pt``, and return the figures; resumes.

    Args:
        pack: labelled faces.
        folder: of the state.
        minutes: wall-clock budget.
        drawings: labelled drawings of the same size to train on as well.
        start: folder of starter files whose network is trained further, gently.
    """
    config = LandmarkTrainingConfig() if start is None else LandmarkTrainingConfig(lr=FURTHER_RATE)
    trainer, path = LandmarkTrainer(config), folder / "landmarks_net.pt"
    if not resume(trainer, path) and start is not None:
        state = load_landmark_net(start / "landmarks_net.safetensors").module.state_dict()
        trainer.network.load_state_dict(state), trainer.average.load_state_dict(state)
        trainer.seen = AVERAGED  # the running average counts from a trained network on
    batches = LandmarkBatches(pack, config, seed=trainer.seen, drawings=drawings)

    def step(spent: float) -> dict[str, float]:
        warmup = min(1.0, (trainer.seen + 1) / 3200.0)
        return trainer.step(batches, config.lr * warmup * (0.5 * (1.0 + math.cos(math.pi * spent)) + 0.005))

    run_stage(trainer, step, path, clock=Clock(minutes), report=lambda: evaluate(trainer.average, pack))
    return {"images": trainer.seen, **evaluate(trainer.average, pack)}
