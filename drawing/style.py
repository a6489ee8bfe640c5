"""What the drawing stages know of a style: how it deforms, its tone and its strokes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from drawing.strokes import CELL, LEAST_SIDE, Strokes, drawn
from drawing.tone import Tone
from drawing.warp import POINTS, deformation, eye_axis, turned

# Side in px of the frame that faces are drawn at.
FRAME = 512
PREFIX = "drawing."
# What a file holds of the strokes.
STROKES = ("strokes.drawing", "strokes.parts")


@dataclass(frozen=True)
class DrawnStyle:
    """A drawing, told apart into what the stages take from it.

    Attributes:
        source: points of the face that it was drawn from, [1, POINTS, 2] as fractions of the frame's side.
        moved: how it moves them, see ``drawing.warp.deformation``, [1, POINTS, 2].
        tone: of the drawing.
        strokes: of the drawing, with weights of sum 1; several in mixtures.
    """

    source: Tensor
    moved: Tensor
    tone: Tone
    strokes: tuple[tuple[Strokes, float], ...] = ()

    @classmethod
    def of_points(cls, source: Tensor, target: Tensor, tone: Tone) -> DrawnStyle:
        """Return the style in which points ``source`` of a face are at ``target``, both [1, POINTS, 2], without strokes."""
        return cls(source, deformation(source, target), tone)

    def with_strokes(self, drawing: Tensor, parts: Tensor) -> DrawnStyle:
        """Return it with the strokes of its drawing [1, 3, S, S], of parts [1, K, S, S]."""
        return replace(self, strokes=((Strokes.of(drawing, parts, self.shape), 1.0),))

    @property
    def shape(self) -> Tensor:
        """Where the drawing has its points, but for the head's pose, [1, POINTS, 2]."""
        return self.source + turned(self.moved, eye_axis(self.source))

    def draw(self, image: Tensor, parts: Tensor, told: Tensor | None, *, frame: float, strength: float) -> Tensor:
        """Return a toned image [1, 3, H, W] drawn with the style's strokes, see ``drawing.strokes.drawn``."""
        if not self.strokes or strength == 0.0:
            return image
        return sum(weight * drawn(strokes, image, parts, told, frame=frame, strength=strength)
                   for strokes, weight in self.strokes)

    @classmethod
    def mix(cls, styles: Sequence[DrawnStyle], weights: Sequence[float]) -> DrawnStyle:
        """Return a mixture; weights sum to 1."""
        both = list(zip(styles, weights, strict=True))
        return cls(sum(weight * style.source for style, weight in both), sum(weight * style.moved for style, weight in both),
                   Tone.mix([style.tone for style in styles], weights),
                   tuple((strokes, weight * share) for style, weight in both for strokes, share in style.strokes))

    def tensors(self) -> dict[str, Tensor]:
        """Return what a file holds of it, names behind ``PREFIX``; not for mixtures."""
        found = {"source": self.source, "moved": self.moved}
        found |= {f"tone.{name}": tensor for name, tensor in self.tone.tensors().items()}
        for strokes, _ in self.strokes[:1]:
            found |= dict(zip(STROKES, strokes.bytes_of(), strict=True))
        return {PREFIX + name: tensor.detach().contiguous() for name, tensor in found.items()}

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor], *, device: torch.device | str = "cpu") -> DrawnStyle | None:
        """Rebuild a style from ``tensors()``, or return None where there are none.

        Raises:
            ValueError: for tensors that do not fit.
        """
        own = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}
        if not own:
            return None
        tones = {name.removeprefix("tone."): t for name, t in own.items() if name.startswith("tone.")}
        try:
            source, moved = own["source"].float(), own["moved"].float()
        except KeyError as error:
            raise ValueError(f"holds no {PREFIX}{error.args[0]}") from error
        try:
            tone = Tone.of_tensors(tones)
        except KeyError as error:
            raise ValueError(f"holds no {PREFIX}tone.{error.args[0]}") from error
        except ValueError as error:
            raise ValueError(f"{PREFIX}tone.{error}") from error
        for name, points in (("source", source), ("moved", moved)):
            if list(points.shape) != [1, POINTS, 2]:
                raise ValueError(f"{PREFIX}{name} is {list(points.shape)}, expected [1, {POINTS}, 2]")
        style = cls(source.to(device), moved.to(device), tone.to(device))
        if not any(name.startswith("strokes.") for name in own):
            return style
        drawing, parts = (own.get(name) for name in STROKES)
        check_strokes(drawing, parts, count=len(tone.mean))
        return replace(style, strokes=((Strokes.of_bytes(drawing, parts, style.shape.cpu()).to(device), 1.0),))


def check_strokes(drawing: Tensor | None, parts: Tensor | None, *, count: int) -> None:
    """Raise ValueError unless tensors of a file are a drawing [1, 3, S, S] and its ``count`` parts by cell, both uint8."""
    for name, tensor, shape in zip(STROKES, (drawing, parts), ([1, 3], [1, count]), strict=True):
        if tensor is None:
            raise ValueError(f"holds no {PREFIX}{name}")
        if tensor.dtype != torch.uint8 or tensor.ndim != 4 or list(tensor.shape[:2]) != shape:
            raise ValueError(f"{PREFIX}{name} is {tensor.dtype} {list(tensor.shape)}, expected uint8 {shape} and sides")
    side = drawing.shape[3]
    if side % CELL or side < LEAST_SIDE or list(drawing.shape[2:]) != [side, side] or list(parts.shape[2:]) != [side // CELL] * 2:
        raise ValueError(f"{PREFIX}strokes are {list(drawing.shape)} and {list(parts.shape)}, expected squares, {CELL} px a cell")


def enlarged_picture(image: Tensor, side: int = FRAME) -> Tensor:
    """Return square images [N, 3, S, S] at ``side`` px, bicubically; larger ones stay as they are."""
    if image.shape[3] >= side:
        return image
    return F.interpolate(image, size=(side, side), mode="bicubic", align_corners=False).clamp(-1.0, 1.0)
