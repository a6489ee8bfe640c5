"""From resumable training state to the bundled starter files, float16 on disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from checkpoints.io import CheckpointError, save_model
from checkpoints.packed import PACKED, pack_half
from checkpoints.starter_manifest import write_starter_manifest
from models.face_id import FaceIdConfig, state_of_face_api
from models.stylegan2 import Generator
from training.pretrain.autoencoder import starter_encoder_config, starter_generator_config
from training.pretrain.common import load_state
from training.pretrain.critic import STARTER_DISCRIMINATOR
from training.pretrain.landmark_network import STARTER_LANDMARKS
from training.pretrain.parts import STARTER_PARTS
from training.pretrain.residual import STARTER_RESIDUAL
from training.pretrain.vit import STARTER_VIT


def _export_generator(state: dict, folder: Path) -> None:
    generator = Generator(starter_generator_config())
    generator.load_state_dict(state["g_average"])
    w_avg = generator.mean_w(4096, generator=torch.Generator().manual_seed(0))
    save_model(folder / "generator.safetensors", {**generator.state_dict(), "w_avg": w_avg},
               {"kind": "generator", "generator": generator.config.to_dict(), "images": state["seen"]}, half=True)


def _export_encoder(weights: dict, images: int, folder: Path) -> None:
    config = starter_encoder_config()
    # The starter's encoder predicts w itself, so its mean latent is zero.
    latent_avg = torch.zeros(config.n_styles, config.style_dim)
    save_model(folder / "encoder.safetensors", {**weights, "latent_avg": latent_avg},
               {"kind": "encoder", "encoder": config.to_dict(), "images": images}, half=True)


def _export_residual(state: dict | None, folder: Path) -> None:
    if state is not None:
        # It predicts the features of the generator that it was trained against, and of no other, so it names that one.
        save_model(folder / "residual.safetensors", state["average"],
                   {"kind": "residual", "residual": STARTER_RESIDUAL.to_dict(), "images": state["seen"],
                    "generator": state["generator"]}, half=True)


def _export_parts(state: dict | None, folder: Path) -> None:
    if state is not None:
        save_model(folder / "parts.safetensors", state["average"],
                   {"kind": "parts", "parts": STARTER_PARTS.to_dict(), "images": state["seen"]}, half=True)


def _export_random_faces(state_folder: Path, folder: Path) -> None:
    """Write prior and decoder, which name the generator whose rows and images they know."""
    for name in ("prior", "decoder"):
        state = load_state(state_folder / f"{name}.pt")
        if state is not None:
            save_model(folder / f"{name}.safetensors", state["average"],
                       {"kind": name, name: state["config"], "images": state["seen"], "generator": state["generator"]}, half=True)


def export_face_id(weights: Path, folder: Path) -> None:
    """Write the identity network from an .npz of face-api.js' weights in float16.

    Raises:
        CheckpointError: if the file is absent or holds something else.
    """
    try:
        with np.load(weights) as arrays:
            packed = pack_half(state_of_face_api(arrays))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{weights}: {error}; name face-api.js' face recognition weights as .npz") from error
    save_model(folder / "face_id.safetensors", {PACKED: packed}, {"kind": "face_id", "face_id": FaceIdConfig().to_dict()})


def export_starter(state_folder: Path, folder: Path, *, face_id: Path | None = None) -> dict:
    """Write every finished stage of ``state_folder``, and ``face_id``, into ``folder`` with a manifest; returns sizes in bytes.

    Files in ``folder`` of stages that have no state stay as they are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    gan, encoder = load_state(state_folder / "gan.pt"), load_state(state_folder / "encoder.pt")
    critic, vit = load_state(state_folder / "critic.pt"), load_state(state_folder / "vit.pt")
    if gan is not None:
        _export_generator(gan, folder)
    if encoder is not None:
        _export_encoder(encoder["average"], encoder["seen"], folder)
    elif gan is not None:
        _export_encoder(gan["e_average"], gan["seen"], folder)
    if critic is not None:
        save_model(folder / "discriminator.safetensors", critic["critic"],
                   {"kind": "discriminator", "discriminator": STARTER_DISCRIMINATOR.to_dict(),
                    "images": critic["seen"]}, half=True)
    if vit is not None:
        weights = {k.removeprefix("vit."): v for k, v in vit["teacher"].items() if k.startswith("vit.")}
        save_model(folder / "vit.safetensors", weights,
                   {"kind": "vit", "vit": STARTER_VIT.to_dict(), "images": vit["seen"]}, half=True)
    landmarks = load_state(state_folder / "landmarks_net.pt")
    if landmarks is not None:
        save_model(folder / "landmarks_net.safetensors", landmarks["average"],
                   {"kind": "landmarks", "landmarks": STARTER_LANDMARKS.to_dict(), "images": landmarks["seen"]}, half=True)
    _export_residual(load_state(state_folder / "residual.pt"), folder)
    _export_parts(load_state(state_folder / "parts.pt"), folder)
    _export_random_faces(state_folder, folder)
    if face_id is not None:
        export_face_id(face_id, folder)
    return json.loads(json.dumps(write_starter_manifest(folder)))
