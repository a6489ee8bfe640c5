"""pSp encoder: images to rows of w_plus, each by a head of its own (Richardson et al. 2021, "Encoding in Style").

The network is the one of e4e with the same key names; what differs is that no row is an offset from another, so a file's
keys do not tell which of the two it holds.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.e4e import E4EEncoder


class PSPEncoder(E4EEncoder):
    """Predict every row of w_plus from its level of the feature pyramid (GradualStyleEncoder with an IR-SE50 body).

    Args:
        config: the network's shape; ``E4EConfig(n_styles=18)`` is the released one for 1024 px.
    """

    def forward(self, image: Tensor) -> Tensor:
        """Encode images: row l is head_l(level_l).

        Args:
            image: [N, 3, input_size, input_size] in [-1, 1].

        Returns:
            Codes [N, n_styles, style_dim] to which the mean latent is yet to be added.

        Raises:
            ValueError: for a wrong input size.
        """
        levels = self.levels(image)
        return torch.stack([head(level) for head, level in zip(self.styles, levels, strict=True)], dim=1)  # [N, L, D]
