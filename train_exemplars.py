#!/usr/bin/env python3
"""Train an exemplar style on a folder of portraits: any of them then lends its structure and its colours to a photo."""

from __future__ import annotations

import json
import shlex
import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline import cli

# The starter's settings serve generators up to this side in px.
SMALL = 256
# Steps by which portraits that are files are refined.
REFINE = 100


# Options by the published names -> the part of the settings and its field there, and what it is.
PUBLISHED = {
    "adv_loss": ("finetune", "adversarial", "weight of the adversarial term"),
    "CX_loss": ("finetune", "contextual", "weight of the contextual term"),
    "style_loss": ("finetune", "means", "weight of the features' means"),
    "id_loss": ("finetune", "identity", "weight of the identity"),
    "L2_reg_loss": ("finetune", "norm", "weight of the path's parameters"),
    "lr": ("finetune", "rate", "learning rate of fine-tuning"),
    "pretrain_lr": ("pretrain", "rate", "learning rate of the path's first training"),
    "truncation": ("destylize", "truncation", "truncation of the faces behind portraits"),
    "destylize_lr": ("destylize", "rate", "learning rate of destylisation"),
}


def stage_list(text: str) -> tuple[str, ...]:
    """Parse names of stages separated by commas."""
    from training.exemplar_run import STAGES

    names = tuple(part.strip() for part in text.split(","))
    unknown = [name for name in names if name not in STAGES]
    if unknown:
        raise ArgumentTypeError(f"expected some of {', '.join(STAGES)}, got {', '.join(unknown)}")
    return names


def parse(argv: Sequence[str] | None) -> Namespace:
    from training.exemplar_run import STAGES, ExemplarConfig

    plans = ExemplarConfig(), ExemplarConfig.starter()
    parser = cli.ArgumentParser(prog="train_exemplars.py", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of portraits")
    parser.add_argument("--style", required=True, help="name of the new style, saved as checkpoints/NAME.safetensors")
    parser.add_argument("--stages", type=stage_list, default=STAGES, help=f"some of {','.join(STAGES)}")
    parser.add_argument("--align", type=cli.str2bool, nargs="?", const=True, default=True,
                        help="find and align the face of every portrait; those without one are left out")
    cli.add_finder(parser)
    parser.add_argument("--gallery", type=Path, default=None, help="folder of other portraits that the style shall show and "
                        "offer in place of those it is trained on, which then stay private")
    parser.add_argument("--network", default=None, metavar="STYLE", help="train nothing: take the networks of this exemplar "
                        "style, and the folder's portraits as its gallery")
    parser.add_argument("--credits", type=Path, default=None,
                        help="JSON file of titles and artists by the portraits' names, which are kept in the style")
    parser.add_argument("--recursive", action="store_true", help="sub-folders too")
    parser.add_argument("--base", default="starter", help="base generator with its encoder: starter or official")
    parser.add_argument("--vit", default=None, help="ViT of the distances: starter, official or a file; the one that suits "
                                                    "the base where not given")
    parser.add_argument("--encoder", default=None, help="encoder of portraits; the one of the base where not given")
    for stage in STAGES[:-1]:
        shown = ", starter ".join(str(getattr(plan, stage).steps) for plan in plans)
        parser.add_argument(f"--{stage}_steps", type=cli.non_negative_int, default=None,
                            help=f"steps of the stage {stage} [{shown}]")
    shown = ", starter ".join(str(plan.sampler.samples) for plan in plans)
    parser.add_argument("--sampler_samples", type=cli.positive_int, default=None, help=f"samples that it sees [{shown}]")
    for name, (stage, field, text) in PUBLISHED.items():
        shown = ", starter ".join(f"{getattr(getattr(plan, stage), field):g}" for plan in plans)
        parser.add_argument(f"--{name}", type=cli.finite_float, default=None, help=f"{text} [{shown}]")
    parser.add_argument("--ckpt", type=Path, default=None, metavar="FILE",
                        help="generator-pretrain.pt, or another generator of exemplar styles: its extrinsic path takes the place "
                             "of the stage pretrain")
    parser.add_argument("--augment", action="store_true", help="augment what the critics of tune and finetune see (ADA)")
    parser.add_argument("--augment_p", type=cli.finite_float, default=0.0, help="with --augment: a probability; 0 adapts it")
    parser.add_argument("--ada_target", type=cli.finite_float, default=0.6, help="with --augment: the critic's mean sign")
    parser.add_argument("--ada_length", type=cli.positive_int, default=500_000, help="with --augment: images from 0 to 1")
    parser.add_argument("--perc_loss", type=cli.finite_float, default=None,
                        help="factor on the weights of a pair's feature maps [1]")
    parser.add_argument("--snapshot_every", type=cli.non_negative_int, default=100,
                        help="steps of fine-tuning between kept networks, each with a row on sheet_snapshots.png; 0 for none")
    parser.add_argument("--snapshot", type=cli.positive_int, default=None, metavar="STEP",
                        help="go on from the kept network of this step in place of the last; with --resume, before refine")
    parser.add_argument("--batch", type=cli.positive_int, default=plans[0].tune.batch, help="images per step")
    parser.add_argument("--save_every", type=cli.positive_int, default=plans[0].save_every, help="steps between saved states")
    parser.add_argument("--resume", action="store_true", help="go on with the run in the output folder")
    parser.add_argument("--overwrite", action="store_true", help="replace a style or a run of the same name")
    cli.add_common(parser)
    args = parser.parse_args(argv)
    args.command = shlex.join(["python", "train_exemplars.py", *(sys.argv[1:] if argv is None else argv)])
    return args


def settings(args: Namespace, *, size: int) -> Any:
    """Return the config that the options ask for, for a generator of ``size`` px; what is not given suits that size."""
    from training.exemplar_run import STAGES, ExemplarConfig

    own, shared = ExemplarConfig.starter() if size <= SMALL else ExemplarConfig(), {"batch": args.batch, "seed": args.seed}
    parts = {}
    for stage in STAGES[:-1]:
        steps, adversarial = getattr(args, f"{stage}_steps"), stage in ("tune", "pretrain", "finetune")
        changes = ({} if steps is None else {"steps": steps}) | (shared if adversarial else {})
        parts[stage] = replace(getattr(own, stage), **changes)
    for name, (stage, field, _) in PUBLISHED.items():
        value = getattr(args, name)
        if value is not None:
            if value < 0:
                raise cli.UserError(f"--{name} {value:g}: must be at least 0")
            parts[stage] = replace(parts[stage], **{field: value})
    if args.perc_loss is not None:
        parts["finetune"] = replace(parts["finetune"], pair=tuple(args.perc_loss * value for value in own.finetune.pair))
    if not 0.0 <= args.augment_p <= 1.0 or not 0.0 < args.ada_target < 1.0:
        raise cli.UserError("--augment_p, --ada_target: must lie between 0 and 1")
    if args.augment:
        adapts = {"ada_target": 0.0 if args.augment_p else args.ada_target, "ada_length": args.ada_length,
                  "augment_p": args.augment_p}
        parts |= {stage: replace(parts[stage], **adapts) for stage in ("tune", "finetune")}
    samples = own.sampler.samples if args.sampler_samples is None else args.sampler_samples
    sampler = replace(own.sampler, samples=samples, codes=min(own.sampler.codes, samples))
    return replace(own, **parts, sampler=sampler, save_every=args.save_every, seed=args.seed,
                   snapshot_every=args.snapshot_every)


def save(path: Path, args: Namespace, base: Any, names: list[str], portraits: Any, trainer: Any, done: dict[str, Any]) -> None:
    """Write the style of a run whose stages are all done, with the portraits of its folder or of ``--gallery``."""
    from drawing.pyramids import resized
    from models.dualstylegan import CodeSampler
    from styles.dualstyle import save_dual
    from styles.dualstyle_files import DualParts, gallery_of

    codes = done["refine"]["extrinsic"]
    if args.gallery is not None:
        names, portraits = read_frames(args, args.gallery, size=base.generator.config.size)
        codes = trainer.codes(resized(portraits, trainer.portraits.shape[2:]), done)
    dim, samplers = base.generator.config.style_dim, {}
    for name, state in done["sampler"].items():
        samplers[name] = CodeSampler(state["lin_out.weight"].shape[0] // dim, style_dim=dim)
        samplers[name].load_state_dict(state)
    small = base.generator.config.size <= SMALL
    config = {"base": {"name": base.name, "fingerprint": base.fingerprint}, "encoder": args.encoder or base.name,
              "exemplar_encoder": args.encoder or base.name,
              "training": {"run": trainer.digest, "settings": trainer.config.facts(), "networks": dict(trainer.tools.named),
                           "portraits": len(trainer.portraits)},
              **({"refine": REFINE} if small else {}), **credits_of(args, names)}
    # A larger generator draws photos itself, as published.
    gallery = gallery_of(names, codes, portraits, drawn=small)
    save_dual(path, DualParts(trainer.trained(done["finetune"]), base.w_avg, gallery, samplers, config))


def read_frames(args: Namespace, folder: Path, *, size: int) -> tuple[list[str], Any]:
    """Return names and images of the portraits of a folder, large enough to draw photos and a generator of ``size`` px by."""
    from drawing.style import FRAME
    from pipeline.portraits import read_portraits

    return read_portraits(folder, size=max(FRAME, size), align=args.align, recursive=args.recursive, finder=cli.finder_of(args))


def credits_of(args: Namespace, names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return what a style's config says of who made its portraits; UserError for a file that does not tell."""
    if args.credits is None:
        return {}
    try:
        told = json.loads(args.credits.read_text(encoding="utf-8"))
        return {"credits": {name: str(told[name]) for name in names}}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise cli.UserError(f"{args.credits}: does not say who made each portrait ({' '.join(str(error).split())[:80]}); "
                            'expected JSON {"NAME": "TITLE; ARTIST", ...}') from error


def show_anew(args: Namespace, output: Path) -> None:
    """Write a trained style with the portraits of another folder as its gallery, each encoded and not trained on."""
    import torch

    from drawing.pyramids import resized
    from styles.dualstyle import DualStyle, save_dual
    from styles.dualstyle_files import gallery_of
    from styles.registry import load_style

    style = load_style(args.network)
    if not isinstance(style, DualStyle) or style.gallery.space != "w+":
        raise cli.UserError(f"--network {args.network}: is no exemplar style that train_exemplars.py made; name one")
    names, portraits = read_frames(args, args.folder, size=style.network.generator.config.size)
    side = style.encoder.encoder.input_size
    with torch.no_grad():
        codes = torch.cat([style.encoder.rows_of(resized(part, (side, side))) for part in portraits.split(1)])
    parts = replace(style.parts, gallery=gallery_of(names, codes, portraits, drawn=True),
                    config={**{name: value for name, value in style.config.items() if name not in ("exemplars", "credits")},
                            **credits_of(args, names)})
    save_dual(output, parts)
    print(output)


def read_path(args: Namespace, base: Any) -> dict[str, Any]:
    """Return the extrinsic path of ``--ckpt``; UserError unless it was trained on the generator of the run."""
    import torch

    from styles.dualstyle import DualStyle
    from styles.registry import load_style

    style = load_style(str(args.ckpt))
    if not isinstance(style, DualStyle):
        raise cli.UserError(f"--ckpt {args.ckpt}: holds no generator of exemplar styles; name generator-pretrain.pt")
    theirs, ours = (dict(generator.named_parameters()) for generator in (style.network.generator, base.generator))
    if [(name, value.shape) for name, value in theirs.items()] != [(name, value.shape) for name, value in ours.items()] or any(
            not torch.allclose(value, ours[name].cpu(), rtol=1e-3, atol=1e-3) for name, value in theirs.items()):
        raise cli.UserError(f"--ckpt {args.ckpt}: belongs to another generator than {base.name}; name its own by --base")
    return {name: value.detach() for name, value in style.network.named_parameters() if not name.startswith("generator.")}


def run(args: Namespace) -> int:
    from training.memory import keep_freed_memory

    keep_freed_memory()
    from checkpoints.paths import checkpoints_dir
    from training.exemplar_run import PARALLEL, STAGES
    from training.pretrain import parallel

    if Path(args.style).name != args.style or args.style.startswith(".") or not args.style:
        raise cli.UserError(f"--style {args.style!r}: give a plain name without slashes")
    alone = [stage for stage in args.stages if stage not in PARALLEL]
    if parallel.launched() > 1 and alone:
        raise cli.UserError(f"--stages: {alone[0]} runs in one process; start it with python, and under torchrun name some of "
                            f"{','.join(PARALLEL)}")
    device, folder = cli.resolve_device(args.device), args.outdir or Path("outputs/exemplars") / args.style
    output = checkpoints_dir() / f"{args.style}.safetensors"
    cli.ensure_dir(folder), cli.ensure_dir(output.parent)
    kept = [folder / f"{stage}.pt" for stage in STAGES if (folder / f"{stage}.pt").exists()]
    if not (args.resume or args.overwrite) and (output.exists() or kept):
        raise cli.UserError(f"{output if output.exists() else folder}: exists; go on with --resume, choose another --style, "
                            "or --overwrite it")
    kept += folder.glob("finetune_[0-9]*.pt")
    for path in kept if args.overwrite and not args.resume else ():
        path.unlink(missing_ok=True)
    if args.network is not None:
        show_anew(args, output)
        return 0
    with parallel.group(device) as device:
        train(args, device, folder, output)
    return 0


def train(args: Namespace, device: Any, folder: Path, output: Path) -> None:
    """Do the stages that are asked for, and write the style when all are done."""
    from drawing.pyramids import resized
    from training.exemplar_run import STAGES, ExemplarRun
    from training.exemplar_tools import load_tools
    from training.pretrain import parallel
    from training.session import stop_on_sigint

    base, tools = load_tools(args.base, encoder=args.encoder, vit=args.vit, device=device)
    size = base.generator.config.size
    names, portraits = read_frames(args, args.folder, size=size)
    try:
        with stop_on_sigint() as flag:
            config = settings(args, size=size)
            trainer = ExemplarRun(folder, resized(portraits, (size, size)), tools=tools, config=config, flag=flag,
                                  report=cli.report if parallel.leads() else lambda line: None, snapshot=args.snapshot,
                                  path=None if args.ckpt is None else read_path(args, base))
            done = trainer.run(args.stages)
    except ArithmeticError as error:
        raise cli.UserError(str(error)) from error
    if set(done) == set(STAGES) and parallel.leads():
        save(output, args, base, names, portraits, trainer, done)
        print(output)


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
