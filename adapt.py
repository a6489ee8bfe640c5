#!/usr/bin/env python3
"""Adapt an encapsulated style to photos: its encoder learns to keep what they show; the style's networks stay as they are."""

from __future__ import annotations

import shlex
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline import cli


def parse(argv: Sequence[str] | None) -> Namespace:
    from training.modify_config import AdaptationConfig
    from training.modify_run import add_settings

    parser = cli.ArgumentParser(prog="adapt.py", description=__doc__)
    parser.add_argument("--style", required=True, help="an encapsulated style, see encapsulate.py: a name or a file")
    parser.add_argument("--photos", type=Path, required=True, help="folder of photos")
    parser.add_argument("--name", default=None, help="name of the adapted style; STYLE-adapted where not given")
    parser.add_argument("--mode", choices=("offline", "online"), default="offline",
                        help="random batches of the photos, or one photo after the other, each drawn as soon as it is learnt")
    parser.add_argument("--steps_per_photo", type=cli.positive_int, default=1, help="online: steps before a photo is drawn")
    parser.add_argument("--align", type=cli.str2bool, nargs="?", const=True, default=True,
                        help="find and align faces; false for inputs that are aligned already")
    cli.add_finder(parser)
    parser.add_argument("--vit", default=None, help="ViT: starter, official or a file; what suits the style where not given")
    parser.add_argument("--resume", action="store_true", help="continue the run in the output folder")
    parser.add_argument("--overwrite", action="store_true", help="replace a style or a run of the same name")
    parser.add_argument("--save_every", type=cli.non_negative_int, default=50, help="steps between saved states")
    parser.add_argument("--sheet_every", type=cli.non_negative_int, default=50, help="steps between contact sheets")
    add_settings(parser, AdaptationConfig, {"int": cli.positive_int, "float": cli.finite_float, "bool": cli.str2bool})
    cli.add_common(parser)
    parser.set_defaults(seed=None)
    args = parser.parse_args(argv)
    if args.mode == "online" and (args.steps or args.batch):
        parser.error("argument --mode: online takes one photo after the other; leave --steps and --batch out")
    args.command = shlex.join(["python", "adapt.py", *(sys.argv[1:] if argv is None else argv)])
    return args


def parent_style(name: str, device: Any) -> Any:
    """Load the style; raises UserError for one that cannot be adapted."""
    from styles.modify import ModifyStyle
    from styles.registry import load_style

    style = load_style(name, device=device)
    if not isinstance(style, ModifyStyle):
        raise cli.UserError(f"--style {name}: is a style of the kind {style.kind!r}; only encapsulated ones can be adapted")
    if "adapts" in style.config:
        raise cli.UserError(f"--style {name}: is adapted already; name the style it came from, "
                            f"{style.config['adapts']['style']}")
    return style


def build(args: Namespace, style: Any, images: Any, config: Any) -> Any:
    """Return a new stage at step 0."""
    from training.modify import Adapter
    from training.modify_judges import load_judges

    def source(step: int, rng: Any) -> Any:
        if args.mode == "online":
            return images.batch([step // args.steps_per_photo])
        return images.random(config.batch, mirror=config.mirror, rng=rng)

    return Adapter(style.model, style.critic, config=config, source=source, preview=images.batch(range(min(6, len(images)))),
                   judges=load_judges(args.vit, size=images.size, device=images.device))


def drawer(args: Namespace, images: Any, folder: Path) -> Any:
    """Return what draws a photo into the folder once its steps are done, for the session to call after every step."""
    from data.images import save_image

    def draw(stage: Any) -> None:
        if stage.step_count % args.steps_per_photo == 0:
            done = stage.step_count // args.steps_per_photo - 1
            save_image(folder / f"{images.names[done].replace('.', '_')}.png", stage.draw(images.batch([done])))

    return draw


def run(args: Namespace) -> int:
    from training.memory import keep_freed_memory

    keep_freed_memory()
    from checkpoints.builders import checkpoints_dir
    from faces.find import face_aligner
    from styles.modify_files import save_adapted
    from training.folder import FolderImages
    from training.mixed import training_dtype
    from training.modify_config import AdaptationConfig
    from training.modify_run import check_run, choose_config, run_stage, saved_state, stored_config
    from training.state import refuse_existing, refuse_other_run

    device = cli.resolve_device(args.device)
    style = parent_style(args.style, device)
    name = args.name or f"{style.name}-adapted"
    if Path(name).name != name or name.startswith("."):
        raise cli.UserError(f"--name {name!r}: give a plain name without slashes")
    folder, output = args.outdir or Path("outputs/adapt") / name, checkpoints_dir() / f"{name}.safetensors"
    cli.ensure_dir(folder), cli.ensure_dir(output.parent)
    if not (args.resume or args.overwrite):
        refuse_existing(output, folder)
    state, size = saved_state(folder, resume=args.resume), style.model.generator.config.size

    try:
        align = face_aligner(size, cli.finder_of(args).make()) if args.align else None
        images = FolderImages.read(args.photos, size=size, align=align, device=device)
        fixed = {"steps": len(images) * args.steps_per_photo, "batch": 1} if args.mode == "online" else {}
        if style.critic is None:
            if args.adv_weight:
                raise cli.UserError(f"--adv-weight: the style {style.name} has no critic; leave the option out")
            fixed["adv_weight"] = 0.0
        config = (stored_config(args, AdaptationConfig, state) if state else choose_config(
            args, AdaptationConfig, size=size, dtype=training_dtype(args.dtype, device), **fixed))
        stage = build(args, style, images, config)
        facts = {"style": style.fingerprint, "folder of photos": images.digest, "mode": f"{args.mode} {args.steps_per_photo}"}
        if state is not None:
            check_run(state, facts)
            if not args.overwrite:
                refuse_other_run(output, state["run"]["run"])
        run_name = run_stage(stage, folder, state=state, facts=facts, args=args, label="adapting",
                             on_step=drawer(args, images, folder) if args.mode == "online" else None)
    except (ArithmeticError, OSError, ValueError) as error:
        raise cli.UserError(str(error)) from error
    save_adapted(output, stage.model, parent=style,
                 training={"settings": config.to_dict(), "steps": stage.step_count, "run": run_name})
    print(output)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
