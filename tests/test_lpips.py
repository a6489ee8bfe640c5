"""SqueezeNet's features and LPIPS in them, held against the lpips package with the same weights."""

from __future__ import annotations

import warnings

import lpips as package
import pytest
import torch
from torch import Tensor

from checkpoints.features import load_network, load_squeezenet
from checkpoints.io import CheckpointError, save_model
from checkpoints.manifest import entries
from losses.perceptual import SQUEEZENET_LAYERS, LPIPSDistance, SqueezeNetLPIPS, heads_file, lpips
from models.squeezenet import CHANNELS, MEAN_BGR, TAPS, SqueezeNetFeatures


@pytest.fixture(scope="module")
def features() -> SqueezeNetFeatures:
    return load_squeezenet()


def images(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(3)) * 2 - 1


def published_heads() -> list[Tensor]:
    state = torch.load(heads_file("squeeze"), map_location="cpu", weights_only=True)
    return [state[f"lin{layer}.model.1.weight"].flatten() for layer in range(7)]


def package_metric(features: SqueezeNetFeatures) -> package.LPIPS:
    """Return the package's LPIPS with our weights; they see RGB as the package normalises it, so the first layer is adapted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metric = package.LPIPS(net="squeeze", pnet_rand=True, verbose=False)
    ours = features.features.state_dict()
    weight, bias = ours["0.weight"].flip(1), ours["0.bias"]
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    ours["0.weight"] = weight * (255 * std)[None, :, None, None]
    ours["0.bias"] = bias + (weight.sum(dim=(2, 3)) * (255 * mean - torch.tensor(MEAN_BGR).flip(0))).sum(dim=1)
    state = metric.state_dict()
    metric.load_state_dict({key: ours[key.split(".", 2)[2]] if key.startswith("net.") else state[key] for key in state})
    return metric.eval()


def test_the_formula_is_the_packages(features):
    image, target = images(2, 3, 64, 80), images(2, 3, 64, 80).flip(3)
    metric = package_metric(features)
    theirs = metric(image, target).flatten()
    ours = SqueezeNetLPIPS(features, heads=published_heads()).each(image, target)
    assert torch.allclose(ours, theirs, rtol=1e-4), (ours, theirs)
    means = [head.mean().item() for head in published_heads()]
    assert means == pytest.approx(SQUEEZENET_LAYERS, abs=5e-5)
    for layer, lin in enumerate(metric.lins):
        lin.model[1].weight.data.fill_(SQUEEZENET_LAYERS[layer])
    assert torch.allclose(SqueezeNetLPIPS(features).each(image, target), metric(image, target).flatten(), rtol=1e-4)


def test_maps_are_the_slices(features):
    image = images(1, 3, 65, 64)
    maps = features(image)
    assert [list(x.shape[:2]) for x in maps] == [[1, CHANNELS[tap]] for tap in TAPS]
    assert all(bool((x >= 0).all()) for x in maps)
    early = features(image, taps=(1, 7))
    assert torch.equal(early[0], maps[0]) and torch.equal(early[1], maps[2])
    for bad in (images(1, 1, 64, 64), images(3, 64, 64), images(1, 3, 16, 64)):
        with pytest.raises(ValueError, match="images"):
            features(bad)
    for taps in ((), (2,)):
        with pytest.raises(ValueError, match="taps"):
            features(image, taps=taps)


def test_distance(features):
    metric = SqueezeNetLPIPS(features)
    image, target = images(2, 3, 48, 48), images(1, 3, 48, 48)
    mild, strong = (metric(target + s * torch.randn_like(target), target) for s in (0.05, 0.3))
    assert 0 < mild < strong and metric(target, target).item() == pytest.approx(0, abs=1e-6)
    image.requires_grad_(True)
    metric(image, target).backward()
    assert bool(image.grad.isfinite().all()) and bool(image.grad.abs().sum() > 0)
    same = target.clone().requires_grad_(True)
    metric(same, target).backward()
    assert bool(same.grad.isfinite().all()), "at equal images too"
    with pytest.raises(ValueError, match="image batches"):
        metric(image, target[..., :40])
    with pytest.raises(ValueError, match="maps"):
        lpips([torch.zeros(1, 2, 3, 3)], [torch.zeros(1, 2, 3, 3)], [])
    assert torch.autograd.gradcheck(lambda a, b: lpips([a], [b], [torch.tensor([0.5, 2.0], dtype=torch.float64)]),
                                    tuple(torch.randn(1, 2, 2, 2, dtype=torch.float64, requires_grad=True) for _ in range(2)))


def test_file(features, tmp_path):
    before = torch.get_rng_state()
    load_squeezenet()
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(p.requires_grad for p in features.parameters()) and features.train().training is False
    entry = next(entry for entry in entries() if entry.name == "starter/squeezenet")
    assert entry.licence.startswith("BSD") and (entry.path.parent / "squeezenet_LICENSE.txt").is_file()
    state = dict(features.state_dict())
    state.pop("features.12.squeeze.weight")
    save_model(tmp_path / "short.safetensors", state, {"kind": "squeezenet"})
    with pytest.raises(CheckpointError, match="features.12.squeeze.weight"):
        load_network("squeezenet", tmp_path / "short.safetensors")


def test_vgg_is_read_from_torchvisions_file(tmp_path):
    rng, state, before = torch.Generator().manual_seed(0), {}, 3
    widths = {0: 64, 2: 64, 5: 128, 7: 128, 10: 256, 12: 256, 14: 256, 17: 512, 19: 512, 21: 512, 24: 512, 26: 512, 28: 512}
    for layer, width in widths.items():
        state[f"features.{layer}.weight"] = torch.randn(width, before, 3, 3, generator=rng) / (before * 4.5) ** 0.5
        state[f"features.{layer}.bias"], before = torch.zeros(width), width
    with pytest.raises(FileNotFoundError, match="vgg16-397923af.pth"):
        LPIPSDistance.from_folder(tmp_path, network="vgg")
    torch.save(state, tmp_path / "vgg16-397923af.pth")
    metric, image, target = LPIPSDistance.from_folder(tmp_path, network="vgg"), images(1, 3, 32, 32), images(1, 3, 32, 32).flip(2)
    assert metric(target, target).item() == 0 and metric(image, target).item() > 0
    heads = torch.load(heads_file("vgg"), map_location="cpu", weights_only=True)
    assert torch.equal(metric.metric.lin0.model[1].weight, heads["lin0.model.1.weight"])
