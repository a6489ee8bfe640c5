"""What a drawing does to features, in a form that other faces can take: local statistics, and its own lines where they fit.

From one pair two maps are known at some side, those of the real face, F, and of its drawing in the face's shape, G. Added
to another face, G - F brings the pair's own eyes and mouth with it. So the part of it that is no more than a change of
the local mean and deviation is applied to the face's own features, as instance normalisation by example does (Huang and
Belongie 2017, here in a window), and the rest only where the face resembles the pair's:

    A(f) = m(f) + r (f - m(f)) + m(G) - m(F),  r = clamp((s(G) + e) / (s(F) + e)),
    f' = A(f) + exp(-d / tau) (G - A(F)),      d = m'(|f - F|^2) / v(F),

with m, s mean and deviation in a Gaussian window, m' a smaller one, v the variance of F about the channels' means there.
The pair's own face has d = 0 and becomes G. All maps are carried from the pair's landmarks to the face's.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

# Standard deviations of the windows in px of the map, tau, and the bounds of r.
WINDOW, CLOSE = 1.0, 1.0
LIKENESS = 0.35
# Side in px up to which windows are products with a matrix on CPUs.
MOST_BY_MATRIX = 512
LEAST_RATIO, MOST_RATIO = 0.3, 3.0
# Share of the drawing's deviation that is added to both sides of r.
FLOOR = 0.1
# Softening of the weights by distance, as a share of the side: about a pixel of 32.
REACH = 0.03
FRAME = 9
# Of pictures without a real face beside them: windows in px, and bounds of the ratio of deviations.
TONE, BROAD = 1.5, 3.0
LEAST_TONE, MOST_TONE = 0.4, 2.5


def window_mean(x: Tensor, sigma: float) -> Tensor:
    """Return the mean of maps [N, C, H, W] in a Gaussian window of ``sigma`` px; beyond the frame they go on as at it."""
    channels, (height, width) = x.shape[1], (int(side) for side in x.shape[2:])
    if x.device.type == "cpu" and max(height, width) <= MOST_BY_MATRIX:
        # Convolutions by channel are slow there: as products it takes a sixth of the time.
        kind = "float64" if x.dtype == torch.float64 else "float32"
        down, across = (torch.from_numpy(_window_matrix(side, sigma, kind)).to(x.dtype) for side in (height, width))
        if x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
            rows = down @ x.permute(0, 2, 3, 1).flatten(2)  # [N, C, H, W] -> [N, H, W C]
            return (across @ rows.reshape(len(x), height, width, channels)).permute(0, 3, 1, 2)
        return down @ x @ across.t()
    reach = int(3 * sigma + 1)
    ticks = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
    weights = torch.exp(-ticks.square() / (2.0 * sigma * sigma))
    weights = weights / weights.sum()
    x = F.pad(x, (reach,) * 4, mode="replicate")
    for shape in ((1, 1, 1, -1), (1, 1, -1, 1)):
        kernel = weights.reshape(shape)
        x = F.conv2d(x, kernel.expand(channels, 1, *kernel.shape[2:]), groups=channels)
    return x


@lru_cache(maxsize=64)
def _window_matrix(side: int, sigma: float, kind: str) -> np.ndarray:
    """Return the matrix [side, side] by which a row of pixels becomes its ``window_mean``."""
    reach = int(3 * sigma + 1)
    ticks = np.arange(-reach, reach + 1)
    weights = np.exp(-ticks**2 / (2.0 * sigma * sigma))
    matrix = np.zeros((side, side))
    for row in range(side):
        np.add.at(matrix[row], (row + ticks).clip(0, side - 1), weights / weights.sum())
    return matrix.astype(kind)


def window_deviation(x: Tensor, sigma: float, floor: Tensor) -> Tensor:
    """Return the standard deviation of maps in a Gaussian window, at least about ``floor``."""
    variance = window_mean(x.square(), sigma) - window_mean(x, sigma).square()
    return (variance.clamp_min(0.0) + floor.square()).sqrt() + floor


def frame_of_rest(count: int = FRAME) -> Tensor:
    """Return places along the unit square's edges, [4 count - 4, 2]."""
    ticks = torch.linspace(0.0, 1.0, count)[:-1]
    zero, one = torch.zeros_like(ticks), torch.ones_like(ticks)
    edges = ((ticks, zero), (one, ticks), (1.0 - ticks, one), (zero, 1.0 - ticks))
    return torch.cat([torch.stack(edge, dim=1) for edge in edges])


def landmark_grid(places: Tensor, origin: Tensor, size: int, *, step: int = 1) -> Tensor:
    """Return the sampling grid that carries what lies at ``origin`` to ``places``; the frame stays.

    Each pixel is displaced by the mean of the landmarks' displacements, weighted by distance (Shepard 1968):
    1 / (d^2 + REACH^2)^2. It needs no equations to be solved, so a graph can hold it, and no two landmarks can disagree.

    Args:
        places: landmarks of faces [N, K, 2] as fractions of the side.
        origin: [1, K, 2], likewise.
        size: side of the grid.
        step: every how many px of it are wanted.

    Returns:
        [N, size / step, size / step, 2] of (x, y) in [-1, 1]; exactly at rest where places and origin are equal.
    """
    rest = frame_of_rest().to(places).expand(len(places), -1, -1)
    knots = torch.cat([places, rest], dim=1)  # [N, K + F, 2]
    shifts = torch.cat([origin - places, torch.zeros_like(rest)], dim=1)
    ticks = (torch.arange(0, size, step, device=places.device).to(places) + 0.5) / size  # [S]
    # Of a lattice, squares of distances across and down are all that is needed to know those of its points.
    squared = (ticks[None, :, None, None] - knots[:, None]).square()  # [N, S, K + F, 2]
    weights = squared[:, None, :, :, 0] + (squared[:, :, None, :, 1] + REACH * REACH)  # [N, S, S, K + F]
    if weights.requires_grad:
        weights = weights.square().reciprocal()
    else:
        weights = torch.mul(weights, weights, out=weights).reciprocal_()
    sums = weights @ torch.cat([shifts, torch.ones_like(shifts[..., :1])], dim=2)[:, None]  # [N, S, S, 3]
    lattice = torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), dim=2)  # [S, S, 2]
    return 2.0 * (lattice + sums[..., :2] / sums[..., 2:]) - 1.0


def look_maps(look: Tensor, source: Tensor) -> Tensor:
    """Return what ``matched`` reads at every place, [1, 4 C + 1, R, R]: r, m(G) - m(F), G - A(F), F and v(F).

    Args:
        look: G - F, [1, C, R, R].
        source: F, [1, C, R, R].
    """
    drawn = source + look
    floor = FLOOR * drawn.detach().std()
    mean = window_mean(source, WINDOW)
    ratio = window_deviation(drawn, WINDOW, floor) / window_deviation(source, WINDOW, floor)
    ratio = ratio.clamp(LEAST_RATIO, MOST_RATIO)
    shift = window_mean(look, WINDOW)
    rest = drawn - (mean + ratio * (source - mean) + shift)
    centred = source - source.mean(dim=(2, 3), keepdim=True)
    variance = window_mean(centred.square().mean(dim=1, keepdim=True), WINDOW)
    return torch.cat([ratio, shift, rest, source, variance], dim=1)


def matched(features: Tensor, maps: Tensor, *, strength: float = 1.0) -> Tensor:
    """Return features [N, C, R, R] in the look of ``look_maps`` [1 or N, 4 C + 1, R, R]; 0 leaves them, 1 is the look.

    Up to 1, strength counts twice where a face is the pair's own: half of the look makes it the drawing.
    """
    channels = features.shape[1]
    ratio, shift, rest, source, variance = maps.split([channels] * 4 + [1], dim=1)
    mean = window_mean(features, WINDOW)
    unlike = window_mean((features - source).square().mean(dim=1, keepdim=True), CLOSE) / variance.clamp_min(1e-8)
    like = torch.exp(-unlike / LIKENESS)
    drawn = mean + ratio * (features - mean) + shift + like * rest
    return features + (strength * (1.0 + like)).clamp(max=max(1.0, strength)) * (drawn - features)


def tone_maps(drawn: Tensor) -> Tensor:
    """Return what ``toned`` reads of a picture without a real face beside it: deviation and broad mean of its features.

    Args:
        drawn: G, [1, C, R, R].

    Returns:
        [1, 2 C, R, R].
    """
    return torch.cat([window_deviation(drawn, TONE, FLOOR * drawn.std()), window_mean(drawn, BROAD)], dim=1)


def toned(features: Tensor, maps: Tensor, *, strength: float | Tensor = 1.0) -> Tensor:
    """Return features [N, C, R, R] with the deviations and broad means of ``tone_maps`` [1 or N, 2 C, R, R].

    f' = r (f - m(f)) + m(f) - M(f) + M(G) with r = clamp(s(G) / s(f)), m and s in the smaller window, M in the broad one.
    """
    deviation, broad = maps.chunk(2, dim=1)
    mean = window_mean(features, TONE)
    own = window_deviation(features, TONE, FLOOR * features.std())
    ratio = (deviation / own).clamp(LEAST_TONE, MOST_TONE)
    made = ratio * (features - mean) + mean - window_mean(features, BROAD) + broad
    return features + strength * (made - features)
