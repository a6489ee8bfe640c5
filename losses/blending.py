"""Adversarial terms of a generator that blends styles into faces: three discriminators (BlendGAN; Liu et al. 2021)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from losses.adversarial import logistic_loss, nonsaturating_loss


class Judged(NamedTuple):
    """What three discriminators say, logits [N, ...], or terms made of these.

    Attributes:
        face: D_face(x) of faces without a style; real ones are photos.
        styled: D_styled(y) of styled faces; real ones are artworks.
        match: D_match(y, z) of styled faces with their codes; real ones are artworks with the style encoder's code of them.
    """

    face: Tensor
    styled: Tensor
    match: Tensor

    def total(self) -> Tensor:
        """Return the sum of three terms."""
        return self.face + self.styled + self.match


def discriminator_terms(real: Judged, fake: Judged) -> Judged:
    """Return E[softplus(-D(real))] + E[softplus(D(fake))] of each discriminator, scalars >= 0.

    The fake match is D_match(G(x, z), z) with the code z that the picture was drawn by.
    """
    return Judged(*(logistic_loss(*logits) for logits in zip(real, fake, strict=True)))


def generator_terms(fake: Judged) -> Judged:
    """Return E[softplus(-D(fake))] for each discriminator, scalars >= 0."""
    return Judged(*(nonsaturating_loss(logits) for logits in fake))
