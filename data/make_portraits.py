"""``python -m data.make_portraits FOLDER``: portraits of sampled faces, deformed, drawn and recoloured at random.

Beside the PNG files lies ``truth.npz`` with, in their order, ``names``, ``looks``, and the landmarks [K, 68, 2] before and
after the deformation, ``points`` and ``moved``.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from checkpoints.builders import Base, load_base
from checkpoints.io import atomic_write
from data.images import save_image, to_pil
from data.random_drawings import DRAWN_SIDE, drawing, taught_looks
from faces.find import FaceFinder
from pipeline import cli
from pipeline.sampling import base_images

PSI = 0.9


def find_landmarks(finder: FaceFinder, image: Tensor) -> np.ndarray:
    """Return 68 landmarks [68, 2] as fractions of the side of one image [1, 3, S, S]; raises ValueError without a face."""
    faces = finder.find(to_pil(image))
    if not faces:
        raise ValueError("no face found in the sampled image; choose another seed")
    return faces[0].landmarks / image.shape[3]


def portrait(base: Base, number: int, look: str, *, seed: int, recoloured: float, least_warp: float,
             own_warp: bool) -> tuple[Image.Image, np.ndarray, np.ndarray]:
    """Return one portrait of ``DRAWN_SIDE`` px, and its landmarks [68, 2] before and after the deformation.

    Raises:
        ValueError: where no face is found in the sampled face.
    """
    face = base_images(base, seed, [number], truncation_psi=PSI)
    face = F.interpolate(face, size=(DRAWN_SIDE, DRAWN_SIDE), mode="bicubic", align_corners=False).clamp(-1.0, 1.0)
    points = find_landmarks(FaceFinder(), face)
    made, moved = drawing(face, points, taught_looks()[look], seed=number, recoloured=recoloured, least_warp=least_warp,
                          own_warp=own_warp)
    return Image.fromarray((made * 255.0).round().astype(np.uint8)), points, moved


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="python -m data.make_portraits", description=__doc__)
    parser.add_argument("folder", type=Path, help="to write into")
    parser.add_argument("--count", type=cli.positive_int, default=36, help="number of portraits")
    parser.add_argument("--looks", type=lambda text: tuple(text.split(",")), default=None,
                        help="looks to draw in, A,B,..., in turn; all that may be taught where not given")
    parser.add_argument("--size", type=cli.positive_int, default=128, help="side in px")
    parser.add_argument("--recoloured", type=cli.finite_float, default=0.5, help="share that gets other colours")
    parser.add_argument("--least_warp", type=cli.finite_float, default=0.7, help="least strength of the deformations, 0 to 1")
    parser.add_argument("--own_warp", action="store_true", help="deform every face as its look does, in place of at random")
    parser.add_argument("--base", default="starter", help="generator of the faces")
    parser.add_argument("--seed", type=cli.non_negative_int, default=0, help="of the faces")
    return parser.parse_args(argv)


def run(args: Namespace) -> int:
    base, looks = load_base(args.base), args.looks or tuple(taught_looks())
    unknown = sorted(set(looks) - set(taught_looks()))
    if unknown:
        raise cli.UserError(f"--looks: there is no {', '.join(unknown)}; there are {', '.join(taught_looks())}")
    truth: dict[str, list] = {name: [] for name in ("names", "looks", "points", "moved")}
    number = 0
    while len(truth["names"]) < args.count:
        look = looks[len(truth["names"]) % len(looks)]
        number += 1
        try:
            image, points, moved = portrait(base, number - 1, look, seed=args.seed, recoloured=args.recoloured,
                                            least_warp=args.least_warp, own_warp=args.own_warp)
        except ValueError:
            cli.report(f"sampled face {number - 1}: no face found; the next one is taken")
            continue
        name = f"{look}_{number - 1:02d}.png"
        save_image(args.folder / name, image.resize((args.size, args.size), Image.Resampling.LANCZOS))
        for values, value in zip(truth.values(), (name, look, points, moved), strict=True):
            values.append(value)
        print(args.folder / name, flush=True)
    with atomic_write(args.folder / "truth.npz") as temporary, open(temporary, "wb") as file:
        np.savez(file, **{name: np.array(values) for name, values in truth.items()})
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
