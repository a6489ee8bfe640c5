#!/usr/bin/env python3
"""Measure the starter weights: samples, inversion, features, landmarks, and whether a known deformation transfers."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline import cli
from training.config import PROFILES, FineTuneConfig

GENERATOR, NET, FACE_ID = "generator.safetensors", "landmarks_net.safetensors", "face_id.safetensors"
# figure -> starter files that it depends on
FIGURES = {
    "fd": (GENERATOR,),
    "faces": (GENERATOR,),
    "inversion": (GENERATOR, "encoder.safetensors", "vit.safetensors", NET),
    "correspondence": ("vit.safetensors",),
    "landmarks": ("landmarks.dat", NET),
    "identity": (GENERATOR, "encoder.safetensors", "vit.safetensors", FACE_ID),
    "deformation": (GENERATOR, "discriminator.safetensors", "encoder.safetensors", "vit.safetensors", NET),
}


def figure_names(text: str) -> tuple[str, ...]:
    """Parse names of figures separated by commas."""
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    unknown = [name for name in names if name not in FIGURES]
    if unknown or not names:
        raise ArgumentTypeError(f"expected some of {','.join(FIGURES)}, got {text!r}")
    return names


def variant_names(text: str) -> tuple[str, ...]:
    """Parse names of ways to fine-tune separated by commas, in the benchmark's order."""
    from benchmarks.quality_deformation import VARIANTS

    names = {part.strip() for part in text.split(",") if part.strip()}
    if not names or names - set(VARIANTS):
        raise ArgumentTypeError(f"expected some of {','.join(VARIANTS)}, got {text!r}")
    return tuple(name for name in VARIANTS if name in names)


def style_list(text: str) -> tuple[str, ...]:
    """Parse names or files of styles separated by commas."""
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not names:
        raise ArgumentTypeError("expected names of styles separated by commas, got none")
    return names


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("--only", type=figure_names, default=tuple(FIGURES), help="figures, separated by commas")
    parser.add_argument("--data", type=Path, required=True, help="faces, written by `pretrain.py pack`")
    parser.add_argument("--teacher", type=Path, required=True, help="SqueezeNet 1.1 features, .npz")
    parser.add_argument("--outdir", type=Path, default=Path("outputs/quality"), help="folder of results and sheets")
    parser.add_argument("--base", default="starter", help="base generator: starter or a file beside its discriminator")
    parser.add_argument("--steps", type=cli.positive_int, default=PROFILES["starter"]["iterations"],
                        help="fine-tuning steps for the deformation")
    parser.add_argument("--variants", type=variant_names, default=None,
                        help="ways to fine-tune for the deformation, separated by commas: full, no_transformers, "
                             "no_directional, no_landmarks [all]")
    parser.add_argument("--styles", type=style_list, default=(cli.DEFAULT_STYLE,),
                        help="styles whose results are measured for the identity, separated by commas")
    parser.add_argument("--photos", type=cli.positive_int, default=200, help="held-out photos for the identity")
    parser.add_argument("--inversion_steps", type=cli.non_negative_int, default=100,
                        help="optimisation steps for the identity; 0 leaves the optimisation out")
    parser.add_argument("--seed", type=cli.non_negative_int, default=0, help="seed of all samples")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="where to compute")
    parser.add_argument("--quick", action="store_true",
                        help="few samples and steps, to see that all runs; the figures mean nothing")
    return parser.parse_args(argv)


def measure(name: str, bench: Any, results: Any) -> dict[str, Any]:
    """Make one figure."""
    from benchmarks import quality_deformation, quality_features, quality_identity, quality_images

    makers = {"fd": quality_images.measure_fd, "faces": quality_images.measure_faces,
              "inversion": quality_images.measure_inversion,
              "identity": quality_identity.measure_identity,
              "correspondence": quality_features.measure_correspondence,
              "landmarks": quality_features.measure_landmarks,
              "deformation": quality_deformation.measure_deformation}
    return makers[name](bench, results)


def identity_facts(args: Namespace) -> dict[str, Any]:
    """Return what the identity of one photo depends on besides the starter's weights; CheckpointError for no such style."""
    from checkpoints.paths import find_style
    from checkpoints.starter_manifest import sha256_of
    from pipeline.stylize import InversionSettings

    settings = InversionSettings(mode="e4e+optimize", steps=args.inversion_steps)
    return {"settings": settings.facts(), "styles": {name: sha256_of(find_style(name)) for name in args.styles}}


def run(args: Namespace) -> int:
    for name in ("data", "teacher"):
        path = getattr(args, name)
        if not path.is_file():
            raise cli.UserError(f"{path}: not found; check --{name}")
    cli.ensure_dir(args.outdir)
    from benchmarks.quality_common import Bench, Results, Settings, weights_digest
    from pipeline.stylize import InversionSettings

    settings = Settings(args.data, args.teacher, args.outdir, args.base, args.seed, args.steps, args.quick,
                        args.variants or (), args.styles, args.photos, args.inversion_steps)
    bench = Bench(settings, cli.resolve_device(args.device))
    figures: dict[str, Any] = {"quick": args.quick} if args.quick else {}
    for name in args.only:
        facts = {"figure": name, "weights": weights_digest(FIGURES[name], args.base), "quick": args.quick,
                 "seed": args.seed, "data": [args.data.name, args.data.stat().st_size]}
        if name == "deformation":
            facts["settings"] = FineTuneConfig.profile("starter", iterations=args.steps).to_dict()
        if name == "inversion":
            facts["settings"] = InversionSettings().schedule()
        if name == "identity":
            facts |= identity_facts(args)
        results = Results(args.outdir, facts)
        stored = {"deformation": "_".join((name, *settings.variants)), "identity": f"{name}_{args.photos}"}.get(name, name)
        figures[name] = results.get(stored, lambda name=name, results=results: measure(name, bench, results))
        print(f"{name}: {json.dumps(figures[name])}", file=sys.stderr, flush=True)
    print(json.dumps(figures))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
