#!/usr/bin/env python3
"""Restyle photos: find and align the faces, invert them into the generator, deform and restyle them."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from pipeline import cli
from pipeline.regions import parse_alpha

# Everything that changes a picture, beside the weights.
LOOK = ("alpha", "color_strength", "align", "faces", "inversion", "steps", "lr", "dtype", "paste_back", "paste_color")


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="inference.py", description=__doc__)
    parser.add_argument("--style", default="sample", help="name of a style in checkpoints/, a file, or a mixture a:0.7,b:0.3")
    parser.add_argument("--input_image", type=Path, default=Path("data/test_inputs"), help="photo, or folder of photos")
    parser.add_argument("--recursive", action="store_true", help="sub-folders too, mirrored in the output")
    parser.add_argument("--alpha", type=parse_alpha, default=0.8,
                        help="deformation degree, or degrees by region: eyes=1.2,mouth=0.4")
    parser.add_argument("--color_strength", type=cli.finite_float, default=None,
                        help="0 keeps the face's colours, 1 takes the drawing's; default leaves them to the generator")
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
    parser.add_argument("--lr", type=cli.finite_float, default=2e-2, help="learning rate of the optimisation")
    parser.add_argument("--base", default=None, help="base generator; default is the one the style was trained from")
    parser.add_argument("--encoder", default=None, help="encoder; default is the one of the base")
    parser.add_argument("--cache", type=Path, default=None, help="folder of latents; default OUTPUT/latents")
    parser.add_argument("--jobs", type=cli.positive_int, default=1, help="processes that work on a folder")
    parser.add_argument("--force", action="store_true", help="do photos again that are done")
    parser.add_argument("--output", type=Path, default=Path("outputs/inference"), help="output folder")
    cli.add_common(parser, outdir=False)
    args = parser.parse_args(argv)
    args.faces = args.face if args.face is not None else args.faces or ("all" if args.paste_back else "largest")
    if args.paste_back and not args.align:
        parser.error("--paste-back needs the face's place in the photo, so it cannot go with --align false")
    return args


def build(args: Namespace):  # noqa: ANN201 - the type lives behind a heavy import
    """Load everything the options name and return the Stylizer."""
    from checkpoints.builders import load_encoder
    from checkpoints.mixing import load_look
    from pipeline.faces import FaceFinder
    from pipeline.latents import LatentCache
    from pipeline.perceptual import inversion_objective
    from pipeline.sampling import base_of
    from pipeline.stylize import InversionSettings, Stylizer

    device = cli.resolve_device(args.device)
    style = load_look(args.style, device=device)
    base = base_of(style, device=device, name=args.base)
    encoder = None
    if args.inversion != "optimize":
        encoder = load_encoder(args.encoder or base.name, device=device)
    return Stylizer(
        style, base, encoder=encoder, objective=lambda: inversion_objective(device),
        settings=InversionSettings(args.inversion, args.steps, args.lr), faces=args.faces,
        cache=LatentCache(args.cache or args.output / "latents"), finder=FaceFinder() if args.align else None,
    )


def drawer(args: Namespace, stylizer=None):  # noqa: ANN001, ANN201 - the types live behind heavy imports
    """Return the function that restyles one photo and writes its pictures, for ``pipeline.batch``."""
    from data.images import read_image, save_image
    from pipeline.batch import Drawn, Photo
    from pipeline.stylize import Look, side_by_side, whole_photo

    stylizer = stylizer or build(args)
    dtype, look = cli.resolve_dtype(args.dtype, stylizer.device), Look(args.alpha, args.color_strength)

    def draw(photo: Photo) -> Drawn:
        image, path, files = read_image(photo.path), args.output / photo.stem, []
        crops, items = stylizer.crops(image, name=photo.path), []
        for number, crop in enumerate(crops):
            with cli.autocast(stylizer.device, dtype):
                items.append(stylizer.stylize(crop, look=look))
            name = f"{path.name}_face{number}" if len(crops) > 1 else path.name
            files += [path.with_name(f"{name}.png"), path.with_name(f"{name}_side.png")]
            save_image(files[-2], items[-1].result)
            save_image(files[-1], side_by_side(items[-1]))
        if args.paste_back:
            suffix = ".jpg" if Path(photo.path).suffix.lower() in (".jpg", ".jpeg", ".jpe") else ".png"
            files.append(path.with_name(f"{path.name}_photo{suffix}"))
            save_image(files[-1], whole_photo(image, crops, items, colour=args.paste_color))
        return Drawn(len(crops), files)

    return draw


def run(args: Namespace) -> int:
    from pipeline import batch
    from tqdm import tqdm

    found = batch.folder_photos(args.input_image, recursive=args.recursive)
    cli.ensure_dir(args.output)
    stylizer = build(args)
    photos = [photo.named(f"{stylizer.style.name}_") for photo in found]
    facts = {name: getattr(args, name) for name in LOOK}
    digest = batch.settings_digest(style=stylizer.style.fingerprint, base=stylizer.base.fingerprint,
                                   encoder=stylizer.encoder and stylizer.encoder.fingerprint, **facts)
    jobs = min(args.jobs, len(photos))
    # One process uses the networks that are loaded already.
    make = (lambda args: drawer(args, stylizer)) if jobs == 1 else drawer
    rows: list[dict] = []
    done = batch.run_all(photos, batch.Ledger(args.output, digest), make=make, settings=args, jobs=jobs, force=args.force)
    try:
        for row in tqdm(done, total=len(photos), desc="photos", disable=len(photos) < 2):
            rows.append(row)
            for name in row["outputs"].split(";") if row["outputs"] else ():
                if not name.endswith("_side.png"):
                    print(args.output / name)
            if row["error"]:
                cli.report(row["error"])
    finally:
        batch.write_report(args.output / "report.csv", rows)
    failed, kept = (sum(row["status"] == status for row in rows) for status in ("failed", "kept"))
    if kept:
        cli.report(f"{kept} of {len(photos)} were done already (--force does them again)")
    if failed:
        cli.report(f"{failed} of {len(photos)} inputs failed; the others are in {args.output}")
    return 2 if failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
