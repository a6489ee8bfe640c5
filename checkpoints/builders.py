"""From files to base generators; encoders and feature extractors are in features.py, styles in the package ``styles``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from checkpoints.features import KNOWN, Encoder, landmarks_path, load_encoder, load_network, load_vit
from checkpoints.io import (
    CheckpointError,
    build_strict,
    check_state,
    fingerprint,
    load_model,
    read_config,
    read_torch,
    take_vector,
)
from checkpoints.nvidia import read_nvidia
from checkpoints.official import check_official, describe_parts
from checkpoints.paths import checkpoints_dir, find_style, official_path, starter_dir, style_names
from models.decoder import Decoder, enlarged, no_sketch
from models.discriminator import Discriminator, DiscriminatorConfig
from models.face import Face
from models.face_prior import FacePrior
from models.residual_encoder import ResidualEncoder
from models.stylegan2 import Generator, GeneratorConfig, generator_config_from_state

__all__ = ["Base", "Encoder", "checkpoints_dir", "compute_w_avg", "find_style", "landmarks_path", "load_base", "load_encoder",
           "load_starter_discriminator", "load_vit", "starter_dir", "style_names"]

OFFICIAL_BASE = "stylegan2-ffhq-config-f.pt"
W_AVG_SAMPLES = 4096


@dataclass(frozen=True)
class Base:
    """A generator of undeformed faces, its discriminator if asked for, w_avg [D], name and content digest.

    What else was trained for it lies beside its file and is loaded when first asked for: each is None where there is no file,
    or one of another generator.
    """

    generator: Generator
    discriminator: Discriminator | None
    w_avg: Tensor
    name: str
    fingerprint: str

    @cached_property
    def prior(self) -> FacePrior | None:
        """Draws rows and sketches of random faces in place of the mapping network."""
        return self._beside("prior")

    @cached_property
    def decoder(self) -> Decoder | None:
        """Draws photos of twice the side."""
        return self._beside("decoder")

    @cached_property
    def residual(self) -> ResidualEncoder | None:
        """Finds what photos show beyond their rows."""
        return self._beside("residual")

    def _beside(self, kind: str) -> Any:
        path = folder_of(self.name) / KNOWN[kind].file
        found = load_network(kind, path, device=self.w_avg.device) if path.is_file() else None
        return found.module if found is not None and found.generator == self.fingerprint else None

    @torch.no_grad()
    def random(self, z: Tensor, *, truncation_psi: float) -> Face:
        """Return random faces of z [N, style_dim], brought towards the mean face by psi.

        With a prior a face has a photo, which the decoder draws from rows and sketch, and the residual of that photo, so that
        it is drawn as an inverted photo is. Without one it has rows alone, by the mapping network.

        Raises:
            ValueError: for a wrong shape.
        """
        z, generator = z.to(self.w_avg.device), self.generator
        if self.prior is None:
            return Face(generator.broadcast(generator.mapping(z, truncation_psi=truncation_psi, w_avg=self.w_avg)))
        return self.sketched(self.prior.rows(z, truncation_psi=truncation_psi), z, truncation_psi=truncation_psi)

    @torch.no_grad()
    def sketched(self, w_plus: Tensor, z: Tensor, *, truncation_psi: float) -> Face:
        """Return the faces of rows [N, L, D] with the sketches that the prior draws of z [N, D], as photos where there is a
        decoder."""
        generator = self.generator
        if self.prior is None or self.decoder is None:
            return Face(w_plus)
        noise, side = generator.fixed_noise(), self.residual.config.resolution if self.residual else 4
        half = generator.halfway(w_plus, noise=noise, resolution=side)
        image = generator.finish(half, w_plus, noise=noise, resolution=side)
        photo = self.decoder(image, self.prior.sketch(z, image, truncation_psi=truncation_psi)).clamp(-1.0, 1.0)
        if self.residual is None:
            return Face(w_plus, photo=photo)
        seen = F.interpolate(photo, size=(self.residual.config.input_size,) * 2, mode="area")
        return Face(w_plus, self.residual(seen, half.features, w_plus).float(), photo=photo)

    @torch.no_grad()
    def enlarge(self, image: Tensor) -> Tensor:
        """Return images [N, 3, S, S] in [-1, 1] of this generator at twice the side: by the decoder, or bicubic without one."""
        if self.decoder is None:
            return enlarged(image).clamp(-1.0, 1.0)
        return self.decoder(image, no_sketch(len(image), image)).clamp(-1.0, 1.0)


def folder_of(name: str) -> Path:
    """Return the folder in which the file of a base called ``name`` lies, and what else was trained for it."""
    return starter_dir() if name == "starter" else Path(name).parent


def has_prior(name: str) -> bool:
    """Tell without loading the base called ``name`` whether a prior of random faces lies beside it."""
    return (folder_of(name) / KNOWN["prior"].file).is_file()


def compute_w_avg(generator: Generator) -> Tensor:
    """Return the mean w [D] over 4096 z of a fixed seed."""
    return generator.mean_w(W_AVG_SAMPLES, generator=torch.Generator().manual_seed(0))


def load_base(
    name_or_path: str | Path = "starter", *, device: torch.device | str = "cpu", with_discriminator: bool = False
) -> Base:
    """Load a base generator: "starter", "official" or a file of either form.

    Raises:
        CheckpointError: if the file is absent, damaged or of another kind.
    """
    text = str(name_or_path)
    path = starter_dir() / "generator.safetensors" if text == "starter" else official_path(text, OFFICIAL_BASE)
    if path.suffix == ".safetensors":
        tensors, config = load_model(path, kind="generator")
        generator_config = read_config(path, config, "generator", GeneratorConfig.from_dict)
        w_avg = take_vector(path, tensors, "w_avg", generator_config.style_dim)
        generator = build_strict(lambda: Generator(generator_config), tensors, what=str(path))
        discriminator = load_starter_discriminator(path.parent) if with_discriminator else None
    elif path.suffix == ".pkl":
        generator, discriminator, w_avg = _nvidia_base(path, with_discriminator)
    else:
        generator, discriminator, w_avg = _official_base(path, with_discriminator)
    generator.requires_grad_(False).eval().to(device)
    if discriminator is not None:
        discriminator.to(device)
    digest = fingerprint(generator.state_dict())
    return Base(generator, discriminator, w_avg.to(device), text, digest)


def load_starter_discriminator(folder: Path) -> Discriminator:
    """Load the discriminator that lies beside a starter generator."""
    path = folder / "discriminator.safetensors"
    if not path.is_file():
        raise CheckpointError(f"{path}: not found, and training needs it; import a file that holds a discriminator (D) too")
    tensors, config = load_model(path, kind="discriminator")
    found = read_config(path, config, "discriminator", DiscriminatorConfig.from_dict)
    return build_strict(lambda: Discriminator(found), tensors, what=str(path))


def _nvidia_base(path: Path, with_discriminator: bool) -> tuple[Generator, Discriminator | None, Tensor]:
    """Read a network pickle of stylegan2-ada-pytorch as data."""
    made, critic = read_nvidia(path)
    if with_discriminator and critic is None:
        raise CheckpointError(f"{path}: holds no discriminator D, which is needed here; use a pickle with one")
    generator = build_strict(lambda: Generator(made.config), made.state, what=f"{path}: part G_ema")
    discriminator = None
    if with_discriminator:
        discriminator = build_strict(lambda: Discriminator(critic.config), critic.state, what=f"{path}: part D")
    return generator, discriminator, made.w_avg.float()


def _official_base(path: Path, with_discriminator: bool) -> tuple[Generator, Discriminator | None, Tensor]:
    state = read_torch(path)
    needed = {"g_ema", "d"} if with_discriminator else {"g_ema"}
    if not isinstance(state, Mapping) or not needed <= set(state):
        raise CheckpointError(f"{path}: holds {describe_parts(state)}, but a base generator ({' and '.join(sorted(needed))})"
                              f" is needed here; use {OFFICIAL_BASE}")
    check_official(path, OFFICIAL_BASE, {part: state[part] for part in ("g_ema", "d") if part in state}, exact=False)
    check_state(f"{path}: part g_ema", state["g_ema"])
    try:
        config = generator_config_from_state(state["g_ema"])
    except (ValueError, IndexError) as error:
        raise CheckpointError(f"{path}: part g_ema: {error}; get the file again") from error
    generator = build_strict(lambda: Generator(config), state["g_ema"], what=f"{path}: part g_ema")
    discriminator = None
    if with_discriminator:
        discriminator = build_strict(lambda: Discriminator(DiscriminatorConfig(config.size, config.channels)),
                                     state["d"], what=f"{path}: part d")
    if "latent_avg" in state:
        w_avg = take_vector(path, {"latent_avg": state["latent_avg"]}, "latent_avg", config.style_dim)
    else:
        w_avg = compute_w_avg(generator)
    return generator, discriminator, w_avg
