"""From files to networks: base generators and styles; encoders and feature extractors are in features.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from checkpoints.features import Encoder, landmarks_path, load_encoder, load_vit
from checkpoints.io import (
    CheckpointError, atomic_write, build_strict, check_finite, check_state, fingerprint, load_model, load_strict,
    read_config, read_torch, save_model, take_vector,
)
from checkpoints.official import check_official, describe_parts
from checkpoints.paths import checkpoints_dir, find_style, official_path, starter_dir, style_names
from models.deformable import DeformableGenerator, configs_from_published, generator_config_from_state
from models.discriminator import Discriminator, DiscriminatorConfig
from models.spatial_transformer import SpatialTransformerConfig
from models.stylegan2 import Generator, GeneratorConfig

__all__ = ["Base", "Encoder", "Style", "checkpoints_dir", "compute_w_avg", "export_published", "find_style",
           "landmarks_path", "load_base", "load_encoder", "load_starter_discriminator", "load_style", "load_vit",
           "save_style", "starter_dir", "style_names"]

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


@dataclass(frozen=True)
class Style:
    """A fine-tuned generator with its transformers, w_avg [D], config, name and content digest.

    ``target_latent`` [L, D] is the drawing's w_plus under the base; None in released files, which do not hold it.
    """

    deformable: DeformableGenerator
    w_avg: Tensor
    config: dict[str, Any]
    name: str
    fingerprint: str
    target_latent: Tensor | None = None


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


def save_style(
    path: str | Path, deformable: DeformableGenerator, *, w_avg: Tensor, base: Mapping[str, str],
    training: Mapping[str, Any], target_latent: Tensor | None = None,
) -> None:
    """Write a style as one safetensors file with its config inside.

    Args:
        path: the file.
        deformable: fine-tuned generator and transformers.
        w_avg: [D] for truncation.
        base: {"name", "fingerprint"} of the generator it was trained from.
        training: JSON-ready facts of the training.
        target_latent: w_plus [L, D] of the drawing, from which colours can be taken.
    """
    tensors = {"w_avg": w_avg, **_prefixed("g.", deformable.generator)}
    if target_latent is not None:
        tensors["target_latent"] = target_latent
    for prefix, part in (("stns.", deformable.tps), ("rtstn.", deformable.affine)):
        if part is not None:
            tensors |= _prefixed(prefix, part)
    config = {"kind": "style", "generator": deformable.generator.config.to_dict(),
              "transformers": asdict(deformable.config), "base": dict(base), "training": dict(training)}
    save_model(path, tensors, config)


def _prefixed(prefix: str, module: torch.nn.Module) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in module.state_dict().items()}


def export_published(path: str | Path, deformable: DeformableGenerator) -> None:
    """Write the published ``{g, stns, rtstn}`` file of a style, atomically."""
    try:
        state = deformable.published_state()
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}; keep the style's own file") from error
    for part, tensors in state.items():
        check_finite(f"{path}: part {part}", tensors)
    with atomic_write(path) as temporary:
        torch.save(state, temporary)


def load_style(name_or_path: str | Path, *, device: torch.device | str = "cpu") -> Style:
    """Load a style: one of this project's files, or a published ``{g, stns, rtstn}`` file.

    Raises:
        CheckpointError: if the file is absent, damaged or of another kind.
    """
    path = find_style(name_or_path)
    if path.suffix == ".safetensors":
        tensors, config = load_model(path, kind="style")
        latent = tensors.pop("target_latent", None)
        deformable, w_avg = _own_style(path, tensors, config)
        shape = deformable.generator.config
        if latent is not None and list(latent.shape) != [shape.n_latent, shape.style_dim]:
            raise CheckpointError(f"{path}: target_latent is {list(latent.shape)}, expected "
                                  f"{[shape.n_latent, shape.style_dim]}; train the style anew")
    else:
        latent = None
        deformable = _published_style(path)
        config = {"kind": "style", "generator": deformable.generator.config.to_dict(),
                  "transformers": asdict(deformable.config), "base": {}, "training": {}}
        w_avg = compute_w_avg(deformable.generator)
    deformable.requires_grad_(False).eval().to(device)
    latent = latent if latent is None else latent.float().to(device)
    return Style(deformable, w_avg.to(device), config, path.stem, fingerprint(deformable.state_dict()), latent)


def _own_style(
    path: Path, tensors: dict[str, Tensor], config: Mapping[str, Any]
) -> tuple[DeformableGenerator, Tensor]:
    generator_config = read_config(path, config, "generator", GeneratorConfig.from_dict)
    transformers = read_config(path, config, "transformers", lambda values: SpatialTransformerConfig(**values))
    w_avg = take_vector(path, tensors, "w_avg", generator_config.style_dim)
    own = {name.removeprefix("g."): tensor for name, tensor in tensors.items() if name.startswith("g.")}
    generator = build_strict(lambda: Generator(generator_config), own, what=f"{path}: part g")
    deformable = _deform(path, generator, transformers)
    parts = {"stns.": deformable.tps, "rtstn.": deformable.affine}
    known = tuple(prefix for prefix, module in parts.items() if module is not None)
    strange = [name for name in tensors if not name.startswith(("g.", *known))]
    if strange:
        raise CheckpointError(f"{path}: does not fit: unexpected {', '.join(strange[:3])}; train the style anew")
    for prefix in known:
        own = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        load_strict(parts[prefix], own, what=f"{path}: part {prefix[:-1]}")
    return deformable, w_avg


def _deform(path: Path, generator: Generator, transformers: SpatialTransformerConfig) -> DeformableGenerator:
    try:
        return DeformableGenerator(generator, transformers)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}; get the file again or train the style anew") from error


def _published_style(path: Path) -> DeformableGenerator:
    state = read_torch(path)
    if not isinstance(state, Mapping) or set(state) != {"g", "stns", "rtstn"}:
        raise CheckpointError(f"{path}: holds {describe_parts(state)}, but a style (g, stns, rtstn) is needed here; name a "
                              "style file")
    check_official(path, "styleN.pt", state, exact=False)
    for part, tensors in state.items():
        check_state(f"{path}: part {part}", tensors)
        check_finite(f"{path}: part {part}", tensors)
    try:
        generator_config, transformer_config = configs_from_published(state)
    except (ValueError, KeyError, IndexError) as error:
        raise CheckpointError(f"{path}: {' '.join(str(error).split())}; get the file again") from error
    generator = build_strict(lambda: Generator(generator_config), state["g"], what=f"{path}: part g")
    deformable = _deform(path, generator, transformer_config)
    for part, module in (("stns", deformable.tps), ("rtstn", deformable.affine)):
        load_strict(module, state[part], what=f"{path}: part {part}")
    return deformable
