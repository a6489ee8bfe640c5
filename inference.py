#!/usr/bin/env python3
"""Restyle photos: find and align the faces, invert them into the generator, deform and restyle them."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from models.edits import parse_edits
from pipeline import cli


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="inference.py", description=__doc__)
    cli.add_controls(parser, argv, default=cli.DEFAULT_STYLE)
    parser.add_argument("--input_image", type=Path, default=Path("data/test_inputs"), help="photo, folder of photos, or clip")
    parser.add_argument("--recursive", action="store_true", help="sub-folders too, mirrored in the output")
    parser.add_argument("--align", type=cli.str2bool, nargs="?", const=True, default=True,
                        help="find and align faces; false for inputs that are aligned already")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--faces", choices=("largest", "all"), default=None,
                       help="which faces of a photo; default is all with --paste-back, else the largest")
    which.add_argument("--largest", action="store_const", const="largest", dest="faces", help="the same as --faces largest")
    which.add_argument("--face", type=cli.non_negative_int, default=None, help="one face by its number, 0 the largest")
    parser.add_argument("--paste_back", action="store_true", help="also write the whole photo with its restyled faces")
    parser.add_argument("--paste_color", choices=("style", "photo"), default="style",
                        help="colours of pasted faces: the style's, or matched to the photo's")
    parser.add_argument("--inversion", choices=("e4e", "optimize", "e4e+optimize"), default="e4e+optimize",
                        help="how photos become latents: fast, slow without an encoder, or the encoder refined")
    parser.add_argument("--steps", type=cli.positive_int, default=100, help="optimisation steps")
    parser.add_argument("--lr", type=cli.finite_float, default=4.5e-2, help="learning rate of the optimisation")
    parser.add_argument("--residual", type=int, choices=(0, 32, 64), default=32,
                        help="side in px of the features that are found beside the latents, 0 for latents alone")
    parser.add_argument("--edit", type=parse_edits, default=(),
                        help="change the face first, smile=1.5,age=-1: directions of the starter (age, glasses, masculine, "
                             "beard, pose, nod, smile, mouth), sefa0 and on, or files; NAME@0-7=1 for some rows")
    parser.add_argument("--base", default=None, help="base generator; default is the one the style was trained from")
    parser.add_argument("--encoder", default=None, help="encoder; default is the one of the base")
    parser.add_argument("--cache", type=Path, default=None, help="folder of latents; default OUTPUT/latents")
    parser.add_argument("--smooth", type=cli.finite_float, default=0.5,
                        help="clips: smoothing of faces over time, 0 none to 1 most")
    parser.add_argument("--clip_output", choices=("frame", "face"), default="frame",
                        help="clips: the whole frame with its restyled faces, or the restyled face alone")
    parser.add_argument("--jobs", type=cli.positive_int, default=1, help="processes that work on a folder")
    parser.add_argument("--force", action="store_true", help="do photos again that are done")
    parser.add_argument("--output", type=Path, default=Path("outputs/inference"), help="output folder")
    cli.add_common(parser, outdir=False)
    args = parser.parse_args(argv)
    if not 0.0 <= args.smooth <= 1.0:
        parser.error(f"argument --smooth: expected a number within 0 and 1, got {args.smooth}")
    if args.edit and args.residual == 64:
        parser.error("argument --edit: directions know features of 32 px; leave --residual 64 out")
    args.faces = args.face if args.face is not None else args.faces or ("all" if args.paste_back else "largest")
    if args.paste_back and not args.align:
        parser.error("--paste-back needs the face's place in the photo, so it cannot go with --align false")
    return args


def networks(args: Namespace) -> dict:
    """Return the arguments of ``build_stylizer`` that the options name."""
    from pipeline.stylize import InversionSettings

    return {"style": args.style, "base": args.base, "encoder": args.encoder, "align": args.align, "faces": args.faces,
            "inversion": InversionSettings(args.inversion, args.steps, args.lr, residual=args.residual, edits=args.edit),
            "device": cli.resolve_device(args.device), "cache": args.cache or args.output / "latents"}


def run_clip(args: Namespace) -> int:
    """Restyle a clip; stopped runs go on."""
    from tqdm import tqdm

    from pipeline.stylize import build_stylizer
    from pipeline.clip_drawer import VideoSettings
    from pipeline.video import stylize_video
    from pipeline.video_io import clip_info

    frames = clip_info(args.input_image).frames
    cli.ensure_dir(args.output)
    # Refining every frame would take hours and flicker; and a latent per frame is not worth keeping.
    args.inversion = "e4e" if args.inversion == "e4e+optimize" else args.inversion
    stylizer = build_stylizer(**networks(args) | {"cache": None})
    stylizer.style.prepare(cli.look_of(args))
    output = args.output / f"{stylizer.style.name}_{args.input_image.stem}.mp4"
    settings = VideoSettings(args.smooth, aligned=args.clip_output == "face", colour=args.paste_color)
    if stylizer.rows_alone:
        cli.report(cli.ROWS_ALONE)
    facts = {"style": stylizer.style.fingerprint, "networks": stylizer.digests(), "faces": args.faces,
             "inversion": args.inversion, "edit": repr(args.edit), "dtype": args.dtype}
    with tqdm(total=frames or None, desc="frames") as bar, \
            cli.autocast(stylizer.device, cli.resolve_dtype(args.dtype, stylizer.device)):
        report = stylize_video(args.input_image, stylizer, output=output, look=cli.look_of(args),
                               settings=settings, progress=bar.update, facts=facts)
    print(output)
    cli.report(f"{report.frames} frames, {report.faceless} without a face, jitter {report.jitter_ratio:.2f} of the clip's")
    return 0


def run_photos(args: Namespace) -> int:
    """Restyle a photo or the photos of a folder that are not done yet."""
    from tqdm import tqdm

    from pipeline import batch
    from pipeline.photos import PhotoSettings, drawer
    from pipeline.stylize import build_stylizer

    found = batch.folder_photos(args.input_image, recursive=args.recursive, output=args.output)
    cli.ensure_dir(args.output)
    settings = PhotoSettings(networks(args), args.output, cli.look_of(args), args.dtype,
                             args.paste_back, args.paste_color)
    stylizer = build_stylizer(**settings.networks)
    stylizer.style.prepare(settings.look)
    if stylizer.rows_alone:
        cli.report(cli.ROWS_ALONE)
    photos = [photo.named(f"{stylizer.style.name}_") for photo in found]
    ledger = batch.Ledger(args.output, settings.digest(stylizer))
    jobs = min(args.jobs, len(photos))
    # One process uses the networks that are loaded already.
    make = (lambda settings: drawer(settings, stylizer)) if jobs == 1 else drawer
    done = batch.run_all(photos, ledger, make=make, settings=settings, jobs=jobs, force=args.force)
    with batch.Report(ledger) as report:
        for row in tqdm(done, total=len(photos), desc="photos", disable=len(photos) < 2):
            report.add(row)
            with tqdm.external_write_mode():
                for name in row["outputs"].split(";") if row["outputs"] else ():
                    if not name.endswith("_side.png"):
                        print(args.output / name)
                if row["error"]:
                    cli.report(row["error"])
    if report.count("kept"):
        cli.report(f"{report.count('kept')} of {len(photos)} were done already (--force does them again)")
    if report.count("failed"):
        cli.report(f"{report.count('failed')} of {len(photos)} inputs failed; the others are in {args.output}")
    return 2 if report.count("failed") else 0


def run(args: Namespace) -> int:
    from pipeline.video_io import is_clip

    if not is_clip(args.input_image):
        return run_photos(args)
    if not args.align:
        raise cli.UserError("--align false: faces of a clip move, so they must be found; leave the option out")
    return run_clip(args)


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
