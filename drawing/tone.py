"""Tone: colours, contrast and sharpness of a photo's parts as the drawing has its own.

After Shih et al. 2014, "Style transfer for headshot portraits", with parts in place of places: every part (skin, hair,
background, the rest) is toned as if it filled the frame, so nothing of one part shines into another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from drawing.pyramids import collapsed, enlarged, filled, from_opponent, halved, laplacian, opponent, resized

# Octaves of detail on a frame of FRAME px; below is the low pass that colours and light are told by.
OCTAVES, FRAME = 5, 512
# How far contrast of a band may be lowered, by part (skin, hair, background, rest), and raised, lightness and colours.
LEAST_GAIN = (0.25, 0.25, 0.05, 0.25)
MOST_GAIN, MOST_COLOR_GAIN = 3.0, 1.5
# Variance that counts as none: of a band, and of the low pass when slopes are told.
FLAT, FLAT_LOW = 1e-6, 1e-2
# Slopes of tone when nothing tells them, and how far they may be from it.
SLOPE, SLOPES = 0.5, (0.2, 1.3)
# How much of what sets a person apart from the pair's photo survives, by part (skin, hair, background, rest), for lightness and
# the two colours: the rest is as the drawing has it. Dark skin stays dark, as far as the drawing followed its photo's light.
OWN = ((0.85, 0.5, 0.5), (0.5, 0.25, 0.25), (0.08, 0.05, 0.05), (0.3, 0.2, 0.2))
# Means of photos by part in opponent colours, medians of 60 of FFHQ: what a drawing without a photo is held against.
PHOTO_MEANS = ((0.009, 0.231, -0.055), (-0.464, 0.069, -0.015), (-0.019, 0.035, 0.004), (-0.410, 0.045, -0.015))
# Of tones that the drawing has in some places only, such as red cheeks, how much goes over.
PLACED = 0.7


@dataclass(frozen=True)
class Tone:
    """What a drawing does to tones, in opponent colours.

    Attributes:
        mean: of the drawing's parts, [K, 3].
        photo_mean: of the parts of the photo that it was drawn from, [K, 3].
        slope: how much of a difference of tone within a part the drawing keeps, [K, 3].
        energy: mean squares of the drawing's bands by part, finest first, [L, K, 3].
        placed: what the low pass of the drawing has in its places beside all that, [1, 3, h, w], in the drawing's frame.
    """

    mean: Tensor
    photo_mean: Tensor
    slope: Tensor
    energy: Tensor
    placed: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """Return what a file holds of it."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> Tone:
        """Rebuild it from ``tensors()``.

        Raises:
            KeyError: naming one that is not there.
            ValueError: naming one of another shape.
        """
        made = cls(**{field.name: tensors[field.name].float() for field in fields(cls)})
        parts = [len(made.mean), 3]
        shapes = {"mean": parts, "photo_mean": parts, "slope": parts, "energy": [len(made.energy), *parts],
                  "placed": [1, 3, *made.placed.shape[2:]]}
        for name, shape in shapes.items():
            if list(getattr(made, name).shape) != shape:
                raise ValueError(f"{name} is {list(getattr(made, name).shape)}, expected {shape}")
        return made

    def to(self, device: torch.device | str) -> Tone:
        """Return it on a device."""
        return Tone(**{name: tensor.to(device) for name, tensor in self.tensors().items()})

    @classmethod
    def mix(cls, tones: Sequence[Tone], weights: Sequence[float]) -> Tone:
        """Return weighted means; weights sum to 1."""
        return cls(**{field.name: sum(weight * getattr(tone, field.name) for tone, weight in zip(tones, weights, strict=True))
                      for field in fields(cls)})


def octaves(frame: float) -> int:
    """Return the number of bands in which a face's frame of this side in px has its detail, as 512 px have ``OCTAVES``."""
    return max(1, OCTAVES + round(math.log2(frame / FRAME)))


def sharpened(parts: Tensor) -> Tensor:
    """Return weights [N, K, H, W] in which pixels at the borders of parts, which belong to two, count little."""
    return parts.square()


def part_means(values: Tensor, weights: Tensor) -> Tensor:
    """Return the means [K, C] of values [1, C, H, W] by part, weights [1, K, H, W]."""
    sums = torch.einsum("nchw,nkhw->kc", values, weights)
    return sums / weights.sum(dim=(0, 2, 3))[:, None].clamp_min(1e-3)


def read_tone(drawing: Tensor, parts: Tensor, photo: Tensor | None, photo_parts: Tensor | None) -> Tone:
    """Return what a drawing does to tones.

    With x the low pass of the photo and y that of the drawing, the slope of part k is cov_k(x, y) / var_k(x), drawn towards
    ``SLOPE``; placed is y less what means and slopes say. Without a photo slopes are ``SLOPE`` and photo means ``PHOTO_MEANS``.

    Args:
        drawing: [1, 3, H, W] in [-1, 1].
        parts: of it, [1, K, H, W].
        photo: in the drawing's shape, [1, 3, H, W], or None.
        photo_parts: of that.
    """
    bands, low = laplacian(opponent(drawing), octaves(drawing.shape[3]))
    weights = sharpened(resized(parts, tuple(low.shape[2:])))
    mean = part_means(low, weights)
    energy = torch.stack([part_means(band.square(), sharpened(resized(parts, tuple(band.shape[2:])))) for band in bands])
    slope, photo_mean = torch.full_like(mean, SLOPE), mean.new_tensor(PHOTO_MEANS)
    if photo is None:
        placed = (low - _by_part(mean, weights)) * SLOPE
        return Tone(mean, photo_mean, slope, energy, placed)
    _, before = laplacian(opponent(photo), octaves(photo.shape[3]))
    before_weights = sharpened(resized(photo_parts, tuple(before.shape[2:])))
    photo_mean, both = part_means(before, before_weights), weights * before_weights
    x, y = (values - part_means(values, both)[..., None, None] for values in (before, low))  # [K, 3, h, w]
    mass = both[0][:, None]
    trust = FLAT_LOW * mass.sum(dim=(2, 3)) + 1e-3
    slope = (((mass * x * y).sum(dim=(2, 3)) + SLOPE * trust) / ((mass * x * x).sum(dim=(2, 3)) + trust)).clamp(*SLOPES)
    said = mean[..., None, None] + slope[..., None, None] * (before - photo_mean[..., None, None])
    share = before_weights / before_weights.sum(dim=1, keepdim=True)
    said = (share[0][:, None] * said).sum(dim=0, keepdim=True)
    return Tone(mean, photo_mean, slope, energy, (low - said) * both.sum(dim=1, keepdim=True))


def _by_part(mean: Tensor, weights: Tensor) -> Tensor:
    """Return the picture [1, 3, h, w] in which every part has its mean."""
    return torch.einsum("kc,nkhw->nchw", mean, weights / weights.sum(dim=1, keepdim=True))


def toned(image: Tensor, parts: Tensor, tone: Tone, *, frame: float, placed: Tensor | None = None,
          strength: float = 1.0) -> Tensor:
    """Return a photo in the tones of a drawing.

    With B_l the bands and G the low pass of part k, filled beyond its borders, E its mean squares and m its mean,

        B_l' = clamp(sqrt(E_l(drawing) / E_l(photo))) B_l,
        G' = m(drawing) + own h(m(photo) - m(pair's photo)) + slope (G - m(photo)) + placed,

    h being ``with_headroom``.

    Args:
        image: [1, 3, H, W] in [-1, 1], deformed already.
        parts: of it, [1, K, H, W].
        tone: of the drawing.
        frame: side in px of the face's frame, which says how large its detail is.
        placed: ``tone.placed`` at the places of the image, [1, 3, h, w] of any size; None leaves it out.
        strength: 0 leaves the photo, 1 is the drawing's tone.
    """
    count = octaves(frame)
    energy = matched_octaves(tone.energy, count)
    colours, made = opponent(image), 0.0
    for k in range(parts.shape[1]):
        weight = sharpened(parts[:, k:k + 1])
        if _is_absent(weight):
            made = made + parts[:, k:k + 1] * colours
            continue
        bands, low = laplacian(filled(colours, weight), count)
        drawn = []
        for band, wanted in zip(bands, energy[:, k], strict=True):
            found = part_means(band.square(), weight)[0]
            weight = halved(weight)
            gain = ((wanted + FLAT) / (found + FLAT)).sqrt().clamp(LEAST_GAIN[k], MOST_GAIN)
            gain = torch.cat([gain[:1], gain[1:].clamp(max=MOST_COLOR_GAIN)])
            drawn.append(band * gain[None, :, None, None])
        mean = part_means(low, weight)[0]
        own = mean.new_tensor(OWN[k]) * (tone.slope[k] / SLOPE).clamp(max=1.0)
        apart = own * with_headroom(mean - tone.photo_mean[k], tone.mean[k], tone.photo_mean[k])
        moved = (tone.mean[k] + apart - tone.slope[k] * mean)[None, :, None, None]
        drawn_part = collapsed(drawn, tone.slope[k][None, :, None, None] * low + moved)
        made = made + parts[:, k:k + 1] * drawn_part
    if placed is not None:
        made = made + PLACED * enlarged(placed, image.shape[2:])
    return torch.lerp(image, from_opponent(made), strength)


def with_headroom(apart: Tensor, mean: Tensor, photo_mean: Tensor) -> Tensor:
    """Return how far a person's tone lies from the pair's photo, less where the drawing is nearer to white or black than that was.

    A difference d of lightness becomes d min(1, room(drawing) / room(photo)), the room being that to white for d > 0, to black else:
    light skin in a pale drawing, and dark skin in a dark one, keep their shading.

    Args:
        apart: d, [3] in opponent colours, of which only lightness is changed.
        mean, photo_mean: of the drawing's part and the photo's, [3].
    """
    lighter = apart[0] > 0.0
    rooms = [torch.where(lighter, 1.0 - tone[0], 1.0 + tone[0]) for tone in (mean, photo_mean)]
    share = (rooms[0] / rooms[1].clamp_min(0.05)).clamp(0.0, 1.0)
    return torch.cat([share * apart[:1], apart[1:]])


def _is_absent(weight: Tensor) -> bool:
    """Tell whether a part of weights [1, 1, H, W] is nowhere; a graph that is traced draws every part."""
    traced = torch.jit.is_tracing() or torch.compiler.is_compiling()
    return not traced and float(weight.mean()) < 1e-4


def matched_octaves(energy: Tensor, count: int) -> Tensor:
    """Return energies of ``count`` octaves, aligned at the coarsest: finer ones than the drawing has go on as its finest falls."""
    have = len(energy)
    if count <= have:
        return energy[have - count:]
    finest = energy[:1]
    return torch.cat([finest * 0.5 ** (count - have - i) for i in range(count - have)] + [energy])
