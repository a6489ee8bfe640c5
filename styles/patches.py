"""Patches of a style's own pair, see ``models.analogy``: kept in its file, and mixed like the style itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from checkpoints.features import load_parts
from checkpoints.io import CheckpointError, load_model, save_model
from models.analogy import Analogy
from models.matches import Matches
from training.pair_start import carried

# Tensors of a style's file: photo in the shape of its drawing, and drawing, in bytes; landmarks of the drawing.
PAIR, POINTS = "pair", "pair_points"
# Larger pairs are kept at this side.
MOST_SIDE = 512
LANDMARKS = 68
# Folder beside style files that hold no pair, with the pairs of some of them by the same names.
BESIDE = "pairs"


def pair_tensors(source: Tensor, target: Tensor, points: Tensor) -> dict[str, Tensor]:
    """Return what a style's file keeps of its pair: ``PAIR`` [1, 6, S, S] in bytes and ``POINTS`` [1, 68, 2].

    Args:
        source, target: [1, 3, S, S] in [-1, 1].
        points: landmarks of both, [2, 68, 2] as fractions of the side.
    """
    both = torch.cat([carried(source, points[:1], points[1:]), target], dim=1)
    if both.shape[3] > MOST_SIDE:
        both = F.interpolate(both, size=(MOST_SIDE, MOST_SIDE), mode="area")
    return {PAIR: ((both.clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8), POINTS: points[1:].float()}


class PairPatches(nn.Module):
    """Analogies of one or several pairs, by weight.

    Args:
        analogies: of each pair.
        weights: of each, of sum 1.
    """

    def __init__(self, analogies: Sequence[Analogy], weights: Sequence[float] = (1.0,)) -> None:
        super().__init__()
        self.analogies, self.weights = nn.ModuleList(analogies), tuple(weights)

    def forward(self, image: Tensor, drawn: Tensor, points: Tensor, strength: float | Tensor,
                last: list[Matches] | None = None) -> Tensor:
        """See ``Analogy.forward``; ``last`` is filled with one for each analogy."""
        if last is not None:
            last += [Matches() for _ in self.analogies[len(last):]]
        image, drawn, points = image.float(), drawn.float(), points.float()
        before = last or [None] * len(self.weights)
        made = (weight * analogy(image, drawn, points, strength, one)
                for analogy, weight, one in zip(self.analogies, self.weights, before, strict=True))
        return torch.stack(list(made)).sum(dim=0)

    @classmethod
    def mix(cls, several: Sequence[PairPatches], weights: Sequence[float]) -> PairPatches:
        """Return the patches of a mixture of styles."""
        return cls([analogy for one in several for analogy in one.analogies],
                   [weight * share for one, weight in zip(several, weights, strict=True) for share in one.weights])


def pair_beside(path: Path) -> Path | None:
    """Return the file that holds the pair of a style file without one, or None where there is none."""
    beside = path.parent / BESIDE / path.name
    return beside if beside.is_file() else None


def save_pair(path: Path, pair: Mapping[str, Tensor]) -> None:
    """Write what ``pair_tensors`` gives as a file for a style whose own file holds no pair."""
    save_model(path, dict(pair), {"kind": "pair"})


def take_patches(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take what ``pair_tensors`` gives out of a style's tensors, or read it from beside the file; nothing where there is none.

    Raises:
        CheckpointError: if it is of another shape or kind.
    """
    found = {name: tensors.pop(name) for name in (PAIR, POINTS) if name in tensors}
    beside = None if found else pair_beside(path)
    if beside is not None:
        path, (found, _) = beside, load_model(beside, kind="pair")
    if not found:
        return {}
    pair, points = found.get(PAIR), found.get(POINTS)
    if pair is None or pair.dtype != torch.uint8 or pair.ndim != 4 or pair.shape[:2] != (1, 6) or \
            pair.shape[2] != pair.shape[3] or points is None or list(points.shape) != [1, LANDMARKS, 2]:
        raise CheckpointError(f"{path}: the pair that it holds is damaged; train the style anew")
    return found


def build_patches(found: Mapping[str, Tensor], device: torch.device) -> PairPatches | None:
    """Return the patches of what ``take_patches`` gives, or None where that is nothing.

    Raises:
        CheckpointError: if the network that tells parts is absent or damaged.
    """
    if not found:
        return None
    photo, drawing = (found[PAIR].to(device).float() / 127.5 - 1.0).split(3, dim=1)
    with torch.no_grad():
        return PairPatches([Analogy(photo, drawing, found[POINTS].to(device).float(), load_parts(device=device))])
