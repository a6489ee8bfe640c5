"""Demodulation, noise, bias, leaky ReLU and gain as one operator, alone or behind a FIR filter."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from op.backend import native_ops
from op.upfirdn2d import MAX_TAPS, check, dense, read_taps, upfirdn2d

ROOT2 = math.sqrt(2.0)


class Parts(NamedTuple):
    """What is done before the activation: y = x * factor + strength * noise + bias, each optional.

    Attributes:
        factor: [N, C], one per sample and channel.
        noise: [1 or N, 1, H, W].
        strength: one value, required with noise.
        bias: [C].
    """

    factor: Tensor | None = None
    noise: Tensor | None = None
    strength: Tensor | None = None
    bias: Tensor | None = None


def fused_leaky_relu(
    x: Tensor, bias: Tensor | None = None, *, negative_slope: float = 0.2, scale: float = ROOT2,
    factor: Tensor | None = None, noise: Tensor | None = None, strength: Tensor | None = None, inplace: bool = False,
) -> Tensor:
    """Scale, add noise and a bias per channel, apply a leaky ReLU and multiply by a gain.

    y = scale * lrelu(x * factor + strength * noise + bias), StyleGAN2 (Karras et al. 2020, arXiv 1912.04958),
    appendix B; the gain sqrt(2) keeps the variance of a zero-mean input.

    Args:
        x: [N, C, ...] any float dtype.
        bias: [C] or None.
        negative_slope: slope for negative inputs.
        scale: gain.
        factor: [N, C] or None.
        noise: [1 or N, 1, H, W] or None, with ``strength``, a tensor of one value.
        inplace: the caller has no more use for ``x``, whose memory may be taken where no gradient is recorded.

    Returns:
        Tensor of the shape and dtype of ``x``.

    Raises:
        ValueError: if bias, factor or noise do not fit ``x``.
    """
    parts = Parts(factor, noise, strength, bias)
    _check_parts(x, parts, x.shape[2:])
    ops = native_ops(x) if _native_fits(parts, negative_slope, scale) else None
    if ops is None:
        return plain_leaky_relu(x, parts, negative_slope=negative_slope, scale=scale)
    if _needs_graph(x, parts):
        return _Activate.apply(x, *parts, negative_slope, scale)
    source = dense(x)
    y = source if inplace else torch.empty_like(source)
    ops.activate(source, y, *_as_native(parts), negative_slope, scale, False)
    return y


def filtered_leaky_relu(
    x: Tensor, kernel: Tensor, bias: Tensor | None = None, *, pad: tuple[int, int], factor: Tensor | None = None,
    noise: Tensor | None = None, strength: Tensor | None = None,
) -> Tensor:
    """Filter with a FIR kernel, then ``fused_leaky_relu`` with slope 0.2 and gain sqrt(2), in one pass where possible.

    Args:
        x: [N, C, H, W].
        kernel, pad: see ``upfirdn2d``.
        bias, factor, noise, strength: see ``fused_leaky_relu``; noise has the size of the filtered image.

    Returns:
        [N, C, H + pad0 + pad1 - kh + 1, W + pad0 + pad1 - kw + 1].

    Raises:
        ValueError: see ``upfirdn2d`` and ``fused_leaky_relu``.
    """
    parts = Parts(factor, noise, strength, bias)
    geometry = check(x, kernel, 1, 1, pad)
    ops = native_ops(x) if _native_fits(parts, 0.2, ROOT2) and max(kernel.shape) <= MAX_TAPS else None
    if ops is None or _needs_graph(x, parts) or (kernel.requires_grad and torch.is_grad_enabled()):
        return fused_leaky_relu(upfirdn2d(x, kernel, pad=pad), bias, factor=factor, noise=noise, strength=strength,
                                inplace=True)
    _check_parts(x, parts, geometry[6:])
    return ops.filter(dense(x), read_taps(kernel), geometry, True, *_as_native(parts), 0.2, ROOT2, False)


def scale_channels(x: Tensor, factor: Tensor) -> Tensor:
    """Return x [N, C, ...] times factor [N, C], in the dtype of x.

    Raises:
        ValueError: if factor does not fit ``x``.
    """
    _check_parts(x, Parts(factor), x.shape[2:])
    if native_ops(x) is None:
        return x * factor.to(x.dtype).reshape(*factor.shape, *([1] * (x.ndim - 2)))  # [N, C] -> [N, C, 1, ...]
    return fused_leaky_relu(x, negative_slope=1.0, scale=1.0, factor=factor)


def plain_leaky_relu(x: Tensor, parts: Parts, *, negative_slope: float, scale: float) -> Tensor:
    """The definition that every backend must match, see ``fused_leaky_relu``."""
    factor, noise, strength, bias = parts
    if factor is not None:
        x = x * factor.to(x.dtype).reshape(*factor.shape, *([1] * (x.ndim - 2)))  # [N, C] -> [N, C, 1, ...]
    if noise is not None and strength is not None:
        x = x + strength.to(x.dtype) * noise.to(x.dtype)
    if bias is not None:
        x = x + bias.to(x.dtype).reshape(1, -1, *([1] * (x.ndim - 2)))  # [C] -> [1, C, 1, ...]
    return F.leaky_relu(x, negative_slope) * scale


def _check_parts(x: Tensor, parts: Parts, size: tuple[int, ...]) -> None:
    factor, noise, strength, bias = parts
    if bias is not None and (bias.ndim != 1 or bias.shape[0] != x.shape[1]):
        raise ValueError(f"bias must have shape [{x.shape[1]}], got {list(bias.shape)}")
    if factor is not None and factor.shape != x.shape[:2]:
        raise ValueError(f"factor must have shape {list(x.shape[:2])}, got {list(factor.shape)}")
    if noise is None:
        return
    if strength is None or strength.numel() != 1:
        raise ValueError("noise needs a strength of one value")
    if noise.ndim != x.ndim or noise.shape[0] not in (1, x.shape[0]) or noise.shape[1:] != (1, *size):
        raise ValueError(f"noise must have shape [1 or {x.shape[0]}, 1, {', '.join(map(str, size))}], "
                         f"got {list(noise.shape)}")


def _native_fits(parts: Parts, slope: float, gain: float) -> bool:
    """The compiled gradient reads the branch from the sign of the result, and gives none to the noise."""
    return slope >= 0 and gain > 0 and not (parts.noise is not None and parts.noise.requires_grad)


def _needs_graph(x: Tensor, parts: Parts) -> bool:
    tensors = (x, *(part for part in parts if part is not None))
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _as_native(parts: Parts) -> tuple[Tensor | None, ...]:
    """Return (factor, bias, noise, strength), the order of the compiled operators."""
    return parts.factor, parts.bias, parts.noise, parts.strength


def _alike(x: Tensor, y: Tensor) -> Tensor:
    """Return x with the memory layout and dtype of y."""
    if x.stride() == y.stride() and x.dtype == y.dtype:
        return x
    return torch.empty_like(y).copy_(x)


class _Mask(torch.autograd.Function):
    """g * gain where the activation was positive, g * gain * slope elsewhere: linear in g, so its own gradient."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, y: Tensor, slope: float, gain: float) -> Tensor:
        ctx.save_for_backward(y)
        ctx.numbers = slope, gain
        return torch.ops.face_ops.mask(_alike(g, y), y, slope, gain, False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor):
        return _Mask.apply(gradient, *ctx.saved_tensors, *ctx.numbers), None, None, None


class _Activate(torch.autograd.Function):
    """The compiled activation; keeps its result, and its input only where the factor is trained."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Tensor | None, noise: Tensor | None, strength: Tensor | None,
                bias: Tensor | None, slope: float, gain: float) -> Tensor:
        x = dense(x)
        y = torch.empty_like(x)
        torch.ops.face_ops.activate(x, y, factor, bias, noise, strength, slope, gain, False)
        keeps_x = factor is not None and factor.requires_grad
        ctx.save_for_backward(y, x if keeps_x else None, factor, noise)
        ctx.dtypes = [None if part is None else part.dtype for part in (factor, strength, bias)]
        ctx.shape = None if strength is None else strength.shape
        ctx.numbers = slope, gain
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor):
        y, x, factor, noise = ctx.saved_tensors
        if torch.is_grad_enabled() or y.device.type != "cpu":
            to_x, sums, to_factor, to_strength = _composed(gradient, y, x, factor, noise, *ctx.numbers)
        else:
            wanted = noise if ctx.needs_input_grad[3] else None
            to_x, sums, to_factor, to_strength = torch.ops.face_ops.activate_backward(
                _alike(gradient, y), y, x, factor, wanted, *ctx.numbers)
        needs, dtypes = ctx.needs_input_grad, ctx.dtypes
        return (to_x if needs[0] else None, to_factor.to(dtypes[0]) if needs[1] else None, None,
                to_strength.reshape(ctx.shape).to(dtypes[1]) if needs[3] else None,
                sums.sum(dim=0).to(dtypes[2]) if needs[4] else None, None, None)


def _composed(
    gradient: Tensor, y: Tensor, x: Tensor | None, factor: Tensor | None, noise: Tensor | None, slope: float, gain: float
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """The gradient as a graph of differentiable operations around the compiled mask, see ``activate_backward``."""
    masked = _Mask.apply(gradient, y, slope, gain)
    space = tuple(range(2, y.ndim))
    wide = torch.promote_types(y.dtype, torch.float32)
    sums = masked.to(wide).sum(dim=space) if space else masked.to(wide)
    to_factor = None if x is None else (masked.to(wide) * x.to(wide)).sum(dim=space)
    to_strength = None if noise is None else (masked.to(wide) * noise.to(wide)).sum()
    if factor is None:
        return masked, sums, to_factor, to_strength
    return masked * factor.to(y.dtype).reshape(*factor.shape, *([1] * len(space))), sums, to_factor, to_strength
