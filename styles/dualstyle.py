"""Exemplars as styles (DualStyleGAN): structure and colours of a portrait of the gallery, each by a weight of its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from checkpoints.builders import Base, Encoder
from checkpoints.io import CheckpointError, fingerprint, save_model
from data.images import read_image
from drawing.reading import style_of_picture
from drawing.style import DrawnStyle
from faces.find import FaceFinder
from models.dualstylegan import FIRST_COLOR_ROW, SAMPLER_WIDTH, blend_weights
from models.face import Face
from styles.controls import Control, FileValue, Look
from styles.drawn import DEFORMATION, STROKES, TONE, FramedFace, draw_faces, draw_frame, no_grids
from styles.dualstyle_controls import (
    COLOR,
    COLOR_SEED,
    NONE,
    PRESERVE,
    RANDOM,
    REFINE,
    SAME,
    SEED,
    SHARE,
    STRUCTURE,
    WEIGHT,
    dual_controls,
)
from styles.dualstyle_encoding import ExemplarEncoder
from styles.dualstyle_files import (
    PORTRAIT,
    PUBLISHED_TRUNCATION,
    SAMPLER_FILE,
    DualParts,
    own_tensors,
    read_own,
    read_released,
    released_codes,
)
from styles.protocol import DrawGraph, Style, file_path

# Exemplars whose rows are kept, for one is mapped or encoded once and drawn with many times.
KEPT = 16
MOST_STEPS = 10_000


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
    grids = staticmethod(no_grids)

    def __init__(self, parts: DualParts, name: str, *, folder: Path, device: torch.device) -> None:
        networks = [parts.network, *parts.samplers.values()]
        gallery = parts.gallery
        shown = {f"{PORTRAIT}{index}": data for index, data in enumerate(gallery.portraits)}
        digest = fingerprint({"codes": gallery.codes, **shown}, *(network.state_dict() for network in networks))
        super().__init__(name, parts.config, digest, device=device)
        for network in networks:
            network.requires_grad_(False).eval().to(device)
        self.parts, self.network, self.gallery = parts, parts.network, parts.gallery
        own = fingerprint(self.network.generator.state_dict())
        # The base as it is also knows how random faces are drawn and shown.
        if (parts.config.get("base") or {}).get("fingerprint") != own:
            self._base = Base(self.network.generator, None, parts.w_avg.to(device), self.base_name, own)
        self._controls = self.controls_of(parts.config, [f"{name}." for name in parts.samplers])
        self.encoder = ExemplarEncoder(parts, name, self.base_name, folder=folder, device=device)
        self._codes: dict[Any, Tensor] = {}
        self._drawn: dict[str, DrawnStyle] = {}

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
        return dual_controls(exemplars, random=random, truncation=config.get("truncation", 1.0),
                             refine=config.get("refine"))

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

    @property
    def encodes_z(self) -> bool:
        """Whether photos are encoded in z+, as published: where codes lie there, and the style names no encoder of its own."""
        return self.gallery.space == "z+" and "encoder" not in self.config

    def photo_encoder(self) -> Encoder:
        return self.encoder.mapped() if self.encodes_z else super().photo_encoder()

    @property
    def inversion(self) -> str:
        return "e4e" if self.encodes_z else super().inversion

    def prepare(self, look: Look) -> None:
        self.weights(look)
        self.drawn_in(look) if self.draws_pictures else self.code(look)

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
            seed = look.get(COLOR_SEED.name, seed) if control == "color_exemplar" else seed
            if seed != int(seed) or not 0 <= seed < 2**63:
                raise CheckpointError(f"{SEED.option} {seed:g}: expected a whole number of at least 0")
            return self._kept((RANDOM, int(seed)), lambda: self.random_code(int(seed)))
        value = self._file(value, control)
        steps = look.get(REFINE.name, self.config.get("refine", 0))
        if steps != int(steps) or not 0 <= steps <= MOST_STEPS:
            raise CheckpointError(f"{REFINE.option} {steps:g}: expected a whole number from 0 to {MOST_STEPS:,}")
        return self._kept(("file", value.digest, int(steps)), lambda: self.encode(file_path(value), int(steps)))

    def _file(self, value: Any, control: str) -> FileValue:
        """Return a control's value as a file; raises CheckpointError, ImageError for what is none, or cannot be read."""
        if value is None:
            raise CheckpointError(f"{self.name}: holds no exemplars; name a portrait by --exemplar FILE")
        if isinstance(value, str) and not Path(value).is_file():
            known = ", ".join(self.gallery.names[:8]) or "none"
            raise CheckpointError(f"--{control} {value}: is no exemplar of {self.name} and no file; its exemplars are {known}"
                                  f"{', ...' if len(self.gallery.names) > 8 else ''}")
        read_image(file_path(value))  # says what is wrong with it
        return value if isinstance(value, FileValue) else FileValue.read(value)

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

    @property
    def draws_pictures(self) -> bool:
        return bool(self.gallery.portraits)

    def random(self, z: Tensor, *, truncation_psi: float) -> Face:
        """Return random faces, which the extrinsic path draws from their rows and not from their pictures."""
        return replace(super().random(z, truncation_psi=truncation_psi), photo=None)

    @torch.no_grad()
    def draw(self, face: Face, look: Look, *, landmarks: np.ndarray | None = None) -> Tensor:
        if self.draws_pictures:
            return draw_faces(self.drawn_in(look), face, self.shares(look), picture=partial(self.sample, look=look),
                              grids=no_grids)
        return self.synthesised(face, look)

    def draw_frame(self, image: Tensor, parts: Tensor, faces: Sequence[FramedFace], look: Look, *,
                   inside: Tensor | None = None) -> Tensor:
        return draw_frame(self.drawn_in(look), image, parts, faces, self.shares(look), grids=no_grids, inside=inside)

    def synthesised(self, face: Face, look: Look) -> Tensor:
        """Return faces [N, 3, S, S] as the generator with its extrinsic path makes them."""
        truncation = look.get("face_truncation", self.config.get("truncation", 1.0))
        if isinstance(truncation, Tensor):
            truncation = truncation.reshape(-1, 1, 1)  # [N] -> [N, 1, 1]
        w_plus = face.w_plus * truncation
        code = self.code(look).to(w_plus).expand(len(face), -1, -1)
        if look.get(PRESERVE.name) == "yes":
            code = torch.cat([code[:, :FIRST_COLOR_ROW], face.w_plus[:, FIRST_COLOR_ROW:]], dim=1)
        return self.network.synthesis(w_plus, code, weights=self.weights(look), noise=self.network.generator.fixed_noise(),
                                      before=face.transforms())

    def sample(self, face: Face, *, look: Look) -> Tensor:
        """Return random faces for the drawing stages: of the network, at the size that its base shows faces at."""
        return self.base.enlarge(self.synthesised(face, look)).clamp(-1.0, 1.0)

    def shares(self, look: Look) -> dict[str, float]:
        """Return how far the stages go: the mean weight of structure says how far faces deform, that of colours how far tone and
        strokes go."""
        weights = torch.as_tensor(self.weights(look)).flatten()
        colours = float(weights[FIRST_COLOR_ROW:].mean().clamp(0.0, 1.0))
        return {DEFORMATION.name: float(weights[:FIRST_COLOR_ROW].mean()), STROKES.name: colours,
                TONE.name: 0.0 if look.get(PRESERVE.name) == "yes" else colours}

    @property
    def drawn(self) -> DrawnStyle:
        """What photos are drawn by with the default look."""
        return self.drawn_in(self.default_look())

    def drawn_in(self, look: Look) -> DrawnStyle:
        """Return the style of the portraits that a look asks for; random codes have that of the exemplar nearest to them."""
        controls = ("exemplar", "second_exemplar", "color_exemplar")
        first, second, colours = (
            self.nearest(self.code_of(control, RANDOM, look)) if value == RANDOM and self.parts.samplers else value
            for control, value in zip(controls, self.chosen(look), strict=True))
        style = self.drawn_of(first)
        if second != NONE:
            share = self._second_share(look)
            style = DrawnStyle.mix([style, self.drawn_of(second)], [1.0 - share, share])
        return style if colours == SAME else replace(style, tone=self.drawn_of(colours).tone)

    def drawn_of(self, value: Any) -> DrawnStyle:
        """Return the style of one portrait: an exemplar's name, or a file.

        Raises:
            CheckpointError, ImageError: for what is neither, or cannot be read.
        """
        key = value if value in self.gallery.names else self._file(value, "exemplar").digest
        if key not in self._drawn:
            picture = self.portrait(value) if key == value else read_image(file_path(value))
            with torch.no_grad():
                self._drawn[key] = style_of_picture(picture, FaceFinder, device=self.device)[0]
            while len(self._drawn) > KEPT:
                del self._drawn[next(iter(self._drawn))]
        return self._drawn[key]

    def portrait(self, name: str) -> Image.Image:
        """Return the portrait of an exemplar."""
        data = self.gallery.portraits[self.gallery.names.index(name)]
        return Image.open(BytesIO(data.numpy().tobytes())).convert("RGB")

    def nearest(self, code: Tensor) -> str:
        """Return the exemplar of the gallery whose mapped rows are nearest to those of a code [1, L, D]."""
        apart = (self.gallery.codes.to(code) - code).flatten(1).norm(dim=1)
        return self.gallery.names[int(apart.argmin())]

    def graph(self) -> nn.Module:
        """Return the network with the default look's exemplar as a constant."""
        self.prepare(self.default_look())
        if self.draws_pictures:
            from styles.drawn_graph import DrawnGraph

            return DrawnGraph(self.drawn)
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
