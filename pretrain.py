#!/usr/bin/env python3
"""Train the starter weights on a folder of aligned faces, one stage at a time."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    stages = parser.add_subparsers(dest="stage", required=True)
    pack = stages.add_parser("pack", help="pack a folder or tar of aligned faces into one file")
    pack.add_argument("--data", type=Path, required=True)
    pack.add_argument("--landmarks", type=Path)
    pack.add_argument("--size", type=int, default=128)
    pack.add_argument("--output", type=Path, required=True)
    ae = stages.add_parser("autoencoder", help="encoder and generator as an autoencoder")
    ae.add_argument("--data", type=Path, required=True, help="file written by pack")
    ae.add_argument("--teacher", type=Path, required=True, help="SqueezeNet 1.1 features, .npz")
    ae.add_argument("--state", type=Path, default=Path(".pretrain"), help="folder of resumable state")
    ae.add_argument("--minutes", type=float, default=20.0)
    ae.add_argument("--size", type=int, default=64, help="resolution of the reconstruction")
    gan = stages.add_parser("gan", help="sharpen the autoencoder with a projected discriminator")
    gan.add_argument("--data", type=Path, required=True)
    gan.add_argument("--teacher", type=Path, required=True)
    gan.add_argument("--state", type=Path, default=Path(".pretrain"))
    gan.add_argument("--minutes", type=float, default=60.0)
    vit = stages.add_parser("vit", help="self-distilled vision transformer")
    vit.add_argument("--data", type=Path, required=True)
    vit.add_argument("--state", type=Path, default=Path(".pretrain"))
    vit.add_argument("--minutes", type=float, default=20.0)
    landmarks = stages.add_parser("landmarks", help="dlib shape predictor with 68 points")
    landmarks.add_argument("--data", type=Path, required=True)
    landmarks.add_argument("--output", type=Path, default=Path("checkpoints/starter/landmarks.dat"))
    landmarks.add_argument("--threads", type=int, default=2)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    from training.pretrain.faces import FacePack, pack_faces

    if args.stage == "pack":
        facts = {"faces": pack_faces(args.data, args.output, size=args.size, landmarks=args.landmarks)}
    elif args.stage == "vit":
        from training.pretrain.vit import train_vit

        facts = train_vit(FacePack.load(args.data), args.state, minutes=args.minutes)
    elif args.stage == "gan":
        from training.pretrain.gan import train_gan

        facts = train_gan(FacePack.load(args.data), args.teacher, args.state, minutes=args.minutes)
    elif args.stage == "landmarks":
        from training.pretrain.landmark_predictor import train_predictor

        facts = train_predictor(FacePack.load(args.data), args.output, threads=args.threads)
    else:
        from training.pretrain.autoencoder import train_autoencoder

        facts = train_autoencoder(FacePack.load(args.data), args.teacher, args.state, minutes=args.minutes,
                                  size=args.size)
    print(json.dumps(facts))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
