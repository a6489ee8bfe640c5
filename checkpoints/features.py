"""From files to networks that look at images: encoders, vision transformers, landmark finders and the identity network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from checkpoints.io import (
    CheckpointError,
    build_strict,
    check_file,
    check_finite,
    check_network,
    check_state,
    fingerprint,
    has_config,
    load_model,
    read_config,
    read_torch,
)
from checkpoints.official import describe_parts, options_of, recognise
from checkpoints.packed import PACKED, unpack_half
from checkpoints.paths import OFFICIAL_VITS, checkpoints_dir, official_path, starter_dir
from models.config import Config
from models.decoder import Decoder, DecoderConfig
from models.dino import DinoFeatures, ViTConfig, clean_vit_state, vit_from_hub, vit_from_state
from models.e4e import E4EConfig, E4EEncoder
from models.face_id import FaceIdConfig, FaceIdNet
from models.face_prior import FacePrior, FacePriorConfig
from models.landmarks import LandmarkConfig, LandmarkNet
from models.parts import PartsConfig, PartsNetwork
from models.psp import PSPEncoder
from models.published_features import ArcFace, VGGMaps, vgg_part
from models.residual_encoder import ResidualEncoder, ResidualEncoderConfig
from models.squeezenet import SqueezeNetFeatures
from models.stylegan2 import Generator, GeneratorConfig, generator_config_from_state

OFFICIAL_ENCODER = "e4e_ffhq_encode.pt"
OFFICIAL_PSP = "psp_encoder.pt"
# Networks by the name that files of this project carry in their config.
ENCODERS = {"e4e": E4EEncoder, "psp": PSPEncoder}
OFFICIAL_ARCFACE, OFFICIAL_VGG19 = "model_ir_se50.pth", "vgg19-dcbb9e9d.pth"
OFFICIAL_LANDMARKS = "shape_predictor_68_face_landmarks.dat"


@dataclass(frozen=True)
class Encoder:
    """An e4e or pSp encoder, the mean latent [L, D] that its codes are added to, its input side and content digest."""

    module: E4EEncoder
    latent_avg: Tensor
    input_size: int
    fingerprint: str


def load_encoder(name_or_path: str | Path = "starter", *, device: torch.device | str = "cpu") -> Encoder:
    """Load an encoder of photos: "starter", "official" (e4e), "psp" (pSp's released file) or a file of any form.

    Raises:
        CheckpointError: if the file is absent, damaged or of another kind.
    """
    text = str(name_or_path)
    path = starter_dir() / "encoder.safetensors" if text == "starter" else official_path(text, OFFICIAL_ENCODER)
    path = checkpoints_dir() / OFFICIAL_PSP if text == "psp" else path
    if path.suffix == ".safetensors":
        tensors, config = load_model(path, kind="encoder")
        encoder_config = read_config(path, config, "encoder", E4EConfig.from_dict)
        latent_avg = latent_avg_of(path, tensors.pop("latent_avg", None), encoder_config)
        network = read_config(path, config, "network", ENCODERS.__getitem__) if "network" in config else E4EEncoder
        module = build_strict(lambda: network(encoder_config), tensors, what=str(path))
    else:
        module, latent_avg = _official_encoder(path)
    module.requires_grad_(False).eval().to(device, memory_format=torch.channels_last)
    return Encoder(module, latent_avg.to(device), module.config.input_size, fingerprint(module.state_dict()))


def _official_encoder(path: Path) -> tuple[E4EEncoder, Tensor]:
    state = read_torch(path)
    kind = recognise(state)
    if kind not in ("encoder", "psp"):
        raise CheckpointError(f"{path}: holds {describe_parts(state)}, but an encoder (state_dict, latent_avg, and opts for "
                              f"e4e) is needed here; use {OFFICIAL_ENCODER} or {OFFICIAL_PSP}")
    parts = split_encoder(path, state)
    config = encoder_config_of(path, state)
    network = PSPEncoder if kind == "psp" else E4EEncoder
    module = build_strict(lambda: network(config), parts["encoder"], what=f"{path}: part encoder")
    return module, latent_avg_of(path, state["latent_avg"], config)


def encoder_config_of(path: Path, state: Mapping[str, Any]) -> E4EConfig:
    """Read the number of rows of an encoder's file from its options, or from the mean latent where it has none.

    Raises:
        CheckpointError: where they make no sense.
    """
    opts, average = options_of(state), state["latent_avg"]
    if not opts and isinstance(average, Tensor) and average.ndim >= 2:
        return E4EConfig(n_styles=average.shape[-2])
    size = opts.get("stylegan_size") or opts.get("output_size") or 1024
    try:
        return E4EConfig(n_styles=GeneratorConfig.official(int(size)).n_latent)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: opts name the size {size!r}, not one of a generator; use {OFFICIAL_ENCODER}"
                              ) from error


def split_encoder(path: Path, state: Mapping[str, Any]) -> dict[str, dict[str, Tensor]]:
    """Part the state dict of an e4e or pSp file into encoder and decoder, and check that the decoder is a generator.

    Raises:
        CheckpointError: naming the keys that do not belong.
    """
    # Some pSp files have the networks beside the mean latent, without a state dict of their own.
    networks = state.get("state_dict", {key: value for key, value in state.items() if key not in ("latent_avg", "opts")})
    check_state(f"{path}: part state_dict", networks)
    parts: dict[str, dict[str, Tensor]] = {"encoder": {}, "decoder": {}}
    for key, tensor in networks.items():
        part, _, name = key.partition(".")
        if part not in parts:
            raise CheckpointError(f"{path}: does not fit: unexpected {key}; use {OFFICIAL_ENCODER}")
        parts[part][name] = tensor
    if parts["decoder"]:
        try:
            config = generator_config_from_state(parts["decoder"])
        except (ValueError, IndexError) as error:
            raise CheckpointError(f"{path}: part decoder: {error}; use {OFFICIAL_ENCODER}") from error
        check_network(lambda: Generator(config), parts["decoder"], what=f"{path}: part decoder")
    return parts


def latent_avg_of(path: Path, value: object, config: E4EConfig) -> Tensor:
    """Return the mean latent [L, D] from a file's [D], [L, D] or [1, L, D]."""
    rows, width = config.n_styles, config.style_dim
    if isinstance(value, Tensor) and value.numel() in (width, rows * width) and value.shape[-1:] == (width,):
        check_finite(path, {"latent_avg": value})
        return value.float().reshape(-1, width).expand(rows, width).contiguous()
    got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
    raise CheckpointError(f"{path}: misshapen latent_avg: got {got}, expected [{rows}, {width}]; get the file again")


def load_vit(
    name_or_path: str | Path = "starter", *, device: torch.device | str = "cpu", image_size: int | None = None
) -> DinoFeatures:
    """Load DINO features: "starter", "hub" (timm's), "official" (a local dino_vitb8 file, else the hub) or a file.

    Args:
        name_or_path: which weights.
        device: where they go.
        image_size: input side in px; position embeddings are resampled where it is not the one of the weights.

    Raises:
        CheckpointError: if the weights cannot be had or do not fit.
    """
    text = str(name_or_path)
    path = starter_dir() / "vit.safetensors" if text == "starter" else Path(text)
    if text == "official":
        local = [checkpoints_dir() / name for name in OFFICIAL_VITS if (checkpoints_dir() / name).is_file()]
        text, path = (str(local[0]), local[0]) if local else ("hub", path)
    try:
        # Networks of timm draw their first values from the global random numbers; callers must not notice.
        with torch.random.fork_rng(devices=[]):
            if text == "hub":
                vit, config = vit_from_hub(**({"img_size": image_size} if image_size else {}))
            else:
                state, config = vit_state(path)
                if config is not None and image_size:
                    config = replace(config, img_size=image_size)
                vit, config = vit_from_state(state, config=config, img_size=image_size)
        return DinoFeatures(vit, config.img_size).to(device)
    except CheckpointError:
        raise
    except (ValueError, OSError, RuntimeError, KeyError, IndexError, AttributeError) as error:
        raise CheckpointError(f"{text}: {' '.join(str(error).split())[:300]}; use the weights of a vision transformer"
                              ) from error


def vit_state(path: Path) -> tuple[Mapping[str, Any], ViTConfig | None]:
    """Read a transformer's weights and, from a file of this project, its config."""
    if path.suffix != ".safetensors":
        state = read_torch(path)
        if not isinstance(state, Mapping):
            raise CheckpointError(f"{path}: holds {describe_parts(state)}, not the weights of a vision transformer")
        state = clean_vit_state(state)
        check_finite(path, state)
        return state, None
    check_file(path)
    if has_config(path):
        tensors, config = load_model(path, kind="vit")
        return tensors, read_config(path, config, "vit", ViTConfig.from_dict)
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not an intact safetensors file ({error}); get it again") from error
    check_finite(path, state)
    return state, None


class Known(NamedTuple):
    """A kind of network: its file in the starter, its class, its settings where it has some, and whether channels lie last."""

    file: str
    network: Callable[..., nn.Module]
    config: type[Config] | None
    channels_last: bool = True


KNOWN = {
    "residual": Known("residual.safetensors", ResidualEncoder, ResidualEncoderConfig),
    "prior": Known("prior.safetensors", FacePrior, FacePriorConfig, channels_last=False),
    "decoder": Known("decoder.safetensors", Decoder, DecoderConfig),
    "landmarks": Known("landmarks_net.safetensors", LandmarkNet, LandmarkConfig, channels_last=False),
    "face_id": Known("face_id.safetensors", FaceIdNet, FaceIdConfig, channels_last=False),
    "squeezenet": Known("squeezenet.safetensors", SqueezeNetFeatures, None),
    "parts": Known("parts.safetensors", PartsNetwork, PartsConfig),
}


@dataclass(frozen=True)
class Frozen:
    """A network that is not trained further, and the digest of the generator that it belongs to, empty for none."""

    module: Any
    generator: str = ""

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the weights."""
        return fingerprint(self.module.state_dict())


def load_network(kind: str, name_or_path: str | Path = "starter", *, device: torch.device | str = "cpu") -> Frozen:
    """Load a network of a kind of ``KNOWN``: "starter" or a file.

    Raises:
        CheckpointError: if the file is absent, damaged or of another kind.
    """
    known = KNOWN[kind]
    path = starter_dir() / known.file if str(name_or_path) == "starter" else Path(name_or_path)
    tensors, config = load_model(path, kind=kind)
    shape = () if known.config is None else (read_config(path, config, kind, known.config.from_dict),)
    if kind == "face_id":
        with torch.device("meta"):
            shapes = FaceIdNet(*shape).state_dict()
        tensors = unpack_half(path, tensors.get(PACKED), shapes)
    module = build_strict(lambda: known.network(*shape), tensors, what=str(path)).requires_grad_(False).eval().to(device)
    if known.channels_last:
        module.to(memory_format=torch.channels_last)
    return Frozen(module, str(config.get("generator", "")))


load_residual_encoder = partial(load_network, "residual")
load_landmark_net = partial(load_network, "landmarks")
load_face_id = partial(load_network, "face_id")


def load_squeezenet(*, device: torch.device | str = "cpu") -> SqueezeNetFeatures:
    """Load the starter's feature network of perceptual distances."""
    return load_network("squeezenet", device=device).module


def load_parts(*, device: torch.device | str = "cpu") -> PartsNetwork:
    """Load the starter's network that tells skin, background, hair and the rest of pictures apart."""
    return load_network("parts", device=device).module


def load_published(kind: str, *, device: torch.device | str = "cpu") -> ArcFace | VGGMaps | None:
    """Load "arcface" or the maps of "vgg19" from the released file in ``checkpoints/``, frozen; None where there is none.

    Raises:
        CheckpointError: if the file is damaged or of another kind.
    """
    file, network = {"arcface": (OFFICIAL_ARCFACE, ArcFace), "vgg19": (OFFICIAL_VGG19, VGGMaps)}[kind]
    path = checkpoints_dir() / file
    if not path.is_file():
        return None
    state = read_torch(path)
    if recognise(state) != kind:
        raise CheckpointError(f"{path}: holds {describe_parts(state)}, which is another kind of file; get the right one")
    module = build_strict(network, vgg_part(state) if kind == "vgg19" else state, what=str(path))
    return module.requires_grad_(False).eval().to(device)


def landmarks_path() -> Path:
    """Return the 68-point predictor: the official file where it is present, else the starter's.

    Raises:
        CheckpointError: if there is neither.
    """
    for path in (checkpoints_dir() / OFFICIAL_LANDMARKS, starter_dir() / "landmarks.dat"):
        if path.is_file():
            return path
    raise CheckpointError(f"{starter_dir() / 'landmarks.dat'}: not found; restore it from the repository or put "
                          f"{OFFICIAL_LANDMARKS} into {checkpoints_dir()}")
