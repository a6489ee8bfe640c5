"""Training of strokes: what a step changes, and that runs go on to the bit."""

from __future__ import annotations

import math

import pytest
import torch
from drawn_styles import parts_of, photo_of

from checkpoints.features import load_squeezenet
from training.strokes import Lesson, StrokeSettings, StrokeTrainer, gram

SETTINGS = {"steps": 6, "crop": 32, "batch": 2, "others": 1, "critic_from": 1}


@pytest.fixture(scope="module")
def features():
    return load_squeezenet()


def trainer(features, **settings) -> StrokeTrainer:
    lesson = Lesson(photo_of(48, 1), parts_of(48), photo_of(48, 2))
    return StrokeTrainer([lesson], [(photo_of(40, 3), parts_of(40))], features=features,
                         settings=StrokeSettings(**{**SETTINGS, **settings}), seed=3)


def test_a_step_changes_network_and_critic_and_reports_its_terms(features):
    made = trainer(features)
    before = [p.clone() for p in made.network.parameters()]
    first, second = made.step(), made.step()
    assert tuple(first) == made.terms and math.isnan(first["critic"]) and math.isnan(first["judge"])
    assert all(math.isfinite(value) for value in second.values())
    assert any(not torch.equal(a, b) for a, b in zip(before, made.network.parameters(), strict=True))
    assert made.step_count == len(made.history) == 2


def test_a_resumed_run_is_the_whole_run(features, tmp_path):
    whole, cut, again = (trainer(features) for _ in range(3))
    for _ in range(4):
        whole.step()
    cut.step(), cut.step()
    torch.save(cut.state(), tmp_path / "state.pt")
    again.load_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert again.step_count == 2
    again.step(), again.step()
    assert str(again.history) == str(whole.history)
    for one, other in zip(whole.network.state_dict().values(), again.network.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(ValueError, match="other settings"):
        trainer(features, crop=24).load_state(cut.state())


def test_training_comes_nearer_to_the_drawing(features):
    made = trainer(features, steps=40, batch=3, others=0, critic=0.0)
    lesson = made.lessons[0]
    before = (made.network(lesson.toned, lesson.parts) - lesson.drawing).abs().mean()
    for _ in range(40):
        values = made.step()
    assert math.isnan(values["keep"]) and math.isnan(values["critic"])
    network = made.finished()
    assert (network(lesson.toned, lesson.parts) - lesson.drawing).abs().mean() < 0.8 * before
    assert not any(p.requires_grad for p in network.parameters())


def test_a_sheet_shows_the_drawing_and_everyone(features):
    made = StrokeTrainer([Lesson(photo_of(48, 1), parts_of(48), photo_of(48, 2))], [(photo_of(48, 3), parts_of(48))],
                         features=features, settings=StrokeSettings(**SETTINGS))
    rows = made.sheet()
    assert [len(rows[name]) for name in ("drawing", "toned", "drawn")] == [1, 2, 2] and made.network.training


def test_nothing_to_learn_from_and_terms_that_are_not_finite_are_named(features):
    with pytest.raises(ValueError, match="at least one lesson"):
        StrokeTrainer([], [], features=features, settings=StrokeSettings())
    made = trainer(features)
    made.lessons = [Lesson(made.lessons[0].toned * math.nan, made.lessons[0].parts, made.lessons[0].drawing)]
    before = [p.clone() for p in made.network.parameters()]
    with pytest.raises(ArithmeticError, match="strokes, step 0: a term is not finite"):
        made.step()
    assert all(torch.equal(a, b) for a, b in zip(before, made.network.parameters(), strict=True))


def test_gram_of_one_place():
    maps = torch.tensor([1.0, 2.0])[None, :, None, None]
    assert torch.equal(gram(maps), torch.tensor([[[1.0, 2.0], [2.0, 4.0]]]))
