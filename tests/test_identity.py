"""Identity: the bundled network, the crop it looks at, its file, and the loss."""

from __future__ import annotations

import json
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.autograd import gradcheck

from checkpoints import CheckpointError, load_model, save_model
from checkpoints.builders import load_base
from checkpoints.features import load_face_id
from checkpoints.manifest import entries
from checkpoints.packed import PACKED, pack_half, unpack_half
from data.images import to_tensor
from faces.align import align_face
from faces.find import FaceFinder
from losses.identity import IdentityLoss, identity_distance
from models.face_id import COLUMNS, ROWS, DownBlock, FaceIdConfig, FaceIdNet, crop_face, state_of_face_api
from pipeline.sampling import base_images
from training.pretrain.export import export_starter

TINY = FaceIdConfig(input_size=40, widths=(4, 6), blocks=(1, 1), embedding=5)


@pytest.fixture(scope="module")
def identity() -> IdentityLoss:
    return IdentityLoss(load_face_id().module)


@pytest.fixture(scope="module")
def face() -> Image.Image:
    """The astronaut, aligned, 256 px."""
    from skimage.data import astronaut

    photo = Image.fromarray(astronaut())
    return align_face(photo, FaceFinder().find(photo)[0].landmarks, output_size=256)


def tiny_network() -> FaceIdNet:
    network = FaceIdNet(TINY)
    with torch.no_grad():
        for value in network.parameters():
            value.copy_(torch.randn(value.shape) * 0.3)
    return network


def changed(face: Image.Image, what: str) -> Image.Image:
    if what == "mirrored":
        return face.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if what == "turned":
        return face.rotate(8, Image.Resampling.BICUBIC)
    return face.resize((64, 64), Image.Resampling.LANCZOS)


# ------------------------------------------------------------------------------------------------------------ network
@pytest.mark.parametrize(("what", "distance"), [("mirrored", 0.245), ("turned", 0.255), ("small", 0.304)])
def test_one_person_stays_near(identity: IdentityLoss, face: Image.Image, what: str, distance: float) -> None:
    photo, other = (to_tensor(image, image.width) for image in (face, changed(face, what)))
    with torch.no_grad():
        found = identity_distance(identity.embed(photo), identity.embed(other)).item()
    assert found == pytest.approx(distance, abs=0.03)


def test_strangers_are_far(identity: IdentityLoss, face: Image.Image) -> None:
    with torch.no_grad():
        faces = base_images(load_base("starter"), 0, [0, 1, 2], truncation_psi=0.7).clamp(-1, 1)
        mine, theirs = identity.embed(to_tensor(face, 256)), identity.embed(faces)
        same = identity_distance(theirs, identity.embed(faces.flip(3))).item()
    assert all(identity_distance(mine, row[None]).item() > 0.55 for row in theirs)
    assert same < 0.25


def test_published_sides_and_padding() -> None:
    block = DownBlock(2, 3)
    with torch.no_grad():
        for value in block.parameters():
            value.zero_()
        for side, after in ((35, 17), (17, 8), (8, 4), (4, 2)):
            x = torch.rand(1, 2, side, side)
            out = block(x)
            assert out.shape == (1, 3, after, after)
            assert torch.equal(out[:, :2], torch.nn.functional.avg_pool2d(x, 2)) and not out[:, 2].any()


def test_input_is_normalised_inside() -> None:
    network, seen = tiny_network(), []
    network.stem.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    network(torch.full((1, 3, 40, 40), 1.0))
    assert seen[0][0, :, 0, 0].tolist() == pytest.approx([(255 - mean) / 256 for mean in (122.782, 117.001, 104.298)])


def test_config_and_shapes_are_checked() -> None:
    assert FaceIdConfig.from_dict(json.loads(json.dumps(TINY.to_dict()))) == TINY
    with pytest.raises(ValueError, match="unknown settings"):
        FaceIdConfig.from_dict({"depth": 3})
    with pytest.raises(ValueError, match="too small"):
        FaceIdConfig(input_size=60)
    with pytest.raises(ValueError, match=r"expected cut-out faces \[N, 3, 40, 40\], got \[1, 3, 41, 41\]"):
        tiny_network()(torch.zeros(1, 3, 41, 41))


# --------------------------------------------------------------------------------------------------------------- crop
@pytest.mark.parametrize("side", [64, 128, 700])
def test_crop_is_pillows(side: int) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8))
    box = (COLUMNS[0] * side, ROWS[0] * side, COLUMNS[1] * side, ROWS[1] * side)
    expected = to_tensor(picture.resize((150, 150), Image.Resampling.BILINEAR, box=box), 150)
    # Pillow rounds to whole numbers after each of two passes.
    assert (crop_face(to_tensor(picture, side)) - expected).abs().max() < 2.5 / 127.5


def test_crop_refuses_other_shapes() -> None:
    with pytest.raises(ValueError, match=r"expected aligned faces \[N, 3, S, S\]"):
        crop_face(torch.zeros(1, 3, 64, 60))


# --------------------------------------------------------------------------------------------------------------- loss
def test_distance_known_values() -> None:
    a, b = torch.tensor([[3.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 4.0], [0.0, 1.0]])
    assert identity_distance(a, b).item() == 3.0 and identity_distance(a, a[:1]).item() == 1.5
    for bad in (b[:, :1], b[0], torch.zeros(3, 2)):
        with pytest.raises(ValueError, match=r"embeddings \[N, D\]"):
            identity_distance(a, bad)


def test_equal_faces_have_finite_gradients() -> None:
    a = torch.randn(2, 5, requires_grad=True)
    identity_distance(a, a.detach()).backward()
    assert not a.grad.any()


def test_loss_derivatives() -> None:
    loss = IdentityLoss(tiny_network().double())
    target = torch.rand(2, 3, 12, 12, dtype=torch.double)

    def of_scale(values: Tensor) -> Tensor:
        pattern = torch.linspace(-1, 1, 3 * 12 * 12, dtype=torch.double).reshape(3, 12, 12)
        return loss(torch.sin(values[:, None, None, None] * pattern * 7), target)

    assert gradcheck(of_scale, (torch.tensor([0.3, 0.8], dtype=torch.double, requires_grad=True),))


def test_gradient_reaches_the_face_alone(identity: IdentityLoss, face: Image.Image) -> None:
    photo = to_tensor(face, 256)
    image = (photo * 0.8).requires_grad_(True)
    identity(image, photo).backward()
    rows, columns = (image.grad.abs().sum((0, 1, axis)).nonzero().flatten() for axis in (3, 2))
    assert image.grad.isfinite().all() and identity.network.head.weight.grad is None
    # Convolutions without padding leave out the last few pixels.
    assert abs(int(rows[0]) - 0.24 * 256) < 2 and 0 <= 0.90 * 256 - int(rows[-1]) < 5
    assert abs(int(columns[0]) - 0.17 * 256) < 2 and 0 <= 0.83 * 256 - int(columns[-1]) < 5


def test_loss_refuses_other_shapes() -> None:
    loss = IdentityLoss(tiny_network())
    with pytest.raises(ValueError, match="two image batches"):
        loss(torch.zeros(2, 3, 32, 32), torch.zeros(2, 3, 16, 16))


# --------------------------------------------------------------------------------------------------------------- file
def test_packing_is_without_loss_and_bounded(tmp_path) -> None:
    state = {"b": torch.randn(3, 2, 1, 4).half().float(), "a": torch.tensor([1.0, -2.0])}
    packed = pack_half(state)
    back = unpack_half(tmp_path, packed, state)
    assert all(torch.equal(back[name], state[name]) for name in state)
    with pytest.raises(ValueError, match="a holds values that float16 rounds"):
        pack_half({"a": torch.tensor([1.0001])})
    with pytest.raises(CheckpointError, match="got more, expected 4 bytes"):
        unpack_half(tmp_path, packed, {"a": state["a"]})
    with pytest.raises(CheckpointError, match="got 52, expected 54 bytes"):
        unpack_half(tmp_path, packed, {**state, "c": torch.zeros(1)})
    bomb = torch.frombuffer(bytearray(zlib.compress(bytes(1 << 26))), dtype=torch.uint8)
    for bad, text in ((bomb, "got more"), (packed[:-9], "got|damaged"), (packed.flip(0), "damaged"),
                      (None, "no packed weights"), (packed.float(), "no packed weights")):
        with pytest.raises(CheckpointError, match=text):
            unpack_half(tmp_path, bad, state)


def test_damaged_and_absent_files_are_named(tmp_path) -> None:
    path = tmp_path / "id.safetensors"
    with pytest.raises(CheckpointError, match="id.safetensors: not found"):
        load_face_id(path)
    save_model(path, {PACKED: torch.zeros(9, dtype=torch.uint8)}, {"kind": "face_id", "face_id": TINY.to_dict()})
    with pytest.raises(CheckpointError, match="id.safetensors: its packed weights are damaged"):
        load_face_id(path)
    save_model(path, {}, {"kind": "face_id", "face_id": {"depth": 1}})
    with pytest.raises(CheckpointError, match="does not describe a face_id"):
        load_face_id(path)


def test_names_of_face_api_and_export(tmp_path, monkeypatch) -> None:
    network, arrays = FaceIdNet(), {}
    names = ["conv32_down", *(f"conv32_{i}/conv{j}" for i in (1, 2, 3) for j in (1, 2))]
    for width, count in ((64, 3), (128, 2), (256, 2)):
        names += [f"conv{width}_{part}/conv{j}" for part in ("down", *range(1, count + 1)) for j in (1, 2)]
    names += [f"conv256_down_out/conv{j}" for j in (1, 2)]
    convolutions = [module for module in network.modules() if hasattr(module, "shift")]
    for name, module in zip(names, convolutions, strict=True):
        out, before, height, width = module.conv.weight.shape
        arrays |= {f"{name}/conv/filters": np.full((height, width, before, out), len(arrays), np.float16)}
        arrays |= {f"{name}/{part}": np.zeros(out, np.float16) for part in ("conv/bias", "scale/weights", "scale/biases")}
    arrays["fc"] = np.zeros((256, 128), np.float16)
    path = tmp_path / "weights.npz"
    np.savez(path, **arrays)
    sizes = export_starter(tmp_path, tmp_path / "starter", face_id=path)
    assert list(sizes) == ["face_id.safetensors"]
    loaded = load_face_id(tmp_path / "starter" / "face_id.safetensors").module
    found = [float(module.conv.weight.mean()) for module in loaded.modules() if hasattr(module, "shift")]
    assert found == [float(4 * i) for i in range(len(names))]
    with pytest.raises(ValueError, match="conv32_1/conv1/conv/filters is missing"):
        state_of_face_api({name: value for name, value in arrays.items() if not name.startswith("conv32_1/")})
    path.write_bytes(b"PK no archive")
    with pytest.raises(CheckpointError, match="weights.npz: .*name face-api.js"):
        export_starter(tmp_path, tmp_path / "starter", face_id=path)


def test_bundled_file_is_small_and_has_its_own_licence() -> None:
    entry = next(entry for entry in entries() if entry.name == "starter/face_id")
    assert entry.bytes == entry.path.stat().st_size <= 4_600_000
    assert entry.licence.startswith("MIT") and (entry.path.parent / "face_id_LICENSE.txt").is_file()
    tensors, config = load_model(entry.path, kind="face_id")
    assert list(tensors) == [PACKED] and FaceIdConfig.from_dict(config["face_id"]) == FaceIdConfig()
