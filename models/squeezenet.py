"""SqueezeNet 1.1 (Iandola et al. 2016) as a frozen feature network for perceptual distances."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

# The ends of the slices that LPIPS compares: the first convolution's ReLU and six fire modules.
TAPS = (1, 4, 7, 9, 10, 11, 12)
CHANNELS = {1: 64, 4: 128, 7: 256, 9: 384, 10: 384, 11: 512, 12: 512}
# Mean of ImageNet in 0..255, blue, green, red: the released Caffe weights see images minus this.
MEAN_BGR = (103.939, 116.779, 123.68)


class SqueezeNetFeatures(nn.Module):
    """The convolutions of SqueezeNet 1.1 up to the last fire module, under torchvision's names; its weights are random
    until a state is loaded, and never trained.
    """

    def __init__(self) -> None:
        from torchvision.models import squeezenet1_1  # takes seconds, which only those who compare pictures need

        super().__init__()
        # Values are drawn at random for a moment; callers must not notice.
        with torch.random.fork_rng(devices=[]):
            self.features = squeezenet1_1(weights=None).features
        for layer in self.features:
            if isinstance(layer, nn.ReLU):
                layer.inplace = False  # its input may be among the maps that are kept
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> SqueezeNetFeatures:
        """Stay in eval mode."""
        return super().train(False)

    def forward(self, image: Tensor, *, taps: Sequence[int] = TAPS) -> list[Tensor]:
        """Return the maps after the layers ``taps``, in rising order; what comes after the last is not computed.

        Args:
            image: [N, 3, H, W] RGB in [-1, 1], at least 17 px a side.
            taps: layer numbers out of ``CHANNELS``.

        Returns:
            maps [N, CHANNELS[tap], h, w], h about H / 2 for tap 1, H / 4 for 4, H / 8 for 7 and H / 16 from 9 on.

        Raises:
            ValueError: for another shape of image or other layers.
        """
        if image.ndim != 4 or image.shape[1] != 3 or min(image.shape[2:]) < 17:
            raise ValueError(f"expected images [N, 3, H, W] of at least 17 px, got {list(image.shape)}")
        if not taps or not set(taps) <= set(CHANNELS):
            raise ValueError(f"expected taps out of {sorted(CHANNELS)}, got {list(taps)}")
        x = (image.flip(1) + 1.0) * 127.5 - image.new_tensor(MEAN_BGR)[:, None, None]
        # Convolutions and pooling on CPUs are twice as fast in this layout.
        x = x.contiguous(memory_format=torch.channels_last)
        maps = []
        for index, layer in enumerate(self.features[:max(taps) + 1]):
            x = layer(x)
            if index in taps:
                maps.append(x)
        return maps
