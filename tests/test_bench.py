"""The yardstick computes what the networks compute, and the benchmark prints what it says."""

from __future__ import annotations

import json
import math

import pytest
import torch

from benchmarks import bench
from benchmarks.published import publish, tokens_one_by_one, zero_insertion
from benchmarks.workloads import Settings, generate, tuner_for
from models.dino import DinoFeatures, ViTConfig, build_vit
from op import backend, upfirdn2d
from training.finetune import TERMS

CPU = torch.device("cpu")


@pytest.mark.parametrize(("up", "down", "pad"), [(1, 1, (1, 1)), (2, 1, (2, 1)), (1, 2, (1, 1)), (1, 1, (-1, 2))])
def test_zero_insertion_is_upfirdn2d(up, down, pad):
    x, kernel = torch.randn(2, 3, 7, 9), torch.randn(4, 4)
    with backend.use("plain"):
        expected = upfirdn2d(x, kernel, up=up, down=down, pad=pad)
    torch.testing.assert_close(zero_insertion(x, kernel, up=up, down=down, pad=pad), expected, rtol=1e-5, atol=1e-5)


def test_published_generator_makes_the_same_images():
    ours = Settings(32, 2, torch.float32, CPU, "auto")
    theirs = Settings(32, 2, torch.float32, CPU, "plain", published=True)
    torch.testing.assert_close(generate(ours)(), generate(theirs)(), rtol=1e-3, atol=1e-4)


def test_tokens_one_by_one_are_the_tokens(passes):
    torch.manual_seed(0)
    dino = DinoFeatures(build_vit(ViTConfig(img_size=32, embed_dim=64, depth=3, num_heads=2)), image_size=32)
    image = torch.rand(2, 3, 32, 32) * 2 - 1
    expected = dino.tokens(image, layers=(1, 2), facets=("f", "k"))
    for (facet, layer), tokens in expected.items():
        torch.testing.assert_close(tokens_one_by_one(dino, image, layer=layer, facet=facet), tokens, rtol=1e-4, atol=1e-5)
    passes.clear()
    tokens_one_by_one(dino, image, layer=0, facet="f")
    assert passes == [1, 1]  # one pass per image


@pytest.mark.nightly
def test_published_step_has_the_same_terms():
    """One step of the yardstick on the bundled weights: every term is ours up to rounding."""
    ours = tuner_for(Settings(128, 2, torch.float32, CPU, "auto", random_weights=False)).step()
    theirs = tuner_for(Settings(128, 2, torch.float32, CPU, "plain", random_weights=False, published=True)).step()
    for name in TERMS:
        assert math.isnan(ours[name]) == math.isnan(theirs[name])
        if not math.isnan(ours[name]):
            assert theirs[name] == pytest.approx(ours[name], rel=2e-3), name


def test_publish_leaves_the_network_alone():
    from models.layers import ModulatedConv2d
    from models.stylegan2 import Generator, GeneratorConfig

    generator = Generator(GeneratorConfig.official(8))
    publish(generator)
    assert not any(m.modulate_weights for m in generator.modules() if isinstance(m, ModulatedConv2d))


@pytest.mark.parametrize("argv", [
    ["generate", "--size", "16", "--random-weights", "--against", "published", "--repeat", "1"],
    ["ops", "--size", "16", "--random-weights", "--against", "plain", "--repeat", "1", "--dtype", "float32"]])
def test_one_line_of_json(argv, capsys):
    assert bench.main(argv) == 0
    figures = json.loads(capsys.readouterr().out)
    way = argv[argv.index("--against") + 1]
    assert figures["what"] == argv[0] and figures["size"] == 16 and figures["s_per_call"] > 0
    assert figures["c"] > 0 and figures["peak_rss_mb"] > 100 and figures["peak_gpu_mb"] is None
    assert figures["times_faster"] == pytest.approx(figures[way]["s_per_call"] / figures["s_per_call"], rel=0.01)
    assert ("psnr_db" in figures) == (argv[0] == "generate")


@pytest.mark.parametrize(("argv", "text"), [
    (["train", "--dtype", "float16"], "float16 needs a GPU"), (["generate", "--graphs"], "--graphs: only generate on a GPU"),
    (["generate", "--size", "64"], "--size 64: the starter weights have 128 px")])
def test_bad_requests(argv, text, capsys):
    assert bench.main(argv) == 2
    assert text in capsys.readouterr().err
