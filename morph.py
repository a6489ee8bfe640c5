#!/usr/bin/env python3
"""A photo that goes through styles, as a film: photo, the style sliding by, result (BlendGAN's gen_video).

Styles are pictures, random ones by their seeds, style files of one kind, exemplars of a gallery, or versions of an encapsulated
style. Between each two lie the 31 published weights: the first style, twenty steps of a sigmoid, and ten times the second.
"""

from __future__ import annotations

import itertools
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import cli

if TYPE_CHECKING:
    from PIL import Image

    from pipeline.stylize import Crop, Stylizer
    from styles.protocol import Style

FPS = 30
# The style that each way takes where none is named.
STYLES = {"exemplars": "exemplars", "versions": "encapsulated"}


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="morph.py", description=__doc__)
    parser.add_argument("--input_image", "--input_img_path", dest="input_image", type=Path,
                        default=Path("data/test_inputs/001.png"), help="photo")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--style_images", "--style_img_path", dest="style_images", type=Path, nargs="+", default=None,
                       help="style pictures, and folders of them, in this order")
    which.add_argument("--random", type=int, default=None, help="so many random styles, from --seed on; published 8")
    which.add_argument("--styles", default=None, help="style files of one kind, NAME,NAME,...")
    which.add_argument("--exemplars", nargs="+", default=None, metavar="NAME",
                       help="exemplars of --style by names or numbers from 0, and files of portraits, in this order")
    which.add_argument("--versions", type=cli.int_ranges, default=None,
                       help="versions of an encapsulated --style that follow each other, such as 1-4")
    parser.add_argument("--style", default=None,
                        help="name or file of a style that takes pictures and seeds (any if not given, also blendgan), holds "
                             "exemplars (exemplars) or has versions (encapsulated)")
    parser.add_argument("--add_weight_index", type=cli.finite_float, default=None,
                        help="rows that stay the face's own; published 7 here, the style's own default where not given")
    parser.add_argument("--align", type=cli.str2bool, nargs="?", const=True, default=True,
                        help="find and align the face; false for an input that is aligned already")
    cli.add_finder(parser)
    parser.add_argument("--size", type=cli.image_side, default=256, help="side of a panel in px")
    parser.add_argument("--output", "--outdir", dest="output", type=Path, default=Path("outputs/morph"), help="output folder")
    cli.add_common(parser, outdir=False)
    args = parser.parse_args(argv)
    if args.random is not None and args.random < 2:
        parser.error(f"argument --random: a film needs at least 2 styles, got {args.random}")
    for name in ("exemplars", "versions"):
        if getattr(args, name) is not None and len(getattr(args, name)) < 2:
            parser.error(f"argument --{name}: a film needs at least 2, got {getattr(args, name)[0]}")
    if args.versions is not None and any(second - first != 1 for first, second in itertools.pairwise(args.versions)):
        parser.error("argument --versions: between two that do not follow each other lie others; give a range such as 1-4")
    args.style = args.style or next((style for name, style in STYLES.items() if getattr(args, name)), "any")
    return args


def squared(picture: Image.Image, side: int) -> Image.Image:
    """Return a picture of any shape as a square, whole and not squeezed, on white."""
    from PIL import Image as Pictures
    from PIL import ImageOps

    return ImageOps.pad(picture, (side, side), Pictures.Resampling.LANCZOS, color="white")


def sliding(first: Image.Image, second: Image.Image, share: float, side: int) -> Image.Image:
    """Return the view of two pictures beside each other, moved from the first to the second by ``share``."""
    from PIL import Image as Pictures

    strip = Pictures.new("RGB", (2 * side, side))
    for index, picture in enumerate((first, second)):
        strip.paste(squared(picture, side), (index * side, 0))
    left = round(share * side)
    return strip.crop((left, 0, left + side, side))


def of_pictures(args: Namespace, stylizer: Stylizer) -> tuple[list[Image.Image], list[dict]]:
    """Return what is shown of pictures or random styles, and the controls that choose each."""
    from data.images import list_images, read_image, save_image
    from styles.controls import FileValue

    style, names = stylizer.style, {control.name for control in stylizer.style.controls}
    if not {"style_image", "second_style_image", "second_share"} <= names:
        raise cli.UserError(f"--style {args.style}: takes no two style pictures; name one that does, or use --styles")
    if args.style_images is not None:
        paths = [path for given in args.style_images for path in list_images(given)]
        return [read_image(path) for path in paths], [{"style_image": FileValue.read(path)} for path in paths]
    seeds = [args.seed + number for number in range(args.random)]
    if hasattr(style, "random_picture"):
        shown = [style.random_picture(seed) for seed in seeds]
        paths = [args.output / "styles" / f"random_{seed}.png" for seed in seeds]
        for path, picture in zip(paths, shown, strict=True):
            save_image(path, picture)
        return shown, [{"style_image": FileValue.read(path)} for path in paths]
    # A generator that blends has codes without pictures; the mean face shows them.
    chosen = [{"style_seed": float(seed)} for seed in seeds]
    return [by_mean_face(style, one) for one in chosen], chosen


def by_mean_face(style: Style, chosen: dict) -> Image.Image:
    """Return the mean face as a style draws it with values of controls."""
    from data.images import to_pil
    from models.face import Face

    mean = Face(style.base.generator.broadcast(style.base.w_avg[None]).clone())
    return to_pil(style.draw(mean, style.default_look().changed(**chosen)))


def of_exemplars(args: Namespace, style: Style) -> tuple[list[Image.Image], list[dict]]:
    """Return what is shown of exemplars, and the controls that choose each."""
    from data.images import read_image
    from styles.controls import FileValue

    control = next((control for control in style.controls if control.name == "exemplar"), None)
    if control is None:
        raise cli.UserError(f"--style {args.style}: holds no exemplars; name one that does")
    try:
        values = [control.parse(text) for text in args.exemplars]
    except ArgumentTypeError as error:
        raise cli.UserError(f"--exemplars: {error}") from error
    small, shown = style.pictures("exemplar"), []
    for value in values:
        if isinstance(value, FileValue):
            shown.append(read_image(value.path))
        else:
            shown.append(style.portrait(value) if style.draws_pictures else
                         small.get(value) or by_mean_face(style, {"exemplar": value}))
    return shown, [{"exemplar": value} for value in values]


def of_versions(args: Namespace, style: Style) -> tuple[list[Image.Image], list[dict]]:
    """Return what is shown of versions, and the controls that choose each."""
    if "version" not in {control.name for control in style.controls}:
        raise cli.UserError(f"--style {args.style}: has no versions; name an encapsulated style")
    chosen = [{"version": float(number)} for number in args.versions]
    return [by_mean_face(style, one) for one in chosen], chosen


def between(first: dict, second: dict, share: float) -> dict:
    """Return the controls that choose what lies between two styles: numbers between those of versions, else a mixture of both."""
    if "version" in first:
        return {"version": (1.0 - share) * first["version"] + share * second["version"]}
    return {**first, **{f"second_{name}": value for name, value in second.items()}, "second_share": share}


def chosen_of(args: Namespace, stylizer: Stylizer) -> tuple[list[Image.Image], list[dict]]:
    """Return what is shown of the styles that the options name, and the controls that choose each."""
    if args.exemplars is not None:
        return of_exemplars(args, stylizer.style)
    return of_pictures(args, stylizer) if args.versions is None else of_versions(args, stylizer.style)


def picture_drawer(args: Namespace, stylizer: Stylizer, crop: Crop, chosen: Sequence[dict]) -> Callable:
    """Return the function (number of a style, share of the next) -> picture."""
    from data.images import to_pil

    face, look = stylizer.known(crop, stylizer.invert(crop.image)), stylizer.style.default_look()
    if args.add_weight_index is not None:
        if "add_weight_index" not in {control.name for control in stylizer.style.controls}:
            raise cli.UserError(f"--add_weight_index: the style {stylizer.style.name} blends no rows; leave the option out")
        look = look.changed(add_weight_index=args.add_weight_index)

    def draw(number: int, share: float) -> Image.Image:
        return to_pil(stylizer.restyle(face, look=look.changed(**between(chosen[number], chosen[number + 1], share)),
                                       landmarks=crop.places()))

    return draw


def file_drawer(args: Namespace, stylizer: Stylizer, crop: Crop, names: Sequence[str]) -> tuple[list[Image.Image], Callable]:
    """Return what is shown of style files, the mean face drawn by each, and the function (number, share) -> picture."""
    from data.images import to_pil
    from styles.registry import load_style, mix_styles

    styles = [load_style(name, device=stylizer.device) for name in names]
    face = stylizer.known(crop, stylizer.invert(crop.image))

    def draw(number: int, share: float) -> Image.Image:
        pair = styles[number:number + 2]
        style = pair[round(share)] if share in (0.0, 1.0) else mix_styles(pair, [1.0 - share, share])
        return to_pil(style.draw(face, style.default_look(), landmarks=None if crop.places() is None else crop.places()[None]))

    return [by_mean_face(style, {}) for style in styles], draw


def run(args: Namespace) -> int:
    from tqdm import tqdm

    from data.animation import save_animation
    from data.grids import grid
    from data.images import read_image, save_image
    from models.blending import interpolation_weights
    from pipeline.stylize import build_stylizer

    photo, names = read_image(args.input_image), args.styles.split(",") if args.styles else []
    if args.styles and len(names) < 2:
        raise cli.UserError(f"--styles {args.styles}: a film needs at least 2 styles")
    cli.ensure_dir(args.output)
    stylizer = build_stylizer(names[0] if names else args.style, align=args.align, finder=cli.finder_of(args),
                              device=cli.resolve_device(args.device))
    crop, side = stylizer.crops(photo, name=str(args.input_image))[0], args.size
    if names:
        shown, draw = file_drawer(args, stylizer, crop, names)
    else:
        shown, chosen = chosen_of(args, stylizer)
        if len(chosen) < 2:
            raise cli.UserError(f"{args.style_images[0]}: a film needs at least 2 style pictures; name more, or a folder")
        draw = picture_drawer(args, stylizer, crop, chosen)
    frames, ends, weights = [], [], interpolation_weights().tolist()
    for number in tqdm(range(len(shown) - 1), desc="styles"):
        made = {share: draw(number, share) for share in dict.fromkeys(weights)}
        ends.append(made[0.0])
        frames += [grid([[crop.image, sliding(shown[number], shown[number + 1], share, side), made[share]]], cell=side, gap=0)
                   for share in weights]
    ends.append(made[1.0])
    stem = args.input_image.stem
    save_animation(args.output / f"{stem}.mp4", frames, fps=FPS)
    save_image(args.output / f"{stem}_sheet.png", grid([[crop.image] * len(shown), [squared(one, side) for one in shown], ends],
                                                       cell=side, row_labels=["photo", "style", "result"]))
    for name in (f"{stem}.mp4", f"{stem}_sheet.png"):
        print(args.output / name)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
