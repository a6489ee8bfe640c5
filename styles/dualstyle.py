"""Exemplars as styles (DualStyleGAN): structure and colours of a portrait of the gallery, each by a weight of its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from checkpoints.builders import Base
from checkpoints.features import load_landmark_net, load_painter
from checkpoints.io import CheckpointError, fingerprint, save_model
from data.images import read_image
from models.dualstylegan import FIRST_COLOR_ROW, SAMPLER_WIDTH, blend_weights
from models.face import Face
from models.look import landmark_grid
from models.painter import painted
from models.stylegan2 import layer_at
from models.tones import CELL, Tones, in_tones
from styles.controls import Control, FileValue, Look
from styles.dualstyle_controls import (
    COLOR, DETAIL, NONE, PRESERVE, RANDOM, REFINE, SAME, SEED, SHARE, STRUCTURE, TONE, WEIGHT, dual_controls,
)
from styles.dualstyle_encoding import ExemplarEncoder
from styles.dualstyle_files import (
    PUBLISHED_TRUNCATION,
    SAMPLER_FILE,
    SHOWN,
    DualParts,
    own_tensors,
    read_own,
    read_released,
    released_codes,
)
from styles.dualstyle_shape import bent, carried, path_shift
from styles.dualstyle_shown import Shown
from styles.face_landmarks import FaceLandmarks
from styles.protocol import DrawGraph, Style, file_path

# Exemplars whose rows are kept, for one is mapped or encoded once and drawn with many times.
KEPT = 16
MOST_STEPS = 10_000
# How far pictures are drawn in the exemplar's manner before they go all the way to its tones.
PAINTED = 0.4
# Side in px of the features that are bent.
BENT = 32


class DualStyle(Style):
    """A generator with an extrinsic path and a gallery of exemplars.

    Args:
        parts: network, exemplars and config of the file.
        name: what its results are called.
        folder: of the file, where an encoder of exemplars may lie.
        device: where it computes.
    """

    kind = "dual"
    levels = 31

    def __init__(self, parts: DualParts, name: str, *, folder: Path, device: torch.device) -> None:
        networks = [parts.network, *parts.samplers.values()]
        gallery = parts.gallery
        shown = {} if gallery.tones is None else {
            name: getattr(gallery, name) for name in SHOWN if getattr(gallery, name) is not None}
        self.painter = None if gallery.manner is None else load_painter(device=device).module
        drawing = networks if self.painter is None else [*networks, self.painter]
        digest = fingerprint({"codes": gallery.codes, **shown}, *(network.state_dict() for network in drawing))
        super().__init__(name, parts.config, digest, device=device)
        for network in networks:
            network.requires_grad_(False).eval().to(device)
        self.parts, self.network, self.gallery = parts, parts.network, parts.gallery
        self._base = Base(self.network.generator, None, parts.w_avg.to(device), self.base_name,
                          fingerprint(self.network.generator.state_dict()))
        self._controls = self.controls_of(parts.config, [f"{name}." for name in parts.samplers])
        self.encoder = ExemplarEncoder(parts, name, self.base_name, folder=folder, device=device)
        self._codes: dict[Any, Tensor] = {}

    @classmethod
    def load(cls, path: Path, tensors: dict[str, Tensor], config: dict[str, Any], *, device: torch.device) -> DualStyle:
        return cls(read_own(path, tensors, config), path.stem, folder=path.parent, device=device)

    @classmethod
    def load_released(cls, path: Path, state: Any, *, device: torch.device) -> DualStyle:
        parts = read_released(path, state, style_kind=cls.kind)
        # The published folders are named by the style, the files in them by what they are.
        name = path.resolve().parent.name if path.stem.startswith("generator") else path.stem
        return cls(parts, name or path.stem, folder=path.parent, device=device)

    @classmethod
    def controls_of(cls, config: Mapping[str, Any], names: Sequence[str]) -> tuple[Control, ...]:
        exemplars, random = tuple(config.get("exemplars") or ()), any(name.startswith("structure.") for name in names)
        return dual_controls(exemplars, random=random, truncation=config.get("truncation", 1.0), detail=config.get("detail"),
                             tone=config.get("tone"), refine=config.get("refine"))

    @classmethod
    def released_controls(cls, path: Path) -> tuple[Control, ...]:
        return dual_controls(tuple(released_codes(path)), random=path.with_name(SAMPLER_FILE).is_file(),
                         truncation=PUBLISHED_TRUNCATION)

    @property
    def controls(self) -> tuple[Control, ...]:
        return self._controls

    @property
    def encoder_name(self) -> str:
        return self.config.get("encoder") or self.base_name

    def prepare(self, look: Look) -> None:
        self.code(look)
        self.weights(look)

    # ------------------------------------------------------------------------------------------------- exemplars
    def code(self, look: Look) -> Tensor:
        """Return the extrinsic rows [1, L, D] of what a look asks for, as rows of latents: those of its exemplar, mixed with a
        second one's, with the colours of another.

        Raises:
            ImageError: naming a picture that cannot be read.
            CheckpointError: for an exemplar that is not there.
        """
        first, second, colours = self.chosen(look)
        code = self.code_of("exemplar", first, look)
        if second != NONE:
            code = torch.lerp(code, self.code_of("second_exemplar", second, look), self._second_share(look))
        if colours != SAME:
            other = self.code_of("color_exemplar", colours, look)
            code = torch.cat([code[:, :FIRST_COLOR_ROW], other[:, FIRST_COLOR_ROW:]], dim=1)
        return code

    def chosen(self, look: Look) -> tuple[Any, Any, Any]:
        """Return a look's exemplar, the second one and the one of the colours; ``NONE`` and ``SAME`` where there are none."""
        default = next(control for control in self.controls if control.name == "exemplar").default
        return look.get("exemplar", default), look.get("second_exemplar", NONE), look.get("color_exemplar", SAME)

    @staticmethod
    def _second_share(look: Look) -> float:
        share = look.get(SHARE.name)
        return 0.5 if share is None else float(share)

    def code_of(self, control: str, value: Any, look: Look) -> Tensor:
        """Return the extrinsic rows [1, L, D] of one exemplar, the value of a control, see ``code``."""
        if isinstance(value, str) and value in self.gallery.names:
            return self._kept(value, lambda: self.gallery.codes[self.gallery.names.index(value)][None])
        if value == RANDOM and self.parts.samplers:
            seed = look.get(SEED.name, 0)
            if seed != int(seed) or not 0 <= seed < 2**63:
                raise CheckpointError(f"{SEED.option} {seed:g}: expected a whole number of at least 0")
            return self._kept((RANDOM, int(seed)), lambda: self.random_code(int(seed)))
        if value is None:
            raise CheckpointError(f"{self.name}: holds no exemplars; name a portrait by --exemplar FILE")
        if isinstance(value, str) and not Path(value).is_file():
            known = ", ".join(self.gallery.names[:8]) or "none"
            raise CheckpointError(f"--{control} {value}: is no exemplar of {self.name} and no file; its exemplars are {known}"
                                  f"{', ...' if len(self.gallery.names) > 8 else ''}")
        read_image(file_path(value))  # says what is wrong with it
        value = value if isinstance(value, FileValue) else FileValue.read(value)
        steps = look.get(REFINE.name, self.config.get("refine", 0))
        if steps != int(steps) or not 0 <= steps <= MOST_STEPS:
            raise CheckpointError(f"{REFINE.option} {steps:g}: expected a whole number from 0 to {MOST_STEPS:,}")
        return self._kept(("file", value.digest, int(steps)), lambda: self.encode(file_path(value), int(steps)))

    def random_code(self, seed: int) -> Tensor:
        """Return random rows [1, L, D] of the sampler, drawn on the CPU so that a seed means one exemplar."""
        rng = torch.Generator().manual_seed(seed)
        return torch.cat([self.parts.samplers[name](torch.randn(1, SAMPLER_WIDTH, generator=rng).to(self.device))
                          for name in ("structure", "color")], dim=1)

    def encode(self, path: Path, steps: int) -> Tensor:
        """Return the rows [1, L, D] of an aligned portrait, refined by ``steps``; from the cache where they are there.

        Raises:
            CheckpointError: where the encoder of exemplars is not there or does not fit, or refinement diverges.
        """
        if not steps:
            return self.encoder.rows(path)
        facts = [self.fingerprint, self.encoder.fingerprint, steps, FileValue.read(path).digest]
        key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
        found = None if self.cache is None else self.cache.get(key)
        if found is None:
            found = Face(self.encoder.refined(path, steps=steps))
            if self.cache is not None:
                self.cache.put(key, found)
        return found.w_plus.to(self.device)

    def _kept(self, key: Any, make: Any) -> Tensor:
        """Return the rows of an exemplar, made and mapped where they are not there."""
        if key not in self._codes:
            with torch.no_grad():
                code = make().to(self.device)
                self._codes[key] = self.network.map_rows(code) if self.gallery.space == "z+" else code
            while len(self._codes) > KEPT:
                del self._codes[next(iter(self._codes))]
        return self._codes[key]

    # --------------------------------------------------------------------------------------------------- drawing
    def weights(self, look: Look) -> list[float] | Tensor:
        """Return the weight of every row that a look asks for, one number each or [N, L].

        Raises:
            CheckpointError: for another count of numbers.
        """
        total, parts = self.network.n_latent, {}
        whole = look.get(WEIGHT.name)
        for control, part in ((STRUCTURE, slice(0, FIRST_COLOR_ROW)), (COLOR, slice(FIRST_COLOR_ROW, total))):
            value = look.get(control.name, control.default) if whole is None else whole
            if isinstance(value, (tuple, list)):
                count, option = part.stop - part.start, (control if whole is None else WEIGHT).option
                if len(value) != total and (whole is not None or len(value) != count):
                    several = f"{total}" if whole is not None else f"{count} or {total}"
                    raise CheckpointError(f"{option}: expected one number or {several}, got {len(value)}")
                value = value[part] if len(value) == total else value
            parts[control.name] = value
        return blend_weights(parts["structure"], parts["color"], n_latent=total)

    @torch.no_grad()
    def draw(self, face: Face, look: Look, *, landmarks: np.ndarray | None = None) -> Tensor:
        truncation = look.get("face_truncation", self.config.get("truncation", 1.0))
        if isinstance(truncation, Tensor):
            truncation = truncation.reshape(-1, 1, 1)  # [N] -> [N, 1, 1]
        w_plus = face.w_plus * truncation
        code = self.code(look).to(w_plus).expand(len(face), -1, -1)
        if look.get(PRESERVE.name) == "yes":
            code = torch.cat([code[:, :FIRST_COLOR_ROW], face.w_plus[:, FIRST_COLOR_ROW:]], dim=1)
        noise, weights, after, beyond = self.network.generator.fixed_noise(), self.weights(look), None, 0.0
        detail = "detail" in self.config and face.residual is not None
        if detail or self.gallery.shape is not None:
            shown = self.finder.shown(face.w_plus, face.residual)
            places = self.finder.points(shown)
            shift = path_shift(self.network, self.finder.net, w_plus, code, weights)
            goal = places + (shift if self.gallery.shape is None else self.way(look, weights))
            if self.gallery.shape is not None:
                after = {layer_at(BENT): partial(bent, places=places + shift, goal=goal)}
            if detail and face.photo is not None:
                beyond = self._share(look) * bent(face.photo_at(shown.shape[3]) - shown, places=places, goal=goal)
            if detail:
                face = Face(face.w_plus, carried(face, places, shift) * self._share(look))
        image = beyond + self.network.synthesis(w_plus, code, weights=weights, noise=noise, before=face.transforms(),
                                                after=after)
        if "tone" not in self.config or look.get(PRESERVE.name) == "yes":
            return image
        return self.toned(image, look, weights)

    def way(self, look: Look, weights: list[float] | Tensor) -> Tensor:
        """Return how far landmarks are to move, [N, 68, 2]: the deformation's way by the mean weight of structure."""
        weights = weights if isinstance(weights, Tensor) else torch.tensor(weights, device=self.device)[None]
        return weights[:, :FIRST_COLOR_ROW].mean(dim=1).reshape(-1, 1, 1) * self.moves_of(look)

    def toned(self, image: Tensor, look: Look, weights: list[float] | Tensor) -> Tensor:
        """Return drawn faces [N, 3, S, S] in the exemplar's manner and tones, as far as look and colours' weights say."""
        strength = look.get(TONE.name, self.config["tone"])
        weights = weights if isinstance(weights, Tensor) else image.new_tensor(weights)[None]
        share = weights[:, FIRST_COLOR_ROW:].mean(dim=1).clamp(0.0, 1.0).reshape(-1, 1, 1, 1).to(image)  # [N, L]
        share = share * (strength.reshape(-1, 1, 1, 1) if isinstance(strength, Tensor) else strength)
        tones, points = self.tones_of(look)
        image = image.clamp(-1.0, 1.0)
        if self.painter is not None:
            image = painted(self.painter, image, self.manner_of(look), strength=PAINTED * share)
        grid = landmark_grid(self.finder.net(image).points, points, image.shape[3] // CELL)
        return in_tones(image, tones, grid=grid, strength=share)

    def tones_of(self, look: Look) -> tuple[Tones, Tensor]:
        """Return the tones of what a look asks for, and the landmarks [1, 68, 2] that they belong to."""
        first, second, colours = self._shown_of(look, slice(FIRST_COLOR_ROW, None))
        tones, points = self.shown.tones(first if colours == SAME else colours)
        if second == NONE or colours != SAME:
            return tones, points
        other, others, share = *self.shown.tones(second), self._second_share(look)
        return tones.mixed(other, share), torch.lerp(points, others, share)

    def manner_of(self, look: Look) -> Tensor:
        """Return how what a look asks for is drawn, a code [1, code] of the painter."""
        first, second, colours = self._shown_of(look, slice(FIRST_COLOR_ROW, None))
        manner = self.shown.manner(first if colours == SAME else colours)
        return manner if second == NONE or colours != SAME else torch.lerp(manner, self.shown.manner(second),
                                                                           self._second_share(look))

    def moves_of(self, look: Look) -> Tensor:
        """Return how far the deformation that a look asks for moves landmarks at full weight, [1, 68, 2]."""
        first, second, _ = self._shown_of(look, slice(0, FIRST_COLOR_ROW))
        moves = self.shown.moves(first)
        return moves if second == NONE else torch.lerp(moves, self.shown.moves(second), self._second_share(look))

    def _shown_of(self, look: Look, rows: slice) -> list[Any]:
        """Return what ``chosen`` does, for random ones the exemplar that is nearest to them by its rows."""
        return [self.shown.nearest(self.code_of("exemplar", RANDOM, look), rows)
                if value == RANDOM and self.parts.samplers else value for value in self.chosen(look)]

    @cached_property
    def shown(self) -> Shown:
        """Knows the exemplars by what they show."""
        return Shown(self.gallery, lambda image: self.finder.net(image).points, size=self.network.generator.config.size,
                     device=self.device, painter=self.painter)

    def _share(self, look: Look) -> float | Tensor:
        """Return the value of ``detail``, a number or [N, 1, 1, 1]."""
        value = look.get(DETAIL.name, self.config["detail"])
        return value.reshape(-1, 1, 1, 1) if isinstance(value, Tensor) else value

    @cached_property
    def finder(self) -> FaceLandmarks:
        """Finds the landmarks of faces."""
        return FaceLandmarks(self.network.generator, load_landmark_net(device=self.device).module)

    def graph(self) -> nn.Module:
        """Return the network with the default look's exemplar as a constant."""
        self.prepare(self.default_look())
        return DrawGraph(self)

    def pictures(self, control: str) -> dict[str, Image.Image]:
        if control != "exemplar" or self.gallery.thumbs is None:
            return {}
        thumbs = zip(self.gallery.names, self.gallery.thumbs, strict=True)
        return {name: Image.fromarray(thumb.numpy()) for name, thumb in thumbs}

    def packed(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return own_tensors(self.parts, with_generator=True), self.config


def save_dual(path: str | Path, parts: DualParts, *, with_generator: bool = False, half: bool = True) -> None:
    """Write an exemplar style as one safetensors file with its config inside.

    Args:
        path: the file.
        parts: the style; its config needs "base" {"name", "fingerprint"} where the file does without the generator.
        with_generator: hold the generator too.
        half: store weights as float16.
    """
    config = {"kind": "style", "style_kind": DualStyle.kind, "generator": parts.network.generator.config.to_dict(),
              "exemplars": list(parts.gallery.names), "codes": parts.gallery.space, **parts.config}
    save_model(path, own_tensors(parts, with_generator=with_generator), config, half=half)
