#!/usr/bin/env python3
"""Draw photos in the style of any picture, without training: every photo with every style picture, and a sheet of all."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import cli

if TYPE_CHECKING:
    from pipeline.naming import Photo
    from styles.controls import Look

STYLE = "any"
# The control that takes the picture.
PICTURE = "style_image"
CELL = 160


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="any_style.py", description=__doc__)
    cli.add_controls(parser, argv, default=STYLE)
    parser.add_argument("--style_images", type=Path, default=None, help="folder of style pictures, or one; the same as "
                                                                       "--style-image for one")
    parser.add_argument("--input_image", type=Path, default=Path("data/test_inputs"), help="photo, folder of photos, or clip")
    parser.add_argument("--align", type=cli.str2bool, nargs="?", const=True, default=True,
                        help="find and align faces; false for inputs that are aligned already")
    cli.add_finder(parser)
    parser.add_argument("--inversion", choices=("e4e", "optimize", "e4e+optimize"), default="e4e",
                        help="how photos become latents: at once, or refined by --steps, where the style draws with its "
                             "generator; the bundled one draws photos themselves")
    parser.add_argument("--steps", type=cli.positive_int, default=100, help="optimisation steps")
    parser.add_argument("--cache", type=Path, default=None, help="folder of latents; default OUTPUT/latents")
    parser.add_argument("--force", action="store_true", help="do pictures again that are done")
    parser.add_argument("--output", "--outdir", dest="output", type=Path, default=Path("outputs/any_style"),
                        help="output folder")
    cli.add_common(parser, outdir=False)
    return parser.parse_args(argv)


def style_pictures(args: Namespace, look: Look) -> list[Photo]:
    """Return the style pictures that the options name."""
    from pipeline.batch import folder_photos

    named = look.get(PICTURE)
    if (named is None) == (args.style_images is None):
        raise cli.UserError("name the style: --style-images with a picture or a folder of them, or --style-image with one")
    return folder_photos(args.style_images if named is None else Path(named.path))


def pair_stem(photo: Photo, picture: Photo) -> str:
    """Return PHOTO_v_STYLE, short enough for every file system."""
    from pipeline.naming import MAX_STEM_BYTES, text_hash

    stem = f"{photo.stem}_v_{Path(picture.stem).name}"
    if len(Path(stem).name.encode()) <= MAX_STEM_BYTES:
        return stem
    first, second = (Path(name).name[:24] for name in (photo.stem, picture.stem))
    return Path(photo.stem).with_name(f"{first}_v_{second}_{text_hash(stem)[:8]}").as_posix()


def every_pair(args: Namespace, look: Look, photos: Sequence[Photo], pictures: Sequence[Photo]
               ) -> Iterator[tuple[dict, Photo]]:
    """Yield the report's row of every photo in every style, and the style's picture; what is done is kept."""
    from data.images import ImageError
    from pipeline.batch import Ledger
    from pipeline.photos import PhotoSettings, drawer
    from pipeline.stylize import InversionSettings, build_stylizer
    from styles.controls import FileValue

    networks = {"style": args.style, "base": None, "encoder": None, "align": args.align, "faces": "largest",
                "finder": cli.finder_of(args), "inversion": InversionSettings(args.inversion, args.steps),
                "device": cli.resolve_device(args.device), "cache": args.cache or args.output / "latents"}
    stylizer = build_stylizer(**networks)
    if PICTURE not in {control.name for control in stylizer.style.controls}:
        raise cli.UserError(f"--style {args.style}: takes no style picture; leave the option out, or use inference.py")
    for picture in pictures:
        try:
            chosen = look.changed(**{PICTURE: FileValue.read(picture.path)})
            settings = PhotoSettings(networks, args.output, chosen, args.dtype)
            stylizer.style.prepare(chosen)
        except ImageError as error:
            for photo in photos:
                yield failed(photo, error), picture
            continue
        ledger, draw = Ledger(args.output, settings.digest(stylizer)), drawer(settings, stylizer)
        for photo in photos:
            yield ledger.run(replace(photo, stem=pair_stem(photo, picture)), draw, force=args.force), picture


def failed(photo: Photo, error: Exception) -> dict[str, Any]:
    """Return the row of a photo whose style picture cannot be read."""
    return {"file": photo.path, "status": "failed", "faces": 0, "seconds": 0.0, "outputs": "", "error": str(error)}


def sheet(rows: Sequence[tuple[dict, Photo]], output: Path, photos: Sequence[Photo], pictures: Sequence[Photo]) -> Path:
    """Write photos above and style pictures on the left of what was made of them."""
    from PIL import Image, ImageOps

    from data.images import read_image, save_image

    canvas = Image.new("RGB", (CELL * (len(photos) + 1), CELL * (len(pictures) + 1)), "white")

    def paste(path: Path, column: int, line: int) -> None:
        picture = ImageOps.contain(read_image(path), (CELL, CELL))
        canvas.paste(picture, (column * CELL + (CELL - picture.width) // 2, line * CELL + (CELL - picture.height) // 2))

    columns, lines = ({name.path: number for number, name in enumerate(names, 1)} for names in (photos, pictures))
    for name, column in columns.items():
        paste(Path(name), column, 0)
    for name, line in lines.items():
        paste(Path(name), 0, line)
    for row, picture in rows:
        paste(output / row["outputs"].split(";")[0], columns[row["file"]], lines[picture.path])
    path = output / "sheet.png"
    save_image(path, canvas)
    return path


def run_photos(args: Namespace, look: Look, pictures: Sequence[Photo]) -> int:
    """Draw every photo in every style."""
    from tqdm import tqdm

    from pipeline.batch import folder_photos

    photos = folder_photos(args.input_image, output=args.output)
    cli.ensure_dir(args.output)
    rows: list[tuple[dict, Photo]] = []
    with tqdm(total=len(photos) * len(pictures), desc="pictures", disable=len(photos) * len(pictures) < 2) as bar:
        for row, picture in every_pair(args, look, photos, pictures):
            rows.append((row, picture))
            bar.update(1)
            with tqdm.external_write_mode():
                if row["outputs"]:
                    print(args.output / row["outputs"].split(";")[0])
                if row["error"]:
                    cli.report(row["error"])
    readable = [picture for picture in pictures if any(one == picture and row["outputs"] for row, one in rows)]
    alive = [photo for photo in photos if any(row["outputs"] and row["file"] == photo.path for row, _ in rows)]
    if readable:
        kept = [(row, picture) for row, picture in rows if row["outputs"]]
        print(sheet(kept, args.output, alive, readable))
    count = sum(row["status"] == "failed" for row, _ in rows)
    if count:
        cli.report(f"{count} of {len(rows)} pictures failed; the others are in {args.output}")
    return 2 if count else 0


def run_clip(args: Namespace, pictures: Sequence[Photo]) -> int:
    """Restyle a clip in every style, as ``inference.py`` does in one."""
    import inference

    code = 0
    for picture in pictures:
        words = ["--style", args.style, "--input_image", str(args.input_image), "--style_image", picture.path,
                 "--output", str(args.output / picture.stem), "--device", args.device, "--dtype", args.dtype,
                 *cli.finder_words(args)]
        code = max(code, inference.main(words))
    return code


def run(args: Namespace) -> int:
    from pipeline.video_io import is_clip

    look = cli.look_of(args)
    pictures = style_pictures(args, look)
    if args.input_image.is_file() and is_clip(args.input_image):
        return run_clip(args, pictures)
    return run_photos(args, look, pictures)


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
