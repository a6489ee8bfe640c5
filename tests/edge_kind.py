"""A kind of style for tests, in one file that nothing else knows: faces as drawings of their edges."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from checkpoints.io import fingerprint, save_model
from styles.controls import Control
from styles.protocol import Style
from styles.registry import register

INK = Control("ink", "darkness of the lines", default=1.0, samples=0.8, low=0.0, high=2.0)
PAPER = Control("paper", "colour of the paper", type="choice", choices=("white", "grey"), default="white")


@register
class EdgeDrawing(Style):
    """White paper minus the length of the gradient of the face's grey values."""

    kind = "edges"

    @classmethod
    def load(cls, path, tensors, config, *, device):
        style = cls(path.stem, config, fingerprint(tensors), device=device)
        style.kernel = tensors["kernel"].to(device)
        return style

    @classmethod
    def controls_of(cls, config, names):
        return INK, PAPER

    @property
    def controls(self):
        return INK, PAPER

    @torch.no_grad()
    def draw(self, face, look, *, landmarks=None):
        generator = self.base.generator
        image = generator.synthesis(face.w_plus, noise=generator.fixed_noise(), feature_transforms=face.transforms())
        slopes = F.conv2d(image.mean(dim=1, keepdim=True), self.kernel.to(image.dtype), padding=1)
        length = (slopes.square().sum(dim=1, keepdim=True) + 1e-6).sqrt()
        ink = torch.as_tensor(look.get("ink", INK.default)).reshape(-1, 1, 1, 1)
        paper = 1.0 if look.get("paper", PAPER.default) == "white" else 0.5
        return (paper - ink * length).clamp(-1.0, 1.0).expand(-1, 3, -1, -1)


def save_edges(path, base):
    """Write a style file of this kind."""
    slope = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 4
    save_model(path, {"kernel": torch.stack([slope, slope.T])[:, None]},
               {"kind": "style", "style_kind": "edges", "base": {"name": "starter", "fingerprint": base.fingerprint}})
