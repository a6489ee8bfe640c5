"""Latent optimisation."""

from __future__ import annotations

import pytest
import torch
from tuner_worker import tiny_networks, tiny_pair

from losses.perceptual import InversionLoss, ViTTokenDistance
from models.stylegan2 import layer_at
from training import inversion
from training.config import FineTuneConfig
from training.inversion import ResidualSettings, feature_deviation
from training.likeness import inversion_loss
from training.prepare import encoded_start, invert_pair


class Absolute(torch.nn.Module):
    """Batch mean of the absolute difference."""

    def forward(self, image: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (image - target).abs().mean()


def invert(*arguments, **settings) -> torch.Tensor:
    """Invert into rows alone."""
    face = inversion.invert(*arguments, **settings)
    assert face.residual is None
    return face.w_plus


@pytest.fixture(scope="module")
def networks():
    return tiny_networks()


@torch.no_grad()
def faces(generator, count: int, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    z = torch.randn(count, 32, generator=torch.Generator().manual_seed(seed))
    w_plus = generator.broadcast(generator.mapping(z))
    return generator.synthesis(w_plus, noise=generator.fixed_noise()), w_plus


def test_finds_the_way_back_to_a_known_image(networks):
    generator, _, dino = networks
    target, w_plus = faces(generator, 1)
    losses = []
    found = invert(target, generator, w_init=w_plus + 0.3, objective=InversionLoss(ViTTokenDistance(dino, layers=(2,))),
                   steps=40, lr=2e-2, progress=lambda step, loss: losses.append((step, loss)))
    assert [step for step, _ in losses] == list(range(1, 41)) and losses[-1][1] < 0.5 * losses[0][1]
    assert found.shape == w_plus.shape and not found.requires_grad


def test_side_by_side_is_the_same_as_one_by_one(networks):
    generator = networks[0]
    target, w_plus = faces(generator, 2)
    start = w_plus.mean(dim=0, keepdim=True)
    settings = {"w_init": start, "objective": Absolute(), "steps": 5, "lr": 1e-2}
    together = invert(target, generator, **settings)
    apart = torch.cat([invert(target[i:i + 1], generator, **settings) for i in range(2)])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-4)


def test_leaves_everything_as_it_was(networks):
    generator, _, dino = networks
    target, w_plus = faces(generator, 1)
    flags = [p.requires_grad for p in generator.parameters()]
    before = generator.conv1.conv.weight.clone()
    with torch.no_grad():  # scripts may call it so
        found = invert(target, generator, w_init=w_plus + 0.3, objective=Absolute(), steps=1)
    assert [p.requires_grad for p in generator.parameters()] == flags
    assert all(p.grad is None for p in generator.parameters()) and torch.equal(before, generator.conv1.conv.weight)
    assert not torch.equal(found, w_plus + 0.3)


def test_rate_falls_over_the_last_steps(networks, monkeypatch):
    generator = networks[0]
    target, w_plus = faces(generator, 1)
    rates, step = [], torch.optim.Adam.step
    monkeypatch.setattr(torch.optim.Adam, "step",
                        lambda self, *a: (rates.append(self.param_groups[0]["lr"]), step(self, *a))[1])
    for decay in (0.0, 0.5):
        invert(target, generator, w_init=w_plus + 0.3, objective=Absolute(), steps=8, lr=1e-2, decay=decay)
    assert rates[:8] == [1e-2] * 8
    assert rates[8:] == pytest.approx([1e-2] * 5 + [7.5e-3, 5e-3, 2.5e-3])


def test_memory_of_squared_gradients_is_adams(networks):
    generator = networks[0]
    target, w_plus = faces(generator, 1)
    ends = [invert(target, generator, w_init=w_plus + 0.3, objective=Absolute(), steps=steps, lr=1e-2, beta2=beta2)
            for steps, beta2 in ((1, 0.5), (1, 0.999), (4, 0.5), (4, 0.999))]
    torch.testing.assert_close(ends[0], ends[1])  # the first step is the sign of the gradient
    assert (ends[2] - ends[3]).abs().max() > 1e-4


def test_no_steps_return_the_start_and_fresh_noise_is_seeded(networks):
    generator = networks[0]
    target, w_plus = faces(generator, 1)
    assert torch.equal(invert(target, generator, w_init=w_plus, objective=Absolute(), steps=0), w_plus)
    runs = [invert(target, generator, w_init=w_plus + 0.3, objective=Absolute(), steps=2,
                   noise=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


def test_loss_that_is_not_finite_names_the_step(networks):
    generator = networks[0]
    target, w_plus = faces(generator, 1)
    with pytest.raises(ArithmeticError, match="inversion step 0: the loss is nan"):
        invert(target * float("nan"), generator, w_init=w_plus, objective=Absolute(), steps=3)


def test_residual_holds_what_rows_cannot_say(networks):
    generator = networks[0]
    target, w_plus = faces(generator, 2)
    extra = torch.zeros(1, generator.config.channels[32], 32, 32)
    extra[:, :, 10:14, 8:20] = 4.0 * feature_deviation(generator, 32)  # glasses, say
    with torch.no_grad():
        target = generator.synthesis(w_plus, noise=generator.fixed_noise(),
                                     feature_transforms={layer_at(32): lambda features: features + extra})
    settings = {"w_init": w_plus, "objective": Absolute(), "steps": 30, "lr": 1e-2}
    ends = [inversion.invert(target, generator, residual=residual, **settings)
            for residual in (None, ResidualSettings(), ResidualSettings(penalty=1e3))]
    errors = []
    for face in ends:
        with torch.no_grad():
            shown = generator.synthesis(face.w_plus, noise=generator.fixed_noise(), feature_transforms=face.transforms())
        errors.append(float((shown - target).abs().mean()))
    assert errors[1] < 0.7 * errors[0] and errors[2] > 0.9 * errors[0]  # a large penalty keeps the features as they are
    assert ends[1].residual.shape == (2, generator.config.channels[32], 32, 32) and not ends[1].residual.requires_grad
    again = inversion.invert(target, generator, residual=ResidualSettings(), residual_init=ends[1].residual,
                             **settings | {"steps": 0})
    torch.testing.assert_close(again.residual, ends[1].residual)


@pytest.mark.parametrize(("change", "message"), [
    ({"residual": ResidualSettings(resolution=128)}, "no features of 128 px"),
    ({"residual": ResidualSettings(), "residual_init": torch.zeros(1, 2, 3, 3)}, "expected residual_init"),
    ({"image": torch.zeros(1, 3, 32, 32)}, r"expected images \[N, 3, 64, 64\]"),
    ({"w_init": torch.zeros(1, 9, 32)}, r"expected w_init \[1 or 1, 10, 32\]"),
    ({"steps": -1}, "steps must be >= 0"),
])
def test_wrong_inputs_are_named(networks, change, message):
    target, w_plus = faces(networks[0], 1)
    arguments = {"image": target, "w_init": w_plus, "objective": Absolute(), "steps": 1, **change}
    with pytest.raises(ValueError, match=message):
        invert(arguments.pop("image"), networks[0], **arguments)


def test_pair_is_inverted_in_one_pass_with_the_transformers_tokens(networks, tmp_path, passes):
    generator, _, dino = networks
    objective = inversion_loss(dino, tmp_path)
    assert isinstance(objective.perceptual, ViTTokenDistance)
    start = generator.broadcast(generator.mean_w(8, generator=torch.Generator().manual_seed(0))[None])
    found = invert_pair(tiny_pair(), generator, config=FineTuneConfig(inversion_steps=3), w_init=start,
                        objective=objective, quiet=True)
    assert found.shape == (2, 10, 32) and len(passes) == 3 + 1  # the target once


def test_missing_lpips_file_is_named(networks, tmp_path):
    with pytest.raises(FileNotFoundError, match="alexnet-owt"):
        inversion_loss(networks[2], tmp_path, needs_lpips=True)


def test_encoder_gives_the_start():
    sizes = []

    class Encoder(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            sizes.append(tuple(image.shape))
            return image.mean(dim=(1, 2, 3))[:, None, None].expand(-1, 10, 32)

    start = encoded_start(Encoder(), torch.ones(10, 32), tiny_pair(), input_size=48)
    assert sizes == [(2, 3, 48, 48)] and start.shape == (2, 10, 32)
