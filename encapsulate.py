#!/usr/bin/env python3
"""Encapsulate a folder of style images into networks: who gets the file restyles photos without ever seeing an image."""

from __future__ import annotations

import shlex
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline import cli

# Generators up to this side in px have features of 32 px to keep a person by, and the share of them that styles keep.
SMALL, SMALL_DETAIL = 256, 1.0
# Images that are read for what all have in common.
MOST_READ = 64


def parse(argv: Sequence[str] | None) -> Namespace:
    from training.modify_config import EncapsulationConfig
    from training.modify_run import add_settings

    parser = cli.ArgumentParser(prog="encapsulate.py", description=__doc__)
    parser.add_argument("images", type=Path, help="folder of style images: aligned faces, or photos of drawings with --align")
    parser.add_argument("--style", required=True, help="name of the new style, saved as checkpoints/NAME.safetensors")
    parser.add_argument("--align", type=cli.str2bool, nargs="?", const=True, default=False,
                        help="find and align the faces of the images first")
    cli.add_finder(parser)
    parser.add_argument("--base", default="starter", help="generator to start from: starter, official or a file")
    parser.add_argument("--encoder", default=None, help="encoder to start from; the one of the base where not given")
    parser.add_argument("--vit", default=None, help="ViT: starter, official or a file; what suits the base where not given")
    parser.add_argument("--without_critic", action="store_true",
                        help="leave the critic out of the file: it could tell more of the images than the other networks; "
                             "test-time training then has no adversarial term")
    parser.add_argument("--network", default=None, metavar="STYLE", help="train nothing: take the networks of this encapsulated "
                        "style, and from the images what they have in common")
    parser.add_argument("--resume", action="store_true", help="continue the run in the output folder")
    parser.add_argument("--overwrite", action="store_true", help="replace a style or a run of the same name")
    parser.add_argument("--save_every", type=cli.non_negative_int, default=50, help="steps between saved states")
    parser.add_argument("--sheet_every", type=cli.non_negative_int, default=50, help="steps between contact sheets")
    add_settings(parser, EncapsulationConfig, {"int": cli.non_negative_int, "float": cli.finite_float, "bool": cli.str2bool})
    cli.add_common(parser)
    parser.set_defaults(seed=None)
    args = parser.parse_args(argv)
    args.command = shlex.join(["python", "encapsulate.py", *(sys.argv[1:] if argv is None else argv)])
    return args


def split(images: Any, config: Any) -> tuple[Any, Any]:
    """Return the images to train on, and those that are held out or None."""
    import torch

    from training.folder import FolderImages

    count = round(config.validation * len(images))
    if not count:
        if config.validation:
            raise cli.UserError(f"--validation {config.validation:g}: {len(images)} images are too few for it; give more, or 0")
        return images, None
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(config.seed)).tolist()
    parts = [sorted(order[count:]), sorted(order[:count])]
    return tuple(FolderImages(images.pixels[part], [images.names[i] for i in part], device=images.device) for part in parts)


def build(args: Namespace, base: Any, encoder: Any, images: Any, config: Any, held_out: Any) -> Any:
    """Return a new stage at step 0."""
    from copy import deepcopy

    import torch

    from models.modify import RemappingConfig, RemappingNetwork, StyleModel
    from models.spatial_transformer import construction_rng
    from training.modify import Encapsulator
    from training.modify_judges import load_judges

    shape = RemappingConfig(config.rows, base.generator.config.style_dim, config.n_mlp)
    with construction_rng(torch.Generator().manual_seed(config.seed)):
        remapping = RemappingNetwork(shape).to(images.device)
    model = StyleModel(deepcopy(encoder.module), deepcopy(base.generator), remapping, encoder.latent_avg)
    return Encapsulator(
        model, deepcopy(base.discriminator), config=config,
        judges=load_judges(args.vit, size=base.generator.config.size, device=images.device),
        source=lambda step, rng: images.random(config.batch, mirror=config.mirror, rng=rng),
        preview=images.batch(range(min(6, len(images)))),
        held_out=None if held_out is None else held_out.batch(range(len(held_out))))


def aligner(args: Namespace, size: int) -> Any:
    """Return what cuts faces out at ``size`` px, None where --align does not ask for it."""
    from faces.find import face_aligner

    return face_aligner(size, cli.finder_of(args).make()) if args.align else None


def in_common(folder: Path, names: Sequence[str], *, align: Any, device: Any) -> Any:
    """Return what the images ``names`` of a folder have in common for the drawing stages, see ``drawing.reading``.

    Of many images an even selection is read, each cut by ``align``, None for what is aligned. Images without a face are left out,
    with a line each; None where all are.
    """
    from dataclasses import replace

    from data.images import aligned_tensor, list_images, read_image
    from drawing.reading import mean_style, style_of_portrait
    from drawing.style import FRAME

    found = []
    paths = [path for path in list_images(folder) if path.name in set(names)]
    for path in paths[::-(-len(paths) // MOST_READ)]:
        image = read_image(path)
        image = align(image, str(path)) if align else image
        style = style_of_portrait(aligned_tensor(image, FRAME, name=path).to(device), side=min(image.size))
        if style is None:
            cli.report(f"{path}: shows no face where an aligned image has it, and is left out of what the images have in common")
        else:
            found.append(style)
    if not found:
        cli.report(f"{folder}: no image shows a face, so the style draws photos by its networks; use --align, or aligned faces")
        return None
    return replace(mean_style(found), strokes=())  # which would hold an image


def draw_anew(args: Namespace, output: Path) -> None:
    """Write an encapsulated style with what the images of a folder have in common, its networks as they are."""
    from checkpoints.builders import load_encoder
    from data.images import list_images
    from drawing.style import FRAME
    from styles.modify import ModifyStyle
    from styles.modify_files import save_style
    from styles.registry import load_style

    style = load_style(args.network)
    if not isinstance(style, ModifyStyle) or "adapts" in style.config:
        raise cli.UserError(f"--network {args.network}: is no style that encapsulate.py made; name one")
    drawn = in_common(args.images, [path.name for path in list_images(args.images)], align=aligner(args, FRAME), device="cpu")
    save_style(output, style.model, style.critic, base=style.base, encoder=load_encoder(style.encoder_name),
               encoder_name=style.encoder_name, training=style.config["training"], detail=style.config["detail"], drawn=drawn)
    print(output)


def run(args: Namespace) -> int:
    from training.memory import keep_freed_memory

    keep_freed_memory()
    from checkpoints.builders import checkpoints_dir, load_base, load_encoder
    from drawing.style import FRAME
    from styles.modify_files import save_style
    from training.folder import FolderImages
    from training.mixed import training_dtype
    from training.modify_config import EncapsulationConfig
    from training.modify_run import check_run, choose_config, run_stage, saved_state, stored_config
    from training.state import refuse_existing, refuse_other_run

    if Path(args.style).name != args.style or args.style.startswith("."):
        raise cli.UserError(f"--style {args.style!r}: give a plain name without slashes")
    device, folder = cli.resolve_device(args.device), args.outdir or Path("outputs/encapsulate") / args.style
    output = checkpoints_dir() / f"{args.style}.safetensors"
    cli.ensure_dir(folder), cli.ensure_dir(output.parent)
    if not (args.resume or args.overwrite):
        refuse_existing(output, folder)
    if args.network is not None:
        draw_anew(args, output)
        return 0
    state = saved_state(folder, resume=args.resume)
    try:
        config = (stored_config(args, EncapsulationConfig, state) if state else
                  choose_config(args, EncapsulationConfig, size=0, dtype=training_dtype(args.dtype, device)))
        base = load_base(args.base, device=device, with_discriminator=True)
        encoder = load_encoder(args.encoder or args.base, device=device)
        size = base.generator.config.size
        if state is None:
            config = choose_config(args, EncapsulationConfig, size=size, dtype=config.dtype)
        images = FolderImages.read(args.images, size=size, align=aligner(args, size), device=device)
        facts = {"base": base.fingerprint, "encoder": encoder.fingerprint, "folder of images": images.digest}
        images, held_out = split(images, config)
        stage = build(args, base, encoder, images, config, held_out)
        if state is not None:
            check_run(state, facts)
            if not args.overwrite:
                refuse_other_run(output, state["run"]["run"])
        name = run_stage(stage, folder, state=state, facts=facts, args=args, label="encapsulating")
    except (ArithmeticError, OSError, ValueError) as error:
        raise cli.UserError(str(error)) from error
    save_style(output, stage.result, None if args.without_critic else stage.critic, base=base, encoder=encoder,
               encoder_name=args.encoder or args.base,
               training={"settings": config.to_dict(), "steps": stage.step_count, "run": name},
               **({"detail": SMALL_DETAIL, "drawn": in_common(args.images, images.names, align=aligner(args, FRAME),
                                                              device=device)} if size <= SMALL else {}))
    print(output)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
