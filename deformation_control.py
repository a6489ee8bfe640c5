#!/usr/bin/env python3
"""Sweep the deformation degree alpha: one labelled strip per face, and an animation on request."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from pipeline import cli
from pipeline.regions import REGIONS, RegionAlpha, parse_alpha


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="deformation_control.py", description=__doc__)
    parser.add_argument("--style", default="sample", help="name of a style in checkpoints/, a file, or a mixture a:0.7,b:0.3")
    parser.add_argument("--alpha0", type=cli.finite_float, default=-0.5, help="first deformation degree")
    parser.add_argument("--alpha1", type=cli.finite_float, default=1.0, help="last deformation degree")
    parser.add_argument("--split", type=cli.positive_int, default=6, help="intervals between them")
    parser.add_argument("--region", choices=REGIONS, default=None, help="sweep one region of the face only")
    parser.add_argument("--alpha", type=parse_alpha, default=0.0,
                        help="degree of the other regions with --region, a number or degrees by region")
    parser.add_argument("--color_strength", type=cli.finite_float, default=None,
                        help="0 keeps the face's colours, 1 takes the drawing's; default leaves them to the generator")
    parser.add_argument("--n_sample", type=cli.positive_int, default=1, help="number of strips")
    parser.add_argument("--n_each", type=cli.positive_int, default=1, help="faces per strip file")
    parser.add_argument("--truncation", type=cli.finite_float, default=0.7, help="truncation psi")
    parser.add_argument("--size", type=cli.non_negative_int, default=0, help="side of a face in px; 0 is the network's")
    parser.add_argument("--animate", choices=("gif", "mp4"), default=None, help="also write an animation per strip")
    parser.add_argument("--frames", type=cli.positive_int, default=24, help="frames from alpha0 to alpha1")
    parser.add_argument("--base", default=None, help="base generator; default is the one the style was trained from")
    parser.add_argument("--output", type=Path, default=Path("outputs/control"), help="output folder")
    cli.add_common(parser, outdir=False, seed=2334)
    return parser.parse_args(argv)


def linear(first: float, last: float, count: int) -> list[float]:
    """Return ``count`` evenly spaced values from ``first`` to ``last``."""
    return [first + (last - first) * i / max(count - 1, 1) for i in range(count)]


def degree(args: Namespace, alpha: float) -> float | RegionAlpha:
    """Return the degree of one frame of the sweep: everywhere, or in the swept region only."""
    if args.region is None:
        return alpha
    rest = args.alpha if isinstance(args.alpha, RegionAlpha) else RegionAlpha(args.alpha)
    others = tuple((name, value) for name, value in rest.degrees if name != args.region)
    return RegionAlpha(rest.default, (*others, (args.region, alpha)))


def run(args: Namespace) -> int:
    from tqdm import tqdm

    from checkpoints.mixing import load_look
    from data.animation import save_animation
    from data.grids import grid
    from data.images import save_image
    from pipeline import sampling
    from pipeline.faces import FaceFinder

    cli.ensure_dir(args.output)
    device = cli.resolve_device(args.device)
    style = load_look(args.style, device=device)
    base = sampling.base_of(style, device=device, name=args.base)
    dtype = cli.resolve_dtype(args.dtype, device)
    finder = FaceFinder() if args.region else None
    alphas = linear(args.alpha0, args.alpha1, args.split + 1)
    word = args.region or "alpha"
    labels = ["original", *(f"{word} {alpha:.2f}" for alpha in alphas)]
    for number in tqdm(range(args.n_sample), desc="strips", disable=args.n_sample < 2):
        indices = list(range(number * args.n_each, (number + 1) * args.n_each))
        with cli.autocast(device, dtype):
            w_plus = sampling.sample_w_plus(style, args.seed, indices, truncation_psi=args.truncation)
            original = sampling.base_images(base, args.seed, indices, truncation_psi=args.truncation).float().cpu()
        landmarks = sampling.face_landmarks(original, finder) if finder else None

        def faces(alpha: float):  # noqa: ANN202 - a tensor [N, 3, S, S] on the CPU
            look = sampling.Look(degree(args, alpha), args.color_strength)
            with cli.autocast(device, dtype):
                return sampling.styled_images(style, w_plus, look=look, landmarks=landmarks).float().cpu()

        columns = [original, *(faces(alpha) for alpha in alphas)]
        cell = args.size or original.shape[3]
        rows = [[column[i] for column in columns] for i in range(args.n_each)]
        path = sampling.fresh_path(args.output / f"{style.name}_{args.seed}_{number:04d}.png")
        save_image(path, grid(rows, cell=cell, column_labels=labels))
        print(path)
        if args.animate:
            frames = [grid([list(faces(alpha))], cell=cell, column_labels=[f"{word} {alpha:+.2f}"] * args.n_each)
                      for alpha in linear(args.alpha0, args.alpha1, args.frames)]
            animation = sampling.fresh_path(path.with_suffix(f".{args.animate}"))
            save_animation(animation, frames + frames[::-1], fps=12)
            print(animation)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
