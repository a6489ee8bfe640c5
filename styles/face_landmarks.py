"""Where the parts of a face lie that is given by its latents."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from models.landmarks import LandmarkNet
from models.stylegan2 import Generator, layer_at


class FaceLandmarks(nn.Module):
    """Draws faces undeformed and without a look, and finds their landmarks.

    Args:
        generator: of the faces.
        net: the landmark network.
    """

    def __init__(self, generator: Generator, net: LandmarkNet) -> None:
        super().__init__()
        self.generator, self.net = generator, net

    def shown(self, w_plus: Tensor, residual: Tensor | None) -> Tensor:
        """Return images [N, 3, S, S] of w_plus [N, L, D] and residual [N, C, R, R] or None."""
        def add(features: Tensor, residual: Tensor) -> Tensor:
            return features + residual.to(features.dtype)

        transforms = {}
        if residual is not None:
            transforms[layer_at(int(residual.shape[3]))] = partial(add, residual=residual)
        return self.generator.synthesis(w_plus, noise=self.generator.fixed_noise(), feature_transforms=transforms)

    def points(self, image: Tensor) -> Tensor:
        """Return landmarks [N, 68, 2] of images [N, 3, S, S] as fractions of the side."""
        return self.net(image.clamp(-1.0, 1.0)).points
