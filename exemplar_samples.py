#!/usr/bin/env python3
"""Draw random faces in random styles of a gallery: each has a face, a structure and colours of its own (DualStyleGAN)."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import cli

if TYPE_CHECKING:
    from styles.controls import Look
    from styles.protocol import Style


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="exemplar_samples.py", description=__doc__)
    parser.add_argument("--style", default="exemplars", help="exemplar style: a name or a file")
    parser.add_argument("--batch", "--n_sample", dest="batch", type=cli.positive_int, default=8, help="number of pictures")
    parser.add_argument("--truncation", type=cli.finite_float, default=0.5, help="truncation psi of the faces")
    parser.add_argument("--fix_content", action="store_true", help="the same face in all")
    parser.add_argument("--fix_structure", action="store_true", help="the same exemplar's structure in all")
    parser.add_argument("--fix_color", action="store_true", help="the same exemplar's colours in all")
    parser.add_argument("--gallery", action="store_true", help="portraits of the gallery in turn, in place of random ones")
    parser.add_argument("--structure", type=cli.finite_float, default=0.75, help="weight of the structure")
    parser.add_argument("--color", type=cli.finite_float, default=1.0, help="weight of the colours")
    parser.add_argument("--output", "--output_path", dest="output", type=Path, default=Path("outputs/exemplar_samples"),
                        help="output folder")
    cli.add_common(parser, outdir=False)
    return parser.parse_args(argv)


def look_of(args: Namespace, style: Style, number: int) -> Look:
    """Return the look of one picture."""
    structure, colours = (args.seed + number * (not fixed) for fixed in (args.fix_structure, args.fix_color))
    chosen: dict[str, Any] = {"exemplar": "random", "style_seed": float(structure), "color_exemplar": "random",
                              "color_seed": float(colours)}
    if args.gallery:
        names = style.gallery.names
        chosen = {"exemplar": names[structure % len(names)], "color_exemplar": names[colours % len(names)]}
    return style.default_look(samples=True).changed(structure=args.structure, color=args.color, **chosen)


def run(args: Namespace) -> int:
    from tqdm import tqdm

    from data.grids import grid
    from data.images import save_image
    from pipeline import sampling
    from styles.dualstyle import DualStyle
    from styles.registry import load_style

    cli.ensure_dir(args.output)
    style = load_style(args.style, device=cli.resolve_device(args.device))
    if not isinstance(style, DualStyle):
        raise cli.UserError(f"--style {args.style}: is a style of the kind {style.kind!r}; only exemplar styles have a gallery")
    if args.gallery and not style.gallery.names:
        raise cli.UserError(f"--gallery: {args.style} holds no exemplars; leave the option out")
    if not args.gallery and not style.parts.samplers:
        raise cli.UserError(f"--style {args.style}: has no sampler of random exemplars; use --gallery")
    shown, drawn, labels = [], [], []
    for number in tqdm(range(args.batch), desc="pictures"):
        look = look_of(args, style, number)
        index = 0 if args.fix_content else number
        with cli.autocast(style.device, cli.resolve_dtype(args.dtype, style.device)):
            face = sampling.random_faces(style, args.seed, [index], truncation_psi=args.truncation)
            drawn.append(style.draw(face, look)[0].float().cpu())
            shown.append(sampling.undeformed(style.base, face)[0].float().cpu())
        save_image(args.output / f"{style.name}_{args.seed}_{number:04d}.png", drawn[-1])
        labels.append(f"{look['exemplar']}"[:12] if args.gallery else f"{look['style_seed']:g}, {look['color_seed']:g}")
    rows, names = [shown, drawn], ["face", "drawn"]
    thumbs = style.pictures("exemplar")
    if args.gallery and thumbs:
        rows.insert(1, [thumbs[look_of(args, style, number)["exemplar"]] for number in range(args.batch)])
        names.insert(1, "exemplar")
    save_image(args.output / "sheet.png", grid(rows, cell=128, row_labels=names, column_labels=labels))
    print(args.output / "sheet.png")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
