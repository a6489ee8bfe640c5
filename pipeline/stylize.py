"""What one photo goes through: find and align the face, invert it, stylize it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from checkpoints.builders import Base, Encoder, Style
from data.images import to_tensor
from losses.perceptual import InversionLoss
from pipeline.align import align_face
from pipeline.cli import UserError
from pipeline.faces import FaceFinder
from pipeline.latents import LatentCache
from pipeline.sampling import stylized_images
from training.inversion import invert

INVERSIONS = ("e4e", "optimize", "e4e+optimize")


@dataclass(frozen=True)
class InversionSettings:
    """How photos become latents: ``mode`` of ``INVERSIONS``, optimisation ``steps`` and learning rate ``lr``."""

    mode: str = "e4e"
    steps: int = 100
    lr: float = 2e-2


@dataclass(frozen=True)
class Stylized:
    """One face: the aligned photo and tensors [1, 3, S, S] of its inversion and of the result, and its latent."""

    aligned: Image.Image
    inverted: Tensor
    result: Tensor
    w_plus: Tensor


class Stylizer:
    """Restyle photos with one style.

    Args:
        style: the fine-tuned generator.
        base: the generator that inversions are made for.
        encoder: needed by every mode but ``optimize``.
        objective: maker of the inversion objective, called only when latents are optimised.
        settings: how to invert.
        cache: where latents are kept.
        finder: face finder; None takes photos as aligned already.
        faces: "largest" or "all".
    """

    def __init__(
        self, style: Style, base: Base, *, encoder: Encoder | None, objective: Callable[[], InversionLoss],
        settings: InversionSettings, cache: LatentCache, finder: FaceFinder | None, faces: str = "largest",
    ) -> None:
        if settings.mode not in INVERSIONS:
            raise ValueError(f"inversion must be one of {INVERSIONS}, got {settings.mode!r}")
        if settings.mode != "optimize" and encoder is None:
            raise ValueError(f"inversion {settings.mode!r} needs an encoder")
        self.style, self.base, self.encoder = style, base, encoder
        self.settings, self.cache, self.finder, self.faces = settings, cache, finder, faces
        self._make_objective, self._objective = objective, None
        self.device = base.w_avg.device

    @property
    def size(self) -> int:
        """Side of the images in px."""
        return self.base.generator.config.size

    def align(self, photo: Image.Image, *, name: str) -> list[Image.Image]:
        """Return the aligned faces of a photo, largest first.

        Raises:
            UserError: naming the photo, when there is no face in it.
        """
        if self.finder is None:
            return [photo]
        faces = self.finder.find(photo)
        if not faces:
            raise UserError(f"{name}: no face found; use a photo with a face of at least 80 px that looks at the "
                            "camera, or --align false if it is aligned already")
        chosen = faces if self.faces == "all" else faces[:1]
        return [align_face(photo, face.landmarks, output_size=self.size) for face in chosen]

    @torch.no_grad()
    def encode(self, aligned: Image.Image) -> Tensor:
        """Return the encoder's w_plus [1, L, 512] of an aligned face."""
        image = to_tensor(aligned, self.encoder.input_size).to(self.device)
        return self.encoder.module(image) + self.encoder.latent_avg

    def invert(self, aligned: Image.Image) -> Tensor:
        """Return w_plus [1, L, 512] of an aligned face, from the cache where it is there."""
        settings = self.settings
        facts = {"mode": settings.mode, "generator": self.base.fingerprint}
        if settings.mode != "optimize":
            facts["encoder"] = self.encoder.fingerprint
        if settings.mode != "e4e":
            facts |= {"steps": settings.steps, "lr": settings.lr}
        key = self.cache.key(aligned, **facts)
        found = self.cache.get(key)
        if found is not None:
            return found.to(self.device)
        if settings.mode == "optimize":
            w_plus = self.base.generator.broadcast(self.base.w_avg[None]).clone()
        else:
            w_plus = self.encode(aligned)
        if settings.mode != "e4e":
            self._objective = self._objective or self._make_objective()
            target = to_tensor(aligned, self.size).to(self.device)
            w_plus = invert(target, self.base.generator, w_init=w_plus, objective=self._objective,
                            steps=settings.steps, lr=settings.lr)
        self.cache.put(key, w_plus)
        return w_plus

    @torch.no_grad()
    def render(self, w_plus: Tensor) -> Tensor:
        """Return the base generator's image [1, 3, S, S] of a latent."""
        return self.base.generator.synthesis(w_plus, noise=self.base.generator.fixed_noise())

    def stylize(self, aligned: Image.Image, *, alpha: float) -> Stylized:
        """Invert and restyle one aligned face."""
        w_plus = self.invert(aligned)
        return Stylized(aligned, self.render(w_plus), stylized_images(self.style, w_plus, alpha=alpha), w_plus)


def side_by_side(item: Stylized) -> Tensor:
    """Return the aligned photo, its inversion and the result in one row, [1, 3, S, 3S]."""
    size = item.result.shape[3]
    photo = to_tensor(item.aligned, size).to(item.result.device)
    parts = [photo, item.inverted, item.result]
    return torch.cat([F.interpolate(p, size=(size, size), mode="bilinear") if p.shape[3] != size else p
                      for p in parts], dim=3).clamp(-1.0, 1.0)


def output_stems(paths: list[Path]) -> dict[Path, str]:
    """Return an output stem per input; inputs that differ only in their suffix keep it, so none overwrites another."""
    stems = [path.stem for path in paths]
    return {path: path.stem if stems.count(path.stem) == 1 else path.name.replace(".", "_") for path in paths}
