"""Inversion by optimisation: find the latents, and the features beside them, whose image is a given photo."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.face import Face
from models.stylegan2 import Generator, layer_at

Progress = Callable[[int, float], None]
DEVIATION_SAMPLES = 32


@dataclass(frozen=True)
class ResidualSettings:
    """How the residual of the features is optimised: at ``resolution`` px, Adam's ``lr`` in units of the features'
    deviation, and the weight ``penalty`` of its mean square in those units."""

    resolution: int = 32
    lr: float = 0.05
    penalty: float = 1e-3


@torch.no_grad()
def feature_deviation(generator: Generator, resolution: int) -> Tensor:
    """Return the standard deviation [1, C, 1, 1] of each feature after ``layer_at(resolution)``, over faces and places.

    Faces of 32 z of a fixed seed; features that are hardly used get a twentieth of the mean, so that a unit means something.
    """
    seen: list[Tensor] = []

    def note(features: Tensor) -> Tensor:
        seen.append(features)
        return features

    rng = torch.Generator().manual_seed(0)
    z = torch.randn(DEVIATION_SAMPLES, generator.config.style_dim, generator=rng).to(generator.input.input)
    w_plus = generator.broadcast(generator.mapping(z))
    generator.synthesis(w_plus, noise=generator.fixed_noise(), feature_transforms={layer_at(resolution): note})
    deviation = seen[0].float().std(dim=(0, 2, 3), keepdim=True)
    return deviation.clamp_min(0.05 * deviation.mean())


@contextlib.contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Switch gradients of all parameters off and restore each one's setting afterwards."""
    before = [parameter.requires_grad for parameter in module.parameters()]
    module.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, flag in zip(module.parameters(), before, strict=True):
            parameter.requires_grad_(flag)


def check_inputs(image: Tensor, generator: Generator, w_init: Tensor, steps: int) -> None:
    """Raise ValueError unless images, latents and the number of steps fit the generator."""
    config = generator.config
    if image.ndim != 4 or list(image.shape[1:]) != [3, config.size, config.size]:
        raise ValueError(f"expected images [N, 3, {config.size}, {config.size}], got {list(image.shape)}")
    if list(w_init.shape) not in ([n, config.n_latent, config.style_dim] for n in (1, len(image))):
        raise ValueError(f"expected w_init [1 or {len(image)}, {config.n_latent}, {config.style_dim}], "
                         f"got {list(w_init.shape)}")
    if steps < 0:
        raise ValueError(f"steps must be >= 0, got {steps}")


def invert(
    image: Tensor, generator: Generator, *, w_init: Tensor, objective: nn.Module, steps: int = 300, lr: float = 2e-3,
    decay: float = 0.0, beta2: float = 0.999, noise: Sequence[Tensor] | torch.Generator | None = None,
    residual: ResidualSettings | None = None, residual_init: Tensor | None = None, first_row: int = 0,
    progress: Progress | None = None,
) -> Face:
    """Optimise latents, and with ``residual`` features too, so that the generator shows the images.

    argmin_(w, r) d(G(w, r s), image) + penalty |r|^2 by Adam, s the features' deviation. The images are optimised side by
    side; Adam treats every number on its own, so each gets the face that it would get alone. The published schedule is 300
    steps at 2e-3 from the mean latent with fresh noise in every step, and no residual.

    Args:
        image: [N, 3, S, S] in [-1, 1], S the generator's size.
        generator: left as it was.
        w_init: start, [1 or N, L, style_dim].
        objective: maps (images, targets) to a scalar batch mean, see ``losses.InversionLoss``.
        steps: number of Adam steps; 0 returns the start.
        lr: learning rate in units of w.
        decay: share of the steps, at the end, over which both rates fall linearly.
        beta2: Adam's decay of squared gradients; a short schedule gains from a short memory.
        noise: maps as ``Generator.synthesis`` takes them, or a CPU random generator for fresh noise in every step;
            the generator's stored noise where None.
        residual: how features are optimised; None leaves them to the latents.
        residual_init: start [N, C, R, R] in units of the features themselves; zero where None.
        first_row: rows of the latents before it stay as they start.
        progress: called with the number of steps done and the loss.

    Returns:
        The faces, detached.

    Raises:
        ValueError: for shapes that do not fit.
        ArithmeticError: naming the step where the loss is not finite.
    """
    check_inputs(image, generator, w_init, steps)
    face = _Start(image, generator, w_init, residual, residual_init, first_row)
    optimizer = torch.optim.Adam(face.groups(lr), betas=(0.9, beta2))
    rates = [group["lr"] for group in optimizer.param_groups]
    stored = generator.fixed_noise() if noise is None else noise
    # inference.py calls this where gradients may be off.
    with torch.enable_grad(), frozen(generator), frozen(objective):
        for step in range(steps):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * min(1.0, (steps - step) / (steps * decay)) if decay else rate
            maps = generator.random_noise(len(image), generator=stored) if isinstance(stored, torch.Generator) else stored
            now = face.face()
            shown = generator.synthesis(now.w_plus, noise=maps, feature_transforms=now.transforms())
            loss = objective(shown, image) + face.penalty()
            if not bool(torch.isfinite(loss)):
                raise ArithmeticError(f"inversion step {step}: the loss is {float(loss.detach())}; lower the learning rate")
            optimizer.zero_grad(set_to_none=True)
            (loss * len(image)).backward()
            optimizer.step()
            if progress is not None:
                progress(step + 1, float(loss.detach()))
    with torch.no_grad():
        return face.face()


class _Start:
    """The numbers that are optimised: latents, and a residual in units of the features' deviation."""

    def __init__(self, image: Tensor, generator: Generator, w_init: Tensor, settings: ResidualSettings | None,
                 residual_init: Tensor | None, first_row: int) -> None:
        whole = w_init.detach().expand(len(image), -1, -1)
        self.kept = whole[:, :first_row]
        self.latent = whole[:, first_row:].clone().requires_grad_(True)
        self.settings, self.residual = settings, None
        if settings is None:
            return
        side = settings.resolution
        shape = [len(image), generator.config.channels.get(side, 0), side, side]
        if not shape[1]:
            raise ValueError(f"the generator has no features of {side} px; choose one of {sorted(generator.config.channels)}")
        start = self.latent.new_zeros(shape) if residual_init is None else residual_init.detach()
        if list(start.shape) != shape:
            raise ValueError(f"expected residual_init {shape}, got {list(start.shape)}")
        self.deviation = feature_deviation(generator, side)
        self.residual = (start / self.deviation).clone(memory_format=torch.channels_last).requires_grad_(True)

    def groups(self, lr: float) -> list[dict]:
        """Return Adam's groups with their rates."""
        parts = [{"params": [self.latent], "lr": lr}]
        return parts if self.residual is None else [*parts, {"params": [self.residual], "lr": self.settings.lr}]

    def face(self) -> Face:
        """Return the faces as they are now."""
        latent = self.latent if torch.is_grad_enabled() else self.latent.detach().clone()
        return Face(torch.cat([self.kept, latent], dim=1) if self.kept.shape[1] else latent,
                    None if self.residual is None else self.residual * self.deviation)

    def penalty(self) -> Tensor | float:
        """Return the weighted mean square of the residual."""
        return 0.0 if self.residual is None else self.settings.penalty * self.residual.square().mean()
