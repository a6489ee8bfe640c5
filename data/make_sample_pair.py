#!/usr/bin/env python3
"""Make the bundled sample pair and sample photos from the starter generator: no photo of a person is shipped.

The source is a face sampled from the starter. The target is the same face with larger eyes, a narrower jaw and a wider
mouth (a known thin-plate-spline warp at its landmarks), drawn by the painterly filter.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from checkpoints.builders import Base, load_base
from data.filters import paint
from data.images import save_image, to_pil
from data.warps import SAMPLE, deform
from faces.find import FaceFinder
from pipeline.sampling import base_images

SIDE = 512


def find_landmarks(finder: FaceFinder, image: Tensor) -> np.ndarray:
    """Return 68 landmarks [68, 2] as fractions of the side of one image [1, 3, S, S]; raises ValueError without a face."""
    faces = finder.find(to_pil(image))
    if not faces:
        raise ValueError("no face found in the sampled image; choose another seed")
    return faces[0].landmarks / image.shape[3]


def make_pair(base: Base, finder: FaceFinder, *, seed: int, index: int, psi: float) -> tuple[Tensor, Tensor]:
    """Return source and target [1, 3, 512, 512] of image ``index`` of a seed."""
    small = base_images(base, seed, [index], truncation_psi=psi)
    source = F.interpolate(small, size=(SIDE, SIDE), mode="bicubic", antialias=True).clamp(-1.0, 1.0)
    warped = deform(source, find_landmarks(finder, source), SAMPLE)
    return source, paint(warped, radius=4, levels=8, outline=0.35)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default="starter", help="base generator")
    parser.add_argument("--seed", type=int, default=1, help="seed of the sampled face")
    parser.add_argument("--index", type=int, default=2, help="number of the face within the seed")
    parser.add_argument("--truncation", type=float, default=0.7, help="truncation psi")
    parser.add_argument("--photos", type=int, default=3, help="number of sample inputs")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="data folder")
    args = parser.parse_args(argv)
    base, finder = load_base(args.base), FaceFinder()
    source, target = make_pair(base, finder, seed=args.seed, index=args.index, psi=args.truncation)
    save_image(args.output / "style_images_aligned" / "source_sample.png", source)
    save_image(args.output / "style_images_aligned" / "target_sample.png", target)
    with torch.no_grad():
        for index in range(args.photos):
            photo = base_images(base, args.seed + 1, [index], truncation_psi=args.truncation)
            photo = F.interpolate(photo, size=(SIDE, SIDE), mode="bicubic", antialias=True).clamp(-1.0, 1.0)
            save_image(args.output / "test_inputs" / f"{index + 1:03d}.png", photo)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
