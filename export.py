#!/usr/bin/env python3
"""Write a style as one ONNX or TorchScript file that runs without this project, checked against PyTorch."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from pipeline import cli

SUFFIXES = {"onnx": ".onnx", "torchscript": ".ts"}


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="export.py", description=__doc__)
    parser.add_argument("--style", default=cli.DEFAULT_STYLE, help="name of a style in checkpoints/, or a file")
    parser.add_argument("--format", choices=tuple(SUFFIXES), default="onnx", help="kind of file")
    parser.add_argument("--what", choices=("generator", "photo"), default="photo",
                        help="generator: w_plus and the style's numbers to image; photo: aligned photo and these")
    parser.add_argument("--encoder", default=None, help="encoder for photos; default is the one of the style's base")
    parser.add_argument("--residual", type=int, choices=(0, 32, 64), default=32,
                        help="side in px of the features that are found beside the latents of photos, 0 for latents alone")
    parser.add_argument("--size", type=cli.image_side, default=None,
                        help="side of the photo in px, a multiple of the encoder's; default is the encoder's")
    parser.add_argument("--batch", type=cli.positive_int, default=1, help="images per run, fixed in the file")
    parser.add_argument("--output", type=Path, default=None, help="file to write; default outputs/export/STYLE_WHAT")
    return parser.parse_args(argv)


def run(args: Namespace) -> int:
    if args.what == "generator" and args.size is not None:
        raise cli.UserError("--size: the generator's size is that of its weights; use it with --what photo only")
    from checkpoints import builders
    from pipeline.exporting import ExportConfig, export_style
    from pipeline.stylize import residual_encoder
    from styles.registry import load_style

    style = load_style(args.style)
    encoder = builders.load_encoder(args.encoder or style.encoder_name) if args.what == "photo" else None
    residual = residual_encoder(style.base, args.residual, device="cpu") if args.what == "photo" else None
    if args.what == "photo" and args.residual and residual is None:
        cli.report(cli.ROWS_ALONE)
    path = args.output or Path("outputs/export") / f"{style.name}_{args.what}{SUFFIXES[args.format]}"
    config = ExportConfig(args.format, args.what, args.batch, args.size)
    facts = export_style(path, style, encoder, config=config, residual=residual)
    print(f"{path}: {facts.size / 1e6:.1f} MB, differs from PyTorch by at most {facts.error:.1e}, "
          f"{facts.seconds:.3f} s per run (PyTorch {facts.torch_seconds:.3f} s)")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
