"""Training of a style's strokes: the toned photo in the drawing's shape becomes the drawing, patch by patch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drawing.strokes import StrokeConfig, StrokeNetwork
from models.spatial_transformer import construction_rng
from models.squeezenet import SqueezeNetFeatures

TAPS = (1, 4, 7)
CRITIC_WIDTH = 24
# Sides in px of the means by which drawing and other people's colours are held.
BROAD, OTHERS_BROAD = 4, 12


@dataclass(frozen=True)
class StrokeSettings:
    """How strokes are learned.

    Attributes:
        steps: of training.
        crop: side in px of the patches.
        batch: patches of the pair a step.
        others: patches of other people's toned faces a step; the critic sees them too, and their broad colours stay.
        rate: Adam's, which rises for five steps and falls from the half on.
        pixel, feature, texture, critic, keep: weights of the terms.
        critic_from: first step in which the critic counts.
    """

    steps: int = 160
    crop: int = 96
    batch: int = 4
    others: int = 2
    rate: float = 1.5e-3
    pixel: float = 0.4
    feature: float = 0.4
    texture: float = 0.6
    critic: float = 0.15
    keep: float = 1.0
    critic_from: int = 30

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return asdict(self)


@dataclass(frozen=True)
class Lesson:
    """A toned photo in its drawing's shape [1, 3, S, S], its parts [1, K, S, S], and the drawing [1, 3, S, S]."""

    toned: Tensor
    parts: Tensor
    drawing: Tensor


class StrokeTrainer:
    """Everything that learning strokes changes, advanced by ``step``; see ``training.trainer.Trainer``.

    Args:
        lessons: pairs to learn from; at least one.
        others: toned faces of other people, [1, 3, S, S], with parts [1, K, S, S].
        features: SqueezeNet, frozen.
        settings: the schedule.
        seed: of weights and patches.
    """

    terms = ("pixel", "feature", "texture", "keep", "critic", "judge")

    def __init__(self, lessons: Sequence[Lesson], others: Sequence[tuple[Tensor, Tensor]], *, features: SqueezeNetFeatures,
                 settings: StrokeSettings, seed: int = 0) -> None:
        if not lessons:
            raise ValueError("expected at least one lesson, got none")
        self.lessons, self.others, self.features, self.settings = list(lessons), list(others), features, settings
        self.total, self.step_count, self.history = settings.steps, 0, []
        self.rng = torch.Generator().manual_seed(seed)
        with construction_rng(self.rng):
            self.network = StrokeNetwork(StrokeConfig(lessons[0].parts.shape[1]))
            self.critic = patch_critic()
        self.optimizer = torch.optim.Adam(self.network.parameters(), settings.rate, betas=(0.5, 0.99))
        self.judge_optimizer = torch.optim.Adam(self.critic.parameters(), 2e-3, betas=(0.0, 0.99))

    def step(self) -> dict[str, float]:
        """Train critic and network once and return the weighted terms, NaN for those that do not count yet.

        Raises:
            ArithmeticError: if a term is not finite.
        """
        settings, count = self.settings, self.settings.batch
        lesson = self.lessons[self._draw(len(self.lessons))]
        toned, parts, drawing = self._patches([lesson.toned, lesson.parts, lesson.drawing], count)
        other, other_parts = toned[:0], parts[:0]
        if self.others and settings.others:
            other, other_parts = self._patches(self.others[self._draw(len(self.others))], settings.others)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        made = self.network(torch.cat([toned, other]), torch.cat([parts, other_parts]))
        terms = self._terms(made, count, drawing, other)
        if self.step_count >= settings.critic_from and settings.critic:
            terms |= self._judge(made, drawing)
        values = {name: float(terms[name].detach()) if name in terms else math.nan for name in self.terms}
        if not all(math.isfinite(value) for name, value in values.items() if name in terms):
            raise ArithmeticError(f"strokes, step {self.step_count}: a term is not finite")
        self.optimizer.zero_grad(set_to_none=True)
        sum(term for name, term in terms.items() if name != "judge").backward()
        self.optimizer.step()
        self.step_count += 1
        self.history.append(values)
        return values

    def _terms(self, made: Tensor, count: int, drawing: Tensor, other: Tensor) -> dict[str, Tensor]:
        """Return the terms of patches [N, 3, s, s], the first ``count`` of which should be ``drawing``."""
        settings, own = self.settings, made[:count]
        broad = (F.avg_pool2d(own, BROAD) - F.avg_pool2d(drawing, BROAD)).abs().mean()
        terms = {"pixel": settings.pixel * (broad + 0.5 * (own - drawing).abs().mean())}
        feature = texture = made.new_zeros(())
        with torch.no_grad():
            wanted = self.features(drawing, taps=TAPS)
        for found, right in zip(self.features(own, taps=TAPS), wanted, strict=True):
            feature = feature + (found - right).abs().mean() / right.abs().mean()
            goal = gram(right)
            texture = texture + (gram(found) - goal).abs().mean() / goal.abs().mean()
        terms |= {"feature": settings.feature * feature / len(TAPS), "texture": settings.texture * texture / len(TAPS)}
        if len(other):
            apart = F.avg_pool2d(made[count:], OTHERS_BROAD) - F.avg_pool2d(other, OTHERS_BROAD)
            terms["keep"] = settings.keep * apart.abs().mean()
        return terms

    def _judge(self, made: Tensor, drawing: Tensor) -> dict[str, Tensor]:
        """Train the critic once, non-saturating logistic loss, and return what it says of the patches."""
        loss = F.softplus(-self.critic(drawing)).mean() + F.softplus(self.critic(made.detach())).mean()
        self.judge_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.judge_optimizer.step()
        return {"critic": self.settings.critic * F.softplus(-self.critic(made)).mean(), "judge": loss.detach()}

    def _rate(self) -> float:
        done, steps = self.step_count, self.total
        return self.settings.rate * min(1.0, (done + 1) / 5.0) * min(1.0, (steps - done) / (0.5 * steps))

    def _draw(self, count: int) -> int:
        return int(torch.randint(count, (1,), generator=self.rng))

    def _patches(self, maps: Sequence[Tensor], count: int) -> list[Tensor]:
        """Return ``count`` patches of several maps [1, C, S, S] at the same places, every other one mirrored."""
        side, found = self.settings.crop, []
        for index in range(count):
            top, left = (self._draw(size - side + 1) for size in maps[0].shape[2:])
            cut = [each[:, :, top:top + side, left:left + side] for each in maps]
            found.append([each.flip(3) for each in cut] if index % 2 else cut)
        return [torch.cat(several) for several in zip(*found, strict=True)]

    @torch.no_grad()
    def sheet(self) -> dict[str, Tensor]:
        """Return the drawing, and toned and drawn faces, of the pair and of others."""
        self.network.eval()
        faces = [(lesson.toned, lesson.parts) for lesson in self.lessons[:1]] + self.others
        rows = {"drawing": self.lessons[0].drawing, "toned": torch.cat([toned for toned, _ in faces]),
                "drawn": torch.cat([self.network(toned, parts) for toned, parts in faces])}
        self.network.train()
        return rows

    def state(self) -> dict[str, Any]:
        """Return everything that the next step depends on, as tensors and plain values."""
        return {"step": self.step_count, "settings": self.settings.to_dict(), "rng": self.rng.get_state(),
                "network": self.network.state_dict(), "critic": self.critic.state_dict(),
                "optimizer": self.optimizer.state_dict(), "judge_optimizer": self.judge_optimizer.state_dict(),
                "history": torch.tensor([[row[name] for name in self.terms] for row in self.history], dtype=torch.float64)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state()`` of a trainer with the same settings and data."""
        if state["settings"] != self.settings.to_dict():
            raise ValueError("the run has other settings")
        self.network.load_state_dict(state["network"])
        self.critic.load_state_dict(state["critic"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.judge_optimizer.load_state_dict(state["judge_optimizer"])
        self.rng.set_state(state["rng"])
        self.step_count = int(state["step"])
        self.history = [dict(zip(self.terms, row, strict=True)) for row in state["history"].tolist()]

    def finished(self) -> StrokeNetwork:
        """Return the network, frozen."""
        return self.network.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def gram(maps: Tensor) -> Tensor:
    """Return the Gram matrices [N, C, C] of maps [N, C, H, W], means over places (Gatys et al. 2016)."""
    flat = maps.flatten(2)
    return flat @ flat.transpose(1, 2) / flat.shape[2]


def patch_critic() -> nn.Sequential:
    """Return a critic of patches, [N, 3, s, s] -> logits [N, 1, s/4, s/4] (PatchGAN, Isola et al. 2017)."""
    width = CRITIC_WIDTH
    return nn.Sequential(
        nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(width, 2 * width, 4, 2, 1), nn.LeakyReLU(0.2),
        nn.Conv2d(2 * width, 4 * width, 3, 1, 1), nn.LeakyReLU(0.2), nn.Conv2d(4 * width, 1, 3, 1, 1))
