"""The networks of stylegan2-ada-pytorch under our names.

Both are the same functions of other names: 3x3 convolutions with equation 3's demodulation, skip connections to RGB, the
[1, 3, 3, 1] filter, noise added before bias and leaky ReLU (slope 0.2, gain sqrt 2), run-time scaled weights. Two details
differ. Our demodulation scales the weights by 1 / sqrt(in k^2) before it normalises them, so its 1e-8 weighs in k^2 times
as much, 5e-9 of the result at initialisation; and the clamp of features to +-256 that their half-precision training adds
is left out, for we compute in float32.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from models.discriminator import DiscriminatorConfig
from models.layers import blur_kernel
from models.stylegan2 import GeneratorConfig, generator_config_from_state

State = dict[str, Tensor]


class ConvertedGenerator(NamedTuple):
    """Config and state of ``models.stylegan2.Generator``, and w_avg [D]."""

    config: GeneratorConfig
    state: State
    w_avg: Tensor


class ConvertedDiscriminator(NamedTuple):
    """Config and state of ``models.discriminator.Discriminator``."""

    config: DiscriminatorConfig
    state: State


def _resolutions(state: Mapping[str, Tensor], pattern: str) -> list[int]:
    """Return the sides of the blocks that ``pattern`` finds in the names, ascending from 4 without a gap."""
    sides = sorted({int(found.group(1)) for key in state if (found := re.match(pattern, key))})
    if len(sides) < 2 or sides != [4 * 2**k for k in range(len(sides))]:
        raise ValueError(f"has blocks of {sides or 'no'} px, expected 4, 8, ... without a gap; this is no network of "
                         "stylegan2-ada-pytorch")
    return sides


class _Source:
    """Tensors that are taken one by one, so that what is left over is known."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.left = dict(state)

    def take(self, name: str) -> Tensor:
        if name not in self.left:
            raise ValueError(f"misses {name}; only unconditional networks of stylegan2-ada-pytorch are read")
        return self.left.pop(name)

    def finish(self) -> None:
        """Check the filters and that nothing else is left."""
        for name in [name for name in self.left if name.endswith("resample_filter")]:
            taps = self.left.pop(name)
            if taps.shape != (4, 4) or float((taps.double() - blur_kernel().double()).abs().max()) > 1e-6:
                raise ValueError(f"{name} is not the [1, 3, 3, 1] filter, so this is another network")
        if self.left:
            raise ValueError(f"holds {', '.join(sorted(self.left)[:3])}, which the unconditional network does not have")


def _modulated(source: _Source, prefix: str, name: str, out: State) -> None:
    out[f"{name}.weight"] = source.take(f"{prefix}.weight")[None]  # [O, I, k, k] -> [1, O, I, k, k]
    out[f"{name}.modulation.weight"] = source.take(f"{prefix}.affine.weight")
    out[f"{name}.modulation.bias"] = source.take(f"{prefix}.affine.bias")


def _styled(source: _Source, prefix: str, name: str, layer: int, out: State) -> None:
    _modulated(source, prefix, f"{name}.conv", out)
    out[f"{name}.noise.weight"] = source.take(f"{prefix}.noise_strength").reshape(1)  # [] -> [1]
    out[f"{name}.activate.bias"] = source.take(f"{prefix}.bias")
    out[f"noises.noise_{layer}"] = source.take(f"{prefix}.noise_const")[None, None]  # [H, W] -> [1, 1, H, W]


def _to_rgb(source: _Source, prefix: str, name: str, out: State) -> None:
    _modulated(source, prefix, f"{name}.conv", out)
    out[f"{name}.bias"] = source.take(f"{prefix}.bias").reshape(1, 3, 1, 1)  # [3] -> [1, 3, 1, 1]


def convert_generator(state: Mapping[str, Tensor]) -> ConvertedGenerator:
    """Rename the state dict of a stylegan2-ada-pytorch generator.

    Args:
        state: keys ``mapping.fc{i}.*``, ``mapping.w_avg``, ``synthesis.b{res}.*``.

    Returns:
        What ``Generator`` loads strictly.

    Raises:
        ValueError: naming the key by which it is another network.
    """
    if "mapping.embed.weight" in state:
        raise ValueError(f"is conditional (labels of {state['mapping.embed.weight'].shape[1]} numbers); only networks without "
                         "labels are read")
    colours = len(state["synthesis.b4.torgb.bias"]) if "synthesis.b4.torgb.bias" in state else 3
    if colours != 3:
        told = "1 channel, grey ones" if colours == 1 else f"{colours} channels, not RGB"
        raise ValueError(f"makes pictures of {told}; only networks of colour pictures are read")
    sides, source, out = _resolutions(state, r"synthesis\.b(\d+)\."), _Source(state), {}
    w_avg = source.take("mapping.w_avg")
    depth = len({key for key in state if re.fullmatch(r"mapping\.fc\d+\.weight", key)})
    for index in range(depth):
        for kind in ("weight", "bias"):
            out[f"style.{index + 1}.{kind}"] = source.take(f"mapping.fc{index}.{kind}")
    out["input.input"] = source.take("synthesis.b4.const")[None]  # [C, 4, 4] -> [1, C, 4, 4]
    _styled(source, "synthesis.b4.conv1", "conv1", 0, out)
    _to_rgb(source, "synthesis.b4.torgb", "to_rgb1", out)
    for block, side in enumerate(sides[1:]):
        prefix = f"synthesis.b{side}"
        for part in (0, 1):
            layer = 2 * block + part
            _styled(source, f"{prefix}.conv{part}", f"convs.{layer}", layer + 1, out)
        _to_rgb(source, f"{prefix}.torgb", f"to_rgbs.{block}", out)
        out[f"convs.{2 * block}.conv.blur.kernel"] = out[f"to_rgbs.{block}.upsample.kernel"] = blur_kernel(4.0)
    source.finish()
    if w_avg.ndim != 1:
        raise ValueError(f"mapping.w_avg is {list(w_avg.shape)}, expected [D]; only unconditional networks are read")
    return ConvertedGenerator(generator_config_from_state(out), out, w_avg)


def convert_discriminator(state: Mapping[str, Tensor]) -> ConvertedDiscriminator:
    """Rename the state dict of a stylegan2-ada-pytorch discriminator of the residual architecture.

    Args:
        state: keys ``b{res}.{fromrgb, conv0, conv1, skip, conv, fc, out}.*``.

    Returns:
        What ``Discriminator`` loads strictly.

    Raises:
        ValueError: naming the key by which it is another network.
    """
    sides, source, out = _resolutions(state, r"b(\d+)\."), _Source(state), {}
    size = sides[-1]
    out["convs.0.0.weight"] = source.take(f"b{size}.fromrgb.weight")
    out["convs.0.1.bias"] = source.take(f"b{size}.fromrgb.bias")
    channels = {size: len(out["convs.0.1.bias"])}
    for index, side in enumerate(reversed(sides[1:])):
        name, prefix = f"convs.{index + 1}", f"b{side}"
        out[f"{name}.conv1.0.weight"] = source.take(f"{prefix}.conv0.weight")
        out[f"{name}.conv1.1.bias"] = source.take(f"{prefix}.conv0.bias")
        out[f"{name}.conv2.1.weight"] = source.take(f"{prefix}.conv1.weight")
        out[f"{name}.conv2.2.bias"] = source.take(f"{prefix}.conv1.bias")
        out[f"{name}.skip.1.weight"] = source.take(f"{prefix}.skip.weight")
        out[f"{name}.conv2.0.kernel"] = out[f"{name}.skip.0.kernel"] = blur_kernel()
        channels[side // 2] = len(out[f"{name}.conv2.2.bias"])
    out["final_conv.0.weight"], out["final_conv.1.bias"] = source.take("b4.conv.weight"), source.take("b4.conv.bias")
    for index, name in enumerate(("fc", "out")):
        for kind in ("weight", "bias"):
            out[f"final_linear.{index}.{kind}"] = source.take(f"b4.{name}.{kind}")
    source.finish()
    return ConvertedDiscriminator(DiscriminatorConfig(size, channels), {key: t.contiguous() for key, t in out.items()})
