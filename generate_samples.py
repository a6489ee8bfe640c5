#!/usr/bin/env python3
"""Draw random stylized faces by seed: a grid with the original faces above the stylized ones."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from pipeline import cli


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="generate_samples.py", description=__doc__)
    parser.add_argument("--style", default="sample", help="name of a style in checkpoints/, or a file")
    parser.add_argument("--n_sample", type=cli.positive_int, default=1, help="number of grids")
    parser.add_argument("--n_each", type=cli.positive_int, default=6, help="faces per grid")
    parser.add_argument("--nrow", type=cli.non_negative_int, default=0, help="faces per row; 0 is all of a grid")
    parser.add_argument("--alpha", type=cli.finite_float, default=0.6, help="deformation degree")
    parser.add_argument("--truncation", type=cli.finite_float, default=0.7, help="truncation psi")
    parser.add_argument("--style_only", type=cli.str2bool, nargs="?", const=True, default=False,
                        help="leave the originals out")
    parser.add_argument("--size", type=cli.non_negative_int, default=0, help="side of a face in px; 0 is the network's")
    parser.add_argument("--batch", type=cli.positive_int, default=8, help="faces computed at once")
    parser.add_argument("--base", default=None, help="base generator; default is the one the style was trained from")
    parser.add_argument("--output", type=Path, default=Path("outputs/generate"), help="output folder")
    cli.add_common(parser, outdir=False, seed=2023)
    return parser.parse_args(argv)


def run(args: Namespace) -> int:
    import torch
    from tqdm import tqdm

    from checkpoints import builders
    from data.grids import grid
    from data.images import save_image
    from pipeline import sampling

    cli.ensure_dir(args.output)
    device = cli.resolve_device(args.device)
    style = builders.load_style(args.style, device=device)
    base = None if args.style_only else sampling.base_of(style, device=device, name=args.base)
    dtype = cli.resolve_dtype(args.dtype, device)
    columns = args.nrow or args.n_each
    for number in tqdm(range(args.n_sample), desc="grids", disable=args.n_sample < 2):
        originals, faces = [], []
        for indices in sampling.batches(args.n_each, args.batch, start=number * args.n_each):
            with cli.autocast(device, dtype):
                w_plus = sampling.sample_w_plus(style, args.seed, indices, truncation_psi=args.truncation)
                faces += list(sampling.stylized_images(style, w_plus, alpha=args.alpha).float().cpu())
                if base is not None:
                    originals += list(sampling.base_images(base, args.seed, indices,
                                                           truncation_psi=args.truncation).float().cpu())
        rows: list[list[torch.Tensor]] = []
        for first in range(0, args.n_each, columns):
            rows += [part[first:first + columns] for part in (originals, faces) if part]
        path = args.output / f"{style.name}_{args.seed}_{args.n_each}_{number:04d}.png"
        save_image(path, grid(rows, cell=args.size or faces[0].shape[2]))
        print(path)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
