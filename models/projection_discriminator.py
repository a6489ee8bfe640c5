"""Discriminator that scores an image together with a style code (Miyato & Koyama 2018), with BlendGAN's key names."""

from __future__ import annotations

from torch import Tensor

from models.discriminator import DiscriminatorBody, DiscriminatorConfig
from models.layers import EqualLinear


class ProjectionDiscriminator(DiscriminatorBody):
    """Residual StyleGAN2 discriminator with a projection head: D(x, z) = l_out(h) + <l_style(z), h>.

    h [N, C] is the sum over the pixels of the last map.

    Args:
        config: shape of the body.
        style_dim: width of the style codes.
    """

    def __init__(self, config: DiscriminatorConfig, *, style_dim: int = 512) -> None:
        super().__init__(config)
        self.l_out = EqualLinear(config.channels[4], 1)
        self.l_style = EqualLinear(style_dim, config.channels[4])

    def forward(self, image: Tensor, z_style: Tensor) -> Tensor:
        """Return logits [N, 1] that images show the styles of codes.

        Args:
            image: [N, 3, size, size] in [-1, 1].
            z_style: [N, style_dim].

        Raises:
            ValueError: for wrong shapes.
        """
        width = self.l_style.weight.shape[1]
        if list(z_style.shape) != [len(image), width]:
            raise ValueError(f"expected z_style [{len(image)}, {width}], got {list(z_style.shape)}")
        h = self.features(image).sum(dim=(2, 3))  # [N, C, 4, 4] -> [N, C]
        return (self.l_out(h) + (self.l_style(z_style) * h).sum(dim=1, keepdim=True)).float()
