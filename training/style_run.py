"""Training a style from its pictures to its file; saved, and resumed where it stopped."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from checkpoints import builders
from checkpoints.features import load_landmark_net
from checkpoints.io import fingerprint
from data.images import read_image, save_image, to_tensor
from drawing.compose import Strengths, draw_aligned
from drawing.context import read_context
from drawing.pyramids import resized
from drawing.style import FRAME, enlarged_picture
from models.dino import DinoFeatures
from pipeline import cli
from styles.deformable import export_published, save_style
from training.config import FineTuneConfig
from training.drawing import Example, example_of_drawing, example_of_pair, style_of
from training.finetune import FineTuner, Pair
from training.likeness import inversion_loss
from training.mixed import training_dtype
from training.options import choose_config, run_digest
from training.prepare import encoded_start, resumed_tuner
from training.session import Session
from training.state import refuse_other_run

# In the folder of a run: its pictures as the drawing stages see them, and a sheet of random faces drawn in the style.
PICTURES, SHEET = "pictures", "drawn.png"
SHOWN, SHOWN_SEED = 3, 77
UNSURE = ("the pair's landmarks are not sure (they differ from the mirrored images' by {doubt:.0%} of the eye distance), so "
          "training goes on without the landmark terms: the deformation is left to the directional term")


@dataclass(frozen=True)
class Setting:
    """What a run is done with: the networks, the schedule, and whether photos are drawn by the drawing stages."""

    base: builders.Base
    vit: DinoFeatures
    landmark_net: nn.Module
    config: FineTuneConfig
    device: torch.device
    is_drawn: bool

    @property
    def size(self) -> int:
        """Side of the base's images in px."""
        return self.base.generator.config.size


def read_setting(args: Namespace) -> Setting:
    """Load what options of ``train.py`` name.

    Raises:
        UserError: for options that do not go together.
    """
    device = cli.resolve_device(args.device)
    base = builders.load_base(args.base, device=device, with_discriminator=True)
    size = base.generator.config.size
    if args.img_res not in (None, size):
        raise cli.UserError(f"--img_res {args.img_res}: the base makes images of {size} px; leave the option out")
    try:
        config = choose_config(args, size=size, dtype=training_dtype(args.dtype, device))
    except ValueError as error:
        raise cli.UserError(f"train.py: {error}") from error
    if args.export_published and (config.guarded or config.carry_image):
        raise cli.UserError("--export_published: the published file cannot hold the starter profile's warps; add "
                            "--profile published, or --guarded false --carry_image false")
    is_drawn = args.drawing == "true" or (args.drawing == "auto" and size <= 256 and args.profile != "published")
    if not args.source and args.target and not is_drawn:
        raise cli.UserError("--target: a drawing alone needs the drawing stages; add --drawing true, or a --source")
    vit = builders.load_vit(args.vit or ("starter" if size <= 256 else "official"), device=device)
    return Setting(base, vit, load_landmark_net(device=device).module, config, device, is_drawn)


def latents_start(setting: Setting, args: Namespace, pair: Pair) -> tuple[Tensor, nn.Module]:
    """Return where the inversion of a pair starts, w_plus [1 or 2, L, D], and its objective."""
    base = setting.base
    w_init = base.generator.broadcast(base.w_avg[None])
    if args.inversion_start == "encoder" or (args.inversion_start == "auto" and args.base == "starter"):
        encoder = builders.load_encoder("starter" if setting.size <= 256 else "official", device=setting.device)
        w_init = encoded_start(encoder.module, encoder.latent_avg, pair, input_size=encoder.input_size)
    objective = inversion_loss(setting.vit, args.lpips_dir or builders.checkpoints_dir(), needs_lpips=bool(args.lpips_dir))
    print(f"inverting with L1 + {type(objective.perceptual).__name__}", file=sys.stderr)
    return w_init, objective.to(setting.device)


@torch.no_grad()
def drawing_pair(setting: Setting, drawing: Tensor) -> Pair:
    """Return a pair for a drawing [1, 3, S, S] without a photo: the face that the base's encoder sees in it stands for that, or
    the mean face of a base that has none."""
    size, base = setting.size, setting.base
    target = resized(drawing, (size, size))
    rows = base.generator.broadcast(base.w_avg[None])
    if base.name in ("starter", "official"):
        encoder = builders.load_encoder(base.name, device=setting.device)
        rows = encoded_start(encoder.module, encoder.latent_avg, Pair(target, target, target), input_size=encoder.input_size)[:1]
    photo = base.generator.synthesis(rows, noise=base.generator.fixed_noise()).clamp(-1.0, 1.0)
    return Pair(photo, target, target)


def examples_of(sources: Sequence[Tensor], targets: Sequence[Tensor], *,
                names: tuple[Sequence[str], Sequence[str]]) -> list[Example]:
    """Return what every pair says, or every drawing where there are no sources; ValueError where one shows no face."""
    if not sources:
        return [example_of_drawing(target, name=name) for target, name in zip(targets, names[1], strict=True)]
    return [example_of_pair(*pair, names=name) for pair, name in
            zip(zip(sources, targets, strict=True), zip(*names, strict=True), strict=True)]


class StyleRun:
    """One run of ``train.py``.

    Args:
        args: its options.
        setting: networks and schedule.
        folder: of the run.
        output: the style's file.
    """

    def __init__(self, args: Namespace, setting: Setting, folder: Path, output: Path) -> None:
        self.args, self.setting, self.folder, self.output = args, setting, folder, output
        self.tuner: FineTuner | None = None
        self.examples: list[Example] = []
        self.digest = ""

    def begin(self, tuner: FineTuner, examples: list[Example], *, frames: tuple[list[Tensor], list[Tensor]]) -> None:
        """Start with a tuner at step 0; pictures are kept in the folder for runs that go on."""
        self.tuner, self.examples = tuner, examples
        kept = self.folder / PICTURES
        for stale in kept.glob("*.png"):
            stale.unlink()
        for kind, images in zip(("source", "target"), frames, strict=True):
            for number, image in enumerate(images):
                cli.ensure_dir(kept)
                save_image(kept / f"{kind}_{number}.png", image)

    def resume(self, state: Mapping[str, Any], *, frames: Callable[[Sequence[str], int], list[Tensor]],
               given: Mapping[str, Sequence[str]]) -> None:
        """Go on from a saved state.

        Args:
            state: what ``training.state.read_state`` gave.
            frames: reads pictures by their names, at a side in px.
            given: names of pictures on the command line, by option, "source", "target" and "style_ref"; they must be the run's.

        Raises:
            ValueError: if options, base or pictures are not the run's.
        """
        setting = self.setting
        self.tuner = resumed_tuner(setting.base.generator, setting.base.discriminator, dino=setting.vit, args=self.args,
                                   state=state, fingerprint=setting.base.fingerprint, landmark_net=setting.landmark_net)
        kept = self.folder / PICTURES
        before = {kind: [to_tensor(read_image(path), FRAME) for path in sorted(kept.glob(f"{kind}_*.png"))]
                  for kind in ("source", "target")}
        known = {name: [image.cpu()] for name, image in self.tuner.pair._asdict().items()}
        known |= {kind: images for kind, images in before.items() if before["target"]}
        for kind, names in given.items():
            side = known[kind][0].shape[3] if known[kind] else FRAME
            now = frames(names, side)
            same = len(now) == len(known[kind]) and all(
                (one - other).abs().max() < 0.02 for one, other in zip(now, known[kind], strict=True))
            if not same:
                raise ValueError(f"--{kind} {' '.join(names)}: the run was started with another image; leave it out with "
                                 "--resume, or start again with --overwrite")
        if setting.is_drawn:
            if not before["target"]:
                raise ValueError(f"{kept}: holds no pictures of the run; start again without --resume")
            self.examples = examples_of(before["source"], before["target"], names=(
                [f"source {n}" for n in range(len(before["source"]))], [f"target {n}" for n in range(len(before["target"]))]))

    def train(self) -> None:
        """Train what is left and write the style's file.

        Raises:
            Interrupted: after SIGINT, when the state is saved.
            UserError: if training diverged; the file then holds the last good state, if there is one.
        """
        tuner = self.tuner
        if tuner.guide is not None and not tuner.guide.is_sure:
            print(UNSURE.format(doubt=tuner.guide.doubt), file=sys.stderr)
        if self.args.checkpointing:
            tuner.save_memory()
        self.digest = run_digest(tuner.config, tuner.pair, self.setting.base.fingerprint)
        if self.examples:
            self.digest += fingerprint({f"{n}": example.drawing for n, example in enumerate(self.examples)})
        if not self.args.overwrite:
            refuse_other_run(self.output, self.digest)
        try:
            self._session().train(tuner)
        except ArithmeticError as error:
            if not tuner.step_count:
                raise cli.UserError(str(error)) from error
            self.save()
            raise cli.UserError(f"{error}; {self.output} holds the style of step {tuner.step_count}, the last good one"
                                ) from error
        self.save()
        if self.examples:
            print(self.drawn_sheet(), file=sys.stderr)

    def _session(self) -> Session:
        args, base = self.args, self.setting.base
        hint = args.command if "--resume" in args.command.split() else f"{args.command} --resume"
        facts = {"style": args.style, "base": base.name, "fingerprint": base.fingerprint, "run": self.digest}
        return Session(self.folder, facts, args.save_every, args.sheet_every, hint.replace(" --overwrite", ""),
                       label="transformers" if self.examples else "fine-tuning")

    @torch.no_grad()
    def drawn_sheet(self) -> Path:
        """Write the drawing beside random faces, as the base has them above and drawn in the style below; returns the path."""
        from pipeline.sampling import base_faces, shown

        style, base = style_of(self.examples), self.setting.base
        drawing = self.examples[0].drawing.to(base.w_avg.device)
        above, below = [drawing], [drawing]
        for index in range(SHOWN):
            face = enlarged_picture(shown(base, base_faces(base, SHOWN_SEED, [index], truncation_psi=0.8)).clamp(-1.0, 1.0))
            above.append(face)
            below.append(draw_aligned(face, read_context(face), style, Strengths()))
        path = self.folder / SHEET
        save_image(path, torch.cat([torch.cat(row, dim=3) for row in (above, below)], dim=2))
        return path

    def save(self) -> None:
        """Write the style's file."""
        base, tuner = self.setting.base, self.tuner
        training = {"settings": tuner.config.to_dict(), "run": self.digest, "steps": tuner.step_count}
        save_style(self.output, tuner.ema, w_avg=base.w_avg, base={"name": base.name, "fingerprint": base.fingerprint},
                   training=training, target_latent=tuner.latents[1], drawn=style_of(self.examples) if self.examples else None)

    def export_published(self, path: Path) -> Path:
        """Write the published form of the style and return its path."""
        export_published(path, self.tuner.ema)
        return path
