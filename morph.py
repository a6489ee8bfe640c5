#!/usr/bin/env python3
"""A photo that goes through styles, as a film: photo, the style sliding by, result (BlendGAN's gen_video).

Styles are pictures, random ones by their seeds, or style files of one kind. Between each two lie the 31 published weights: the
first style, twenty steps of a sigmoid, and ten times the second.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import cli

if TYPE_CHECKING:
    from PIL import Image

    from pipeline.stylize import Crop, Stylizer

FPS = 30


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="morph.py", description=__doc__)
    parser.add_argument("--input_image", "--input_img_path", dest="input_image", type=Path,
                        default=Path("data/test_inputs/001.png"), help="photo")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--style_images", "--style_img_path", dest="style_images", type=Path, nargs="+", default=None,
                       help="style pictures, and folders of them, in this order")
    which.add_argument("--random", type=int, default=None, help="so many random styles, from --seed on; published 8")
    which.add_argument("--styles", default=None, help="style files of one kind, NAME,NAME,...")
    parser.add_argument("--style", default="any", help="style that takes pictures and seeds: a name or a file, also blendgan")
    parser.add_argument("--add_weight_index", type=cli.finite_float, default=None,
                        help="rows that stay the face's own; published 7 here, the style's own default where not given")
    parser.add_argument("--align", type=cli.str2bool, nargs="?", const=True, default=True,
                        help="find and align the face; false for an input that is aligned already")
    parser.add_argument("--size", type=cli.image_side, default=256, help="side of a panel in px")
    parser.add_argument("--output", "--outdir", dest="output", type=Path, default=Path("outputs/morph"), help="output folder")
    cli.add_common(parser, outdir=False)
    args = parser.parse_args(argv)
    if args.random is not None and args.random < 2:
        parser.error(f"argument --random: a film needs at least 2 styles, got {args.random}")
    return args


def sliding(first: Image.Image, second: Image.Image, share: float, side: int) -> Image.Image:
    """Return the view of two pictures beside each other, moved from the first to the second by ``share``."""
    from PIL import Image as Pictures

    strip = Pictures.new("RGB", (2 * side, side))
    for index, picture in enumerate((first, second)):
        strip.paste(picture.resize((side, side), Pictures.Resampling.LANCZOS), (index * side, 0))
    left = round(share * side)
    return strip.crop((left, 0, left + side, side))


def of_pictures(args: Namespace, stylizer: Stylizer) -> tuple[list[Image.Image], list[dict]]:
    """Return what is shown of pictures or random styles, and the controls that choose each."""
    from data.images import list_images, read_image, save_image, to_pil
    from models.face import Face
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
    mean = Face(style.base.generator.broadcast(style.base.w_avg[None]).clone())
    return [to_pil(style.draw(mean, style.default_look().changed(style_seed=float(seed)))) for seed in seeds], [
        {"style_seed": float(seed)} for seed in seeds]


def picture_drawer(args: Namespace, stylizer: Stylizer, crop: Crop, chosen: Sequence[dict]) -> Callable:
    """Return the function (number of a style, share of the next) -> picture."""
    from data.images import to_pil

    face, look = stylizer.known(crop, stylizer.invert(crop.image)), stylizer.style.default_look()
    if args.add_weight_index is not None:
        if "add_weight_index" not in {control.name for control in stylizer.style.controls}:
            raise cli.UserError(f"--add_weight_index: the style {stylizer.style.name} blends no rows; leave the option out")
        look = look.changed(add_weight_index=args.add_weight_index)

    def draw(number: int, share: float) -> Image.Image:
        second = {f"second_{name}": value for name, value in chosen[number + 1].items()}
        return to_pil(stylizer.restyle(face, look=look.changed(**chosen[number], **second, second_share=share),
                                       landmarks=crop.places()))

    return draw


def file_drawer(args: Namespace, stylizer: Stylizer, crop: Crop, names: Sequence[str]) -> tuple[list[Image.Image], Callable]:
    """Return what is shown of style files, the mean face drawn by each, and the function (number, share) -> picture."""
    from data.images import to_pil
    from models.face import Face
    from styles.registry import load_style, mix_styles

    styles = [load_style(name, device=stylizer.device) for name in names]
    face, mean = stylizer.known(crop, stylizer.invert(crop.image)), Face(stylizer.base.generator.broadcast(stylizer.base.w_avg[None]).clone())

    def draw(number: int, share: float) -> Image.Image:
        pair = styles[number:number + 2]
        style = pair[round(share)] if share in (0.0, 1.0) else mix_styles(pair, [1.0 - share, share])
        return to_pil(style.draw(face, style.default_look(), landmarks=None if crop.places() is None else crop.places()[None]))

    return [to_pil(style.draw(mean, style.default_look())) for style in styles], draw


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
    stylizer = build_stylizer(names[0] if names else args.style, align=args.align, device=cli.resolve_device(args.device))
    crop, side = stylizer.crops(photo, name=str(args.input_image))[0], args.size
    if names:
        shown, draw = file_drawer(args, stylizer, crop, names)
    else:
        shown, chosen = of_pictures(args, stylizer)
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
    save_image(args.output / f"{stem}_sheet.png", grid([[crop.image] * len(shown), shown, ends], cell=side,
                                                       row_labels=["photo", "style", "result"]))
    for name in (f"{stem}.mp4", f"{stem}_sheet.png"):
        print(args.output / name)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
