"""Generators that blend styles of pictures into faces row by row (BlendGAN)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from checkpoints.builders import Base, compute_w_avg
from checkpoints.io import (
    CheckpointError,
    build_strict,
    check_state,
    fingerprint,
    read_config,
    read_torch,
    save_model,
    take_vector,
)
from checkpoints.official import check_official, describe_parts
from checkpoints.paths import checkpoints_dir
from data.images import read_image, to_tensor
from models.blending import BlendGenerator
from models.face import Face
from models.style_encoder import StyleEncoder, StyleEncoderConfig, style_encoder_config_from_state
from models.stylegan2 import GeneratorConfig, generator_config_from_state
from styles.controls import Control, FileValue, Look
from styles.pictures import picture_value, whole_seed
from styles.protocol import DrawGraph, Style, file_path

IMAGE = Control("style_image", "picture whose style is taken, of any size and kind; without one a random style is drawn",
                type="file", label="Style picture")
SEED = Control("style_seed", "seed of the random style where no picture is given; 0 where not given either",
               low=0.0, high=100.0, label="Random style")
STRENGTH = Control("strength", "0 the face itself, 1 blended as learned", default=1.0, high=1.5, label="Strength")
SHAPE = Control("add_weight_index", "rows of latents that stay the face's own: more of them keep more of its shape",
                default=6.0, high=12.0, label="Shape: rows that stay the face's own")
COLOR = Control("color_strength", "0 keeps the face's colours, 1 takes the style's; the strength where not given",
                high=1.5, label="Colours: 0 the face's, 1 the style's")
SECOND = Control("second_style_image", "another picture, mixed with the first", type="file", label="Second style picture")
SECOND_SEED = Control("second_style_seed", "seed of another random style, mixed with the first", low=0.0, high=100.0,
                      label="Second random style")
SHARE = Control("second_share", "share of the second style in the mixture", default=0.5, label="Share of the second style")
# Sweeps take the first number.
CONTROLS = (IMAGE, STRENGTH, SHAPE, COLOR, SEED, SECOND, SECOND_SEED, replace(SHARE, default=None))
RELEASED_FILE, RELEASED_ENCODER = "blendgan.pt", "style_encoder.pt"
EMBEDDER = "embedder."
# Style codes that are kept, for a picture is encoded once and drawn with many times.
KEPT = 16


class BlendStyle(Style):
    """A generator that blends styles, and the encoder of style pictures.

    Args:
        generator: the network, frozen; faces are inverted into its own synthesis.
        encoder: of style pictures, frozen.
        w_avg: [D] for truncation.
        config: of the file; "encoder" names the encoder of photos, pSp's released one where it does not.
        name: what its results are called.
        digest: of the weights.
    """

    kind = "blend"

    def __init__(
        self, generator: BlendGenerator, encoder: StyleEncoder, w_avg: Tensor, *, config: Mapping[str, Any], name: str,
        digest: str,
    ) -> None:
        super().__init__(name, config, digest, device=w_avg.device)
        self.generator, self.encoder, self.w_avg = generator, encoder, w_avg
        self._base = Base(generator, None, w_avg, self.base_name, digest)
        self._styles: dict[tuple[str, Any], Any] = {}

    @classmethod
    def load(cls, path: Path, tensors: dict[str, Tensor], config: dict[str, Any], *, device: torch.device) -> BlendStyle:
        if config.get("features"):
            raise CheckpointError(f"{path}: is of an older form that draws after any picture; use the bundled style `any`")
        shape = read_config(path, config, "generator", GeneratorConfig.from_dict)
        encoder_shape = read_config(path, config, "style_encoder", StyleEncoderConfig.from_dict)
        w_avg = take_vector(path, tensors, "w_avg", shape.style_dim)
        strange = [name for name in tensors if not name.startswith(("g.", "e."))]
        if strange:
            raise CheckpointError(f"{path}: does not fit: unexpected {', '.join(strange[:3])}; train the style anew")
        parts = {prefix: {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
                 for prefix in ("g.", "e.")}
        generator = build_strict(lambda: BlendGenerator(shape), parts["g."], what=f"{path}: part g")
        encoder = build_strict(lambda: StyleEncoder(encoder_shape), parts["e."], what=f"{path}: part e")
        return cls._frozen(path, generator, encoder, w_avg, config=config, device=device)

    @classmethod
    def load_released(cls, path: Path, state: Any, *, device: torch.device) -> BlendStyle:
        check_official(path, RELEASED_FILE, {"g_ema": state["g_ema"]}, exact=False)
        check_state(f"{path}: part g_ema", state["g_ema"])
        own = {name: tensor for name, tensor in state["g_ema"].items() if not name.startswith(EMBEDDER)}
        embedder = {name.removeprefix(EMBEDDER): tensor for name, tensor in state["g_ema"].items() if name not in own}
        encoder = _style_encoder(f"{path}: part embedder", embedder) if embedder else _released_encoder(path)
        try:
            shape = generator_config_from_state(own)
        except (ValueError, IndexError) as error:
            raise CheckpointError(f"{path}: part g_ema: {error}; get the file again") from error
        generator = build_strict(lambda: BlendGenerator(shape), own, what=f"{path}: part g_ema")
        average = {name: value for name, value in state.items() if name == "latent_avg" and value is not None}
        w_avg = take_vector(path, average, "latent_avg", shape.style_dim) if average else compute_w_avg(generator)
        config = {"kind": "style", "style_kind": cls.kind, "generator": shape.to_dict(),
                  "style_encoder": encoder.config.to_dict(), "base": {"name": "official"}, "training": {}}
        return cls._frozen(path, generator, encoder, w_avg, config=config, device=device)

    @classmethod
    def _frozen(cls, path: Path, generator: BlendGenerator, encoder: StyleEncoder, w_avg: Tensor, *, config: dict[str, Any],
                device: torch.device) -> BlendStyle:
        if encoder.config.style_dim != generator.config.style_dim:
            raise CheckpointError(f"{path}: its style encoder gives {encoder.config.style_dim} numbers, but its generator "
                                  f"takes {generator.config.style_dim}; get the file again or train the style anew")
        digest = fingerprint(generator.state_dict(), encoder.state_dict())
        for network in (generator, encoder):
            network.requires_grad_(False).eval().to(device)
        return cls(generator, encoder, w_avg.to(device), config=config, name=path.stem, digest=digest)

    @classmethod
    def controls_of(cls, config: Mapping[str, Any], names: Sequence[str]) -> tuple[Control, ...]:
        return CONTROLS

    @property
    def controls(self) -> tuple[Control, ...]:
        return CONTROLS

    @property
    def encoder_name(self) -> str:
        return self.config.get("encoder") or "psp"

    def prepare(self, look: Look) -> None:
        self.style_w(look)

    def style_w(self, look: Look) -> Tensor:
        """Return w [1, D] of the style that a look asks for: of its picture, else of a random code of its seed; where it names a
        second one, what lies between both.

        The picture is squeezed into a square, as the published code does.

        Raises:
            ImageError: naming a picture that cannot be read.
            CheckpointError: for a seed that is no whole number of at least 0.
        """
        first = self._code_w(look.get(IMAGE.name), look.get(SEED.name, 0))
        if look.get(SECOND.name) is None and look.get(SECOND_SEED.name) is None:
            return first
        return torch.lerp(first, self._code_w(look.get(SECOND.name), look.get(SECOND_SEED.name, 0)),
                          float(look.get(SHARE.name, SHARE.default)))

    def _code_w(self, picture: FileValue | str | Path | None, seed: float) -> Tensor:
        """Return w [1, D] of one picture, else of one random code."""
        if picture is not None:
            picture = picture if isinstance(picture, FileValue) else picture_value(picture)
            return self._kept(("picture", picture.digest),
                              lambda: self.generator.map_style(self.encoder(self._picture(file_path(picture)))))
        seed = whole_seed(seed, SEED)
        return self._kept(("seed", seed), lambda: self.generator.map_style(self.random_code(seed)))

    def random_code(self, seed: int) -> Tensor:
        """Return a random style code [1, D], drawn on the CPU so that a seed means one style."""
        code = torch.randn(1, self.generator.config.style_dim, generator=torch.Generator().manual_seed(seed))
        return code.to(self.device)

    def _picture(self, path: Path) -> Tensor:
        """Read a style picture as [1, 3, S, S] in [-1, 1]."""
        side = max(self.generator.config.size, self.encoder.config.input_size)
        return to_tensor(read_image(path), side).to(self.device)

    def _kept(self, key: tuple[str, Any], make: Callable[[], Any]) -> Any:
        """Return what ``make`` gives for a key, made where it is not there."""
        if key not in self._styles:
            # Under autocast the Gram matrices would lose what tells styles apart.
            with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
                self._styles[key] = make()
            while len(self._styles) > KEPT:
                del self._styles[next(iter(self._styles))]
        return self._styles[key]

    @torch.no_grad()
    def draw(self, face: Face, look: Look, *, landmarks: np.ndarray | None = None) -> Tensor:
        values = {**{control.name: control.default for control in self.controls}, **look}
        shares = self.generator.face_shares(values[SHAPE.name], strength=values[STRENGTH.name],
                                            color_strength=values.get(COLOR.name))
        w_plus = self.generator.blend(face.w_plus, self.style_w(look), shares=shares)
        return self.generator.synthesis(w_plus, noise=self.generator.fixed_noise(), feature_transforms=face.transforms())

    def graph(self) -> nn.Module:
        """Return the network with the default look's style as a constant."""
        self.prepare(self.default_look())
        return DrawGraph(self)


def save_blend(
    path: str | Path, generator: BlendGenerator, encoder: StyleEncoder, *, w_avg: Tensor, base: Mapping[str, str],
    training: Mapping[str, Any], photo_encoder: str = "starter", half: bool = False,
) -> None:
    """Write a blended style as one safetensors file with its config inside.

    Args:
        path: the file.
        generator, encoder: the trained networks.
        w_avg: [D] for truncation.
        base: {"name", "fingerprint"} of the generator it was trained from.
        training: JSON-ready facts of the training.
        photo_encoder: what ``checkpoints.features.load_encoder`` takes for the encoder of photos.
        half: store weights as float16.
    """
    tensors = {"w_avg": w_avg, **{f"g.{name}": tensor for name, tensor in generator.state_dict().items()},
               **{f"e.{name}": tensor for name, tensor in encoder.state_dict().items()}}
    config = {"kind": "style", "style_kind": BlendStyle.kind, "generator": generator.config.to_dict(),
              "style_encoder": encoder.config.to_dict(), "encoder": photo_encoder, "base": dict(base),
              "training": dict(training)}
    save_model(path, tensors, config, half=half)


def _style_encoder(what: str, state: Mapping[str, Tensor]) -> StyleEncoder:
    try:
        config = style_encoder_config_from_state(state)
    except (ValueError, IndexError) as error:
        raise CheckpointError(f"{what}: {error}; get the file again") from error
    return build_strict(lambda: StyleEncoder(config), state, what=what)


def _released_encoder(path: Path) -> StyleEncoder:
    """Return the style encoder of its own file, for a generator's file at ``path`` that does not hold it."""
    own = checkpoints_dir() / RELEASED_ENCODER
    if not own.is_file():
        raise CheckpointError(f"{path}: does not hold the style encoder; put {RELEASED_ENCODER} into {checkpoints_dir()}")
    state = read_torch(own)
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{own}: holds {describe_parts(state)}, but a style encoder is needed here; get the file again")
    check_state(str(own), state)
    return _style_encoder(str(own), state)
