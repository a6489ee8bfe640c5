#!/usr/bin/env python3
"""Cut the bundled row of upper teeth, ``data/teeth.png``, out of the public-domain portrait of Eileen Collins (NASA, 1999).

The row runs from the first tooth to the last, and from the gums to the edge of the lower lip. It is divided by its white, and
opaque where it is light and has little colour.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch.nn import functional as F

from checkpoints.io import atomic_write
from drawing.expression import INNER_CORNERS, LOWER_EDGE, UPPER_EDGE
from drawing.mouth import TEETH

WIDTH, HEIGHT = 256, 64
# Where the row lies: from one inner corner of the lips to the other, and from the edge of the upper lip to that of the lower.
ACROSS, DOWN = (0.05, 0.86), (0.17, 1.0)
# Light from which on a pixel is tooth, and colour (largest less smallest over largest) up to which it is.
LIGHT, COLOUR = (0.42, 0.62), (0.42, 0.26)


def ramp(values: np.ndarray, start: float, end: float) -> np.ndarray:
    """Return 0 at ``start`` and 1 at ``end``, linear between."""
    return np.clip((values - start) / (end - start), 0.0, 1.0)


def main() -> int:
    from skimage.data import astronaut

    from data.images import to_tensor
    from drawing.context import aligned_mesh
    from faces.align import align_face
    from faces.find import FaceFinder

    photo = Image.fromarray(astronaut())
    image = to_tensor(align_face(photo, FaceFinder().find(photo)[0].landmarks, output_size=512), 512)
    mesh = aligned_mesh(image)[0][0, :, :2].numpy().astype(np.float64)
    first, last = INNER_CORNERS
    x = np.interp(np.linspace(*ACROSS, WIDTH), [0.0, 1.0], mesh[[first, last], 0])
    upper, lower = (np.interp(x, *mesh[[first, *edge, last]].T) for edge in (UPPER_EDGE, LOWER_EDGE))
    share = np.interp((np.arange(HEIGHT)[:, None] + 0.5) / HEIGHT, [0.0, 1.0], DOWN)
    middle = (lower - upper).max()
    places = np.stack([np.broadcast_to(x, (HEIGHT, WIDTH)), upper + share * middle], axis=2)
    grid = torch.from_numpy(places * 2.0 - 1.0).float()[None]
    row = F.grid_sample(image, grid, mode="bicubic", align_corners=False)[0].permute(1, 2, 0).numpy() / 2.0 + 0.5
    inside = ramp((lower - upper) / middle - share, 0.0, 0.12)
    light, colour = row.mean(axis=2), 1.0 - row.min(axis=2) / row.max(axis=2).clip(1e-3)
    opaque = gaussian_filter(ramp(light, *LIGHT) * ramp(colour, *COLOUR) * inside, 1.0)
    white = np.quantile(row[opaque > 0.5], 0.98, axis=0)
    pixels = np.concatenate([(row / white).clip(0.0, 1.0), opaque[:, :, None]], axis=2)
    with atomic_write(TEETH) as temporary:
        Image.fromarray(np.uint8(pixels * 255.0 + 0.5), "RGBA").save(temporary, "PNG")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
