"""What needs a CUDA device, and that the command which measures it all works without one."""

from __future__ import annotations

import re

import pytest
import torch

from benchmarks import gpu
from benchmarks.measure import psnr
from benchmarks.workloads import Settings, generate, tuner_for
from checkpoints.builders import load_base
from models.stylegan2 import Generator, GeneratorConfig


def test_the_table_comes_from_small_networks_on_a_cpu(tmp_path, capsys) -> None:  # noqa: ANN001
    argv = ["--device", "cpu", "--starter", "--size", "128", "--batch", "1", "--iterations", "1", "--repeat", "1",
            "--output", str(tmp_path / "t.md")]
    assert gpu.main(argv) == 0
    printed = capsys.readouterr().out
    assert (tmp_path / "t.md").read_text() == printed and printed.startswith("| CPU")
    errors = [float(value) for value in re.findall(r"(\S+) of the largest value", printed)]
    assert len(errors) == 4 and max(errors) < 1e-4
    assert len(re.findall("a second", printed)) == 2 and "1 steps in" in printed and "all terms finite" in printed


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_is_one_line(capsys) -> None:  # noqa: ANN001
    assert gpu.main([]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.gpu
def test_compiled_operators_are_the_plain_ones() -> None:
    rows = gpu.parity(Settings(64, 1, torch.float32, torch.device("cuda")))
    assert all(float(value.split()[0]) < 1e-4 for _, value in rows), rows


@pytest.mark.gpu
def test_the_starter_draws_on_the_gpu_what_it_draws_on_the_cpu() -> None:
    images = []
    for device in ("cpu", "cuda"):
        base = load_base("starter", device=device)
        rows = base.generator.broadcast(base.w_avg[None])
        with torch.no_grad():
            images.append(base.generator.synthesis(rows, noise=base.generator.fixed_noise()).cpu())
    assert psnr(images[1], images[0]) > 50


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_draws_and_trains_in_both_arithmetics(dtype) -> None:  # noqa: ANN001
    settings = Settings(128, 2, dtype, torch.device("cuda"), random_weights=False)
    exact = generate(Settings(128, 2, torch.float32, torch.device("cuda"), "plain", random_weights=False))()
    assert psnr(generate(settings)(), exact) > (60 if dtype == torch.float32 else 25)
    values = tuner_for(settings).step()
    assert all(torch.isfinite(torch.tensor(value)) for value in values.values() if value == value)


@pytest.mark.gpu
def test_gradients_on_the_gpu_are_the_cpus() -> None:
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(size=32, style_dim=16, n_mlp=1, channels={4: 8, 8: 8, 16: 8, 32: 8}))
    w_plus, found = torch.randn(1, 8, 16), []
    for device in ("cpu", "cuda"):
        generator.to(device)
        rows = w_plus.to(device).requires_grad_(True)
        generator.synthesis(rows, noise=generator.fixed_noise()).square().sum().backward()
        found.append(rows.grad.cpu())
    assert torch.allclose(found[0], found[1], rtol=1e-3, atol=1e-3 * float(found[0].abs().max()))
