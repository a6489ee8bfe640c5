"""The published way of computing the method, over the same weights: the yardstick for speed and memory.

Float32 in NCHW; one convolution weight per sample, run as a grouped convolution; resampling by inserting zeros and
filtering all of them; noise, bias, activation and gain each as an operation; the vision transformer run anew for every
image and every layer that is read; one pass of the generator for each term of the objective.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.deformable import Deformed
from models.dino import DinoFeatures
from models.layers import Blur, FusedLeakyReLU, ModulatedConv2d, StyledConv, ToRGB, Upsample
from models.stylegan2 import ConstantInput
from training.finetune import FineTuner
from training.objective import StructureObjective


def zero_insertion(x: Tensor, kernel: Tensor, *, up: int = 1, down: int = 1, pad: tuple[int, int] = (0, 0)) -> Tensor:
    """Resample x [N, C, H, W] step by step: insert zeros, pad, convolve every channel as an image, drop pixels."""
    count, channels, height, width = x.shape
    x = x.reshape(count * channels, 1, height, 1, width, 1)  # [N, C, H, W] -> [N C, 1, H, 1, W, 1]
    x = F.pad(x, (0, up - 1, 0, 0, 0, up - 1))  # zeros behind every pixel
    x = x.reshape(count * channels, 1, height * up, width * up)
    x = F.pad(x, (max(pad[0], 0), max(pad[1], 0)) * 2)
    crop = [slice(max(-pad[0], 0), x.shape[d] - max(-pad[1], 0)) for d in (2, 3)]
    y = F.conv2d(x[:, :, crop[0], crop[1]], kernel.flip(0, 1)[None, None].to(x.dtype))[:, :, ::down, ::down]
    return y.reshape(count, channels, *y.shape[2:])


class _Blur(Blur):
    def forward(self, x: Tensor) -> Tensor:
        return zero_insertion(x, self.kernel, down=self.down, pad=self.pad)


class _Upsample(Upsample):
    def forward(self, x: Tensor) -> Tensor:
        return zero_insertion(x, self.kernel, up=2, pad=(2, 1))


class _Activation(FusedLeakyReLU):
    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x + self.bias[None, :, None, None], 0.2) * math.sqrt(2.0)


class _StyledConv(StyledConv):
    def forward(self, x: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        return self.activate(self.conv(x, w) + self.noise.weight * noise)


class _ToRGB(ToRGB):
    def forward(self, x: Tensor, w: Tensor, skip: Tensor | None = None) -> Tensor:
        rgb = self.conv(x, w) + self.bias
        return rgb if skip is None else rgb + self.upsample(skip)


class _ConstantInput(ConstantInput):
    def forward(self, batch: int) -> Tensor:
        return self.input.repeat(batch, 1, 1, 1)


_PUBLISHED = {Blur: _Blur, Upsample: _Upsample, FusedLeakyReLU: _Activation, StyledConv: _StyledConv, ToRGB: _ToRGB,
              ConstantInput: _ConstantInput}


def publish(module: nn.Module) -> nn.Module:
    """Return a copy of a network that computes the published way; names and values of the weights stay."""
    module = copy.deepcopy(module)
    for part in module.modules():
        part.__class__ = _PUBLISHED.get(type(part), type(part))
        if isinstance(part, ModulatedConv2d):
            part.modulate_weights = True
    return module


def tokens_one_by_one(dino: DinoFeatures, image: Tensor, *, layer: int, facet: str) -> Tensor:
    """Return tokens [N, T, D] of one layer by a full pass of the transformer per image, caught by a hook."""
    found = []
    for one in image.split(1):
        caught: list[Tensor] = []
        block = dino.vit.blocks[layer]
        source = block if facet == "f" else block.attn.qkv
        handle = source.register_forward_hook(lambda _module, _inputs, output, caught=caught: caught.append(output))
        try:
            dino.vit.forward_features(dino.prepare(one))
        finally:
            handle.remove()
        rows = caught[0] if facet == "f" else caught[0].chunk(3, dim=2)["qkv".index(facet)]
        found.append(rows[:, 1:])
    return torch.cat(found)


class PublishedObjective(StructureObjective):
    """The structure terms from one transformer pass per image, layer and term; its "tokens" are the images."""

    def tokens(self, image: Tensor) -> Mapping[tuple[str, int], Tensor]:
        return {("image", 0): image}

    def features(self, tokens: Mapping[tuple[str, int], Tensor]) -> Tensor:
        return self._read(tokens, self.config.directional_layers, self.config.directional_facet)

    def structure(self, tokens: Mapping[tuple[str, int], Tensor]) -> Tensor:
        rows = self._read(tokens, self.config.consistency_layers, self.config.consistency_facet)
        norm = rows.norm(dim=2, keepdim=True)
        return (rows @ rows.transpose(1, 2)) / (norm @ norm.transpose(1, 2)).clamp_min(1e-8)

    def _read(self, tokens: Mapping[tuple[str, int], Tensor], layers: Sequence[int], facet: str) -> Tensor:
        image = tokens["image", 0]
        return torch.cat([tokens_one_by_one(self.dino, image, layer=layer, facet=facet) for layer in layers], dim=1)


class _SplitSynthesis:
    """Stands for the deformable generator in the generator's phase: one pass per term, joined afterwards."""

    def __init__(self, deformable: nn.Module, batch: int) -> None:
        self.deformable, self.batch = deformable, batch

    def __getattr__(self, name: str):
        return getattr(self.deformable, name)

    def synthesis(self, w_plus: Tensor, *, noise: Sequence[Tensor], **rest: Any) -> Deformed:
        if rest or len(w_plus) <= self.batch:  # one term's samples
            return self.deformable.synthesis(w_plus, noise=noise, **rest)
        parts = [slice(0, self.batch), slice(self.batch, len(w_plus))]
        found = [self.deformable.synthesis(w_plus[part], noise=[one[part] for one in noise]) for part in parts]
        grids = [torch.cat(pair) for pair in zip(*(one.grids for one in found), strict=True)]
        return Deformed(torch.cat([one.image for one in found]), grids)


class PublishedFineTuner(FineTuner):
    """A fine-tuning run whose networks come from ``publish`` and whose objective is ``PublishedObjective``."""

    def use_published_objective(self, dino: DinoFeatures) -> None:
        self.objective = PublishedObjective(dino, self.config, source=self.pair.source, target=self.pair.target)

    def _generator_phase(self) -> dict[str, Tensor]:
        whole = self.deformable
        self.deformable = _SplitSynthesis(whole, self.config.batch)
        try:
            return super()._generator_phase()
        finally:
            self.deformable = whole
