#!/usr/bin/env python3
"""Give one person another's expression: a photo says who, another photo, a clip, landmarks or a name say which."""

from __future__ import annotations

import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Sequence
from pathlib import Path

from pipeline import cli

# Options that say how a latent is optimised.
PUBLISHED_ALONE = ("network", "fan", "num_steps", "num_steps_first", "lpips_weight", "landmark_weight", "d_weight",
                   "fidelity_weight", "smoothness_weight")


def weights(text: str) -> tuple[float, ...] | tuple[tuple[str, float], ...]:
    """Parse nine numbers, or GROUP=NUMBER,... by name."""
    parts = [part.strip().rpartition("=") for part in text.split(",")]
    try:
        numbers = [float(number) for _, _, number in parts]
    except ValueError:
        numbers = []
    named = [name.strip() for name, equals, _ in parts if equals]
    if not numbers or len(named) not in (0, len(parts)) or (not named and len(parts) != 9):
        raise ArgumentTypeError(f"expected nine numbers, or GROUP=NUMBER,..., got {text!r}")
    return tuple(zip(named, numbers, strict=True)) if named else tuple(numbers)


def add_animation(parser: cli.ArgumentParser) -> None:
    group = parser.add_argument_group("animations")
    group.add_argument("--target_landmarks_folder", type=Path, default=None, help="the same as --target-landmarks FOLDER")
    group.add_argument("--smooth", type=cli.finite_float, default=0.5, help="smoothing of the driving face over time, 0 to 1")
    group.add_argument("--halfway", type=cli.str2bool, default=None,
                       help="a frame halfway between each two; default true for folders, false for clips")
    group.add_argument("--fps", type=cli.positive_int, default=10, help="photos of a folder per second")


def add_published(parser: cli.ArgumentParser) -> None:
    group = parser.add_argument_group("published profile", "options of --profile published alone")
    group.add_argument("--network", "--base", dest="network", default=None,
                       help="generator: starter (default), official or a file, also a pickle of stylegan2-ada-pytorch")
    group.add_argument("--fan", type=Path, default=None,
                       help="face-alignment's 2DFAN4 file; the starter's network without one")
    group.add_argument("--num_steps", type=cli.positive_int, default=None, help="steps; default 1000")
    group.add_argument("--num_steps_first", type=cli.positive_int, default=None,
                       help="steps of the first frame; default --num-steps")
    for name, value, what in (("lpips", 1.0, "picture's distance from the look"), ("landmark", 0.1, "landmarks"),
                              ("d", 0.0, "discriminator"), ("fidelity", 0.05, "distance from the mean latent"),
                              ("smoothness", 0.05, "distance from the last frame's latents")):
        group.add_argument(f"--{name}_weight", type=cli.finite_float, default=None, help=f"weight of the {what}; default {value}")


def parse(argv: Sequence[str] | None) -> Namespace:
    words = list(sys.argv[1:] if argv is None else argv)
    parser = cli.ArgumentParser(prog="project_landmarks.py", description=__doc__)
    parser.add_argument("--target_look", type=Path, required=True, help="photo of who")
    parser.add_argument("--target_landmarks", default=None,
                        help="which expression: photo, folder, clip, landmark file (68 points; npy, json, csv, pts), or "
                             "neutral, smile, 'open mouth', 'raised brows', wink")
    parser.add_argument("--landmark_weights", type=weights, default=None,
                        help="how far each part goes, mouth=1.5,eyes=0 (all, brows, eyes, mouth; 1 is all of the way); published "
                             "profile: weights by group, or the nine numbers")
    parser.add_argument("--profile", choices=("starter", "published"), default="starter",
                        help="starter moves the photo's own pixels; published optimises a latent, with the published objective, "
                             "schedule and oddities")
    parser.add_argument("--save_video", type=cli.str2bool, nargs="?", const=True, default=False,
                        help="proj.mp4 of the way to the expression; published: of the optimisation")
    cli.add_finder(parser)
    add_animation(parser)
    add_published(parser)
    if any(word.partition("=")[0] == "--style" for word in words):
        cli.add_controls(parser, words, default=cli.DEFAULT_STYLE)
    else:
        parser.add_argument("--style", default=None, help="also draw the result with this style")
    cli.add_common(parser, outdir=False, seed=303)
    parser.add_argument("--outdir", "--output", dest="outdir", type=Path, default=Path("outputs/project_landmarks"),
                        help="output folder")
    args = parser.parse_args(words)
    if args.target_landmarks_folder is not None:
        args.target_landmarks = str(args.target_landmarks_folder)
    if args.target_landmarks is None:
        parser.error("argument --target-landmarks: say which expression: a photo, folder, clip, landmark file, or a name "
                     "such as smile")
    if not 0.0 <= args.smooth <= 1.0:
        parser.error(f"argument --smooth: expected a number within 0 and 1, got {args.smooth}")
    if args.profile == "starter":
        for name in PUBLISHED_ALONE:
            if getattr(args, name) is not None:
                parser.error(f"argument --{name}: belongs to the published profile; add --profile published or leave it out")
    return args


def nine(args: Namespace) -> tuple[float, ...]:
    """Return the published weights by group that the options ask for."""
    from losses.heat_maps import group_weights, named_weights
    from training.published_projection import PUBLISHED_WEIGHTS

    given = args.landmark_weights
    try:
        by_name = given is not None and isinstance(given[0], tuple)
        found = named_weights(given, default=PUBLISHED_WEIGHTS) if by_name else given or PUBLISHED_WEIGHTS
        group_weights(found)
    except ValueError as error:
        raise cli.UserError(f"--landmark-weights: {error}") from error
    return found


def parts(args: Namespace) -> dict[str, float]:
    """Return how far each part of the face goes."""
    from drawing.expression import shares_of

    given = args.landmark_weights or ()
    try:
        if given and not isinstance(given[0], tuple):
            raise ValueError("nine numbers are weights of the published profile; name parts, as in mouth=1.5,eyes=0")
        shares_of(dict(given))
    except ValueError as error:
        raise cli.UserError(f"--landmark-weights: {error}") from error
    return dict(given)


def run_starter(args: Namespace) -> int:
    """Move the photo's own pixels."""
    from pipeline.stylize import build_stylizer
    from projection.runs import animate, is_animation
    from projection.stills import Studio, project_photo

    given = parts(args)
    stylizer = build_stylizer(args.style, device=cli.resolve_device(args.device)) if args.style else None
    studio = Studio(cli.finder_of(args).make(), given, stylizer, cli.look_of(args) if args.style else None)
    if is_animation(args.target_landmarks):
        return animate(studio, args)
    for path in project_photo(studio, args.target_look, args.target_landmarks, args.outdir, save_video=args.save_video):
        print(path)
    return 0


def run(args: Namespace) -> int:
    cli.ensure_dir(args.outdir)
    if args.profile == "starter":
        return run_starter(args)
    from projection.runs import run_published

    return run_published(args, nine(args))


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
