#!/usr/bin/env python3
"""Draw seeds, or latents that were projected, with any generator, as generate.py of stylegan2-ada-pytorch does.

A seed is that of numpy, so a network and a seed give the picture that they give there.
"""

from __future__ import annotations

import re
from argparse import ArgumentTypeError, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipeline import cli

if TYPE_CHECKING:
    from torch import Tensor

    from checkpoints.builders import Base
    from models.face import Face

NOISE = ("const", "random", "none")
MOST = 100_000


def seed_range(text: str) -> tuple[int, ...]:
    """Parse seeds: numbers and ranges with both ends, separated by commas, as in 0-35,66."""
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,10})(?:-(\d{1,10}))?\s*", part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if not first <= last < 2**32 or last - first >= MOST:
            raise ArgumentTypeError(f"expected seeds such as 0-35,66, got {text!r}")
        seeds += range(first, last + 1)
    return tuple(seeds)


def add_network(parser: cli.ArgumentParser, *, outdir: str) -> None:
    """Add the options that both commands have."""
    parser.add_argument("--network", "--base", dest="network", default="starter",
                        help="generator: starter, official or a file, also a pickle of stylegan2-ada-pytorch")
    parser.add_argument("--trunc", "--truncation", dest="trunc", type=cli.finite_float, default=1.0, help="truncation psi")
    parser.add_argument("--noise_mode", choices=NOISE, default="const", help="the network's own noise maps, fresh ones, or none")
    cli.add_common(parser, outdir=False)
    parser.add_argument("--outdir", type=Path, default=Path(outdir), help="output folder")


def w_of_seed(base: Base, seed: int, *, truncation_psi: float) -> Tensor:
    """Return w [1, D] of a seed of numpy, truncated."""
    z = np.random.RandomState(seed).randn(1, base.generator.config.style_dim)
    return base.generator.mapping(torch.from_numpy(z).float().to(base.w_avg), truncation_psi=truncation_psi, w_avg=base.w_avg)


def noise_maps(base: Base, mode: str, rng: torch.Generator) -> list[Tensor]:
    """Return the noise maps of a mode of ``NOISE`` for one picture."""
    generator = base.generator
    if mode == "random":
        return generator.random_noise(1, generator=rng)
    return generator.fixed_noise() if mode == "const" else generator.zero_noise()


def read_projected(path: Path, base: Base) -> list[Face]:
    """Return the faces of a file of projected latents: ``w`` [N, L, D], perhaps with ``residual`` [N, C, R, R].

    Raises:
        UserError: naming the file, if it is none or does not fit the generator.
    """
    from models.face import Face

    config = base.generator.config
    try:
        with np.load(path, allow_pickle=False) as arrays:
            w = torch.from_numpy(arrays["w"]).float()
            residual = torch.from_numpy(arrays["residual"]).float() if "residual" in arrays else None
        if not bool(torch.isfinite(w).all()):
            raise ValueError("w is not finite")
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        reason = "not found" if isinstance(error, FileNotFoundError) else " ".join(str(error).split())[:80]
        raise cli.UserError(f"{path}: holds no projected latents ({reason}); name a projected_w.npz") from error
    if w.ndim != 3 or list(w.shape[1:]) != [config.n_latent, config.style_dim]:
        raise cli.UserError(f"{path}: holds w {list(w.shape)}, expected [N, {config.n_latent}, {config.style_dim}]; name the "
                            "--network that it was projected with")
    try:
        faces = Face(w, residual).to(base.w_avg.device)
    except ValueError as error:
        raise cli.UserError(f"{path}: {error}; project anew") from error
    return [faces[index:index + 1] for index in range(len(faces))]


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="python -m projection.generate", description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--seeds", type=seed_range, default=None, help="seeds and ranges, 0-35,66")
    which.add_argument("--projected_w", type=Path, default=None, help="file of latents that project_landmarks.py wrote")
    add_network(parser, outdir="outputs/generate_seeds")
    return parser.parse_args(argv)


@torch.no_grad()
def run(args: Namespace) -> int:
    from checkpoints.builders import load_base
    from data.images import save_image
    from models.face import Face

    cli.ensure_dir(args.outdir)
    base = load_base(args.network, device=cli.resolve_device(args.device))
    generator, rng = base.generator, torch.Generator().manual_seed(args.seed)
    if args.projected_w is not None:
        named = [(f"proj{index:02d}", face) for index, face in enumerate(read_projected(args.projected_w, base))]
    else:
        named = [(f"seed{seed:04d}", None) for seed in args.seeds]
    for index, (name, face) in enumerate(named):
        if face is None:
            face = Face(generator.broadcast(w_of_seed(base, args.seeds[index], truncation_psi=args.trunc)))
        with cli.autocast(base.w_avg.device, cli.resolve_dtype(args.dtype, base.w_avg.device)):
            image = generator.synthesis(face.w_plus, noise=noise_maps(base, args.noise_mode, rng),
                                        feature_transforms=face.transforms())
        save_image(args.outdir / f"{name}.png", image)
        print(args.outdir / f"{name}.png")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
