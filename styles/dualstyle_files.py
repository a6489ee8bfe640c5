"""What files of exemplar styles hold: the released ones and those of this project."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
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
from models.discriminator import Discriminator, DiscriminatorConfig
from models.exemplar_moves import SHAPE
from models.dualstylegan import FIRST_COLOR_ROW, CodeSampler, DualStyleGAN, sampler_rows
from models.stylegan2 import Generator, GeneratorConfig, generator_config_from_state
from models.tones import COUNT

RELEASED_FILE = "generator.pt"
SAMPLER_FILE = "sampler.pt"
ENCODER_FILE = "encoder.pt"
# The first of these that lies beside a released generator holds its exemplars.
CODE_FILES = ("refined_exstyle_code.npy", "exstyle_code.npy")
SPACES = ("z+", "w+")
# What exemplars show beside their codes, in files of this project.
SHOWN = ("thumbs", "tones", "points", "shape", "manner")
SAMPLER_PARTS = ("structure", "color")
# What the published command multiplies the rows of photos with.
PUBLISHED_TRUNCATION = 0.75
# Landmarks are kept as whole parts of the side, so many to one.
PLACES = 10_000


@dataclass(frozen=True)
class Gallery:
    """Exemplars by name.

    Attributes:
        names: of the exemplars.
        codes: their extrinsic rows [K, L, D].
        thumbs: small pictures [K, H, W, 3], uint8, or None.
        space: "z+" for codes that the generator's mapping still has to map, "w+" for rows of latents.
        tones: numbers [K, ``models.tones.COUNT``] of the portraits, or None; what they say by place the thumbs show.
        points: landmarks [K, 68, 2] of the portraits as fractions of the side, or None.
        shape: map from a portrait's landmarks to its deformation, see ``models.exemplar_moves``, or None.
        manner: how the portraits are drawn, codes [K, code] of ``models.painter``, or None.
    """

    names: tuple[str, ...]
    codes: Tensor
    thumbs: Tensor | None = None
    space: str = "z+"
    tones: Tensor | None = None
    points: Tensor | None = None
    shape: Tensor | None = None
    manner: Tensor | None = None


@dataclass(frozen=True)
class DualParts:
    """A whole exemplar style: network, mean latent [D], exemplars, samplers by ``SAMPLER_PARTS`` or none, and config."""

    network: DualStyleGAN
    w_avg: Tensor
    gallery: Gallery
    samplers: dict[str, CodeSampler]
    config: dict[str, Any]


def read_own(path: Path, tensors: dict[str, Tensor], config: dict[str, Any]) -> DualParts:
    """Return the style of a file of this project; a generator that it does not hold is the base that it names.

    Raises:
        CheckpointError: where something is missing or does not fit.
    """
    shape = read_config(path, config, "generator", GeneratorConfig.from_dict)
    w_avg = take_vector(path, tensors, "w_avg", shape.style_dim)
    codes = tensors.pop("codes", None)
    shown = {name: tensors.pop(name, None) for name in SHOWN}
    own = _part(tensors, "n.")
    if not any(name.startswith("generator.") for name in own):
        own |= {f"generator.{name}": tensor for name, tensor in _base_state(path, config).items()}
    network = build_strict(lambda: DualStyleGAN(Generator(shape)), own, what=f"{path}: part n")
    gallery = _gallery(path, config, codes, network, **shown)
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
    if parts.gallery.tones is not None:
        tensors |= {"tones": parts.gallery.tones, "points": (parts.gallery.points * PLACES).round().to(torch.int16)}
    if parts.gallery.shape is not None:
        tensors["shape"] = parts.gallery.shape.half().view(torch.int16)  # small files leave whole numbers as they are
    if parts.gallery.manner is not None:
        tensors["manner"] = parts.gallery.manner.half().view(torch.int16)
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
    tones: Tensor | None = None, points: Tensor | None = None, shape: Tensor | None = None, manner: Tensor | None = None,
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
    for name, tensor, wanted in (("tones", tones, [len(names), COUNT]), ("points", points, [len(names), 68, 2])):
        if tensor is not None and (list(tensor.shape) != wanted or thumbs is None):
            raise CheckpointError(f"{path}: misshapen {name}: got {list(tensor.shape)}, expected {wanted} beside thumbs; get "
                                  "the file again")
    if (tones is None) != (points is None) or (shape is not None and points is None):
        raise CheckpointError(f"{path}: holds only some of tones, points and shape; get the file again or train it anew")
    if shape is not None and (tuple(shape.shape) != SHAPE or shape.dtype != torch.int16):
        raise CheckpointError(f"{path}: misshapen shape: got {list(shape.shape)}, expected {list(SHAPE)}; get the file again")
    if manner is not None and (manner.ndim != 2 or len(manner) != len(names) or manner.dtype != torch.int16 or tones is None):
        raise CheckpointError(f"{path}: misshapen manner: got {list(manner.shape)}, expected a code for each of {len(names)} "
                              "exemplars beside tones; get the file again")
    return Gallery(tuple(names), codes, thumbs, space, None if tones is None else tones.float(),
                   None if points is None else points.float() / PLACES,
                   *(None if packed is None else packed.view(torch.float16).float() for packed in (shape, manner)))


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
