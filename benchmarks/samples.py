#!/usr/bin/env python3
"""Measure random faces: how near to photos they are, how unlike each other, how far from the training faces; and inversion."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline import cli

FIGURES = ("sheet", "fd", "alike", "identity", "faces", "nearest", "inversion")


def figure_names(text: str) -> tuple[str, ...]:
    """Parse names of figures separated by commas."""
    from argparse import ArgumentTypeError

    names = tuple(part.strip() for part in text.split(",") if part.strip())
    if not names or set(names) - set(FIGURES):
        raise ArgumentTypeError(f"expected some of {','.join(FIGURES)}, got {text!r}")
    return names


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="python -m benchmarks.samples", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="faces, written by `pretrain.py pack` at 256 px")
    parser.add_argument("--teacher", type=Path, required=True, help="SqueezeNet 1.1 features, .npz")
    parser.add_argument("--base", default="starter", help="base generator: starter or a file")
    parser.add_argument("--only", type=figure_names, default=FIGURES, help="figures, separated by commas")
    parser.add_argument("--count", type=cli.positive_int, default=2000, help="samples for the Frechet distance")
    parser.add_argument("--few", type=cli.positive_int, default=200, help="samples and photos for all other figures")
    parser.add_argument("--truncation", type=cli.finite_float, default=None, help="truncation psi; default is the base's")
    parser.add_argument("--outdir", type=Path, default=Path("outputs/samples"), help="folder of results and sheets")
    parser.add_argument("--seed", type=cli.non_negative_int, default=0, help="seed of the samples")
    return parser.parse_args(argv)


def run(args: Namespace) -> int:
    for name in ("data", "teacher"):
        if not getattr(args, name).is_file():
            raise cli.UserError(f"{getattr(args, name)}: not found; check --{name}")
    cli.ensure_dir(args.outdir)
    from benchmarks import sample_figures
    from checkpoints.io import atomic_write

    bench = sample_figures.SampleBench(args)
    figures: dict[str, Any] = {"truncation": bench.psi}
    for name in args.only:
        figures[name] = getattr(sample_figures, f"measure_{name}")(bench)
        print(f"{name}: {json.dumps(figures[name])}", file=sys.stderr, flush=True)
    with atomic_write(args.outdir / "samples.json") as path:
        path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(figures))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
