"""Runs of landmark projection by what they aim at: animations, and the published profile."""

from __future__ import annotations

import math
import re
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from checkpoints.builders import Base, load_base
from checkpoints.fan import load_fan
from checkpoints.features import load_landmark_net
from data.images import read_image, save_image, to_tensor
from models.fan import fan_input
from pipeline import cli, video_io
from pipeline.naming import Photo, folder_photos
from pipeline.perceptual import published_distance
from projection.expressions import with_landmarks
from projection.films import AnimationSettings, animate_clip, animate_photos
from projection.stills import Film, Studio, row, save_latents, write_film
from training.published_projection import PublishedProjection, PublishedProjector, PublishedSettings

# The heat-map network's maps sum to 1; a Gaussian of one cell's deviation then has this peak, and the published maps 1.
PEAK = 2.0 * math.pi


def is_animation(target: str) -> bool:
    """Tell whether a target is a folder or a clip."""
    return Path(target).is_dir() or video_io.is_clip(Path(target))


def natural(photo: Photo) -> list[tuple[int, str]]:
    """Return the key of an order in which 2.png comes before 10.png: runs of digits are numbers, the rest is lower case."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", photo.path.lower()) if part]


def frame_photos(folder: Path, *, output: Path) -> list[Photo]:
    """Return the photos of a folder of frames in natural order; raises ImageError where there is none."""
    return sorted(folder_photos(folder, output=output), key=natural)


def animate(studio: Studio, args: Namespace) -> int:
    """Make an animation of a folder or clip; stopped runs go on."""
    from tqdm import tqdm

    target, folder = Path(args.target_landmarks), Path(args.target_landmarks).is_dir()
    settings = AnimationSettings(args.smooth, folder if args.halfway is None else args.halfway)
    if folder:
        photos = frame_photos(target, output=args.outdir)
        with tqdm(total=len(photos), desc="frames") as bar:
            report = animate_photos(studio, args.target_look, photos, args.outdir, settings, fps=args.fps, progress=bar.update)
        output = args.outdir / "proj.mp4"
    else:
        output = args.outdir / f"{args.target_look.stem}_{target.stem}.mp4"
        with tqdm(total=video_io.clip_info(target).frames or None, desc="frames") as bar:
            report = animate_clip(studio, args.target_look, target, output, settings, progress=bar.update)
    print(output)
    jitter = "" if math.isnan(report.jitter_ratio) else f", jitter {report.jitter_ratio:.2f} of the clip's"
    cli.report(f"{report.frames} frames, {report.faceless} without a usable face{jitter}")
    return 0


def square(path: Path, size: int) -> Tensor:
    """Return the centre square of a photo as [1, 3, size, size], as the published experiment cuts it."""
    photo = read_image(path)
    side = min(photo.size)
    left, top = ((length - side) // 2 for length in photo.size)
    return to_tensor(photo.crop((left, top, left + side, top + side)), size)


def heat_maps_of(args: Namespace, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return what maps images to heat maps with peaks of about 1: face-alignment's network where its file is named."""
    if args.fan is not None:
        fan = load_fan(args.fan, device=device)
        return lambda image: fan(fan_input(image))
    network = load_landmark_net(device=device).module
    cli.report("no --fan file: the starter's landmark network stands for face-alignment's")
    return lambda image: PEAK * network(image).log_maps.exp()


def maxima(heat: Tensor) -> Tensor:
    """Return the places [K, 2] of the maxima of heat maps [1, K, h, w], as fractions of the side."""
    height, width = heat.shape[2:]
    index = heat[0].flatten(1).argmax(dim=1)
    return torch.stack([(index % width + 0.5) / width, (index // width + 0.5) / height], dim=1)


def run_published(args: Namespace, weights: tuple[float, ...]) -> int:
    """Project as published, oddities and all: centre crops, and heat maps of a photo with its landmarks drawn on it."""
    target = Path(args.target_landmarks)
    if video_io.is_clip(target):
        raise cli.UserError(f"{target}: the published profile takes photos; give a folder of frames, or leave --profile out")
    device = cli.resolve_device(args.device)
    base = load_base(args.network or "starter", device=device, with_discriminator=bool(args.d_weight))
    given = {"steps": args.num_steps, "lpips_weight": args.lpips_weight, "landmark_weight": args.landmark_weight,
             "d_weight": args.d_weight, "fidelity_weight": args.fidelity_weight, "smoothness_weight": args.smoothness_weight}
    settings = PublishedSettings(weights=weights, **{name: value for name, value in given.items() if value is not None})
    heat_maps = heat_maps_of(args, device)
    perceptual = published_distance(device)
    projector = PublishedProjector(base.generator, heat_maps=heat_maps, perceptual=perceptual, settings=settings,
                                   critic=base.discriminator)
    work = _Published(args, base, projector, heat_maps, torch.Generator().manual_seed(args.seed))
    return work.folder(target) if target.is_dir() else work.photo(target)


class _Published:
    """The published files, from one photo or a folder."""

    def __init__(self, args: Namespace, base: Base, projector: PublishedProjector, heat_maps: Callable[[Tensor], Tensor],
                 rng: torch.Generator) -> None:
        self.args, self.base, self.projector, self.heat_maps, self.rng = args, base, projector, heat_maps, rng
        self.size, self.device = base.generator.config.size, base.w_avg.device
        self.look = square(args.target_look, self.size).to(self.device)

    def marked(self, path: Path) -> tuple[Tensor, Image.Image]:
        """Return a photo with its landmarks drawn on it, from which the published code takes the heat maps."""
        photo = square(path, self.size).to(self.device)
        with torch.no_grad():
            drawn = with_landmarks(photo, maxima(self.heat_maps(photo)), size=self.size)
        return to_tensor(drawn, self.size).to(self.device), drawn

    def photo(self, path: Path) -> int:
        """Project one photo."""
        landmarks, drawn = self.marked(path)
        film = Film(self.projector.settings.steps, lambda image: row([
            self.look, image, with_landmarks(image, maxima(self.heat_maps(image))), drawn])) if self.args.save_video else None
        done = self.projector.project(self.look, landmarks, rng=self.rng, progress=film)
        pictures = {"proj.png": done.image, "target_look.png": self.look, "target_landmarks.png": drawn,
                    "side_by_side.png": row([self.look, drawn, done.image])}
        for name, picture in pictures.items():
            save_image(self.args.outdir / name, picture)
            print(self.args.outdir / name)
        save_latents(self.args.outdir / "projected_w.npz", done.w_plus)
        if film is not None:
            print(write_film(self.args.outdir / "proj.mp4", film.frames))
        return 0

    def folder(self, folder: Path) -> int:
        """Project the photos of a folder one after the other, each from the last, with a picture halfway between."""
        last: PublishedProjection | None = None
        frames: list[Image.Image] = []
        for photo in frame_photos(folder, output=self.args.outdir):
            landmarks, _ = self.marked(Path(photo.path))
            first = self.args.num_steps_first if last is None else None
            done = self.projector.project(self.look, landmarks, rng=self.rng, after=last, steps=first)
            if last is not None:
                with torch.no_grad():
                    middle = self.base.generator.synthesis((last.w_plus + done.w_plus) / 2, noise=done.noise)
                frames.append(self._write(middle, (last.w_plus + done.w_plus) / 2, f"{photo.stem}_halfway"))
            frames.append(self._write(done.image, done.w_plus, photo.stem))
            last = done
        print(write_film(self.args.outdir / "proj.mp4", frames))
        return 0

    def _write(self, image: Tensor, w_plus: Tensor, stem: str) -> Image.Image:
        path = self.args.outdir / "frames" / f"{stem}.png"
        save_image(path, image)
        save_latents(path.with_suffix(".npz"), w_plus)
        return read_image(path)
