"""Equalised and modulated layers of StyleGAN2 with rosinality's state-dict names."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from op import filtered_leaky_relu, fused_leaky_relu, scale_channels, upfirdn2d

BLUR = (1.0, 3.0, 3.0, 1.0)


def blur_kernel(gain: float = 1.0) -> Tensor:
    """Return the separable [1, 3, 3, 1] low-pass filter as a [4, 4] kernel that sums to ``gain``."""
    taps = torch.tensor(BLUR, device="cpu")
    kernel = taps[:, None] * taps[None, :]
    return kernel * (gain / kernel.sum())


def normal(*shape: int, over: float = 1.0) -> Tensor:
    """Return initial values from a normal distribution, divided by ``over``.

    On the meta device it is a tensor without values, at once: drawing there would import torch's compiler first.
    """
    made = torch.empty(*shape)
    return made if made.is_meta else torch.randn(*shape) / over


class PixelNorm(nn.Module):
    """Normalise the second dimension to unit mean square: x / sqrt(mean(x^2) + 1e-8), ProgressiveGAN section 4.2."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-8)


class EqualLinear(nn.Module):
    """Linear layer whose weight is scaled at run time: y = x W^T (lr_mul / sqrt(in)) + b lr_mul.

    Args:
        in_dim, out_dim: feature counts.
        bias_init: value of the bias in the output's units.
        lr_mul: learning-rate multiplier, StyleGAN section C.
        activate: append the fused leaky ReLU.
    """

    def __init__(
        self, in_dim: int, out_dim: int, *, bias_init: float = 0.0, lr_mul: float = 1.0, activate: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(normal(out_dim, in_dim, over=lr_mul))
        self.bias = nn.Parameter(torch.full((out_dim,), float(bias_init)))
        self.scale = lr_mul / math.sqrt(in_dim)
        self.lr_mul = lr_mul
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        # Styles stay in the weights' precision under autocast: what they scale would show their rounding everywhere.
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(self.weight.dtype) * self.scale  # of a few rows less than the weight
            if self.activate:
                return fused_leaky_relu(F.linear(x, self.weight), self.bias * self.lr_mul)
            return F.linear(x, self.weight, self.bias * self.lr_mul)


class EqualConv2d(nn.Module):
    """Convolution whose weight is scaled at run time by 1 / sqrt(in * k^2); x [N, in, H, W]."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, padding: int = 0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(normal(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.scale = 1.0 / math.sqrt(in_channels * kernel_size**2)
        self.stride, self.padding = stride, padding

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.scale, self.bias, stride=self.stride, padding=self.padding)


class FusedLeakyReLU(nn.Module):
    """Holder of the bias of ``fused_leaky_relu``; x [N, C, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return fused_leaky_relu(x, self.bias)


class Blur(nn.Module):
    """Low-pass filter, optionally decimating: upfirdn2d with the [1, 3, 3, 1] kernel.

    Args:
        pad: (before, after) in pixels.
        gain: sum of the kernel.
        down: decimation factor.
    """

    kernel: Tensor

    def __init__(self, pad: tuple[int, int], *, gain: float = 1.0, down: int = 1) -> None:
        super().__init__()
        self.register_buffer("kernel", blur_kernel(gain))
        self.pad, self.down = pad, down

    def forward(self, x: Tensor) -> Tensor:
        return upfirdn2d(x, self.kernel, down=self.down, pad=self.pad)


class Upsample(nn.Module):
    """Double the resolution with the [1, 3, 3, 1] filter; x [N, C, H, W] -> [N, C, 2H, 2W]."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", blur_kernel(4.0))

    def forward(self, x: Tensor) -> Tensor:
        return upfirdn2d(x, self.kernel, up=2, pad=(2, 1))


class ModulatedConv2d(nn.Module):
    """Convolution whose input channels are scaled by a style and whose output is normalised.

    w'_oik = s_i w_oik; w''_oik = w'_oik / sqrt(sum_ik w'_oik^2 + 1e-8), StyleGAN2 equations 1 and 3. A single sample
    takes its own weight w''. Several samples share one weight: the input is scaled with s and the output with the
    demodulation factor, which is the same product and avoids a grouped convolution. On CPUs a single sample is one of
    several too while nothing is trained: what depends on the weight alone is kept then. Setting ``modulate_weights``
    computes it in the published order instead, with one weight per sample: slower, equal up to rounding.

    Args:
        in_channels, out_channels, kernel_size: of the convolution.
        style_dim: width of w.
        demodulate: apply equation 3.
        upsample: double the resolution by a transposed convolution and a blur.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, style_dim: int, *, demodulate: bool = True,
        upsample: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(normal(1, out_channels, in_channels, kernel_size, kernel_size))
        self.modulation = EqualLinear(style_dim, in_channels, bias_init=1.0)
        self.scale = 1.0 / math.sqrt(in_channels * kernel_size**2)
        self.padding = kernel_size // 2
        self.demodulate = demodulate
        self.blur = Blur((1, 1), gain=4.0) if upsample else None
        self.modulate_weights = False
        self._kept: tuple[tuple, Tensor, Tensor] | None = None

    @property
    def keeps(self) -> bool:
        """Whether what depends on the weight alone is kept from one call to the next."""
        plain = not (torch.jit.is_tracing() or torch.compiler.is_compiling())
        return plain and self.weight.device.type == "cpu" and not self.weight.requires_grad

    def shared(self) -> tuple[Tensor, Tensor]:
        """Return the scaled weight [out, in, k, k], laid out as convolutions read it fastest, and its energy [out, in]."""
        weight = self.weight
        state = (weight.data_ptr(), weight._version, weight.dtype) if self.keeps else ()
        if state and self._kept is not None and self._kept[0] == state:
            return self._kept[1:]
        scaled = weight[0] * self.scale
        energy = scaled.float().square().sum(dim=(2, 3))
        if state:
            scaled = (scaled.contiguous(memory_format=torch.channels_last) if self.blur is None
                      else scaled.transpose(0, 1).contiguous().transpose(0, 1))
            self._kept = state, scaled, energy
        return scaled, energy

    def grouped(self, x: Tensor, style: Tensor) -> Tensor:
        """Convolve every sample with its own weight, as one grouped convolution; style [N, in]."""
        count, width, height, length = x.shape
        weight = self.scale * self.weight * style[:, None, :, None, None]  # [N, out, in, k, k]
        if self.demodulate:
            demod = torch.rsqrt(weight.square().sum(dim=(2, 3, 4)) + 1e-8)
            weight = weight * demod[:, :, None, None, None]
        x = x.reshape(1, count * width, height, length)  # [N, in, H, W] -> [1, N in, H, W]
        if self.blur is None:
            y = F.conv2d(x, weight.flatten(0, 1), padding=self.padding, groups=count)
        else:
            y = F.conv_transpose2d(x, weight.transpose(1, 2).flatten(0, 1), stride=2, groups=count)
        y = y.reshape(count, -1, *y.shape[2:])  # [1, N out, H', W'] -> [N, out, H', W']
        return y if self.blur is None else self.blur(y)

    def convolve(self, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor | None]:
        """Do all but the blur and the last scaling: x [N, in, H, W], w [N, style_dim].

        Returns:
            [N, out, H, W], or [N, out, 2H + 1, 2W + 1] where upsampling, and the factor [N, out] by which that must
            still be multiplied, None where it is 1.
        """
        style, factor = self.modulation(w), None  # [N, in]
        # Gradients of the style alone are cheaper by the maps: no gradient of the weight is needed on the way.
        small = self.keeps and x.shape[2] * x.shape[3] <= self.weight[0, :, 0].numel()  # less to scale than the weight
        if len(x) == 1 and not small and (self.weight.requires_grad or not style.requires_grad):
            # The weight is scaled by a number anyway; scaling it by the style too saves a pass over the maps.
            weight = self.weight[0] * (self.scale * style[:, :, None, None])  # [out, in, k, k]
            if self.demodulate:
                factor = torch.rsqrt(weight.float().square().sum(dim=(1, 2, 3)) + 1e-8)[None]  # [1, out]
            if factor is not None and weight.numel() < x.shape[2] * x.shape[3] * weight.shape[0]:
                weight, factor = weight * factor.t()[:, :, None, None], None
        else:
            with torch.autocast(x.device.type, enabled=False):
                weight, energy = self.shared()
            x = scale_channels(x, style)
            if self.demodulate:
                with torch.autocast(x.device.type, enabled=False):
                    factor = torch.rsqrt(style.float().square() @ energy.t() + 1e-8)  # [N, out]
        if self.blur is None:
            return F.conv2d(x, weight, padding=self.padding), factor
        return F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), factor

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """x [N, in, H, W], w [N, style_dim] -> [N, out, H or 2H, W or 2W]."""
        if self.modulate_weights:
            return self.grouped(x, self.modulation(w))
        x, factor = self.convolve(x, w)
        x = x if self.blur is None else self.blur(x)
        return x if factor is None else scale_channels(x, factor)


class NoiseInjection(nn.Module):
    """Holder of the learned strength of the noise."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


class StyledConv(nn.Module):
    """Modulated convolution, noise, bias and activation: one layer of the synthesis network."""

    def __init__(self, in_channels: int, out_channels: int, style_dim: int, *, upsample: bool = False) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(in_channels, out_channels, 3, style_dim, upsample=upsample)
        self.noise = NoiseInjection()
        self.activate = FusedLeakyReLU(out_channels)

    def forward(self, x: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        """x [N, in, H, W], w [N, style_dim], noise [1 or N, 1, H', W'] -> [N, out, H', W']."""
        bias, parts = self.activate.bias, {"noise": noise, "strength": self.noise.weight}
        if self.conv.modulate_weights:
            return fused_leaky_relu(self.conv(x, w), bias, **parts, inplace=True)
        x, factor = self.conv.convolve(x, w)
        if self.conv.blur is None:
            return fused_leaky_relu(x, bias, factor=factor, **parts, inplace=True)
        blur = self.conv.blur
        return filtered_leaky_relu(x, blur.kernel, bias, pad=blur.pad, factor=factor, **parts)


class ToRGB(nn.Module):
    """Project features to RGB and add the upsampled image of the previous resolution, StyleGAN2 figure 7."""

    def __init__(self, in_channels: int, style_dim: int, *, upsample: bool = True) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))
        self.conv = ModulatedConv2d(in_channels, 3, 1, style_dim, demodulate=False)
        self.upsample = Upsample() if upsample else None

    def forward(self, x: Tensor, w: Tensor, skip: Tensor | None = None) -> Tensor:
        """x [N, in, H, W], w [N, style_dim], skip [N, 3, H/2, W/2] -> [N, 3, H, W] in float32."""
        rgb = self.conv(x, w).float() + self.bias
        return rgb if skip is None or self.upsample is None else rgb + self.upsample(skip)


class ConvLayer(nn.Sequential):
    """Discriminator layer: optional blur and stride 2, equalised convolution, bias and activation.

    A 1x1 convolution commutes with decimation, so its stride moves into the blur and nothing is computed twice.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, downsample: bool = False, activate: bool = True
    ) -> None:
        layers: list[nn.Module] = []
        stride, padding = 1, kernel_size // 2
        if downsample:
            total = len(BLUR) - 2 + kernel_size - 1
            stride, padding = (1, 0) if kernel_size == 1 else (2, 0)
            layers.append(Blur(((total + 1) // 2, total // 2), down=2 // stride))
        layers.append(
            EqualConv2d(in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=False)
        )
        if activate:
            layers.append(FusedLeakyReLU(out_channels))
        super().__init__(*layers)
