"""Train the painter on faces drawn in random looks: what it draws is compared with what the look itself draws.

A step takes faces of several looks, which are drawn in the manner of another face of their look; some of them first go to
that face's tones, and all become softer by chance, as faces of a generator are. Or they are drawings that are to become the
photos they were, by a code of zeros: the destylizer, a second network of the same shape that goes on from the painter.
Losses: L1, perceptual distance, and distance of Gram matrices (Gatys et al. 2016) to the truth and, weaker, to the picture
that shows the manner; for photos also identity.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from models.painter import Painter, PainterConfig
from models.style_encoder import gram_matrix
from models.tones import in_tones, read_tones
from training.pretrain.common import Clock, require_state, resume, run_stage, update_average
from training.pretrain.paintings import Paintings, load_paintings
from training.pretrain.teacher import SqueezeNetTeacher, feature_distance

# Pictures that set the scale of the style encoder's statistics.
CALIBRATED = 256


@dataclass(frozen=True)
class PainterTrainingConfig:
    """Hyper-parameters of the stage.

    Attributes:
        batch: pictures per step.
        photos: share of them that are drawings to be turned into photos, 1 for the destylizer.
        toned: share of the others that first go part of the way to the tones of the style picture.
        soft: most of it that the others are blurred by, as inverted faces are softer than photos.
        lr, warmup, decay: learning rate, and the shares of the budget in which it rises, and falls at the end.
        perceptual, gram, manner, identity: weights beside L1; ``manner`` of Gram matrices to the style picture's.
        average: decay of the running average of weights.
    """

    batch: int = 3
    photos: float = 0.0
    toned: float = 0.4
    soft: float = 0.8
    lr: float = 1.5e-3
    warmup: float = 0.02
    decay: float = 0.6
    perceptual: float = 1.0
    gram: float = 0.5
    manner: float = 0.25
    identity: float = 0.5
    average: float = 0.998

    @classmethod
    def destylizer(cls) -> PainterTrainingConfig:
        """Return the settings by which drawings become photos: who it is counts most."""
        return cls(photos=1.0, manner=0.0, gram=0.1, identity=4.0)

    def rate(self, fraction: float) -> float:
        """Return the learning rate after a share of the budget."""
        return self.lr * min(1.0, (fraction + 1e-3) / self.warmup, (1.0 - fraction) / self.decay + 0.01)


def gram_distance(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """Return the mean over maps of |G(a) - G(b)| / |G(b)|, Frobenius norms of Gram matrices, [N]."""
    parts = []
    for x, y in zip(a, b, strict=True):
        of, to = gram_matrix(x.float()).flatten(1), gram_matrix(y.float()).flatten(1)
        parts.append((of - to).norm(dim=1) / (to.norm(dim=1) + 1e-6))
    return torch.stack(parts).mean(dim=0)


class PainterTraining:
    """One painter in training.

    Args:
        paintings: the truth.
        teacher: of perceptual distances.
        identity: faces [N, 3, S, S] -> embeddings, or None.
        shape: of the painter.
        config: see there.
        seed: of weights and choices.
    """

    def __init__(self, paintings: Paintings, teacher: SqueezeNetTeacher, *, identity: Callable[[Tensor], Tensor] | None = None,
                 shape: PainterConfig | None = None, config: PainterTrainingConfig | None = None, seed: int = 0) -> None:
        self.paintings, self.teacher, self.identity = paintings, teacher, identity
        self.config, self.rng, self.seen = config or PainterTrainingConfig(), torch.Generator().manual_seed(seed), 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.painter = Painter(shape or PainterConfig(size=paintings.plain.shape[-1])).to(
                memory_format=torch.channels_last)
            self.painter.read.calibrate(_floats(paintings.drawn[:CALIBRATED, 0]))
        self.average = deepcopy(self.painter).requires_grad_(False).eval()
        self.optimizer = torch.optim.Adam(self.painter.parameters(), lr=self.config.lr, betas=(0.9, 0.99))

    def state(self) -> dict[str, Any]:
        """Return everything that a training goes on from."""
        return {"painter": self.painter.state_dict(), "average": self.average.state_dict(), "seen": self.seen,
                "optimizer": self.optimizer.state_dict(), "rng": self.rng.get_state(), "config": self.painter.config.to_dict()}

    def load(self, state: dict[str, Any]) -> None:
        """Take over what ``state`` gave."""
        self.painter.load_state_dict(state["painter"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rng.set_state(state["rng"])
        self.seen = state["seen"]

    def batch(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return inputs, style pictures and truth, [N, 3, S, S] each, and which of them are to become photos, [N] bool."""
        config, (looks, faces) = self.config, self.paintings.plain.shape[:2]
        look = torch.randint(looks, (config.batch,), generator=self.rng)
        mine = torch.randint(faces, (config.batch,), generator=self.rng)
        other = (mine + torch.randint(1, faces, (config.batch,), generator=self.rng)) % faces
        photo = torch.rand(config.batch, generator=self.rng) < config.photos
        plain, drawn = (_floats(part[look, mine]) for part in self.paintings)
        shown = _floats(self.paintings.drawn[look, other])
        toned = torch.rand(config.batch, generator=self.rng) < config.toned
        share = torch.rand(config.batch, generator=self.rng)
        start = torch.cat([in_tones(face[None], read_tones(style[None]), strength=float(by)) if changed else face[None]
                           for face, style, by, changed in zip(plain, shown, share, toned, strict=True)])
        soft = F.interpolate(F.avg_pool2d(start, 2), scale_factor=2.0, mode="bilinear", align_corners=False)
        start = torch.lerp(start, soft, config.soft * torch.rand(config.batch, 1, 1, 1, generator=self.rng))
        flip = torch.rand(2, config.batch, generator=self.rng)[:, :, None, None, None] < 0.5
        choose = photo[:, None, None, None]
        image, truth = torch.where(choose, drawn, start), torch.where(choose, plain, drawn)
        image, style, truth = (torch.where(by, part.flip(3), part)
                               for part, by in ((image, flip[0]), (shown, flip[1]), (truth, flip[0])))
        return *(part.contiguous(memory_format=torch.channels_last) for part in (image, style, truth)), photo

    def step(self, fraction: float) -> dict[str, float]:
        """Do one step, ``fraction`` of the budget being spent, and return its terms."""
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = config.rate(fraction)
        image, style, truth, photo = self.batch()
        with torch.no_grad():
            wanted, manner = self.teacher(truth), self.teacher(style)
        drawn = self.painter(image, self.painter.read(style) * ~photo[:, None])
        found = self.teacher(drawn)
        terms = {"l1": F.l1_loss(drawn, truth), "perceptual": feature_distance(found, wanted).mean(),
                 "gram": gram_distance(found, wanted).mean(), "manner": (gram_distance(found, manner) * ~photo).mean()}
        if self.identity is not None and photo.any():
            terms["identity"] = (self.identity(drawn[photo]) - self.identity(truth[photo])).norm(dim=1).mean()
        weights = {"l1": 1.0, "perceptual": config.perceptual, "gram": config.gram, "manner": config.manner,
                   "identity": config.identity * float(photo.float().mean())}
        self.optimizer.zero_grad(set_to_none=True)
        sum(weights[name] * value for name, value in terms.items()).backward()
        torch.nn.utils.clip_grad_norm_(self.painter.parameters(), 5.0)
        self.optimizer.step()
        self.seen += config.batch
        update_average(self.average, self.painter, min(config.average, (self.seen + 1) / (self.seen + 20 * config.batch)))
        return {name: float(value.detach()) for name, value in terms.items()}


def _floats(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1.0


def train_painter(folder: Path, teacher: Path, state: Path, *, minutes: float, part: str = "painter",
                  identity: Callable[[Tensor], Tensor] | None = None, seed: int = 0) -> dict[str, Any]:
    """Run the stage for a while from where it was, and return its facts; paintings that come meanwhile are learned from too.

    Args:
        folder: of paintings.
        teacher: SqueezeNet's file.
        state: folder of the resumable state.
        minutes: budget.
        part: "painter", or "destylizer", which begins with the painter's weights.
        identity, seed: see ``PainterTraining``.

    Raises:
        MissingStageError: where there are no paintings, or no painter for the destylizer to go on from.
    """
    config = PainterTrainingConfig() if part == "painter" else PainterTrainingConfig.destylizer()
    trainer = PainterTraining(load_paintings(folder), SqueezeNetTeacher(teacher), identity=identity, config=config, seed=seed)
    path = state / f"{part}.pt"
    if not resume(trainer, path) and part != "painter":
        weights = require_state(state / "painter.pt")["average"]
        trainer.painter.load_state_dict(weights), trainer.average.load_state_dict(weights)

    def renew() -> None:
        trainer.paintings = load_paintings(folder)

    terms = run_stage(trainer, trainer.step, path, clock=Clock(minutes), report=renew)
    return {"seen": trainer.seen, "looks": len(trainer.paintings.plain),
            **{name: round(value, 4) for name, value in terms.items()}}
