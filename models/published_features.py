"""Networks that published trainings compare images by, under the key names of their released files: VGG19's maps and ArcFace."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.irse import irse_body, irse_stem

# ImageNet's mean and deviation of images in 0..1.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VGG_SIDE, VGG_TAPS = 256, (1, 6, 11)
# What ArcFace sees of an FFHQ-aligned face of 256 px, and the side that is brought to.
FACE_SIDE, ROWS, COLUMNS, ARCFACE_SIDE = 256, slice(35, 223), slice(32, 220), 112


class VGGMaps(nn.Module):
    """The maps relu1_1, relu2_1 and relu3_1 of VGG19 (Simonyan and Zisserman 2015), named as torchvision names its layers.

    Images [N, 3, S, S] in [-1, 1] are pooled to 256 px and become (x - (2 mean - 1)) / (2 std).
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after, pools in ((3, 64, False), (64, 64, False), (64, 128, True), (128, 128, False), (128, 256, True)):
            layers += [*([nn.MaxPool2d(2)] if pools else []), nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
        self.features = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return maps [N, 64, 256, 256], [N, 128, 128, 128] and [N, 256, 64, 64], from fine to coarse."""
        mean, deviation = (image.new_tensor(values)[:, None, None] for values in (MEAN, DEVIATION))
        x, maps = (F.adaptive_avg_pool2d(image, VGG_SIDE) - (2.0 * mean - 1.0)) / (2.0 * deviation), []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in VGG_TAPS:
                maps.append(x)
        return tuple(maps)


class ArcFace(nn.Module):
    """Who a face is: an IR-SE50 and a linear layer to a unit vector (Deng et al. 2019; the release that pSp, e4e and DualStyleGAN
    use)."""

    def __init__(self) -> None:
        super().__init__()
        self.input_layer = irse_stem(64)
        self.body = irse_body(64, (64, 128, 256, 512), (3, 4, 14, 3))
        side = ARCFACE_SIDE // 16
        self.output_layer = nn.Sequential(nn.BatchNorm2d(512), nn.Dropout(), nn.Flatten(), nn.Linear(512 * side**2, 512),
                                          nn.BatchNorm1d(512))

    def forward(self, image: Tensor) -> Tensor:
        """Return unit embeddings [N, 512] of FFHQ-aligned faces [N, 3, S, S] in [-1, 1] of any side S."""
        face = F.adaptive_avg_pool2d(image, FACE_SIDE)[:, :, ROWS, COLUMNS]
        x = self.body(self.input_layer(F.adaptive_avg_pool2d(face, ARCFACE_SIDE)))
        return F.normalize(self.output_layer(x), dim=1)


def vgg_part(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return what ``VGGMaps`` needs of torchvision's state dict of VGG19."""
    with torch.device("meta"):
        wanted = VGGMaps().state_dict()
    return {name: tensor for name, tensor in state.items() if name in wanted}
