"""The landmark term: displacements carried from a pair to other faces."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from tuner_worker import MovingFace, tiny_tuner

from data.landmarks68 import MEAN_FACE, MIRROR
from training.guide import LandmarkGuide

FACE = torch.from_numpy(MEAN_FACE).float()


class Reader(nn.Module):
    """Reads landmarks that ``write`` put into the pixels of an image, and mirrored ones from a mirrored image."""

    def forward(self, image: Tensor) -> SimpleNamespace:
        turned = bool(image[0, 2, 0, -1] > 0.5)
        image = image.flip(3) if turned else image
        points = image[:, :2].flatten(2)[:, :, 1:69].transpose(1, 2)
        if turned:
            points = points[:, torch.from_numpy(MIRROR)] * torch.tensor([-1.0, 1.0]) + torch.tensor([1.0, 0.0])
        return SimpleNamespace(points=points)


def write(points: Tensor) -> Tensor:
    """Return images [N, 3, 16, 16] that hold landmarks [N, 68, 2]."""
    image = torch.zeros(len(points), 3, 256)
    image[:, :2, 1:69] = points.transpose(1, 2)
    image[:, 2, 0] = 1.0
    return image.reshape(-1, 3, 16, 16)


def drawn(points: Tensor) -> Tensor:
    """Move the mouth down and the jaw inwards."""
    moved = points.clone()
    moved[:, 48:] += torch.tensor([0.0, 0.05])
    moved[:, :8] += torch.tensor([0.04, 0.0])
    moved[:, 9:17] -= torch.tensor([0.04, 0.0])
    return moved


def turned(points: Tensor, angle: float, scale: float) -> Tensor:
    c, s = torch.cos(torch.tensor(angle)) * scale, torch.sin(torch.tensor(angle)) * scale
    return (points - 0.5) @ torch.stack([torch.stack([c, s]), torch.stack([-s, c])]) + 0.5


def test_goals_follow_size_and_roll_of_a_face():
    guide = LandmarkGuide(Reader(), source=write(FACE[None]), target=write(drawn(FACE[None])))
    assert guide.is_sure and guide.doubt == pytest.approx(0.0, abs=1e-5)
    for angle, scale in ((0.0, 1.0), (0.3, 0.7), (-0.5, 1.2)):
        face = turned(FACE[None], angle, scale)
        assert torch.allclose(guide.goal(face), turned(drawn(FACE[None]), angle, scale), atol=1e-5)
    faces = torch.cat([turned(FACE[None], 0.2, 0.9), FACE[None]])
    assert guide.term(write(faces), write(guide.goal(faces))).item() == pytest.approx(0.0, abs=1e-3)
    assert guide.term(write(faces), write(faces)).item() > 0.02


@pytest.mark.parametrize("posed", [lambda p: turned(p, 0.05, 1.0), lambda p: p + torch.tensor([0.03, 0.0])],
                         ids=["rolled", "shifted"])
def test_pose_of_the_drawing_is_no_shape(posed):
    straight, other = (LandmarkGuide(Reader(), source=write(FACE[None]), target=write(target))
                       for target in (drawn(FACE[None]), posed(drawn(FACE[None]))))
    moved = (posed(drawn(FACE[None])) - drawn(FACE[None])).norm(dim=2).mean()
    assert moved > 0.005
    assert (other.goal(FACE[None]) - straight.goal(FACE[None])).norm(dim=2).mean() < 0.1 * moved


def test_what_the_drawing_moves_counts_more():
    guide = LandmarkGuide(Reader(), source=write(FACE[None]), target=write(drawn(FACE[None])))
    assert float(guide.weights.sum()) == pytest.approx(1.0, abs=1e-4)

    def cost_of(part: slice) -> float:
        goal = guide.goal(FACE[None])
        goal[:, part] += torch.tensor([0.0, 0.02])
        return guide.term(write(FACE[None]), write(goal)).item()

    # Ten points each: the brows stay where they are, the mouth moves.
    assert cost_of(slice(17, 27)) * 2.0 < cost_of(slice(48, 58))


def test_pair_without_a_deformation_weighs_all_landmarks_alike():
    guide = LandmarkGuide(Reader(), source=write(FACE[None]), target=write(FACE[None]))
    assert guide.weights.max() == guide.weights.min() > 0.0


def test_term_has_gradients_for_the_stylized_faces_alone():
    guide = LandmarkGuide(Reader(), source=write(FACE[None]), target=write(drawn(FACE[None])))
    base, stylized = (write(FACE[None]).requires_grad_(True) for _ in range(2))
    guide.term(base, stylized).backward()
    assert base.grad is None and float(stylized.grad.abs().sum()) > 0


def test_pair_that_differs_from_its_mirror_is_no_guide(monkeypatch):
    wrong = drawn(FACE[None])
    monkeypatch.setattr(Reader, "forward", lambda self, image: SimpleNamespace(
        points=(wrong if image[0, 2, 0, 0] > 0.5 else wrong + 0.1).expand(len(image), -1, -1)))
    guide = LandmarkGuide(Reader(), source=write(FACE[None]), target=write(wrong))
    assert guide.doubt > 0.12 and not guide.is_sure


def test_tuner_uses_the_guide_where_the_weight_asks_for_it():
    with pytest.raises(ValueError, match="need a landmark network"):
        tiny_tuner(landmark_weight=1.0)
    tuner = tiny_tuner(landmark_weight=3.0, landmark_net=MovingFace())
    values = tuner.step()
    assert values["landmarks"] > 0
    tuner.guide.doubt = 1.0
    assert math.isnan(tuner.step()["landmarks"])  # left out


def test_unsure_landmarks_are_not_sure_when_a_run_goes_on():
    tuner = tiny_tuner(landmark_weight=3.0, landmark_net=MovingFace())
    assert torch.equal(tuner.state()["points"], tuner.guide.points)
    tuner.guide.doubt = 1.0
    assert tuner.state()["points"] is None
