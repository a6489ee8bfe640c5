"""Editing directions of latents: named changes of rows, and how inverted photos follow them."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from models.face import Face
from models.layers import ModulatedConv2d
from models.stylegan2 import Generator

PART = re.compile(r"\s*(?P<name>[^=,]+?)(?:@(?P<first>\d+)-(?P<last>\d+))?\s*=\s*(?P<amount>[^=,]+?)\s*")


@dataclass(frozen=True)
class Edit:
    """One edit: a direction's name, how far along it, and the first and last row of w_plus that move, all where None."""

    name: str
    amount: float
    rows: tuple[int, int] | None = None


class Direction(NamedTuple):
    """A direction of rows, [L, D] or [D], and what goes with it in the features beside them, [C, R, R], or None."""

    rows: Tensor
    features: Tensor | None = None


def parse_edits(text: str) -> tuple[Edit, ...]:
    """Parse NAME=NUMBER,... with rows where not all shall move: smile=1.5,age@0-7=-1.

    Raises:
        argparse.ArgumentTypeError: in one line.
    """
    edits = []
    for part in text.split(","):
        found = PART.fullmatch(part)
        try:
            amount = float(found["amount"]) if found else float("nan")
        except ValueError:
            amount = float("nan")
        rows = (int(found["first"]), int(found["last"])) if found and found["first"] else None
        if not abs(amount) < float("inf") or (rows and rows[0] > rows[1]):
            raise argparse.ArgumentTypeError(f"expected NAME=NUMBER,... such as smile=1.5,age@0-7=-1, got {text!r}")
        edits.append(Edit(found["name"], amount, rows))
    return tuple(edits)


def moved(w_plus: Tensor, edits: Sequence[Edit], directions: Mapping[str, Direction]) -> Tensor:
    """Return w + sum_k a_k d_k, rows [N, L, D] moved along directions by their edits' amounts.

    Raises:
        ValueError: for rows that w_plus does not have, or directions of another shape.
    """
    n_rows, result = w_plus.shape[1], w_plus
    for edit in edits:
        direction = directions[edit.name].rows.to(w_plus)
        if list(direction.shape) not in ([w_plus.shape[2]], list(w_plus.shape[1:])):
            raise ValueError(f"{edit.name}: expected a direction [{w_plus.shape[2]}] or {list(w_plus.shape[1:])}, got "
                             f"{list(direction.shape)}")
        first, last = edit.rows or (0, n_rows - 1)
        if last >= n_rows:
            raise ValueError(f"{edit.name}@{first}-{last}: there are rows 0 to {n_rows - 1} only")
        mask = w_plus.new_zeros(n_rows, 1)
        mask[first:last + 1] = 1.0
        result = result + edit.amount * mask * direction
    return result


def features_moved(face: Face, edits: Sequence[Edit], directions: Mapping[str, Direction]) -> Tensor | None:
    """Return the features [N, C, R, R] beside the rows of faces moved likewise, by the edits that are of all rows; None where
    there are none before and after.

    Raises:
        ValueError: for directions of other features than the faces have.
    """
    result = face.residual
    for edit in edits:
        features = directions[edit.name].features
        if features is None or edit.rows is not None:
            continue
        change = edit.amount * features.to(face.w_plus)[None].expand(len(face), -1, -1, -1)
        if result is not None and result.shape != change.shape:
            raise ValueError(f"{edit.name}: changes features {list(change.shape)}, but the faces have {list(result.shape)}")
        result = change if result is None else result + change
    return result


@torch.no_grad()
def edited(face: Face, edits: Sequence[Edit], directions: Mapping[str, Direction], generator: Generator) -> Face:
    """Return edited faces; a photo changes by what the generator changes, x' = x + G(w', r') - G(w, r).

    So what neither rows nor features say of a photo stays in it.

    Args:
        face: N faces of the generator.
        edits: what to do; nothing returns the face itself.
        directions: by name, see ``moved``.
        generator: the one that the faces are inverted into.
    """
    if not edits:
        return face
    result = replace(face.with_rows(moved(face.w_plus, edits, directions)), residual=features_moved(face, edits, directions))
    if face.photo is None:
        return result
    noise = generator.fixed_noise()
    before, after = (generator.synthesis(one.w_plus, noise=noise, feature_transforms=one.transforms())
                     for one in (face, result))
    change, size = after - before, face.photo.shape[2:]
    if change.shape[2:] != size:
        change = F.interpolate(change, size=size, mode="bicubic", antialias=True)
    return replace(result, photo=(face.photo + change).clamp(-1.0, 1.0))


@torch.no_grad()
def sefa(generator: Generator, count: int) -> Tensor:
    """Return the directions [count, D] that change the modulation of all layers most (SeFa, Shen and Zhou 2021).

    The eigenvectors of A^T A with the largest eigenvalues, A the joined weights of the affine maps from w to styles, each row of
    unit length; of length sqrt(D) / 8 here, about how far faces lie from the mean latent.
    """
    maps = [module.modulation for module in generator.modules() if isinstance(module, ModulatedConv2d)]
    weight = F.normalize(torch.cat([layer.weight * layer.scale for layer in maps]).double(), dim=1)  # [sum of C, D]
    _, vectors = torch.linalg.eigh(weight.T @ weight)  # rising eigenvalues, in columns
    found = vectors.flip(1).T[:count]
    # An eigenvector's sign is free: its largest number is made positive, so that a direction stays what it was.
    signs = found.gather(1, found.abs().argmax(dim=1, keepdim=True)).sign()
    return (found * signs * generator.config.style_dim**0.5 / 8).float()
