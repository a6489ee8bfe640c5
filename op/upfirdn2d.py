"""Upsample, FIR filter, downsample."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


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
    if x.ndim != 4 or kernel.ndim != 2:
        raise ValueError(f"expected x [N, C, H, W] and kernel [kh, kw], got {list(x.shape)} and {list(kernel.shape)}")
    if up < 1 or down < 1:
        raise ValueError(f"up and down must be >= 1, got up={up}, down={down}")
    channels, height, width = x.shape[1:]
    kh, kw = kernel.shape
    pad0, pad1 = pad
    if min(height * up + pad0 + pad1 - kh, width * up + pad0 + pad1 - kw) < 0:
        raise ValueError(f"padding {pad} leaves nothing of a {height}x{width} image for a {kh}x{kw} kernel")
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
