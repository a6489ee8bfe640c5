#!/usr/bin/env python3
"""Sweep one control of a style, the deformation degree alpha by default, or morph through values or styles: a strip, a film."""

from __future__ import annotations

import itertools
import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline import cli
from pipeline.published import add_file_options, add_switches, apply
from styles.controls import REGIONS, ByRegion, Control, Look

# The control that says how much of a second value is mixed with the first.
SHARE = "second_share"


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="deformation_control.py", description=__doc__)
    words = sys.argv[1:] if argv is None else argv
    given = any(word.replace("-", "_").startswith(("__input_image", "__latents")) for word in words)
    cli.add_controls(parser, argv, default=cli.DEFAULT_STYLE, samples=not given)
    whose = parser.add_mutually_exclusive_group()
    whose.add_argument("--input_image", "--input-image", type=Path, default=None, help="photo whose faces are shown; random "
                                                                                      "faces where not given")
    whose.add_argument("--latents", type=Path, nargs="+", default=None, metavar="FILE",
                       help="files of latents whose faces are shown, see inference.py")
    parser.add_argument("--inversion", choices=("e4e", "optimize", "e4e+optimize"), default="e4e",
                        help="how the photo becomes latents")
    cli.add_finder(parser)
    parser.add_argument("--styles", default=None, metavar="A,B,...",
                        help="morph through these styles in place of a control")
    parser.add_argument("--control", default=None,
                        help="which control is swept; the first number if not given, with --values the first that mixes two")
    parser.add_argument("--values", nargs="+", default=None, metavar="A,B,...",
                        help="morph through these values of the control: names, picture files or numbers")
    parser.add_argument("--published_weights", action="store_true",
                        help="the 31 published weights between two styles or values, a sigmoid, in place of --frames even ones")
    parser.add_argument("--alpha0", "--first", type=cli.finite_float, default=None,
                        help="first value; the start of the control's range if not given")
    parser.add_argument("--alpha1", "--last", type=cli.finite_float, default=None, help="last value, likewise")
    parser.add_argument("--split", type=cli.positive_int, default=6, help="intervals between them")
    parser.add_argument("--region", choices=REGIONS, default=None,
                        help="sweep one region of the face only; the others take the control's own option, or 0")
    parser.add_argument("--sweep_edit", default=None,
                        help="sweep an editing direction instead, -2 to 2 where no ends are given: smile, age, ... or a file")
    parser.add_argument("--n_sample", type=cli.positive_int, default=1, help="number of strips")
    parser.add_argument("--n_each", type=cli.positive_int, default=1, help="faces per strip file")
    parser.add_argument("--truncation", type=cli.finite_float, default=None,
                        help="truncation psi; default is 0.7 for mapping networks, and 1 where a prior draws the faces")
    parser.add_argument("--size", type=cli.non_negative_int, default=0, help="side of a face in px; 0 is the network's")
    parser.add_argument("--animate", choices=("gif", "mp4"), default=None, help="also write an animation per strip")
    parser.add_argument("--frames", type=cli.positive_int, default=24, help="frames from alpha0 to alpha1")
    parser.add_argument("--base", default=None, help="base generator; default is the one the style was trained from")
    parser.add_argument("--output", "--outdir", dest="output", type=Path, default=Path("outputs/control"),
                        help="output folder")
    add_file_options(parser)
    add_switches(parser)
    cli.add_common(parser, outdir=False, seed=2334)
    args = parser.parse_args(argv)
    args.given = args.values
    control = swept(args, parser) if args.given is None else morphed(args, parser)
    if args.region is not None:  # the other regions rest unless they are told otherwise
        parser.set_defaults(**{control.name: 0.0})
        args = parser.parse_args(argv)
    args.swept, args.given = control, values_of(args, control, parser)
    low, high = (-2.0, 2.0) if args.sweep_edit else args.swept.range
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


def morphed(args: Namespace, parser: cli.ArgumentParser) -> Control:
    """Return the control whose --values are gone through; ends with one line where there is none, or two cannot be mixed."""
    if other := next((name for name in ("styles", "region", "sweep_edit") if getattr(args, name)), None):
        parser.error(f"argument --values: goes without --{other.replace('_', '-')}; give one of them")
    known = {control.name: control for control in args.controls}
    mixed = [name for name in known if {f"second_{name}", SHARE} <= set(known)]
    name = (args.control or next(iter(mixed), "")).replace("-", "_")
    if name not in known:
        parser.error(f"argument --control: the style {args.style} has no {name!r}; name one of {', '.join(known) or 'none'}")
    if args.animate and known[name].type != "number" and name not in mixed:
        parser.error(f"argument --animate: nothing lies between two values of {name}; leave it out for a strip alone")
    return known[name]


def values_of(args: Namespace, control: Control, parser: cli.ArgumentParser) -> list[Any] | None:
    """Return --values as the control takes them, or None; ends with one line for fewer than two, or one that it does not take."""
    if args.values is None:
        return None
    words = args.values if len(args.values) > 1 else args.values[0].split(",")
    if len(words) < 2:
        parser.error(f"argument --values: a morph needs at least two, got {args.values[0]!r}")
    try:
        return [cli.finite_float(word) if control.type == "number" else control.parse(word) for word in words]
    except ArgumentTypeError as error:
        parser.error(f"argument --values: {error}")


def shares_of(args: Namespace) -> list[float]:
    """Return the shares of the next style or value on the way from one to the next."""
    if not args.published_weights:
        return linear(0.0, 1.0, args.frames)
    from models.blending import interpolation_weights

    return interpolation_weights().tolist()


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


def control_frames(args: Namespace, style, subject) -> tuple[list, list, Iterator]:  # noqa: ANN001
    """Return labels and columns of a sweep through a control, and the frames of its animation with their labels."""
    from checkpoints.edits import load_directions
    from models.edits import Edit, edited

    word = args.sweep_edit or args.region or args.swept.name.replace("_", " ")
    directions = load_directions([Edit(args.sweep_edit, 0.0)], style.base) if args.sweep_edit else {}

    def faces(value: float):  # noqa: ANN202 - a tensor [N, 3, S, S] on the CPU
        if args.sweep_edit:
            face = edited(subject.face, [Edit(args.sweep_edit, value)], directions, style.base.generator)
            return style.draw(face, cli.look_of(args), landmarks=subject.landmarks).float().cpu()
        return style.draw(subject.face, look_at(args, value), landmarks=subject.landmarks).float().cpu()

    values = linear(args.alpha0, args.alpha1, args.split + 1)
    moving = ((f"{word} {value:+.2f}", faces(value)) for value in linear(args.alpha0, args.alpha1, args.frames))
    return [f"{word} {value:.2f}" for value in values], [faces(value) for value in values], moving


def style_frames(args: Namespace, styles: list, subject) -> tuple[list, list, Iterator]:  # noqa: ANN001
    """Return labels and columns of styles, and the frames of a morph from each to the next with their labels."""
    from styles.registry import mix_styles

    def faces(style):  # noqa: ANN001, ANN202 - a tensor [N, 3, S, S] on the CPU
        apply(args, style)
        return style.draw(subject.face, style.default_look(samples=args.input_image is None and args.latents is None),
                          landmarks=subject.landmarks).float().cpu()

    def moving() -> Iterator:
        for first, second in itertools.pairwise(styles):
            for share in shares_of(args):
                yield f"{first.name} {1 - share:.2f}", faces(mix_styles([first, second], [1.0 - share, share]))

    return [style.name for style in styles], [faces(style) for style in styles], moving()


def value_frames(args: Namespace, style, subject) -> tuple[list, list, Iterator]:  # noqa: ANN001
    """Return labels and columns of values, and the frames of a morph from each to the next with their labels."""
    name, look, values = args.swept.name, cli.look_of(args), args.given
    labels = [f"{name} {value:g}" if isinstance(value, float) else Path(str(getattr(value, "path", value))).stem
              for value in values]

    def faces(number: int, share: float = 0.0):  # noqa: ANN202 - a tensor [N, 3, S, S] on the CPU
        first, second = values[number], values[min(number + 1, len(values) - 1)]
        chosen = {name: first, f"second_{name}": second, SHARE: share}
        if isinstance(first, float):
            chosen = {name: (1.0 - share) * first + share * second}
        elif share in (0.0, 1.0):
            chosen = {name: second if share else first}
        return style.draw(subject.face, look.changed(**chosen), landmarks=subject.landmarks).float().cpu()

    moving = ((f"{labels[number]} {1 - share:.2f}", faces(number, share))
              for number in range(len(values) - 1) for share in shares_of(args))
    return labels, [faces(number) for number in range(len(values))], moving


def frames_of(args: Namespace, style, styles: list, subject) -> tuple[list, list, Iterator]:  # noqa: ANN001
    """Return labels and columns of what the options ask for, and the frames of its animation with their labels."""
    if styles:
        return style_frames(args, styles, subject)
    return control_frames(args, style, subject) if args.given is None else value_frames(args, style, subject)


def run(args: Namespace) -> int:
    from data.animation import save_animation
    from data.grids import grid
    from data.images import save_image
    from pipeline import sampling
    from pipeline.sweeps import subjects
    from styles.registry import load_style

    cli.ensure_dir(args.output)
    device = cli.resolve_device(args.device)
    style = load_style(args.style, device=device)
    if not args.styles:
        apply(args, style)
    base = sampling.base_of(style, name=args.base)
    args.truncation = sampling.default_truncation(style) if args.truncation is None else args.truncation
    dtype = cli.resolve_dtype(args.dtype, device)
    styles = [load_style(name.strip(), device=device) for name in args.styles.split(",")] if args.styles else []
    label = "-".join(one.name for one in styles) or style.name
    with cli.autocast(device, dtype):
        for subject in subjects(args, style, base, marked=look_at(args, 0.0).has_regions):
            labels, columns, moving = frames_of(args, style, styles, subject)
            cell, count = args.size or columns[0].shape[3], len(subject.face)
            rows = [[column[i] for column in (subject.original, *columns)] for i in range(count)]
            path = sampling.fresh_path(args.output / f"{label}_{subject.name}.png")
            save_image(path, grid(rows, cell=cell, column_labels=["original", *labels]))
            print(path)
            if args.animate:
                frames = [grid([list(faces)], cell=cell, column_labels=[text] * count) for text, faces in moving]
                animation = sampling.fresh_path(path.with_suffix(f".{args.animate}"))
                save_animation(animation, frames + frames[::-1], fps=12)
                print(animation)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
