"""The drawing stages of a style as a network, for ONNX."""

from __future__ import annotations

from torch import Tensor, nn

from drawing.compose import Strengths, draw_mapped
from drawing.style import DrawnStyle
from styles.controls import Control


class DrawnGraph(nn.Module):
    """The drawing stages of a style for one aligned face: ``drawing.compose.draw_mapped`` at full strength.

    Args:
        drawn: the style.
    """

    inputs: tuple[Control, ...] = ()

    def __init__(self, drawn: DrawnStyle) -> None:
        super().__init__()
        self.drawn = drawn

    def forward(self, photo: Tensor, parts: Tensor, grid: Tensor, placed: Tensor) -> Tensor:
        """photo [1, 3, S, S] in [-1, 1], parts [1, K, S, S], grid [1, R, R, 2], placed [1, 3 K + 3, Q, Q] -> [1, 3, S, S]."""
        return draw_mapped(photo, parts, grid, placed, self.drawn, Strengths())
