"""Loss terms: known values, invariants, derivatives and refusals."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from losses.adversarial import PathLengthPenalty, logistic_loss, nonsaturating_loss, path_length_penalty, path_lengths, r1_penalty
from losses.consistency import pair_consistency, reference_consistency, softmax_discrepancy
from losses.directional import directional_loss
from losses.perceptual import InversionLoss, LPIPSDistance, ViTTokenDistance, detail_distance, token_distance
from losses.warp import identity_grid, published_warp_loss, warp_smoothness
from models.dino import DinoFeatures, ViTConfig, build_vit


def double(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.double, requires_grad=True)


# -------------------------------------------------------------------------------------------------------- directional
def test_directional_known_values() -> None:
    source, real = torch.randn(3, 5, 4), torch.randn(1, 5, 4)
    style = torch.randn(1, 5, 4)
    same = directional_loss(real.expand(3, -1, -1), style.expand(3, -1, -1), reference_source=real,
                            reference_target=style)
    opposite = directional_loss(style, real, reference_source=real, reference_target=style)
    assert same.item() == pytest.approx(0, abs=1e-6) and opposite.item() == pytest.approx(2, abs=1e-6)
    scaled = directional_loss(2 * source, style.expand(3, -1, -1), reference_source=real, reference_target=3 * style)
    plain = directional_loss(source, style.expand(3, -1, -1), reference_source=real, reference_target=style)
    assert scaled.item() == pytest.approx(plain.item(), abs=1e-6)


def test_directional_derivatives() -> None:
    references = {"reference_source": torch.randn(1, 3, 2).double(), "reference_target": torch.randn(1, 3, 2).double()}
    assert gradcheck(lambda a, b: directional_loss(a, b, **references), (double(2, 3, 2), double(2, 3, 2)))


def test_directional_is_finite_for_equal_or_zero_features() -> None:
    for sample in (torch.zeros(1, 3, 2), torch.ones(1, 3, 2)):
        sample = sample.clone().requires_grad_(True)
        loss = directional_loss(sample.detach(), sample, reference_source=torch.zeros(1, 3, 2),
                                reference_target=torch.ones(1, 3, 2))
        loss.backward()
        assert bool(loss.isfinite()) and bool(sample.grad.isfinite().all())


def test_directional_shapes() -> None:
    x = torch.randn(2, 3, 4)
    with pytest.raises(ValueError, match="sample"):
        directional_loss(x, x[:1], reference_source=x[:1], reference_target=x[:1])
    with pytest.raises(ValueError, match="reference_target"):
        directional_loss(x, x, reference_source=x[:1], reference_target=x[:1, :2])


# -------------------------------------------------------------------------------------------------------- consistency
def published_discrepancy(source: Tensor, target: Tensor) -> Tensor:
    error = (target.softmax(0) - source.softmax(0)) ** 2
    return (error * (error.sqrt() / error.sqrt().max())).mean()


def test_softmax_discrepancy_known_value() -> None:
    source, target = torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0.3, 0.2, 0.8])
    assert softmax_discrepancy(source, target).item() == pytest.approx(published_discrepancy(source, target).item())
    assert softmax_discrepancy(source, source).item() == 0
    assert softmax_discrepancy(source + 1, target - 2).item() == pytest.approx(
        softmax_discrepancy(source, target).item(), rel=1e-4)
    with pytest.raises(ValueError, match=r"\[K\]"):
        softmax_discrepancy(source, target[:2])


@pytest.mark.parametrize("batch", [1, 2, 3, 5])
def test_consistency_is_finite_for_every_batch(batch: int) -> None:
    source, target = torch.randn(batch, 6, 6), torch.randn(batch, 6, 6, requires_grad=True)
    real, style = torch.randn(2, 1, 6, 6)
    pairs = pair_consistency(source, target)
    to_reference = reference_consistency(source, target, reference_source=real, reference_target=style)
    (pairs + to_reference).backward()
    assert bool(torch.isfinite(pairs + to_reference)) and bool(target.grad.isfinite().all())
    assert (pairs.item() == 0) == (batch <= 2) and (to_reference.item() == 0) == (batch == 1)
    assert pairs.requires_grad and to_reference.requires_grad


def test_published_consistency_is_undefined_where_ours_is_zero() -> None:
    one = torch.ones(1)
    assert math.isnan(published_discrepancy(one, 2 * one)) and softmax_discrepancy(one, 2 * one).item() == 0


def test_consistency_of_equal_structures_has_finite_gradients() -> None:
    source = torch.randn(4, 5, 5)
    target = source.clone().requires_grad_(True)
    loss = pair_consistency(source, target)
    loss.backward()
    assert loss.item() == 0 and bool(target.grad.isfinite().all())


def test_consistency_invariants_and_derivatives() -> None:
    source, target, reference = torch.randn(4, 5, 5), torch.randn(4, 5, 5), torch.randn(1, 5, 5)
    order = torch.tensor([2, 0, 3, 1])
    assert pair_consistency(source, target).item() == pytest.approx(
        pair_consistency(source[order], target[order]).item(), rel=1e-4)
    assert pair_consistency(source, 3 * target).item() == pytest.approx(pair_consistency(source, target).item(), rel=1e-4)
    references = {"reference_source": reference.double(), "reference_target": 2 * reference.double() + 1}

    # The weight is held constant, so the whole is checked against its own autograd with the weight frozen.
    def frozen(x: Tensor) -> Tensor:
        c = torch.nn.functional.cosine_similarity(x.flatten(1), references["reference_target"].flatten(1))
        s = torch.nn.functional.cosine_similarity(source.double().flatten(1), references["reference_source"].flatten(1))
        return ((c.softmax(0) - s.softmax(0)).square() * weight).mean()

    x = target.double().requires_grad_(True)
    c = torch.nn.functional.cosine_similarity(x.flatten(1), references["reference_target"].flatten(1))
    s = torch.nn.functional.cosine_similarity(source.double().flatten(1), references["reference_source"].flatten(1))
    root = (c.softmax(0) - s.softmax(0)).abs().detach()
    weight = root / root.max()
    assert gradcheck(frozen, (x,))
    (ours,) = torch.autograd.grad(reference_consistency(source.double(), x, **references), x)
    (expected,) = torch.autograd.grad(frozen(x), x)
    assert torch.allclose(ours, expected)


def test_consistency_shapes() -> None:
    x = torch.randn(2, 4, 4)
    with pytest.raises(ValueError, match="structures"):
        pair_consistency(x, x[:1])
    with pytest.raises(ValueError, match="reference_target"):
        reference_consistency(x, x, reference_source=x[:1], reference_target=x)


# -------------------------------------------------------------------------------------------------------- adversarial
def test_adversarial_known_values() -> None:
    zero = torch.zeros(3, 1, 4, 4)
    assert nonsaturating_loss(zero).item() == pytest.approx(math.log(2))
    assert logistic_loss(zero, zero).item() == pytest.approx(2 * math.log(2))
    assert nonsaturating_loss(zero + 1e4).item() == 0 and nonsaturating_loss(zero - 1e4).item() == pytest.approx(1e4)
    assert gradcheck(nonsaturating_loss, (double(3, 1),))
    assert gradcheck(logistic_loss, (double(3, 1), double(2, 1)))


def test_r1() -> None:
    image = double(2, 3, 4, 4)
    slope = torch.randn(3, 4, 4, dtype=torch.double)
    logits = (image * slope).sum(dim=(1, 2, 3), keepdim=True)
    assert r1_penalty(logits, image).item() == pytest.approx(slope.square().sum().item())
    # A map of logits counts by its mean, so repeating it changes nothing.
    assert r1_penalty(logits.expand(2, 1, 5, 5), image).item() == pytest.approx(slope.square().sum().item())
    assert gradcheck(lambda x: r1_penalty((x**3).sum(dim=(1, 2, 3))[:, None], x), (double(1, 1, 2, 2),))
    with pytest.raises(ValueError, match="requires_grad"):
        r1_penalty(logits, image.detach())


def test_path_lengths() -> None:
    matrix = torch.randn(5, 3 * 4 * 4, dtype=torch.double)
    noise = torch.randn(2, 3, 4, 4, dtype=torch.double)
    w_plus = double(2, 6, 5)

    def generate(w: Tensor) -> Tensor:
        return (w.sum(dim=1) @ matrix).reshape(-1, 3, 4, 4)

    lengths = path_lengths(generate(w_plus), w_plus, noise=noise)
    expected = (noise.flatten(1) / 4 @ matrix.T).norm(dim=1)
    assert torch.allclose(lengths, expected)
    penalty, mean = path_length_penalty(lengths, torch.tensor(2.0).double())
    assert mean.item() == pytest.approx(2 + 0.01 * (expected.mean().item() - 2)) and not mean.requires_grad
    assert penalty.item() == pytest.approx((expected - mean).square().mean().item())
    assert gradgradcheck(lambda w: path_lengths(generate(w**2), w, noise=noise), (w_plus,))
    module = PathLengthPenalty().double()
    module(generate(w_plus), w_plus, noise=noise)
    assert module.mean_length.item() == pytest.approx(0.01 * expected.mean().item())
    with pytest.raises(ValueError, match="noise"):
        path_lengths(generate(w_plus), w_plus, noise=noise[:1])
    with pytest.raises(ValueError, match="w_plus"):
        path_lengths(generate(w_plus), w_plus.detach(), noise=noise)


# --------------------------------------------------------------------------------------------------------------- warp
def test_warp_smoothness_known_values() -> None:
    identity = identity_grid(torch.empty(1, 8, 8, 2)).double()
    assert warp_smoothness([identity]).item() == 0
    assert warp_smoothness([identity + 0.3]).item() == pytest.approx(0, abs=1e-12)
    assert warp_smoothness([identity * 1.01]).item() == pytest.approx(2e-4)
    bigger = identity_grid(torch.empty(1, 64, 64, 2)).double()
    assert warp_smoothness([bigger * 1.01, identity * 1.01]).item() == pytest.approx(2e-4)
    assert warp_smoothness([identity.expand(3, -1, -1, -1) * 1.01]).item() == pytest.approx(2e-4)
    rough = identity + 0.1 * torch.randn(1, 8, 8, 2).double()
    assert warp_smoothness([rough]) > warp_smoothness([identity * 1.01])


def test_published_warp_loss_follows_its_slices() -> None:
    grid = torch.randn(2, 5, 7, 2)
    expected = 0.0
    for sample in grid:
        for column in range(6):
            here = sample[:, column, 0]
            for other in (sample[:, column, 1], sample[:, column + 1, 0]):
                expected += 1 - torch.nn.functional.cosine_similarity(here, other, dim=0).item()
    assert published_warp_loss([grid]).item() == pytest.approx(expected, rel=1e-5)
    assert published_warp_loss([grid, grid]).item() == pytest.approx(2 * expected, rel=1e-5)


@pytest.mark.parametrize("loss", [warp_smoothness, published_warp_loss])
def test_warp_derivatives_and_shapes(loss) -> None:
    assert gradcheck(lambda grid: loss([grid]), (double(1, 3, 4, 2),))
    for bad in (torch.zeros(1, 4, 4, 3), torch.zeros(4, 4, 2), torch.zeros(1, 1, 4, 2)):
        with pytest.raises(ValueError, match="grid"):
            loss([bad])
    with pytest.raises(ValueError, match="at least one"):
        loss([])


# --------------------------------------------------------------------------------------------------------- perceptual
def test_token_distance() -> None:
    tokens = torch.randn(2, 5, 4)
    assert torch.allclose(token_distance(tokens, 3 * tokens), torch.zeros(2), atol=1e-6)
    assert torch.allclose(token_distance(tokens, -tokens), torch.full((2,), 4.0))
    assert gradcheck(token_distance, (double(1, 2, 3), double(1, 2, 3)))
    with pytest.raises(ValueError, match="token"):
        token_distance(tokens, tokens[:1])


def test_vit_token_distance(passes) -> None:
    features = DinoFeatures(build_vit(ViTConfig(32, 8, 24, 2, 2)), image_size=32)
    distance = InversionLoss(ViTTokenDistance(features, layers=(0, 1)))
    image = (torch.rand(2, 3, 32, 32) * 2 - 1).requires_grad_(True)
    target = torch.rand(1, 3, 32, 32) * 2 - 1
    loss = distance(image, target)
    loss.backward()
    assert loss.item() > 0 and bool(image.grad.abs().sum() > 0) and len(passes) == 2
    distance(image.detach(), target)  # whose tokens are known by now
    assert len(passes) == 3
    assert distance(target, target).item() == pytest.approx(0, abs=1e-5)
    with pytest.raises(ValueError, match="image batches"):
        distance(image, target[:, :, :16])


def test_detail_distance_sees_edges_and_not_a_constant() -> None:
    image = torch.rand(2, 3, 16, 16)
    assert detail_distance(image + 0.3, image).item() == pytest.approx(0, abs=1e-6)
    stripes = image.clone()
    stripes[..., ::2] += 0.2  # the finest band alone: half of the difference on each side of its mean
    assert detail_distance(stripes, image).item() == pytest.approx(0.1, abs=1e-5)
    blocks = image + 0.2 * (torch.arange(16) // 2 % 2)
    assert detail_distance(blocks, image).item() == pytest.approx(0.2, abs=1e-5)
    features = DinoFeatures(build_vit(ViTConfig(32, 8, 24, 2, 2)), image_size=32)
    a, b = (torch.rand(1, 3, 32, 32) for _ in range(2))
    plain, more = (InversionLoss(ViTTokenDistance(features, layers=(0,)), weight_detail=w)(a, b) for w in (0.0, 2.0))
    assert float(more - plain) == pytest.approx(2 * float(detail_distance(a, b)), rel=1e-4)


def lpips_weights() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Random numbers of the shapes of AlexNet's convolutions and of the LPIPS heads."""
    rng = torch.Generator().manual_seed(0)
    shapes = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
    backbone = {}
    for layer, (out, into, kernel) in shapes.items():
        scale = 1 / math.sqrt(into * kernel**2)
        backbone[f"features.{layer}.weight"] = scale * torch.randn(out, into, kernel, kernel, generator=rng)
        backbone[f"features.{layer}.bias"] = torch.zeros(out)
    widths = enumerate(shape[0] for shape in shapes.values())
    heads = {f"lin{i}.model.1.weight": torch.rand(1, width, 1, 1, generator=rng) for i, width in widths}
    return backbone, heads


def test_lpips_from_given_weights(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_a, **_k: pytest.fail("no download allowed"))
    backbone, heads = lpips_weights()
    before = torch.get_rng_state()
    metric = LPIPSDistance(backbone, heads)
    assert torch.equal(torch.get_rng_state(), before)
    image, target = torch.rand(2, 3, 64, 64) * 2 - 1, torch.rand(2, 3, 64, 64) * 2 - 1
    assert metric(image, image).item() == 0 and metric(image, target).item() > 0
    assert torch.equal(metric.train()(image, target), metric(image, target)), "dropout must stay off"
    # First level by hand: unit features, squared difference, head, mean.
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    outs = metric.metric.net((image - shift[:, None, None]) / scale[:, None, None])
    assert torch.allclose(outs[0], torch.relu(torch.nn.functional.conv2d(
        (image - shift[:, None, None]) / scale[:, None, None], backbone["features.0.weight"], stride=4, padding=2)),
        atol=1e-5)
    with pytest.raises(FileNotFoundError, match="alexnet"):
        LPIPSDistance.from_folder(tmp_path)
    torch.save(backbone, tmp_path / "alexnet-owt-7be5be79.pth")
    torch.save(heads, tmp_path / "alex.pth")
    assert torch.equal(LPIPSDistance.from_folder(tmp_path)(image, target), metric(image, target))
    del heads["lin3.model.1.weight"]
    with pytest.raises(ValueError, match="lin3"):
        LPIPSDistance(backbone, heads)
