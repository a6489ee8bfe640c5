"""``python -m data.make_look_pairs NAME... --output FOLDER``: a sampled face and its drawing, for every look."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from torch.nn import functional as F

from checkpoints.builders import load_base
from data.images import save_image
from data.looks import READY, draw_look, look_named
from data.make_sample_pair import SIDE, find_landmarks
from pipeline import cli
from faces.find import FaceFinder
from pipeline.sampling import base_images

PSI = 0.7


def write_pair(name: str, folder: Path, *, base: str = "starter") -> tuple[Path, Path]:
    """Write ``NAME_source.png`` and ``NAME_target.png`` of 512 px and return their paths.

    Raises:
        ValueError: for an unknown look, or where no face is found in its sampled face.
    """
    seed, index = look_named(name).face
    small = base_images(load_base(base), seed, [index], truncation_psi=PSI)
    source = F.interpolate(small, size=(SIDE, SIDE), mode="bicubic", antialias=True).clamp(-1.0, 1.0)
    target = draw_look(name, source, find_landmarks(FaceFinder(), source))
    paths = folder / f"{name}_source.png", folder / f"{name}_target.png"
    for path, image in zip(paths, (source, target), strict=True):
        save_image(path, image)
    return paths


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="python -m data.make_look_pairs", description=__doc__)
    parser.add_argument("looks", nargs="*", help="names of looks; all but the held-out ones where none is given")
    parser.add_argument("--output", type=Path, default=Path("outputs/styles/pairs"), help="folder")
    return parser.parse_args(argv)


def run(args: Namespace) -> int:
    for name in args.looks or READY:
        try:
            print(*write_pair(name, args.output), flush=True)
        except ValueError as error:
            raise cli.UserError(str(error)) from error
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
