"""Terms of MODIFY (Ding et al. 2023) as pure functions.

Equations are numbered in the order in which the paper states the terms: 1 to 6 belong to the encapsulation of a style (pixels,
perceptual distance, identity, critic on y_r, critic on y_z, swapping), 7 to the stylisation of photos. The perceptual
distance of eq. 2 is a network's, see ``losses.perceptual``. y_r = D(E(y)); y_z = D({w_l, M(z)}), w_l the content rows of E(y).

The released code computes the critic's terms by softplus, which is ``losses.adversarial``, and the swapping term by mean
squares; ``critic_terms`` and ``code_term`` choose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from losses.adversarial import logistic_loss, nonsaturating_loss
from losses.perceptual import check_pair

CRITIC_FORMS = ("wgan", "softplus")
CODE_FORMS = ("swapping", "all_rows", "style_rows")
# Weights of the two phases of encapsulation and of stylisation (paper, section 3).
RECONSTRUCTION_PHASE = {"swap": 0.0, "lpips": 0.8, "adv_r": 0.1, "adv_z": 0.0, "r": 0.8, "id": 1.0}
SWAPPING_PHASE = {"swap": 1.0, "lpips": 0.0, "adv_r": 0.0, "adv_z": 0.1, "r": 0.0, "id": 0.0}
STYLISATION = {"r": 0.5, "lpips": 0.8, "id": 1.0, "adv": 0.01}


def reconstruction_loss(image: Tensor, target: Tensor) -> Tensor:
    """Distance of pixels, |y - y_r|_2^2 as a mean over images and numbers (eq. 1; of x and x' in eq. 7).

    Args:
        image, target: [N, 3, H, W] in [-1, 1]; one target may stand for all.

    Returns:
        Scalar >= 0.

    Raises:
        ValueError: if the shapes do not fit.
    """
    check_pair(image, target)
    return F.mse_loss(image, target.expand_as(image))


def identity_loss(embedding: Tensor, target: Tensor) -> Tensor:
    """1 - <R(y), R(y_r)> for embeddings that are scaled to unit length (eq. 3; of x and x' in eq. 7).

    Args:
        embedding, target: [N, K]; one target may stand for all.

    Returns:
        Scalar in [0, 2].

    Raises:
        ValueError: if the shapes do not fit.
    """
    if embedding.ndim != 2 or target.ndim != 2 or target.shape[1] != embedding.shape[1] or len(target) not in (
            1, len(embedding)):
        raise ValueError(f"expected two batches of embeddings [N, K], got {list(embedding.shape)} and {list(target.shape)}")
    return 1 - F.cosine_similarity(embedding, target, dim=1).mean()


def wgan_critic_loss(real: Tensor, fake: Tensor) -> Tensor:
    """What the critic minimises, E[C(fake)] - E[C(real)] (eq. 4 for y_r, eq. 5 for y_z, eq. 7 for D(E'(x)) against D(E(x))).

    Nothing in it bounds the critic; see ``gradient_penalty``. Scores of any shape, a scalar.
    """
    return fake.mean() - real.mean()


def wgan_generator_loss(fake: Tensor) -> Tensor:
    """What the other networks minimise, -E[C(fake)] (eq. 4, 5 and 7); scores of any shape, a scalar."""
    return -fake.mean()


class CriticTerms(NamedTuple):
    """The two sides of a game: ``critic(real, fake)`` for the critic, ``generator(fake)`` for the others, on scores."""

    critic: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]


def critic_terms(form: str) -> CriticTerms:
    """Return the paper's terms for "wgan" and those of the released code for "softplus".

    Raises:
        ValueError: for another form.
    """
    if form not in CRITIC_FORMS:
        raise ValueError(f"the form of the critic must be one of {CRITIC_FORMS}, got {form!r}")
    return CriticTerms(wgan_critic_loss, wgan_generator_loss) if form == "wgan" else CriticTerms(
        logistic_loss, nonsaturating_loss)


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, *, share: Tensor) -> Tensor:
    """E[(|grad_u C(u)|_2 - 1)^2] at u = real + share (fake - real) (Gulrajani et al. 2017, eq. 3), without its factor 10.

    Args:
        critic: images [N, 3, H, W] -> scores of N images.
        real, fake: [N, 3, H, W], held constant.
        share: [N, 1, 1, 1] in [0, 1].

    Returns:
        Scalar >= 0, differentiable in the critic's weights.

    Raises:
        ValueError: if the shapes differ.
    """
    if real.shape != fake.shape or share.shape != (len(real), 1, 1, 1):
        raise ValueError(f"expected images of one shape and shares [{len(real)}, 1, 1, 1], got {list(real.shape)}, "
                         f"{list(fake.shape)} and {list(share.shape)}")
    between = torch.lerp(real.detach(), fake.detach(), share).requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    # The root's derivative is infinite at zero.
    lengths = (gradient.square().sum(dim=(1, 2, 3)) + 1e-16).sqrt()
    return (lengths - 1.0).square().mean()


def _check_rows(rows: Tensor, reencoded: Tensor) -> Tensor:
    """Return the last rows of re-encoded codes; raises ValueError unless they are those of ``rows`` [N, xi, D]."""
    if rows.ndim != 3 or reencoded.ndim != 3 or rows.shape[1] > reencoded.shape[1] or (
            (len(rows), rows.shape[2]) != (len(reencoded), reencoded.shape[2])):
        raise ValueError(f"expected rows [N, xi, D] and codes [N, L, D], got {list(rows.shape)} and {list(reencoded.shape)}")
    return reencoded[:, reencoded.shape[1] - rows.shape[1]:]


def swapping_loss(rows: Tensor, reencoded: Tensor) -> Tensor:
    """E |M(z) - style rows of E(y_z)|_2, the norm over all numbers of an image (eq. 6).

    Args:
        rows: M(z) [N, xi, D].
        reencoded: E(y_z) [N, L, D].

    Returns:
        Scalar >= 0; where both are equal its gradient is zero.

    Raises:
        ValueError: if the shapes do not fit.
    """
    difference = (rows - _check_rows(rows, reencoded)).flatten(1)  # [N, xi, D] -> [N, xi D]
    return torch.linalg.vector_norm(difference, dim=1).mean()


def code_reconstruction(codes: Tensor, reencoded: Tensor) -> Tensor:
    """Mean square between the last rows of E(y_z) and the codes that y_z was drawn from (released code, for eq. 6).

    Args:
        codes: all rows {w_l, M(z)} [N, L, D], or the style rows alone.
        reencoded: E(y_z) [N, L, D].

    Returns:
        Scalar >= 0.

    Raises:
        ValueError: if the shapes do not fit.
    """
    return F.mse_loss(codes, _check_rows(codes, reencoded))


def code_term(form: str, *, codes: Tensor, rows: Tensor, reencoded: Tensor) -> Tensor:
    """Return eq. 6 in the paper's form "swapping", or in the released code's over "all_rows" or "style_rows".

    Args:
        form: one of ``CODE_FORMS``.
        codes: {w_l, M(z)} [N, L, D].
        rows: M(z) [N, xi, D].
        reencoded: E(y_z) [N, L, D].

    Raises:
        ValueError: for another form or shapes that do not fit.
    """
    if form not in CODE_FORMS:
        raise ValueError(f"the form of the code term must be one of {CODE_FORMS}, got {form!r}")
    if form == "swapping":
        return swapping_loss(rows, reencoded)
    return code_reconstruction(codes if form == "all_rows" else rows, reencoded)


def weighted(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> dict[str, Tensor]:
    """Return the terms times their weights, those of weight 0 left out.

    Raises:
        ValueError: for a term without a weight.
    """
    unknown = set(terms) - set(weights)
    if unknown:
        raise ValueError(f"no weight for {sorted(unknown)}, only for {sorted(weights)}")
    return {name: weights[name] * term for name, term in terms.items() if weights[name]}
