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
from torch.nn import functional as F

from drawing.pyramids import collapsed, enlarged, filled, from_opponent, halved, laplacian, opponent, resized

# Octaves of detail on a frame of FRAME px; below is the low pass that colours and light are told by.
OCTAVES, FRAME = 5, 512
# How far contrast of a band may be lowered, by part (skin, hair, background, rest), and raised, lightness and colours.
LEAST_GAIN = (0.25, 0.25, 0.1, 0.25)
MOST_GAIN, MOST_COLOR_GAIN = 3.0, 1.5
# Variance that counts as none: of a band, and of the low pass when slopes are told.
FLAT, FLAT_LOW = 1e-6, 1e-2
# Powers of a band's values that are tried for its sparsity, and a value that counts as none.
POWERS, FAINT = (1.0, 1.25, 1.5, 1.75, 2.0), 1e-4
# Cells of a side that sparsity is told on, and px of 512 at the borders of the drawing's parts that say nothing of them.
CELLS, MARGIN = 128, 8
# Least share of the frame that a part must have for its borders to be left out, and of the slope that a flat drawing leaves.
LEAST_PART, LEAST_SPREAD = 1e-3, 0.2
# Slopes of tone when nothing tells them, and how far they may be from it.
SLOPE, SLOPES = 0.5, (0.2, 1.3)
# How much of what sets a person apart from the pair's photo survives, by part (skin, hair, background, rest), for lightness and
# the two colours: the rest is as the drawing has it. Dark skin stays dark, as far as the drawing followed its photo's light.
OWN = ((0.85, 0.5, 0.5), (0.5, 0.25, 0.25), (0.08, 0.05, 0.05), (0.4, 0.35, 0.35))
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
        spread: deviation of the drawing's low pass within its parts, [K, 3].
        energy: mean squares of the drawing's bands by part, finest first, [L, K, 3].
        sparsity: ``sparsity_of`` the drawing's bands by part for a power of 1, finest first, [L, K].
        placed: what the low pass of the drawing's parts has in its places beside all that, [K, 3, h, w], in the drawing's frame.
    """

    mean: Tensor
    photo_mean: Tensor
    slope: Tensor
    spread: Tensor
    energy: Tensor
    sparsity: Tensor
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
        shapes = {"mean": parts, "photo_mean": parts, "slope": parts, "spread": parts,
                  "energy": [len(made.energy), *parts], "sparsity": [len(made.energy), parts[0]],
                  "placed": [*parts, *made.placed.shape[2:]]}
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
    colours, count = opponent(drawing), octaves(drawing.shape[3])
    inner = within(parts)
    mean, spread, energy, sparsity = (torch.stack(found) for found in zip(*(
        _statistics(colours, inner[:, k:k + 1], count) for k in range(parts.shape[1])), strict=True))
    told = {"spread": spread, "energy": energy.transpose(0, 1), "sparsity": sparsity.transpose(0, 1)}
    _, low = laplacian(colours, count)
    weights = sharpened(resized(parts, tuple(low.shape[2:])))
    slope, photo_mean = torch.full_like(mean, SLOPE), mean.new_tensor(PHOTO_MEANS)
    if photo is None:
        placed = (low - mean[..., None, None]) * weights[0][:, None] * SLOPE  # [K, 3, h, w]
        return Tone(mean, photo_mean, slope, placed=placed, **told)
    _, before = laplacian(opponent(photo), octaves(photo.shape[3]))
    before_weights = sharpened(resized(photo_parts, tuple(before.shape[2:])))
    photo_mean, both = part_means(before, before_weights), weights * before_weights
    x, y = (values - part_means(values, both)[..., None, None] for values in (before, low))  # [K, 3, h, w]
    mass = both[0][:, None]
    trust = FLAT_LOW * mass.sum(dim=(2, 3)) + 1e-3
    slope = (((mass * x * y).sum(dim=(2, 3)) + SLOPE * trust) / ((mass * x * x).sum(dim=(2, 3)) + trust)).clamp(*SLOPES)
    said = mean[..., None, None] + slope[..., None, None] * (before - photo_mean[..., None, None])
    return Tone(mean, photo_mean, slope, placed=(low - said) * mass, **told)


def within(parts: Tensor) -> Tensor:
    """Return weights [1, K, H, W] of parts without their borders, where drawing and parts may differ; thin parts keep theirs."""
    size = 2 * round(MARGIN * parts.shape[3] / FRAME) + 1
    inner = -F.max_pool2d(-sharpened(parts), size, stride=1, padding=size // 2)
    return torch.where(inner.mean(dim=(2, 3), keepdim=True) > LEAST_PART, inner, sharpened(parts))


def _statistics(colours: Tensor, weight: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return mean [3], spread [3], energy [L, 3] and sparsity [L] of one part, weight [1, 1, H, W], filled to the frame."""
    bands, low = laplacian(filled(colours, weight), count)
    energy, sparsity = [], []
    for band in bands:
        energy.append(part_means(band.square(), weight)[0])
        sparsity.append(sparsity_of(band, weight)[0])
        weight = halved(weight)
    mean = part_means(low, weight)[0]
    return mean, deviation(low, mean, weight), torch.stack(energy), torch.stack(sparsity)


def deviation(low: Tensor, mean: Tensor, weight: Tensor) -> Tensor:
    """Return the deviation [3] of a low pass [1, 3, h, w] from its mean [3] in a part, weight [1, 1, h, w]."""
    return part_means((low - mean[None, :, None, None]).square(), weight)[0].sqrt()


def sparsity_of(band: Tensor, weight: Tensor) -> Tensor:
    """Return (E|b|^p)^2 / E|b|^2p for each p of ``POWERS``, [P], of a band's lightness b in a part.

    2 / pi for p = 1 and normal values; less where few lines stand on flat grounds, as in cartoons.

    Args:
        band: [1, 3, h, w].
        weight: [1, 1, h, w].
    """
    step = max(1, band.shape[3] // CELLS)
    size = band[0, 0, ::step, ::step].abs().flatten() + FAINT
    weight = weight[0, 0, ::step, ::step].flatten()
    root = size.sqrt().sqrt()  # powers are a quarter apart
    values = torch.stack([size, size * root, size * root.square(), size * root**3, size.square()])
    return (values @ weight).square() / ((values.square() @ weight) * weight.sum().clamp_min(FAINT))


def sparser(band: Tensor, weight: Tensor, wanted: Tensor) -> Tensor:
    """Return a band [1, 3, h, w] with its values raised to the power, at least 1, at which it is as sparse as ``wanted`` []: what
    is faint fades, what is strong stands out, and the energy stays."""
    found = sparsity_of(band, weight)
    shares = ((found[:-1] - wanted) / (found[:-1] - found[1:]).clamp_min(1e-6)).clamp(0.0, 1.0)
    power = (shares * band.new_tensor(POWERS).diff()).sum()
    made = band * (band[:, :1].abs() + FAINT)**power
    before, after = (part_means(values[:, :1].square(), weight)[0, 0] for values in (band, made))
    return made * ((before + FAINT**2) / (after + FAINT**4)).sqrt()


def toned(image: Tensor, parts: Tensor, tone: Tone, *, frame: float, placed: Tensor | None = None,
          strength: float = 1.0) -> Tensor:
    """Return a photo in the tones of a drawing.

    With B_l the bands and G the low pass of part k, filled beyond its borders, E its mean squares and m its mean,

        B_l' = clamp(sqrt(E_l(drawing) / E_l(photo))) s(B_l),
        G' = m(drawing) + own h(m(photo) - m(pair's photo)) + min(slope, spread / deviation(G)) (G - m(photo)) + placed,

    s being ``sparser`` and h ``with_headroom``.

    Args:
        image: [1, 3, H, W] in [-1, 1], deformed already.
        parts: of it, [1, K, H, W].
        tone: of the drawing.
        frame: side in px of the face's frame, which says how large its detail is.
        placed: ``tone.placed`` at the places of the image, [1, 3 K, h, w] of any size; None leaves it out.
        strength: 0 leaves the photo, 1 is the drawing's tone.
    """
    count = octaves(frame)
    energy, sparsity = matched_octaves(tone.energy, count), matched_octaves(tone.sparsity, count, fall=1.0)
    colours, made = opponent(image), 0.0
    for k in range(parts.shape[1]):
        weight = sharpened(parts[:, k:k + 1])
        if _is_absent(weight):
            made = made + parts[:, k:k + 1] * colours
            continue
        bands, low = laplacian(filled(colours, weight), count)
        drawn = []
        for band, wanted, sparse in zip(bands, energy[:, k], sparsity[:, k], strict=True):
            band = sparser(band, weight, sparse)
            found = part_means(band.square(), weight)[0]
            weight = halved(weight)
            gain = ((wanted + FLAT) / (found + FLAT)).sqrt().clamp(LEAST_GAIN[k], MOST_GAIN)
            gain = torch.cat([gain[:1], gain[1:].clamp(max=MOST_COLOR_GAIN)])
            drawn.append(band * gain[None, :, None, None])
        mean = part_means(low, weight)[0]
        flatter = (tone.spread[k] + FAINT) / (tone.slope[k] * deviation(low, mean, weight) + FAINT)
        slope = tone.slope[k] * flatter.clamp(LEAST_SPREAD, 1.0)
        own = mean.new_tensor(OWN[k]) * (tone.slope[k] / SLOPE).clamp(max=1.0)
        apart = own * with_headroom(mean - tone.photo_mean[k], tone.mean[k], tone.photo_mean[k])
        moved = (tone.mean[k] + apart - slope * mean)[None, :, None, None]
        drawn_part = collapsed(drawn, slope[None, :, None, None] * low + moved)
        if placed is not None:
            drawn_part = drawn_part + PLACED * enlarged(placed[:, 3 * k:3 * k + 3], image.shape[2:])
        made = made + parts[:, k:k + 1] * drawn_part
    return torch.lerp(image, from_opponent(made), strength)


def with_headroom(apart: Tensor, mean: Tensor, photo_mean: Tensor) -> Tensor:
    """Return how far a person's tone lies from the pair's photo, less where the drawing is nearer to white or black than that.

    A difference d of lightness becomes d min(1, room(drawing) / room(photo)), the room being that to white for d > 0, to black
    else: light skin in a pale drawing, and dark skin in a dark one, keep their shading.

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


def matched_octaves(values: Tensor, count: int, *, fall: float = 0.5) -> Tensor:
    """Return values [L, ...] of ``count`` octaves, aligned at the coarsest; finer ones than the drawing has fall from its finest,
    each to the share ``fall`` of the last."""
    have = len(values)
    if count <= have:
        return values[have - count:]
    return torch.cat([values[:1] * fall**(count - have - i) for i in range(count - have)] + [values])
