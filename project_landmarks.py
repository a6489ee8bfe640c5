#!/usr/bin/env python3
"""Give one person another's expression: a photo says who, another photo, a clip, landmarks or a name say which."""

from __future__ import annotations

import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Sequence
from pathlib import Path

from pipeline import cli


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
    group.add_argument("--num_steps_first", type=cli.positive_int, default=None,
                       help="steps of the first frame; default 30, published those of one photo")
    group.add_argument("--smooth", type=cli.finite_float, default=0.5, help="smoothing of landmarks over time, 0 to 1")
    group.add_argument("--halfway", type=cli.str2bool, default=None,
                       help="a frame halfway between each two; default true for folders, false for clips")
    group.add_argument("--latents", type=cli.str2bool, nargs="?", const=True, default=None,
                       help="the latents of every frame as NPZ by the frame's name; default true for folders, false for clips")
    group.add_argument("--fps", type=cli.positive_int, default=10, help="photos of a folder per second")
    for name, value, what in (("d", 0.0, "discriminator"), ("fidelity", 0.05, "distance from the mean latent"),
                              ("smoothness", 0.05, "distance from the last frame's latents")):
        group.add_argument(f"--{name}_weight", type=cli.finite_float, default=value,
                           help=f"published profile: weight of the {what}")


def add_objective(parser: cli.ArgumentParser) -> None:
    group = parser.add_argument_group("objective")
    group.add_argument("--landmark_weights", type=weights, default=None,
                       help="by group, mouth=5,eyes=0.2 (all, brows, eyes, nose, mouth, jaw or the nine published groups), or "
                            "the nine numbers; up to 1 it is the share of the way that a group goes")
    group.add_argument("--profile", choices=("starter", "published"), default="starter",
                       help="starter, or the published objective, schedule and oddities")
    group.add_argument("--num_steps", type=cli.positive_int, default=None,
                       help="steps; default 30 for a photo, 2 for a further frame; published 1000")
    group.add_argument("--lpips_weight", type=cli.finite_float, default=1.0,
                       help="weight of the picture's distance from the look")
    group.add_argument("--landmark_weight", type=cli.finite_float, default=None,
                       help="weight of the landmarks; default 0.3, published 0.1")
    group.add_argument("--identity_weight", type=cli.finite_float, default=0.05, help="weight of the identity distance")


def parse(argv: Sequence[str] | None) -> Namespace:
    words = list(sys.argv[1:] if argv is None else argv)
    parser = cli.ArgumentParser(prog="project_landmarks.py", description=__doc__)
    parser.add_argument("--target_look", type=Path, required=True, help="photo of who")
    parser.add_argument("--target_landmarks", default=None,
                        help="which expression: photo, folder, clip, landmark file (68 points; npy, json, csv, pts), or "
                             "neutral, smile, 'open mouth', 'raised brows', wink")
    add_objective(parser)
    parser.add_argument("--network", "--base", dest="network", default=None,
                        help="generator: starter, official or a file, also a pickle of stylegan2-ada-pytorch")
    parser.add_argument("--fan", type=Path, default=None,
                        help="published profile: face-alignment's 2DFAN4 file; the starter's network without one")
    parser.add_argument("--inversion", choices=("e4e", "optimize", "e4e+optimize"), default=None,
                        help="how the look becomes a face, which the projection refines; default is optimize for a --network "
                             "that has no encoder, else e4e+optimize")
    parser.add_argument("--inversion_steps", type=cli.positive_int, default=None,
                        help="its optimisation steps; default 50, without an encoder 200")
    parser.add_argument("--encoder", default=None, help="encoder; default is the one of the generator")
    parser.add_argument("--save_video", type=cli.str2bool, nargs="?", const=True, default=False,
                        help="proj.mp4 of the optimisation")
    add_animation(parser)
    if any(word.partition("=")[0] == "--style" for word in words):
        cli.add_controls(parser, words, default=cli.DEFAULT_STYLE)
    else:
        parser.add_argument("--style", default=None, help="also draw the result with this style")
    cli.add_common(parser, outdir=False, seed=303)
    parser.add_argument("--outdir", type=Path, default=Path("outputs/project_landmarks"), help="output folder")
    args = parser.parse_args(words)
    if args.target_landmarks_folder is not None:
        args.target_landmarks = str(args.target_landmarks_folder)
    if args.target_landmarks is None:
        parser.error("argument --target-landmarks: say which expression: a photo, folder, clip, landmark file, or a name "
                     "such as smile")
    if not 0.0 <= args.smooth <= 1.0:
        parser.error(f"argument --smooth: expected a number within 0 and 1, got {args.smooth}")
    return args


def nine(args: Namespace, default: Sequence[float]) -> tuple[float, ...]:
    """Return the weights by group that the options ask for."""
    from losses.heat_maps import group_weights
    from training.projection import named_weights

    given = args.landmark_weights
    try:
        by_name = given is not None and isinstance(given[0], tuple)
        found = named_weights(given, default=default) if by_name else given or tuple(default)
        group_weights(found)
    except ValueError as error:
        raise cli.UserError(f"--landmark-weights: {error}") from error
    return found


def run_starter(args: Namespace) -> int:
    """Project by moving the look's inversion."""
    from projection.stills import build_studio, project_photo
    from projection.runs import animate, is_animation
    from pipeline.stylize import InversionSettings
    from training.projection import STARTER_WEIGHTS, ProjectionSettings

    # Only the two that have a name come with an encoder of their own.
    alone = args.network not in (None, "starter", "official") and args.encoder is None
    mode = args.inversion or ("optimize" if alone else "e4e+optimize")
    settings = ProjectionSettings(
        steps=args.num_steps or ProjectionSettings.steps, weights=nine(args, STARTER_WEIGHTS),
        image_weight=args.lpips_weight,
        landmark_weight=ProjectionSettings.landmark_weight if args.landmark_weight is None else args.landmark_weight,
        identity_weight=args.identity_weight)
    studio = build_studio(
        settings, style=args.style, base=args.network, encoder=args.encoder, device=cli.resolve_device(args.device),
        inversion=InversionSettings(mode, args.inversion_steps or (200 if mode == "optimize" else 50)),
        look=cli.look_of(args) if args.style else None, cache=args.outdir / "latents")
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
    from training.published_projection import PUBLISHED_WEIGHTS

    return run_published(args, nine(args, PUBLISHED_WEIGHTS))


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
