"""From files to what draws random faces and enlarges images: the prior of faces and the two-times decoder."""

from __future__ import annotations

from pathlib import Path

import torch

from checkpoints.features import load_residual_encoder
from checkpoints.io import build_strict, load_model, read_config
from models.decoder import Decoder, DecoderConfig
from models.face_prior import FacePrior, FacePriorConfig
from models.residual_encoder import ResidualEncoder

PRIOR, DECODER, RESIDUAL = "prior.safetensors", "decoder.safetensors", "residual.safetensors"


def load_prior(path: Path, *, generator: str, device: torch.device | str = "cpu") -> FacePrior | None:
    """Load the prior of a generator with the digest ``generator``; None where the file is another generator's.

    Raises:
        CheckpointError: if the file is absent, damaged or of another kind.
    """
    tensors, config = load_model(path, kind="prior")
    if config.get("generator") != generator:
        return None
    shape = read_config(path, config, "prior", FacePriorConfig.from_dict)
    return build_strict(lambda: FacePrior(shape), tensors, what=str(path)).requires_grad_(False).eval().to(device)


def load_decoder(path: Path, *, generator: str, device: torch.device | str = "cpu") -> Decoder | None:
    """Load the two-times decoder of a generator with the digest ``generator``; None where the file is another generator's.

    Raises:
        CheckpointError: if the file is absent, damaged or of another kind.
    """
    tensors, config = load_model(path, kind="decoder")
    if config.get("generator") != generator:
        return None
    shape = read_config(path, config, "decoder", DecoderConfig.from_dict)
    module = build_strict(lambda: Decoder(shape), tensors, what=str(path)).requires_grad_(False).eval()
    return module.to(device, memory_format=torch.channels_last)


def load_residual(path: Path, *, generator: str, device: torch.device | str = "cpu") -> ResidualEncoder | None:
    """Load the residual encoder of a generator with the digest ``generator``; None where the file is another generator's.

    Raises:
        CheckpointError: if the file is absent, damaged or of another kind.
    """
    found = load_residual_encoder(path, device=device)
    return found.module if found.generator == generator else None
