#!/usr/bin/env python3
"""Train the starter weights on a folder of aligned faces, one stage at a time; every stage stops on the clock and resumes."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import cli

if TYPE_CHECKING:
    import torch

    from training.pretrain.faces import FacePack

MINUTES = {"autoencoder": 60.0, "gan": 120.0, "encoder": 30.0, "critic": 15.0, "vit": 60.0, "landmarks": 25.0,
           "residual": 60.0, "parts": 30.0, "prior": 75.0, "decoder": 90.0}
SIZED = ("autoencoder", "gan")
STARTED = ("gan", "encoder")
TEACHED = ("autoencoder", "gan", "encoder", "all")
RANDOM = ("prior", "decoder")
PARALLEL = ("autoencoder", "gan", "encoder", "critic", "residual")
STARTER = Path("checkpoints/starter")
DATA = {"pack": "folder or tar of images", "all": "folder or tar of images"}
HELP = {
    "pack": "pack a folder or tar of aligned faces into one file",
    "autoencoder": "encoder and generator as an autoencoder; first at --size 64",
    "gan": "give the mapping network its prior and sharpen with a projected discriminator; first at --size 64",
    "encoder": "train all heads of the encoder against the finished generator",
    "critic": "train the StyleGAN2 discriminator against the finished generator",
    "vit": "self-distilled vision transformer",
    "drawings": "draw packed faces in the project's looks, with known landmarks",
    "landmarks": "68 points: dlib's shape predictor, and the differentiable heat-map network",
    "residual": "encoder of what a photo shows beyond its latents, against finished starter files",
    "prior": "fit the prior of random faces to packed faces and train its flow, against finished starter files",
    "decoder": "train the two-times decoder on the faces of the prior stage, against finished starter files",
    "parts": "network that tells skin, background, hair and the rest of pictures apart",
    "paintings": "draw packed faces in random looks, for the landmark network",
    "export": "write the starter files from what is trained",
    "all": "all stages that a generator of your own needs, in order, from a folder of aligned faces to starter files",
}


def add_random(stage: cli.ArgumentParser, name: str) -> None:
    """Add the options of the stages that random faces come from."""
    stage.add_argument("--data", type=Path, nargs="+", required=True,
                       help="files written by the pack stage, the first with the held-out photos; the decoder's at 256 px")
    stage.add_argument("--state", type=Path, default=Path(".pretrain"), help="folder of resumable state")
    stage.add_argument("--start", type=Path, default=STARTER, help="folder of starter files: generator and encoders")
    if name == "decoder":
        stage.add_argument("--teacher", type=Path, required=True, help="SqueezeNet 1.1 features, .npz")
    stage.add_argument("--minutes", type=cli.finite_float, default=MINUTES[name], help="wall-clock budget")


def add_all(stage: cli.ArgumentParser) -> None:
    """Add the options of the stage that runs all others."""
    stage.add_argument("--hours", type=cli.finite_float, default=6.0, help="wall-clock budget of all stages together")
    stage.add_argument("--state", type=Path, default=Path(".pretrain"), help="folder of resumable state")
    stage.add_argument("--output", type=Path, required=True,
                       help="folder of starter files to write; scripts take it where STARTER_DIR names it")
    stage.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute")


def add_export(stage: cli.ArgumentParser) -> None:
    """Add the options of writing starter files."""
    stage.add_argument("--state", type=Path, default=Path(".pretrain"), help="folder of resumable state")
    stage.add_argument("--output", type=Path, default=STARTER, help="starter folder")
    stage.add_argument("--face_id", type=Path, default=None, help="face-api.js' face recognition weights, .npz")


def words(text: str) -> tuple[str, ...]:
    """Parse names separated by commas."""
    return tuple(word.strip() for word in text.split(","))


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="pretrain.py", description=__doc__)
    stages = parser.add_subparsers(dest="stage", required=True, parser_class=cli.ArgumentParser)
    for name, text in HELP.items():
        stage = stages.add_parser(name, help=text, description=text)
        if name == "export" or name in RANDOM:
            add_export(stage) if name == "export" else add_random(stage, name)
            continue
        stage.add_argument("--data", type=Path, required=True,
                           help=DATA.get(name, "file written by the pack stage"))
        if name == "pack":
            stage.add_argument("--landmarks", type=Path, default=None, help=".npz with names and landmarks")
            stage.add_argument("--size", type=cli.positive_int, default=128, help="side in px")
            stage.add_argument("--output", type=Path, required=True, help="file to write, .npz")
        elif name == "all":
            add_all(stage)
        elif name == "drawings":
            stage.add_argument("--size", type=cli.positive_int, default=128, help="side in px")
            stage.add_argument("--count", type=cli.positive_int, default=2400, help="number of drawings")
            stage.add_argument("--looks", type=words, default=None, help="looks to draw in, A,B,...; all that may be taught")
            stage.add_argument("--recoloured", type=cli.finite_float, default=0.5, help="share that gets other colours")
            stage.add_argument("--own_warp", type=cli.str2bool, nargs="?", const=True, default=False,
                               help="deform every face as its look does, in place of at random")
            stage.add_argument("--least_warp", type=cli.finite_float, default=0.0,
                               help="least strength of random deformations, 0 to 1")
            stage.add_argument("--seed", type=cli.non_negative_int, default=0, help="of faces and drawings in a folder")
            stage.add_argument("--output", type=Path, required=True,
                               help="file to write, .npz, and a run that was interrupted goes on; or a folder for PNG files "
                                    "and truth.npz")
        elif name == "paintings":
            stage.add_argument("--size", type=cli.positive_int, default=128, help="side in px")
            stage.add_argument("--count", type=cli.positive_int, default=600, help="number of looks")
            stage.add_argument("--output", type=Path, required=True, help="folder; a run that was interrupted goes on")
        elif name == "landmarks":
            stage.add_argument("--drawings", type=Path, default=None,
                               help="file of the drawings stage, or folder of the paintings stage, to train on as well")
            stage.add_argument("--start", type=Path, default=None, help="folder of starter files whose network to go on from")
            stage.add_argument("--output", type=Path, default=STARTER / "landmarks.dat", help="file")
            stage.add_argument("--threads", type=cli.positive_int, default=2, help="threads of dlib's trainer")
            stage.add_argument("--part", choices=("both", "predictor", "network"), default="both", help="which to train")
            stage.add_argument("--state", type=Path, default=Path(".pretrain"), help="folder of the network's state")
            stage.add_argument("--minutes", type=cli.finite_float, default=MINUTES[name],
                               help="wall-clock budget of the network")
        else:
            stage.add_argument("--state", type=Path, default=Path(".pretrain"), help="folder of resumable state")
            stage.add_argument("--minutes", type=cli.finite_float, default=MINUTES[name], help="wall-clock budget")
        if name in TEACHED:
            stage.add_argument("--teacher", type=Path, required=True, help="SqueezeNet 1.1 features, .npz")
        if name in PARALLEL:
            stage.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute")
        if name in STARTED:
            stage.add_argument("--start", type=Path, default=None,
                               help="folder of starter files to go on from, in place of the earlier stage")
        if name == "residual":
            stage.add_argument("--start", type=Path, default=STARTER,
                               help="folder of starter files: generator and encoder to train against")
        if name in SIZED:
            stage.add_argument("--size", type=int, choices=(64, 128), default=128, help="side of the images in px")
    return parser.parse_args(argv)


def run(args: Namespace) -> int:
    for name in ("data", "teacher", "drawings"):
        given = getattr(args, name, None)
        for path in given if isinstance(given, list) else [given]:
            if path is not None and not path.exists():
                raise cli.UserError(f"{path}: not found; check --{name}")
    if args.stage in DATA:
        from training.folder import check_aligned

        check_aligned(args.data)
    from training.pretrain import parallel
    from training.pretrain.common import MissingStageError

    try:
        if args.stage in PARALLEL:
            with parallel.group(cli.resolve_device(args.device)) as device:
                facts, leads = train(args, device), parallel.leads()
        elif parallel.launched() > 1:
            raise cli.UserError(f"the {args.stage} stage runs in one process; start it with python instead of torchrun")
        else:
            facts, leads = work(args), True
    except MissingStageError as error:
        raise cli.UserError(str(error)) from error
    if leads:
        print(json.dumps(facts))
    return 0


def train(args: Namespace, device: torch.device) -> dict:
    """Run a stage that may be spread over several processes, and return its facts."""
    from training.pretrain.faces import FacePack

    pack, given = FacePack.load(args.data), {"minutes": args.minutes, "device": device}
    if args.stage == "autoencoder":
        from training.pretrain.autoencoder import train_autoencoder

        return train_autoencoder(pack, args.teacher, args.state, size=args.size, **given)
    if args.stage == "gan":
        from training.pretrain.gan import train_gan

        return train_gan(pack, args.teacher, args.state, size=args.size, start=args.start, **given)
    if args.stage == "encoder":
        from training.pretrain.encoder import train_encoder

        return train_encoder(pack, args.teacher, args.state, start=args.start, **given)
    if args.stage == "residual":
        from training.pretrain.residual import train_residual

        return train_residual(pack, args.state, start=args.start, identity=identity_of(device), **given)
    from training.pretrain.critic import train_critic

    return train_critic(pack, args.state, **given)


def identity_of(device: torch.device | str) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the bundled identity network's embedding of faces."""
    from checkpoints.features import load_face_id
    from losses.identity import IdentityLoss

    return IdentityLoss(load_face_id(device=device).module).embed


def work(args: Namespace) -> dict:
    """Run a stage of one process and return its facts."""
    from training.pretrain.faces import FacePack, pack_faces

    if args.stage == "pack":
        return {"faces": pack_faces(args.data, args.output, size=args.size, landmarks=args.landmarks)}
    if args.stage == "export":
        from training.pretrain.export import export_starter

        return export_starter(args.state, args.output, face_id=args.face_id)
    if args.stage in RANDOM:
        from training.pretrain.whole import train_random_faces

        given = {} if args.stage == "prior" else {"teacher": args.teacher, "identity": identity_of("cpu")}
        return train_random_faces(args.stage, args.data, args.state, start=args.start, minutes=args.minutes, **given)
    if args.stage == "all":
        from training.pretrain.whole import Folders, train_everything

        folders = Folders(args.state / "faces_128.npz", args.state / "faces_256.npz", args.state, args.output)
        device = str(cli.resolve_device(args.device))
        return train_everything(args.data, args.teacher, folders, hours=args.hours, identity=identity_of(device), start=STARTER,
                                device=device)
    pack = FacePack.load(args.data)
    if args.stage == "paintings":
        from training.pretrain.paintings import paint_folder

        return paint_folder(pack, args.output, count=args.count, size=args.size)
    if args.stage == "drawings":
        return draw(pack, args)
    if args.stage == "parts":
        from training.pretrain.parts import train_parts

        return train_parts(pack, args.state, minutes=args.minutes)
    if args.stage == "landmarks":
        return train_landmarks(pack, args)
    from training.pretrain.vit import train_vit

    return train_vit(pack, args.state, minutes=args.minutes)


def draw(pack: FacePack, args: Namespace) -> dict:
    """Draw packed faces into a pack or a folder."""
    from data.looks import LOOKS
    from training.pretrain.drawings import draw_folder, draw_pack

    if not 0.0 <= args.least_warp <= 1.0:
        raise cli.UserError(f"--least_warp {args.least_warp:g}: give a number within 0 and 1")
    unknown = set(args.looks or ()) - set(LOOKS)
    if unknown:
        raise cli.UserError(f"--looks: there is no {', '.join(sorted(unknown))}; there are {', '.join(LOOKS)}")
    looks = {name: look for name, look in LOOKS.items() if name in (args.looks or LOOKS)}
    given = {"looks": looks, "count": args.count, "size": args.size, "recoloured": args.recoloured,
             "own_warp": args.own_warp, "least_warp": args.least_warp}
    if args.output.suffix == ".npz":
        return draw_pack(pack, args.output, **given)
    return draw_folder(pack, args.output, seed=args.seed, **given)


def train_landmarks(pack: FacePack, args: Namespace) -> dict:
    """Train the landmark parts that are asked for and return the facts of each."""
    from training.pretrain.faces import FacePack
    from training.pretrain.landmark_network import train_landmark_network
    from training.pretrain.landmark_predictor import train_predictor
    from training.pretrain.paintings import labelled_paintings

    facts = {}
    if args.part in ("both", "predictor"):
        facts["predictor"] = train_predictor(pack, args.output, threads=args.threads)
    if args.part in ("both", "network"):
        drawings = args.drawings
        if drawings is not None:
            drawings = labelled_paintings(pack, drawings) if drawings.is_dir() else FacePack.load(drawings)
        facts["network"] = train_landmark_network(pack, args.state, minutes=args.minutes, start=args.start, drawings=drawings)
    return facts


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
