"""``python -m data.sample_pairs``: pairs drawn on a photo in the public domain (Eileen Collins, NASA; in scikit-image).

The photo is aligned as FFHQ. A drawing is the photo moved by its mesh (larger eyes, another jaw and mouth) and then drawn by
filters: light and colour in steps, lines where a difference of Gaussians finds edges (XDoG, Winnemoeller et al. 2012).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage import data
from skimage.color import lab2rgb, rgb2lab
from skimage.restoration import denoise_bilateral
from torch import Tensor

from data.images import save_image, to_tensor
from drawing.context import read_context
from drawing.warp import warp_grid, warped, with_rings
from faces.align import align_face
from faces.find import FaceFinder
from faces.parts import BACKGROUND
from faces.topology import LOWER_LIP, OVAL, UPPER_LIP

SIDE = 512
EYE_RINGS = ((33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246),
             (263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466))
LIPS = (*UPPER_LIP, *LOWER_LIP, 61, 291, 78, 308)
# Vertices of the oval from cheek to cheek below the ears.
JAW = OVAL[9:28]


@dataclass(frozen=True)
class Shape:
    """How a drawing deforms a face: sizes of eyes and mouth, width and length of the jaw, as factors."""

    eyes: float = 1.0
    mouth: float = 1.0
    jaw: float = 1.0
    chin: float = 1.0


def reshaped(mesh: Tensor, shape: Shape) -> Tensor:
    """Return the points [1, POINTS, 2] of a mesh [1, 468, 3] in another shape; others follow the nearest of what moves."""
    points = mesh[0, :, :2].double().numpy()
    anchors, moves = [], []
    for ring in EYE_RINGS:
        middle = points[list(ring)].mean(axis=0)
        anchors.append(points[list(ring)])
        moves.append((shape.eyes - 1.0) * (points[list(ring)] - middle))
    lips = points[list(LIPS)]
    anchors.append(lips)
    moves.append((shape.mouth - 1.0) * (lips - lips.mean(axis=0)))
    jaw, middle = points[list(JAW)], points[list(OVAL)].mean(axis=0)
    below = np.clip((jaw[:, 1:] - middle[1]) / np.ptp(jaw[:, 1]), 0.0, 1.0)
    anchors.append(jaw)
    wider, longer = (shape.jaw - 1.0) * (jaw[:, :1] - middle[0]), (shape.chin - 1.0) * below * (jaw[:, 1:] - middle[1])
    moves.append(np.concatenate([wider, longer], 1))
    anchors, moves = np.concatenate(anchors), np.concatenate(moves)
    distance = np.linalg.norm(points[:, None] - anchors[None], axis=2)
    weight = np.exp(-((distance / 0.035) ** 2)) + 1e-9
    reach = np.exp(-((distance.min(axis=1, keepdims=True) / 0.08) ** 2))
    shift = reach * (weight[:, :, None] * moves[None]).sum(axis=1) / weight.sum(axis=1, keepdims=True)
    return with_rings(torch.from_numpy(points + shift)[None].float())


def lines(light: np.ndarray, *, fine: float, sharp: float, dark: float) -> np.ndarray:
    """Return lines [S, S], 0 on a line and 1 off it, of light in 0..1: D = (1 + p) G_s - p G_1.6s, soft threshold at ``dark``."""
    response = (1.0 + sharp) * gaussian_filter(light, fine) - sharp * gaussian_filter(light, 1.6 * fine)
    return np.where(response >= dark, 1.0, 1.0 + np.tanh(12.0 * (response - dark)))


def smooth(pixels: np.ndarray, rounds: int, *, spread: float = 3.0) -> np.ndarray:
    """Return an image [S, S, 3] in 0..1 smoothed but for its edges."""
    for _ in range(rounds):
        pixels = denoise_bilateral(pixels, win_size=9, sigma_color=0.08, sigma_spatial=spread, channel_axis=2)
    return pixels


def stepped(values: np.ndarray, steps: int, *, softness: float = 0.12) -> np.ndarray:
    """Return values in 0..1 in steps with soft borders."""
    scaled = values * steps
    whole = np.floor(scaled)
    return (whole + np.clip((scaled - whole - 0.5) / softness + 0.5, 0.0, 1.0)) / steps


def evened(light: np.ndarray, *, radius: float = 28.0) -> np.ndarray:
    """Return light in 0..1 with broad shadows taken out, so that lines show in them too."""
    return np.clip(0.72 * light / (gaussian_filter(light, radius) + 0.08), 0.0, 1.0)


def cartoon(pixels: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """Return flat, bright colours with dark contours on a plain ground of sky blue."""
    calm = smooth(pixels, 3)
    lab = rgb2lab(calm)
    lab[..., 0] = 100.0 * stepped(np.clip(lab[..., 0] / 100.0 * 1.05 + 0.04, 0.0, 1.0), 5)
    lab[..., 1:] = 1.5 * gaussian_filter(lab[..., 1:], (2.0, 2.0, 0.0))
    contour = lines(evened(rgb2lab(smooth(pixels, 1))[..., 0] / 100.0), fine=1.2, sharp=16.0, dark=0.5)
    flat = np.clip(lab2rgb(lab), 0.0, 1.0) * (0.12 + 0.88 * contour[..., None])
    return flat + ground[..., None] * (np.array([0.55, 0.8, 0.93]) - flat)


def ink(pixels: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """Return black ink on warm paper: contours, and hatching where it is dark."""
    light = rgb2lab(smooth(pixels, 1))[..., 0] / 100.0
    y, x = np.mgrid[:SIDE, :SIDE]
    hatch = np.ones_like(light)
    for angle, level in ((0.6, 0.52), (-0.7, 0.36), (0.0, 0.2)):
        wave = 0.5 + 0.5 * np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2.0 * np.pi / 5.5)
        depth = np.clip((level - light) / 0.12 + 0.5, 0.0, 1.0)
        hatch = np.minimum(hatch, 1.0 - depth * (wave > 0.45))
    drawn = np.minimum(lines(evened(light, radius=14.0), fine=1.0, sharp=20.0, dark=0.6), gaussian_filter(hatch, 0.6))
    drawn = drawn + ground * (1.0 - drawn)
    black, paper = np.array([0.08, 0.07, 0.09]), np.array([0.97, 0.94, 0.87])
    return black + drawn[..., None] * (paper - black)


def airbrush(pixels: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """Return a painting as caricaturists airbrush: smooth skin, strong light, soft contours, a warm ground that fades upwards."""
    lab = rgb2lab(smooth(pixels, 2, spread=2.0))
    light = lab[..., 0] / 100.0
    fine = light - gaussian_filter(light, 5.0)
    lab[..., 0] = 100.0 * np.clip(0.5 + 1.12 * (light - 0.52) + 1.1 * fine, 0.02, 0.99)
    lab[..., 1:] = 1.25 * lab[..., 1:] + np.array([5.0, 9.0])
    contour = gaussian_filter(lines(evened(light), fine=1.4, sharp=12.0, dark=0.42), 0.6)
    painted = np.clip(lab2rgb(lab), 0.0, 1.0) * (0.4 + 0.6 * contour[..., None])
    fade = np.linspace(0.0, 1.0, SIDE)[:, None, None]
    warm = np.array([0.93, 0.86, 0.72]) * (1.0 - fade) + np.array([0.75, 0.58, 0.42]) * fade
    return painted + ground[..., None] * (warm - painted)


Draw = Callable[[np.ndarray, np.ndarray], np.ndarray]
STYLES: dict[str, tuple[Shape, Draw]] = {
    "sample": (Shape(eyes=1.45, mouth=1.3, jaw=0.9, chin=1.06), airbrush),
    "cartoon": (Shape(eyes=1.6, mouth=1.1, jaw=0.88, chin=0.96), cartoon),
    "ink": (Shape(eyes=1.2, mouth=1.35, jaw=1.14, chin=1.08), ink),
}


def astronaut() -> Image.Image:
    """Return the aligned photo at 512 px."""
    photo = Image.fromarray(data.astronaut())
    return align_face(photo, FaceFinder().find(photo)[0].landmarks, output_size=SIDE)


def draw_pair(photo: Tensor, shape: Shape, draw: Draw) -> Tensor:
    """Return the drawing [1, 3, S, S] of an aligned photo [1, 3, S, S] in [-1, 1]."""
    context = read_context(photo)
    grid = warp_grid((), context.points, reshaped(context.mesh, shape))
    moved = (warped(photo, grid)[0].permute(1, 2, 0).clamp(-1.0, 1.0).double().numpy() + 1.0) / 2.0
    ground = warped(context.parts, grid)[0, BACKGROUND].clamp(0.0, 1.0).double().numpy()
    return torch.from_numpy(draw(moved, ground)).float().permute(2, 0, 1)[None] * 2.0 - 1.0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "style_images_aligned", help="folder")
    args = parser.parse_args(argv)
    photo = to_tensor(astronaut(), SIDE)
    save_image(args.output / "source_sample.png", photo)
    for name, (shape, draw) in STYLES.items():
        save_image(args.output / f"target_{name}.png", draw_pair(photo, shape, draw))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
