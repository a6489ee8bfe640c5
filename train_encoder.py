#!/usr/bin/env python3
"""Train an e4e encoder of photos for a generator of your own: latent discriminator, progressive offsets, identity term."""

from __future__ import annotations

import shlex
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from pipeline import cli

HELP = {
    "steps": "training steps", "batch": "photos per step", "lr": "learning rate of the encoder",
    "l2_lambda": "weight of the pixels",
    "lpips_lambda": "weight of LPIPS", "id_lambda": "weight of the identity distance",
    "delta_norm_lambda": "weight of the offsets' lengths", "w_discriminator_lambda": "weight of the latent discriminator",
    "w_discriminator_lr": "learning rate of the latent discriminator", "r1": "weight of its gradient penalty",
    "d_reg_every": "steps between penalties", "w_pool_size": "latents that it remembers, 0 for none",
    "progressive_start": "step at which the first offset comes in", "progressive_every": "steps between two offsets",
    "average": "decay of the running average that is written",
}
ALIASES = {"steps": "--max_steps", "batch": "--batch_size", "lr": "--learning_rate"}


def parse(argv: Sequence[str] | None) -> Namespace:
    from training.e4e import E4ETrainingConfig

    parser = cli.ArgumentParser(prog="train_encoder.py", description=__doc__)
    parser.add_argument("photos", type=Path, help="folder of aligned faces, or photos with --align")
    parser.add_argument("--base", "--stylegan_weights", dest="base", required=True,
                        help="generator: a file, also a pickle of stylegan2-ada-pytorch, starter or official")
    parser.add_argument("--output", type=Path, required=True, help="file of the encoder, .safetensors")
    parser.add_argument("--start", default=None,
                        help="encoder to go on from: starter, official or a file; a new one if not given")
    parser.add_argument("--align", type=cli.str2bool, nargs="?", const=True, default=False, help="find and align the faces first")
    cli.add_finder(parser)
    for field in fields(E4ETrainingConfig):
        if field.name in HELP:
            names = [f"--{field.name}", *([ALIASES[field.name]] if field.name in ALIASES else [])]
            parser.add_argument(*names, dest=field.name, type=type_of(field.default), default=field.default,
                                help=HELP[field.name])
    parser.add_argument("--save_every", type=cli.non_negative_int, default=500, help="steps between saved states")
    parser.add_argument("--sheet_every", type=cli.non_negative_int, default=500, help="steps between sheets")
    parser.add_argument("--resume", action="store_true", help="go on with the run in the output folder")
    parser.add_argument("--overwrite", action="store_true", help="replace an encoder or a run of the same name")
    cli.add_common(parser)
    args = parser.parse_args(argv)
    args.command = shlex.join(["python", "train_encoder.py", *(sys.argv[1:] if argv is None else argv)])
    return args


def type_of(default: int | float) -> Any:
    """Return the parser of a setting by its default."""
    return cli.non_negative_int if isinstance(default, int) else cli.finite_float


def new_encoder(args: Namespace, generator: Any, device: Any) -> Any:
    """Return the encoder to train: that of --start, else a new one that suits the generator.

    Raises:
        UserError: where --start makes rows of another generator.
    """
    from dataclasses import replace

    import torch

    from checkpoints.features import load_encoder
    from models.e4e import E4EConfig, E4EEncoder
    from training.pretrain.autoencoder import starter_encoder_config

    shape = [generator.config.n_latent, generator.config.style_dim]
    if args.start is not None:
        module = load_encoder(args.start, device=device).module
        if [module.config.n_styles, module.config.style_dim] != shape:
            raise cli.UserError(f"--start {args.start}: makes rows {[module.config.n_styles, module.config.style_dim]}, but the "
                                f"generator takes {shape}; leave it out")
        return module
    config = starter_encoder_config() if generator.config.size <= 256 else E4EConfig()
    config = replace(config, n_styles=shape[0], style_dim=shape[1])
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(args.seed)
        return E4EEncoder(config).to(device, memory_format=torch.channels_last)


def build(args: Namespace, base: Any, images: Any, encoder: Any) -> Any:
    """Return a new run at step 0."""
    from checkpoints.features import load_face_id
    from losses.identity import IdentityLoss
    from pipeline.perceptual import lpips_distance
    from training.e4e import E4ETrainingConfig, EncoderTraining

    config = E4ETrainingConfig(**{name: getattr(args, name) for name in HELP}, frozen_norm=args.start is not None,
                               seed=args.seed)
    identity = IdentityLoss(load_face_id(device=images.device).module)
    return EncoderTraining(encoder, base.generator, base.w_avg, config=config, perceptual=lpips_distance(images.device),
                           embed=identity.embed, source=lambda step, rng: images.random(config.batch, mirror=True, rng=rng),
                           preview=images.batch(range(min(6, len(images)))))


def run(args: Namespace) -> int:
    from checkpoints.builders import load_base
    from checkpoints.io import save_model
    from faces.find import face_aligner
    from training.folder import FolderImages
    from training.memory import keep_freed_memory
    from training.session import Session
    from training.state import STATE_FILE, read_state, restore

    keep_freed_memory()
    if args.output.suffix != ".safetensors":
        raise cli.UserError(f"--output {args.output}: name a .safetensors file")
    device, folder = cli.resolve_device(args.device), args.outdir or Path("outputs/encoder") / args.output.stem
    cli.ensure_dir(folder), cli.ensure_dir(args.output.parent)
    kept = folder / STATE_FILE
    if (args.output.exists() or kept.exists()) and not (args.resume or args.overwrite):
        raise cli.UserError(f"{args.output if args.output.exists() else folder}: exists; go on with --resume, or --overwrite it")
    state = read_state(kept) if args.resume and kept.exists() else None
    base = load_base(args.base, device=device)
    encoder = new_encoder(args, base.generator, device)
    side = encoder.config.input_size
    try:
        align = face_aligner(side, cli.finder_of(args).make()) if args.align else None
        images = FolderImages.read(args.photos, size=side, align=align, device=device)
        trainer = build(args, base, images, encoder)
        facts = {"base": base.fingerprint, "photos": images.digest}
        if state is not None:
            if other := [name for name, value in facts.items() if state["run"].get(name) != value]:
                raise cli.UserError(f"{kept}: was started with another {' and '.join(other)}; start again without --resume")
            restore(trainer, state)
        hint = args.command if "--resume" in args.command.split() else f"{args.command} --resume"
        Session(folder, facts, args.save_every, args.sheet_every, hint.replace(" --overwrite", ""), label="encoder"
                ).train(trainer)
    except (ArithmeticError, OSError, ValueError) as error:
        raise cli.UserError(str(error)) from error
    rows = base.generator.config.n_latent
    save_model(args.output, {**trainer.average.state_dict(), "latent_avg": base.w_avg.reshape(1, -1).expand(rows, -1)},
               {"kind": "encoder", "encoder": encoder.config.to_dict(), "generator": base.fingerprint,
                "training": trainer.config.to_dict()}, half=True)
    print(args.output)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
