#!/usr/bin/env python3
"""Fine-tune a face generator on one real/style pair, and write the style as one file."""

from __future__ import annotations

import shlex
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline import cli

SAMPLE = ("source_sample", "target_sample")


def parse(argv: Sequence[str] | None) -> Namespace:
    from training.options import add_settings

    parser = cli.ArgumentParser(prog="train.py", description=__doc__)
    parser.add_argument("--style", default="sample", help="name of the new style, saved as checkpoints/NAME.safetensors")
    parser.add_argument("--source", nargs="+", default=None,
                        help="real photo: a path, or a name in data/style_images_aligned; several for as many targets; without "
                             "one the style is made of the target alone")
    parser.add_argument("--target", nargs="+", default=None,
                        help=f"the same face in the style, likewise; {SAMPLE[0]} and {SAMPLE[1]} where neither is given")
    parser.add_argument("--drawing", choices=("auto", "true", "false"), default="auto",
                        help="take tone and strokes from the drawing, with which photos themselves are drawn; auto does "
                             "with the starter's profile")
    parser.add_argument("--style_ref", default=None, help="real image of the adversarial term; the target where not given")
    parser.add_argument("--align", type=cli.str2bool, nargs="?", const=True, default=False,
                        help="find and align the faces of the pair first")
    cli.add_finder(parser)
    parser.add_argument("--base", "--ckpt", default="starter", help="base generator: starter, official or a file")
    parser.add_argument("--vit", default=None, help="ViT: starter, official or a file; the one that suits the base "
                                                    "where not given")
    parser.add_argument("--profile", choices=("auto", "starter", "published"), default="auto",
                        help="settings to start from; auto takes the starter's up to 256 px")
    parser.add_argument("--inversion_start", choices=("auto", "mean", "encoder"), default="auto",
                        help="start of inverting the pair; auto takes the encoder with the starter")
    parser.add_argument("--lpips_dir", type=Path, default=None, help="folder of AlexNet's LPIPS files")
    parser.add_argument("--img_res", type=cli.positive_int, default=None, help="must be the base's size; for old commands")
    parser.add_argument("--checkpointing", action="store_true",
                        help="compute activations again instead of keeping them: less memory, slower steps, same style")
    parser.add_argument("--resume", action="store_true", help="continue the run in the output folder")
    parser.add_argument("--overwrite", action="store_true", help="replace a style or a run of the same name")
    parser.add_argument("--force", action="store_true", help="train though the images of the pair look wrong")
    parser.add_argument("--save_every", type=cli.non_negative_int, default=50, help="steps between saved states")
    parser.add_argument("--sheet_every", type=cli.non_negative_int, default=50, help="steps between contact sheets")
    parser.add_argument("--export_published", type=Path, default=None, help="also write the published {g, stns, rtstn} file")
    add_settings(parser, {"int": cli.non_negative_int, "float": cli.finite_float, "bool": cli.str2bool,
                          "tuple": cli.int_list, "str": str})
    cli.add_common(parser)
    parser.set_defaults(seed=None)
    args = parser.parse_args(argv)
    args.command = shlex.join(["python", "train.py", *(sys.argv[1:] if argv is None else argv)])
    return args


def checker(args: Namespace) -> Any:
    """Return the check of a pair, or of a drawing alone: it raises UserError for images that look wrong, or tells of them with
    --force."""
    from training.pair_checks import drawing_problems, pair_problems

    finder = cli.finder_of(args).make()

    def check(images: Sequence[tuple[str, Any]]) -> None:
        problems = pair_problems(images, finder.find, align=args.align) if len(images) > 1 else drawing_problems(
            *images[0], finder.find, align=args.align)
        for line in problems if args.force else problems[:-1]:
            cli.report(line)
        if problems and not args.force:
            raise cli.UserError(f"{problems[-1]} (--force trains with it)")

    return check


def frames_of(args: Namespace, names: Sequence[str], side: int) -> list[Any]:
    """Return pictures [1, 3, side, side], aligned where that is asked for."""
    from data.images import read_image, to_tensor
    from faces.find import face_aligner
    from training.inputs import find_image

    align = face_aligner(side, cli.finder_of(args).make()) if args.align else None
    images = [(name, read_image(find_image(name))) for name in names]
    return [to_tensor(align(image, name) if align else image, side) for name, image in images]


def pictures_of(args: Namespace) -> tuple[list[str], list[str]]:
    """Return the names of sources and targets; the sample pair where neither is given, no source for a drawing alone.

    Raises:
        UserError: for another number of sources than of targets.
    """
    sources, targets = args.source or [], args.target or []
    if not sources and not targets:
        return [SAMPLE[0]], [SAMPLE[1]]
    if sources and len(sources) != len(targets):
        raise cli.UserError(f"--source, --target: got {len(sources)} photos and {len(targets)} drawings; give one photo for each "
                            "drawing, or drawings alone")
    return sources, targets


def start(args: Namespace, setting: Any, frames: tuple[list, list]) -> tuple[Any, list]:
    """Return a new tuner at step 0, its pair inverted, and what the drawing stages know of the pairs.

    Args:
        args: parsed options.
        setting: see ``training.style_run.Setting``.
        frames: sources and targets, see ``frames_of``; none where the drawing stages are not used.
    """
    from data.images import read_image
    from faces.find import face_aligner
    from training.inputs import find_image, read_pair
    from training.prepare import new_tuner
    from training.style_run import drawing_pair, examples_of, latents_start

    sources, targets = pictures_of(args)
    checked = checker(args)
    if sources:
        align = face_aligner(setting.size, cli.finder_of(args).make()) if args.align else None
        for source, target in zip(sources[1:], targets[1:], strict=True):
            read_pair(source, target, None, size=setting.size, align=align, check=checked)
        pair = read_pair(sources[0], targets[0], args.style_ref, size=setting.size, align=align, check=checked)
    else:
        for name in targets:
            checked([(name, read_image(find_image(name)))])
        pair = drawing_pair(setting, frames[1][0])
    examples = examples_of(*frames, names=(sources, targets)) if setting.is_drawn else []
    w_init, objective = latents_start(setting, args, pair)
    points = examples[0].points if examples else None
    return new_tuner(setting.base.generator, setting.base.discriminator, dino=setting.vit, config=setting.config, pair=pair,
                     w_init=w_init, objective=objective, landmark_net=setting.landmark_net, points=points), examples


def run(args: Namespace) -> int:
    from training.memory import keep_freed_memory

    keep_freed_memory()
    from checkpoints import builders
    from drawing.style import FRAME
    from training.state import STATE_FILE, read_state, refuse_existing
    from training.style_run import StyleRun, read_setting

    if Path(args.style).name != args.style or args.style.startswith(".") or not args.style:
        raise cli.UserError(f"--style {args.style!r}: give a plain name without slashes")
    folder = args.outdir or Path("outputs/train") / args.style
    output = builders.checkpoints_dir() / f"{args.style}.safetensors"
    pictures_of(args)
    setting = read_setting(args)
    cli.ensure_dir(folder), cli.ensure_dir(output.parent)
    state = read_state(folder / STATE_FILE) if args.resume and (folder / STATE_FILE).exists() else None
    if not (args.resume or args.overwrite):
        refuse_existing(output, folder)
    work = StyleRun(args, setting, folder, output)
    try:
        if state:
            given = {"source": args.source, "target": args.target, "style_ref": args.style_ref and [args.style_ref]}
            work.resume(state, frames=lambda names, side: frames_of(args, names, side),
                        given={kind: names for kind, names in given.items() if names})
        else:
            names = pictures_of(args)
            frames = tuple(frames_of(args, each, FRAME) for each in names) if setting.is_drawn else ([], [])
            work.begin(*start(args, setting, frames), frames=frames)
        work.train()
    except (OSError, ValueError) as error:
        raise cli.UserError(str(error)) from error
    print(output)
    if args.export_published:
        print(work.export_published(args.export_published))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
