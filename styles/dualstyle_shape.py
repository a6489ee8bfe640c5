"""Where the features of faces go when an exemplar's structure bends them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.dualstylegan import FIRST_COLOR_ROW, DualStyleGAN
from models.face import Face
from models.look import landmark_grid
from models.spatial_transformer import sample


def bent(features: Tensor, *, places: Tensor, goal: Tensor) -> Tensor:
    """Return features [N, C, R, R] with what lies at ``places`` [N, 68, 2] carried to the goal."""
    return sample(features, landmark_grid(goal, places, features.shape[3]).to(features), mode="exact")


def path_shift(network: DualStyleGAN, finder: nn.Module, w_plus: Tensor, code: Tensor, weights: list[float] | Tensor) -> Tensor:
    """Return how far the residual blocks move the landmarks of faces, [N, 68, 2].

    They move features without saying whither. So the rows alone are drawn with and without them, in one and the same
    colours.

    Args:
        network: with the residual blocks.
        finder: of landmarks in pictures [N, 3, S, S].
        w_plus: [N, L, D], rows of faces as they are drawn.
        code, weights: see ``DualStyleGAN.synthesis``.
    """
    noise = network.generator.fixed_noise()
    if isinstance(weights, Tensor):
        weights = torch.cat([weights[:, :FIRST_COLOR_ROW], torch.zeros_like(weights[:, FIRST_COLOR_ROW:])], dim=1)
    else:
        weights = [*weights[:FIRST_COLOR_ROW], *[0.0] * (len(weights) - FIRST_COLOR_ROW)]
    plain, drawn = (finder(image.clamp(-1.0, 1.0)).points for image in (
        network.generator.synthesis(w_plus, noise=noise), network.synthesis(w_plus, code, weights=weights, noise=noise)))
    return drawn - plain


def carried(face: Face, places: Tensor, shift: Tensor) -> Tensor:
    """Return the residual [N, C, R, R] of faces where the residual blocks put what it belongs to.

    Args:
        face: with a residual.
        places: its landmarks [N, 68, 2].
        shift: see ``path_shift``.
    """
    grid = landmark_grid(places + shift, places, face.resolution)
    return sample(face.residual, grid.to(face.residual), mode="exact")
