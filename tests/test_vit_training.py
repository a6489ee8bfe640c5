"""The transformer's self-distillation: targets that stay sharp, and centres that stay apart."""

from __future__ import annotations

import math
from copy import deepcopy

import pytest
import torch
from torch.nn import functional as F

from training.ema import update_average
from training.pretrain.vit import DinoHead, VitTrainer, VitTrainingConfig


def spread(logits: torch.Tensor) -> float:
    return float(logits.detach().std(dim=0).mean())


def test_whitened_head_tells_nearly_equal_tokens_apart():
    tokens = torch.randn(1, 192) + 0.001 * torch.randn(32, 192)
    torch.manual_seed(1)
    plain, whitened = DinoHead(192, 64), DinoHead(192, 64, whiten=True)
    assert spread(plain(tokens)) < 1e-3
    # Cosines of random directions in 128 dimensions deviate by 1 / sqrt(128).
    assert spread(whitened(tokens)) == pytest.approx(128**-0.5, rel=0.25)


def test_distillation_by_the_whitened_head_learns_from_small_batches():
    """From a head that gives every token the same logits, the loss must leave ln K."""
    torch.manual_seed(0)
    config, faces = VitTrainingConfig(), torch.randn(64, 192) * 0.02
    student = DinoHead(192, config.prototypes, whiten=True)
    student.mlp[2].weight.data *= 0.01
    teacher = deepcopy(student)
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-3)
    rng, centre, losses = torch.Generator().manual_seed(0), torch.zeros(config.prototypes), []
    for _ in range(150):
        chosen = faces[torch.randint(64, (32,), generator=rng)]
        views = [chosen + 0.01 * torch.randn(32, 192, generator=rng) for _ in range(2)]
        with torch.no_grad():
            goal = teacher(views[0])
            target = torch.softmax((goal - centre) / config.teacher_temperature, dim=1)
            centre = 0.9 * centre + 0.1 * goal.mean(dim=0)
        loss = -(target * F.log_softmax(student(views[1]) / config.student_temperature, dim=1)).sum(dim=1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        update_average(teacher, student, config.momentum)
        losses.append(float(loss.detach()))
    assert sum(losses[-10:]) / 10 < math.log(config.prototypes) - 0.3
    assert spread(teacher(faces)) > 0.02


def test_each_kind_of_token_has_its_own_centre_and_temperature():
    trainer = VitTrainer(VitTrainingConfig(batch=2))
    assert len(trainer.centres["class"]) == trainer.config.prototypes
    assert len(trainer.centres["dense"]) == trainer.config.dense_prototypes
    assert trainer.student.head.whiten and not trainer.student.dense_head.whiten
    teacher = torch.zeros(4, trainer.config.prototypes)
    teacher[:, 0] = 1.0
    # A target that is certain of what the student finds unlikely costs more than a uniform one.
    loss = trainer.distil(torch.zeros_like(teacher), teacher, "class")
    assert float(loss) == pytest.approx(math.log(trainer.config.prototypes), rel=1e-4)
    assert float(trainer.centres["class"][0]) == pytest.approx(0.1)
    assert float(trainer.centres["dense"].abs().max()) == 0.0
