"""The structure terms of fine-tuning, computed from the tokens of one frozen vision transformer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from losses.consistency import pair_consistency, reference_consistency
from losses.directional import directional_loss
from losses.warp import published_warp_loss, warp_smoothness
from models.dino import DinoFeatures, self_similarity
from training.config import FineTuneConfig

Tokens = Mapping[tuple[str, int], Tensor]


class References(NamedTuple):
    """Features [1, T, D] and self-similarities [1, T, T] of the real and the style reference."""

    source_features: Tensor
    target_features: Tensor
    source_structure: Tensor
    target_structure: Tensor


class StructureObjective:
    """Directional and consistency terms against one reference pair, whose tokens are computed once.

    Args:
        dino: the frozen transformer.
        config: layers and facets.
        source: real reference [1, 3, S, S] in [-1, 1].
        target: style reference [1, 3, S, S].
    """

    def __init__(self, dino: DinoFeatures, config: FineTuneConfig, *, source: Tensor, target: Tensor) -> None:
        self.dino, self.config = dino, config
        with torch.no_grad():
            tokens = self.tokens(torch.cat([source, target]))
            features, structure = self.features(tokens), self.structure(tokens)
        self.references = References(features[:1], features[1:], structure[:1], structure[1:])

    def tokens(self, image: Tensor) -> Tokens:
        """Return every token map that the terms need from images [N, 3, S, S], by one forward pass."""
        config = self.config
        return self.dino.tokens(image, layers={*config.directional_layers, *config.consistency_layers},
                                facets={config.directional_facet, config.consistency_facet})

    def features(self, tokens: Tokens) -> Tensor:
        """Return the directional features [N, layers T, D], float32."""
        config = self.config
        return torch.cat([tokens[config.directional_facet, layer].float() for layer in config.directional_layers], dim=1)

    def structure(self, tokens: Tokens) -> Tensor:
        """Return the self-similarities [N, layers T, T], float32."""
        config = self.config
        return torch.cat([self_similarity(tokens[config.consistency_facet, layer].float())
                          for layer in config.consistency_layers], dim=1)

    def terms(self, base: Tokens, stylized: Tokens) -> dict[str, Tensor]:
        """Return the unweighted terms ``directional``, ``pairs`` and ``reference``, scalars."""
        references = self.references
        with torch.no_grad():
            base_features, base_structure = self.features(base), self.structure(base)
        structure = self.structure(stylized)
        return {
            "directional": directional_loss(base_features, self.features(stylized),
                                            reference_source=references.source_features,
                                            reference_target=references.target_features),
            "pairs": pair_consistency(base_structure, structure),
            "reference": reference_consistency(base_structure, structure,
                                               reference_source=references.source_structure,
                                               reference_target=references.target_structure),
        }


def warp_term(grids: list[Tensor], form: str) -> Tensor:
    """Return the published sum or the mean-square smoothness of sampling grids [N, R, R, 2]."""
    return published_warp_loss(grids) if form == "published" else warp_smoothness(grids)
