"""What the figures share: networks loaded on demand, results kept on disk, sheets and floors."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from checkpoints import CheckpointError, atomic_write, builders, starter_dir
from checkpoints.features import LandmarkFinder, load_landmark_net
from data.images import to_pil
from data.landmarks68 import MIRROR
from faces.find import FaceFinder
from models.dino import DinoFeatures
from pipeline.cli import UserError
from pipeline.sampling import base_images
from training.config import PROFILES
from training.pretrain.faces import FacePack
from training.pretrain.teacher import SqueezeNetTeacher, feature_distance

BATCH = 25
# Share of the side that a view shows, and how far below the middle it looks, in [-1, 1]: the chin must stay inside.
VIEWS = ((1.0, 0.0), (0.9, 0.1), (0.8, 0.1))


@dataclass(frozen=True)
class Settings:
    """What decides the figures besides the weights.

    Attributes:
        data: file of the pack stage.
        teacher: SqueezeNet features.
        outdir: results and sheets go here.
        base: base generator.
        seed: of the samples.
        steps: fine-tuning steps of the deformation figure.
        quick: few samples, to see that everything runs; its figures mean nothing.
        variants: ways to fine-tune for the deformation; none means all.
        styles: names or files of the styles whose results the identity figure measures.
        photos: how many photos the identity figure takes.
        inversion_steps: of that figure; 0 leaves the optimisation out.
    """

    data: Path
    teacher: Path
    outdir: Path
    base: str = "starter"
    seed: int = 0
    steps: int = PROFILES["starter"]["iterations"]
    quick: bool = False
    variants: tuple[str, ...] = ()
    styles: tuple[str, ...] = ()
    photos: int = 200
    inversion_steps: int = 100

    def count(self, full: int, quick: int) -> int:
        """Return the number of samples to take."""
        return quick if self.quick else full


class Bench:
    """Networks and data, loaded when first asked for."""

    def __init__(self, settings: Settings, device: torch.device | str = "cpu") -> None:
        self.settings, self.device = settings, torch.device(device)

    @cached_property
    def pack(self) -> FacePack:
        try:
            pack = FacePack.load(self.settings.data)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{self.settings.data}: is no pack of faces ({error}); make one with `pretrain.py pack`"
                            ) from error
        if len(pack.split()[1]) < 2:
            raise UserError(f"{self.settings.data}: has under two held-out photos; pack at least eight photo_* files")
        return pack

    @cached_property
    def held(self) -> Tensor:
        """Indices of the held-out photos."""
        return self.pack.split()[1]

    @cached_property
    def labelled(self) -> Tensor:
        """Indices of the held-out photos that have landmarks."""
        marked = self.held[~self.pack.landmarks[self.held].isnan().flatten(1).any(dim=1)]
        if len(marked) < 2:
            raise UserError(f"{self.settings.data}: its held-out photos have no landmarks; pack it with --landmarks")
        return marked

    @cached_property
    def teacher(self) -> SqueezeNetTeacher:
        try:
            return SqueezeNetTeacher(self.settings.teacher).to(self.device)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{self.settings.teacher}: no SqueezeNet features ({error}); check --teacher") from error

    @cached_property
    def base(self) -> builders.Base:
        return builders.load_base(self.settings.base, device=self.device, with_discriminator=True)

    @cached_property
    def encoder(self) -> builders.Encoder:
        return builders.load_encoder("starter", device=self.device)

    @cached_property
    def vit(self) -> DinoFeatures:
        return builders.load_vit("starter", device=self.device)

    @cached_property
    def landmark_net(self) -> LandmarkFinder:
        try:
            return load_landmark_net("starter", device=self.device)
        except CheckpointError as error:
            raise UserError(f"{error}; or make it with `python pretrain.py landmarks` and `python pretrain.py export`"
                            ) from error

    @cached_property
    def finder(self) -> FaceFinder:
        return FaceFinder()

    @property
    def size(self) -> int:
        """Side of the generator's images in px."""
        return self.base.generator.config.size

    def photos(self, index: Tensor, *, size: int | None = None) -> Tensor:
        """Return faces of the pack [N, 3, S, S] in [-1, 1] at the generator's side, or at ``size`` px."""
        return resized(self.pack.batch(index), size or self.size).to(self.device)

    def samples(self, count: int, *, psi: float, seed: int) -> Iterable[Tensor]:
        """Yield batches [B, 3, S, S] of the undeformed faces 0..count - 1 of a seed."""
        for start in progress(range(0, count, BATCH), "samples"):
            indices = list(range(start, min(start + BATCH, count)))
            yield base_images(self.base, seed, indices, truncation_psi=psi).clamp(-1.0, 1.0)

    @torch.no_grad()
    def landmarks(self, image: Tensor) -> Tensor:
        """Return the heat-map network's landmarks [N, 68, 2] (fractions of the side) of images [N, 3, S, S]."""
        return torch.cat([self.landmark_net.module(part).points for part in image.split(BATCH)]).cpu()

    @torch.no_grad()
    def steady_landmarks(self, image: Tensor) -> Tensor:
        """Return the mean of ``landmarks`` over mirrored and magnified copies of the images, which trembles less."""
        mirror, found = torch.from_numpy(MIRROR), []
        for zoom, down in VIEWS:
            theta = torch.tensor([[zoom, 0.0, 0.0], [0.0, zoom, down]])
            where = F.affine_grid(theta[None].expand(len(image), 2, 3), list(image.shape), align_corners=False)
            view = F.grid_sample(image, where.to(image), mode="bicubic", padding_mode="reflection", align_corners=False)
            straight, turned = self.landmarks(view), self.landmarks(view.flip(3))
            turned = turned[:, mirror] * torch.tensor([-1.0, 1.0]) + torch.tensor([1.0, 0.0])
            for points in (straight, turned):
                found.append(((points * 2.0 - 1.0) @ theta[:, :2].t() + theta[:, 2] + 1.0) / 2.0)
        return torch.stack(found).mean(dim=0)

    @torch.no_grad()
    def pooled(self, image: Tensor) -> Tensor:
        """Return the teacher's last map averaged over positions, [N, 512], on the CPU."""
        return torch.cat([self.teacher(part)[-1].mean(dim=(2, 3)) for part in image.split(BATCH)]).cpu()

    @torch.no_grad()
    def perceptual(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the perceptual distance of images [N, 3, S, S] pair by pair, [N], on the CPU."""
        parts = zip(a.split(BATCH), b.split(BATCH), strict=True)
        return torch.cat([feature_distance(self.teacher(x), self.teacher(y)) for x, y in parts]).cpu()

    def diversity(self, images: Tensor, *, most: int = 8) -> float:
        """Return the mean perceptual distance between images [N, 3, S, S] and their 1st to ``most``-th followers."""
        shifts = range(1, min(most, len(images) - 1) + 1)
        return float(torch.stack([self.perceptual(images, images.roll(s, 0)).mean() for s in shifts]).mean())


def resized(image: Tensor, size: int) -> Tensor:
    """Return images [N, 3, S, S] at ``size`` px, antialiased."""
    if image.shape[3] == size:
        return image
    return F.interpolate(image, size=(size, size), mode="bicubic", antialias=True, align_corners=False).clamp(-1.0, 1.0)


def progress(items: Iterable[Any], text: str) -> Iterable[Any]:
    """Show a bar on stderr over a loop."""
    from tqdm import tqdm

    return tqdm(items, desc=text, mininterval=2.0, file=sys.stderr)


class Results:
    """Figures kept as JSON, so that an interrupted run goes on where it was.

    Args:
        folder: where the files lie.
        facts: what the figures depend on; a file made under other facts is made again.
    """

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        self.folder = folder
        self.key = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:32]

    def get(self, name: str, make: Callable[[], Any]) -> Any:
        """Return the stored value of ``name``, or make and store it."""
        path = self.folder / f"{name}.json"
        try:
            stored = json.loads(path.read_text())
            if stored["key"] == self.key:
                return stored["value"]
        except (OSError, ValueError, KeyError, TypeError):
            pass  # absent, damaged or of another form: made anew
        value = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps({"key": self.key, "value": value}, indent=1) + "\n")
        return value


def weights_digest(names: Iterable[str], base: str) -> dict[str, str]:
    """Return the SHA-256 of the named starter files, of the file ``base`` instead of the starter's generator."""
    from checkpoints.starter_manifest import sha256_of

    digests = {}
    for name in names:
        path = starter_dir() / name
        if name == "generator.safetensors" and base != "starter":
            path = Path(base)
        digests[name] = sha256_of(path) if path.is_file() else base
    return digests


def floor(value: float, *, least: float | None = None, most: float | None = None) -> dict[str, Any]:
    """Return a value beside the limits it should keep; a value that is NaN keeps none."""
    met = value == value and (least is None or value >= least) and (most is None or value <= most)
    limits = {name: limit for name, limit in (("least", least), ("most", most)) if limit is not None}
    return {"value": round(float(value), 4), **limits, "met": bool(met)}


def marked(image: Tensor, *layers: tuple[Tensor, str], side: int = 192) -> Image.Image:
    """Return one image [3, S, S] at ``side`` px with points drawn; a layer is ([K, 2] fractions, colour)."""
    picture = to_pil(image[None]).resize((side, side), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(picture)
    for points, colour in layers:
        for x, y in (points * side).tolist():
            pen.ellipse((x - 1.5, y - 1.5, x + 1.5, y + 1.5), fill=colour)
    return picture
