"""The network that tells a picture's parts: trained on labels by colours and landmarks, of photos and of drawings of them.

A label is wrong now and then (see ``data.part_labels``), thousands are not wrong alike: each is asked only as far as the
network, once it has seen many, does not flatly disagree (bootstrapping, Reed et al. 2015).
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from checkpoints import atomic_write
from data.looks import LOOKS
from data.part_labels import part_labels
from data.random_drawings import DRAWN_SIDE, drawing
from data.warps import backward_grid
from models.parts import PartsConfig, PartsNetwork, face_frame, parts_of
from training.ema import update_average
from training.pretrain.common import Clock, PretrainStage, resume, run_stage
from training.pretrain.drawings import labelled
from training.pretrain.faces import FacePack

STARTER_PARTS = PartsConfig()
SAVE_EVERY = 100


@dataclass(frozen=True)
class PartsTrainingConfig:
    """Hyper-parameters of the stage.

    Attributes:
        faces: that are labelled, and ``drawn``, the share of them that is drawn as well, each with its photo's label.
        batch: pictures per step.
        lr, decay: learning rate, and the share of the budget in which it falls at the end.
        own: share of the network's own word in its goal, in the second half of the budget.
    """

    faces: int = 2000
    drawn: float = 0.4
    batch: int = 8
    lr: float = 2e-3
    decay: float = 0.5
    own: float = 0.3
    average: float = 0.998

    def rate(self, fraction: float) -> float:
        """Return the learning rate after a share of the budget."""
        return self.lr * min(1.0, (fraction + 1e-3) / 0.02, (1.0 - fraction) / self.decay)


class Labelled:
    """Pictures [M, 3, S, S] and labels [M, 4, S, S] in bytes, and landmarks [M, 68, 2]."""

    def __init__(self, pictures: np.ndarray, labels: np.ndarray, points: np.ndarray) -> None:
        self.pictures, self.labels = torch.from_numpy(pictures), torch.from_numpy(labels)
        self.points = torch.from_numpy(points).float()

    def batch(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return random pictures in [-1, 1] with labels and landmarks, mirrored, a little turned, moved and recoloured."""
        chosen = torch.randint(len(self.pictures), (count,), generator=rng)
        images = self.pictures[chosen].float() / 127.5 - 1.0
        maps, points = torch.cat([images, self.labels[chosen].float() / 255.0], dim=1), self.points[chosen]

        def between(low: float, high: float, *shape: int) -> Tensor:
            return low + (high - low) * torch.rand(count, *shape, generator=rng)

        angle, size, shift = between(-0.06, 0.06), between(0.92, 1.1), between(-0.04, 0.04, 2)
        side = torch.where(between(0.0, 1.0) < 0.5, -1.0, 1.0)
        turn = torch.stack([torch.stack([side * angle.cos(), -side * angle.sin()], 1),
                            torch.stack([angle.sin(), angle.cos()], 1)], 1) * size[:, None, None]
        grid = F.affine_grid(torch.cat([turn, shift[:, :, None]], 2), list(maps.shape), align_corners=False)
        maps = F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=False)
        # The grid says where from; landmarks go the other way.
        points = torch.linalg.solve(turn, (points * 2.0 - 1.0 - shift[:, None]).transpose(1, 2)).transpose(1, 2) / 2.0 + 0.5
        points = points + 0.004 * torch.randn(points.shape, generator=rng)
        images, labels = maps.split([3, len(maps[0]) - 3], dim=1)
        middle = images.mean(dim=(2, 3), keepdim=True)
        images = middle + (images - middle) * between(0.7, 1.2, 1, 1, 1) + between(-0.1, 0.1, 3, 1, 1)
        grey = images.mean(dim=1, keepdim=True)
        images = grey + (images - grey) * between(0.3, 1.3, 1, 1, 1)
        noise = between(0.0, 0.03, 1, 1, 1) * torch.randn(images.shape, generator=rng)
        return (images + noise).clamp(-1.0, 1.0), labels / labels.sum(dim=1, keepdim=True), points


def label_faces(pack: FacePack, path: Path, config: PartsTrainingConfig, *, size: int) -> Labelled:
    """Label training faces of a pack, and drawings of some of them; what is done is kept in ``path``, and goes on.

    Raises:
        MissingStageError: where the pack has no labelled training faces.
    """
    train = labelled(pack)
    order = np.random.default_rng(0).permutation(len(train))[:config.faces]
    done: list[list[np.ndarray]] = [[], [], []]
    start = 0
    if path.exists():
        with np.load(path) as table:
            start, done = int(table["done"]), [list(table[name]) for name in ("pictures", "labels", "points")]

    def keep(picture: np.ndarray, label: np.ndarray, points: np.ndarray) -> None:
        both = torch.from_numpy(np.concatenate([picture.transpose(2, 0, 1), label])[None]).float()
        both = (F.interpolate(both, size=(size, size), mode="area")[0] * 255.0).round().clamp(0, 255).to(torch.uint8).numpy()
        for values, value in zip(done, (both[:3], both[3:], points.astype(np.float32)), strict=True):
            values.append(value)

    def save(count: int) -> None:
        with atomic_write(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, done=count, **{name: np.stack(values) for name, values
                                          in zip(("pictures", "labels", "points"), done, strict=True)})

    for number in tqdm(range(start, len(order)), desc="labels", initial=start, total=len(order)):
        index, rng = train[order[number]], np.random.default_rng([number, 1])
        face = F.interpolate(pack.batch(index[None]), size=(DRAWN_SIDE, DRAWN_SIDE), mode="bicubic").clamp(-1.0, 1.0)
        points = pack.landmarks[index].double().numpy()
        picture = face[0].permute(1, 2, 0).double().numpy() / 2.0 + 0.5
        label = part_labels(picture, points)
        keep(picture, label, points)
        if rng.random() < config.drawn:
            look = LOOKS[list(LOOKS)[rng.integers(len(LOOKS))]]
            made, moved = drawing(face, points, look, seed=number)
            grid = backward_grid(points, moved, DRAWN_SIDE)
            label = F.grid_sample(torch.from_numpy(label)[None].float(), grid.float(), mode="bilinear",
                                  padding_mode="reflection", align_corners=False)
            keep(made, label[0].double().numpy(), moved)
        if number % SAVE_EVERY == SAVE_EVERY - 1:
            save(number + 1)
    save(len(order))
    return Labelled(*(np.stack(values) for values in done))


class PartsTrainer(PretrainStage):
    """The network in training and its average.

    Args:
        config: hyper-parameters.
        network: shape of the network.
    """

    def __init__(self, config: PartsTrainingConfig, *, network: PartsConfig = STARTER_PARTS) -> None:
        torch.manual_seed(11)
        self.config, self.network = config, PartsNetwork(network)
        self.average = deepcopy(self.network).requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=config.lr, betas=(0.9, 0.99))

    def step(self, faces: Labelled, rng: torch.Generator, *, fraction: float) -> dict[str, float]:
        """Run one iteration and return its loss terms."""
        self.set_rate(self.config.rate(fraction))
        images, labels, points = faces.batch(self.config.batch, rng)
        with torch.no_grad():
            place = torch.cat(face_frame(points, images.shape[3]), dim=1)
        logits = self.network(images, place).log_softmax(dim=1)
        goal = labels
        if fraction > 0.5:
            said = logits.detach().exp()
            goal = torch.lerp(labels, said, self.config.own)
        loss = -(goal * logits).sum(dim=1).mean()
        self.descend(loss, self.network, images=len(images))
        update_average(self.average, self.network, self.warm(self.config.average))
        right = (logits.argmax(dim=1) == labels.argmax(dim=1)).float().mean()
        return {"entropy": float(loss.detach()), "agree": float(right)}


@torch.no_grad()
def parts_sheet(network: PartsNetwork, pack: FacePack, path: Path, *, count: int = 20) -> None:
    """Write held-out faces and their parts: skin red, background green, hair blue, the rest yellow."""
    from torchvision.utils import save_image

    _, held = pack.split()
    held = held[~pack.landmarks[held].isnan().any(dim=(1, 2))][:count]
    size = network.config.size
    images = F.interpolate(pack.batch(held), size=(size, size), mode="area")
    skin, background, hair, rest = parts_of(network, images, pack.landmarks[held].float()).split(1, dim=1)
    shown = torch.cat([skin + rest, background + rest, hair], dim=1)
    save_image(torch.stack([images / 2.0 + 0.5, shown], dim=1).flatten(0, 1), path, nrow=10)


def train_parts(pack: FacePack, folder: Path, *, minutes: float, config: PartsTrainingConfig | None = None) -> dict:
    """Label the faces, train for ``minutes``, saving ``folder/parts.pt``; resumes."""
    trainer = PartsTrainer(config or PartsTrainingConfig())
    faces = label_faces(pack, folder / "part_labels.npz", trainer.config, size=trainer.network.config.size)
    path = folder / "parts.pt"
    resume(trainer, path)
    rng = torch.Generator().manual_seed(12 + trainer.seen)
    terms = run_stage(trainer, lambda spent: trainer.step(faces, rng, fraction=spent), path, clock=Clock(minutes),
                      report=lambda: parts_sheet(trainer.average, pack, folder / "parts.png"))
    parts_sheet(trainer.average, pack, folder / "parts.png")
    return {"images": trainer.seen, **terms}
