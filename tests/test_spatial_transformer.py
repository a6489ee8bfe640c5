"""Affine and thin-plate-spline blocks, and the generator that carries them."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.bicubic import sample_bicubic
from models.deformable import DeformableGenerator, configs_from_published
from models.sampling_grids import pixel_lattice
from models.spatial_config import MODES
from models.spatial_transformer import (
    AffineTransformer,
    NonFiniteError,
    SpatialTransformerConfig,
    TPSTransformer,
    config_from_published,
    resting_points,
    sample,
)
from models.stylegan2 import Generator, GeneratorConfig
from styles.deformable_files import published_deformable

CHANNELS = {4: 8, 8: 8, 16: 8, 32: 6, 64: 4}


def perturb(module: torch.nn.Module, amount: float = 0.05) -> None:
    """Move the last layers off rest, so that the prediction depends on the features."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith(("fc.2.weight", "fc.2.bias", "fc_loc.2.weight", "fc_loc.2.bias")):
                parameter += amount * torch.randn(parameter.shape, generator=generator)


@pytest.fixture(params=["exact", "published"])
def deformable(request: pytest.FixtureRequest) -> DeformableGenerator:
    generator = Generator(GeneratorConfig(size=64, style_dim=16, n_mlp=2, channels=CHANNELS))
    net = DeformableGenerator.for_generator(generator, mode=request.param)
    for part in (net.affine, net.tps):
        perturb(part)
    return net.eval().requires_grad_(False)


def latents(net: DeformableGenerator, n: int = 2) -> Tensor:
    return net.broadcast(net.mapping(torch.randn(n, 16, generator=torch.Generator().manual_seed(3))))


def test_resting_points() -> None:
    points = resting_points(10, 0.95)
    assert points.shape == (100, 2) and points.dtype == torch.float32
    assert torch.allclose(points[0], torch.tensor([-0.95, -0.95])) and torch.allclose(points[-1], -points[0])
    assert points[1, 1] > points[0, 1] and points[1, 0] == points[0, 0]


@pytest.mark.parametrize("size", [16, 32, 37, 64])
def test_exact_rest_is_identity(size: int) -> None:
    x = torch.randn(2, 5, size, size)
    tps, affine = TPSTransformer(5, size), AffineTransformer(5, size)
    warped, grid = tps(x)
    assert torch.allclose(warped, x, atol=1e-4) and grid.shape == (2, size, size, 2)
    assert torch.allclose(affine(x)[0], x, atol=1e-4)


def test_published_rest_is_half_a_pixel_off() -> None:
    _, grid = TPSTransformer(4, 32, mode="published")(torch.randn(1, 4, 32, 32))
    assert torch.allclose(grid[0].reshape(-1, 2), pixel_lattice(32, mode="published"), atol=2e-4)
    assert grid.max() > 0.999 and pixel_lattice(32, mode="exact").max() == 31 / 32


def test_spline_interpolates_control_points() -> None:
    tps = TPSTransformer(4, 64, grid_size=4, extent=0.75)
    rest = tps.tps_grid_gen.resting
    moved = rest + 0.1 * torch.randn(16, 2)
    grid = tps.tps_grid_gen(moved[None].double())[0]
    # Sample the dense map at the resting points: bilinear reading between pixel centres.
    found = F.grid_sample(grid.permute(2, 0, 1)[None], rest[None, None].double(), align_corners=False)[0, :, 0].T
    assert torch.allclose(found, moved.double(), atol=5e-3)


def test_spline_reproduces_affine_maps() -> None:
    tps = TPSTransformer(4, 32)
    rest = tps.tps_grid_gen.resting.double()
    matrix, shift = torch.tensor([[0.9, 0.2], [-0.1, 1.1]]).double(), torch.tensor([0.05, -0.03]).double()
    grid = tps.tps_grid_gen((rest @ matrix.T + shift)[None])[0].reshape(-1, 2)
    assert torch.allclose(grid, pixel_lattice(32, mode="exact").double() @ matrix.T + shift, atol=1e-4)


def test_alpha_scales_offsets_and_extrapolates() -> None:
    tps, affine = TPSTransformer(4, 32), AffineTransformer(4, 32)
    for block in (tps, affine):
        perturb(block)
    x = torch.randn(2, 4, 32, 32)
    rest = tps.grid(x, alpha=0.0)
    one = tps.grid(x, alpha=1.0) - rest
    for alpha in (-0.5, 0.3, 1.0, 1.7):
        assert torch.allclose(tps.grid(x, alpha=alpha) - rest, alpha * one, atol=1e-4)
        expected = torch.eye(2, 3) + alpha * (affine.theta(x) - torch.eye(2, 3))
        assert torch.allclose(affine.theta(x, alpha=alpha), expected, atol=1e-6)
    published = AffineTransformer(4, 32, mode="published")
    perturb(published)
    assert torch.equal(published.theta(x, alpha=0.0), published.theta(x, alpha=1.0))


def test_alpha_per_sample() -> None:
    tps = TPSTransformer(4, 32)
    perturb(tps)
    x = torch.randn(2, 4, 32, 32)
    both = tps.grid(x, alpha=torch.tensor([0.0, 0.7]))
    assert torch.allclose(both[:1], tps.grid(x[:1], alpha=0.0), atol=1e-6)
    assert torch.allclose(both[1:], tps.grid(x[1:], alpha=0.7), atol=1e-6)
    with pytest.raises(ValueError, match="alpha"):
        tps.grid(x, alpha=torch.zeros(3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_grids_stay_in_float32(dtype: torch.dtype) -> None:
    tps = TPSTransformer(4, 32).to(dtype)
    assert tps.tps_grid_gen.inverse_kernel.dtype == torch.float32
    x = torch.randn(1, 4, 32, 32)
    warped, grid = tps(x.to(dtype))
    assert grid.dtype == torch.float32 and warped.dtype == dtype
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, grid = TPSTransformer(4, 32)(x)
    assert grid.dtype == torch.float32 and torch.allclose(grid[0].reshape(-1, 2), pixel_lattice(32, mode="exact"))


def test_exact_mode_keeps_detail_between_pixels() -> None:
    """Half a pixel off, a wave of five pixels keeps its height in exact mode; bilinear sampling takes a fifth."""
    x = torch.sin(torch.arange(60.0) * (2 * math.pi / 5)).expand(1, 1, 60, 60)
    grid = pixel_lattice(60, mode="exact").reshape(1, 60, 60, 2) + torch.tensor([1 / 60, 0.0])
    truth = torch.sin((torch.arange(60.0) + 0.5) * (2 * math.pi / 5))[5:-5]
    lost = {mode: float((sample(x, grid, mode=mode)[0, 0, 30, 5:-5] - truth).abs().max()) for mode in MODES}
    assert lost["exact"] < 0.03 < 0.15 < lost["published"]
    published = F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
    assert torch.equal(sample(x, grid, mode="published"), published)


@pytest.mark.parametrize("channels_last", [False, True])
def test_bicubic_sampling_is_that_of_pytorch(channels_last: bool) -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, 9, 12, generator=rng, dtype=torch.float64)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    grid = torch.rand(2, 7, 8, 2, generator=rng, dtype=torch.float64) * 6.0 - 3.0  # far outside on both sides
    pull = torch.randn(2, 5, 7, 8, generator=rng, dtype=torch.float64)
    found, expected = [], []
    for answers, way in ((found, sample_bicubic), (expected, partial(
            F.grid_sample, mode="bicubic", padding_mode="reflection", align_corners=False))):
        inputs = [x.clone().requires_grad_(True), grid.clone().requires_grad_(True)]
        image = way(*inputs)
        answers += [image, *torch.autograd.grad((image * pull).sum(), inputs)]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_grids_are_refused(bad: float) -> None:
    x = torch.randn(1, 4, 32, 32)
    for block, name in ((TPSTransformer(4, 32), "TPS block at 32"), (AffineTransformer(4, 32), "affine block at 32")):
        last = block.loc_net.fc[2] if isinstance(block, TPSTransformer) else block.fc_loc[2]
        with torch.no_grad():
            last.bias[0] = bad
        with pytest.raises(NonFiniteError, match=name):
            block(x)
    assert issubclass(NonFiniteError, ArithmeticError)


def test_wrong_shapes_and_settings() -> None:
    with pytest.raises(ValueError, match=r"\[N, 4, 32, 32\]"):
        TPSTransformer(4, 32)(torch.randn(1, 4, 31, 32))
    with pytest.raises(ValueError, match=r"\[N, 4, 32, 32\]"):
        AffineTransformer(4, 32)(torch.randn(4, 32, 32))
    for settings in ({"mode": "other"}, {"grid_size": 1}, {"extent": 0.0}, {"resolutions": (8,)},
                     {"resolutions": (128,)}, {"resolutions": (32, 32)}):
        with pytest.raises(ValueError):
            SpatialTransformerConfig(**settings)
    generator = Generator(GeneratorConfig(size=64, style_dim=16, n_mlp=2, channels=CHANNELS))
    with pytest.raises(ValueError, match="channels at 32 px"):
        DeformableGenerator(generator, SpatialTransformerConfig())


def test_config_round_trip() -> None:
    config = SpatialTransformerConfig((16, 32), grid_size=5, mode="published", channels={16: 3, 32: 7})
    assert SpatialTransformerConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ValueError, match="unknown"):
        SpatialTransformerConfig.from_dict({"warp": 1})


def test_construction_leaves_global_rng_alone(rng: torch.Generator) -> None:
    before = torch.get_rng_state()
    first, second = TPSTransformer(4, 32, generator=rng), TPSTransformer(4, 32, generator=rng)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(first.loc_net.conv[0].weight, second.loc_net.conv[0].weight)
    again = TPSTransformer(4, 32, generator=torch.Generator().manual_seed(1))
    assert torch.equal(first.loc_net.conv[0].weight, again.loc_net.conv[0].weight)


@pytest.mark.parametrize("mode", ["exact", "published"])
def test_gradients(mode: str) -> None:
    tps, affine = TPSTransformer(1, 16, grid_size=3, mode=mode).double(), AffineTransformer(1, 16, mode=mode).double()
    for block in (tps, affine):
        perturb(block)
    x = torch.randn(1, 1, 16, 16, dtype=torch.double)
    tps_bias, affine_bias = tps.loc_net.fc[2].bias, affine.fc_loc[2].bias
    cotangent = torch.randn(1, 1, 16, 16, dtype=torch.double)
    for bias, run in ((tps_bias, lambda: tps(x)[0]), (affine_bias, lambda: affine(x)[0])):
        value = bias.detach().clone()

        def loss(v: Tensor, bias=bias, run=run) -> Tensor:
            bias.data.copy_(v)
            return (run() * cotangent).sum()

        (gradient,) = torch.autograd.grad(loss(value), bias)
        for index in range(0, len(value), 5):
            step = torch.zeros_like(value)
            step[index] = 1e-7
            numeric = (loss(value + step) - loss(value - step)).item() / 2e-7
            assert numeric == pytest.approx(gradient[index].item(), rel=1e-3, abs=1e-5)


def test_deformed_synthesis(deformable: DeformableGenerator) -> None:
    noise, w_plus = deformable.generator.zero_noise(), latents(deformable)
    plain = deformable.generator.synthesis(w_plus, noise=noise)
    image, grids = deformable.synthesis(w_plus, alpha=1.0, noise=noise)
    assert image.shape == plain.shape and [list(grid.shape) for grid in grids] == [[2, 32, 32, 2], [2, 64, 64, 2]]
    assert not torch.allclose(image, plain, atol=1e-2)
    rest = deformable.synthesis(w_plus, alpha=0.0, noise=noise).image
    assert torch.allclose(rest, plain, atol=1e-4) == (deformable.config.mode == "exact")


def test_published_round_trip(deformable: DeformableGenerator) -> None:
    noise, w_plus = deformable.generator.fixed_noise(), latents(deformable)
    state = deformable.published_state()
    assert set(state) == {"g", "stns", "rtstn"}
    generator_config, config = configs_from_published(state)
    assert generator_config == deformable.generator.config and config == deformable.config
    other = published_deformable(Path("style.pt"), state)
    assert other.config.mode == deformable.config.mode
    for alpha in (-0.5, 0.0, 0.5, 1.0, 1.5):
        ours = deformable.synthesis(w_plus, alpha=alpha, noise=noise).image
        theirs = other.synthesis(w_plus, alpha=alpha, noise=noise).image
        assert (ours - theirs).abs().max() <= 1e-5


def test_exported_lattice_serves_the_published_arithmetic() -> None:
    """An exact style, read by code that only multiplies the stored matrices, gives the exact grid."""
    tps = TPSTransformer(4, 32)
    perturb(tps)
    x = torch.randn(1, 4, 32, 32)
    state = {name: tensor.double() for name, tensor in tps.tps_grid_gen.state_dict().items()}
    padded = torch.cat([tps.loc_net(x)[0].double(), state["padding_matrix"]])
    grid = state["target_coordinate_repr"] @ (state["inverse_kernel"] @ padded)
    assert torch.allclose(grid.float(), tps.grid(x)[0].reshape(-1, 2), atol=2e-5)


def test_mode_is_read_from_the_lattice(deformable: DeformableGenerator) -> None:
    state = {name: tensor.half() for name, tensor in deformable.published_state()["stns"].items()}
    assert config_from_published(state).mode == deformable.config.mode
    with pytest.raises(ValueError, match="target_coordinate_repr"):
        config_from_published({})


def test_export_needs_both_blocks() -> None:
    generator = Generator(GeneratorConfig(size=64, style_dim=16, n_mlp=2, channels=CHANNELS))
    for settings in ({"affine": False}, {"tps": False}, {"extent": 0.8}):
        with pytest.raises(ValueError, match="published format"):
            DeformableGenerator.for_generator(generator, **settings).published_state()
