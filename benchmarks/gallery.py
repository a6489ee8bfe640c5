"""``python -m benchmarks.gallery --styles a,b,c --output docs/gallery.jpg``: a row per face, a column per style."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline import cli

ROOT = Path(__file__).parent.parent / "data"
PHOTOS = (ROOT / "style_images_aligned" / "source_sample.png", *(ROOT / "portraits" / f"{name}.jpg" for name in
                                                                  ("vermeer_pearl", "burnejones_chant")))


def names(text: str) -> list[str]:
    """Parse names separated by commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="python -m benchmarks.gallery", description=__doc__)
    parser.add_argument("--styles", type=names, default=None, help="names separated by commas; all bundled ones if not given")
    parser.add_argument("--output", type=Path, default=Path("docs/gallery.jpg"), help="picture to write")
    parser.add_argument("--faces", type=cli.int_list, default=(7, 11, 18), help="numbers of random faces within the seed")
    parser.add_argument("--truncation", type=cli.finite_float, default=0.9, help="truncation psi of random faces")
    parser.add_argument("--photos", type=Path, nargs="+", default=PHOTOS, help="aligned photos above them")
    parser.add_argument("--alpha", type=cli.finite_float, default=1.0, help="deformation degree")
    parser.add_argument("--size", type=cli.image_side, default=200, help="side of a picture in px")
    cli.add_common(parser, outdir=False, seed=11)
    return parser.parse_args(argv)


def photo_faces(args: Namespace, style: str, device: Any) -> tuple[list[Any], list[Any]]:
    """Return the aligned photos and their faces in the generator of ``style``."""
    from data.images import read_image
    from pipeline.stylize import InversionSettings, build_stylizer

    images = [read_image(path) for path in args.photos]
    stylizer = build_stylizer(style, device=device, inversion=InversionSettings(None), align=False)
    return images, [stylizer.invert(image) for image in images]


def run(args: Namespace) -> int:
    from checkpoints.paths import bundled_styles_dir
    from data.grids import grid
    from data.images import save_image
    from pipeline.sampling import random_faces, shown
    from styles.__main__ import READY
    from styles.registry import load_style

    chosen = args.styles or [name for name in READY if (bundled_styles_dir() / f"{name}.safetensors").is_file()]
    if not chosen:
        raise cli.UserError(f"--styles: no style is bundled in {bundled_styles_dir()}; name some, or make them by "
                            "`python -m styles make`")
    device = cli.resolve_device(args.device)
    styles = [load_style(name, device=device) for name in chosen]
    base = styles[0].base
    if any(style.base_name != styles[0].base_name for style in styles):
        raise cli.UserError("--styles: were trained from different bases; make a gallery of each")
    faces = [random_faces(styles[0], args.seed, [number], truncation_psi=args.truncation) for number in args.faces]
    originals: list[Any] = [shown(base, face)[0] for face in faces]
    photos, inverted = photo_faces(args, chosen[0], device)
    faces, originals = [*inverted, *faces], [*photos, *originals]
    looks = [style.default_look().changed(alpha=args.alpha) for style in styles]
    rows = [[original, *(style.draw(face, look)[0] for style, look in zip(styles, looks, strict=True))]
            for original, face in zip(originals, faces, strict=True)]
    save_image(args.output, grid(rows, cell=args.size, column_labels=["original", *(style.name for style in styles)]))
    print(args.output)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
