"""What a drawing keeps of its photo: broad colours part by part; or all of it, as a filter does, sharper or softer and in
other tones."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from models.look import window_mean
from models.parts import GROUND, HAIR
from models.tones import opponent

# Side of the maps, whose px deviations are in.
SIDE = 128
# Deviation in px of what a drawing's colours are regressed on, weight of the ridge, and the largest slope.
CLOSE_TO, RIDGE, MOST_SLOPE = 2.0, 0.0012, 1.5
# Where the photo is a guess: weight of the ridge, and the share of the slopes that is believed.
RIDGE_OF_GUESS, GUESSED = 0.004, 0.5
# Of drawings that keep their photo: deviations in px between bands, variance of a band that counts as none, the largest gain.
BANDS, LEAST_BAND, MOST_GAIN = (0.7, 1.4, 2.8, 6.0), 1e-5, 2.5
# Correlations of fine lightness, over windows of this deviation in px, at which a drawing keeps nothing, and all, of its
# photo's ground; variance that counts as none.
BROAD, UNALIKE, ALIKE, LEAST_LIGHT = 6.0, 0.75, 0.92, 2e-4


def colour_slopes(photo: Tensor, drawing: Tensor, parts: Tensor, *, guessed: bool = False) -> Tensor:
    """Return what a drawing makes of broad differences of its photo's colours, part by part, [1, 4, 3, 3].

    By ridge regression within each part: 0 where it has colours of its own, the identity where it keeps the photo's. Where a
    part has too little of a colour to tell, all parts but the ground say what becomes of it; of a photo that is ``guessed``
    from the drawing none do, and less is believed.
    """
    photo, drawing = (window_mean(opponent(image), CLOSE_TO).flatten(2)[:, None] for image in (photo, drawing))  # [1, 1, 3, P]

    def regressed(share: Tensor, goal: Tensor) -> Tensor:
        total = share.sum(dim=3, keepdim=True)
        x, y = (maps - (maps * share).sum(dim=3, keepdim=True) / total for maps in (photo, drawing))
        ridge = (RIDGE_OF_GUESS if guessed else RIDGE) * total * torch.eye(3, dtype=x.dtype, device=x.device)
        return torch.linalg.solve((x * share) @ x.transpose(2, 3) + ridge, (y * share) @ x.transpose(2, 3) + goal @ ridge,
                                  left=False)

    share = parts.flatten(2)[:, :, None]  # [1, 4, 1, P]
    every = torch.zeros(1, 1, 3, 3).to(photo)
    if not guessed:
        every = regressed(1.0 - share[:, GROUND:GROUND + 1], every)
    slopes = regressed(share, every)
    # A ground that is not the photo's is the artist's, whatever is near it.
    slopes = torch.cat([slopes[:, :GROUND], torch.zeros_like(slopes[:, :1]), slopes[:, HAIR:]], dim=1)
    return slopes.clamp(-MOST_SLOPE, MOST_SLOPE) * (GUESSED if guessed else 1.0)


def _bands(image: Tensor) -> list[Tensor]:
    """Return opponent colours of images [N, 3, S, S] from fine to broad; their sum gives them back."""
    lows = [opponent(image)]
    lows += [window_mean(lows[0], sigma * image.shape[3] / SIDE) for sigma in BANDS]
    return [fine - broad for fine, broad in zip(lows, [*lows[1:], 0.0], strict=True)]


def band_gains(photo: Tensor, drawing: Tensor) -> Tensor:
    """Return what a drawing that keeps its photo makes of each band of it, [len(BANDS) + 1, 3], and in the last row what it
    adds: sharpness, contrast, saturation (both hues alike) and tint, by regression."""
    rows = []
    for x, y in zip(_bands(photo), _bands(drawing), strict=True):
        x, y = (maps - maps.mean(dim=(2, 3), keepdim=True) for maps in (x, y))
        light, hues = (((x * y)[:, part].sum() / (x.square()[:, part].sum() + LEAST_BAND * x[:, part].numel()))
                       for part in (slice(0, 1), slice(1, 3)))
        rows.append(torch.stack([light, hues, hues]).clamp(0.0, MOST_GAIN))
    middles = [opponent(image).mean(dim=(0, 2, 3)) for image in (photo, drawing)]
    return torch.stack([*rows, middles[1] - rows[-1] * middles[0]])


def filtered(image: Tensor, gains: Tensor) -> Tensor:
    """Return images [N, 3, S, S] with the gains of ``band_gains``."""
    made = sum(gain[:, None, None] * band for gain, band in zip(gains, _bands(image), strict=False))
    return opponent(made + gains[-1][:, None, None], back=True)


def kept_whole(photo: Tensor, drawing: Tensor, ground: Tensor) -> Tensor:
    """Return how far a drawing keeps its photo's ground as it is, [1, 1, 1, 1] from 0 to 1: then it keeps all that it shows.

    By the correlation of fine lightness, away from the ground's borders [1, 1, S, S].
    """
    photo, drawing = (window_mean(light - window_mean(light, BROAD), 0.7)
                      for light in (opponent(image)[:, :1] for image in (photo, drawing)))
    share = (1.0 - 2.0 * F.max_pool2d(1.0 - ground, 5, stride=1, padding=2)).clamp_min(0.0) + 1e-6

    def mean(maps: Tensor) -> Tensor:
        return (share * maps).sum(dim=(2, 3), keepdim=True) / share.sum(dim=(2, 3), keepdim=True)

    likeness = mean(photo * drawing) / ((mean(photo.square()) * mean(drawing.square())).sqrt() + LEAST_LIGHT)
    return ((likeness - UNALIKE) / (ALIKE - UNALIKE)).clamp(0.0, 1.0)
