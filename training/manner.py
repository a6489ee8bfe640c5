"""How much of a drawing the painter can draw by itself, which decides what of a style is used by default."""

from __future__ import annotations

import torch
from torch import Tensor

from checkpoints.features import load_painter
from losses.perceptual import ViTTokenDistance
from models.dino import DinoFeatures
from models.painter import Painter, fitted, painted
from training.finetune import Pair
from training.guide import LandmarkGuide
from training.pair_start import carried

# Blocks whose tokens tell media apart; how far it gets is looked for at these strengths; distances from the drawing at which
# the painter counts as drawing all of it, and none. Drawings made by this project's filters lie at 0.1 to 0.4, four drawings by
# artists at 0.6 to 0.8: what it has not learned it turns into grain.
LAYERS, STRENGTHS = (0, 1), (0.5, 0.75, 1.0)
ALL, NONE = 0.4, 0.6


def read_manner(picture: Tensor) -> Tensor:
    """Return how a picture [1, 3, S, S] in [-1, 1] is drawn, a code [code] of the bundled painter."""
    painter = load_painter(device=picture.device).module
    with torch.no_grad():
        return painter.read(fitted(picture, painter.config.size))[0]


def manner_of_pair(pair: Pair, guide: LandmarkGuide | None, dino: DinoFeatures) -> tuple[Tensor, float]:
    """Return the code of the drawing's manner, and how much of the drawing the bundled painter draws by it.

    The real face is brought to the drawing's shape where the landmarks of both are sure.
    """
    source, code = pair.source, read_manner(pair.target)
    if guide is not None and guide.is_sure:
        source = carried(source, guide.points[:1], guide.points[1:]).clamp(-1.0, 1.0)
    painter = load_painter(device=source.device).module
    return code, painted_share(painter, code, source=source, drawing=pair.target, dino=dino)


@torch.no_grad()
def painted_share(painter: Painter, code: Tensor, *, source: Tensor, drawing: Tensor, dino: DinoFeatures) -> float:
    """Return how much of a drawing the painter draws, 0 to 1, by the distance of the painted real face from it.

    Args:
        painter: the network.
        code: of the drawing, [code].
        source: the real face in the drawing's shape, [1, 3, S, S] in [-1, 1].
        drawing: [1, 3, S, S].
        dino: the frozen transformer.
    """
    distance, source = ViTTokenDistance(dino, layers=LAYERS), fitted(source, painter.config.size)
    drawing = fitted(drawing, painter.config.size)
    left = min(float(distance(painted(painter, source, code[None], strength=share), drawing)) for share in STRENGTHS)
    return round(min(1.0, max(0.0, (NONE - left) / (NONE - ALL))), 3)
