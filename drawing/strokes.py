"""Strokes: the photo's fine detail gives way to the drawing's own, which is quilted of patches of the drawing.

After Efros and Freeman 2001, "Image quilting for texture synthesis and transfer". With s an edge-preserving smoothing (the guided
filter), a the abstraction (``drawing.abstraction``), x the toned photo and y the drawing,

    o = a(x + c (s(x) - x)) + c q,        q a quilt of patches of y - s(y),

the patches being those around which the drawing has the parts, tones and places of the photo; c says how far a pixel's own detail
gives way: on skin and background fully, in hair and clothes a little, so that persons keep their locks and patterns, at eyes,
brows, nostrils and lips not at all. The drawing's own features are never copied.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from scipy.spatial import ConvexHull
from skimage.draw import polygon2mask
from torch import Tensor
from torch.nn import functional as F

from drawing.abstraction import abstracted
from drawing.pyramids import enlarged, opponent, resized
from faces.topology import FEATURES

# Radii in px of 512 of the guided filters of s, one after the other, the variance of a colour that they smooth away, and how many
# times smaller the copy is that their coefficients are told on.
RADII, SMOOTH, COARSER = (4, 6), 0.01, 2
# Side of a patch, how far patches are apart, and side of the cells in which guides are told, in px.
PATCH, STEP, CELL = 40, 24, 8
# Weights of parts and places among the guides, that of tones being 1, of a patch's share of eyes, brows, nostrils
# or lips, and of the logarithm of its energy over what is usual in its part.
PART, PLACE, FEATURE, LINES = 3.0, 0.3, 10.0, 2.0
# Mean square of detail that counts as none, and the quantile of a part's patches whose energy is usual.
FAINT, CALM = 1e-6, 0.25
# One of so many that fit best is taken, by numbers that scatter like chance but are the same every time.
NEAREST, SCATTER = 12, (7919, 997)
# Least side in px of a face's frame that patches are quilted in, and number of patches that are chosen at once.
LEAST_SIDE, AT_ONCE = 64, 4096
# Side in px at which features are outlined, and how far they reach beyond their vertices, as a share of the frame.
OUTLINE, AROUND = 256, 0.012
# How far the photo's own detail gives way to the drawing's, by part (skin, hair, background, rest).
COVERED = (1.0, 0.5, 1.0, 0.5)
# How far features are abstracted.
FEATURES_ABSTRACTED = 0.5
FRAME = 512
# Sides of frames for which a drawing's patches are kept.
KEPT = 4


@dataclass(frozen=True, eq=False)
class Strokes:
    """A drawing as patches are taken from it.

    Attributes:
        drawing: [1, 3, S, S] in [-1, 1].
        parts: of it, [1, K, S / CELL, S / CELL].
        features: how far its pixels are eyes, brows, nostrils or lips, [1, 1, S, S].
        kept: what ``at`` told last, by side.
    """

    drawing: Tensor
    parts: Tensor
    features: Tensor
    kept: dict[int, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, drawing: Tensor, parts: Tensor, points: Tensor) -> Strokes:
        """Return the strokes of a drawing with parts [1, K, S, S] and mesh points [1, P, 2] as fractions of its side.

        Drawing and parts are rounded as files hold them, to 8 bit.
        """
        side = drawing.shape[3] // CELL
        return cls.of_bytes(((drawing + 1.0) * 127.5).round(), (resized(parts, (side, side)) * 255.0).round(), points)

    @classmethod
    def of_bytes(cls, drawing: Tensor, parts: Tensor, points: Tensor) -> Strokes:
        """Return the strokes of ``bytes_of``, and of mesh points [1, P, 2]."""
        return cls(drawing.float() / 127.5 - 1.0, parts.float() / 255.0, feature_map(points, drawing.shape[3]).to(points))

    def bytes_of(self) -> tuple[Tensor, Tensor]:
        """Return drawing and parts as files hold them, uint8."""
        return ((self.drawing + 1.0) * 127.5).round().byte(), (self.parts * 255.0).round().byte()

    @cached_property
    def smooth(self) -> Tensor:
        """s(y), [1, 3, S, S]."""
        return smoothed(self.drawing, self.drawing.shape[3])

    @cached_property
    def detail(self) -> Tensor:
        """y - s(y) but for features, [1, 3, S, S]."""
        return (self.drawing - self.smooth) * (1.0 - self.features)

    def at(self, side: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return detail [1, 3, side, side], guides of all its patches [M, D], and what each costs beforehand, [M]."""
        if side not in self.kept:
            cells = (side // CELL, side // CELL)
            maps = guides(resized(self.smooth, cells), resized(self.parts, cells), lattice(cells[0]).to(self.drawing))
            detail = resized(self.detail, (side, side))
            while len(self.kept) >= KEPT:
                self.kept.pop(next(iter(self.kept)))
            self.kept[side] = detail, windows(maps, 1), self._cost(detail, cells)
        return self.kept[side]

    def _cost(self, detail: Tensor, cells: tuple[int, int]) -> Tensor:
        """Return what makes a patch unfit, [M]: features, and lines much stronger than is usual in its part, which are what the
        drawing shows and not how it is drawn."""
        def over_patches(maps: Tensor) -> Tensor:
            return F.avg_pool2d(resized(maps, cells), PATCH // CELL, 1).flatten(2)[0]  # [C, M]

        energy, share = over_patches(detail.square().mean(dim=1, keepdim=True))[0] + FAINT, over_patches(self.parts)
        cost = FEATURE * over_patches(self.features)[0]
        for part in share:
            if (part > 0.5).any():
                cost = cost + LINES * part * (energy / energy[part > 0.5].quantile(CALM)).log().clamp_min(0.0)
        return cost

    def to(self, device: torch.device | str) -> Strokes:
        """Return it on a device."""
        return Strokes(self.drawing.to(device), self.parts.to(device), self.features.to(device))


def feature_map(points: Tensor, side: int) -> Tensor:
    """Return how far pixels are eyes, brows, nostrils or lips, [1, 1, side, side], of mesh points [1, P, 2] in fractions."""
    found = np.zeros((OUTLINE, OUTLINE), bool)
    places = points[0, :, :2].detach().cpu().double().numpy()
    for vertices in FEATURES:
        outline = places[list(vertices)]
        outline = outline[ConvexHull(outline, qhull_options="QJ").vertices]
        found |= polygon2mask(found.shape, outline[:, ::-1] * OUTLINE - 0.5)
    reach = 2 * round(AROUND * OUTLINE) + 1
    maps = F.max_pool2d(torch.from_numpy(found).float()[None, None], reach, 1, reach // 2)
    maps = F.avg_pool2d(F.pad(maps, (reach // 2,) * 4, mode="replicate"), reach, 1)
    return F.interpolate(maps, size=(side, side), mode="bilinear", antialias=side < OUTLINE, align_corners=False)


def smoothed(image: Tensor, frame: float) -> Tensor:
    """Return images [1, 3, H, W] smoothed but for their edges, a face's frame being ``frame`` px.

    The guided filter with the image as its own guide (He et al. 2010), o = mean(a) x + mean(b) with a = var / (var + e) and
    b = (1 - a) mean in windows, by channel; a and b are told on a smaller copy (He and Sun 2015).
    """
    for radius in RADII:
        image = _guided(image, radius * frame / FRAME)
    return image


def _guided(image: Tensor, radius: float) -> Tensor:
    size = image.shape[2:]
    small = resized(image, tuple(max(4, -(-side // COARSER)) for side in size))
    reach = max(1, min(round(radius / COARSER), min(small.shape[2:]) // 2 - 1))

    def mean(maps: Tensor) -> Tensor:
        return F.avg_pool2d(F.pad(maps, (reach,) * 4, mode="reflect"), 2 * reach + 1, 1)

    middle = mean(small)
    spread = (mean(small.square()) - middle.square()).clamp_min(0.0)
    share = spread / (spread + SMOOTH)
    both = mean(torch.cat([share, (1.0 - share) * middle], dim=1))
    share, rest = F.interpolate(both, size=tuple(size), mode="bilinear", align_corners=False).chunk(2, dim=1)
    return share * image + rest


def lattice(side: int) -> Tensor:
    """Return where cells of a frame lie in it, [1, 2, side, side] in -1..1."""
    middle = (torch.arange(side) + 0.5) / side * 2.0 - 1.0
    return torch.stack(torch.meshgrid(middle, middle, indexing="xy"))[None]


def guides(image: Tensor, parts: Tensor, places: Tensor) -> Tensor:
    """Return what patches are chosen by, [1, 5 + K, h, w]: tones less the mean of their part, parts [1, K, h, w], and places.

    Args:
        image, places: [1, 3, h, w] and [1, 2, h, w].
    """
    tones = opponent(image)
    mean = torch.einsum("nchw,nkhw->kc", tones, parts) / parts.sum(dim=(0, 2, 3))[:, None].clamp_min(1e-3)
    return torch.cat([tones - torch.einsum("kc,nkhw->nchw", mean, parts), PART * parts, PLACE * places], dim=1)


def windows(maps: Tensor, step: int) -> Tensor:
    """Return the guides of patches ``step`` cells apart, [L, D], row by row, of maps [1, C, h, w]."""
    return F.unfold(maps, PATCH // CELL, stride=step)[0].T


def quilted(strokes: Strokes, maps: Tensor, side: int, size: tuple[int, int]) -> Tensor:
    """Return patches of the drawing's detail laid over a picture, [1, 3, H, W].

    Where patches overlap, weights w_i that fall to their borders mix them: sum w_i d_i / sqrt(sum w_i^2), which keeps the
    deviation of detail that has nothing to do with each other.

    Args:
        strokes: of the drawing.
        maps: ``guides`` of the picture by cell, [1, C, ceil(H / CELL), ceil(W / CELL)].
        side: of a face's frame in px of the picture, a multiple of ``CELL``.
        size: (H, W) of the picture.
    """
    detail, known, cost = strokes.at(side)
    down, across = (max(1, -(-(length - PATCH) // STEP) + 1) for length in size)
    height, width = ((count - 1) * STEP + PATCH for count in (down, across))
    pad = (0, max(0, width // CELL - maps.shape[3]), 0, max(0, height // CELL - maps.shape[2]))
    maps = F.pad(maps, pad, mode="replicate")[:, :, :height // CELL, :width // CELL]
    wanted = windows(maps, STEP // CELL)
    near = torch.cat([_nearest(some, known, cost) for some in wanted.split(AT_ONCE)])  # [L, NEAREST]
    pick = torch.arange(len(near), device=near.device) * SCATTER[0] % SCATTER[1] % near.shape[1]
    best = near.gather(1, pick[:, None])[:, 0]
    # Top left corners of the patches in the drawing, and their pixels.
    per_row = side // CELL - PATCH // CELL + 1
    corner = (best // per_row) * CELL * side + (best % per_row) * CELL
    ramp = torch.arange(PATCH, device=maps.device) + 0.5
    ramp = torch.minimum(ramp, PATCH - ramp).div(PATCH - STEP).clamp(max=1.0)
    weight = (ramp[:, None] * ramp).flatten()
    steps = torch.arange(PATCH, device=maps.device)
    pixels = (steps[:, None] * side + steps).flatten()
    per_strip = max(1, AT_ONCE // across)
    made, mass = maps.new_zeros(1, 3, height, width), maps.new_zeros(1, 1, height, width)
    for top in range(0, down, per_strip):
        chosen = corner[top * across:(top + per_strip) * across]
        count = len(chosen) // across
        patches = detail.flatten(2)[0][:, chosen[:, None] + pixels] * weight  # [3, L, PATCH^2]
        strip = slice(top * STEP, (top + count - 1) * STEP + PATCH)
        shape = ((count - 1) * STEP + PATCH, width)
        made[:, :, strip] += F.fold(patches.transpose(1, 2).reshape(1, -1, len(chosen)), shape, PATCH, stride=STEP)
        mass[:, :, strip] += F.fold(weight.square()[None, :, None].expand(1, -1, len(chosen)), shape, PATCH, stride=STEP)
    return (made / mass.sqrt())[:, :, :size[0], :size[1]]


def _nearest(wanted: Tensor, known: Tensor, cost: Tensor) -> Tensor:
    """Return which of the drawing's patches [M, D] fit best at each place [L, D], the best first, [L, NEAREST]."""
    return (torch.cdist(wanted, known) + cost).topk(min(NEAREST, len(known)), dim=1, largest=False).indices


def drawn(strokes: Strokes, image: Tensor, parts: Tensor, told: Tensor | None, *, frame: float, strength: float = 1.0) -> Tensor:
    """Return a toned photo [1, 3, H, W] with a drawing's strokes; strength 0 leaves it as it is.

    Args:
        parts: of it, [1, K, H, W].
        told: where the face's places lie in the drawing and how far they are features, [1, 3, h, w] of any size; None where
            there is no face.
        frame: side in px of the face's frame.
    """
    if strength == 0.0:
        return image
    height, width = image.shape[2:]
    side = CELL * max(LEAST_SIDE // CELL, round(min(frame, strokes.drawing.shape[3]) / CELL))
    size = tuple(max(CELL, round(length * side / frame)) for length in (height, width))
    cells = tuple(-(-length // CELL) for length in size)
    smooth = smoothed(image, frame)
    told = image.new_zeros(1, 3, *cells) if told is None else told
    maps = guides(resized(smooth, cells), resized(parts, cells), resized(told[:, :2], cells))
    quilt = F.interpolate(quilted(strokes, maps, side, size), size=(height, width), mode="bicubic", align_corners=False)
    features = enlarged(told[:, 2:], (height, width))
    covered = (1.0 - features) * torch.einsum("nkhw,k->nhw", parts, parts.new_tensor(COVERED))[:, None]
    made = abstracted(torch.lerp(image, smooth, covered), frame) + covered * quilt
    made = torch.lerp(made, image, (1.0 - FEATURES_ABSTRACTED) * features)
    return torch.lerp(image, made, strength)
