"""Grain of a picture for another one: even fine texture, as screens, hatching, canvas or chalk, which patches laid over each
other lose.

How strong fine texture is at each lightness is read from the picture; where strokes leave holes there is none, so that lines
and outlines in flat ground are no grain. Where it is as strong as usual, the texture is the picture's own, made equally strong
everywhere. Elsewhere it is told from its spectrum: the same spectrum with random phases is a field of that texture without
anything that the picture shows (random phase noise, Galerne et al. 2011); peaks of the spectrum, of which screens of dots or
lines are made, keep their phases, so that screens go on. The field stands still, so clips do not flicker.

A picture that has grain all over was made by a process that does the same everywhere, a print or a stitch, and that process can
be done to any photo: see ``Screen``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from models.kept import SIDE, band_gains, filtered
from models.look import window_mean
from models.tones import opponent

# Deviations in px of SIDE: below what is fine, of the window over which its strength is told, and of that for holes, which are
# looked for this far around.
FINE, WINDOW, CLOSE, HOLES = 1.4, 3.0, 2.0, 3
# Steps of lightness, from black to white, and the deviation in steps of their windows.
LEVELS, BESIDE = 12, 0.7
# Median strength between strokes as a share of the mean strength: up to here texture is lines, from here on it is all over.
UNEVEN, EVEN = 0.55, 0.7
# Of peaks of the spectrum, how many times the power around them they have, and the deviation in frequencies of that window.
PEAK, AROUND = 6.0, 4.0
# Strength of texture beside that between its strokes; octaves from it up to which the picture's own texture is taken, and from
# which on it is something else that the picture shows; deviation in px of the window in which they go over into each other.
TYPICAL, USUAL, UNUSUAL, SEAM = 1.2, 0.25, 0.75, 1.5
# Added to what is divided by; share of the side over which the frame fades out for the spectrum.
SMALL, FADE = 0.02, 0.1
# Deviation in px of the lightness by which tones are told, and how many px of the picture a step must have to be believed half.
TONE, BELIEVED = 1.4, 30.0


class Grain(NamedTuple):
    """Texture of a picture.

    Attributes:
        field: opponent colours of the texture, [1, 3, S, S], of strength 1.
        strengths: at each step of lightness, [LEVELS].
        share: how far the picture has it all over, from 0 to 1, [].
    """

    field: Tensor
    strengths: Tensor
    share: Tensor

    @classmethod
    def read(cls, picture: Tensor) -> Grain:
        """Return the grain of a picture [1, 3, S, S] in [-1, 1]."""
        light, strength, fine = _measured(picture, WINDOW)
        reach = round(HOLES * picture.shape[3] / SIDE)
        between = F.pad(-_measured(picture, CLOSE)[1], (reach,) * 4, mode="replicate")
        between = -F.max_pool2d(between, 2 * reach + 1, stride=1)
        share = ((between.median() / (strength.mean() + SMALL**2) - UNEVEN) / (EVEN - UNEVEN)).clamp(0.0, 1.0)
        order = between.flatten().argsort()
        weights = _near_steps(light).T[:, order]  # [LEVELS, P]
        median = (weights.cumsum(dim=1) < 0.5 * weights.sum(dim=1, keepdim=True)).sum(dim=1).clamp(max=len(order) - 1)
        strengths = between.flatten()[order][median]
        even = fine / (strength + SMALL)
        octaves = ((strength + SMALL) / (TYPICAL * _by_step(light, strengths[:, None]) + SMALL)).log2().abs()
        own = window_mean(((UNUSUAL - octaves) / (UNUSUAL - USUAL)).clamp(0.0, 1.0), SEAM * picture.shape[3] / SIDE)
        return cls(own * even + (1.0 - own.square()).sqrt() * _like(even), strengths, share)

    def on(self, image: Tensor, *, strength: float | Tensor = 1.0) -> Tensor:
        """Return images [N, 3, S, S] in [-1, 1] with as much of the grain as they lack; ``strength`` 0 leaves them."""
        light, own, _ = _measured(image, WINDOW)
        lacking = (_by_step(light, self.strengths[:, None]).square() - own.square()).clamp_min(0.0).sqrt()
        return (image + opponent(strength * lacking * self.field.to(image), back=True)).clamp(-1.0, 1.0)


class Screen(NamedTuple):
    """What a picture that has grain all over does to a photo: tones and sharpness, told from a guess of its own photo.

    Inks follow lightness: of a photo's hues only what its lightness does not say is kept, as far as the picture kept it.

    Attributes:
        hues: opponent colours of the guessed photo at each step of its lightness, of which lightness is 0, [LEVELS, 3].
        gains: see ``models.kept.band_gains``, of what differs from them.
        curve: opponent colours that are added at each step, [LEVELS, 3].
    """

    hues: Tensor
    gains: Tensor
    curve: Tensor

    @classmethod
    def read(cls, photo: Tensor, picture: Tensor) -> Screen:
        """Return what makes a picture of a photo, [1, 3, S, S] in [-1, 1] each."""
        light = _light(photo)
        weights = _near_steps(light).T  # [LEVELS, P]
        weights = weights / (weights.sum(dim=1, keepdim=True) + BELIEVED * (photo.shape[3] / SIDE) ** 2)

        def by_step(colours: Tensor) -> Tensor:
            return weights @ colours[0].flatten(1).T  # [LEVELS, 3]

        only_hues = photo.new_tensor([0.0, 1.0, 1.0])
        hues, theirs = (by_step(opponent(image)) * only_hues for image in (photo, picture))
        rest, made = (opponent(opponent(image) - _by_step(light, values), back=True)
                      for image, values in ((photo, hues), (picture, theirs)))
        gains = band_gains(rest, made)
        return cls(hues, gains, theirs + by_step(opponent(made - filtered(rest, gains))))

    def on(self, image: Tensor) -> Tensor:
        """Return photos [N, 3, S, S] in [-1, 1] in the tones of the picture, without its grain."""
        light = _light(image)
        rest = filtered(image - opponent(_by_step(light, self.hues), back=True), self.gains)
        return (rest + opponent(_by_step(light, self.curve), back=True)).clamp(-1.0, 1.0)


def _light(image: Tensor) -> Tensor:
    """Return the lightness by which tones are told, [N, 1, S, S]."""
    return window_mean(opponent(image)[:, :1], TONE * image.shape[3] / SIDE)


def _like(texture: Tensor) -> Tensor:
    """Return another field [1, 3, S, S] of the spectrum of a texture [1, 3, S, S], of strength 1."""
    side = texture.shape[3]
    fade = ((torch.arange(side, device=texture.device) + 0.5) / (FADE * side)).clamp(max=1.0)
    fade = torch.minimum(fade, fade.flip(0))
    spectrum = torch.fft.fft2(texture * (fade[:, None] * fade))
    noise = torch.fft.fft2(torch.randn(side, side, generator=torch.Generator().manual_seed(0)).to(texture.device))
    power = torch.fft.fftshift(spectrum.abs().square().sum(dim=1, keepdim=True), dim=(2, 3))
    peaks = F.max_pool2d((power > PEAK * window_mean(power, AROUND)).float(), 5, stride=1, padding=2)
    phases = torch.where(torch.fft.ifftshift(peaks, dim=(2, 3)) > 0.0, 1.0, noise / noise.abs().clamp_min(SMALL))
    field = torch.fft.ifft2(spectrum * phases).real
    return field / field.square().sum(dim=1).mean().sqrt().clamp_min(SMALL**2)


def _measured(image: Tensor, window: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return broad lightness and strength of fine texture in windows, [N, 1, S, S], and that texture, [N, 3, S, S]."""
    scale = image.shape[3] / SIDE
    colours = opponent(image.float())
    fine = colours - window_mean(colours, FINE * scale)
    strength = window_mean(fine.square().sum(dim=1, keepdim=True), window * scale).clamp_min(0.0).sqrt()
    return window_mean(colours[:, :1], window * scale), strength, fine


def _steps(light: Tensor) -> Tensor:
    """Return on which step of lightness, 0 to LEVELS - 1, lightness in opponent colours lies, as a fraction."""
    return ((light / 3.0**0.5 + 1.0) / 2.0).clamp(0.0, 1.0) * (LEVELS - 1)


def _near_steps(light: Tensor) -> Tensor:
    """Return how near lightness [1, 1, S, S] is to each step, [S^2, LEVELS], a little above 0."""
    steps = torch.arange(LEVELS, device=light.device)
    return torch.exp(-0.5 * ((_steps(light).reshape(-1, 1) - steps) / BESIDE).square()) + 1e-6


def _by_step(light: Tensor, values: Tensor) -> Tensor:
    """Return ``values`` [LEVELS, C] for lightness [N, 1, S, S], [N, C, S, S]; between steps they go over into each other."""
    steps = _steps(light)[:, 0]
    below = steps.floor().clamp(max=LEVELS - 2).long()
    return torch.lerp(values[below], values[below + 1], (steps - below)[..., None]).permute(0, 3, 1, 2)
