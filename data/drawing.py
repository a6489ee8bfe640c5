"""What drawn looks are made of: flow of edges, coherent lines, flat regions, paper and brush strokes.

Pictures are float arrays [S, S, 3] or [S, S] in 0..1; lengths are fractions of the side where they are called widths,
so that a drawing looks alike at every size. Random numbers come from the ``numpy.random.Generator`` that is given.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter, map_coordinates, sobel
from scipy.special import softmax
from skimage.color import lab2rgb, rgb2gray, rgb2lab

SUPERSAMPLE = 2


class Flow(NamedTuple):
    """Direction along the edges, two arrays [S, S] of a unit vector (x, y)."""

    x: np.ndarray
    y: np.ndarray


def blur(picture: np.ndarray, sigma: float) -> np.ndarray:
    """Return a picture blurred by a Gaussian of ``sigma`` px."""
    return gaussian_filter(picture, (sigma, sigma, 0)[:picture.ndim], mode="nearest")


def grey(picture: np.ndarray) -> np.ndarray:
    """Return the luminance [S, S]."""
    return rgb2gray(picture)


def from_lab(lab: np.ndarray) -> np.ndarray:
    """Return Lab colours [..., 3] as RGB in 0..1; what no screen can show is clipped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of colours that are clipped
        return np.clip(lab2rgb(lab), 0.0, 1.0)


def smoothed(picture: np.ndarray, width: float, *, epsilon: float = 0.004, passes: int = 2) -> np.ndarray:
    """Smooth within edges by the guided filter on the picture's own luminance (He et al. 2013).

    a = cov(I, p) / (var(I) + epsilon), b = mean(p) - a mean(I), q = mean(a) I + mean(b), with Gaussian windows.

    Args:
        picture: [S, S, 3].
        width: of the window, as a fraction of the side.
        epsilon: variance below which a difference counts as texture.
        passes: how often.
    """
    sigma = width * picture.shape[0]
    for _ in range(passes):
        guide = grey(picture)[..., None]
        mean, both = blur(guide, sigma), blur(picture, sigma)
        slope = (blur(guide * picture, sigma) - mean * both) / (blur(guide**2, sigma) - mean**2 + epsilon)
        picture = blur(slope, sigma) * guide + blur(both - slope * mean, sigma)
    return np.clip(picture, 0.0, 1.0)


def edge_flow(light: np.ndarray, width: float) -> Flow:
    """Return the direction of least change: the minor eigenvector of the structure tensor (Brox et al. 2006).

    Args:
        light: [S, S].
        width: over which the tensor is averaged, as a fraction of the side.
    """
    dx, dy = sobel(light, axis=1), sobel(light, axis=0)
    sigma = width * light.shape[0]
    xx, yy, xy = (gaussian_filter(part, sigma) for part in (dx * dx, dy * dy, dx * dy))
    angle = 0.5 * np.arctan2(2.0 * xy, xx - yy) + np.pi / 2.0
    return Flow(np.cos(angle), np.sin(angle))


def along(picture: np.ndarray, flow: Flow, width: float, *, steps: int = 6) -> np.ndarray:
    """Average a picture along the flow with Gaussian weights (line integral convolution, Cabral and Leedom 1993).

    Args:
        picture: [S, S] or [S, S, C].
        flow: of the same side.
        width: standard deviation, as a fraction of the side.
        steps: samples in either direction, over two deviations.
    """
    channels = picture.reshape(*picture.shape[:2], -1)
    sigma = width * picture.shape[0]
    stride = 2.0 * sigma / steps
    rows, columns = np.indices(picture.shape[:2]).astype(np.float64)
    total, weights = channels.copy(), 1.0
    for sign in (1.0, -1.0):
        y, x = rows.copy(), columns.copy()
        step_x, step_y = sign * flow.x, sign * flow.y
        for step in range(1, steps + 1):
            y, x = y + stride * step_y, x + stride * step_x
            here = [map_coordinates(part, (y, x), order=1, mode="nearest") for part in flow]
            turn = np.where(here[0] * step_x + here[1] * step_y < 0.0, -1.0, 1.0)  # an eigenvector has no sign
            step_x, step_y = here[0] * turn, here[1] * turn
            weight = np.exp(-0.5 * (step * stride / sigma) ** 2)
            for channel in range(channels.shape[2]):
                total[..., channel] += weight * map_coordinates(channels[..., channel], (y, x), order=1, mode="nearest")
            weights += weight
    return (total / weights).reshape(picture.shape)


def coherent_lines(
    light: np.ndarray, flow: Flow, *, width: float, threshold: float = 0.0, sharpness: float = 120.0, tau: float = 0.985,
) -> np.ndarray:
    """Return lines [S, S], 1 ink and 0 paper: differences of Gaussians, smoothed along the flow (Winnemoeller et al. 2012).

    u = G(s) - tau G(1.6 s); ink = -tanh(sharpness (u - threshold)) where u is less than the threshold, else 0.

    Args:
        light: [S, S], already smoothed.
        flow: along which lines are joined.
        width: s, as a fraction of the side.
        threshold: raise it for more ink.
        sharpness: steepness of the lines' borders.
        tau: weight of the wider Gaussian.
    """
    sigma = width * light.shape[0]
    difference = gaussian_filter(light, sigma) - tau * gaussian_filter(light, 1.6 * sigma)
    difference = along(difference, flow, 2.5 * width)
    return np.where(difference < threshold, -np.tanh(sharpness * (difference - threshold)), 0.0)


def palette_of(colours: np.ndarray, count: int, *, rng: np.random.Generator, rounds: int = 12) -> np.ndarray:
    """Return the means [count, C] of clusters of colours [N, C] by Lloyd's algorithm from far-apart beginnings."""
    picked = colours[rng.choice(len(colours), min(len(colours), 4000), replace=False)]
    centres = picked.mean(axis=0, keepdims=True)
    while len(centres) < count:
        gaps = np.linalg.norm(picked[:, None] - centres[None], axis=2).min(axis=1)
        centres = np.concatenate([centres, picked[[np.argsort(gaps)[int(0.98 * len(gaps))]]]])
    for _ in range(rounds):
        nearest = np.linalg.norm(picked[:, None] - centres[None], axis=2).argmin(axis=1)
        centres = np.stack([picked[nearest == i].mean(axis=0) if (nearest == i).any() else centres[i] for i in range(count)])
    return centres


def shares(values: np.ndarray, centres: np.ndarray, *, width: float, crisp: float = 12.0) -> np.ndarray:
    """Return to what share each pixel belongs to each centre, [S, S, K], with round, anti-aliased borders.

    Args:
        values: [S, S, C].
        centres: [K, C].
        width: over which regions are rounded, as a fraction of the side.
        crisp: steepness of borders; 0.5 px or so at 512 px by default.
    """
    nearest = np.linalg.norm(values[..., None, :] - centres, axis=-1).argmin(axis=-1)
    members = (nearest[..., None] == np.arange(len(centres))).astype(np.float64)
    return softmax(crisp * blur(members, width * len(values)) * 2.0, axis=-1) if crisp else members


def flattened(picture: np.ndarray, count: int, *, width: float, rng: np.random.Generator) -> np.ndarray:
    """Return a picture [S, S, 3] of ``count`` flat colours of its own, with round regions (see ``shares``)."""
    lab = rgb2lab(picture)
    centres = palette_of(lab.reshape(-1, 3), count, rng=rng)
    mixed = shares(lab, centres, width=width, crisp=25.0) @ centres
    return from_lab(mixed)


def recoloured(picture: np.ndarray, *, saturation: float = 1.0, contrast: float = 1.0, light: float = 0.0) -> np.ndarray:
    """Return a picture with chroma and lightness (about the middle) scaled, and lightness shifted by ``light`` (0..1)."""
    lab = rgb2lab(np.clip(picture, 0.0, 1.0))
    lab[..., 0] = np.clip(50.0 + contrast * (lab[..., 0] - 50.0) + 100.0 * light, 0.0, 100.0)
    lab[..., 1:] *= saturation
    return from_lab(lab)


def lay(picture: np.ndarray, colour: np.ndarray | tuple[float, ...], cover: np.ndarray) -> np.ndarray:
    """Lay a colour (or picture) over a picture where ``cover`` [S, S] is 1."""
    return picture + (np.asarray(colour) - picture) * cover[..., None]


def paper_grain(side: int, *, rng: np.random.Generator, width: float = 0.002) -> np.ndarray:
    """Return the tooth of a rough paper [side, side], mean 0 and deviation 1, alike at every size."""
    fine = gaussian_filter(rng.standard_normal((512, 512)), width * 512, mode="wrap")
    wide = gaussian_filter(rng.standard_normal((512, 512)), 4.0 * width * 512, mode="wrap")
    tooth = fine / fine.std() + 0.6 * wide / wide.std()
    if side != 512:
        tooth = np.asarray(Image.fromarray(tooth.astype(np.float32)).resize((side, side), Image.Resampling.BOX
                                                                             if side < 512 else Image.Resampling.BICUBIC))
    return (tooth - tooth.mean()) / tooth.std()


def hatching(side: int, *, angle: float, spacing: float, wobble: float, rng: np.random.Generator) -> np.ndarray:
    """Return the heights [side, side] of parallel hand-drawn strokes, 0 between them and 1 at their middle.

    Args:
        side: in px.
        angle: of the strokes in radians.
        spacing: between strokes, as a fraction of the side.
        wobble: how far they stray, as a fraction of the spacing.
        rng: draws the straying.
    """
    y, x = np.indices((side, side)) / side
    stray = gaussian_filter(rng.standard_normal((512, 512)), 18.0, mode="wrap")
    stray = np.asarray(Image.fromarray((stray / stray.std()).astype(np.float32)).resize((side, side)))
    phase = (x * np.sin(angle) + y * np.cos(angle)) / spacing + wobble * stray
    return 0.5 + 0.5 * np.cos(2.0 * np.pi * phase)


def painted_strokes(
    canvas: np.ndarray, picture: np.ndarray, flow: Flow, *, width: float, length: float, jitter: float,
    rng: np.random.Generator, where: np.ndarray | None = None, density: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Paint curved brush strokes of one width along the flow (Hertzmann 1998), in the picture's colours.

    Args:
        canvas: [S, S, 3] to paint on.
        picture: [S, S, 3] whose colours are taken at each stroke's beginning.
        flow: of the picture.
        width, length: of a stroke, as fractions of the side.
        jitter: deviation of a stroke's lightness.
        rng: draws places, order and jitter.
        where: [S, S] probability of a stroke; everywhere where None.
        density: strokes per area of a stroke's width squared.

    Returns:
        The new canvas, and the strokes' heights [S, S] in 0..1 for light falling on them.
    """
    side = len(picture)
    big = side * SUPERSAMPLE
    image = Image.fromarray((canvas * 255.0).round().astype(np.uint8)).resize((big, big), Image.Resampling.BILINEAR)
    relief = Image.new("L", (big, big), 128)
    pens = ImageDraw.Draw(image), ImageDraw.Draw(relief)
    count = int(density / width**2)
    places = rng.random((count, 2)) * (side - 1)
    noise, heights = rng.standard_normal(count) * jitter, rng.integers(40, 216, count)
    luck = rng.random(count)
    steps = 6
    stride = length * side / steps
    for (y, x), shift, height, chance in zip(places, noise, heights, luck, strict=True):
        row, column = int(y), int(x)
        if where is not None and chance > where[row, column]:
            continue
        colour = np.clip(picture[row, column] * (1.0 + shift) + 0.3 * shift, 0.0, 1.0)
        path = _stroke_path(flow, x, y, stride=stride, steps=steps)
        line = [((px + 0.5) * SUPERSAMPLE, (py + 0.5) * SUPERSAMPLE) for px, py in path]
        thick = max(1, round(width * big))
        for pen, fill in zip(pens, (tuple(int(v) for v in colour * 255.0), int(height)), strict=True):
            pen.line(line, fill=fill, width=thick, joint="curve")
            for px, py in (line[0], line[-1]):
                pen.ellipse((px - thick / 2, py - thick / 2, px + thick / 2, py + thick / 2), fill=fill)
    small = [np.asarray(part.resize((side, side), Image.Resampling.BOX), dtype=np.float64) / 255.0 for part in (image, relief)]
    return small[0], small[1]


def _stroke_path(flow: Flow, x: float, y: float, *, stride: float, steps: int) -> list[tuple[float, float]]:
    """Return the points of one stroke that follows the flow to either side of (x, y), in px."""
    side = len(flow.x)
    halves = []
    for sign in (-1.0, 1.0):
        px, py, last, half = x, y, None, []
        for _ in range(steps // 2):
            row, column = min(max(int(py), 0), side - 1), min(max(int(px), 0), side - 1)
            dx, dy = sign * flow.x[row, column], sign * flow.y[row, column]
            if last is not None and dx * last[0] + dy * last[1] < 0.0:
                dx, dy = -dx, -dy
            px, py, last = px + stride * dx, py + stride * dy, (dx, dy)
            half.append((px, py))
        halves.append(half)
    return [*reversed(halves[0]), (x, y), *halves[1]]


def lit(picture: np.ndarray, relief: np.ndarray, *, strength: float | np.ndarray) -> np.ndarray:
    """Let light from the upper left fall on a relief [S, S] that lies on a picture; ``strength`` may differ by place."""
    side = len(relief)
    soft = gaussian_filter(relief, 0.0012 * side)
    slope = (sobel(soft, axis=1) + sobel(soft, axis=0)) / 8.0
    return np.clip(picture * (1.0 - (strength * slope)[..., None] * side / 128.0), 0.0, 1.0)
