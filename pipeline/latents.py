"""Inverted photos kept on disk, keyed by what they depend on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from PIL import Image

from checkpoints import CheckpointError, load_model, save_model
from data.images import WriteError
from models.face import Face


class LatentCache:
    """Folder of inverted faces in files named by a digest of pixels, encoder, generator and settings.

    Two photos of one name in different folders never meet, and a changed encoder or generator never finds old codes.

    Args:
        folder: where the files lie; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.hits = self.misses = 0

    def key(self, image: Image.Image, **settings: str | int | float) -> str:
        """Return the digest of an RGB image's pixels and of the named settings."""
        digest = hashlib.sha256(np.asarray(image.convert("RGB")).tobytes())
        digest.update(json.dumps([image.size, sorted(settings.items())]).encode())
        return digest.hexdigest()[:32]

    def get(self, key: str) -> Face | None:
        """Return the stored face, or None; an unreadable file counts as absent."""
        path = self.folder / f"{key}.safetensors" if self.folder else None
        if path is not None and path.is_file():
            try:
                tensors, _ = load_model(path, kind="latent")
                face = Face(tensors["w_plus"], tensors.get("residual"))
                self.hits += 1
                return face
            except (CheckpointError, KeyError, ValueError):
                path.unlink()
        self.misses += 1
        return None

    def put(self, key: str, face: Face) -> None:
        """Store one face atomically, its residual in half precision; raises WriteError where the folder cannot be written."""
        if self.folder is None:
            return
        tensors = {"w_plus": face.w_plus.cpu()}
        if face.residual is not None:
            tensors["residual"] = face.residual.cpu().half()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_model(self.folder / f"{key}.safetensors", tensors, {"kind": "latent"})
        except OSError as error:
            raise WriteError(f"{self.folder}: cannot be written ({error.strerror}); choose another folder") from error
        except CheckpointError as error:
            if not isinstance(error.__cause__, OSError):
                raise  # a latent that is not finite is no matter of the disk
            raise WriteError(str(error)) from error
