#!/usr/bin/env python3
"""Train the starter weights on a folder of aligned faces, one stage at a time; every stage stops on the clock and resumes."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from pipeline import cli

MINUTES = {"autoencoder": 60.0, "gan": 120.0, "encoder": 30.0, "critic": 15.0, "vit": 60.0}
SIZED = ("autoencoder", "gan")
TEACHED = ("autoencoder", "gan", "encoder")
HELP = {
    "pack": "pack a folder or tar of aligned faces into one file",
    "autoencoder": "encoder and generator as an autoencoder; first at --size 64",
    "gan": "give the mapping network its prior and sharpen with a projected discriminator; first at --size 64",
    "encoder": "train all heads of the encoder against the finished generator",
    "critic": "train the StyleGAN2 discriminator against the finished generator",
    "vit": "self-distilled vision transformer",
    "landmarks": "dlib shape predictor with 68 points",
    "export": "write the starter files from what is trained",
}


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="pretrain.py", description=__doc__)
    stages = parser.add_subparsers(dest="stage", required=True, parser_class=cli.ArgumentParser)
    for name, text in HELP.items():
        stage = stages.add_parser(name, help=text, description=text)
        if name == "export":
            stage.add_argument("--state", type=Path, default=Path(".pretrain"), help="folder of resumable state")
            stage.add_argument("--output", type=Path, default=Path("checkpoints/starter"), help="starter folder")
            continue
        stage.add_argument("--data", type=Path, required=True,
                           help="folder or tar of images" if name == "pack" else "file written by the pack stage")
        if name == "pack":
            stage.add_argument("--landmarks", type=Path, default=None, help=".npz with names and landmarks")
            stage.add_argument("--size", type=cli.positive_int, default=128, help="side in px")
            stage.add_argument("--output", type=Path, required=True, help="file to write, .npz")
        elif name == "landmarks":
            stage.add_argument("--output", type=Path, default=Path("checkpoints/starter/landmarks.dat"), help="file")
            stage.add_argument("--threads", type=cli.positive_int, default=2, help="threads of the trainer")
        else:
            stage.add_argument("--state", type=Path, default=Path(".pretrain"), help="folder of resumable state")
            stage.add_argument("--minutes", type=cli.finite_float, default=MINUTES[name], help="wall-clock budget")
        if name in TEACHED:
            stage.add_argument("--teacher", type=Path, required=True, help="SqueezeNet 1.1 features, .npz")
        if name in SIZED:
            stage.add_argument("--size", type=int, choices=(64, 128), default=128, help="side of the images in px")
    return parser.parse_args(argv)


def run(args: Namespace) -> int:
    for name in ("data", "teacher"):
        path = getattr(args, name, None)
        if path is not None and not path.exists():
            raise cli.UserError(f"{path}: not found; check --{name}")
    from training.pretrain.common import MissingStageError

    try:
        facts = work(args)
    except MissingStageError as error:
        raise cli.UserError(str(error)) from error
    print(json.dumps(facts))
    return 0


def work(args: Namespace) -> dict:
    """Run one stage and return its facts."""
    from training.pretrain.faces import FacePack, pack_faces

    if args.stage == "pack":
        return {"faces": pack_faces(args.data, args.output, size=args.size, landmarks=args.landmarks)}
    if args.stage == "export":
        from training.pretrain.export import export_starter

        return export_starter(args.state, args.output)
    pack = FacePack.load(args.data)
    if args.stage == "landmarks":
        from training.pretrain.landmark_predictor import train_predictor

        return train_predictor(pack, args.output, threads=args.threads)
    if args.stage == "autoencoder":
        from training.pretrain.autoencoder import train_autoencoder

        return train_autoencoder(pack, args.teacher, args.state, minutes=args.minutes, size=args.size)
    if args.stage == "gan":
        from training.pretrain.gan import train_gan

        return train_gan(pack, args.teacher, args.state, minutes=args.minutes, size=args.size)
    if args.stage == "encoder":
        from training.pretrain.encoder import train_encoder

        return train_encoder(pack, args.teacher, args.state, minutes=args.minutes)
    if args.stage == "critic":
        from training.pretrain.critic import train_critic

        return train_critic(pack, args.state, minutes=args.minutes)
    from training.pretrain.vit import train_vit

    return train_vit(pack, args.state, minutes=args.minutes)


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
