"""The published landmark projection: one latent from the mean face on, its schedule and its oddities."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from losses.adversarial import nonsaturating_loss
from losses.heat_maps import group_weights, heat_map_loss, noise_scale, smoothness
from losses.noise import noise_regularization, ramped_rate, renew_noise
from models.stylegan2 import Generator
from training.inversion import frozen

Progress = Callable[[int, Tensor], None]
# One per group of ``losses.heat_maps.GROUPS``.
PUBLISHED_WEIGHTS = (0.05, 1.0, 1.0, 0.1, 1.0, 1.0, 1.0, 5.0, 5.0)

W_SAMPLES, W_SEED = 10_000, 123
# Highest learning rate of the published schedule.
RATE = 0.1
NOISE_WEIGHT = 1e5
PERCEPTUAL_SIDE = 256


@dataclass(frozen=True)
class PublishedSettings:
    """Published options and their defaults.

    Attributes:
        steps: Adam steps.
        lpips_weight, landmark_weight: of the picture's distance from the look, and of the heat maps' distance.
        weights: nine numbers by group.
        d_weight, fidelity_weight, smoothness_weight: of the terms of an animation.
    """

    steps: int = 1000
    lpips_weight: float = 1.0
    landmark_weight: float = 0.1
    weights: tuple[float, ...] = PUBLISHED_WEIGHTS
    d_weight: float = 0.0
    fidelity_weight: float = 0.05
    smoothness_weight: float = 0.05

    def __post_init__(self) -> None:
        group_weights(self.weights)
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")


@dataclass(frozen=True)
class PublishedProjection:
    """Latents [1, L, D], noise maps, and the picture [1, 3, S, S]."""

    w_plus: Tensor
    noise: list[Tensor]
    image: Tensor


@torch.no_grad()
def w_statistics(generator: Generator) -> tuple[Tensor, float]:
    """Return w_avg [1, D] and w_std = sqrt(sum |w - w_avg|^2 / n) over 10,000 z of numpy's RandomState(123)."""
    z = np.random.RandomState(W_SEED).randn(W_SAMPLES, generator.config.style_dim)
    w = generator.mapping(torch.from_numpy(z).to(generator.input.input))
    w_avg = w.mean(dim=0, keepdim=True)
    return w_avg, math.sqrt(float((w - w_avg).square().sum()) / W_SAMPLES)


def small(image: Tensor) -> Tensor:
    """Return images of at most 256 px, averaged over areas."""
    side = PERCEPTUAL_SIDE
    return F.interpolate(image, size=(side, side), mode="area") if image.shape[2] > side else image


class PublishedProjector:
    """Optimises latents and noise maps towards one photo's look and another's heat maps.

    Minimises lpips_weight V + landmark_weight HL + 1e5 noise regularisation over one w, repeated to all rows, and the noise
    maps; a further frame of an animation is optimised over w_plus alone, from the last one's, with the terms of an
    animation. V and HL are the given networks'.

    Args:
        generator: left as it was.
        heat_maps: maps images [1, 3, S, S] to heat maps [1, 68, h, w].
        perceptual: distance of two images [1, 3, h, w], a scalar.
        settings: options.
        critic: for ``d_weight``; needed where that is not 0.
    """

    def __init__(self, generator: Generator, *, heat_maps: Callable[[Tensor], Tensor], perceptual: nn.Module,
                 settings: PublishedSettings, critic: nn.Module | None = None) -> None:
        if settings.d_weight and critic is None:
            raise ValueError(f"d_weight {settings.d_weight} needs a discriminator")
        self.generator, self.heat_maps, self.perceptual = generator, heat_maps, perceptual
        self.settings, self.critic = settings, critic
        self.w_avg, self.w_std = w_statistics(generator)

    def project(self, look: Tensor, landmarks: Tensor, *, rng: torch.Generator, after: PublishedProjection | None = None,
                steps: int | None = None, progress: Progress | None = None) -> PublishedProjection:
        """Optimise one picture.

        Args:
            look: [1, 3, S, S], who.
            landmarks: [1, 3, S, S], the photo whose heat maps are the target; published with its landmarks drawn on it.
            rng: for the noise maps' start and the noise on w, on the CPU.
            after: the last frame of an animation.
            steps: another number than the settings'.
            progress: called after every step with its number and the picture.

        Raises:
            ArithmeticError: naming the step where the objective is not finite.
        """
        steps = steps or self.settings.steps
        if after is None:
            latent = self.w_avg.clone().requires_grad_(True)  # [1, D]
            noise = [level.requires_grad_(True) for level in self.generator.random_noise(1, generator=rng)]
            variables = [latent, *noise]
        else:
            latent, noise = after.w_plus.clone().requires_grad_(True), after.noise
            variables = [latent]
        optimizer = torch.optim.Adam(variables, betas=(0.9, 0.999), lr=ramped_rate(0, steps, rate=RATE))
        objective = self._objective(look, landmarks, after)
        with torch.enable_grad(), frozen(self.generator):
            for step in range(steps):
                optimizer.param_groups[0]["lr"] = ramped_rate(step, steps, rate=RATE)
                scale = noise_scale(step, steps, w_std=self.w_std)
                shaken = latent + scale * torch.randn(latent.shape, generator=rng).to(latent)
                w_plus = shaken if after is not None else self.generator.broadcast(shaken)
                image = self.generator.synthesis(w_plus, noise=noise)
                loss = objective(image, w_plus)
                if after is None:
                    loss = loss + NOISE_WEIGHT * noise_regularization(noise)
                if not math.isfinite(float(loss.detach())):
                    raise ArithmeticError(f"projection step {step}: the objective is not finite; use fewer steps")
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                if after is None:
                    renew_noise(noise)
                if progress is not None:
                    progress(step + 1, image.detach())
        return self._result(latent.detach(), [level.detach() for level in noise])

    @torch.no_grad()
    def _result(self, latent: Tensor, noise: Sequence[Tensor]) -> PublishedProjection:
        w_plus = latent if latent.ndim == 3 else self.generator.broadcast(latent).clone()
        return PublishedProjection(w_plus, list(noise), self.generator.synthesis(w_plus, noise=noise))

    def _objective(self, look: Tensor, landmarks: Tensor, after: PublishedProjection | None) -> Callable:
        settings, target = self.settings, small(look)
        weights = group_weights(settings.weights).to(look)
        with torch.no_grad():
            goal = self.heat_maps(landmarks)

        def objective(image: Tensor, w_plus: Tensor) -> Tensor:
            loss = settings.lpips_weight * self.perceptual(small(image), target)
            loss = loss + settings.landmark_weight * heat_map_loss(self.heat_maps(image), goal, weights)
            if after is None:
                return loss
            if settings.d_weight:
                loss = loss + settings.d_weight * nonsaturating_loss(self.critic(image))
            loss = loss + settings.fidelity_weight * smoothness(w_plus, self.w_avg)
            return loss + settings.smoothness_weight * smoothness(w_plus, after.w_plus)

        return objective
