"""Mixed precision for training: autocast, with weight gradients of convolutions that are fast on CPUs; recomputation."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

Pair = tuple[int, int]
MIN_TAP_WIDTH = 64

_split: ContextVar[bool] = ContextVar("split convolutions", default=False)


def as_pair(value: int | Pair) -> Pair:
    """Return (v, v) for one number."""
    return (value, value) if isinstance(value, int) else tuple(value)


def tap_products(image: Tensor, small: Tensor, kernel: Pair, *, stride: Pair, padding: Pair) -> Tensor:
    """Weight gradient of a convolution as one matrix product per tap, g_oikl = sum_nhw small_nohw image_ni(sh+k)(sw+l).

    The image's pixels are laid out row by row, those of every remainder modulo the stride by themselves, and ``small``
    in rows of the same length with zeros behind. What lies under a tap is then the same array from another pixel on:
    a view instead of a copy per tap.

    Args:
        image: the larger map [N, I, H, W]: the input of a convolution, the output's gradient of a transposed one.
        small: the other one [N, O, h, w].
        kernel, stride, padding: (vertical, horizontal) of the convolution.

    Returns:
        [O, I, kh, kw] in float32.
    """
    size = [n + (k - 1) // s for n, k, s in zip(small.shape[2:], kernel, stride)]  # rows and columns of one remainder
    pixels = _padded_rows(small, size, start=(0, 0), stride=(1, 1)).flatten(0, 2).t()  # [N, R, C, O] -> [O, N R C]
    count, parts, taps = pixels.shape[1], {}, []
    for k in range(kernel[0]):
        for l in range(kernel[1]):  # noqa: E741 - the index of the equation
            phase = (k % stride[0], l % stride[1])
            if phase not in parts:
                start = (phase[0] - padding[0], phase[1] - padding[1])
                parts[phase] = _padded_rows(image, size, start=start, stride=stride).flatten(0, 2)  # [N R C, I]
            first = k // stride[0] * size[1] + l // stride[1]
            taps.append(pixels[:, :count - first] @ parts[phase][first:])  # [O, M] @ [M, I]
    return torch.stack(taps, dim=2).float().unflatten(2, kernel)  # [O, I, kh kw] -> [O, I, kh, kw]


def _padded_rows(x: Tensor, size: list[int], *, start: Pair, stride: Pair) -> Tensor:
    """Return the pixels start + i stride of x [N, C, H, W] as [N, *size, C], zeros where they lie outside."""
    rows = x.new_empty(len(x), *size, x.shape[1])
    inner, source = [], []
    for axis in (0, 1):
        first = max(0, -(start[axis] // stride[axis]))  # the first one inside
        pixel = start[axis] + first * stride[axis]
        last = min(size[axis], first + max(0, -(-(x.shape[2 + axis] - pixel) // stride[axis])))
        inner.append(slice(first, last))
        source.append(slice(pixel, x.shape[2 + axis], stride[axis]))
    rows[:, :inner[0].start] = rows[:, inner[0].stop:] = 0
    rows[:, inner[0], :inner[1].start] = rows[:, inner[0], inner[1].stop:] = 0
    lengths = [part.stop - part.start for part in inner]
    rows[:, inner[0], inner[1]] = x[:, :, source[0], source[1]][:, :, :lengths[0], :lengths[1]].permute(0, 2, 3, 1)
    return rows


class _SplitConvolution(torch.autograd.Function):
    """Convolution with output and input gradient by oneDNN in bfloat16, weight gradient by `_weight_gradient`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, transposed: bool):
        half, small = x.to(torch.bfloat16), weight.to(torch.bfloat16)
        ctx.save_for_backward(half, weight)
        ctx.geometry = (list(stride), list(padding), [1, 1], transposed, [0, 0], 1)
        ctx.has_bias, ctx.dtype = bias is not None, x.dtype
        return torch.ops.aten.convolution(half, small, None if bias is None else bias.to(torch.bfloat16), *ctx.geometry)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor):
        half, weight = ctx.saved_tensors
        backward, geometry = torch.ops.aten.convolution_backward, ctx.geometry
        to_x = to_weight = to_bias = None
        if ctx.needs_input_grad[0]:
            small = weight.to(torch.bfloat16)
            to_x = backward(gradient, half, small, None, *geometry, [True, False, False])[0].to(ctx.dtype)
        if ctx.needs_input_grad[1]:
            to_weight = _weight_gradient(gradient, half, weight, geometry)
        if ctx.has_bias and ctx.needs_input_grad[2]:
            to_bias = gradient.float().sum(dim=(0, 2, 3))
        return to_x, to_weight, to_bias, None, None, None


def _weight_gradient(gradient: Tensor, x: Tensor, weight: Tensor, geometry: tuple) -> Tensor:
    """Return the float32 weight gradient by the faster of two ways: tap products, or oneDNN's float32 kernel."""
    stride, padding, _, transposed, *_ = geometry
    kernel = tuple(weight.shape[2:])
    if min(weight.shape[:2]) >= MIN_TAP_WIDTH or kernel == (1, 1):
        image, small = (gradient, x) if transposed else (x, gradient)
        return tap_products(image, small, kernel, stride=stride, padding=padding)
    backward = torch.ops.aten.convolution_backward
    return backward(gradient.float(), x.float(), weight, None, *geometry, [False, True, False])[1]


class SplitConvolutions(TorchFunctionMode):
    """Run trained 2-D convolutions through the split form.

    oneDNN's bfloat16 weight gradient of a convolution takes 10 to 20 times as long as its float32 one on CPUs with
    AMX (641 against 36 ms for 128 to 128 channels at 64 px, batch 4), while the other two passes take a seventh. Only
    convolutions with a trained weight and without groups or dilation are replaced; second derivatives are not defined.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.conv2d:
            call = self._split(False, ("stride", "padding", "dilation", "groups"), args, kwargs)
        elif func is torch.conv_transpose2d:
            call = self._split(True, ("stride", "padding", "output_padding", "groups", "dilation"), args, kwargs)
        else:
            call = None
        return func(*args, **kwargs) if call is None else _SplitConvolution.apply(*call)

    @staticmethod
    def _split(transposed: bool, names: tuple[str, ...], args: tuple, kwargs: dict) -> tuple | None:
        """Return the split form's arguments, or None where the ordinary form must run."""
        given = dict(zip(("input", "weight", "bias", *names), args)) | kwargs
        weight, padding = given["weight"], given.get("padding", 0)
        plain = (given.get("groups", 1) == 1 and as_pair(given.get("dilation", 1)) == (1, 1)
                 and as_pair(given.get("output_padding", 0)) == (0, 0) and not isinstance(padding, str))
        if not (plain and weight.requires_grad and torch.is_grad_enabled()):
            return None
        stride = as_pair(given.get("stride", 1))
        return given["input"], weight, given.get("bias"), stride, as_pair(padding), transposed


@contextlib.contextmanager
def precision(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Compute in ``dtype``: nothing for float32, autocast for bfloat16, on CPUs with split convolutions."""
    if dtype == torch.float32:
        yield
        return
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.autocast(device.type, dtype))
        if device.type == "cpu":
            stack.enter_context(SplitConvolutions())
            stack.callback(_split.reset, _split.set(True))
        yield


def recompute(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of tensors now, and once more in the backward pass instead of keeping what is inside of it.

    ``torch.utils.checkpoint``, which restores autocast but not the split convolutions.
    """
    again = SplitConvolutions if _split.get() else contextlib.nullcontext
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False,
                      context_fn=lambda: (contextlib.nullcontext(), again()))


def training_dtype(name: str, device: torch.device) -> str:
    """Return the arithmetic of ``--dtype``: auto is bfloat16 on CPUs with matrix units, else float32.

    Raises:
        ValueError: for float16, whose gradients need loss scaling.
    """
    if name == "float16":
        raise ValueError("--dtype float16 cannot train; use bfloat16 or float32")
    if name != "auto":
        return name
    has_tiles = getattr(torch.cpu, "_is_amx_tile_supported", None)
    fast = device.type == "cpu" and has_tiles is not None and bool(has_tiles())
    return "bfloat16" if fast else "float32"
