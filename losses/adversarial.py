"""Adversarial terms of StyleGAN2: non-saturating, logistic, R1 and path length."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def nonsaturating_loss(fake_logits: Tensor) -> Tensor:
    """Generator loss E[softplus(-D(fake))] (Goodfellow et al. 2014); logits of any shape, a scalar >= 0."""
    return F.softplus(-fake_logits).mean()


def logistic_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Discriminator loss E[softplus(-D(real))] + E[softplus(D(fake))] (Goodfellow et al. 2014), a scalar >= 0."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def r1_penalty(real_logits: Tensor, real_image: Tensor) -> Tensor:
    """R1 = E[|grad_x D(x)|^2] on real images (Mescheder et al. 2018, eq. 9), without the factor gamma / 2.

    Args:
        real_logits: [N, ...], computed from real_image; a map of logits is averaged per image first.
        real_image: [N, 3, H, W] that requires gradients.

    Returns:
        Scalar >= 0, differentiable.

    Raises:
        ValueError: if the image does not require gradients or the batches differ.
    """
    if not real_image.requires_grad:
        raise ValueError("r1_penalty needs real_image.requires_grad, got an image without gradients")
    if len(real_logits) != len(real_image):
        raise ValueError(f"expected one batch size, got {len(real_logits)} logits and {len(real_image)} images")
    scores = real_logits.flatten(1).mean(dim=1)  # [N, ...] -> [N]
    (gradient,) = torch.autograd.grad(scores.sum(), real_image, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean()


def path_lengths(image: Tensor, w_plus: Tensor, *, noise: Tensor) -> Tensor:
    """Lengths |J_w^T y| of the generator's Jacobian for y = noise / sqrt(H W) (StyleGAN2, section 3.2).

    Args:
        image: [N, 3, H, W], computed from w_plus.
        w_plus: [N, L, 512] that requires gradients; the squared norms of its rows are averaged over L.
        noise: standard normal, the image's shape.

    Returns:
        [N], differentiable.

    Raises:
        ValueError: if w_plus does not require gradients or the shapes do not fit.
    """
    if not w_plus.requires_grad or w_plus.ndim != 3:
        raise ValueError(f"path_lengths needs w_plus [N, L, D] that requires gradients, got {list(w_plus.shape)}")
    if noise.shape != image.shape:
        raise ValueError(f"expected noise of the image's shape {list(image.shape)}, got {list(noise.shape)}")
    scaled = noise / math.sqrt(image.shape[2] * image.shape[3])
    (gradient,) = torch.autograd.grad((image * scaled).sum(), w_plus, create_graph=True)
    return gradient.square().sum(dim=2).mean(dim=1).sqrt()


def path_length_penalty(lengths: Tensor, mean_length: Tensor, *, decay: float = 0.01) -> tuple[Tensor, Tensor]:
    """E[(l - a)^2] with the running mean a (StyleGAN2, eq. 4).

    Args:
        lengths: [N].
        mean_length: the running mean so far, a scalar tensor.
        decay: step of the running mean, a' = a + decay (mean(l) - a).

    Returns:
        The penalty, a scalar >= 0, and the new running mean, detached.
    """
    updated = mean_length + decay * (lengths.mean() - mean_length)
    return (lengths - updated).square().mean(), updated.detach()


class PathLengthPenalty(nn.Module):
    """Path length regularisation with its running mean as a buffer."""

    def __init__(self, *, decay: float = 0.01) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("mean_length", torch.zeros(()))

    def forward(self, image: Tensor, w_plus: Tensor, *, noise: Tensor) -> Tensor:
        """Return the penalty and update the running mean, see `path_lengths` and `path_length_penalty`."""
        lengths = path_lengths(image, w_plus, noise=noise)
        penalty, updated = path_length_penalty(lengths, self.mean_length, decay=self.decay)
        self.mean_length.copy_(updated)
        return penalty
