"""Fine-tuning: the schedule, what a step touches, and what stops it."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tuner_worker import MovingFace, tiny_pair, tiny_tuner

from training import finetune, mixed
from training.config import PROFILES
from training.ema import update_average
from training.finetune import TERMS, DivergedError, FineTuneConfig
from training.mixed import SplitConvolutions, precision

ROOT = Path(__file__).resolve().parents[1]


def weights(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def test_published_defaults():
    config = FineTuneConfig()
    assert (config.iterations, config.batch, config.g_lr, config.d_lr) == (500, 4, 2e-3, 2e-3)
    assert (config.tps_lr, config.affine_lr) == (5e-6, 1e-4)
    assert (config.g_beta1, config.d_beta1, config.beta2) == (0.1, 0.0, 0.99)
    assert (config.adversarial_weight, config.directional_weight) == (1.0, 6.0)
    assert (config.pair_weight, config.reference_weight, config.warp_weight) == (5e4, 5e4, 1e-6)
    assert (config.r1_every, config.path_every, config.swap_layer, config.inversion_steps) == (10, 10, 8, 300)
    assert config.transformer_ema == 0.995 and config.g_ema == pytest.approx(0.5 ** (32 / 10000))
    assert (config.directional_layers, config.consistency_layers, config.directional_facet) == ((5, 11), (5,), "f")


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_config_survives_json(name):
    config = FineTuneConfig.profile(name, seed=3)
    assert FineTuneConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(("change", "message"), [
    ({"batch": 0}, "batch must be at least 1, got 0"),
    ({"g_lr": math.nan}, "g_lr must be at least 0"),
    ({"g_ema": 1.5}, "g_ema must be in"),
    ({"coarse_rate": 1.5}, "coarse_rate must be in"),
    ({"adversarial_batch": 9}, "adversarial_batch must be in 0..4"),
    ({"warp_form": "none"}, "warp_form must be one of"),
    ({"tune_generator": False, "use_tps": False, "use_affine": False}, "nothing to train"),
])
def test_bad_settings_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        FineTuneConfig(**change)


def test_unknown_setting_and_profile():
    with pytest.raises(ValueError, match="unknown settings"):
        FineTuneConfig.from_dict({"colour": 1})
    with pytest.raises(ValueError, match="profile must be one of"):
        FineTuneConfig.profile("fast")


def test_one_transformer_pass_per_image_set_and_step(passes):
    tuner = tiny_tuner(directional_layers=(2, 5, 11), directional_facet="k", consistency_layers=(3, 5))
    assert len(passes) == 1  # both references together
    tuner.step()
    assert len(passes) == 3
    tuner.step()
    assert len(passes) == 5


def test_step_reports_every_term_and_trains_every_part():
    tuner = tiny_tuner(landmark_weight=1.0, landmark_net=MovingFace())
    parts = (tuner.deformable.generator.convs, tuner.deformable.generator.style, tuner.deformable.tps,
             tuner.deformable.affine, tuner.patch.heads, tuner.patch.discriminator.convs[1])
    before, base = [weights(part) for part in parts], weights(tuner.base)
    first, second = tuner.step(), tuner.step()
    without = ("control",)  # see test_pair_start
    assert tuple(first) == TERMS and all(math.isfinite(value) != (name in without) for name, value in first.items())
    assert math.isnan(second["r1"]) and math.isnan(second["path"])
    parts_sum = sum(first[name] for name in ("adversarial", "directional", "pairs", "reference", "landmarks", "warp"))
    assert first["total"] == pytest.approx(parts_sum, rel=1e-5)
    assert all(not torch.equal(old, weights(part)) for old, part in zip(before, parts, strict=True))
    assert torch.equal(base, weights(tuner.base))
    assert len(tuner.history) == tuner.step_count == 2


@pytest.mark.parametrize("thrifty", [False, True])
def test_landmark_term_moves_the_transformers_alone(thrifty):
    gradients = []
    for weight in (10.0, 0.0):
        tuner = tiny_tuner(landmark_weight=weight, landmark_net=MovingFace(), path_every=0)
        if thrifty:
            tuner.save_memory()
        tuner.step()
        gradients.append({name: p.grad for name, p in tuner.g_named.items() if p.grad is not None})
    found, expected = gradients
    for name, gradient in expected.items():
        if name.startswith("generator."):
            torch.testing.assert_close(found[name], gradient)
    for part in ("tps.", "affine."):
        assert any(not torch.allclose(found[name], gradient, rtol=0.01) for name, gradient in expected.items()
                   if name.startswith(part))


def test_averages_follow_at_their_own_pace():
    tuner = tiny_tuner(g_ema=0.9, transformer_ema=0.5, path_every=0)
    start_g, start_t = weights(tuner.deformable.generator), weights(tuner.deformable.affine)
    tuner.step()
    for average, module, start, decay in ((tuner.ema.generator, tuner.deformable.generator, start_g, 0.9),
                                          (tuner.ema.affine, tuner.deformable.affine, start_t, 0.5)):
        torch.testing.assert_close(weights(average), decay * start + (1 - decay) * weights(module))
    with pytest.raises(ValueError, match="decay"):
        update_average(tuner.ema, tuner.deformable, 1.1)


def test_frozen_parts_stay():
    tuner = tiny_tuner(tune_generator=False, use_tps=False)
    before = weights(tuner.deformable.generator)
    values = tuner.step()
    assert tuner.deformable.tps is None and math.isnan(values["warp"]) and math.isnan(values["path"])
    assert torch.equal(before, weights(tuner.deformable.generator))
    tuner = tiny_tuner(tune_mapping=False)
    before = weights(tuner.deformable.generator.style)
    tuner.step()
    assert torch.equal(before, weights(tuner.deformable.generator.style))


def test_layers_before_the_first_warp_move_at_their_own_rate():
    for rate in (0.0, 0.5):
        tuner = tiny_tuner(coarse_rate=rate, path_every=0)
        first = min(tuner.config.warp_resolutions)
        coarse, fine = tuner.deformable.generator.layers_at(first)
        ours = [n for m in (coarse, fine) for n in m.parameters()]
        assert len(ours) == len({*map(id, ours)}) == len(list(tuner.deformable.generator.parameters()))
        names = {id(p): n for n, p in tuner.deformable.generator.named_parameters()}
        tops = {names[id(p)].split(".")[1] for p in coarse.parameters() if names[id(p)].startswith("convs")}
        assert tops == {str(i) for i in range(2 * (first.bit_length() - 3))}
        rates = {id(p): g["lr"] for g in tuner.g_optimizer.param_groups for p in g["params"]}
        assert all(rates.get(id(p), 0.0) == tuner.config.g_lr * rate for p in coarse.parameters())
        before = weights(coarse), weights(fine)
        tuner.step()
        assert torch.equal(weights(coarse), before[0]) == (rate == 0.0) and not torch.equal(weights(fine), before[1])


def test_batch_one_and_published_mode_and_several_heads_run():
    values = tiny_tuner(batch=1, mode="published", heads=4, warp_form="smoothness").step()
    assert values["pairs"] == values["reference"] == 0.0 and math.isfinite(values["total"])


def test_colours_come_from_the_references():
    tuner = tiny_tuner(swap_layer=4)
    w_plus = torch.zeros(2, tuner.base.config.n_latent, 32)
    for reference in (0, 1):
        mixed = tuner.mixed(w_plus, reference)
        assert torch.equal(mixed[:, :4], w_plus[:, :4])
        assert torch.equal(mixed[1, 4:], tuner.latents[reference, 4:])


def test_one_pass_for_both_latents_is_the_same_as_two():
    tuner = tiny_tuner()
    w_plus, noise = tuner._draw_w(4).detach(), tuner._noise(4)
    with torch.no_grad():
        for block in tuner.deformable.tps.stns:
            block.loc_net.fc[2].weight.normal_(std=0.01)
        together = tuner.deformable.synthesis(w_plus, noise=noise).image
        apart = [tuner.deformable.synthesis(w_plus[i:i + 2], noise=[n[i:i + 2] for n in noise]).image for i in (0, 2)]
    torch.testing.assert_close(together, torch.cat(apart), rtol=1e-4, atol=1e-5)


def test_same_seed_same_run_and_global_random_state_untouched():
    before = torch.random.get_rng_state()
    first, second, other = tiny_tuner(), tiny_tuner(), tiny_tuner(seed=5)
    assert first.step() == second.step() != other.step()
    assert torch.equal(weights(first.deformable), weights(second.deformable))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("term", ["directional", "pairs", "reference"])
def test_term_that_is_not_finite_stops_with_its_name(monkeypatch, term):
    tuner = tiny_tuner(r1_every=0)
    tuner.step()
    honest, before = tuner.objective.terms, weights(tuner.deformable)
    monkeypatch.setattr(tuner.objective, "terms", lambda *tokens: {**honest(*tokens), term: torch.tensor(math.nan)})
    with pytest.raises(DivergedError, match=f"step 1: loss term '{term}' is nan"):
        tuner.step()
    assert torch.equal(before, weights(tuner.deformable))


def test_adversarial_and_discriminator_terms_are_watched(monkeypatch):
    tuner = tiny_tuner()
    monkeypatch.setattr(finetune, "nonsaturating_loss", lambda logits: logits.mean() * math.inf)
    with pytest.raises(DivergedError, match="step 0: loss term 'adversarial'"):
        tuner.step()
    monkeypatch.setattr(finetune, "logistic_loss", lambda real, fake: real.mean() * math.nan)
    with pytest.raises(DivergedError, match="step 0: loss term 'd' is nan"):
        tuner.step()


def test_gradient_that_is_not_finite_names_the_parameter():
    tuner = tiny_tuner()
    weight = tuner.deformable.affine.stns[0].fc_loc[2].bias
    weight.register_hook(lambda gradient: gradient * math.nan)
    before = weights(tuner.deformable)
    with pytest.raises(DivergedError, match=r"step 0: the gradient of affine\.stns\.0\.fc_loc\.2\.bias is not finite"):
        tuner.step()
    assert torch.equal(before, weights(tuner.deformable))


@pytest.mark.parametrize("part", ["affine", "tps"])
def test_weight_that_is_not_finite_never_reaches_sampling(part):
    tuner = tiny_tuner()
    with torch.no_grad():
        next(getattr(tuner.deformable, part).parameters()).fill_(math.nan)
    with pytest.raises(DivergedError, match="step 0: the sampling grid of the .* block at 16 px is not finite"):
        tuner.step()


def test_wrong_shapes_are_named():
    tuner, pair = tiny_tuner(), tiny_pair()
    arguments = dict(dino=tuner.objective.dino, config=tuner.config)
    networks = (tuner.base, tuner.patch.discriminator)
    with pytest.raises(ValueError, match=r"expected target \[1, 3, 64, 64\]"):
        finetune.FineTuner(*networks, **arguments, pair=pair._replace(target=torch.zeros(1, 3, 32, 32)),
                           latents=tuner.latents)
    with pytest.raises(ValueError, match=r"expected latents \[2, 10, 32\]"):
        finetune.FineTuner(*networks, **arguments, pair=pair, latents=tuner.latents[:1])
    with pytest.raises(ValueError, match="swap_layer must be within"):
        finetune.FineTuner(*networks, **{**arguments, "config": dataclasses.replace(tuner.config, swap_layer=11)},
                           pair=pair, latents=tuner.latents)


def test_preview_rows():
    rows = tiny_tuner().preview(count=2)
    assert [list(row.shape) for row in rows] == [[2, 3, 64, 64]] * 4
    torch.testing.assert_close(rows[0], rows[1], rtol=1e-3, atol=1e-4)  # untrained: alpha 0 is the base


def test_bfloat16_step_is_close_to_float32():
    exact, half = tiny_tuner().step(), tiny_tuner(dtype="bfloat16").step()
    for name in ("d", "adversarial", "directional", "warp"):
        assert half[name] == pytest.approx(exact[name], rel=0.02)


@pytest.mark.parametrize("width", [1, 64])
@pytest.mark.parametrize("transposed", [False, True])
def test_split_convolution_has_the_gradients_of_a_convolution(monkeypatch, transposed, width):
    monkeypatch.setattr(mixed, "MIN_TAP_WIDTH", width)  # by tap products and by the float32 kernel
    rng = torch.Generator().manual_seed(0)
    convolve = torch.nn.functional.conv_transpose2d if transposed else torch.nn.functional.conv2d
    tensors = [torch.randn(shape, generator=rng).bfloat16().float().requires_grad_()
               for shape in ((2, 4, 9, 9), (4, 4, 3, 3), (4,))]
    upstream = torch.randn(convolve(*tensors, stride=2, padding=1).shape, generator=rng).bfloat16()
    with SplitConvolutions():
        out = convolve(*tensors, stride=2, padding=1)
    assert out.dtype == torch.bfloat16
    split = torch.autograd.grad(out, tensors, upstream)
    plain = torch.autograd.grad(convolve(*tensors, stride=2, padding=1), tensors, upstream.float())
    for ours, theirs in zip(split, plain, strict=True):
        assert (ours - theirs).abs().max() <= 0.02 * theirs.abs().max()


def test_float32_precision_changes_nothing():
    with precision(torch.device("cpu"), torch.float32):
        assert torch.nn.functional.linear(torch.ones(1, 2), torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_saving_memory_changes_no_weight(dtype):
    """Two steps, the first with R1 and path length; fewer bytes are kept for the backward pass of the generator."""
    plain, saving = tiny_tuner(dtype=dtype), tiny_tuner(dtype=dtype)
    saving.save_memory()
    kept = []
    for tuner in (plain, saving):
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.nbytes) or t, lambda t: t):
            tuner.step()
        tuner.step()
        kept.append(sum(sizes))
    assert kept[1] < 0.8 * kept[0]
    assert plain.history[1] == pytest.approx(saving.history[1], nan_ok=True)
    for name, weight in plain.deformable.state_dict().items():
        torch.testing.assert_close(saving.deformable.state_dict()[name], weight, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(1, 1, 0), (3, 1, 1), (3, 2, 0), (3, 2, 1), (5, 1, 2), (4, 3, 1)])
def test_tap_products_are_the_weight_gradient(kernel, stride, padding):
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 11, 8, generator=rng)
    weight = torch.randn(4, 3, kernel, kernel, generator=rng).requires_grad_()
    y = torch.nn.functional.conv2d(x, weight, stride=stride, padding=padding)
    upstream = torch.randn(y.shape, generator=rng)
    expected, = torch.autograd.grad(y, weight, upstream)
    ours = mixed.tap_products(x, upstream, (kernel, kernel), stride=(stride, stride), padding=(padding, padding))
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-4)


def test_freed_memory_is_kept():
    """The tenth map of 64 MB costs no new pages; without the call it does, which shows that the count means something."""
    code = ("import resource, sys, torch\n"
            "from training.memory import keep_freed_memory\n"
            "kept = keep_freed_memory() if sys.argv[1] == 'keep' else True\n"
            "for _ in range(9):\n"
            "    torch.ones(2**24)\n"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
            "torch.ones(2**24)\n"
            "print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n")
    found = {}
    for way in ("keep", "default"):
        done = subprocess.run([sys.executable, "-c", code, way], cwd=ROOT, capture_output=True, text=True, check=True,
                              env={**os.environ, "THP_MEM_ALLOC_ENABLE": "0"})
        found[way] = [int(value) for value in done.stdout.split()]
    if not found["keep"][0]:
        pytest.skip("this system's malloc cannot be told")
    assert found["keep"][1] < 100 < found["default"][1]
