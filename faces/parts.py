"""Which part of a picture each pixel is, as soft maps of the picture's own size: skin, hair, background and the rest.

The background is what MediaPipe's foreground network leaves, at the frame and at each face. Around a face, a small network says
where parts are likely (``models.parts``), and the picture's own colours decide: the posterior of a part is its likelihood
by place times that of its colour, whose distribution is told by the posterior itself, a few times over (GrabCut's scheme, Rother
et al. 2004, with histograms). Borders go where the picture has some by a guided filter whose coefficients are enlarged to
the picture's size (He and Sun 2015).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from scipy.ndimage import gaussian_filter, uniform_filter
from skimage.color import rgb2lab
from torch import Tensor
from torch.nn import functional as F

from checkpoints.features import load_parts
from faces.align import ffhq_quad
from faces.mesh import landmarks_of
from faces.nets import SELFIE, net
from faces.topology import OVAL
from models.parts import PartsNetwork, face_frame

# The parts in the order of the maps.
SKIN, HAIR, BACKGROUND, REST = range(4)
PARTS = ("skin", "hair", "background", "rest")
# Longest side in px of the copy that borders are found on, and side of the square around a face that its parts are told in.
WORK_SIDE, LOCAL_SIDE = 352, 256
# That square over the crop of FFHQ's alignment.
LOCAL_SHARE = 1.5
# Radius of the guided filter as a share of the copy's longest side, and the variance of colours (in 0..1) that is none.
RADIUS, SOFTNESS = 0.009, 1e-3
# Histogram of colours: cells per axis of Lab, deviation of its softening in cells, weight of a colour that was never seen.
CELLS, SPREAD, UNSEEN = 24, 1.0, 0.02
ROUNDS = 3
# Share of a face that the foreground network must have seen to be believed.
SEEN = 0.5
# Share of clothes far from a face that may be hands and arms, before colours decide.
HANDS = 0.2
# In half widths and heights of the face's oval about its middle: where skin ends above the mouth and over how much it fades,
# how far down the mouth is, and half of the neck's width. Of hair, as much is left on the neck.
SKIN_ENDS, FADES, MOUTH, NECK, HAIR_ON_NECK = 1.5, 0.35, 0.4, 0.8, 0.2
# Vertices of the brows' upper edges.
BROWS = (70, 63, 105, 66, 107, 336, 296, 334, 293, 300)


@torch.no_grad()
def face_parts(image: Tensor, meshes: Sequence[np.ndarray]) -> Tensor:
    """Return how far each pixel is skin, hair, background or the rest, [1, 4, H, W] of sum 1.

    Skin is the face with brows, eyes, lips, beard and glasses, ears and neck; the rest is clothes and whatever else people wear.

    Args:
        image: [1, 3, H, W] in [-1, 1], of any size.
        meshes: [468, 3] of each face in px of the image; without one, there is background and the rest.

    Raises:
        ValueError: for other shapes.
    """
    if image.ndim != 4 or list(image.shape[:2]) != [1, 3] or any(mesh.shape != (468, 3) for mesh in meshes):
        raise ValueError(f"expected an image [1, 3, H, W] and meshes [468, 3], got {list(image.shape)} and "
                         f"{[list(mesh.shape) for mesh in meshes]}")
    device, dtype = image.device, image.dtype
    image = image.detach().float().cpu().clamp(-1.0, 1.0)
    scale = min(1.0, WORK_SIDE / max(image.shape[2:]))
    size = [max(8, round(s * scale)) for s in image.shape[2:]]
    small = resized(image, size)
    ahead = foreground(small)
    # A fifth map says where a face's square has told the parts.
    parts = torch.cat([torch.zeros(1, 2, *size), 1.0 - ahead, ahead, torch.zeros(1, 1, *size)], dim=1)
    for mesh in sorted(meshes, key=lambda mesh: float(np.ptp(mesh[:, 1]))):
        parts = with_face(parts, image, mesh)
    parts, told = parts.split([len(PARTS), 1], dim=1)
    if meshes and bool((told < 1.0).any()):
        parts = torch.lerp(with_hands(parts, small), parts, told)
    return guided(parts, small, image).to(device, dtype)


def with_hands(parts: Tensor, image: Tensor) -> Tensor:
    """Return maps [1, 4, h, w] in which what is in front and has the colours of the skin that is known is skin too."""
    place = parts[0].double().numpy()
    place = np.stack([place[SKIN] + HANDS * place[REST], place[HAIR], place[BACKGROUND], (1.0 - HANDS) * place[REST]]) + 1e-4
    share = by_colour(place / place.sum(axis=0), to_lab(image), np.ones(place.shape[1:]))
    return torch.from_numpy(share).float()[None]


def to_lab(image: Tensor) -> np.ndarray:
    """Return an image [1, 3, h, w] in [-1, 1] in Lab, [h, w, 3]."""
    return rgb2lab(image[0].permute(1, 2, 0).double().numpy() / 2.0 + 0.5)


def resized(image: Tensor, size: Sequence[int]) -> Tensor:
    """Return images [N, C, H, W] at another size (height, width), without aliasing."""
    if list(image.shape[2:]) == list(size):
        return image
    finer = min(image.shape[2:]) > min(size)
    return F.interpolate(image, size=tuple(size), mode="bilinear", antialias=finer, align_corners=False)


def foreground(image: Tensor) -> Tensor:
    """Return how far each pixel of an image [1, 3, H, W] belongs to a person, [1, 1, H, W] in 0..1."""
    side = net(SELFIE).side
    seen = resized(image, (side, side)) / 2.0 + 0.5
    mask = net(SELFIE)(seen.permute(0, 2, 3, 1).numpy())[0]  # [1, S, S, 1]
    return resized(torch.from_numpy(mask).permute(0, 3, 1, 2), image.shape[2:]).clamp(0.0, 1.0)


def with_face(parts: Tensor, image: Tensor, mesh: np.ndarray) -> Tensor:
    """Return maps [1, 5, h, w] of a frame in which those around one face are told by ``local_parts``, and the last is 1 there.

    Args:
        parts: of the frame.
        image: [1, 3, H, W], the frame at its own size.
        mesh: [468, 3] in px of ``image``.
    """
    height, width = image.shape[2:]
    quad = ffhq_quad(landmarks_of(mesh)) + 0.5
    centre, right, down = quad.mean(axis=0), (quad[3] - quad[0]) / 2.0 * LOCAL_SHARE, (quad[1] - quad[0]) / 2.0 * LOCAL_SHARE
    # Square to photo: u right + v down + centre with u, v in [-1, 1].
    turn = np.stack([right, down], axis=1)  # [2, 2]
    unit = np.array([2.0 / width, 2.0 / height])
    there = torch.tensor(np.concatenate([turn * unit[:, None], (centre * unit - 1.0)[:, None]], axis=1), dtype=torch.float32)
    grid = F.affine_grid(there[None], [1, 3, LOCAL_SIDE, LOCAL_SIDE], align_corners=False)
    finer = max(1.0, 2.0 * float(np.hypot(*right)) / LOCAL_SIDE)
    source = resized(image, [max(8, round(s / finer)) for s in image.shape[2:]]) if finer > 1.5 else image
    crop = F.grid_sample(source, grid, mode="bilinear", padding_mode="border", align_corners=False)
    inside = ((grid.abs() <= 1.0).all(dim=3)).float()[:, None]
    within = (np.linalg.inv(turn) @ (mesh[:, :2] + 0.5 - centre).T).T / 2.0 + 0.5  # fractions of the square
    told = torch.cat([local_parts(crop, within, inside), torch.ones_like(inside)], dim=1)
    # Back: for each pixel of the frame where it lies in the square.
    back = np.linalg.inv(np.concatenate([there.numpy().astype(np.float64), [[0.0, 0.0, 1.0]]]))[:2]
    grid = F.affine_grid(torch.tensor(back, dtype=torch.float32)[None], [1, 5, *parts.shape[2:]], align_corners=False)
    edge = ((1.0 - grid.abs().amax(dim=3)) / 0.1).clamp(0.0, 1.0)[:, None]
    told = F.grid_sample(told, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return torch.lerp(parts, told, edge)


def local_parts(crop: Tensor, points: np.ndarray, inside: Tensor) -> Tensor:
    """Return the maps [1, 4, S, S] of an upright square around a face.

    Args:
        crop: [1, 3, S, S] in [-1, 1].
        points: the mesh's vertices [468, 2] as fractions of the side.
        inside: [1, 1, S, S], 1 where the picture has pixels.
    """
    oval, above = oval_masks(points, crop.shape[3])
    place, ahead = likely_places(crop, points), foreground(crop)[0, 0].double().numpy()
    if (ahead * oval).sum() < SEEN * oval.sum():  # etchings and the like, in which it sees nobody
        ahead = 1.0 - place[BACKGROUND]
    ahead = np.maximum(ahead, oval)
    near, neck = reach(points, crop.shape[3])
    place[SKIN] *= near
    place[HAIR] *= 1.0 - (1.0 - HAIR_ON_NECK) * neck
    # In the oval it is skin, and above the brows hair at most; outside it is what the network says, as far as it is in front.
    place[SKIN] = np.maximum(place[SKIN], oval)
    place[REST] *= 1.0 - oval
    place[HAIR] *= 1.0 - oval * (1.0 - above)
    place[HAIR] = np.maximum(place[HAIR], 0.15 * oval * above)
    place[BACKGROUND] = 0.0
    place = place + 1e-3
    place = place / place.sum(axis=0) * ahead
    place[BACKGROUND] = (1.0 - ahead) + 1e-4
    share = by_colour(place / place.sum(axis=0), to_lab(crop), inside[0, 0].numpy())
    # Below the brows no colour says otherwise.
    face = oval * (1.0 - above)
    share = share * (1.0 - face)
    share[SKIN] += face
    return torch.from_numpy(share).float()[None]


def by_colour(place: np.ndarray, lab: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return posteriors [4, S, S] of parts from likelihoods by place [4, S, S] and colours [S, S, 3] in Lab.

    Args:
        place: of sum 1.
        lab: colours.
        weight: [S, S], how far a pixel counts for the distributions.
    """
    low, high = np.array([0.0, -60.0, -60.0]), np.array([100.0, 80.0, 80.0])
    cell = np.clip((lab - low) / (high - low) * CELLS, 0, CELLS - 1).astype(int)
    index = (cell[..., 0] * CELLS + cell[..., 1]) * CELLS + cell[..., 2]  # [S, S]
    share = place
    for _ in range(ROUNDS):
        sure = np.where(share > 0.6, share, 0.0) * weight
        odds = np.empty_like(share)
        for part in range(len(share)):
            counts = np.bincount(index.ravel(), sure[part].ravel(), CELLS**3).reshape((CELLS,) * 3)
            counts = gaussian_filter(counts, SPREAD)
            odds[part] = counts.ravel()[index] / max(counts.sum(), 1.0)
        odds = odds / odds.sum(axis=0).clip(1e-12) + UNSEEN
        share = place * odds
        share = share / share.sum(axis=0)
        share = np.stack([gaussian_filter(each, 0.7) for each in share])
    return share


@lru_cache(maxsize=1)
def _network() -> PartsNetwork:
    return load_parts()


def likely_places(crop: Tensor, points: np.ndarray) -> np.ndarray:
    """Return what the network says of a square, [4, S, S] in this file's order; beyond its frame as at the frame's edge."""
    network, side = _network(), crop.shape[3]
    margin = round(side * (1.0 - 1.0 / LOCAL_SHARE) / 2.0)
    size = network.config.size
    middle = resized(crop[:, :, margin:side - margin, margin:side - margin], (size, size))
    landmarks = (landmarks_of(np.concatenate([points, np.zeros((468, 1))], axis=1)) - margin / side) * LOCAL_SHARE
    frame = torch.cat(face_frame(torch.from_numpy(landmarks).float()[None], size), dim=1)
    said = network(middle, frame).softmax(dim=1)[:, [0, 2, 1, 3]]
    said = resized(said, (side - 2 * margin,) * 2)
    return F.pad(said, (margin,) * 4, mode="replicate")[0].double().numpy()


def oval_masks(points: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return [S, S] each: how far a pixel lies in the face's oval, and above the brows."""
    from skimage.draw import polygon2mask

    oval = polygon2mask((side, side), points[list(OVAL)][:, ::-1] * side - 0.5).astype(float)
    brows = points[list(BROWS)]
    y, x = (np.indices((side, side)) + 0.5) / side
    line = np.interp(x[0], brows[:, 0], brows[:, 1])
    above = np.clip((line[None] - 0.01 - y) / 0.01, 0.0, 1.0)
    return gaussian_filter(oval, side * 0.005), above


def reach(points: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return [S, S] each: how far a pixel may be skin (ears and forehead end near the oval, the neck does not), and be neck."""
    oval = points[list(OVAL)]
    low, high = oval.min(axis=0), oval.max(axis=0)
    y, x = (np.indices((side, side)) + 0.5) / side
    right, down = (2.0 * (each - (a + b) / 2.0) / (b - a) for each, a, b in zip((x, y), low, high, strict=True))
    near = np.clip((SKIN_ENDS - np.hypot(right, down)) / FADES, 0.03, 1.0)
    below = np.clip((down - MOUTH) / 0.4, 0.0, 1.0)
    neck = np.clip((down - MOUTH - 0.1) / 0.3, 0.0, 1.0) * np.clip((NECK - np.abs(right)) / 0.2, 0.0, 1.0)
    return near + below * (1.0 - near), neck


def guided(maps: Tensor, guide: Tensor, image: Tensor) -> Tensor:
    """Return maps [1, 4, h, w] at the size of an image [1, 3, H, W], smoothed but for its edges; the sum stays 1.

    In every window maps are a linear function of the picture's three colours (He et al. 2010, equations 14 and 15).

    Args:
        guide: the image at the maps' size.
    """
    x, p = (guide[0] / 2.0 + 0.5).numpy(), maps[0, :-1].numpy()  # the last map follows from the others
    radius = 2 * max(1, round(RADIUS * max(x.shape[1:]))) + 1

    def mean(values: np.ndarray) -> np.ndarray:
        return uniform_filter(values, (0, radius, radius), mode="nearest")

    mx, mp = mean(x), mean(p)
    pairs = [(i, j) for i in range(3) for j in range(i, 3)]
    a, b, c, d, e, f = (value - mx[i] * mx[j] + (SOFTNESS if i == j else 0.0)
                        for (i, j), value in zip(pairs, mean(np.stack([x[i] * x[j] for i, j in pairs])), strict=True))
    both = np.stack([mean(x * each) - mx * middle for each, middle in zip(p, mp, strict=True)])  # [3, 3, h, w]
    # The inverse of the symmetric matrix [[a, b, c], [b, d, e], [c, e, f]], by its cofactors.
    inverse = np.array([[d * f - e * e, c * e - b * f, b * e - c * d], [c * e - b * f, a * f - c * c, b * c - a * e],
                        [b * e - c * d, b * c - a * e, a * d - b * b]])
    inverse /= a * inverse[0, 0] + b * inverse[0, 1] + c * inverse[0, 2]
    slopes = np.stack([(inverse * each[None]).sum(axis=1) for each in both])  # [3, 3, h, w]
    rest = mp - (slopes * mx).sum(axis=1)
    coefficients = np.concatenate([mean(slopes.reshape(9, *x.shape[1:])), mean(rest)])
    *slopes, rest = resized(torch.from_numpy(coefficients)[None], image.shape[2:]).split(3, dim=1)
    made = rest.clone()
    for part, slope in enumerate(slopes):
        made[:, part] += (slope * (image / 2.0 + 0.5)).sum(dim=1)
    made = torch.cat([made, 1.0 - made.sum(dim=1, keepdim=True)], dim=1).clamp_(1e-4, 1.0)
    return made / made.sum(dim=1, keepdim=True)
