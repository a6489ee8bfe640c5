"""Upsample, FIR filter, downsample: the plain definition and the differentiable call of the compiled operator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.weak import WeakTensorKeyDictionary

from op.backend import native_ops

MAX_TAPS = 8
Taps = tuple[float, ...]

# Kernels on a GPU -> (version, taps), because reading them waits for the device.
_known: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def upfirdn2d(x: Tensor, kernel: Tensor, *, up: int = 1, down: int = 1, pad: tuple[int, int] = (0, 0)) -> Tensor:
    """Insert zeros, pad, convolve with a FIR kernel and keep every ``down``-th pixel.

    y = ((x zero-inserted by up, padded by pad) * kernel)[::down, ::down] with a true convolution (the kernel is
    flipped), NVlabs ``upfirdn2d``. Equal factors and paddings on both axes; negative padding crops.

    Args:
        x: [N, C, H, W].
        kernel: [kh, kw].
        up: zero-insertion factor, >= 1.
        down: decimation factor, >= 1.
        pad: (before, after) in pixels of the zero-inserted image.

    Returns:
        [N, C, (H*up + pad0 + pad1 - kh) // down + 1, (W*up + pad0 + pad1 - kw) // down + 1].

    Raises:
        ValueError: for a wrong rank, factors below 1, or padding that leaves nothing.
    """
    geometry = check(x, kernel, up, down, pad)
    ops = None if kernel.requires_grad or max(kernel.shape) > MAX_TAPS else native_ops(x)
    if ops is None:
        return plain_upfirdn2d(x, kernel, up=up, down=down, pad=pad)
    return _Filter.apply(x, read_taps(kernel), geometry)


def check(x: Tensor, kernel: Tensor, up: int, down: int, pad: tuple[int, int]) -> tuple[int, ...]:
    """Return (kh, kw, up, down, pad above, pad left, output height, output width); raises ValueError."""
    if x.ndim != 4 or kernel.ndim != 2:
        raise ValueError(f"expected x [N, C, H, W] and kernel [kh, kw], got {list(x.shape)} and {list(kernel.shape)}")
    if up < 1 or down < 1:
        raise ValueError(f"up and down must be >= 1, got up={up}, down={down}")
    height, width = x.shape[2:]
    kh, kw = kernel.shape
    rows, columns = height * up + sum(pad) - kh, width * up + sum(pad) - kw
    if min(rows, columns) < 0:
        raise ValueError(f"padding {pad} leaves nothing of a {height}x{width} image for a {kh}x{kw} kernel")
    return kh, kw, up, down, pad[0], pad[0], rows // down + 1, columns // down + 1


def plain_upfirdn2d(x: Tensor, kernel: Tensor, *, up: int, down: int, pad: tuple[int, int]) -> Tensor:
    """The definition that every backend must match, see ``upfirdn2d``."""
    channels, height, width = x.shape[1:]
    kh, kw = kernel.shape
    pad0, pad1 = pad
    kernel = kernel.to(x.dtype)
    if up == 1:
        weight = torch.flip(kernel, (0, 1)).expand(channels, 1, kh, kw)  # [kh, kw] -> [C, 1, kh, kw]
        if pad0 == pad1 >= 0:
            return F.conv2d(x, weight, stride=down, padding=pad0, groups=channels)
        return F.conv2d(F.pad(x, (pad0, pad1, pad0, pad1)), weight, stride=down, groups=channels)
    # A transposed convolution is the full convolution of the zero-inserted image without multiplying the zeros;
    # the requested window of it starts at kernel - 1 - pad0 and may reach into the trailing zeros.
    weight = kernel.expand(channels, 1, kh, kw)  # [kh, kw] -> [C, 1, kh, kw]
    full = F.conv_transpose2d(x, weight, stride=up, groups=channels)
    out_h, out_w = height * up + pad0 + pad1 - kh + 1, width * up + pad0 + pad1 - kw + 1
    left, top = pad0 + 1 - kw, pad0 + 1 - kh
    window = (left, out_w - (full.shape[3] + left), top, out_h - (full.shape[2] + top))
    return F.pad(full, window)[:, :, ::down, ::down]


def read_taps(kernel: Tensor) -> Taps:
    """Return a kernel's values row by row, flipped, as the compiled operator takes them."""
    if kernel.device.type == "cpu" or kernel.is_inference():
        return tuple(kernel.flatten().tolist()[::-1])
    version, taps = _known.get(kernel, (None, ()))
    if version != kernel._version:
        taps = tuple(kernel.flatten().tolist()[::-1])
        _known[kernel] = (kernel._version, taps)
    return taps


def dense(x: Tensor) -> Tensor:
    """Return x in dense memory, channels first or last, copied only where it is not so already."""
    if x.is_contiguous() or (x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)):
        return x
    return x.contiguous()


class _Filter(torch.autograd.Function):
    """The compiled filter; its gradient is the same filter flipped, with up and down exchanged."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, taps: Taps, geometry: tuple[int, ...]) -> Tensor:
        ctx.taps, ctx.geometry, ctx.size = taps, geometry, x.shape[2:]
        return torch.ops.face_ops.filter(dense(x), taps, geometry, False, None, None, None, None, 0.0, 1.0, False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor):
        kh, kw, up, down, top, left, *_ = ctx.geometry
        geometry = (kh, kw, down, up, kh - 1 - top, kw - 1 - left, *ctx.size)
        return _Filter.apply(gradient, ctx.taps[::-1], geometry), None, None
