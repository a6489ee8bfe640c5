"""Latent optimisation: find the w_plus whose image is a given photo."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from models.stylegan2 import Generator

Progress = Callable[[int, float], None]


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
    progress: Progress | None = None,
) -> Tensor:
    """Optimise w_plus so that the generator shows the images: argmin_w d(G(w), image) by Adam.

    The images are optimised side by side; Adam treats every number on its own, so each gets the latent that it would
    get alone. The published schedule is 300 steps at 2e-3 from the mean latent with fresh noise in every step.

    Args:
        image: [N, 3, S, S] in [-1, 1], S the generator's size.
        generator: left as it was.
        w_init: start, [1 or N, L, style_dim].
        objective: maps (images, targets) to a scalar batch mean, see ``losses.InversionLoss``.
        steps: number of Adam steps; 0 returns the start.
        lr: learning rate in units of w.
        decay: share of the steps, at the end, over which the rate falls linearly.
        beta2: Adam's decay of squared gradients; a short schedule gains from a short memory.
        noise: maps as ``Generator.synthesis`` takes them, or a CPU random generator for fresh noise in every step;
            the generator's stored noise where None.
        progress: called with the number of steps done and the loss.

    Returns:
        w_plus [N, L, style_dim], detached.

    Raises:
        ValueError: for shapes that do not fit.
        ArithmeticError: naming the step where the loss is not finite.
    """
    check_inputs(image, generator, w_init, steps)
    latent = w_init.detach().expand(len(image), -1, -1).clone().requires_grad_(True)
    optimizer = torch.optim.Adam([latent], lr=lr, betas=(0.9, beta2))
    stored = generator.fixed_noise() if noise is None else noise
    # inference.py calls this where gradients may be off.
    with torch.enable_grad(), frozen(generator), frozen(objective):
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = lr * min(1.0, (steps - step) / (steps * decay)) if decay else lr
            maps = generator.random_noise(len(image), generator=stored) if isinstance(stored, torch.Generator) else stored
            loss = objective(generator.synthesis(latent, noise=maps), image)
            if not bool(torch.isfinite(loss)):
                raise ArithmeticError(f"inversion step {step}: the loss is {float(loss.detach())}; lower the learning rate")
            optimizer.zero_grad(set_to_none=True)
            (loss * len(image)).backward()
            optimizer.step()
            if progress is not None:
                progress(step + 1, float(loss.detach()))
    return latent.detach()
