"""Where a drawing has what its photo shows, at every place: what landmarks alone do not see, such as ears, jaws and large eyes.

A displacement of the photo is found, coarse to fine, under which its features, edges and outline are the drawing's. Features are
SqueezeNet's, each channel centred and scaled, since the two pictures differ in everything but what they show; edges are compared
by direction alone (normalised gradient fields, Haber and Modersitzki 2006).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from drawing.pyramids import resized
from drawing.warp import GRID, fading, warp_grid, with_rings
from faces.parts import foreground
from models.sampling_grids import pixel_lattice, unfolded
from models.squeezenet import SqueezeNetFeatures

# Layers that are compared, directions of their features that are kept, and the side in px of the pictures they see.
TAPS, DIRECTIONS, SIDE = (4, 7, 12), 12, 256
EDGE_SIDE, OUTLINE_SIDE = 128, 64
# Control points a side, one grid after the other, with steps on each.
LEVELS, STEPS, RATE = (8, 16, 24), 40, 4e-3
EDGES, OUTLINE, BENDING, FOLDING = 2.5, 2.0, 3.0, 50.0
# Least determinant of the displacement's Jacobian that costs nothing.
LEAST = 0.25


def register(source: Tensor, target: Tensor, meshes: tuple[Tensor, Tensor], features: SqueezeNetFeatures) -> Tensor:
    """Return the sampling grid [1, GRID, GRID, 2] that brings a photo to the shape of its drawing.

    Minimises sum_l |1 - cos(F_l(source) o u, F_l(target))| + a (1 - cos^2 of gradients) + b (outline)^2 + c bending + d folds,
    from a spline through the meshes.

    Args:
        source, target: [1, 3, S, S] in [-1, 1].
        meshes: of both, [1, 468, 2] as fractions of the side.
        features: SqueezeNet.
    """
    start = warp_grid((), *(with_rings(mesh) for mesh in meshes))
    seen = _seen(source, target, features)
    shift = (start - _rest(start)).permute(0, 3, 1, 2)
    window = fading(GRID).permute(0, 3, 1, 2)
    for side in LEVELS:
        control = torch.zeros(1, 2, side, side, requires_grad=True)
        optimizer = torch.optim.Adam([control], RATE)
        for _ in range(STEPS):
            moved = shift + window * _spread(control)
            loss = _unlikeness(moved, seen) + BENDING * _bending(moved) + FOLDING * _folds(moved)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        shift = shift + window * _spread(control.detach())
    return unfolded(_rest(start) + shift.permute(0, 2, 3, 1))


def _rest(grid: Tensor) -> Tensor:
    return pixel_lattice(GRID, mode="exact").reshape(1, GRID, GRID, 2).to(grid)


def _spread(control: Tensor) -> Tensor:
    return F.interpolate(control, size=(GRID, GRID), mode="bicubic", align_corners=True)


@torch.no_grad()
def _seen(source: Tensor, target: Tensor, network: SqueezeNetFeatures) -> list[tuple[Tensor, Tensor, str]]:
    """Return the maps of source and target that are compared, [1, C, h, w] each, and how."""
    both = [resized(image.float().cpu(), (SIDE, SIDE)) for image in (source, target)]
    pairs = []
    for maps in zip(*(network(image, taps=TAPS) for image in both), strict=True):
        pairs.append((*_principal(*(_normalised(found) for found in maps)), "features"))
    grey = [resized(image.mean(dim=1, keepdim=True), (EDGE_SIDE, EDGE_SIDE)) for image in both]
    pairs.append((*grey, "edges"))
    outlines = [resized(foreground(image), (OUTLINE_SIDE, OUTLINE_SIDE)) for image in both]
    return pairs + [(*outlines, "outline")]


def _normalised(maps: Tensor) -> Tensor:
    centred = maps - maps.mean(dim=(2, 3), keepdim=True)
    return F.normalize(centred / (centred.std(dim=(2, 3), keepdim=True) + 1e-5), dim=1)


def _principal(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return two maps [1, C, h, w] in the principal directions of both, of unit length at every place."""
    rows = torch.cat([maps.flatten(2)[0].T for maps in (first, second)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _, _, directions = torch.pca_lowrank(rows, q=DIRECTIONS, niter=2)
    return tuple(F.normalize(torch.einsum("nchw,ck->nkhw", maps, directions), dim=1) for maps in (first, second))


def _unlikeness(shift: Tensor, seen: list[tuple[Tensor, Tensor, str]]) -> Tensor:
    """Return how unlike the moved source is to the target, a scalar."""
    total = shift.new_zeros(())
    for source, target, kind in seen:
        side = target.shape[3]
        grid = pixel_lattice(side, mode="exact").reshape(1, side, side, 2) + F.interpolate(
            shift, size=(side, side), mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
        moved = F.grid_sample(source, grid, padding_mode="border", align_corners=False)
        if kind == "features":
            unlike = 1.0 - (F.normalize(moved, dim=1) * target).sum(dim=1)
            total = total + (unlike.square() + 0.01).sqrt().mean()
        elif kind == "edges":
            total = total + EDGES * (1.0 - (_directions(moved) * _directions(target)).sum(dim=1).square()).mean()
        else:
            total = total + OUTLINE * (moved - target).square().mean()
    return total


def _directions(image: Tensor) -> Tensor:
    """Return the gradient of images [1, 1, h, w] over its length, softened where that is little, [1, 2, h, w]."""
    across = image.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8.0
    gradient = F.conv2d(image, torch.stack([across, across.T])[:, None], padding=1)
    square = gradient.square().sum(dim=1, keepdim=True)
    noise = 0.7 * (square.detach() + 1e-8).sqrt().mean()
    return gradient / (square + noise.square() + 1e-8).sqrt()


def _bending(shift: Tensor) -> Tensor:
    """Return the bending energy of a displacement [1, 2, R, R] in cells, a scalar."""
    cells = shift * GRID / 2.0
    across = (cells[..., 2:] - 2.0 * cells[..., 1:-1] + cells[..., :-2]).square().mean()
    down = (cells[..., 2:, :] - 2.0 * cells[..., 1:-1, :] + cells[..., :-2, :]).square().mean()
    both = (cells[..., 1:, 1:] - cells[..., 1:, :-1] - cells[..., :-1, 1:] + cells[..., :-1, :-1]).square().mean()
    return across + down + 2.0 * both


def _folds(shift: Tensor) -> Tensor:
    """Return the mean square by which the Jacobian's determinant falls below ``LEAST``, a scalar."""
    cells = shift * GRID / 2.0
    across, down = (cells[..., 1:] - cells[..., :-1])[..., 1:, :], (cells[..., 1:, :] - cells[..., :-1, :])[..., 1:]
    determinant = (1.0 + across[:, 0]) * (1.0 + down[:, 1]) - across[:, 1] * down[:, 0]
    return (LEAST - determinant).clamp_min(0.0).square().mean()
