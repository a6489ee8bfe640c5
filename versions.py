#!/usr/bin/env python3
"""Draw several versions of photos with an encapsulated style: the same face, other colours and strokes."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import cli

if TYPE_CHECKING:
    from PIL import Image

    from pipeline.stylize import Stylizer
    from styles.controls import Look


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="versions.py", description=__doc__)
    parser.add_argument("--style", default="encapsulated", help="an encapsulated style: a name or a file")
    parser.add_argument("--input_image", "--data_path", dest="input_image", type=Path, default=Path("data/test_inputs"),
                        help="photo, or folder of photos")
    parser.add_argument("--align", type=cli.str2bool, nargs="?", const=True, default=True,
                        help="find and align faces; false for inputs that are aligned already")
    cli.add_finder(parser)
    parser.add_argument("--num_style", type=cli.positive_int, default=4, help="versions of each photo")
    parser.add_argument("--first", type=cli.non_negative_int, default=1, help="number of the first version")
    parser.add_argument("--interpolate", type=cli.non_negative_int, default=0,
                        help="steps from each version to the next: a strip and a film of them; 0 for none")
    parser.add_argument("--latent_mask", type=cli.int_list, default=None,
                        help="which rows of w_plus take the version's style, 8,9,10; all style rows if not given")
    parser.add_argument("--mix_alpha", type=cli.finite_float, default=1.0,
                        help="how far these rows go from the photo's own, 0, to the version's, 1")
    parser.add_argument("--couple_outputs", type=cli.str2bool, nargs="?", const=True, default=True,
                        help="also write photo and result side by side")
    parser.add_argument("--test_time", type=cli.non_negative_int, default=0,
                        help="steps by which the encoder is trained on each photo first, once for all versions")
    parser.add_argument("--output", "--exp_dir", dest="output", type=Path, default=Path("outputs/versions"), help="output folder")
    cli.add_common(parser, outdir=False)
    args = parser.parse_args(argv)
    if args.interpolate and args.num_style < 2:
        parser.error("argument --interpolate: there is nothing between one version; give --num-style 2 or more")
    return args


def strengths(args: Namespace, first: int, rows: int) -> float | tuple[float, ...]:
    """Return --mix_alpha for the rows of --latent_mask and 0 for the others; ``first`` is the first of ``rows`` style rows."""
    if args.latent_mask is None:
        return args.mix_alpha
    beyond = [row for row in args.latent_mask if not first <= row < first + rows]
    if beyond:
        raise cli.UserError(f"--latent-mask: {args.style} makes the rows {first} to {first + rows - 1}, so {beyond[0]} is the "
                            "photo's own; leave it out")
    return tuple(args.mix_alpha * (row in args.latent_mask) for row in range(first, first + rows))


def draw_photo(args: Namespace, stylizer: Stylizer, path: Path, stem: str, look: Look) -> list[Path]:
    """Write the versions of one photo and return the files."""
    from data.animation import save_animation
    from data.grids import grid
    from data.images import read_image, save_image, to_pil

    crop = stylizer.crops(read_image(path), name=str(path))[0]
    # Versions are the networks': they restyle what the inversion knows of the photo, not the photo itself.
    face = replace(stylizer.invert(crop.image), photo=None)
    numbers = list(range(args.first, args.first + args.num_style))

    def version(number: float) -> Image.Image:
        with cli.autocast(stylizer.device, cli.resolve_dtype(args.dtype, stylizer.device)):
            return to_pil(stylizer.restyle(face, look=look.changed(version=float(number)), landmarks=crop.places()))

    side, files = stylizer.size, []
    drawn = {float(number): version(number) for number in numbers}
    for number in numbers:
        files.append(args.output / "inference_results" / f"{stem}_{number}.png")
        save_image(files[-1], drawn[number])
        if args.couple_outputs:
            files.append(args.output / "inference_coupled" / f"{stem}_{number}.png")
            save_image(files[-1], grid([[crop.image, drawn[number]]], cell=side, gap=0))
    sheet = [("photo", crop.image), *((f"version {number}", drawn[number]) for number in numbers)]
    files.append(args.output / f"{stem}_versions.png")
    save_image(files[-1], grid([[picture for _, picture in sheet]], cell=side, column_labels=[label for label, _ in sheet]))
    if args.interpolate:
        # Both ends of every interval are versions themselves.
        places = [first + step / args.interpolate for first in numbers[:-1] for step in range(args.interpolate)]
        frames = [drawn[place] if place in drawn else version(place) for place in places] + [drawn[numbers[-1]]]
        files += [args.output / f"{stem}_strip.png", args.output / f"{stem}.mp4"]
        save_image(files[-2], grid([frames[i:i + args.interpolate + 1] for i in range(0, len(frames) - 1, args.interpolate)],
                                   cell=side))
        save_animation(files[-1], frames + frames[::-1], fps=12)
    return files


def run(args: Namespace) -> int:
    from tqdm import tqdm

    from data.images import ImageError
    from pipeline.naming import folder_photos
    from pipeline.stylize import build_stylizer
    from styles.modify import ModifyStyle

    photos = folder_photos(args.input_image, output=args.output)
    cli.ensure_dir(args.output)
    stylizer = build_stylizer(args.style, align=args.align, finder=cli.finder_of(args), device=cli.resolve_device(args.device),
                              cache=args.output / "latents")
    style = stylizer.style
    if not isinstance(style, ModifyStyle):
        raise cli.UserError(f"--style {args.style}: is a style of the kind {style.kind!r}; only encapsulated ones have versions")
    model = style.model
    look = style.default_look().changed(
        strength=strengths(args, model.first_style_row, model.remapping.config.rows), test_time=float(args.test_time))
    failed = 0
    for photo in tqdm(photos, desc="photos", disable=len(photos) < 2):
        try:
            for path in draw_photo(args, stylizer, Path(photo.path), photo.stem, look):
                tqdm.write(str(path))
        except (cli.UserError, ImageError) as error:
            cli.report(error)
            failed += 1
    return 2 if failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
