#!/usr/bin/env python3
"""Mix the rows of seeds: a grid of coarse faces by row and fine ones by column, as style_mixing.py of stylegan2-ada-pytorch."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

import torch

from pipeline import cli
from projection.generate import add_network, noise_maps, seed_range, w_of_seed


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="python -m projection.style_mixing", description=__doc__)
    parser.add_argument("--rows", dest="row_seeds", type=seed_range, required=True, help="seeds of the rows, 85,100-103")
    parser.add_argument("--cols", dest="col_seeds", type=seed_range, required=True, help="seeds of the columns")
    parser.add_argument("--styles", dest="col_styles", type=seed_range, default=tuple(range(7)),
                        help="rows of w_plus that come from the column's face; those above are its finer ones")
    add_network(parser, outdir="outputs/style_mixing")
    return parser.parse_args(argv)


@torch.no_grad()
def run(args: Namespace) -> int:
    from checkpoints.builders import load_base
    from data.grids import grid
    from data.images import save_image

    cli.ensure_dir(args.outdir)
    base = load_base(args.network, device=cli.resolve_device(args.device))
    generator, rng = base.generator, torch.Generator().manual_seed(args.seed)
    if max(args.col_styles) >= generator.config.n_latent:
        raise cli.UserError(f"--styles: the generator has rows 0 to {generator.config.n_latent - 1}, got {max(args.col_styles)}")
    maps = noise_maps(base, args.noise_mode, rng)  # one set for all pictures, so that they differ by their rows alone
    rows = {seed: generator.broadcast(w_of_seed(base, seed, truncation_psi=args.trunc)) for seed in
            {*args.row_seeds, *args.col_seeds}}

    def picture(w_plus: torch.Tensor) -> torch.Tensor:
        with cli.autocast(base.w_avg.device, cli.resolve_dtype(args.dtype, base.w_avg.device)):
            return generator.synthesis(w_plus, noise=maps)[0].float().cpu()

    plain = {seed: picture(w_plus) for seed, w_plus in rows.items()}
    blank = torch.ones_like(next(iter(plain.values())))
    sheet = [[blank, *(plain[seed] for seed in args.col_seeds)]]
    for row in args.row_seeds:
        line = [plain[row]]
        for column in args.col_seeds:
            mixed = rows[row].clone()
            mixed[:, list(args.col_styles)] = rows[column][:, list(args.col_styles)]
            line.append(picture(mixed))
            save_image(args.outdir / f"{row}-{column}.png", line[-1])
        sheet.append(line)
    save_image(args.outdir / "grid.png", grid(sheet, cell=generator.config.size, gap=0))
    print(args.outdir / "grid.png")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
