#!/usr/bin/env python3
"""Sweep one control of a style, the deformation degree alpha by default: a labelled strip per face, and an animation."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from pipeline import cli
from pipeline.published import add_file_options, add_switches, apply
from styles.controls import REGIONS, ByRegion, Control, Look


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="deformation_control.py", description=__doc__)
    cli.add_controls(parser, argv, default=cli.DEFAULT_STYLE, samples=True)
    parser.add_argument("--control", default=None, help="which control of the style is swept; its first number if not given")
    parser.add_argument("--alpha0", "--first", type=cli.finite_float, default=None,
                        help="first value; the start of the control's range if not given")
    parser.add_argument("--alpha1", "--last", type=cli.finite_float, default=None, help="last value, likewise")
    parser.add_argument("--split", type=cli.positive_int, default=6, help="intervals between them")
    parser.add_argument("--region", choices=REGIONS, default=None,
                        help="sweep one region of the face only; the others take the control's own option, or 0")
    parser.add_argument("--n_sample", type=cli.positive_int, default=1, help="number of strips")
    parser.add_argument("--n_each", type=cli.positive_int, default=1, help="faces per strip file")
    parser.add_argument("--truncation", type=cli.finite_float, default=0.7, help="truncation psi")
    parser.add_argument("--size", type=cli.non_negative_int, default=0, help="side of a face in px; 0 is the network's")
    parser.add_argument("--animate", choices=("gif", "mp4"), default=None, help="also write an animation per strip")
    parser.add_argument("--frames", type=cli.positive_int, default=24, help="frames from alpha0 to alpha1")
    parser.add_argument("--base", default=None, help="base generator; default is the one the style was trained from")
    parser.add_argument("--output", type=Path, default=Path("outputs/control"), help="output folder")
    add_file_options(parser)
    add_switches(parser)
    cli.add_common(parser, outdir=False, seed=2334)
    args = parser.parse_args(argv)
    control = swept(args, parser)
    if args.region is not None:  # the other regions rest unless they are told otherwise
        parser.set_defaults(**{control.name: 0.0})
        args = parser.parse_args(argv)
    args.swept = control
    low, high = args.swept.range
    args.alpha0, args.alpha1 = (low if args.alpha0 is None else args.alpha0, high if args.alpha1 is None else args.alpha1)
    return args


def swept(args: Namespace, parser: cli.ArgumentParser) -> Control:
    """Return the control that is swept; ends with one line where the style has no such one."""
    numbers = {control.name: control for control in args.controls if control.type == "number"}
    name = (args.control or next(iter(numbers), "")).replace("-", "_")
    if name not in numbers:
        parser.error(f"argument --control: the style {args.style} has no number {name!r}; it has {', '.join(numbers) or 'none'}")
    if args.region and numbers[name].per != "region":
        parser.error(f"argument --region: {name} of the style {args.style} is one number for the whole face")
    return numbers[name]


def linear(first: float, last: float, count: int) -> list[float]:
    """Return ``count`` evenly spaced values from ``first`` to ``last``."""
    return [first + (last - first) * i / max(count - 1, 1) for i in range(count)]


def look_at(args: Namespace, value: float) -> Look:
    """Return the look of one frame of the sweep: the value everywhere, or in the swept region only."""
    look, name = cli.look_of(args), args.swept.name
    if args.region is None:
        return look.changed(**{name: value})
    rest = look[name] if isinstance(look[name], ByRegion) else ByRegion(look[name])
    others = tuple((region, degree) for region, degree in rest.degrees if region != args.region)
    return look.changed(**{name: ByRegion(rest.default, (*others, (args.region, value)))})


def run(args: Namespace) -> int:
    from tqdm import tqdm

    from data.animation import save_animation
    from data.grids import grid
    from data.images import save_image
    from pipeline import sampling
    from pipeline.faces import FaceFinder
    from styles.registry import load_style

    cli.ensure_dir(args.output)
    device = cli.resolve_device(args.device)
    style = load_style(args.style, device=device)
    apply(args, style)
    base = sampling.base_of(style, name=args.base)
    dtype = cli.resolve_dtype(args.dtype, device)
    finder = FaceFinder() if look_at(args, 0.0).has_regions else None
    alphas = linear(args.alpha0, args.alpha1, args.split + 1)
    word = args.region or args.swept.name.replace("_", " ")
    labels = ["original", *(f"{word} {alpha:.2f}" for alpha in alphas)]
    for number in tqdm(range(args.n_sample), desc="strips", disable=args.n_sample < 2):
        indices = list(range(number * args.n_each, (number + 1) * args.n_each))
        with cli.autocast(device, dtype):
            drawn = sampling.random_faces(style, args.seed, indices, truncation_psi=args.truncation)
            original = sampling.base_images(base, args.seed, indices, truncation_psi=args.truncation).float().cpu()
        landmarks = sampling.face_landmarks(original, finder) if finder else None

        def faces(alpha: float):  # noqa: ANN202 - a tensor [N, 3, S, S] on the CPU
            with cli.autocast(device, dtype):
                return style.draw(drawn, look_at(args, alpha), landmarks=landmarks).float().cpu()

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
