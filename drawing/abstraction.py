"""Abstraction: a photo's smooth shading becomes areas with crisp borders, as painted.

After Kyprianidis and Kang 2011, "Image and video abstraction by coherence-enhancing filtering": colours are averaged along the
direction in which they change least, then a shock filter moves what lies beside an edge to the edge's own side.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from drawing.pyramids import enlarged, halved, opponent

# Sizes are in px of a face's frame of FRAME px.
FRAME = 512
WINDOW = 2.5  # deviation of the window in which directions are told
STEP = 2.0  # length of a step along a direction
STEPS = 4  # to each side
ALONG = 6.0  # deviation of the weights of the average along a direction
LAST = 1.5  # and of the short average that ends it, in steps of 1 px
SIDE = 1.5  # deviation of the lightness whose curvature tells the side of an edge
ACROSS = (1.0, 2.0)  # how far across an edge colours are taken from
CURVED = 0.004  # curvature of lightness at which a pixel belongs to one side of an edge for good
DIRECTED = 0.25  # anisotropy at which a direction counts in full; below, rounding would tell it
ROWS = 1024  # of the picture itself in a strip
AROUND = 32  # px that a strip has around it


def abstracted(image: Tensor, frame: float) -> Tensor:
    """Return images [N, 3, H, W] as areas with crisp borders; a face's frame of ``frame`` px says how large these are.

    A whole picture is filtered strip by strip, so that memory does not grow with its height.
    """
    unit, height = frame / FRAME, image.shape[2]
    around = 2 * math.ceil(AROUND * unit / 2)  # even, as directions are told on a copy of half the size
    made = []
    for top in range(0, height, ROWS):
        first, last = max(0, top - around), min(height, top + ROWS + around)
        strip = _filtered(image[:, :, first:last], unit)
        made.append(strip[:, :, top - first:min(height, top + ROWS) - first])
    return torch.cat(made, dim=2)


def _filtered(image: Tensor, unit: float) -> Tensor:
    image = averaged_along(image, directions(image, WINDOW * unit), STEP * unit, STEPS, ALONG / STEP)
    along = directions(image, WINDOW * unit)
    return averaged_along(shocked(image, along, unit), along, unit, 1, LAST)


def directions(image: Tensor, window: float) -> Tensor:
    """Return along which vectors colours change least, [N, 2, H, W], of length 1, less where there is no such direction.

    They belong to the smaller of the structure tensor's eigenvalues l1 >= l2; (l1 - l2) / (l1 + l2) is the anisotropy, told on a
    copy of half the size. v and -v are the same.

    Args:
        image: [N, 3, H, W].
        window: deviation in px of the Gaussian window of the tensor.
    """
    small = F.pad(halved(image), (1, 1, 1, 1), mode="replicate")
    x = (small[:, :, 1:-1, 2:] - small[:, :, 1:-1, :-2]) / 2.0
    y = (small[:, :, 2:, 1:-1] - small[:, :, :-2, 1:-1]) / 2.0
    tensor = torch.stack([(x * x).sum(dim=1), (x * y).sum(dim=1), (y * y).sum(dim=1)], dim=1)
    xx, xy, yy = blurred(tensor, window / 2.0).split(1, dim=1)
    # With the direction's angle t, anisotropy (cos 2t, sin 2t); halving the angle after enlarging makes v and -v one.
    cos, sin = enlarged(torch.cat([yy - xx, -2.0 * xy], dim=1) / (xx + yy + 1e-6), image.shape[2:]).split(1, dim=1)
    anisotropy = (cos.square() + sin.square() + 1e-12).sqrt()
    cos = cos / anisotropy
    along = torch.cat([((1.0 + cos) / 2.0).clamp_min(0.0).sqrt(), ((1.0 - cos) / 2.0).clamp_min(0.0).sqrt() * _sign(sin)], dim=1)
    return along * (anisotropy / DIRECTED).clamp(max=1.0)


def blurred(image: Tensor, deviation: float) -> Tensor:
    """Return images [N, C, H, W] under a Gaussian of a deviation in px, edge pixels repeated."""
    reach, channels = max(1, math.ceil(2.0 * deviation)), image.shape[1]
    steps = torch.arange(-reach, reach + 1, dtype=image.dtype, device=image.device)
    kernel = torch.softmax(-steps.square() / (2.0 * deviation**2), dim=0)
    image = F.pad(image, (reach,) * 4, mode="replicate")
    image = F.conv2d(image, kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
    return F.conv2d(image, kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)


def _sign(values: Tensor) -> Tensor:
    return torch.where(values < 0.0, -torch.ones_like(values), torch.ones_like(values))


def averaged_along(image: Tensor, along: Tensor, length: float, steps: int, deviation: float) -> Tensor:
    """Return images averaged along their directions (line integral convolution, Cabral and Leedom 1993).

    Args:
        image: [N, 3, H, W].
        along: its ``directions``.
        length: of a step in px.
        steps: to each side.
        deviation: of the Gaussian weights, in steps.
    """
    made, mass, here = image, 1.0, pixels(image)
    for way in (along, -along):
        place = here
        for i in range(1, steps + 1):
            if i > 1:
                turn = read(along, place, mode="nearest")
                way = turn * _sign((turn * way).sum(dim=1, keepdim=True))
            place = place + length * way
            weight = math.exp(-0.5 * (i / deviation)**2)
            made, mass = made + weight * read(image, place), mass + weight
    return made / mass


def shocked(image: Tensor, along: Tensor, unit: float) -> Tensor:
    """Return images in which a pixel on the bright side of an edge takes the brightest value across it, one on the dark side the
    darkest, by channel (Osher and Rudin 1990); sides are told by the second derivative of the smoothed lightness across the edge.

    Args:
        image: [N, 3, H, W].
        along: its ``directions``.
        unit: px of the image in a px of 512.
    """
    here, across = pixels(image), unit * torch.cat([along[:, 1:], -along[:, :1]], dim=1)
    light = blurred(opponent(image)[:, :1], SIDE * unit)
    curvature = read(light, here + SIDE * across) + read(light, here - SIDE * across) - 2.0 * light
    bright, dark = image, image
    for step in ACROSS:
        for way in (step, -step):
            colours = read(image, here + way * across)
            bright, dark = torch.maximum(bright, colours), torch.minimum(dark, colours)
    side = (curvature / CURVED).clamp(-1.0, 1.0)
    return image + side.clamp_min(0.0) * (dark - image) + (-side).clamp_min(0.0) * (bright - image)


def pixels(image: Tensor) -> Tensor:
    """Return the places x, y of all pixels of an image [N, C, H, W], [1, 2, H, W], the first being 0."""
    y, x = (torch.arange(side, dtype=image.dtype, device=image.device) for side in image.shape[2:])
    return torch.stack(torch.meshgrid(x, y, indexing="xy"))[None]


def read(maps: Tensor, places: Tensor, *, mode: str = "bilinear") -> Tensor:
    """Return maps [N, C, H, W] read at places [N, 2, H, W] in px."""
    size = maps.new_tensor([maps.shape[3], maps.shape[2]])
    grid = (places.permute(0, 2, 3, 1) * 2.0 + 1.0) / size - 1.0
    return F.grid_sample(maps, grid, mode=mode, padding_mode="border", align_corners=False)
