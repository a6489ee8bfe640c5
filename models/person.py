"""Who is behind a drawing: what an identity network sees in a destylised portrait, corrected to what it sees in the photo."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

RIDGE = 1.0


class PersonGuess(nn.Module):
    """An affine map of embeddings.

    Drawings lose what tells persons apart, and destylising brings back a part of it. What is left over is guesswork: the best
    guess lies between what is seen and the mean of all persons, farther from the mean in the directions that drawings keep.

    Args:
        width: numbers of an embedding.
    """

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.map = nn.Linear(width, width)

    def forward(self, embedding: Tensor) -> Tensor:
        """Embeddings [N, D] of destylised portraits -> the expected ones of the photos [N, D]."""
        return self.map(embedding)

    def to_dict(self) -> dict[str, Any]:
        """Return what ``PersonGuess`` is built from."""
        return {"width": self.map.in_features}


@torch.no_grad()
def fit_person(seen: Tensor, true: Tensor, *, ridge: float = RIDGE) -> PersonGuess:
    """Fit the map by ridge regression on standardised embeddings, in double precision.

    Args:
        seen: embeddings [N, D] of destylised portraits.
        true: of their photos, [N, D].
        ridge: penalty, in units of an input's variance.

    Raises:
        ValueError: for fewer than two portraits, or shapes that do not fit.
    """
    if seen.ndim != 2 or seen.shape != true.shape or len(seen) < 2:
        raise ValueError(f"expected embeddings [N, D] of at least two portraits and their photos, got {list(seen.shape)} and "
                         f"{list(true.shape)}")
    seen, true = seen.double(), true.double()
    deviation, mean = torch.std_mean(seen, dim=0, correction=0)
    scale, centre = 1.0 / deviation.clamp_min(1e-6), true.mean(dim=0)
    x = (seen - mean) * scale
    gram = x.t() @ x / len(x) + ridge * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    weight = torch.linalg.solve(gram, x.t() @ (true - centre) / len(x)) * scale[:, None]  # [D, D], inputs first
    guess = PersonGuess(seen.shape[1]).to(seen.device)
    guess.map.weight.copy_(weight.t())
    guess.map.bias.copy_(centre - mean @ weight)
    return guess.requires_grad_(False).eval()
