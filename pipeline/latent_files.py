"""Inverted faces in files of their own: written by photo, read again in place of photos, also those of published programs."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from checkpoints import CheckpointError, atomic_write, read_torch
from data.images import WriteError
from data.listing import in_order
from models.face import Face
from pipeline.cli import UserError

SUFFIXES = (".npz", ".pt")
# How published programs call rows in their files.
ROW_NAMES = ("w", "w_plus", "latent", "latents")
MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class Stored:
    """A face from a file.

    Attributes:
        name: of the file, without its ending.
        face: one face.
        landmarks: [68, 2] as fractions of the aligned photo's side, or None.
        fingerprint: of the generator that it was inverted into; empty where the file does not say.
    """

    name: str
    face: Face
    landmarks: np.ndarray | None = None
    fingerprint: str = ""


def save_face(path: Path, face: Face, *, landmarks: np.ndarray | None, fingerprint: str) -> None:
    """Write one face as NPZ: ``w`` [1, L, D], and where there is one ``residual`` [1, C, R, R], ``photo`` [S, S, 3] of 8 bit
    and ``landmarks`` [68, 2]; ``fingerprint`` is the generator's. Atomic.

    Raises:
        WriteError: if it cannot be written.
    """
    arrays: dict[str, Any] = {"w": face.w_plus.float().cpu().numpy(), "fingerprint": np.array(fingerprint)}
    if face.residual is not None:
        arrays["residual"] = face.residual.half().cpu().numpy()
    if face.photo is not None:
        pixels = ((face.photo[0].float() + 1.0) * 127.5).round().clamp(0, 255).byte()
        arrays["photo"] = pixels.permute(1, 2, 0).cpu().numpy()  # [3, S, S] -> [S, S, 3]
    if landmarks is not None:
        arrays["landmarks"] = np.asarray(landmarks, np.float32)
    try:
        with atomic_write(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)
    except (OSError, CheckpointError) as error:
        raise WriteError(f"{path}: cannot be written; free space or choose another folder") from error


def read_face(path: Path) -> Stored:
    """Read a face of ``save_face``, of ``projected_w.npz`` (NVIDIA's projector), or of ``inversion_codes/NAME.pt``.

    Raises:
        UserError: if the file is missing, damaged, or holds no rows of latents.
        CheckpointError: if a ``.pt`` file is damaged or wants to run code.
    """
    if not path.is_file() or path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path}: " + ("not found; check the path" if not path.is_file() else
                                       "is no file of latents; give a .npz or a .pt"))
    parts = _npz(path) if path.suffix.lower() == ".npz" else _torch(path)
    rows = next((parts[name] for name in ROW_NAMES if name in parts), None)
    if rows is None:
        raise UserError(f"{path}: holds no rows of latents, only {', '.join(sorted(parts)[:5]) or 'nothing'}; give another file")
    try:
        w_plus, residual, photo = (None if value is None else _tensor(path, value)
                                   for value in (rows, parts.get("residual"), parts.get("photo")))
        w_plus = w_plus[None] if w_plus.ndim == 2 else w_plus
        if len(w_plus) != 1:
            raise ValueError(f"holds {len(w_plus)} faces")
        shown = None if photo is None else (photo.permute(2, 0, 1)[None] / 127.5 - 1.0)  # [S, S, 3] -> [1, 3, S, S]
        marks = parts.get("landmarks")
        return Stored(path.stem, Face(w_plus, residual, shown), None if marks is None else np.asarray(marks, np.float64),
                      str(parts.get("fingerprint", "")))
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"{path}: its latents have another form than one face's rows [1, L, 512] ({error})") from error


def _npz(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(item.file_size for item in archive.infolist()) > MAX_BYTES:
                raise UserError(f"{path}: is too large for one face's latents; give another file")
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: is damaged or no NPZ file; get it again") from error


def _torch(path: Path) -> dict[str, Any]:
    state = read_torch(path)
    if isinstance(state, Tensor):
        return {"w": state}
    return dict(state) if isinstance(state, Mapping) else {}


def _tensor(path: Path, value: Any) -> Tensor:
    tensor = value.detach().float() if isinstance(value, Tensor) else torch.from_numpy(np.array(value, dtype=np.float32))
    if not torch.isfinite(tensor).all():
        raise UserError(f"{path}: holds NaN or infinity; make it again")
    return tensor


def read_faces(paths: list[Path], *, shape: tuple[int, int], fingerprint: str, device: torch.device | str) -> list[Stored]:
    """Read files and the files of folders, in natural order, for one generator.

    Args:
        paths: files or folders.
        shape: rows and width (L, D) of the style's latents.
        fingerprint: of the generator that the style's faces are inverted into.
        device: where the faces are wanted.

    Raises:
        UserError, CheckpointError: see ``read_face``; also where a face is of another generator.
    """
    files = [file for path in paths for file in
             (in_order(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES) if path.is_dir() else [path])]
    if not files:
        raise UserError(f"{paths[0]}: holds no latents (.npz or .pt); make some by inference.py --save_latents")
    faces = []
    for file in files:
        stored = read_face(file)
        if tuple(stored.face.w_plus.shape[1:]) != shape:
            raise UserError(f"{file}: holds rows of {list(stored.face.w_plus.shape[1:])}, the style's generator takes "
                            f"{list(shape)}; give latents of that generator, or another --style")
        if stored.fingerprint not in ("", fingerprint):
            raise UserError(f"{file}: was made by another generator than the style's; invert the photo again")
        faces.append(Stored(stored.name, stored.face.to(device), stored.landmarks, stored.fingerprint))
    return faces
