#!/usr/bin/env python3
"""Fine-tune a face generator on one real/style pair, and write the style as one file."""

from __future__ import annotations

import shlex
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline import cli


SAMPLE = ("source_sample.png", "target_sample.png")


def parse(argv: Sequence[str] | None) -> Namespace:
    from training.options import add_settings

    parser = cli.ArgumentParser(prog="train.py", description=__doc__)
    parser.add_argument("--style", default="sample", help="name of the new style, saved as checkpoints/NAME.safetensors")
    parser.add_argument("--source", default=None, help="real photo: a path, or a name in data/style_images_aligned; "
                                                       f"{SAMPLE[0]} where not given")
    parser.add_argument("--target", default=None, help=f"the same face in the style, likewise; {SAMPLE[1]} where not given")
    parser.add_argument("--style_ref", default=None, help="real image of the adversarial term; the target where not given")
    parser.add_argument("--align", type=cli.str2bool, nargs="?", const=True, default=False,
                        help="find and align the faces of the pair first")
    cli.add_finder(parser)
    parser.add_argument("--base", "--ckpt", default="starter", help="base generator: starter, official or a file")
    parser.add_argument("--vit", default=None, help="ViT: starter, official or a file; the one that suits the base "
                                                    "where not given")
    parser.add_argument("--profile", choices=("auto", "starter", "published"), default="auto",
                        help="settings to start from; auto takes the starter's up to 256 px")
    parser.add_argument("--inversion_start", choices=("auto", "mean", "encoder"), default="auto",
                        help="start of inverting the pair; auto takes the encoder with the starter")
    parser.add_argument("--lpips_dir", type=Path, default=None, help="folder of AlexNet's LPIPS files")
    parser.add_argument("--img_res", type=cli.positive_int, default=None, help="must be the base's size; for old commands")
    parser.add_argument("--checkpointing", action="store_true",
                        help="compute activations again instead of keeping them: less memory, slower steps, same style")
    parser.add_argument("--resume", action="store_true", help="continue the run in the output folder")
    parser.add_argument("--overwrite", action="store_true", help="replace a style or a run of the same name")
    parser.add_argument("--force", action="store_true", help="train though the images of the pair look wrong")
    parser.add_argument("--save_every", type=cli.non_negative_int, default=50, help="steps between saved states")
    parser.add_argument("--sheet_every", type=cli.non_negative_int, default=50, help="steps between contact sheets")
    parser.add_argument("--export_published", type=Path, default=None, help="also write the published {g, stns, rtstn} file")
    add_settings(parser, {"int": cli.non_negative_int, "float": cli.finite_float, "bool": cli.str2bool,
                          "tuple": cli.int_list, "str": str})
    cli.add_common(parser)
    parser.set_defaults(seed=None)
    args = parser.parse_args(argv)
    args.command = shlex.join(["python", "train.py", *(sys.argv[1:] if argv is None else argv)])
    return args


def checker(args: Namespace) -> Any:
    """Return the check of a pair: it raises UserError for images that look wrong, or tells of them with --force."""
    from training.pair_checks import pair_problems

    finder = cli.finder_of(args).make()

    def check(images: Sequence[tuple[str, Any]]) -> None:
        problems = pair_problems(images, finder.find, align=args.align)
        for line in problems if args.force else problems[:-1]:
            cli.report(line)
        if problems and not args.force:
            raise cli.UserError(f"{problems[-1]} (--force trains with it)")

    return check


def refuse_other_pair(args: Namespace, run: Any, *, size: int) -> None:
    """Raise UserError where the command line names other images than those of the run that goes on."""
    from faces.find import face_aligner
    from training.inputs import read_pair

    for option in ("source", "target", "style_ref"):
        name = getattr(args, option)
        if name is not None:
            image = read_pair(name, name, None, size=size, align=face_aligner(size, cli.finder_of(args).make()) if args.align else None).source
            if not bool((image == getattr(run, option).to(image)).all()):
                raise cli.UserError(f"--{option} {name}: the run was started with another image; leave it out with --resume, or "
                                    "start again with --overwrite")


def start(args: Namespace, base: Any, vit: Any, landmark_net: Any, device: Any) -> Any:
    """Return a new tuner at step 0, its pair inverted."""
    from checkpoints import builders
    from faces.find import face_aligner
    from training.inputs import read_pair
    from training.mixed import training_dtype
    from training.options import choose_config
    from training.likeness import inversion_loss
    from training.prepare import encoded_start, new_tuner

    size = base.generator.config.size
    config = choose_config(args, size=size, dtype=training_dtype(args.dtype, device))
    align = face_aligner(size, cli.finder_of(args).make()) if args.align else None
    pair = read_pair(args.source or SAMPLE[0], args.target or SAMPLE[1], args.style_ref, size=size, align=align,
                     check=checker(args))
    w_init = base.generator.broadcast(base.w_avg[None])
    if args.inversion_start == "encoder" or (args.inversion_start == "auto" and args.base == "starter"):
        encoder = builders.load_encoder("starter" if size <= 256 else "official", device=device)
        w_init = encoded_start(encoder.module, encoder.latent_avg, pair, input_size=encoder.input_size)
    objective = inversion_loss(vit, args.lpips_dir or builders.checkpoints_dir(), needs_lpips=bool(args.lpips_dir))
    print(f"inverting with L1 + {type(objective.perceptual).__name__}", file=sys.stderr)
    return new_tuner(base.generator, base.discriminator, dino=vit, config=config, pair=pair, w_init=w_init,
                     objective=objective.to(device), landmark_net=landmark_net)


def run(args: Namespace) -> int:
    from training.memory import keep_freed_memory

    keep_freed_memory()
    from checkpoints import builders
    from checkpoints.features import load_landmark_net
    from styles.deformable import export_published, save_style
    from styles.patches import pair_tensors
    from training.manner import manner_of_pair
    from training.options import choose_config, run_digest
    from training.prepare import resumed_tuner
    from training.session import Interrupted, Session
    from training.state import STATE_FILE, read_state, refuse_existing, refuse_other_run

    if Path(args.style).name != args.style or args.style.startswith(".") or not args.style:
        raise cli.UserError(f"--style {args.style!r}: give a plain name without slashes")
    try:
        choose_config(args, size=0, dtype="float32")
    except ValueError as error:
        raise cli.UserError(f"train.py: {error}") from error
    device, folder = cli.resolve_device(args.device), args.outdir or Path("outputs/train") / args.style
    output = builders.checkpoints_dir() / f"{args.style}.safetensors"
    cli.ensure_dir(folder), cli.ensure_dir(output.parent)
    state = read_state(folder / STATE_FILE) if args.resume and (folder / STATE_FILE).exists() else None
    if not (args.resume or args.overwrite):
        refuse_existing(output, folder)
    base = builders.load_base(args.base, device=device, with_discriminator=True)
    size = base.generator.config.size
    if args.img_res not in (None, size):
        raise cli.UserError(f"--img_res {args.img_res}: the base makes images of {size} px; leave the option out")
    config = choose_config(args, size=size, dtype="float32")
    if args.export_published and (config.look or config.guarded or config.carry_image):
        raise cli.UserError("--export_published: the published file cannot hold the starter profile's look and warps; add "
                            "--profile published, or --look_res 0 --guarded false --carry_image false")
    vit = builders.load_vit(args.vit or ("starter" if size <= 256 else "official"), device=device)
    landmark_net = load_landmark_net(device=device).module

    def keep() -> None:
        save_style(output, tuner.ema, w_avg=base.w_avg, base={"name": base.name, "fingerprint": base.fingerprint},
                   training={"settings": tuner.config.to_dict(), "run": digest, "steps": tuner.step_count},
                   target_latent=tuner.latents[1], manner=manner, painted=share, pair=pair)

    try:
        tuner = (resumed_tuner(base.generator, base.discriminator, dino=vit, args=args, state=state,
                               fingerprint=base.fingerprint, landmark_net=landmark_net)
                 if state else start(args, base, vit, landmark_net, device))
        if state:
            refuse_other_pair(args, tuner.pair, size=size)
        if tuner.guide is not None and not tuner.guide.is_sure:
            print(f"the pair's landmarks are not sure (they differ from the mirrored images' by {tuner.guide.doubt:.0%} of "
                  "the eye distance), so training goes on without the landmark terms: the deformation is left to the "
                  "directional term, the look keeps the drawing's own shape, and no patches of it are kept", file=sys.stderr)
        if args.checkpointing:
            tuner.save_memory()
        manner, share = manner_of_pair(tuner.pair, tuner.guide, vit) if tuner.config.look and size <= 256 else (None, None)
        sure = tuner.config.look and tuner.guide is not None and tuner.guide.is_sure
        pair = pair_tensors(tuner.pair.source, tuner.pair.target, tuner.guide.points) if sure else None
        digest = run_digest(tuner.config, tuner.pair, base.fingerprint)
        if not args.overwrite:
            refuse_other_run(output, digest)
        hint = args.command if "--resume" in args.command.split() else f"{args.command} --resume"
        facts = {"style": args.style, "base": base.name, "fingerprint": base.fingerprint, "run": digest}
        Session(folder, facts, args.save_every, args.sheet_every, hint.replace(" --overwrite", "")).train(tuner)
    except Interrupted as error:
        cli.report(error)
        return 130
    except ArithmeticError as error:
        if not tuner.step_count:
            raise cli.UserError(str(error)) from error
        keep()
        raise cli.UserError(f"{error}; {output} holds the style of step {tuner.step_count}, the last good one") from error
    except (OSError, ValueError) as error:
        raise cli.UserError(str(error)) from error
    keep()
    print(output)
    if args.export_published:
        export_published(args.export_published, tuner.ema)
        print(args.export_published)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
