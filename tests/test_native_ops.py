"""The compiled operators against their plain definitions, on the CPU; the CUDA threads' bodies run on the host."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from op import backend, filtered_leaky_relu, fused_leaky_relu, native, upfirdn2d
from op.fused_act import ROOT2, Parts, plain_leaky_relu
from op.upfirdn2d import check, plain_upfirdn2d, read_taps

ROOT = Path(__file__).resolve().parents[1]
LAYOUTS = (torch.contiguous_format, torch.channels_last)
FILTERS = [(1, 1, (1, 1)), (1, 1, (2, 2)), (2, 1, (2, 1)), (1, 2, (1, 1)), (2, 2, (1, 1)), (3, 1, (2, 2)), (1, 1, (-1, 0)),
           (2, 1, (-1, 3)), (1, 3, (0, 2)), (2, 1, (1, 0))]
SMOOTH = torch.tensor([1.0, 3.0, 3.0, 1.0])
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11, torch.float64: 1e-14}


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """Build once into the user's cache; without a compiler there is nothing to compare."""
    try:
        native.build(cuda=torch.cuda.is_available())
    except native.BuildError as error:
        pytest.skip(f"the operators cannot be compiled here: {error}")
    with backend.use("native"):
        yield


def close(ours: torch.Tensor, plain: torch.Tensor, dtype: torch.dtype) -> None:
    assert ours.shape == plain.shape and ours.dtype == dtype
    error = float((ours.double() - plain.double()).abs().max() / plain.double().abs().max().clamp_min(1e-30))
    assert error <= TOLERANCE[dtype], f"relative error {error:.2e}"


def kernels(name: str) -> torch.Tensor:
    rng = torch.Generator().manual_seed(5)
    return {"smooth": SMOOTH.outer(SMOOTH) / 64, "random": torch.randn(4, 4, generator=rng),
            "odd": torch.randn(3, 5, generator=rng), "line": torch.randn(1, 6, generator=rng)}[name]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kernel", ["smooth", "random", "odd", "line"])
def test_filters_equal_plain(layout, dtype, kernel):
    rng, taps = torch.Generator().manual_seed(0), kernels(kernel)
    for channels, height, width in ((3, 9, 14), (16, 21, 40), (1, 6, 2100)):
        x = torch.randn(2, channels, height, width, generator=rng, dtype=torch.float64).to(dtype)
        x = x.contiguous(memory_format=layout)
        for up, down, pad in FILTERS:
            exact = plain_upfirdn2d(x.double(), taps.double(), up=up, down=down, pad=pad)
            ours = upfirdn2d(x, taps, up=up, down=down, pad=pad)
            close(ours, exact, dtype)
            assert channels == 1 or ours.is_contiguous(memory_format=layout)


def parts_for(shape, dtype, rng, *, shared: bool) -> Parts:
    noise = torch.randn(1 if shared else shape[0], 1, *shape[2:], generator=rng)
    return Parts(torch.rand(shape[:2], generator=rng).to(dtype), noise.to(dtype), torch.tensor([0.3]).to(dtype),
                 torch.randn(shape[1], generator=rng).to(dtype))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_activation_equals_plain(layout, dtype):
    rng = torch.Generator().manual_seed(1)
    for shape in ((2, 5, 7, 9), (3, 32, 12, 40), (1, 1, 33, 64)):
        x = torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype).contiguous(memory_format=layout)
        full = parts_for(shape, dtype, rng, shared=shape[0] == 3)
        for parts in (full, Parts(bias=full.bias), Parts(factor=full.factor), Parts(), full._replace(factor=None)):
            exact = plain_leaky_relu(x.double(), Parts(*(p if p is None else p.double() for p in parts)),
                                     negative_slope=0.2, scale=ROOT2)
            arguments = {"factor": parts.factor, "noise": parts.noise, "strength": parts.strength}
            close(fused_leaky_relu(x, parts.bias, **arguments), exact, dtype)
            copy = x.clone(memory_format=torch.preserve_format)
            taken = fused_leaky_relu(copy, parts.bias, **arguments, inplace=True)
            assert taken.data_ptr() == copy.data_ptr()
            close(taken, exact, dtype)
    close(fused_leaky_relu(x[:, :, 0, 0], x[0, :, 0, 0]), plain_leaky_relu(
        x[:, :, 0, 0].double(), Parts(bias=x[0, :, 0, 0].double()), negative_slope=0.2, scale=ROOT2), dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_filter_and_activation_in_one_pass(layout, dtype):
    rng = torch.Generator().manual_seed(2)
    x = torch.randn(2, 6, 17, 33, generator=rng).to(dtype).contiguous(memory_format=layout)
    kernel, parts = kernels("smooth"), parts_for((2, 6, 16, 32), dtype, rng, shared=False)
    filtered = plain_upfirdn2d(x.double(), kernel.double(), up=1, down=1, pad=(1, 1))
    exact = plain_leaky_relu(filtered, Parts(*(p.double() for p in parts)), negative_slope=0.2, scale=ROOT2)
    close(filtered_leaky_relu(x, kernel, parts.bias, pad=(1, 1), factor=parts.factor, noise=parts.noise,
                              strength=parts.strength), exact, dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_equal_plain(layout):
    """First derivatives in float32 by the compiled gradient; the layouts take different code."""
    rng = torch.Generator().manual_seed(3)
    x = torch.randn(2, 24, 17, 19, generator=rng).contiguous(memory_format=layout)
    cotangent = torch.randn(2, 24, 16, 18, generator=rng)
    parts = parts_for(cotangent.shape, torch.float32, rng, shared=False)
    found = []
    for name in ("native", "plain"):
        leaves = [t.clone().requires_grad_(True) for t in (x, parts.factor, parts.strength, parts.bias)]
        with backend.use(name):
            y = filtered_leaky_relu(leaves[0], kernels("random"), leaves[3], pad=(1, 1), factor=leaves[1],
                                    noise=parts.noise, strength=leaves[2])
        found.append(torch.autograd.grad(y, leaves, cotangent))
    for ours, plain in zip(*found, strict=True):
        close(ours, plain, torch.float32) if ours.ndim == 4 else torch.testing.assert_close(
            ours, plain, rtol=1e-5, atol=1e-5 * float(plain.abs().max()))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("up", "down", "pad"), [FILTERS[0], FILTERS[2], FILTERS[3], FILTERS[7]])
def test_filter_derivatives(layout, up, down, pad):
    x = torch.randn(1, 2, 6, 5, dtype=torch.double).contiguous(memory_format=layout).requires_grad_(True)
    for kernel in (kernels("smooth").double(), kernels("odd").double()):
        call = lambda t, kernel=kernel: upfirdn2d(t, kernel, up=up, down=down, pad=pad)  # noqa: E731
        assert gradcheck(call, (x,)) and gradgradcheck(call, (x,))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_activation_derivatives(layout):
    rng = torch.Generator().manual_seed(4)
    x = torch.randn(2, 3, 3, 4, dtype=torch.double, generator=rng).contiguous(memory_format=layout).requires_grad_(True)
    parts = parts_for(x.shape, torch.double, rng, shared=True)
    leaves = [t.clone().requires_grad_(True) for t in (parts.bias, parts.factor, parts.strength)]

    def call(x, bias, factor, strength):
        return fused_leaky_relu(x, bias, factor=factor, noise=parts.noise, strength=strength)

    assert gradcheck(call, (x, *leaves)) and gradgradcheck(call, (x, *leaves))
    assert gradcheck(fused_leaky_relu, (x[:, :, 0, 0], leaves[0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_bodies_of_the_cuda_threads(dtype):
    """Strips with and without packs, the general body, the activation and its mask, as the GPU would run them."""
    rng, ops = torch.Generator().manual_seed(6), torch.ops.face_ops
    for layout in LAYOUTS:
        for channels in (3, 16):
            x = torch.randn(2, channels, 11, 18, generator=rng).to(dtype).contiguous(memory_format=layout)
            for name in ("smooth", "odd"):
                for up, down, pad in FILTERS:
                    kernel = kernels(name)
                    geometry = check(x, kernel, up, down, pad)
                    nothing = (None, None, None, None, 0.0, 1.0)
                    ours = ops.filter(x, read_taps(kernel), geometry, False, *nothing, True)
                    close(ours, plain_upfirdn2d(x.double(), kernel.double(), up=up, down=down, pad=pad), dtype)
            parts = parts_for(x.shape, torch.float32, rng, shared=False)
            y = torch.empty_like(x)
            ops.activate(x, y, parts.factor, parts.bias, parts.noise, parts.strength, 0.2, ROOT2, True)
            exact = plain_leaky_relu(x.double(), Parts(*(p.double() for p in parts)), negative_slope=0.2, scale=ROOT2)
            close(y, exact, dtype)
            close(ops.mask(x, y, 0.2, ROOT2, True), x.double() * torch.where(y > 0, ROOT2, 0.2 * ROOT2).double(), dtype)
            kernel, small = kernels("smooth"), parts_for((2, channels, 10, 17), torch.float32, rng, shared=True)
            both = ops.filter(x, read_taps(kernel), check(x, kernel, 1, 1, (1, 1)), True, small.factor, small.bias,
                              small.noise, small.strength, 0.2, ROOT2, True)
            filtered = plain_upfirdn2d(x.double(), kernel.double(), up=1, down=1, pad=(1, 1))
            close(both, plain_leaky_relu(filtered, Parts(*(p.double() for p in small)), negative_slope=0.2,
                                         scale=ROOT2), dtype)
