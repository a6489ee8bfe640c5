"""Encapsulated styles (MODIFY): networks that hold a style without any of its images, made by ``encapsulate.py``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from checkpoints.builders import Base
from checkpoints.io import CheckpointError, fingerprint
from drawing.style import PREFIX, DrawnStyle
from models.face import Face
from models.modify import StyleModel, version_z
from models.stylegan2 import Generator, layer_at
from styles.controls import Control, Look
from styles.drawn import DEFORMATION, TONE, FramedFace, draw_faces, draw_frame, no_grids
from styles.modify_files import CARD, KIND, base_and_encoder, networks_of, states_of, take_drawn, with_parent
from styles.protocol import Style
from training.checks import DivergedError
from training.modify import Judges, adapt_to
from training.modify_config import AdaptationConfig
from training.modify_judges import load_judges

VERSION = Control("version", "number of a random version of the style; what lies between two numbers blends them; without one "
                  "the photo keeps the style rows that the encoder gives it", low=0.0, high=8.0, sweep=(1.0, 7.0))
STRENGTH = Control("strength", "0 keeps the encoder's style rows, 1 takes those of --version; one number, or one per style row",
                   default=1.0, high=1.5, per="row")
TEST_TIME = Control("test_time", "steps by which the encoder is trained on each photo before it is drawn; the paper takes 50",
                    default=0.0, high=100.0, sweep=(0.0, 50.0), label="Test-time steps")
DETAIL = Control("detail", "share of what the photo's own features show beyond the encoder's rows; 0 leaves the person to them",
                 default=0.0, high=1.0, sweep=(0.0, 1.0), label="Detail of the person")
DETAIL_SIDE = 32
MAX_VERSION, MAX_STEPS, KEPT = 2**31, 10_000, 64


class ModifyStyle(Style):
    """An encapsulated style.

    Args:
        model: encoder, generator and remapping network, frozen.
        critic: of the style, for test-time training; None leaves its term out there.
        base: the generator that faces are inverted into.
        config: of the file.
        name: what its results are called.
        digest: of all weights.
        drawn: what the style's images have in common, by which photos are drawn; None draws them by the networks.
    """

    kind = KIND
    levels = 15
    grids = staticmethod(no_grids)

    def __init__(self, model: StyleModel, critic: nn.Module | None, base: Base, config: Mapping[str, Any], name: str, digest: str,
                 drawn: DrawnStyle | None = None) -> None:
        super().__init__(name, config, digest, device=model.latent_avg.device)
        self.model, self.critic, self.drawn = model, critic, drawn
        self._base = base
        self._judges: Judges | None = None
        self._adapted: dict[str, Tensor] = {}

    @classmethod
    def known(cls, path: Path, config: Mapping[str, Any]) -> dict[str, Tensor]:
        base, encoder = base_and_encoder(path, config, torch.device("cpu"))
        return {prefix + name: tensor for prefix, module in (("e.", encoder.module), ("g.", base.generator))
                for name, tensor in module.state_dict().items()}

    @classmethod
    def load(cls, path: Path, tensors: dict[str, Tensor], config: dict[str, Any], *, device: torch.device) -> ModifyStyle:
        tensors, config = with_parent(cls, path, tensors, config)
        base, encoder = base_and_encoder(path, config, device)
        drawn = take_drawn(path, tensors, device)
        model, critic = networks_of(path, tensors, config, base, encoder)
        model.requires_grad_(False).eval().to(device)
        if critic is not None:
            critic.requires_grad_(False).eval().to(device)
        return cls(model, critic, base, config, path.stem, fingerprint(*states_of(model, critic, drawn)), drawn)

    @classmethod
    def controls_of(cls, config: Mapping[str, Any], names: Sequence[str]) -> tuple[Control, ...]:
        if any(name.startswith(PREFIX) for name in names):
            return DEFORMATION, TONE, VERSION, STRENGTH
        return VERSION, STRENGTH, TEST_TIME, replace(DETAIL, default=float(config.get("detail", 0.0)))

    @property
    def controls(self) -> tuple[Control, ...]:
        return self.controls_of(self.config, [PREFIX] * (self.drawn is not None))

    @property
    def draws_pictures(self) -> bool:
        return self.drawn is not None

    def random(self, z: Tensor, *, truncation_psi: float) -> Face:
        """Return random faces, which the networks restyle from their rows and not from their pictures."""
        return replace(super().random(z, truncation_psi=truncation_psi), photo=None)

    @property
    def encoder_name(self) -> str:
        return str(self.config["encoder"]["name"])

    def photo(self, face: Face) -> Tensor:
        """Return what the base shows of faces, [N, 3, S, S]: the photos that are restyled."""
        generator = self.base.generator
        return generator.synthesis(face.w_plus, noise=generator.fixed_noise(), feature_transforms=face.transforms())

    @torch.no_grad()
    def draw(self, face: Face, look: Look, *, landmarks: np.ndarray | None = None) -> Tensor:
        if self.drawn is None:
            return self.restyled(face, look)
        if look.get(VERSION.name) is not None:
            # Versions are the networks': they restyle what these see of a photo, not its pixels.
            face = replace(face, photo=None, known=None)
        return draw_faces(self.drawn, face, self._values(look), picture=partial(self.sample, look=look), grids=no_grids)

    def draw_frame(self, image: Tensor, parts: Tensor, faces: Sequence[FramedFace], look: Look, *,
                   inside: Tensor | None = None) -> Tensor:
        if look.get(VERSION.name) is not None:
            raise CheckpointError(f"--version {look[VERSION.name]:g}: versions are drawn of faces alone; add --frame crop")
        return draw_frame(self.drawn, image, parts, faces, self._values(look), grids=no_grids, inside=inside)

    def _values(self, look: Look) -> dict[str, Any]:
        return {**{control.name: control.default for control in self.controls}, **look}

    def sample(self, face: Face, *, look: Look) -> Tensor:
        """Return random faces for the drawing stages: of the networks, at the size that the base shows faces at."""
        return self.base.enlarge(self.restyled(face, look)).clamp(-1.0, 1.0)

    def restyled(self, face: Face, look: Look) -> Tensor:
        """Return faces [N, 3, S, S] as encoder, remapping and generator make them."""
        codes = self.codes(face, _steps(look.get("test_time", TEST_TIME.default)))
        detail = float(look.get("detail", self.config.get("detail", 0.0)))
        residual = detail * self.beyond(face, codes) if detail else None
        version, strength = look.get("version"), self.along(look.get("strength", STRENGTH.default))
        if version is not None:
            z = _version_z(version, self.model.remapping.config.style_dim).to(self.device)
            codes = self.model.swapped(codes, self.model.remapping(z), strength=strength)
        return self.model.decode(codes, residual)

    def along(self, value: float | Sequence[float]) -> float | Tensor:
        """Return a value of ``--strength`` as one number, or as [xi, 1] of one per row; raises CheckpointError."""
        if not isinstance(value, Sequence):
            return float(value)
        xi = self.model.remapping.config.rows
        if len(value) != xi:
            raise CheckpointError(f"--strength: {self.name} has {xi} style rows, got {len(value)} numbers; give one, or {xi}")
        return torch.tensor(value, device=self.device)[:, None]

    def beyond(self, face: Face, codes: Tensor) -> Tensor:
        """Return what the base's features of faces at 32 px have that those of the codes [N, L, D] do not, [N, C, 32, 32].

        The style's own features start from the base's, so that what the rows cannot say of a person can be added to them.
        """
        return beyond(self.base.generator, face, self.model.rows(codes))

    def codes(self, face: Face, steps: int) -> Tensor:
        """Return E(x) [N, L, D] of faces, or E'(x) after ``steps`` of test-time training on each."""
        if not steps:
            return self.model.encode(self.photo(face))
        return torch.cat([self._adapted_codes(face[i:i + 1], steps) for i in range(len(face))])

    def _adapted_codes(self, face: Face, steps: int) -> Tensor:
        """Return E'(x) [1, L, D] of one face, from the cache where it is there.

        The codes are all that is ever asked of the encoder that was adapted to this one photo.
        """
        settings = replace(self.adaptation(), steps=steps)
        key = _digest(face, [self.fingerprint, settings.to_dict()])
        if key in self._adapted:
            return self._adapted[key]
        found = None if self.cache is None else self.cache.get(key)
        if found is None:
            try:
                with torch.autocast(self.device.type, enabled=False):
                    photo = self.photo(face).float().clamp(-1.0, 1.0)
                    with tqdm(total=steps, desc="test-time training", leave=False, disable=None) as bar:
                        codes = adapt_to(photo, self.model, self.critic, config=settings, judges=self.judges,
                                         progress=bar.update)
            except DivergedError as error:
                raise CheckpointError(f"--test-time {steps}: {error}") from error
            if self.cache is not None:
                self.cache.put(key, Face(codes))
        else:
            codes = found.w_plus.to(self.device)
        if len(self._adapted) >= KEPT:
            self._adapted.pop(next(iter(self._adapted)))
        self._adapted[key] = codes
        return codes

    def adaptation(self) -> AdaptationConfig:
        """Return the settings of stage 2 that suit the style's size."""
        return AdaptationConfig.profile("starter" if self.model.generator.config.size <= 256 else "published",
                                        **({} if self.critic is not None else {"adv_weight": 0.0}))

    @property
    def judges(self) -> Judges:
        """The networks that compare images, loaded when they are first asked for."""
        if self._judges is None:
            self._judges = load_judges(None, size=self.model.generator.config.size, device=self.device)
        return self._judges

    def graph(self) -> nn.Module:
        if self.drawn is not None:
            from styles.drawn_graph import DrawnGraph

            return DrawnGraph(self.drawn)
        return ModifyGraph(self)

    def facts(self) -> dict[str, Any]:
        return super().facts() | {"card": str(self.config.get("card", CARD))}


def beyond(generator: Generator, face: Face, w_plus: Tensor) -> Tensor:
    """Return the difference of a generator's features at 32 px between faces and rows [N, L, D] alone, [N, C, 32, 32]."""
    seen: list[Tensor] = []
    for one in (face, Face(w_plus)):
        transforms, index = one.transforms(), layer_at(DETAIL_SIDE)
        before = transforms.get(index)

        def note(features: Tensor, before: Any = before) -> Tensor:
            seen.append(features if before is None else before(features))
            return seen[-1]

        generator.synthesis(one.w_plus, noise=generator.fixed_noise(), feature_transforms={**transforms, index: note})
    return seen[0] - seen[1]


class ModifyGraph(nn.Module):
    """Base, encoder and generator in a row, without test-time training and random versions."""

    inputs: tuple[Control, ...] = ()

    def __init__(self, style: ModifyStyle) -> None:
        super().__init__()
        self.base, self.model = style.base.generator, style.model
        self.detail = float(style.config.get("detail", 0.0))

    def forward(self, w_plus: Tensor, residual: Tensor | None, photo: Tensor | None) -> Tensor:
        """w_plus [N, L, D], residual [N, C, R, R] or None, photo, which is not looked at -> image [N, 3, S, S]."""
        face = Face(w_plus, residual)
        photo = self.base.synthesis(w_plus, noise=self.base.fixed_noise(), feature_transforms=face.transforms())
        codes = self.model.encode(photo)
        residual = self.detail * beyond(self.base, face, self.model.rows(codes)) if self.detail else None
        return self.model.decode(codes, residual)


def _steps(value: float) -> int:
    """Return the steps of ``--test_time``; raises CheckpointError for what is no count."""
    if not 0 <= value <= MAX_STEPS or value != int(value):
        raise CheckpointError(f"--test-time {value:g}: give a whole number of steps within 0 and {MAX_STEPS}")
    return int(value)


def _version_z(value: float, width: int) -> Tensor:
    """Return z [1, width] of a version; between two whole numbers z lies between theirs, and M normalises it."""
    if not abs(value) < MAX_VERSION:
        raise CheckpointError(f"--version {value:g}: give a number within -{MAX_VERSION} and {MAX_VERSION}")
    first = int(np.floor(value))
    near, far = version_z([first, first + 1], width).split(1)
    return torch.lerp(near, far, float(value) - first)


def _digest(face: Face, facts: Any) -> str:
    """Return a digest of one face and of plain facts."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for part in (face.w_plus, face.residual):
        digest.update(b"none" if part is None else part.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]
