"""Any picture as a style, without training for it (BlendGAN): its code is blended into a face row by row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from checkpoints.builders import Base, compute_w_avg
from checkpoints.features import load_painter
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
from data.random_drawings import random_drawing
from models.blending import FINE_ROW, BlendGenerator
from models.face import Face
from models.style_encoder import StyleEncoder, StyleEncoderConfig, style_encoder_config_from_state
from models.stylegan2 import GeneratorConfig, generator_config_from_state, layer_at
from pipeline.cli import report
from styles.controls import Control, FileValue, Look
from styles.difference import FORM, base_of_config
from styles.face_landmarks import FaceLandmarks
from styles.picture_look import PictureLook, PictureReader
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
# Sweeps take the first number.
CONTROLS = (IMAGE, STRENGTH, SHAPE, COLOR, SEED)
# A style that reads features from the picture: shape stays the face's own, and a second picture may be mixed in.
SECOND = Control("second_style_image", "another picture, mixed with the first", type="file", label="Second style picture")
SHARE = Control("second_share", "share of the second picture in the mixture", default=0.5, label="Share of the second picture")
DETAIL = Control("detail", "share of what a photo shows beyond its inversion; 0 leaves it out", default=0.75, high=1.0,
                 label="Detail of the photo")
FEATURE_CONTROLS = (IMAGE, STRENGTH, replace(SHAPE, default=float(FINE_ROW)), replace(COLOR, default=0.9), SECOND, SHARE, SEED,
                    DETAIL)

RELEASED_FILE, RELEASED_ENCODER = "blendgan.pt", "style_encoder.pt"
EMBEDDER = "embedder."
RANDOM_TRUNCATION = 0.7
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
        # With features the generator is the base itself, so latents and residuals found for that serve here too.
        known = config.get("base", {}).get("fingerprint") if config.get("features") else None
        self._base = Base(generator, None, w_avg, self.base_name, known or digest)
        self._styles: dict[tuple[str, Any], Any] = {}
        self.reader = PictureReader(generator, self.encoder_name) if config.get("features") else None

    @classmethod
    def known(cls, path: Path, config: Mapping[str, Any]) -> dict[str, Tensor]:
        return {f"g.{name}": tensor for name, tensor in base_of_config(path, config).generator.state_dict().items()}

    @classmethod
    def load(cls, path: Path, tensors: dict[str, Tensor], config: dict[str, Any], *, device: torch.device) -> BlendStyle:
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
        drawing = [load_painter().module.state_dict()] if config.get("features") else []
        digest = fingerprint(generator.state_dict(), encoder.state_dict(), *drawing)
        for network in (generator, encoder):
            network.requires_grad_(False).eval().to(device)
        return cls(generator, encoder, w_avg.to(device), config=config, name=path.stem, digest=digest)

    @classmethod
    def controls_of(cls, config: Mapping[str, Any], names: Sequence[str]) -> tuple[Control, ...]:
        return FEATURE_CONTROLS if config.get("features") else CONTROLS

    @property
    def controls(self) -> tuple[Control, ...]:
        return self.controls_of(self.config, ())

    @property
    def feed_forward(self) -> bool:
        """With features: their statistics are those of what the encoders give, and no others."""
        return self.reader is not None

    def random(self, z: Tensor, *, truncation_psi: float) -> Face:
        """Return random faces, with features as the encoders give them to the faces' pictures."""
        faces = super().random(z, truncation_psi=truncation_psi)
        if self.reader is None:
            return faces
        with torch.no_grad():
            if faces.photo is not None:
                return replace(self.reader.face(faces.photo_at(self.generator.config.size)), photo=faces.photo)
            images = self.generator.synthesis(faces.w_plus, noise=self.generator.fixed_noise()).clamp(-1.0, 1.0)
            return replace(self.reader.face(images), photo=images)

    @property
    def encoder_name(self) -> str:
        return self.config.get("encoder") or "psp"

    def prepare(self, look: Look) -> None:
        if self.reader is None:
            self.style_w(look)
        else:
            self.picture_look(look)

    def picture_look(self, look: Look) -> PictureLook:
        """Return what the pictures of a look give to features and rows; a line tells of one without a face.

        Where a look names none, a picture is drawn by its seed: a random face in a random look of ``data.looks``.

        Raises:
            ImageError: naming a picture that cannot be read.
            CheckpointError: for a seed that is no whole number of at least 0.
        """
        found: list[PictureLook] = []
        if look.get(IMAGE.name) is None:
            seed = _whole(look.get(SEED.name, 0))
            found.append(self._kept(("drawn", seed), lambda: self.reader.read(self.random_picture(seed))[0]))
        for control in (IMAGE, SECOND):
            picture = look.get(control.name)
            if picture is not None:
                picture = picture if isinstance(picture, FileValue) else _read(picture)
                found.append(self._kept(("look", picture.digest), lambda picture=picture: self._read_look(file_path(picture))))
        return found[0] if len(found) == 1 else found[0].mixed(found[1], look.get(SHARE.name, SHARE.default))

    def _read_look(self, path: Path) -> PictureLook:
        found, has_face = self.reader.read(read_image(path))
        if not has_face:
            report(f"{path}: no face found in the style picture; its colours and texture are taken where they are")
        return found

    def style_w(self, look: Look) -> Tensor:
        """Return w [1, D] of the style that a look asks for: of its picture, else of a random code of its seed.

        The picture is squeezed into a square, as the published code does.

        Raises:
            ImageError: naming a picture that cannot be read.
            CheckpointError: for a seed that is no whole number of at least 0.
        """
        picture = look.get(IMAGE.name)
        if picture is not None:
            picture = picture if isinstance(picture, FileValue) else _read(picture)
            return self._kept(("picture", picture.digest),
                              lambda: self.generator.map_style(self.encoder(self._picture(file_path(picture)))))
        seed = _whole(look.get(SEED.name, 0))
        return self._kept(("seed", seed), lambda: self.generator.map_style(self.random_code(seed)))

    def random_code(self, seed: int) -> Tensor:
        """Return a random style code [1, D], drawn on the CPU so that a seed means one style."""
        code = torch.randn(1, self.generator.config.style_dim, generator=torch.Generator().manual_seed(seed))
        return code.to(self.device)

    def random_picture(self, seed: int) -> Image.Image:
        """Return a face of the generator drawn in a random look, both by the seed."""
        with torch.no_grad():
            w = self.generator.mapping(self.random_code(seed), truncation_psi=RANDOM_TRUNCATION, w_avg=self.w_avg)
            image = self.generator.synthesis(self.generator.broadcast(w), noise=self.generator.fixed_noise()).clamp(-1.0, 1.0)
            points = self.reader.landmarks(image).points[0]
        drawn = random_drawing(image.cpu(), points.cpu().numpy(), seed=seed)
        return Image.fromarray((drawn * 255.0).round().astype(np.uint8))

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
        transforms, style, places = face.transforms(), None, None
        if self.reader is not None:
            style = self.picture_look(look)
            finder = FaceLandmarks(self.generator, self.reader.landmarks)
            shown = finder.shown(face.w_plus, face.residual)
            if style.places is not None:
                places = finder.points(shown) if landmarks is None else torch.from_numpy(np.asarray(landmarks)).to(style.places)
            layer = layer_at(self.reader.side)
            transforms[layer] = partial(_drawn, style=style, places=places, strength=values[STRENGTH.name],
                                        before=transforms.get(layer))
        w_plus = self.generator.blend(face.w_plus, self.style_w(look) if style is None else style.rows, shares=shares)
        image = self.generator.synthesis(w_plus, noise=self.generator.fixed_noise(), feature_transforms=transforms)
        if style is None:
            return image
        plain = shown
        if face.photo is not None:
            share = values[DETAIL.name]
            share = share.reshape(-1, 1, 1, 1) if isinstance(share, Tensor) else share
            detail = share * (face.photo_at(shown.shape[3]) - shown)
            image, plain = image + detail, shown + detail
        return style.finished(image, self.reader.painter.module, places=places, strength=values[STRENGTH.name],
                              colour=values.get(COLOR.name), plain=plain)

    def graph(self) -> nn.Module:
        """Return the network with the default look's style as a constant."""
        self.prepare(self.default_look())
        return DrawGraph(self)


def save_blend(
    path: str | Path, generator: BlendGenerator, encoder: StyleEncoder, *, w_avg: Tensor, base: Mapping[str, str],
    training: Mapping[str, Any], photo_encoder: str = "starter", half: bool = False, features: bool = False,
    shared: Mapping[str, Tensor] | None = None,
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
        features: let faces also take features from the style picture, by the encoders of photos.
        shared: state of the base; tensors that equal its are left out of the file, and taken from the base by its reader.
    """
    shared = shared or {}
    own = {name: tensor for name, tensor in generator.state_dict().items()
           if name not in shared or not torch.equal(shared[name].cpu(), tensor.cpu())}
    tensors = {"w_avg": w_avg, **{f"g.{name}": tensor for name, tensor in own.items()},
               **{f"e.{name}": tensor for name, tensor in encoder.state_dict().items()}}
    config = {"kind": "style", "style_kind": BlendStyle.kind, "generator": generator.config.to_dict(),
              "style_encoder": encoder.config.to_dict(), "encoder": photo_encoder, "base": dict(base),
              "training": dict(training), **({"features": True} if features else {}),
              **({"form": FORM} if shared else {})}
    save_model(path, tensors, config, half=half)


def _whole(seed: float) -> int:
    """Return the seed of a random style; raises CheckpointError for what is no seed."""
    if seed != int(seed) or not 0 <= seed < 2**63:
        raise CheckpointError(f"{SEED.option} {seed:g}: expected a whole number of at least 0")
    return int(seed)


def _read(path: str | Path) -> FileValue:
    """Return the value of a picture that a look names by its path."""
    read_image(path)  # says what is wrong with it
    return FileValue.read(path)


def _drawn(features: Tensor, *, style: PictureLook, places: Tensor | None, strength: float,
           before: Callable[[Tensor], Tensor] | None) -> Tensor:
    """Return features in the look of a picture, after what else is done to them."""
    return style.on(features if before is None else before(features), places=places, strength=strength)


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
