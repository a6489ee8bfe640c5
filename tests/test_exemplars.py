"""Terms and stages of exemplar styles on tiny networks: known values, invariants, runs that stop and go on."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from losses.contextual import contextual_loss, feature_mean_matching
from losses.exemplar import nearest, nearest_fit, path_norm, row_spread
from losses.noise import noise_regularization, ramped_rate, renew_noise
from models.discriminator import Discriminator, DiscriminatorConfig
from models.dualstylegan import FIRST_COLOR_ROW, CodeSampler, DualStyleGAN, ModRes, blend_weights, sampler_rows
from models.stylegan2 import Generator, GeneratorConfig
from training.adversarial_stage import AdversarialStage, FolderTuning, TuningConfig
from training.checks import DivergedError
from training.exemplar_path import MixedFaces, MixedFacesConfig, Portraits, PortraitsConfig, PortraitTraining, mixing_row
from training.exemplars import (
    DestylizeSettings,
    RefineSettings,
    SamplerFit,
    SamplerSettings,
    destylize,
    refine_codes,
)

CONFIG = GeneratorConfig(size=64, style_dim=16, n_mlp=2, channels={4: 8, 8: 8, 16: 8, 32: 8, 64: 4})
ROWS = CONFIG.n_latent


class Features(nn.Module):
    """Two feature maps of fixed filters."""

    def __init__(self) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(7)
        self.register_buffer("first", torch.randn(6, 3, 3, 3, generator=rng))
        self.register_buffer("second", torch.randn(8, 6, 3, 3, generator=rng) / 5)

    def forward(self, image):
        fine = F.relu(F.conv2d(F.avg_pool2d(image, 4), self.first, padding=1))
        return fine, F.relu(F.conv2d(F.avg_pool2d(fine, 2), self.second, padding=1))


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(3)
    return Generator(CONFIG).requires_grad_(False).eval()


@pytest.fixture(scope="module")
def encode():
    matrix = torch.randn(192, ROWS * 16, generator=torch.Generator().manual_seed(8)) / 14
    return lambda image: (F.adaptive_avg_pool2d(image, 8).flatten(1) @ matrix).reshape(len(image), ROWS, 16)


def distance(image, target):
    return F.mse_loss(F.avg_pool2d(image, 4), F.avg_pool2d(target.expand_as(image), 4))


def images(count=3):
    return torch.tanh(torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(count)))


# --------------------------------------------------------------------------------------------------------------- terms
def test_contextual_loss_of_a_shuffled_map_is_near_zero_and_of_another_is_not():
    rng = torch.Generator().manual_seed(0)
    y = torch.randn(2, 32, 5, 5, generator=rng)
    shuffled = y.flatten(2)[:, :, torch.randperm(25, generator=rng)].reshape_as(y)
    assert float(contextual_loss(shuffled, y, band_width=0.2)) < 1e-3
    assert float(contextual_loss(torch.randn(2, 32, 4, 6, generator=rng), y, band_width=0.2)) > 0.3


def test_gradients_of_the_terms():
    rng = torch.Generator().manual_seed(1)
    x, y = (torch.randn(2, 4, 3, 3, generator=rng, dtype=torch.float64) for _ in range(2))
    assert torch.autograd.gradcheck(lambda t: contextual_loss(t, y), x.clone().requires_grad_(True))
    assert torch.autograd.gradcheck(lambda t: feature_mean_matching([t], [y]), x.clone().requires_grad_(True))
    noise = torch.randn(1, 1, 16, 16, generator=rng, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: noise_regularization([t]), noise)


def test_known_values():
    assert float(feature_mean_matching([torch.ones(1, 2, 3, 3)], [torch.zeros(1, 2, 5, 5)])) == 1.0
    assert float(noise_regularization([torch.ones(1, 1, 16, 16)])) == 4.0  # two levels of two axes
    assert float(row_spread(torch.tensor([[[0.0], [2.0]]]))) == pytest.approx(math.sqrt(2.0))
    assert float(path_norm([torch.tensor([3.0, 4.0]), torch.tensor([2.0])])) == 7.0
    assert nearest(torch.tensor([[0.0], [5.0]]), torch.tensor([[4.0], [1.0]]), chunk=1).tolist() == [1, 0]
    assert [ramped_rate(t, 100, rate=1.0) for t in (0, 50)] == [0.0, 1.0] and ramped_rate(99, 100, rate=1.0) < 0.01
    level = 3 + 2 * torch.randn(1, 1, 8, 8)
    renew_noise([level])
    assert float(level.mean()) == pytest.approx(0, abs=1e-6) and float(level.square().mean()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("call", [
    lambda: contextual_loss(torch.zeros(1, 2, 3, 3), torch.zeros(1, 3, 3, 3)),
    lambda: contextual_loss(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3), band_width=0.0),
    lambda: feature_mean_matching([torch.zeros(1, 2, 3, 3)], []), lambda: noise_regularization([]),
    lambda: noise_regularization([torch.zeros(4, 4)]), lambda: row_spread(torch.zeros(1, 1, 3)), lambda: path_norm([]),
    lambda: nearest_fit(torch.zeros(2, 3), torch.zeros(3, 3)),
])
def test_bad_shapes_are_named(call):
    with pytest.raises(ValueError, match=r"expected|needs|must"):
        call()


# ------------------------------------------------------------------------------------------------------------- network
def test_new_path_hardly_changes_structure_and_keeps_codes_as_colours(generator):
    network = DualStyleGAN(generator, seed=1)
    rng = torch.Generator().manual_seed(2)
    w_plus, code = (torch.randn(2, ROWS, 16, generator=rng) for _ in range(2))
    rows = network.edit_rows(w_plus, code, weights=[1.0] * ROWS)
    assert torch.equal(rows[:, :FIRST_COLOR_ROW], w_plus[:, :FIRST_COLOR_ROW])
    assert float((rows - code)[:, FIRST_COLOR_ROW:].detach().abs().max()) < 0.1
    noise = generator.fixed_noise()
    plain = generator.synthesis(w_plus, noise=noise)
    near = network.synthesis(w_plus, code, weights=[1.0] * 7 + [0.0] * (ROWS - 7), noise=noise)
    assert float((near - plain).detach().abs().max()) < 0.05 * float(plain.abs().max())
    assert torch.equal(network.synthesis(w_plus, code, weights=[1.0] * ROWS, fuse_index=0, noise=noise), plain)
    assert torch.equal(DualStyleGAN(generator, seed=1).res[9].weight, network.res[9].weight)
    assert not torch.equal(DualStyleGAN(generator, seed=2).res[9].weight, network.res[9].weight)


def test_making_a_network_leaves_the_random_state_alone(generator):
    before = torch.random.get_rng_state()
    DualStyleGAN(generator)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_weights_by_face_equal_faces_by_themselves(generator):
    network, rng = DualStyleGAN(generator, seed=1), torch.Generator().manual_seed(2)
    w_plus, code = (torch.randn(2, ROWS, 16, generator=rng) for _ in range(2))
    table = blend_weights(torch.tensor([0.2, 0.9]), 0.5, n_latent=ROWS)
    assert list(table.shape) == [2, ROWS]
    both = network.synthesis(w_plus, code, weights=table, noise=generator.fixed_noise())
    for i, structure in enumerate((0.2, 0.9)):
        weights = blend_weights(structure, [0.5] * (ROWS - 7), n_latent=ROWS)
        one = network.synthesis(w_plus[i:i + 1], code[i:i + 1], weights=weights, noise=generator.fixed_noise())
        assert torch.allclose(both[i:i + 1], one, atol=1e-5)


def test_wrong_shapes_of_the_network_are_named(generator):
    network, rows = DualStyleGAN(generator), torch.zeros(1, ROWS, 16)
    noise = generator.fixed_noise()
    for call in (lambda: network.synthesis(rows, rows[:, 1:], weights=[1.0] * ROWS, noise=noise),
                 lambda: network.synthesis(rows, rows, weights=[1.0], noise=noise),
                 lambda: network.synthesis(rows, rows.expand(2, -1, -1), weights=[1.0] * ROWS, noise=noise),
                 lambda: network.synthesis(rows, rows, weights=torch.ones(3, ROWS), noise=noise),
                 lambda: network.edit_rows(rows, rows, weights=[1.0] * ROWS, fuse_index=-1),
                 lambda: network.map_rows(rows[:, :3]), lambda: blend_weights([1.0, 2.0], 1.0, n_latent=ROWS),
                 lambda: sampler_rows({"lin_out.weight": torch.zeros(7, 128)}, style_dim=16)):
        with pytest.raises(ValueError, match=r"expected|needs|must be"):
            call()
    with pytest.raises(ValueError, match="64 px"):
        DualStyleGAN(Generator(GeneratorConfig(size=32, style_dim=16, n_mlp=1, channels={4: 4, 8: 4, 16: 4, 32: 4})))


def test_residual_block_gradient():
    block = ModRes(3, 4).double()
    x, s = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a, b: block(a, b, 0.5), (x.requires_grad_(True), s.requires_grad_(True)))


# -------------------------------------------------------------------------------------------------------------- stages
def test_destylisation_comes_nearer_to_the_portrait_and_keeps_its_colours(generator, encode):
    tuned, portrait, seen = Generator(CONFIG).eval(), images(2), []
    found = destylize(portrait, tuned, generator, encode=encode, to_w=lambda rows: rows, perceptual=distance,
                      identity=distance, settings=DestylizeSettings(steps=8), progress=lambda step, terms: seen.append(terms))
    assert len(seen) == 8 and set(seen[0]) == {"perceptual", "spread", "noise", "identity"}
    assert seen[-1]["perceptual"] < seen[0]["perceptual"]
    assert torch.equal(found.extrinsic, encode(portrait)) and torch.equal(found.intrinsic[:, 8:], found.extrinsic[:, 8:])
    assert torch.equal(found.intrinsic[:, :8], encode(found.face)[:, :8]) and found.face.shape == (2, 3, 64, 64)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in tuned.parameters())
    flat = destylize(portrait, tuned, generator, encode=encode, to_w=lambda rows: rows, perceptual=distance,
                     settings=DestylizeSettings(steps=1, truncation=0.0), center=torch.ones(16))
    centre = generator.synthesis(torch.ones(1, ROWS, 16), noise=generator.fixed_noise())
    assert torch.allclose(flat.face[:1], centre, atol=1e-4)
    with pytest.raises(DivergedError, match="perceptual"):
        destylize(portrait, tuned, generator, encode=encode, to_w=lambda rows: rows,
                  perceptual=lambda a, b: a.sum() * torch.nan)


def test_refined_codes_draw_their_portraits_better(generator, encode):
    network, portrait, seen = DualStyleGAN(generator, seed=1), images(2), []
    code = encode(portrait)
    refined = refine_codes(portrait, network, content=code, code=code, to_w=lambda rows: rows, perceptual=distance,
                           maps=Features(), settings=RefineSettings(steps=8, color=0.05, structure=0.05),
                           progress=lambda step, terms: seen.append(sum(terms[name] for name in ("perceptual", "contextual"))))
    assert len(seen) == 8 and seen[-1] < seen[0] and not torch.equal(refined, code) and not refined.requires_grad


def test_targets_mix_ever_more_rows():
    config = MixedFacesConfig(steps=100)
    assert [mixing_row(step, config) for step in (0, 9, 10, 19, 20, 99)] == [7, 7, 6, 6, 5, 5]


def trainers(generator, encode):
    """Return makers of both stages."""
    def critic():
        torch.manual_seed(9)
        return Discriminator(DiscriminatorConfig(64, CONFIG.channels))

    portraits = Portraits(images(3), encode(images(3)), encode(images(3)).flip(0))
    return {
        "folder": lambda: FolderTuning(generator, critic(), pictures=images(3), config=TuningConfig(steps=4, batch=2)),
        "mixed faces": lambda: MixedFaces(DualStyleGAN(generator, seed=1), critic(), maps=Features(), encode=encode,
                                          config=MixedFacesConfig(steps=4, batch=2, encode_every=2)),
        "portraits": lambda: PortraitTraining(DualStyleGAN(generator, seed=1), critic(), maps=Features(), portraits=portraits,
                                              identity=distance, config=PortraitsConfig(steps=4, batch=2)),
    }


def run_steps(stage: AdversarialStage) -> None:
    while stage.step_count < stage.config.steps:
        stage.step()


@pytest.mark.parametrize("stage", ["folder", "mixed faces", "portraits"])
def test_stage_that_was_stopped_ends_as_one_that_was_not(generator, encode, stage, tmp_path):
    make = trainers(generator, encode)[stage]
    whole = make()
    before = {key: value.clone() for key, value in whole.network.state_dict().items()}
    run_steps(whole)
    for key, value in whole.network.state_dict().items():
        still = key.startswith("generator.") if stage != "folder" else "kernel" in key or key.startswith("noises")
        assert torch.equal(value, before[key]) == still, key
    assert any(not torch.equal(a, b) for a, b in zip(whole.average.parameters(), whole.network.parameters(), strict=True))
    first = make()
    first.step()
    first.step()
    torch.save(first.state(), tmp_path / "state.pt")
    second = make()
    second.load_state(torch.load(tmp_path / "state.pt", weights_only=True))
    run_steps(second)
    assert [{**row} for row in second.history] == whole.history
    for name in ("network", "average", "critic"):
        for a, b in zip(getattr(whole, name).parameters(), getattr(second, name).parameters(), strict=True):
            assert torch.equal(a, b)


def test_terms_of_fine_tuning_are_those_of_the_equations(generator, encode):
    trainer = trainers(generator, encode)["portraits"]()
    values = {}
    while len(values) < 8:
        values |= trainer.step()
    assert set(values) - {"r1"} == {"critic", "adversarial", "contextual", "means", "norm", "identity", "pair"}
    assert values["norm"] > 0 and all(math.isfinite(value) for value in values.values())


def test_diverged_stage_names_its_term(generator, encode):
    trainer = trainers(generator, encode)["mixed faces"]()
    trainer.maps = lambda image: tuple(torch.nan * part for part in Features()(image))
    with pytest.raises(DivergedError, match="features"):
        trainer.step()


def test_a_sudden_gradient_is_shortened(generator, encode):
    trainer = trainers(generator, encode)["mixed faces"]()
    trainer.step()
    usual, plain, lengths = trainer.usual, trainer.maps, []
    trainer.maps = lambda image: tuple(1e4 * part for part in plain(image))
    trainer.optimizer.register_step_post_hook(lambda *_: lengths.append(float(torch.nn.utils.get_total_norm(
        [parameter.grad for parameter in trainer.named.values() if parameter.grad is not None]))))
    trainer.step()
    assert lengths == [pytest.approx(3.0 * usual, rel=1e-3)] and trainer.usual == pytest.approx(1.2 * usual, rel=1e-3)


def test_portraits_without_codes_are_refused():
    with pytest.raises(ValueError, match="3 portraits, 2 and 2"):
        Portraits(images(3), torch.zeros(2, ROWS, 16), torch.zeros(2, ROWS, 16))


def test_sampler_learns_the_codes_and_goes_on_where_it_stopped():
    codes = torch.randn(4, 2, 8, generator=torch.Generator().manual_seed(0))
    settings = SamplerSettings(samples=1600, codes=40, pool=4, batch=20, rate=5e-3)
    whole, first = SamplerFit(codes, settings=settings, seed=1), SamplerFit(codes, settings=settings, seed=1)
    values = [whole.step() for _ in range(settings.epochs)]
    assert settings.epochs == 40 and values[-1] < 0.2 * values[0]
    made = whole.sampler(torch.randn(200, 128, generator=torch.Generator().manual_seed(5))).detach().flatten(1)
    # Every code has samples near it: no mode is left out.
    assert set(nearest(made, codes.flatten(1)).tolist()) == {0, 1, 2, 3}
    assert float(torch.pdist(made).mean()) > 0.5 * float(torch.pdist(codes.flatten(1)).mean())
    first.step()
    second = SamplerFit(codes, settings=settings, seed=2)
    second.load_state(first.state())
    assert second.step() == values[1] and second.epoch == 2
    assert isinstance(second.sampler, CodeSampler)
    with pytest.raises(ValueError, match=r"expected codes"):
        SamplerFit(torch.zeros(3, 4))
