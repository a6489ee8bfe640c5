"""Which part of a picture each pixel is, skin, background, hair or the rest, by colours and landmarks, for a network to learn.

Single labels are wrong now and then, where hair has the colour of what is behind it or a jacket that of hair; a network that
learns thousands of them learns what they have in common.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter
from skimage.color import rgb2lab

from data.drawing import smoothed
from data.features import head_mask
from data.filters_drawn import skin_mask

# Difference of colours in Lab at which a part is e times less likely; of lightness and of both hues, for skin.
WIDTH, SKIN_WEIGHTS = 6.0, (0.6, 1.2, 1.2)
# Pixels that a part's colour must be told by, and the difference that stands for unknown ones; difference from skin below which
# what is above the forehead says nothing of hair.
FEWEST, UNKNOWN, BARE = 30, 18.0, 9.0


def part_labels(picture: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return how far each pixel is skin (also ears and neck), background, hair or the rest, [4, S, S] of sum 1.

    Args:
        picture: [S, S, 3] in 0..1, a photo.
        points: landmarks [68, 2] as fractions of the side.
    """
    side = len(picture)
    head, skin = head_mask(picture, points), skin_mask(picture, points)
    lab = rgb2lab(smoothed(picture, 0.012, epsilon=0.01, passes=2))
    y, x = (np.indices((side, side)) + 0.5) / side
    eyes_y, chin = points[36:48, 1].mean(), points[8, 1]
    height, half = chin - eyes_y, np.ptp(points[:17, 0]) / 2.0
    down, up = (y - chin) / height, (eyes_y - y) / height
    away = np.hypot((x - points[27, 0]) / half, (y - eyes_y) / half)
    outside = (head > 0.9) & (skin < 0.05)

    def colour(where: np.ndarray) -> np.ndarray | None:
        return np.median(lab[where], axis=0) if where.sum() >= FEWEST else None

    def unlike(middle: np.ndarray | None, weights: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> np.ndarray:
        if middle is None:
            return np.full((side, side), UNKNOWN)
        return np.linalg.norm((lab - middle) * weights, axis=2)

    flesh, crown = colour(skin > 0.9), colour(outside & (y < max(eyes_y - 0.75 * height, 0.06)))
    body = colour(outside & (down > 0.1) & (np.abs(x - points[27, 0]) > 0.6 * half))
    bare = UNKNOWN if crown is None or flesh is None else max(0.0, BARE - np.linalg.norm((crown - flesh) * SKIN_WEIGHTS))
    # Foreheads end, hair hangs down beside the face and not over the chest, and shoulders begin below the mouth.
    distances = np.stack([
        unlike(flesh, SKIN_WEIGHTS) + 40.0 * np.clip(down - 0.5, 0.0, 1.0) + 25.0 * np.clip(up - 0.8, 0.0, 1.0),
        unlike(crown) + bare + 20.0 * np.clip(away - 2.2, 0.0, None)
        + np.where(away < 1.6, 10.0, 25.0) * np.clip(down / 0.3, 0.0, 1.0),
        unlike(body) + 60.0 * np.clip(0.1 - down, 0.0, 1.0)])
    share = np.exp(-np.clip(distances - distances.min(axis=0), 0.0, 60.0) / WIDTH)
    share = np.stack([gaussian_filter(each, 0.008 * side) for each in share / share.sum(axis=0)])
    share[0] = np.maximum(share[0], 1.5 * skin)
    share /= share.sum(axis=0)
    made = np.stack([share[0] * head, 1.0 - head, share[1] * head, share[2] * head])
    return made / made.sum(axis=0)
