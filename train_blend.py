#!/usr/bin/env python3
"""Train a style that any picture gives (BlendGAN), one stage at a time; every stage stops on the clock and resumes."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import cli

if TYPE_CHECKING:
    import torch

MINUTES = {"encoder": 60.0, "generator": 240.0, "photos": 60.0}
NEEDS = {"encoder": ("styles",), "generator": ("faces", "styles"), "photos": ("faces", "teacher")}
HELP = {
    "encoder": "style encoder, by contrast, from pictures alone",
    "generator": "generator that blends, against three discriminators",
    "photos": "pSp encoder of photos for that generator",
    "export": "write the style, and the encoder of photos, from what is trained",
}
FILES = {
    "faces": "aligned faces, a file written by `pretrain.py pack`",
    "styles": "artworks, a file written by `pretrain.py pack`",
    "teacher": "SqueezeNet 1.1 features, .npz",
}


def config_of(stage: str) -> type | None:
    """Return the dataclass of a stage's settings."""
    from training.blend.generator import BlendStageConfig
    from training.blend.photos import PhotoStageConfig
    from training.blend.style_encoder import StyleStageConfig

    return {"encoder": StyleStageConfig, "generator": BlendStageConfig, "photos": PhotoStageConfig}.get(stage)


def add_config(stage: cli.ArgumentParser, config: type) -> None:
    """Add an option per number of a stage's settings."""
    for field in fields(config):
        if isinstance(field.default, (int, float)):
            number = cli.positive_int if isinstance(field.default, int) else cli.finite_float
            stage.add_argument(f"--{field.name}", type=number, default=None, help=f"{field.name.replace('_', ' ')} of "
                               f"{config.__name__} [{field.default:g}]")


def settings(args: Namespace) -> Any:
    """Return the settings of the stage, None where the options name none; raises UserError for one that makes no sense."""
    config = config_of(args.stage)
    given = {field.name: getattr(args, field.name, None) for field in fields(config)}
    given = {name: value for name, value in given.items() if value is not None}
    if negative := [name for name, value in given.items() if value < 0]:
        raise cli.UserError(f"--{negative[0]} {given[negative[0]]:g}: must be at least 0")
    try:
        return config(**given) if given else None
    except ValueError as error:
        raise cli.UserError(f"train_blend.py {args.stage}: {error}") from error


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="train_blend.py", description=__doc__)
    stages = parser.add_subparsers(dest="stage", required=True, parser_class=cli.ArgumentParser)
    for name, text in HELP.items():
        stage = stages.add_parser(name, help=text, description=text)
        for need in NEEDS.get(name, ()):
            stage.add_argument(f"--{need}", type=Path, required=True, help=FILES[need])
        stage.add_argument("--state", type=Path, default=Path(".blend"), help="folder of resumable state")
        if name in MINUTES:
            stage.add_argument("--minutes", type=cli.finite_float, default=MINUTES[name], help="wall-clock budget")
            stage.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute")
            add_config(stage, config_of(name))
        if name in ("generator", "export"):
            stage.add_argument("--base", default="starter", help="generator to begin with: starter, official, or a file")
        if name == "export":
            stage.add_argument("--output", type=Path, default=Path("checkpoints/blend.safetensors"), help="style file")
            stage.add_argument("--photos", type=Path, default=None, help="also write the encoder of photos to this file")
            stage.add_argument("--photo_encoder", default="starter",
                               help="encoder of photos that the style names: starter, psp, or a file")
    return parser.parse_args(argv)


def train(args: Namespace, device: torch.device) -> dict[str, float]:
    """Run a stage and return its facts."""
    from checkpoints.builders import load_base
    from training.blend import run as stages
    from training.pretrain.faces import FacePack

    packs = {name: FacePack.load(getattr(args, name)) for name in ("faces", "styles") if getattr(args, name, None)}
    given = {"minutes": args.minutes, "device": device, "config": settings(args)}
    if args.stage == "encoder":
        return stages.train_style_encoder(packs["styles"], args.state, **given)
    if args.stage == "photos":
        return stages.train_photos(packs["faces"], args.teacher, args.state, **given)
    base = load_base(args.base, with_discriminator=True)
    return stages.train_blend(packs["faces"], packs["styles"], args.state, base=base, **given)


def export(args: Namespace) -> dict[str, int]:
    """Write the files and return their bytes."""
    from styles.blend import save_blend
    from training.blend import run as stages

    parts = stages.blend_parts(args.state, base_name=args.base)
    save_blend(args.output, parts.pop("generator"), parts.pop("encoder"), photo_encoder=args.photo_encoder, half=True, **parts)
    sizes = {str(args.output): args.output.stat().st_size}
    if args.photos is not None:
        sizes[str(args.photos)] = stages.export_photos(args.state, args.photos)
    return sizes


def run(args: Namespace) -> int:
    for name in NEEDS.get(args.stage, ()):
        if not getattr(args, name).exists():
            raise cli.UserError(f"{getattr(args, name)}: not found; check --{name}")
    from training.blend.stage import ResumeError
    from training.pretrain import parallel
    from training.pretrain.common import MissingStageError

    try:
        if args.stage == "export":
            facts, leads = export(args), True
        else:
            with parallel.group(cli.resolve_device(args.device)) as device:
                facts, leads = train(args, device), parallel.leads()
    except (MissingStageError, ResumeError) as error:
        raise cli.UserError(str(error)) from error
    except FloatingPointError as error:
        raise cli.UserError(f"{args.state}: {error}; the last saved state is kept") from error
    if leads:
        print(json.dumps(facts))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
