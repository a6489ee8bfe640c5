#!/usr/bin/env python3
"""Restyle photos: find and align the face, invert it into the generator, deform and restyle it."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from pipeline import cli


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="inference.py", description=__doc__)
    parser.add_argument("--style", default="sample", help="name of a style in checkpoints/, or a file")
    parser.add_argument("--input_image", type=Path, default=Path("data/test_inputs"), help="photo, or folder of photos")
    parser.add_argument("--alpha", type=cli.finite_float, default=0.8, help="deformation degree")
    parser.add_argument("--align", type=cli.str2bool, nargs="?", const=True, default=True,
                        help="find and align faces; false for inputs that are aligned already")
    parser.add_argument("--faces", choices=("largest", "all"), default="largest", help="which faces of a photo")
    parser.add_argument("--inversion", choices=("e4e", "optimize", "e4e+optimize"), default="e4e+optimize",
                        help="how photos become latents: fast, slow without an encoder, or the encoder refined")
    parser.add_argument("--steps", type=cli.positive_int, default=100, help="optimisation steps")
    parser.add_argument("--lr", type=cli.finite_float, default=2e-2, help="learning rate of the optimisation")
    parser.add_argument("--base", default=None, help="base generator; default is the one the style was trained from")
    parser.add_argument("--encoder", default=None, help="encoder; default is the one of the base")
    parser.add_argument("--cache", type=Path, default=None, help="folder of latents; default OUTPUT/latents")
    parser.add_argument("--output", type=Path, default=Path("outputs/inference"), help="output folder")
    cli.add_common(parser, outdir=False)
    return parser.parse_args(argv)


def build(args: Namespace):  # noqa: ANN201 - the type lives behind a heavy import
    """Load everything the options name and return the Stylizer."""
    from checkpoints import builders
    from pipeline.faces import FaceFinder
    from pipeline.latents import LatentCache
    from pipeline.perceptual import inversion_objective
    from pipeline.sampling import base_of
    from pipeline.stylize import InversionSettings, Stylizer

    device = cli.resolve_device(args.device)
    style = builders.load_style(args.style, device=device)
    base = base_of(style, device=device, name=args.base)
    encoder = None
    if args.inversion != "optimize":
        encoder = builders.load_encoder(args.encoder or base.name, device=device)
    return Stylizer(
        style, base, encoder=encoder, objective=lambda: inversion_objective(device),
        settings=InversionSettings(args.inversion, args.steps, args.lr), faces=args.faces,
        cache=LatentCache(args.cache or args.output / "latents"), finder=FaceFinder() if args.align else None,
    )


def run(args: Namespace) -> int:
    from data.images import ImageError, list_images, read_image, save_image
    from pipeline.stylize import output_stems, side_by_side
    from tqdm import tqdm

    paths = list_images(args.input_image)
    cli.ensure_dir(args.output)
    stylizer = build(args)
    dtype = cli.resolve_dtype(args.dtype, stylizer.device)
    stems, failed = output_stems(paths), 0
    for path in tqdm(paths, desc="photos", disable=len(paths) < 2):
        try:
            faces = stylizer.align(read_image(path), name=str(path))
        except (ImageError, cli.UserError) as error:
            cli.report(error)
            failed += 1
            continue
        for number, aligned in enumerate(faces):
            with cli.autocast(stylizer.device, dtype):
                item = stylizer.stylize(aligned, alpha=args.alpha)
            name = f"{stylizer.style.name}_{stems[path]}" + (f"_face{number}" if len(faces) > 1 else "")
            save_image(args.output / f"{name}.png", item.result)
            save_image(args.output / f"{name}_side.png", side_by_side(item))
            print(args.output / f"{name}.png")
    if failed:
        cli.report(f"{failed} of {len(paths)} inputs failed; the others are in {args.output}")
    return 2 if failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
