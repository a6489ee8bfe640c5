"""Generator that blends a style into a face, row by row (BlendGAN; Liu et al. 2021, "Blend StyleGAN2 for Arbitrary Stylized
Face Generation"), with the key names of its release."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.layers import EqualLinear, PixelNorm
from models.stylegan2 import Generator, GeneratorConfig, layer_at

# Rows from here on carry colour and fine texture rather than shape.
COLOR_ROW = layer_at(64)


class BlendGenerator(Generator):
    """StyleGAN2 generator with a second mapping for style codes and a learned share of the face per row.

    It edits w_plus only; ``synthesis`` is the generator's own.

    Args:
        config: the network's shape; the second mapping is as deep as the first.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__(config)
        dim = config.style_dim
        mlp = [EqualLinear(dim, dim, lr_mul=config.lr_mlp, activate=True) for _ in range(config.n_mlp)]
        self.embedding = nn.Sequential(PixelNorm(), *mlp)
        # In the middle, for the gradient of the clamp vanishes outside of 0 to 1.
        self.add_weight = nn.Parameter(torch.full((1, config.n_latent, 1), 0.5))

    def map_style(self, z_style: Tensor) -> Tensor:
        """Map style codes to w.

        Args:
            z_style: [N, style_dim], a standard normal or what the style encoder gives.

        Returns:
            [N, style_dim].

        Raises:
            ValueError: for a wrong shape.
        """
        if z_style.ndim != 2 or z_style.shape[1] != self.config.style_dim:
            raise ValueError(f"expected z_style [N, {self.config.style_dim}], got {list(z_style.shape)}")
        return self.embedding(z_style)

    def face_shares(
        self, index: float | Tensor = 0, *, strength: float | Tensor = 1.0, color_strength: float | Tensor | None = None
    ) -> Tensor:
        """Return the share of the face in every row: 1 - s_l (1 - a_l).

        a = clamp(add_weight, 0, 1), and a_l = 1 for the rows l < index (BlendGAN, weighted blending module); between two
        whole numbers the row in question is interpolated. s_l = ``strength``, and ``color_strength`` from ``COLOR_ROW`` on.

        Args:
            index: rows that are the face's own alone, 0 for none: a number, or one [N] per sample.
            strength: 0 leaves the face, 1 blends as learned: a number or [N].
            color_strength: the same for the colours; None takes ``strength``.

        Returns:
            [1 or N, L, 1].
        """
        rows = torch.arange(self.config.n_latent, device=self.add_weight.device)[None, :, None]  # [1, L, 1]
        a = self.add_weight.clamp(0.0, 1.0)
        kept = (_column(index, a) - rows).clamp(0.0, 1.0)
        degree = _column(strength, a)
        if color_strength is not None:
            degree = torch.where(rows < COLOR_ROW, degree, _column(color_strength, a))
        return 1.0 - degree * (1.0 - (a + kept * (1.0 - a)))

    def blend(self, w_plus: Tensor, style_w: Tensor, *, shares: Tensor) -> Tensor:
        """Blend faces and styles: w' = c w + (1 - c) s with the shares c of the face.

        Args:
            w_plus: faces [N, L, style_dim].
            style_w: what ``map_style`` gives, [N or 1, style_dim], or a row of its own per layer [N or 1, L, style_dim].
            shares: [N or 1, L, 1], see ``face_shares``.

        Returns:
            [N, L, style_dim].

        Raises:
            ValueError: for a wrong shape.
        """
        expected = [self.config.n_latent, self.config.style_dim]
        style = style_w[:, None] if style_w.ndim == 2 else style_w  # [N, D] -> [N, 1, D]
        if w_plus.ndim != 3 or list(w_plus.shape[1:]) != expected or style.ndim != 3 or style.shape[2] != expected[1] \
                or len(style) not in (1, len(w_plus)):
            raise ValueError(f"expected w_plus [N, {expected[0]}, {expected[1]}] and style_w [N, {expected[1]}], got "
                             f"{list(w_plus.shape)} and {list(style_w.shape)}")
        return shares * w_plus + (1.0 - shares) * style


def _column(value: float | Tensor, like: Tensor) -> Tensor:
    """Return a number as [1, 1, 1], or numbers [N] as [N, 1, 1], in the type of ``like``."""
    return torch.as_tensor(value, dtype=like.dtype, device=like.device).reshape(-1, 1, 1)


def interpolation_weights() -> Tensor:
    """Return the 31 shares of the next style on the way from one to the next in the published video.

    0, then sigmoid(t) for t = -5, -4.5, ..., 4.5, then ten times 1, float64.
    """
    t = torch.arange(20, dtype=torch.float64) * 0.5 - 5.0
    return torch.cat([torch.zeros(1, dtype=torch.float64), t.sigmoid(), torch.ones(10, dtype=torch.float64)])
