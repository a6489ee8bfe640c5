"""Other ways to draw photos after one drawing, against which the project is held: colour transfer and JoJoGAN."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor
from torch.nn import functional as F

from checkpoints.builders import Base
from models.discriminator import Discriminator
from models.stylegan2 import Generator

# Rows of w_plus from here on carry the style; those before say who it is.
FIRST_ROW = 7
# Share of the drawing's own rows in what they are mixed with.
MIX = 0.7


def colour_transfer(photo: Tensor, drawing: Tensor) -> Tensor:
    """Give photos the mean and deviation of a drawing's colours in CIE Lab (Reinhard et al. 2001).

    Args:
        photo, drawing: [N, 3, H, W] and [1, 3, h, w] in [-1, 1].

    Returns:
        [N, 3, H, W] in [-1, 1].
    """
    import warnings

    from skimage.color import lab2rgb, rgb2lab

    given, wanted = (rgb2lab((image.clamp(-1, 1).permute(0, 2, 3, 1).cpu().double().numpy() + 1) / 2)
                     for image in (photo, drawing))
    axes = (1, 2)
    scale = wanted.std(axis=axes, keepdims=True) / given.std(axis=axes, keepdims=True).clip(1e-3)
    made = (given - given.mean(axis=axes, keepdims=True)) * scale + wanted.mean(axis=axes, keepdims=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # colours beyond the screen's, which are clamped
        drawn = lab2rgb(made)
    return torch.from_numpy(drawn).permute(0, 3, 1, 2).float().clamp(0, 1) * 2 - 1  # [N, H, W, 3] -> [N, 3, H, W]


def activations(discriminator: Discriminator, image: Tensor) -> list[Tensor]:
    """Return the maps after every block of a discriminator."""
    maps = []
    for block in discriminator.convs:
        image = block(image)
        maps.append(image)
    return maps


def jojogan(base: Base, w_plus: Tensor, drawing: Tensor, *, steps: int = 300, lr: float = 2e-3, seed: int = 0,
            progress: Callable[[int], object] | None = None) -> Generator:
    """Fine-tune a copy of the base's generator on one drawing (JoJoGAN, Chong and Forsyth 2022).

    Each step mixes the drawing's rows with a random face's, {w_i(y) below row 7, else 0.7 f(z) + 0.3 w_i(y)}: a face that would
    be drawn so; the generator learns to show the drawing for all of them, by the L1 distance of the discriminator's activations.

    Args:
        base: with its discriminator; it stays as it is.
        w_plus: [1, L, D], the drawing as the encoder sees it.
        drawing: [1, 3, S, S] in [-1, 1].
        steps: Adam steps, 2e-3, betas 0 and 0.99.
        lr: the rate.
        seed: of the random faces.
        progress: called with the number of steps done.
    """
    generator, rng = deepcopy(base.generator).requires_grad_(True), torch.Generator().manual_seed(seed)
    critic = base.discriminator.eval().requires_grad_(False)
    optimizer = torch.optim.Adam(generator.parameters(), lr=lr, betas=(0.0, 0.99))
    with torch.no_grad():
        wanted, noise = activations(critic, drawing), generator.fixed_noise()
    for step in range(steps):
        with torch.no_grad():
            z = torch.randn(1, generator.config.style_dim, generator=rng).to(w_plus)
            other = base.generator.broadcast(base.generator.mapping(z))
            mixed = w_plus.clone()
            mixed[:, FIRST_ROW:] = torch.lerp(w_plus, other, MIX)[:, FIRST_ROW:]
        found = activations(critic, generator.synthesis(mixed, noise=noise))
        loss = torch.stack([F.l1_loss(a, b) for a, b in zip(found, wanted, strict=True)]).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if progress is not None:
            progress(step + 1)
    return generator.requires_grad_(False).eval()
