"""The bundled starter's own manifest: files, digests, licence and training facts."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from checkpoints.io import atomic_write

LICENCE = "CC BY-NC-SA 4.0"
DATA = ("4,230 FFHQ-aligned faces (750 FFHQ photos, CC BY-NC-SA 4.0, and 3,480 StyleGAN samples); 200 further photos "
        "are held out of all training; prior.safetensors and decoder.safetensors also 945 StyleGAN2 samples of Peterson et al. "
        "(2022, CC BY-NC-SA 4.0), the prior 1,200 more FFHQ photos")
PURPOSES = {
    "generator.safetensors": "StyleGAN2 generator, 128 px",
    "discriminator.safetensors": "StyleGAN2 discriminator, 128 px, for the patch heads",
    "encoder.safetensors": "e4e encoder, 128 px",
    "residual.safetensors": "encoder of what a photo shows beyond its latents, as features at 32 px",
    "prior.safetensors": "draws rows and sketches of random faces: Gaussian of what the encoder gives for faces",
    "decoder.safetensors": "two-times decoder: from the generator's images to photos of 256 px",
    "parts.safetensors": "tells skin, background, hair and the rest of a picture apart, 128 px",
    "vit.safetensors": "vision transformer, patch 8, 12 blocks, for the directional and consistency losses",
    "landmarks.dat": "dlib shape predictor, 68 points",
    "landmarks_net.safetensors": "heat-map landmark network, 68 points, 128 px, differentiable",
    "face_id.safetensors": "identity network, 150 px, 128 numbers per face: measures whether a face is still the person",
    "edits.safetensors": "editing directions of rows and features: age, glasses, masculine, beard, pose, nod, smile, mouth",
    "squeezenet.safetensors": "SqueezeNet 1.1, ImageNet features: perceptual distances",
}
# What was not trained here has a licence and an origin of its own.
ORIGINS = {
    "face_id.safetensors": {
        "licence": "MIT (face-api.js, text in face_id_LICENSE.txt); the original public domain",
        "origin": "dlib_face_recognition_resnet_model_v1 (Davis E. King) as face-api.js ships it (Vincent Mühler)",
    },
    "squeezenet.safetensors": {
        "licence": "BSD 2-clause (text in squeezenet_LICENSE.txt)",
        "origin": "SqueezeNet v1.1, the released Caffe weights (Iandola et al. 2016), under torchvision's names, float16",
    },
}


def sha256_of(path: Path) -> str:
    """Return the hex SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def write_starter_manifest(folder: Path) -> dict[str, int]:
    """Write ``folder/manifest.json`` for the files that are there and return their sizes in bytes."""
    files = {}
    for name, purpose in PURPOSES.items():
        path = folder / name
        if path.is_file():
            files[name] = {"purpose": purpose, **ORIGINS.get(name, {}), "bytes": path.stat().st_size,
                           "sha256": sha256_of(path)}
    manifest = {"licence": LICENCE, "data": DATA, "recipe": "pretrain.py; see README.md beside this file",
                "files": files}
    with atomic_write(folder / "manifest.json") as temporary:
        temporary.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return {name: entry["bytes"] for name, entry in files.items()}
