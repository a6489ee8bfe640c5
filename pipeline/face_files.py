"""Random faces kept in one ``.npz`` file: rows of latents with what else a face has, to be drawn again or edited elsewhere."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from checkpoints.io import atomic_write
from models.face import Face
from pipeline.cli import UserError
from pipeline.latent_files import read_face

RANGE = 1.0  # of photos, [-1, 1] as 0..255


def save_faces(path: Path, face: Face, names: Sequence[str], *, base: str) -> None:
    """Write faces: ``w_plus`` [N, L, D] float32, ``residual`` [N, C, R, R] float16 and ``photo`` [N, 3, S, S] uint8 where they
    have them, ``names`` [N] and the name of their ``base``; atomically.

    Raises:
        ValueError: if there are not as many names as faces.
    """
    if len(names) != len(face):
        raise ValueError(f"expected {len(face)} names, got {len(names)}")
    arrays = {"w_plus": face.w_plus.float().cpu().numpy(), "names": np.array(list(names)), "base": np.array(base)}
    if face.residual is not None:
        arrays["residual"] = face.residual.half().cpu().numpy()
    if face.photo is not None:
        arrays["photo"] = ((face.photo.clamp(-RANGE, RANGE) + RANGE) * 127.5).round().byte().cpu().numpy()
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def load_faces(path: Path, *, base: str, shape: tuple[int, int], fingerprint: str = "") -> tuple[Face, list[str]]:
    """Return faces and their names from a file of ``save_faces``, of one photo's face (``latent_files``), or of any program that
    writes ``w_plus`` [N, L, D] to ``.npz``.

    Args:
        path: the file.
        base: name of the generator that will draw them.
        shape: rows and width (L, D) of its latents.
        fingerprint: of the generator, empty if unknown.

    Raises:
        UserError: naming the file, where it is absent, damaged, of another shape or of another base.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise UserError(f"{path}: not found; check --latents") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise UserError(f"{path}: is no .npz file of latents ({error}); write one with --save_latents") from error
    if "w" in arrays and "w_plus" not in arrays:
        stored = read_face(path)
        if fingerprint and stored.fingerprint not in ("", fingerprint):
            raise UserError(f"{path}: was made by another generator than the style's; invert the photo again")
        if tuple(stored.face.w_plus.shape[1:]) == shape:
            return stored.face, [stored.name]
        arrays["w_plus"] = stored.face.w_plus.numpy()
    rows = arrays.get("w_plus")
    if rows is None or rows.ndim != 3 or rows.shape[1:] != shape or not len(rows) or not np.isfinite(rows).all():
        got = "no w_plus" if rows is None else f"w_plus {list(rows.shape)}"
        raise UserError(f"{path}: holds {got}, expected finite numbers [N, {shape[0]}, {shape[1]}]; use latents of the "
                        "style's own base")
    if "base" in arrays and str(arrays["base"]) != base:
        raise UserError(f"{path}: holds faces of the base {arrays['base']}, but the style draws those of {base}")
    names = [str(name) for name in arrays.get("names", range(len(rows)))]
    photo = arrays.get("photo")
    try:
        face = Face(torch.from_numpy(rows).float(), _floats(arrays.get("residual")),
                    None if photo is None else _floats(photo) / 127.5 - RANGE)
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: does not fit together: {error}; write it anew with --save_latents") from error
    return face, names if len(names) == len(rows) else [str(number) for number in range(len(rows))]


def _floats(array: np.ndarray | None) -> Tensor | None:
    return None if array is None else torch.from_numpy(array).float()
