#!/usr/bin/env python3
"""Write a style as one ONNX or TorchScript file that runs without this project, checked against PyTorch."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline import cli

SUFFIXES = {"onnx": ".onnx", "torchscript": ".ts"}


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="export.py", description=__doc__)
    parser.add_argument("--style", default=cli.DEFAULT_STYLE, help="name of a style in checkpoints/, or a file")
    parser.add_argument("--format", choices=tuple(SUFFIXES), default="onnx", help="kind of file")
    parser.add_argument("--what", choices=("generator", "photo", "drawing"), default=None,
                        help="drawing: the stages by which a style draws a photo given with its parts and its warp, the default "
                             "where the style has them; generator: w_plus and the style's numbers to image; photo: aligned photo "
                             "and these, the default else")
    parser.add_argument("--face", type=Path, nargs="*", default=[],
                        help="aligned photos: what the drawing needs to know of each is written beside the file as NAME.npz")
    parser.add_argument("--alpha", type=cli.finite_float, default=1.0, help="degree of deformation of --face")
    cli.add_encoder(parser)
    parser.add_argument("--residual", type=int, choices=(0, 32, 64), default=32,
                        help="side in px of the features that are found beside the latents of photos, 0 for latents alone")
    parser.add_argument("--size", type=cli.image_side, default=None,
                        help="side of the photo in px: for --what photo a multiple of the encoder's, which is the default; for "
                             "--what drawing a multiple of 32, default 512")
    parser.add_argument("--batch", type=cli.positive_int, default=1, help="images per run, fixed in the file")
    parser.add_argument("--output", type=Path, default=None, help="file to write; default outputs/export/STYLE_WHAT")
    return parser.parse_args(argv)


def run(args: Namespace) -> int:
    from pipeline.exporting import ExportConfig
    from styles.registry import load_style

    style = load_style(args.style)
    what = args.what or ("drawing" if style.draws_pictures else "photo")
    if (what == "drawing") != style.draws_pictures:
        does = "draws photos" if style.draws_pictures else "draws no photos"
        raise cli.UserError(f"--what {what}: the style {style.name} {does}; leave the option out")
    if what == "generator" and args.size is not None:
        raise cli.UserError("--size: the generator's size is that of its weights; use it with --what photo or drawing")
    if what != "drawing" and args.face:
        raise cli.UserError("--face: only styles that draw photos need to know more of one than itself; leave the option out")
    path = args.output or Path("outputs/export") / f"{style.name}_{what}{SUFFIXES[args.format]}"
    if what == "drawing":
        facts = export_drawing(args, style, path)
    else:
        facts = export_network(args, style, path, ExportConfig(args.format, what, args.batch, args.size))
    print(f"{path}: {facts.size / 1e6:.1f} MB, differs from PyTorch by at most {facts.error:.1e}, "
          f"{facts.seconds:.3f} s per run (PyTorch {facts.torch_seconds:.3f} s)")
    return 0


def export_network(args: Namespace, style: Any, path: Path, config: Any) -> Any:
    """Write a style's network, alone or behind its encoder, and return facts of the file."""
    from checkpoints import builders
    from pipeline.exporting import export_style
    from pipeline.stylize import residual_encoder

    is_photo = config.part == "photo"
    encoder = None
    if is_photo:
        encoder = builders.load_encoder(args.encoder) if args.encoder else style.photo_encoder()
    residual = residual_encoder(style.base, args.residual, device="cpu") if is_photo else None
    if is_photo and args.residual and residual is None:
        cli.report(cli.ROWS_ALONE)
    return export_style(path, style, encoder, config=config, residual=residual)


def export_drawing(args: Namespace, style: Any, path: Path) -> Any:
    """Write the drawing stages of a style, and what they take for the photos of ``--face``; return facts of the file."""
    from drawing.style import FRAME
    from pipeline.exporting import ExportConfig
    from pipeline.exporting_drawing import export_drawing as write
    from pipeline.exporting_drawing import save_face
    from pipeline.stylize import InversionSettings, build_stylizer

    side = args.size or FRAME
    if args.batch != 1 or side % 32:
        raise cli.UserError("--batch, --size: the drawing takes one face at a time, of a side that is a multiple of 32 px")
    facts = write(path, style, config=ExportConfig(args.format, "drawing", size=side))
    if args.face:
        from data.images import read_image

        settings = InversionSettings(residual=args.residual)
        stylizer = build_stylizer(args.style, encoder=args.encoder, inversion=settings, align=False)
        for photo in args.face:
            crop = stylizer.crops(read_image(photo), name=str(photo))[0]
            save_face(path.parent / f"{photo.stem}.npz", style, photo, stylizer.invert(crop.image), side=side, alpha=args.alpha)
            print(path.parent / f"{photo.stem}.npz")
    return facts


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
