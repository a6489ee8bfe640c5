"""Mixtures of fine-tuned generators: weights interpolated, warps interpolated by what they predict."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.deformable import DeformableGenerator
from models.spatial_transformer import AffineTransformer, dense, working_dtype
from models.stylegan2 import Generator


class WeightedSum(nn.Module):
    """Sum of the outputs of several networks on one input, by fixed weights."""

    def __init__(self, parts: Sequence[nn.Module], weights: Sequence[float]) -> None:
        super().__init__()
        self.parts, self.weights = nn.ModuleList(parts), tuple(weights)

    def forward(self, x: Tensor) -> Tensor:
        return sum(weight * part(x) for weight, part in zip(self.weights, self.parts, strict=True))


class AffineHead(nn.Module):
    """The six numbers [N, 6] that an affine block predicts for features [N, C, S, S]."""

    def __init__(self, block: AffineTransformer) -> None:
        super().__init__()
        self.loc_net, self.fc_loc = block.loc_net, block.fc_loc

    def forward(self, features: Tensor) -> Tensor:
        return dense(self.fc_loc, self.loc_net(features).flatten(1), working_dtype(features))


@torch.no_grad()
def mix_generators(parts: Sequence[Generator], weights: Sequence[float]) -> Generator:
    """Return a generator whose weights are the weighted mean of those of ``parts``, which share one config."""
    states = [part.state_dict() for part in parts]
    mean = {key: sum(weight * state[key] for weight, state in zip(weights, states, strict=True)) for key in states[0]}
    generator = Generator(parts[0].config).to(parts[0].input.input.device)
    generator.load_state_dict(mean)
    return generator.requires_grad_(False).eval()


def mix_deformables(parts: Sequence[DeformableGenerator], weights: Sequence[float]) -> DeformableGenerator:
    """Return a generator between several: w = sum_i a_i w_i for the synthesis, d = sum_i a_i d_i for the warps.

    The transformers' weights are not interpolated: halfway between two networks lies no halfway warp. Each predicts
    its own control points from the mixed features, and the mixture takes their weighted mean.

    Args:
        parts: generators of one shape, trained from one base.
        weights: one each, which sum to 1.

    Raises:
        ValueError: if the shapes, the modes or the counts differ, or the weights do not sum to 1.
    """
    first = parts[0]
    if len(parts) != len(weights) or abs(sum(weights) - 1.0) > 1e-6:
        raise ValueError(f"expected a weight for each of {len(parts)} generators with sum 1, got {list(weights)}")
    for other in parts[1:]:
        if (other.config, other.generator.config) != (first.config, first.generator.config):
            raise ValueError("generators of different shapes or warp modes cannot be mixed")
    mixed = DeformableGenerator(mix_generators([part.generator for part in parts], weights), first.config)
    for index in range(len(first.config.resolutions)):
        if mixed.tps is not None:
            mixed.tps.stns[index].loc_net = WeightedSum([part.tps.stns[index].loc_net for part in parts], weights)
        if mixed.affine is not None:
            heads = [AffineHead(part.affine.stns[index]) for part in parts]
            block = mixed.affine.stns[index]
            block.loc_net, block.fc_loc = WeightedSum(heads, weights), nn.Sequential()
    return mixed.requires_grad_(False).eval().to(first.generator.input.input.device)
