"""From files to base generators; encoders and feature extractors are in features.py, styles in the package ``styles``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from checkpoints.features import Encoder, landmarks_path, load_encoder, load_vit
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
from models.discriminator import Discriminator, DiscriminatorConfig
from models.stylegan2 import Generator, GeneratorConfig, generator_config_from_state

__all__ = ["Base", "Encoder", "checkpoints_dir", "compute_w_avg", "find_style", "landmarks_path", "load_base", "load_encoder",
           "load_starter_discriminator", "load_vit", "starter_dir", "style_names"]

OFFICIAL_BASE = "stylegan2-ffhq-config-f.pt"
W_AVG_SAMPLES = 4096


@dataclass(frozen=True)
class Base:
    """A generator of undeformed faces, its discriminator if asked for, w_avg [D], name and content digest."""

    generator: Generator
    discriminator: Discriminator | None
    w_avg: Tensor
    name: str
    fingerprint: str


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
