#!/usr/bin/env python3
"""Random faces and the same faces in a style, as pairs of files (BlendGAN's generate_image_pairs)."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import cli

if TYPE_CHECKING:
    from torch import Tensor

    from styles.protocol import Style


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="blend_pairs.py", description=__doc__)
    parser.add_argument("--style", "--ckpt", dest="style", default="any", help="style that takes pictures: a name or a file")
    parser.add_argument("--style_img", type=Path, default=None, help="style picture; a random style for each pair if not given")
    parser.add_argument("--pics", type=cli.positive_int, default=4, help="number of pairs")
    parser.add_argument("--truncation", type=cli.finite_float, default=0.75, help="truncation psi of the faces")
    parser.add_argument("--add_weight_index", type=cli.finite_float, default=None,
                        help="rows that stay the face's own; the style's default where not given, published 6")
    parser.add_argument("--sample_zs", type=Path, default=None,
                        help="file of the faces' z [N, 512], .npy or .pt, in place of --seed; sets --pics")
    parser.add_argument("--output", "--outdir", dest="output", type=Path, default=Path("outputs/blend_pairs"),
                        help="output folder")
    cli.add_common(parser, outdir=False)
    return parser.parse_args(argv)


def read_zs(path: Path, width: int) -> Tensor:
    """Return z [N, width] of a file.

    Raises:
        UserError: naming the file, if it holds something else.
    """
    import numpy as np
    import torch

    from checkpoints.io import read_torch

    try:
        found = torch.from_numpy(np.asarray(np.load(path, allow_pickle=False))) if path.suffix == ".npy" else read_torch(path)
    except (OSError, ValueError, TypeError, EOFError) as error:
        raise cli.UserError(f"{path}: cannot be read ({' '.join(str(error).split())[:80]}); give z as .npy or .pt") from error
    if not isinstance(found, torch.Tensor) or found.ndim != 2 or found.shape[1] != width or not len(found) or not bool(
            torch.isfinite(found.float()).all()):
        got = list(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
        raise cli.UserError(f"{path}: holds {got}, expected finite z [N, {width}]")
    return found.float()


def faces_z(args: Namespace, style: Style) -> list[Tensor]:
    """Return z [1, D] of every face."""
    from pipeline.sampling import seeded_z

    width = style.latent_shape[1]
    if args.sample_zs is not None:
        return list(read_zs(args.sample_zs, width).split(1))
    return [seeded_z(args.seed, index, width) for index in range(args.pics)]


def run(args: Namespace) -> int:
    from tqdm import tqdm

    from data.grids import grid
    from data.images import read_image, save_image, to_pil
    from pipeline.sampling import undeformed
    from styles.controls import FileValue
    from styles.registry import load_style

    style = load_style(args.style, device=cli.resolve_device(args.device))
    if not {"style_image", "style_seed"} <= {control.name for control in style.controls}:
        raise cli.UserError(f"--style {args.style}: takes no style picture; use generate_samples.py")
    picture = None if args.style_img is None else read_image(args.style_img)
    look = style.default_look(samples=True)
    if args.style_img is not None:
        look = look.changed(style_image=FileValue.read(args.style_img))
    if args.add_weight_index is not None:
        look = look.changed(add_weight_index=args.add_weight_index)
    zs = faces_z(args, style)
    cli.ensure_dir(args.output)
    rows: list[list] = [[], [], []]
    for index, z in enumerate(tqdm(zs, desc="pairs")):
        with cli.autocast(style.device, cli.resolve_dtype(args.dtype, style.device)):
            face = style.random(z, truncation_psi=args.truncation)
            natural = to_pil(undeformed(style.base, face))
            chosen = look if picture is not None else look.changed(style_seed=float(args.seed + index))
            styled = to_pil(style.draw(face, chosen))
        for name, image in (("natural", natural), ("styled", styled)):
            save_image(args.output / name / f"{index:06d}.png", image)
        save_image(args.output / f"{index:06d}.png", grid([[natural, styled]], cell=natural.width, gap=0))
        drawer = getattr(style, "random_picture", None)  # kinds whose random styles are pictures
        shown = picture or (drawer(args.seed + index) if drawer else None)
        for row, image in zip(rows, (natural, shown, styled), strict=True):
            row += [] if image is None else [image]
    save_image(args.output / "sheet.png", grid([row for row in rows if row], cell=160))
    print(args.output / "sheet.png")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
