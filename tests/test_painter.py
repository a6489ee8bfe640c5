"""The painter: network, strengths, file, the random looks it learns from, and its training."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch

from checkpoints import CheckpointError
from checkpoints.features import load_landmark_net, load_painter
from checkpoints.io import load_model, save_model
from data.images import read_image, to_tensor
from data.random_looks import random_look
from models.painter import FRAME, Painter, PainterConfig, even, painted
from models.tones import opponent
from training.pretrain import painter as stage
from training.pretrain.common import MissingStageError
from training.pretrain.export import export_starter
from training.pretrain.faces import FacePack
from training.pretrain.painter import PainterTraining, PainterTrainingConfig, train_painter
from training.pretrain.paintings import FACES, Paintings, labelled_paintings, load_paintings, paint_folder

TINY = PainterConfig(size=32, width=6, inner=8, blocks=1, code=5, style_width=4, projected=3)


@pytest.fixture
def painter() -> Painter:
    torch.manual_seed(0)
    return Painter(TINY).eval().requires_grad_(False)


def pictures(count: int, side: int = 32, seed: int = 1) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2.0 - 1.0


class Teacher(torch.nn.Module):
    """Stands for SqueezeNet."""

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        return [torch.nn.functional.avg_pool2d(torch.cat([image, image.square()], dim=1), side) for side in (2, 4)]


def test_code_tells_the_manner_and_not_the_place(painter: Painter) -> None:
    codes = painter.read(pictures(2))
    assert codes.shape == (2, 5) and not torch.allclose(codes[0], codes[1])
    one = painter(pictures(1), codes[:1])
    assert one.shape == (1, 3, 32, 32) and not torch.allclose(one, painter(pictures(1), codes[1:]))
    both = painter(pictures(2), codes)
    torch.testing.assert_close(both[:1], one, atol=1e-5, rtol=0.0)


def test_strengths_of_manner_and_colours(painter: Painter) -> None:
    image, code = pictures(2) * 0.5, painter.read(pictures(1, seed=3))
    assert painted(painter, image, code, strength=0.0) is image
    half, whole = (painted(painter, image, code, strength=value, colour=0.0) for value in (0.2, 0.4))
    # Colours stay where only the manner is asked for, and what changes grows with the strength.
    assert float(opponent(half - image)[:, 1:].abs().max()) < 1e-5
    inside = (whole.abs() < 0.99).all(dim=1, keepdim=True) & (half.abs() < 0.99).all(dim=1, keepdim=True)
    torch.testing.assert_close((whole - image) * inside, 2.0 * (half - image) * inside, atol=1e-5, rtol=0.0)
    by_tensor = painted(painter, image, code, strength=torch.tensor([0.2, 0.4]).reshape(2, 1, 1, 1),
                        colour=torch.zeros(2, 1, 1, 1))
    torch.testing.assert_close(by_tensor, torch.cat([half[:1], whole[1:]]), atol=1e-6, rtol=0.0)


def test_larger_pictures_take_the_change(painter: Painter) -> None:
    small, code = pictures(1) * 0.4, painter.read(pictures(1, seed=3))
    large = torch.nn.functional.interpolate(small, scale_factor=2.0, mode="bilinear", align_corners=False)
    drawn = painted(painter, large, code)
    assert drawn.shape == large.shape and not torch.allclose(drawn, large)


def test_checks_go_and_ramps_and_lines_stay() -> None:
    ticks = torch.arange(32.0)
    checks = 0.1 * (-1.0) ** (ticks[:, None] + ticks)
    ramp = (ticks[:, None] / 32.0).expand(32, 32).clone()
    line = torch.zeros(32, 32)
    line[:, 15] = 1.0
    inside = slice(3, -3)
    for image, least in ((ramp, 0.0), (ramp + line, 0.5)):
        clean, checked = (even(part.expand(1, 3, 32, 32)) for part in (image, image + checks))
        torch.testing.assert_close(checked[..., inside, inside], clean[..., inside, inside], atol=2e-3, rtol=0.0)
        assert float((clean[0, 0, 16, 15] - clean[0, 0, 16, 12])) > least - 0.01
    torch.testing.assert_close(even(ramp.expand(1, 3, 32, 32))[0, 0, inside, inside], ramp[inside, inside], atol=5e-3, rtol=0.0)


def test_what_lies_inside_goes_on_to_the_frame(painter: Painter) -> None:
    image = pictures(1) * 0.1
    change = painted(painter, image, painter.read(pictures(1, seed=3)), strength=0.2) - image
    for row in range(1, FRAME):
        torch.testing.assert_close(change[:, :, row], change[:, :, 0], atol=1e-5, rtol=0.0)
    assert not torch.allclose(change[:, :, FRAME], change[:, :, 0], atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (1, 1, 32, 32), (3, 32, 32)])
def test_other_shapes_are_refused(painter: Painter, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected images"):
        painter(torch.zeros(shape), torch.zeros(1, 5))


def test_statistics_are_calibrated(painter: Painter) -> None:
    shown = pictures(40)
    painter.read.calibrate(shown)
    found = (painter.read.statistics(shown) - painter.read.center) * painter.read.scale
    assert float(found.mean(dim=0).abs().max()) < 1e-2 and float(found.std(dim=0).max()) < 1.01


@pytest.mark.parametrize("values", [{"size": 40}, {"width": 0}, {"code": "5"}])
def test_strange_configs_are_refused(values: dict) -> None:
    with pytest.raises(ValueError, match="whole numbers"):
        PainterConfig.from_dict({**TINY.to_dict(), **values})


@pytest.mark.parametrize("name", ["painter", "destylizer"])
def test_bundled_networks_draw(name: str) -> None:
    found = load_painter(name)
    image = pictures(1, side=128) * 0.3
    drawn = painted(found.module, image, found.module.read(pictures(1, side=128, seed=4)))
    assert drawn.shape == image.shape and float((drawn - image).abs().mean()) > 0.01 and len(found.fingerprint) > 8


def test_damaged_painter_is_told_of(tmp_path, painter: Painter) -> None:  # noqa: ANN001
    path = tmp_path / "painter.safetensors"
    state = painter.state_dict()
    state.pop("out.bias")
    save_model(path, state, {"kind": "painter", "painter": TINY.to_dict()})
    with pytest.raises(CheckpointError, match=r"out\.bias"):
        load_painter(path)


def test_graphs_hold_the_noise_and_draw_no_numbers() -> None:
    painter = Painter(TINY).eval()
    inputs = torch.zeros(1, 3, TINY.size, TINY.size), torch.zeros(1, TINY.code)
    graph = torch.export.export(painter, inputs).graph
    assert not [node for node in graph.nodes if "rand" in str(node.target)]
    assert "noise" not in painter.state_dict() and torch.equal(painter.noise, Painter(TINY).noise)


# ------------------------------------------------------------------------------------------------------- training
@pytest.fixture(scope="module")
def pack() -> FacePack:
    image = to_tensor(read_image("data/style_images_aligned/source_sample.png"), 64)
    with torch.no_grad():
        points = load_landmark_net().module(to_tensor(read_image("data/style_images_aligned/source_sample.png"), 128)).points
    images = torch.cat([(image * share + 1.0) * 127.5 for share in torch.linspace(0.6, 1.0, 8)]).round().byte()
    return FacePack([f"photo_{i}" for i in range(8)], images, points.expand(8, -1, -1).clone(), torch.zeros(8))


@pytest.fixture(scope="module")
def paintings(pack: FacePack, tmp_path_factory) -> Paintings:  # noqa: ANN001
    folder = tmp_path_factory.mktemp("paintings")
    paint_folder(pack, folder, count=2, size=32)
    return load_paintings(folder)


def test_looks_are_those_of_their_seeds(pack: FacePack) -> None:
    picture, points = pack.images[0].permute(1, 2, 0).double().numpy() / 255.0, pack.landmarks[0].double().numpy()
    one, again, other = (random_look(seed)(picture, points, 5) for seed in (1, 1, 2))
    assert np.array_equal(one, again) and not np.allclose(one, other)
    assert one.shape == picture.shape and one.min() >= 0.0 and one.max() <= 1.0


def test_paintings_go_on_where_they_stopped(pack: FacePack, tmp_path, monkeypatch) -> None:  # noqa: ANN001
    monkeypatch.setattr("training.pretrain.paintings.CHUNK", 1)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    paint_folder(pack, whole, count=2, size=32)
    paint_folder(pack, parts, count=1, size=32)
    kept = (parts / "looks_00000.npz").stat().st_mtime_ns
    paint_folder(pack, parts, count=2, size=32)
    assert (parts / "looks_00000.npz").stat().st_mtime_ns == kept
    for one, other in zip(load_paintings(whole), load_paintings(parts), strict=True):
        assert one.shape == (2, FACES, 3, 32, 32) and one.dtype == torch.uint8 and torch.equal(one, other)


def test_undeformed_paintings_have_the_landmarks_of_their_faces(pack: FacePack, tmp_path) -> None:  # noqa: ANN001
    moved = FacePack(pack.names, pack.images, pack.landmarks + torch.arange(8)[:, None, None] * 1e-3, pack.doubt)
    paint_folder(moved, tmp_path, count=2, size=64)
    found = labelled_paintings(moved, tmp_path)
    plain, drawn = (part[:, :-1].flatten(0, 1) for part in load_paintings(tmp_path))
    assert len(found.names) == 2 * (FACES - 1) and torch.equal(found.images, drawn)
    own = torch.cdist(plain.float().flatten(1), moved.images.float().flatten(1)).argmin(dim=1)
    assert len(set(own.tolist())) > 1
    torch.testing.assert_close(found.landmarks, moved.landmarks[own])
    with pytest.raises(MissingStageError, match="--size 64"):
        labelled_paintings(FacePack(pack.names, pack.images[:, :, ::2, ::2], pack.landmarks, pack.doubt), tmp_path)


def test_no_paintings_are_told_of(pack: FacePack, tmp_path) -> None:  # noqa: ANN001
    for read in (load_paintings, lambda folder: labelled_paintings(pack, folder)):
        with pytest.raises(MissingStageError, match="run the paintings stage first"):
            read(tmp_path)


def made(paintings: Paintings, **changes: float) -> PainterTraining:
    return PainterTraining(paintings, Teacher(), identity=lambda image: image.mean(dim=(2, 3)), shape=TINY,
                           config=PainterTrainingConfig(**changes))


def test_batches_pair_faces_with_their_drawings(paintings: Paintings) -> None:
    drawn = {face.numpy().tobytes() for face in paintings.drawn.flatten(0, 1)}
    plain = {face.numpy().tobytes() for face in paintings.plain.flatten(0, 1)}

    def among(image: torch.Tensor, known: set[bytes]) -> bool:
        values = ((image + 1.0) * 127.5).round().byte()
        return any(part.contiguous().numpy().tobytes() in known for part in (values, values.flip(2)))

    image, style, truth, photo = made(paintings, batch=24, photos=0.5, toned=0.0, soft=0.0).batch()
    assert 0 < int(photo.sum()) < 24
    for row in range(24):
        start, goal = (drawn, plain) if photo[row] else (plain, drawn)
        assert among(image[row], start) and among(truth[row], goal) and among(style[row], drawn)
        assert not torch.equal(style[row], truth[row])


def test_training_draws_nearer_and_goes_on_to_the_bit(paintings: Paintings) -> None:
    training = made(paintings, batch=4, lr=5e-3)
    first = [training.step(0.1)["l1"] for _ in range(3)]
    kept = deepcopy(training.state())
    later = [training.step(0.1)["l1"] for _ in range(40)]
    assert np.mean(later[-10:]) < np.mean(first)
    again = made(paintings, batch=4, lr=5e-3)
    again.load(kept)
    assert [again.step(0.1)["l1"] for _ in range(3)] == later[:3]


def test_drawings_become_photos_by_a_code_of_zeros(paintings: Paintings) -> None:
    training, seen = made(paintings, batch=4, photos=1.0), []
    training.painter.register_forward_pre_hook(lambda module, given: seen.append(given[1]))
    terms = training.step(0.5)
    assert not seen[0].any() and terms["manner"] == 0.0 and terms["identity"] > 0.0


def test_stage_resumes_and_is_exported(paintings: Paintings, tmp_path, monkeypatch) -> None:  # noqa: ANN001
    monkeypatch.setattr(stage, "load_paintings", lambda folder: paintings)
    monkeypatch.setattr(stage, "SqueezeNetTeacher", lambda path: Teacher())
    given = {"minutes": 0.005, "identity": None}
    with pytest.raises(MissingStageError, match="painter"):
        train_painter(tmp_path, tmp_path, tmp_path, part="destylizer", **given)
    seen = [train_painter(tmp_path, tmp_path, tmp_path, **given)["seen"] for _ in range(2)]
    assert 0 < seen[0] < seen[1]
    monkeypatch.setattr(stage, "run_stage", lambda *args, **kwargs: {})
    begun = train_painter(tmp_path, tmp_path, tmp_path, part="destylizer", **given)
    assert begun["seen"] == 0
    export_starter(tmp_path, tmp_path / "starter")
    _, config = load_model(tmp_path / "starter" / "painter.safetensors", kind="painter")
    assert config["images"] == seen[1]
    assert load_painter(tmp_path / "starter" / "painter.safetensors").module.config.size == 32
