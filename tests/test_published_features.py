"""VGG19's maps and ArcFace from files of the released keys, and the trainings that then use them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from torchvision.models.vgg import cfgs, make_layers

from checkpoints.features import load_published
from checkpoints.io import CheckpointError
from checkpoints.manifest import import_file
from checkpoints.official import recognise
from losses.identity import ArcFaceLoss
from losses.perceptual import LPIPSDistance
from models.published_features import DEVIATION, MEAN, ArcFace
from training import exemplar_tools

PSP_KEYS = Path(__file__).parent / "fixtures" / "parity_systems" / "psp_encoder_1024.keys.json"


@pytest.fixture()
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CHECKPOINTS_DIR", str(tmp_path / "weights"))
    (tmp_path / "weights").mkdir()
    return tmp_path


def vgg19(rng: int = 0) -> dict[str, torch.Tensor]:
    """Return a state under torchvision's names; what nobody reads takes no memory."""
    torch.manual_seed(rng)
    small = {f"features.{name}": value for name, value in make_layers(cfgs["E"][:8], batch_norm=False).state_dict().items()}
    rest = {f"features.{i}.weight": torch.zeros(()).expand(512, 512, 3, 3) for i in (28, 34)}
    return {**small, **rest, "classifier.0.weight": torch.zeros(()).expand(4096, 25088)}


def arcface() -> dict[str, torch.Tensor]:
    """Return a state of the released keys: the body's are those of pSp's encoder."""
    keys = {name: facts["shape"] for name, facts in json.loads(PSP_KEYS.read_text()).items()
            if name.startswith(("body.", "input_layer."))}
    keys |= {"output_layer.3.weight": [512, 25088], "output_layer.3.bias": [512]}
    for layer in (0, 4):
        keys |= {f"output_layer.{layer}.{name}": [512] for name in ("weight", "bias", "running_mean", "running_var")}
        keys[f"output_layer.{layer}.num_batches_tracked"] = []
    return {name: torch.full((), 0.01 if "running_var" not in name else 1.0).expand(shape) for name, shape in keys.items()}


def test_maps_are_torchvisions(folder):
    torch.save(vgg19(), folder / "weights" / "vgg19-dcbb9e9d.pth")
    maps, image = load_published("vgg19"), torch.rand(1, 3, 512, 512, generator=torch.Generator().manual_seed(1))
    layers = make_layers(cfgs["E"][:8], batch_norm=False)
    layers.load_state_dict({name.removeprefix("features."): value for name, value in vgg19().items()
                            if name.startswith("features.") and int(name.split(".")[1]) < 17})
    x = F.avg_pool2d(image, 2)
    x, wanted = (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(DEVIATION)[:, None, None], []
    with torch.no_grad():
        for index, layer in enumerate(layers[:12]):
            x = layer(x)
            if index in (1, 6, 11):
                wanted.append(x.clone())
        found = maps(2.0 * image - 1.0)
    assert len(found) == 3 and all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, wanted, strict=True))
    assert load_published("arcface") is None


def test_arcface_reads_the_released_keys(folder, monkeypatch):
    torch.save(arcface(), folder / "x.pth")
    assert import_file(folder / "x.pth").name == "model_ir_se50.pth"
    assert isinstance(load_published("arcface"), ArcFace)
    torch.save({**arcface(), "body.3.res_layer.1.weight": torch.zeros(2, 2)}, folder / "weights" / "model_ir_se50.pth")
    with pytest.raises(CheckpointError, match=r"model_ir_se50\.pth: does not fit: misshapen body\.3\.res_layer\.1\.weight"):
        load_published("arcface")
    torch.save(vgg19(), folder / "weights" / "model_ir_se50.pth")
    with pytest.raises(CheckpointError, match="model_ir_se50.pth: holds VGG19"):
        load_published("arcface")


def test_identity_is_one_minus_the_cosine_of_the_published_crop():
    seen = []

    class Means(torch.nn.Module):
        """Stands for the network behind the crop."""

        def forward(self, x):
            seen.append(x)
            return x.mean(dim=(2, 3))

    network = ArcFace()
    network.input_layer, network.body, network.output_layer = torch.nn.Identity(), torch.nn.Identity(), Means()
    image, target = (torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(k)) - 0.5 for k in (1, 2))
    loss = float(ArcFaceLoss(network)(image, target))
    assert seen[0].shape == (2, 3, 112, 112)
    assert torch.allclose(seen[0], F.adaptive_avg_pool2d(image[:, :, 35:223, 32:220], 112))
    means = [x.mean(dim=(2, 3)) for x in seen]
    assert loss == pytest.approx(1.0 - float(F.cosine_similarity(*means).mean()), abs=1e-5)


def test_tools_of_a_training_take_what_is_there_and_name_it(folder, monkeypatch):
    base, tools = exemplar_tools.load_tools("starter")
    assert tools.named == {"perceptual": "L1 + ViTTokenDistance", "maps": "tokens of the vision transformer",
                           "identity": "the bundled network"}
    torch.save(vgg19(), folder / "weights" / "vgg19-dcbb9e9d.pth")
    torch.save(arcface(), folder / "weights" / "model_ir_se50.pth")
    (folder / "weights" / "vgg16-397923af.pth").touch()
    monkeypatch.setattr(LPIPSDistance, "from_folder", lambda folder, network: torch.nn.L1Loss() if network == "vgg" else None)
    _, published = exemplar_tools.load_tools("starter")
    assert published.named == {"perceptual": "LPIPS in VGG16", "maps": "VGG19", "identity": "ArcFace"}
    assert published.digest != tools.digest and len(published.maps(torch.zeros(1, 3, 128, 128))) == 3
    image, target = torch.rand(1, 3, 512, 512), torch.rand(1, 3, 512, 512)
    pooled = [F.avg_pool2d(x, 2) for x in (image, target)]
    assert float(published.perceptual(image, target)) == pytest.approx(float(F.l1_loss(*pooled)), rel=1e-4)
    # A transformer that was asked for is taken.
    assert exemplar_tools.load_tools("starter", vit="starter")[1].named["maps"] == "tokens of the vision transformer"


def test_kinds_of_files():
    assert recognise(vgg19()) == "vgg19" and recognise(arcface()) == "arcface"
    assert recognise({name: value for name, value in vgg19().items() if name != "features.34.weight"}) == "vgg16"
