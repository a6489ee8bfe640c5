"""Encapsulated styles (MODIFY): networks that hold a style without any of its images, made by ``encapsulate.py``.

A file holds only networks, and of these only the tensors that are not the base's own; what is missing is read from the base
and its encoder, whose digests the file names. A file of ``adapt.py`` holds the adapted part of the encoder alone and names
the style that it belongs to.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from checkpoints.builders import Base, Encoder, load_base, load_encoder
from checkpoints.io import CheckpointError, build_strict, fingerprint, load_model, read_config, save_model
from checkpoints.paths import find_style
from models.discriminator import Discriminator, DiscriminatorConfig
from models.face import Face
from models.modify import RemappingConfig, RemappingNetwork, StyleModel, version_z
from models.stylegan2 import Generator, layer_at
from models.tones import Tones, in_tones
from styles.controls import Control, Look
from styles.difference import full_tensors
from styles.protocol import Style
from training.modify import Judges, adapt_to
from training.modify_config import AdaptationConfig
from training.modify_judges import load_judges
from training.checks import DivergedError

VERSION = Control("version", "number of a random version of the style; what lies between two numbers blends them; without one "
                  "the photo keeps the style rows that the encoder gives it", low=0.0, high=8.0, sweep=(1.0, 7.0))
STRENGTH = Control("strength", "0 keeps the encoder's style rows, 1 takes those of --version", default=1.0, high=1.5)
TEST_TIME = Control("test_time", "steps by which the encoder is trained on each photo before it is drawn; the paper takes 50",
                    default=0.0, high=100.0, sweep=(0.0, 50.0), label="Test-time steps")
DETAIL = Control("detail", "share of what the photo's own features show beyond the encoder's rows; 0 leaves the person to them",
                 default=0.0, high=1.0, sweep=(0.0, 1.0), label="Detail of the person")
TONE = Control("tone_strength", "how far sharpness and contrast of the whole picture go to those of the style's images, 0 "
               "leaves them", default=0.7, label="Sharpness of the style")
DETAIL_SIDE = 32
CARD = ("Holds only networks: what training changed of an encoder and a generator, a remapping network and a critic; beside "
        "them at most twelve numbers, how strong fine and coarse detail is in the mean of all images. It holds no image, no "
        "latent of an image, and no name, number or digest of the images that it was trained on.")
PARTS = {"e.": "encoder", "g.": "generator", "m.": "remapping", "c.": "critic"}
MAX_VERSION, MAX_STEPS, KEPT = 2**31, 10_000, 64


class ModifyStyle(Style):
    """An encapsulated style.

    Args:
        model: encoder, generator and remapping network, frozen.
        critic: of the style, for test-time training.
        base: the generator that faces are inverted into.
        config: of the file.
        name: what its results are called.
        digest: of all weights.
    """

    kind = "modify"
    levels = 15

    def __init__(self, model: StyleModel, critic: nn.Module, base: Base, config: Mapping[str, Any], name: str, digest: str
                 ) -> None:
        super().__init__(name, config, digest, device=model.latent_avg.device)
        self.model, self.critic = model, critic
        self._base = base
        self._judges: Judges | None = None
        self._adapted: dict[str, Tensor] = {}

    @classmethod
    def known(cls, path: Path, config: Mapping[str, Any]) -> dict[str, Tensor]:
        base, encoder = _ground(path, config, torch.device("cpu"))
        return {prefix + name: tensor for prefix, module in (("e.", encoder.module), ("g.", base.generator))
                for name, tensor in module.state_dict().items()}

    @classmethod
    def load(cls, path: Path, tensors: dict[str, Tensor], config: dict[str, Any], *, device: torch.device) -> ModifyStyle:
        tensors, config = _with_parent(path, tensors, config)
        base, encoder = _ground(path, config, device)
        model, critic = _networks(path, tensors, config, base, encoder)
        model.requires_grad_(False).eval().to(device)
        critic.requires_grad_(False).eval().to(device)
        return cls(model, critic, base, config, path.stem, fingerprint(model.state_dict(), critic.state_dict()))

    @classmethod
    def controls_of(cls, config: Mapping[str, Any], names: Sequence[str]) -> tuple[Control, ...]:
        tone = (TONE,) if config.get("bands") else ()
        return VERSION, STRENGTH, TEST_TIME, replace(DETAIL, default=float(config.get("detail", 0.0))), *tone

    @property
    def controls(self) -> tuple[Control, ...]:
        return self.controls_of(self.config, ())

    def photo(self, face: Face) -> Tensor:
        """Return what the base shows of faces, [N, 3, S, S]: the photos that are restyled."""
        generator = self.base.generator
        return generator.synthesis(face.w_plus, noise=generator.fixed_noise(), feature_transforms=face.transforms())

    @torch.no_grad()
    def draw(self, face: Face, look: Look, *, landmarks: np.ndarray | None = None) -> Tensor:
        codes = self.codes(face, _steps(look.get("test_time", TEST_TIME.default)))
        detail = float(look.get("detail", self.config.get("detail", 0.0)))
        residual = detail * self.beyond(face, codes) if detail else None
        version = look.get("version")
        if version is not None:
            rows = self.model.remapping(_version_z(version, self.model.remapping.config.style_dim).to(self.device))
            codes = self.model.swapped(codes, rows, strength=float(look.get("strength", STRENGTH.default)))
        return self.sharpened(self.model.decode(codes, residual), float(look.get(TONE.name, TONE.default)))

    def sharpened(self, image: Tensor, strength: float = TONE.default) -> Tensor:
        """Return pictures [N, 3, S, S] whose detail is as strong as in the mean of the style's images, by their strength."""
        bands = self.config.get("bands")
        if not bands or not strength:
            return image
        return in_tones(image.clamp(-1.0, 1.0), Tones.from_bands(bands, like=image), strength=strength, colour=0.0)

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
                    codes = adapt_to(photo, self.model, self.critic, config=settings, judges=self.judges)
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
        return AdaptationConfig.profile("starter" if self.model.generator.config.size <= 256 else "published")

    @property
    def judges(self) -> Judges:
        """The networks that compare images, loaded when they are first asked for."""
        if self._judges is None:
            self._judges = load_judges(None, size=self.model.generator.config.size, device=self.device)
        return self._judges

    def graph(self) -> nn.Module:
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
        self.detail, self.finish = float(style.config.get("detail", 0.0)), style.sharpened

    def forward(self, w_plus: Tensor, residual: Tensor | None) -> Tensor:
        """w_plus [N, L, D], residual [N, C, R, R] or None -> image [N, 3, S, S]."""
        face = Face(w_plus, residual)
        photo = self.base.synthesis(w_plus, noise=self.base.fixed_noise(), feature_transforms=face.transforms())
        codes = self.model.encode(photo)
        residual = self.detail * beyond(self.base, face, self.model.rows(codes)) if self.detail else None
        return self.finish(self.model.decode(codes, residual))


def save_style(path: str | Path, model: StyleModel, critic: nn.Module, *, base: Base, encoder: Encoder, encoder_name: str,
               training: Mapping[str, Any], detail: float = 0.0, bands: Sequence[float] = ()) -> None:
    """Write an encapsulated style atomically: the tensors that differ from those of the base and its encoder.

    Args:
        path: the file.
        model, critic: the networks.
        base, encoder: what they started from.
        encoder_name: by which ``load_encoder`` finds the encoder.
        training: JSON-ready settings of the training, without facts of its images.
        detail: default of the control of that name.
        bands: mean deviations of the images' bands, see ``models.tones``; none leaves pictures as they are decoded.
    """
    own = {"e.": encoder.module.state_dict(), "g.": base.generator.state_dict(), "m.": {}, "c.": {}}
    networks = {"e.": model.encoder, "g.": model.generator, "m.": model.remapping, "c.": critic}
    config = {"kind": "style", "style_kind": ModifyStyle.kind, "card": CARD,
              "base": {"name": base.name, "fingerprint": base.fingerprint},
              "encoder": {"name": encoder_name, "fingerprint": encoder.fingerprint},
              "remapping": model.remapping.config.to_dict(), "critic": critic.config.to_dict(), "training": dict(training),
              "detail": detail, "bands": [round(float(value), 6) for value in bands]}
    save_model(path, _changed(networks, own), config, half=True)


def save_adapted(path: str | Path, model: StyleModel, *, parent: ModifyStyle, training: Mapping[str, Any]) -> None:
    """Write what stage 2 changed of a style's encoder, atomically; the file needs that style.

    Args:
        path: the file.
        model: with the adapted encoder.
        parent: the style that it was adapted from.
        training: JSON-ready settings of the training, without facts of its photos.
    """
    config = {"kind": "style", "style_kind": ModifyStyle.kind, "card": CARD, "base": parent.config["base"],
              "adapts": {"style": parent.name, "fingerprint": parent.fingerprint}, "training": dict(training)}
    tensors = _changed({"e.": model.encoder}, {"e.": parent.model.encoder.state_dict()})
    save_model(path, tensors, config, half=True)


def _changed(networks: Mapping[str, nn.Module], before: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the tensors of networks, by prefix and name, that ``before`` does not have or has otherwise."""
    found = {}
    for prefix, module in networks.items():
        for name, tensor in module.state_dict().items():
            old = before[prefix].get(name)
            if old is None or not torch.equal(old.to(tensor.device), tensor):
                found[prefix + name] = tensor
    return found


def _with_parent(path: Path, tensors: dict[str, Tensor], config: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and config of an adapted style upon those of the style that it was adapted from."""
    if "adapts" not in config:
        return tensors, config
    facts = config["adapts"] if isinstance(config["adapts"], dict) else {}
    name = str(facts.get("style"))
    try:
        parent = find_style(name)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: was adapted from the style {name!r}, which is not here; put that file beside it"
                              ) from error
    below, whole = load_model(parent, kind="style")
    below = full_tensors(ModifyStyle, parent, below, whole)
    if whole.get("style_kind") != ModifyStyle.kind or "adapts" in whole:
        raise CheckpointError(f"{path}: was adapted from the style {name!r}, but {parent} is no encapsulated style; put the "
                              "right file there")
    if not _is(parent, below, whole, facts.get("fingerprint")):
        raise CheckpointError(f"{path}: was adapted from another style than the one in {parent}; adapt it anew")
    return {**below, **tensors}, {**whole, "adapts": facts, "training": config.get("training", {})}


def _is(path: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any], digest: Any) -> bool:
    """Tell whether a style file's networks have a digest."""
    model, critic = _networks(path, dict(tensors), config, *_ground(path, config, torch.device("cpu")))
    return fingerprint(model.state_dict(), critic.state_dict()) == digest


def _ground(path: Path, config: Mapping[str, Any], device: torch.device) -> tuple[Base, Encoder]:
    """Load the base and the encoder that a style was made from.

    Raises:
        CheckpointError: if they are not those that the file names.
    """
    loaded = []
    for part, load in (("base", load_base), ("encoder", load_encoder)):
        facts = config.get(part)
        if not isinstance(facts, dict) or not {"name", "fingerprint"} <= set(facts):
            raise CheckpointError(f"{path}: its config does not say which {part} it was made from; encapsulate the style anew")
        loaded.append(load(facts["name"], device=device))
        if loaded[-1].fingerprint != facts["fingerprint"]:
            raise CheckpointError(f"{path}: was made from another {part} than the {facts['name']} that is here; get the one "
                                  "of the file's maker, or encapsulate the style anew")
    return loaded[0], loaded[1]


def _networks(path: Path, tensors: dict[str, Tensor], config: Mapping[str, Any], base: Base, encoder: Encoder
              ) -> tuple[StyleModel, Discriminator]:
    """Build a style's networks from its file's tensors upon those of its base.

    Raises:
        CheckpointError: for tensors that belong to no network, are missing or misshapen.
    """
    strange = [name for name in tensors if not name.startswith(tuple(PARTS))]
    if strange:
        raise CheckpointError(f"{path}: does not fit: unexpected {', '.join(strange[:3])}, and such a file holds only "
                              "networks; encapsulate the style anew")
    remapping = read_config(path, config, "remapping", RemappingConfig.from_dict)
    critic = read_config(path, config, "critic", DiscriminatorConfig.from_dict)
    states: dict[str, dict[str, Tensor]] = {"e.": dict(encoder.module.state_dict()), "g.": dict(base.generator.state_dict()),
                                            "m.": {}, "c.": {}}
    for name, tensor in tensors.items():
        states[name[:2]][name[2:]] = tensor
    makers = {"e.": lambda: type(encoder.module)(encoder.module.config), "g.": lambda: Generator(base.generator.config),
              "m.": lambda: RemappingNetwork(remapping), "c.": lambda: Discriminator(critic)}
    made = {prefix: build_strict(make, states[prefix], what=f"{path}: part {PARTS[prefix]}")
            for prefix, make in makers.items()}
    try:
        return StyleModel(made["e."], made["g."], made["m."], encoder.latent_avg), made["c."]
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}; encapsulate the style anew") from error


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
