"""What the drawing stages know of a style: how it deforms, its tone and its strokes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from drawing.strokes import StrokeConfig, StrokeNetwork, drawn
from drawing.tone import Tone
from drawing.warp import POINTS, deformation, eye_axis, turned

# Side in px of the frame that strokes are trained and faces drawn at.
FRAME = 512
PREFIX = "drawing."


@dataclass(frozen=True)
class DrawnStyle:
    """A drawing, told apart into what the stages take from it.

    Attributes:
        source: points of the face that it was drawn from, [1, POINTS, 2] as fractions of the frame's side.
        moved: how it moves them, see ``drawing.warp.deformation``, [1, POINTS, 2].
        tone: of the drawing.
        strokes: networks that draw, with weights of sum 1; several in mixtures, none where nothing has been trained.
    """

    source: Tensor
    moved: Tensor
    tone: Tone
    strokes: tuple[tuple[StrokeNetwork, float], ...] = ()

    @classmethod
    def of_points(cls, source: Tensor, target: Tensor, tone: Tone, network: StrokeNetwork | None = None) -> DrawnStyle:
        """Return the style in which a face with points ``source`` has them at ``target``, both [1, POINTS, 2]."""
        return cls(source, deformation(source, target), tone, () if network is None else ((network, 1.0),))

    @property
    def shape(self) -> Tensor:
        """Where the drawing has its points, but for the head's pose, [1, POINTS, 2]."""
        return self.source + turned(self.moved, eye_axis(self.source))

    def draw(self, image: Tensor, parts: Tensor, *, strength: float) -> Tensor:
        """Return a toned image [1, 3, H, W] drawn with the style's strokes."""
        if not self.strokes or strength == 0.0:
            return image
        return sum(weight * drawn(network, image, parts, strength=strength) for network, weight in self.strokes)

    @classmethod
    def mix(cls, styles: Sequence[DrawnStyle], weights: Sequence[float]) -> DrawnStyle:
        """Return a mixture; weights sum to 1."""
        both = list(zip(styles, weights, strict=True))
        return cls(sum(weight * style.source for style, weight in both), sum(weight * style.moved for style, weight in both),
                   Tone.mix([style.tone for style in styles], weights),
                   tuple((network, weight * share) for style, weight in both for network, share in style.strokes))

    def tensors(self) -> dict[str, Tensor]:
        """Return what a file holds of it, names behind ``PREFIX``; not for mixtures."""
        found = {"source": self.source, "moved": self.moved}
        found |= {f"tone.{name}": tensor for name, tensor in self.tone.tensors().items()}
        for network, _ in self.strokes[:1]:
            found |= {f"strokes.{name}": tensor for name, tensor in network.state_dict().items()}
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
        state = {name.removeprefix("strokes."): tensor for name, tensor in own.items() if name.startswith("strokes.")}
        network = stroke_network(state).to(device) if state else None
        return cls(source.to(device), moved.to(device), tone.to(device), () if network is None else ((network, 1.0),))


def stroke_network(state: Mapping[str, Tensor]) -> StrokeNetwork:
    """Return the frozen network of a state; its shape follows from it.

    Raises:
        ValueError: where it does not fit.
    """
    try:
        widths = tuple(state[f"{name}.weight"].shape[0] for name in ("enter", "down", "down_again"))
        network = StrokeNetwork(StrokeConfig(state["enter.weight"].shape[1] - 3, widths))
        network.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"strokes do not fit: {' '.join(str(error).split())[:150]}") from error
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def enlarged_picture(image: Tensor, side: int = FRAME) -> Tensor:
    """Return square images [N, 3, S, S] at ``side`` px, bicubically; larger ones stay as they are."""
    if image.shape[3] >= side:
        return image
    return F.interpolate(image, size=(side, side), mode="bicubic", align_corners=False).clamp(-1.0, 1.0)
