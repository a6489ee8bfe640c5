#!/usr/bin/env python3
"""Restyle photos and clips: find and align the faces, invert them into the generator, deform and restyle them."""

from __future__ import annotations

import itertools
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline import cli
from pipeline.published import add_file_options, apply


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="inference.py", description=__doc__)
    cli.add_controls(parser, argv, default=cli.DEFAULT_STYLE)
    parser.add_argument("--input_image", type=Path, default=Path("data/test_inputs"), help="photo, clip, or folder of both")
    parser.add_argument("--recursive", action="store_true", help="sub-folders too, mirrored in the output")
    parser.add_argument("--align", type=cli.str2bool, nargs="?", const=True, default=True,
                        help="find and align faces; false for inputs that are aligned already")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--faces", choices=("largest", "all"), default=None,
                       help="which faces of a photo; default is the largest with --frame crop, else all")
    which.add_argument("--largest", action="store_const", const="largest", dest="faces", help="the same as --faces largest")
    which.add_argument("--face", type=cli.non_negative_int, default=None, help="one face by its number, 0 the largest")
    cli.add_finder(parser)
    parser.add_argument("--frame", choices=("auto", "photo", "face", "crop"), default="auto",
                        help="what is drawn: the whole photo, its faces alone with their surroundings as they are, or aligned "
                             "faces; auto draws the photo where the style can")
    parser.add_argument("--paste_back", action="store_const", const="face", dest="frame", help="the same as --frame face")
    parser.add_argument("--size", type=cli.non_negative_int, default=0, help="longer side of drawn photos in px; 0 is their own")
    parser.add_argument("--paste_color", choices=("style", "photo"), default="style",
                        help="colours of pasted faces: the style's, or matched to the photo's")
    parser.add_argument("--inversion", choices=("auto", "e4e", "optimize", "e4e+optimize"), default="auto",
                        help="how photos become latents: fast, slow without an encoder, or the encoder refined; auto is fast "
                             "where the style draws photos themselves, else refined")
    parser.add_argument("--steps", type=cli.positive_int, default=100, help="optimisation steps")
    parser.add_argument("--lr", type=cli.finite_float, default=4.5e-2, help="learning rate of the optimisation")
    parser.add_argument("--residual", type=int, choices=(0, 32, 64), default=32,
                        help="side in px of the features that are found beside the latents, 0 for latents alone")
    parser.add_argument("--edit", type=cli.edits, default=(),
                        help="change the face first, smile=1.5,age=-1: directions of the starter (age, glasses, masculine, "
                             "beard, pose, nod, smile, mouth), sefa0 and on, or files; NAME@0-7=1 for some rows")
    parser.add_argument("--base", default=None, help="base generator; default is the one the style was trained from")
    cli.add_encoder(parser)
    parser.add_argument("--cache", type=Path, default=None, help="folder of latents; default OUTPUT/latents")
    parser.add_argument("--smooth", type=cli.finite_float, default=0.5,
                        help="clips: smoothing of faces over time, 0 none to 1 most")
    parser.add_argument("--clip_output", choices=("frame", "face"), default="frame",
                        help="clips: the whole frame with its restyled faces, or the restyled face alone")
    parser.add_argument("--jobs", type=cli.positive_int, default=1, help="processes that work on a folder")
    parser.add_argument("--force", action="store_true", help="do photos again that are done")
    parser.add_argument("--output", "--outdir", dest="output", type=Path, default=Path("outputs/inference"),
                        help="output folder")
    parser.add_argument("--save_latents", action="store_true",
                        help="also write each face's latents, NAME_latents.npz, from which --latents draws it again")
    parser.add_argument("--latents", type=Path, nargs="+", default=None, metavar="FILE",
                        help="draw these in place of photos: files of --save-latents, projected_w.npz, published "
                             "inversion_codes/*.pt, or folders of them")
    add_file_options(parser)
    cli.add_common(parser, outdir=False)
    args = parser.parse_args(argv)
    if not 0.0 <= args.smooth <= 1.0:
        parser.error(f"argument --smooth: expected a number within 0 and 1, got {args.smooth}")
    if args.edit and args.residual == 64:
        parser.error("argument --edit: directions know features of 32 px; leave --residual 64 out")
    whole = args.frame in ("photo", "face") or (args.frame == "auto" and args.align)
    args.faces = args.face if args.face is not None else args.faces or ("all" if whole else "largest")
    if args.frame in ("photo", "face") and not args.align:
        parser.error(f"--frame {args.frame} needs the face's place in the photo, so it cannot go with --align false")
    return args


def networks(args: Namespace) -> dict:
    """Return the arguments of ``build_stylizer`` that the options name."""
    from pipeline.stylize import InversionSettings

    mode = None if args.inversion == "auto" else args.inversion
    return {"style": args.style, "base": args.base, "encoder": args.encoder, "align": args.align, "faces": args.faces,
            "finder": cli.finder_of(args), "device": cli.resolve_device(args.device),
            "cache": args.cache or args.output / "latents",
            "inversion": InversionSettings(mode, args.steps, args.lr, residual=args.residual, edits=args.edit)}


def photo_rows(args: Namespace, photos: list) -> Iterator[dict]:
    """Restyle the photos that are not done yet and yield their rows."""
    from pipeline import batch
    from pipeline.photos import PhotoSettings, drawer
    from pipeline.stylize import build_stylizer

    settings = PhotoSettings(networks(args), args.output, cli.look_of(args), args.dtype, args.frame, args.size, args.paste_color,
                             args.save_latents)
    stylizer = build_stylizer(**settings.networks)
    apply(args, stylizer.style)
    stylizer.style.prepare(settings.look)
    if stylizer.rows_alone:
        cli.report(cli.ROWS_ALONE)
    photos = [photo.named(f"{stylizer.style.name}_") for photo in photos]
    jobs = min(args.jobs, len(photos))
    # One process uses the networks that are loaded already.
    make = (lambda settings: drawer(settings, stylizer)) if jobs == 1 else drawer
    yield from batch.run_all(photos, batch.Ledger(args.output, settings.digest(stylizer)), make=make, settings=settings,
                             jobs=jobs, force=args.force)


def clip_rows(args: Namespace, clips: list) -> Iterator[dict]:
    """Restyle the clips that are not done yet and yield their rows."""
    from pipeline import batch
    from pipeline.clip_drawer import VideoSettings
    from pipeline.clips import ClipSettings, clip_drawer
    from pipeline.stylize import build_stylizer

    chosen = networks(args) | {"cache": None}  # a latent per frame is not worth keeping
    if args.inversion in ("auto", "e4e+optimize"):  # refining every frame would take hours and flicker
        chosen["inversion"] = replace(chosen["inversion"], mode="e4e")
    settings = ClipSettings(chosen, args.output, cli.look_of(args), args.dtype,
                            VideoSettings(args.smooth, aligned=args.clip_output == "face" or args.frame == "crop",
                                          surroundings=args.frame != "face", colour=args.paste_color))
    stylizer = build_stylizer(**settings.networks)
    apply(args, stylizer.style)
    stylizer.style.prepare(settings.look)
    if stylizer.rows_alone:
        cli.report(cli.ROWS_ALONE)
    clips = [clip.named(f"{stylizer.style.name}_") for clip in clips]
    yield from batch.run_all(clips, batch.Ledger(args.output, settings.digest(stylizer)), force=args.force, settings=settings,
                             make=lambda settings: clip_drawer(settings, stylizer))


def draw_latents(args: Namespace) -> int:
    """Draw faces of files of latents."""
    from data.images import save_image
    from pipeline import sampling
    from pipeline.latent_files import read_faces
    from styles.registry import load_style

    device = cli.resolve_device(args.device)
    style = load_style(args.style, device=device)
    apply(args, style)
    base = sampling.base_of(style, name=args.base)
    faces = read_faces(args.latents, shape=style.latent_shape, fingerprint=base.fingerprint, device=device)
    cli.ensure_dir(args.output)
    for stored in faces:
        marks = None if stored.landmarks is None else stored.landmarks[None]
        with cli.autocast(device, cli.resolve_dtype(args.dtype, device)):
            drawn = style.draw(stored.face, cli.look_of(args), landmarks=marks)
        path = args.output / f"{style.name}_{stored.name}.png"
        save_image(path, drawn)
        print(path)
    return 0


def tell(row: dict, output: Path) -> None:
    """Print the pictures of a row, and what should be known of it."""
    for name in row["outputs"].split(";") if row["outputs"] else ():
        if not name.endswith(("_side.png", "_latents.npz")):
            print(output / name)
    if row["error"]:
        cli.report(row["error"])


def run(args: Namespace) -> int:
    from tqdm import tqdm

    from pipeline import batch
    from pipeline.video_io import clip_info

    if args.latents:
        return draw_latents(args)
    found = batch.folder_inputs(args.input_image, recursive=args.recursive, output=args.output)
    cli.ensure_dir(args.output)
    count = len(found.photos) + len(found.clips)
    if found.clips and count == 1:
        clip_info(args.input_image)  # tells what is wrong with a clip before networks are loaded
    rows = itertools.chain(photo_rows(args, found.photos) if found.photos else (),
                           clip_rows(args, found.clips) if found.clips else ())
    with batch.Report(batch.Ledger(args.output, "")) as report:
        report.pass_over(found.others)
        for row in tqdm(rows, total=count, desc="inputs", disable=count < 2):
            report.add(row)
            with tqdm.external_write_mode():
                tell(row, args.output)
    if found.others:
        names = ", ".join(path.name for path, _ in found.others[:3]) + ", ..." * (len(found.others) > 3)
        cli.report(f"{len(found.others)} passed over ({names}); {report.path} tells why")
    if report.count("kept"):
        cli.report(f"{report.count('kept')} of {count} were done already (--force does them again)")
    failed = report.count("failed")
    if failed:
        cli.report(f"{failed} of {count} inputs failed" + (f"; the others are in {args.output}" if failed < count else ""))
    return 2 if failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
