"""MODIFY: networks, terms, both stages of training, and folders of images."""

from __future__ import annotations

import math
from copy import deepcopy
from functools import partial

import pytest
import torch
from modify_worker import ENCODER, JUDGES, tiny_adapter, tiny_encapsulator, tiny_images, tiny_parts
from torch import Tensor

from checkpoints import CheckpointError
from data.images import ImageError, save_image
from losses.modify import (
    RECONSTRUCTION_PHASE,
    STYLISATION,
    SWAPPING_PHASE,
    code_term,
    critic_terms,
    gradient_penalty,
    identity_loss,
    reconstruction_loss,
    swapping_loss,
    weighted,
)
from models.modify import RemappingConfig, RemappingNetwork, StyleModel, version_z
from training.checks import DivergedError
from training.folder import FolderImages
from training.modify import adapt_to
from training.modify_config import AdaptationConfig, EncapsulationConfig
from training.modify_start import modes_of, silhouette, start_remapping
from training.session import Session
from training.state import read_state, restore, save_state


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """Names of networks and parts whose tensors differ."""
    return {".".join(name.split(".")[:1]) for name in before if not torch.equal(before[name], after[name])}


# ------------------------------------------------------------------------------------------------------------- networks
def test_rows_are_swapped_above_the_content(rng: torch.Generator) -> None:
    model, _ = tiny_parts()
    codes, rows = torch.randn(2, 8, 16, generator=rng), torch.randn(2, 3, 16, generator=rng)
    mixed = model.swapped(codes, rows)
    assert model.first_style_row == 5
    assert torch.equal(mixed[:, :5], codes[:, :5]) and torch.equal(mixed[:, 5:], rows)
    assert torch.equal(model.swapped(codes, rows, strength=0.0), codes)
    torch.testing.assert_close(model.swapped(codes, rows[:1], strength=0.25)[:, 5:], 0.75 * codes[:, 5:] + 0.25 * rows[:1])
    with pytest.raises(ValueError, match="style rows"):
        model.swapped(codes, rows[:, :2])


def test_the_model_is_encoder_mean_latent_and_the_one_synthesis() -> None:
    model, _ = tiny_parts()
    image = tiny_images(2)
    codes = model.encoder(image)
    direct = model.generator.synthesis(codes + model.latent_avg, noise=model.generator.fixed_noise())
    assert torch.equal(model(image), direct)
    twice = image.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(model.encode(twice), codes)


def test_parts_that_do_not_fit_are_named(rng: torch.Generator) -> None:
    model, _ = tiny_parts()
    with pytest.raises(ValueError, match="fewer than 8 rows"):
        StyleModel(model.encoder, model.generator, RemappingNetwork(RemappingConfig(8, 16, 1)), model.latent_avg)
    with pytest.raises(ValueError, match="mean latent"):
        StyleModel(model.encoder, model.generator, model.remapping, torch.zeros(7, 16))
    with pytest.raises(ValueError, match=r"z \[N, 16\]"):
        model.remapping(torch.randn(2, 15, generator=rng))
    assert ENCODER.n_styles == 8


def test_versions_depend_on_their_seed_alone() -> None:
    both = version_z([3, 4], 16)
    assert torch.equal(both[1:], version_z([4], 16)) and not torch.equal(both[0], both[1])


# ---------------------------------------------------------------------------------------------------------------- terms
def test_terms_have_known_values() -> None:
    ones = torch.ones(2, 3, 4, 4)
    assert float(reconstruction_loss(ones, -ones[:1])) == 4.0
    e = torch.eye(3)
    assert float(identity_loss(2 * e[:1], e[:1])) == pytest.approx(0.0, abs=1e-6)
    assert float(identity_loss(e[:1], e[1:2])) == pytest.approx(1.0)
    assert float(identity_loss(e[:1], -e[:1])) == pytest.approx(2.0)
    codes = torch.zeros(2, 5, 4)
    rows = torch.full((2, 2, 4), 3.0)
    assert float(swapping_loss(rows, codes)) == pytest.approx(3.0 * 8**0.5)
    assert float(code_term("style_rows", codes=codes, rows=rows, reencoded=codes)) == 9.0
    assert float(code_term("all_rows", codes=codes, rows=rows, reencoded=codes)) == 0.0
    assert float(critic_terms("wgan").critic(torch.tensor([2.0]), torch.tensor([5.0]))) == 3.0


def test_a_linear_critic_has_a_known_penalty(rng: torch.Generator) -> None:
    weight = torch.zeros(3, 2, 2)
    weight[0, 0, 0], weight[1, 1, 1] = 3.0, 4.0
    real, fake = torch.randn(2, 2, 3, 2, 2, generator=rng)
    share = torch.rand(2, 1, 1, 1, generator=rng)
    penalty = gradient_penalty(lambda x: (x * weight).sum(dim=(1, 2, 3)), real, fake, share=share)
    assert float(penalty) == pytest.approx(16.0)
    flat = torch.zeros((), requires_grad=True)
    penalty = gradient_penalty(lambda x: flat * x.sum(dim=(1, 2, 3)), real, fake, share=share)
    (gradient,) = torch.autograd.grad(penalty, flat)
    assert bool(torch.isfinite(gradient))


def test_swapping_loss_has_gradients_also_at_zero(rng: torch.Generator) -> None:
    rows = torch.randn(2, 2, 3, generator=rng, dtype=torch.float64, requires_grad=True)
    codes = torch.randn(2, 4, 3, generator=rng, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(swapping_loss, (rows, codes))
    (gradient,) = torch.autograd.grad(swapping_loss(rows, torch.cat([rows, rows], dim=1).detach()), rows)
    assert float(gradient.abs().max()) == 0.0


def test_weights_and_wrong_shapes() -> None:
    assert sum(RECONSTRUCTION_PHASE.values()) == pytest.approx(2.7) and sum(SWAPPING_PHASE.values()) == pytest.approx(1.1)
    terms = {"r": torch.tensor(2.0), "swap": torch.tensor(3.0)}
    assert weighted(terms, RECONSTRUCTION_PHASE) == {"r": pytest.approx(1.6)}
    with pytest.raises(ValueError, match="no weight for"):
        weighted(terms, STYLISATION)
    for call in (lambda: swapping_loss(torch.zeros(2, 3, 4), torch.zeros(2, 2, 4)), lambda: critic_terms("hinge"),
                 lambda: identity_loss(torch.zeros(2, 3), torch.zeros(3, 3)),
                 lambda: code_term("none", codes=torch.zeros(1), rows=torch.zeros(1), reencoded=torch.zeros(1))):
        with pytest.raises(ValueError, match="got"):
            call()


# --------------------------------------------------------------------------------------------------------------- stages
def test_each_phase_trains_its_networks() -> None:
    stage = tiny_encapsulator()
    first = deepcopy(stage.model.state_dict())
    row = stage.step()
    middle = deepcopy(stage.model.state_dict())
    assert changed(first, middle) == {"encoder", "generator"}
    assert row["r"] > 0 and row["critic"] == row["critic"] and row["swap"] != row["swap"]
    stage.step()
    before = deepcopy(stage.model.state_dict())
    row = stage.step()
    assert changed(before, stage.model.state_dict()) == {"remapping"}
    assert row["swap"] > 0 and row["r"] != row["r"]
    assert not any("running_mean" in name and not torch.equal(first[name], before[name]) for name in first)
    everything = tiny_encapsulator(steps=0, swap_steps=1, swap_parts="all")
    before = deepcopy(everything.model.state_dict())
    everything.step()
    assert changed(before, everything.model.state_dict()) == {"encoder", "generator", "remapping"}


def test_style_is_the_running_average_where_one_is_asked_for() -> None:
    plain, stage = tiny_encapsulator(), tiny_encapsulator(average=0.9)
    assert plain.result is plain.model and stage.result is not stage.model
    wanted = deepcopy(stage.model.state_dict())
    for step in range(stage.total):
        if step == stage.config.steps:  # the second phase goes on from the average
            stage_before = deepcopy(stage.result.state_dict())
        stage.step()
        if step < stage.config.steps:
            for name, tensor in stage.model.named_parameters():
                wanted[name] = 0.9 * wanted[name] + 0.1 * tensor.detach()
            assert all(torch.allclose(tensor, wanted[name], atol=1e-6) for name, tensor in stage.result.named_parameters())
    fixed = [name for name, _ in stage.model.named_parameters() if not name.startswith("remapping.")]
    assert all(torch.allclose(stage.model.state_dict()[name], stage_before[name], atol=1e-6) for name in fixed)
    with pytest.raises(ValueError, match="average must be below 1 and decay"):
        EncapsulationConfig(average=1.0)


def test_rate_falls_at_the_end_of_the_first_phase() -> None:
    stage = tiny_encapsulator(steps=10, swap_steps=0, decay=0.5, lr=1.0)
    rates = []
    for step in range(10):
        stage.step_count = step
        rates.append(stage.rate())
    assert rates[:6] == [1.0] * 6 and rates[6:] == pytest.approx([0.8, 0.6, 0.4, 0.2])
    assert tiny_encapsulator(steps=10, lr=0.5).rate() == 0.5


def test_remapping_network_begins_with_the_images_rows(rng: torch.Generator) -> None:
    network = RemappingNetwork(RemappingConfig(2, 32, 4))
    ways = torch.randn(3, 64, generator=rng)
    rows = 2.0 + torch.randn(50, 3, generator=rng) @ (ways * torch.tensor([[1.0], [0.5], [0.25]]))
    start_remapping(network, rows.reshape(50, 2, 32))
    made = network(torch.randn(4000, 32, generator=rng)).flatten(1).detach()
    assert (made.mean(dim=0) - rows.mean(dim=0)).abs().mean() < 0.1
    assert made.std(dim=0).sum() / rows.std(dim=0).sum() == pytest.approx(1.0, abs=0.15)
    # What is made varies along the directions of the given rows.
    inside = torch.linalg.svd(rows - rows.mean(dim=0), full_matrices=False)[2][:3]
    centred = made - made.mean(dim=0)
    assert (centred @ inside.T).square().sum() / centred.square().sum() > 0.8


def test_modes_of_rows_are_found_where_there_are_several(rng: torch.Generator) -> None:
    kinds = torch.arange(90) % 3
    rows = 6.0 * torch.randn(3, 64, generator=rng)[kinds] + torch.randn(90, 64, generator=rng)
    found = modes_of(rows.reshape(90, 2, 32))
    assert len(set(zip(found.tolist(), kinds.tolist(), strict=True))) == 3
    line = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
    assert silhouette(line, torch.tensor([0, 0, 1, 1])) == pytest.approx((9.5 / 10.5 + 8.5 / 9.5) / 2.0)
    assert silhouette(rows, torch.arange(90) // 30) < 0.1
    assert not modes_of(torch.randn(90, 2, 32, generator=rng)).any()
    # Of few images a mode would be almost an image.
    assert not modes_of(rows[:30].reshape(30, 2, 32)).any()


def test_remapping_network_begins_with_every_mode(rng: torch.Generator) -> None:
    network = RemappingNetwork(RemappingConfig(2, 64, 4))
    centres = 6.0 * torch.randn(3, 128, generator=rng)
    kinds = torch.tensor([0, 0, 1, 2]).repeat(40)
    rows = centres[kinds] + torch.randn(160, 128, generator=rng)
    start_remapping(network, rows.reshape(160, 2, 64))
    made = network(torch.randn(1000, 64, generator=rng)).flatten(1).detach()
    away = torch.cdist(made, centres)
    shares = away.argmin(dim=1).bincount(minlength=3) / 1000.0
    assert torch.allclose(shares, torch.tensor([0.5, 0.25, 0.25]), atol=0.08)
    # Most lie near one of the modes, not between them.
    assert float(away.amin(dim=1).median()) < 0.3 * float(torch.pdist(centres).mean())


def test_second_phase_starts_from_the_moments_where_that_is_asked_for() -> None:
    stage = tiny_encapsulator(steps=1, swap_steps=1, remap_start="moments", average=0.5)
    before = deepcopy(stage.model.remapping.state_dict())
    stage.step()
    assert all(torch.equal(before[name], tensor) for name, tensor in stage.model.remapping.state_dict().items())
    stage.step()
    last = list(before)[-2]
    assert (stage.result.remapping.state_dict()[last] - before[last]).abs().mean() > 0.1
    with pytest.raises(ValueError, match="remap_start must be one of"):
        EncapsulationConfig(remap_start="warm")


def test_released_forms_and_chosen_parts_train() -> None:
    stage = tiny_encapsulator(critic_form="softplus", code_form="all_rows", penalty=0.0, encoder_parts=("styles.*",),
                              generator_parts=("to_rgb*",))
    before = deepcopy(stage.model.state_dict())
    rows = [stage.step() for _ in range(stage.total)]
    moved = {name for name in before if not torch.equal(before[name], stage.model.state_dict()[name])}
    assert moved and all(name.startswith(("encoder.styles.", "generator.to_rgb", "remapping.")) for name in moved)
    assert rows[0]["critic"] > 0 and rows[0]["penalty"] != rows[0]["penalty"]
    with pytest.raises(ValueError, match="no parameter has a name like"):
        tiny_encapsulator(encoder_parts=("nothing*",))


@pytest.mark.parametrize("make", [tiny_encapsulator, tiny_adapter,
                                  partial(tiny_encapsulator, average=0.5, remap_start="moments", decay=0.5)])
def test_a_run_that_was_cut_off_goes_on_to_the_bit(make, tmp_path) -> None:  # noqa: ANN001
    whole = make()
    rows = [whole.step() for _ in range(4)]
    for stop in (1, 3):
        first, second = make(), make()
        for _ in range(stop):
            first.step()
        save_state(tmp_path / "state.pt", first, run={"run": "0"})
        restore(second, read_state(tmp_path / "state.pt"))
        assert str([second.step() for _ in range(4 - stop)]) == str(rows[stop:])
        for name, module in second.trained().items():
            ours, theirs = module.state_dict(), whole.trained()[name].state_dict()
            assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    with pytest.raises(CheckpointError, match="does not fit this run"):
        state = read_state(tmp_path / "state.pt")
        del state["tuner"]["networks"]["critic"]
        restore(make(), state)


def test_a_session_writes_table_plot_and_sheets(tmp_path) -> None:  # noqa: ANN001
    stage = tiny_encapsulator()
    Session(tmp_path, {"run": "0"}, save_every=1, sheet_every=2, quiet=True).train(stage)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"state.pt", "losses.csv", "losses.png", "sheet_00000.png", "sheet_00002.png", "sheet_00004.png"}
    assert len((tmp_path / "losses.csv").read_text().splitlines()) == 5


def test_adapting_moves_the_copy_alone_and_learns_the_photo() -> None:
    stage = tiny_adapter(steps=30, lr=5e-3, encoder_parts=("styles.*.linear.*", "latlayer*"))
    before, critic = deepcopy(stage.unadapted.state_dict()), deepcopy(stage.critic)
    rows = [stage.step() for _ in range(stage.total)]
    after = stage.unadapted.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    moved = {name for name, tensor in stage.model.encoder.state_dict().items()
             if not torch.equal(tensor, before[f"encoder.{name}"])}
    assert moved and all(".linear." in name or name.startswith("latlayer") for name in moved)
    mean = [sum(row["r"] for row in part) for part in (rows[:8], rows[-8:])]
    assert mean[1] < 0.9 * mean[0]
    assert not torch.equal(critic.final_conv[0].weight, stage.critic.final_conv[0].weight)


def test_test_time_training_returns_codes_and_leaves_the_style() -> None:
    model, critic = tiny_parts()
    before = deepcopy({**model.state_dict(), **{f"c.{k}": v for k, v in critic.state_dict().items()}})
    photo = tiny_images(1, seed=20)
    with torch.no_grad():  # as styles draw
        codes = adapt_to(photo, model, critic, config=AdaptationConfig(steps=20, lr=5e-3), judges=JUDGES)
    after = {**model.state_dict(), **{f"c.{k}": v for k, v in critic.state_dict().items()}}
    assert all(torch.equal(before[name], after[name]) for name in before)
    with torch.no_grad():
        assert reconstruction_loss(model.decode(codes), photo) < 0.9 * reconstruction_loss(model(photo), photo)


def test_numbers_that_are_not_finite_stop_before_the_weights(tmp_path) -> None:  # noqa: ANN001
    stage = tiny_adapter(adv_weight=0.0)
    before = deepcopy(stage.model.state_dict())
    stage.source = lambda step, rng: torch.full((1, 3, 32, 32), float("nan"))
    with pytest.raises(DivergedError, match="step 0"):
        stage.step()
    assert all(torch.equal(before[name], tensor) for name, tensor in stage.model.state_dict().items())


def test_settings_are_checked_and_travel() -> None:
    config = EncapsulationConfig.profile("starter", encoder_parts=["a*"])
    assert EncapsulationConfig.from_dict(config.to_dict()) == config and config.rows == 5
    assert EncapsulationConfig() == EncapsulationConfig.profile("published") and AdaptationConfig().steps == 20_000
    for wrong in ({"lr": -1.0}, {"critic_form": "hinge"}, {"batch": 0}, {"code_form": "x"}, {"steps": 0, "swap_steps": 0},
                  {"swap_weight": 0.0, "adv_z_weight": 0.0}, {"beta2": 1.0}, {"lr": float("nan")}):
        with pytest.raises(ValueError, match="must be|nothing to train"):
            EncapsulationConfig(**wrong)
    with pytest.raises(ValueError, match="nothing to train"):
        AdaptationConfig(r_weight=0.0, lpips_weight=0.0, id_weight=0.0, adv_weight=0.0)


# --------------------------------------------------------------------------------------------------------------- images
def test_a_folder_is_read_once_and_mirrored(tmp_path) -> None:  # noqa: ANN001
    images = tiny_images(3)
    for index, image in enumerate(images):
        save_image(tmp_path / f"{index}.png", image)
    folder = FolderImages.read(tmp_path, size=32)
    assert len(folder) == 3 and folder.names == ("0.png", "1.png", "2.png")
    torch.testing.assert_close(folder.batch([2, 0]), images[[2, 0]], atol=1 / 127, rtol=0)
    flipped = folder.batch([1], flip=torch.tensor([True]))
    assert torch.equal(flipped, folder.batch([1]).flip(3))
    assert folder.digest != FolderImages(folder.pixels.flip(0), folder.names).digest
    assert len(folder.random(5, mirror=True, rng=torch.Generator().manual_seed(0))) == 5
    (tmp_path / "3.png").write_bytes(b"junk")
    with pytest.raises(ImageError, match="3.png"):
        FolderImages.read(tmp_path, size=32)


def test_what_steps_on_one_photo_share_is_computed_once() -> None:
    adapter, calls = tiny_adapter(encoder_parts=("styles.*.linear.*",)), []
    adapter.unadapted.register_forward_hook(lambda *_: calls.append("drawn"))
    adapter.model.encoder.body[0].register_forward_hook(lambda *_: calls.append("trunk"))
    one, other = tiny_images(seed=13)[:2], tiny_images(seed=14)[:2]
    for images in (one, one, other):
        adapter.advance(images)
    assert calls.count("trunk") == calls.count("drawn") == 2


def test_a_trunk_that_learns_is_not_remembered() -> None:
    adapter, calls, one = tiny_adapter(), [], tiny_images(seed=13)[:2]
    adapter.model.encoder.body[0].register_forward_hook(lambda *_: calls.append(1))
    adapter.advance(one), adapter.advance(one)
    assert len(calls) == 2


def test_the_critic_learns_in_every_few_steps() -> None:
    adapter = tiny_adapter(critic_every=2)
    terms = [adapter.step() for _ in range(3)]
    assert [math.isnan(row["critic"]) for row in terms] == [False, True, False]
    assert all(math.isfinite(row["adv"]) for row in terms)
