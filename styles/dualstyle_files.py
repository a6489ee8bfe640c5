"""What files of exemplar styles hold: the released ones and those of this project."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from checkpoints.builders import compute_w_avg, load_base
from checkpoints.codes import read_codes
from checkpoints.io import (
    CheckpointError,
    build_strict,
    check_finite,
    check_fit,
    check_network,
    check_state,
    read_config,
    read_torch,
    take_vector,
)
from checkpoints.official import check_official, describe_parts, recognise
from data.images import to_pil
from drawing.pyramids import resized
from models.discriminator import Discriminator, DiscriminatorConfig
from models.dualstylegan import FIRST_COLOR_ROW, CodeSampler, DualStyleGAN, sampler_rows
from models.stylegan2 import Generator, GeneratorConfig, generator_config_from_state

RELEASED_FILE = "generator.pt"
SAMPLER_FILE = "sampler.pt"
ENCODER_FILE = "encoder.pt"
# The first of these that lies beside a released generator holds its exemplars.
CODE_FILES = ("refined_exstyle_code.npy", "exstyle_code.npy")
SPACES = ("z+", "w+")
SAMPLER_PARTS = ("structure", "color")
# What the published command multiplies the rows of photos with.
PUBLISHED_TRUNCATION = 0.75
# Names of portraits in files, quality of their JPEGs, and side in px of small pictures.
PORTRAIT, QUALITY, THUMB = "portrait.", 88, 64


@dataclass(frozen=True)
class Gallery:
    """Exemplars by name.

    Attributes:
        names: of the exemplars.
        codes: their extrinsic rows [K, L, D].
        thumbs: small pictures [K, H, W, 3], uint8, or None.
        space: "z+" for codes that the generator's mapping still has to map, "w+" for rows of latents.
        portraits: aligned portraits as JPEG files, uint8 [bytes] each, by which photos are drawn; none in released files.
    """

    names: tuple[str, ...]
    codes: Tensor
    thumbs: Tensor | None = None
    space: str = "z+"
    portraits: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class DualParts:
    """A whole exemplar style: network, mean latent [D], exemplars, samplers by ``SAMPLER_PARTS`` or none, and config."""

    network: DualStyleGAN
    w_avg: Tensor
    gallery: Gallery
    samplers: dict[str, CodeSampler]
    config: dict[str, Any]


def gallery_of(names: Sequence[str], codes: Tensor, portraits: Tensor, *, drawn: bool) -> Gallery:
    """Return a gallery in w+.

    Args:
        names: of the exemplars.
        codes: their rows [K, L, D].
        portraits: [K, 3, S, S] in [-1, 1].
        drawn: keep the portraits, so that photos are drawn by them.
    """
    thumbs = resized(portraits, (THUMB, THUMB)).clamp(-1.0, 1.0)
    thumbs = ((thumbs + 1.0) * 127.5).round().byte().permute(0, 2, 3, 1)  # [K, 3, H, W] -> [K, H, W, 3]
    kept = tuple(_jpeg(portrait) for portrait in portraits) if drawn else ()
    return Gallery(tuple(names), codes, thumbs.contiguous(), "w+", kept)


def _jpeg(portrait: Tensor) -> Tensor:
    """Return an image [3, S, S] as a JPEG file, uint8 [bytes]."""
    data = BytesIO()
    to_pil(portrait).save(data, "JPEG", quality=QUALITY, subsampling=0)
    return torch.frombuffer(bytearray(data.getvalue()), dtype=torch.uint8)


def read_own(path: Path, tensors: dict[str, Tensor], config: dict[str, Any]) -> DualParts:
    """Return the style of a file of this project; a generator that it does not hold is the base that it names.

    Raises:
        CheckpointError: where something is missing or does not fit.
    """
    shape = read_config(path, config, "generator", GeneratorConfig.from_dict)
    w_avg = take_vector(path, tensors, "w_avg", shape.style_dim)
    codes = tensors.pop("codes", None)
    thumbs = tensors.pop("thumbs", None)
    portraits = tuple(tensors.pop(f"{PORTRAIT}{index}") for index in range(sum(name.startswith(PORTRAIT) for name in tensors))
                      if f"{PORTRAIT}{index}" in tensors)
    own = _part(tensors, "n.")
    if not any(name.startswith("generator.") for name in own):
        own |= {f"generator.{name}": tensor for name, tensor in _base_state(path, config).items()}
    network = build_strict(lambda: DualStyleGAN(Generator(shape)), own, what=f"{path}: part n")
    gallery = _gallery(path, config, codes, network, thumbs=thumbs, portraits=portraits)
    samplers = _samplers(path, {name: _part(tensors, f"{name}.") for name in SAMPLER_PARTS}, network)
    strange = [name for name in tensors if not name.startswith(("n.", *(f"{name}." for name in SAMPLER_PARTS)))]
    if strange:
        raise CheckpointError(f"{path}: does not fit: unexpected {', '.join(strange[:3])}; train the style anew")
    return DualParts(network, w_avg, gallery, samplers, config)


def read_released(path: Path, state: Mapping[str, Any], *, style_kind: str) -> DualParts:
    """Return the style of a released generator with the codes and the sampler that lie beside it.

    Raises:
        CheckpointError: where a file does not fit.
    """
    check_official(path, RELEASED_FILE, {"g_ema": state["g_ema"]}, exact=False)
    check_state(f"{path}: part g_ema", state["g_ema"])
    try:
        shape = generator_config_from_state(_part(state["g_ema"], "generator."))
    except (ValueError, IndexError) as error:
        raise CheckpointError(f"{path}: part g_ema: {error}; get the file again") from error
    network = build_strict(lambda: DualStyleGAN(Generator(shape)), state["g_ema"], what=f"{path}: part g_ema")
    if "g" in state:  # the pretrained file holds the network twice, and its discriminator
        check_fit(network, state["g"], what=f"{path}: part g")
    if "d" in state:
        critic = DiscriminatorConfig(shape.size, shape.channels)
        check_network(lambda: Discriminator(critic), state["d"], what=f"{path}: part d")
    codes = released_codes(path)
    stacked = torch.stack(list(codes.values())) if codes else torch.empty(0, network.n_latent, shape.style_dim)
    config = {"kind": "style", "style_kind": style_kind, "generator": shape.to_dict(), "exemplars": list(codes), "codes": "z+",
              "truncation": PUBLISHED_TRUNCATION, "base": {"name": "official"}, "training": {}}
    gallery = _gallery(path, config, stacked, network)
    samplers: dict[str, CodeSampler] = {}
    beside = path.with_name(SAMPLER_FILE)
    if beside.is_file():
        found = read_torch(beside)
        if recognise(found) != "dual-sampler":
            raise CheckpointError(f"{beside}: holds {describe_parts(found)}, but the sampler of {path.name} is needed here; "
                                  "get the file again")
        samplers = _samplers(beside, found, network)
    return DualParts(network, compute_w_avg(network.generator), gallery, samplers, config)


def released_codes(path: Path) -> dict[str, Tensor]:
    """Return the codes [L, D] of the exemplars that lie beside a released generator, none where there is no file of them."""
    found = next((path.with_name(name) for name in CODE_FILES if path.with_name(name).is_file()), None)
    return {} if found is None else read_codes(found)


def own_tensors(parts: DualParts, *, with_generator: bool) -> dict[str, Tensor]:
    """Return the tensors of a file of this project.

    Args:
        parts: the style.
        with_generator: hold the generator too, where it is no base that every reader has.
    """
    tensors = {"w_avg": parts.w_avg, "codes": parts.gallery.codes}
    if parts.gallery.thumbs is not None:
        tensors["thumbs"] = parts.gallery.thumbs
    tensors |= {f"{PORTRAIT}{index}": data for index, data in enumerate(parts.gallery.portraits)}
    for name, tensor in parts.network.state_dict().items():
        if with_generator or not name.startswith("generator."):
            tensors[f"n.{name}"] = tensor
    for name, sampler in parts.samplers.items():
        tensors |= {f"{name}.{key}": tensor for key, tensor in sampler.state_dict().items()}
    return tensors


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _base_state(path: Path, config: Mapping[str, Any]) -> Mapping[str, Tensor]:
    named = config.get("base") or {}
    base = load_base(named.get("name") or "starter")
    if named.get("fingerprint") != base.fingerprint:
        raise CheckpointError(f"{path}: was trained from another {base.name} than the one here; get the weights it was "
                              "trained from, or train it anew")
    return base.generator.state_dict()


def _gallery(
    path: Path, config: Mapping[str, Any], codes: Tensor | None, network: DualStyleGAN, *, thumbs: Tensor | None = None,
    portraits: tuple[Tensor, ...] = (),
) -> Gallery:
    """Return the exemplars, checked against each other and the network."""
    names: Sequence[str] = config.get("exemplars") or ()
    rows, space = [network.n_latent, network.generator.config.style_dim], config.get("codes")
    if codes is None or list(codes.shape) != [len(names), *rows]:
        got = "none" if codes is None else list(codes.shape)
        raise CheckpointError(f"{path}: misshapen codes: got {got}, expected {[len(names), *rows]}; get the file again")
    if space not in SPACES or len(set(names)) != len(names) or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{path}: its config does not describe its exemplars; get the file again or train it anew")
    if thumbs is not None and (thumbs.dtype != torch.uint8 or thumbs.ndim != 4 or len(thumbs) != len(names)
                               or thumbs.shape[3] != 3):
        raise CheckpointError(f"{path}: misshapen thumbs: got {list(thumbs.shape)}, expected [{len(names)}, H, W, 3]; get "
                              "the file again")
    if portraits and (len(portraits) != len(names) or any(data.dtype != torch.uint8 or data.ndim != 1 for data in portraits)):
        raise CheckpointError(f"{path}: misshapen portraits: got {len(portraits)} for {len(names)} exemplars; get the file again")
    return Gallery(tuple(names), codes, thumbs, space, portraits)


def _samplers(path: Path, parts: Mapping[str, Any], network: DualStyleGAN) -> dict[str, CodeSampler]:
    """Return the samplers of structure and colours, or none where there are no parts."""
    if not any(parts.values()):
        return {}
    counts = {"structure": FIRST_COLOR_ROW, "color": network.n_latent - FIRST_COLOR_ROW}
    dim, found = network.generator.config.style_dim, {}
    for name, count in counts.items():
        check_state(f"{path}: part {name}", parts[name])
        try:
            rows = sampler_rows(parts[name], style_dim=dim)
        except ValueError as error:
            raise CheckpointError(f"{path}: part {name}: {error}; get the file again") from error
        if rows != count:
            raise CheckpointError(f"{path}: part {name} makes {rows} rows, expected {count}; get the file again")
        check_finite(f"{path}: part {name}", parts[name])
        found[name] = build_strict(partial(CodeSampler, count, style_dim=dim), parts[name], what=f"{path}: part {name}")
    return found
