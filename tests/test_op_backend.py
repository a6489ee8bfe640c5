"""Which operators run: the choice, a build that fails, and the library with CUDA kernels where nvcc is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from op import backend, native
from op.fused_act import ROOT2, fused_leaky_relu

ARCHITECTURES = ("8.0", "9.0")
ROOT = Path(__file__).resolve().parents[1]
CALL = """
import warnings, torch
from op import backend, fused_leaky_relu
x = torch.linspace(-1, 1, 24).reshape(1, 2, 3, 4)
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    for _ in range(3):
        y = fused_leaky_relu(x)
print(len(told), *(str(t.message).replace("\\n", " ") for t in told))
print(float((y - torch.nn.functional.leaky_relu(x, 0.2) * 2**0.5).abs().max()))
"""


def run(code: str, folder: Path, **settings: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "TORCH_EXTENSIONS_DIR": str(folder), **settings}
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True,
                          check=False)


def test_choice(monkeypatch):
    monkeypatch.setenv("OP_BACKEND", "plain")
    assert backend.choice() == "plain"
    with backend.use("native"):
        assert backend.choice() == "native"
    monkeypatch.setenv("OP_BACKEND", "fast")
    with pytest.raises(ValueError, match="OP_BACKEND must be one of auto, plain, native, got 'fast'"):
        fused_leaky_relu(torch.zeros(1, 1, 2, 2))


def test_plain_is_never_compiled(tmp_path):
    done = run(CALL, tmp_path, OP_BACKEND="plain")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["0", "0.0"] and not list(tmp_path.iterdir())


def test_no_compiler_means_plain_or_one_clear_error(tmp_path):
    forced = run(CALL, tmp_path, OP_BACKEND="native", CXX=str(tmp_path / "none"))
    assert forced.returncode == 1 and "install it, or set OP_BACKEND=plain" in forced.stderr.splitlines()[-1]
    build = subprocess.run([sys.executable, "-m", "op", "build", "--cuda", "no"], cwd=ROOT, capture_output=True, text=True,
                           env={**os.environ, "TORCH_EXTENSIONS_DIR": str(tmp_path), "CXX": "false"}, check=False)
    assert build.returncode == 1 and build.stderr.startswith("op: the compiled operators could not be built")
    assert len(build.stderr.splitlines()) == 1
    unbuilt = run(CALL, tmp_path, OP_BACKEND="auto")
    assert unbuilt.stdout.splitlines() == ["0", "0.0"]  # on a CPU nothing is built on the way


def test_a_failed_build_warns_once(monkeypatch):
    """What a GPU without a compiler meets."""
    calls = []

    def fail(**_):
        calls.append(1)
        raise native.BuildError("no nvcc found")

    monkeypatch.setattr(native, "build", fail)
    monkeypatch.setattr(native, "is_loaded", lambda: False)
    monkeypatch.setattr(native, "library_path", lambda **_: Path("nowhere.so"))
    monkeypatch.setattr(backend, "_decided", {})
    with pytest.warns(UserWarning, match="the plain ones are used: no nvcc found") as told:
        assert not any(backend.available("cuda", "auto") for _ in range(3))
    assert len(told) == 1 and len(calls) == 1


@pytest.mark.skipif(not os.environ.get("NIGHTLY") or shutil.which("nvcc") is None or torch.version.cuda is None,
                    reason="slow, NIGHTLY=1 runs it; needs nvcc and a torch that was built with CUDA")
def test_library_with_cuda_kernels(tmp_path):
    """Compiles for sm_80 and sm_90, loads on any machine and serves the CPU; the kernels run only where a GPU is."""
    environment = {**os.environ, "TORCH_EXTENSIONS_DIR": str(tmp_path), "TORCH_CUDA_ARCH_LIST": ";".join(ARCHITECTURES)}
    build = subprocess.run([sys.executable, "-m", "op", "build", "--cuda", "yes"], cwd=ROOT, env=environment,
                           capture_output=True, text=True, check=False)
    assert build.returncode == 0, build.stderr
    library = build.stdout.split(":")[0]
    code = (f"import torch; from pathlib import Path; from op import native; native.load(Path({library!r}));"
            "x = torch.linspace(-1, 1, 24).reshape(1, 2, 3, 4); y = torch.empty_like(x);"
            f"torch.ops.face_ops.activate(x, y, None, None, None, None, 0.2, {ROOT2}, False);"
            "print(torch.ops.face_ops.has_cuda(), torch.allclose(y, torch.nn.functional.leaky_relu(x, 0.2) * 2**0.5))")
    done = run(code, tmp_path)
    assert done.stdout.split() == ["True", "True"], done.stderr
    if shutil.which("cuobjdump"):
        kernels = subprocess.run(["cuobjdump", "--list-elf", library], capture_output=True, text=True, check=True).stdout
        assert all(f"sm_{name.replace('.', '')}" in kernels for name in ARCHITECTURES)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_kernels_on_a_gpu_equal_plain():
    from op import upfirdn2d

    kernel = torch.tensor([1.0, 3.0, 3.0, 1.0], device="cuda")
    kernel = kernel.outer(kernel) / 64
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.bfloat16, 2**-8), (torch.float16, 2**-11)):
        for layout in (torch.contiguous_format, torch.channels_last):
            x = torch.randn(2, 16, 33, 40, device="cuda").to(dtype).contiguous(memory_format=layout)
            for call in (lambda t: upfirdn2d(t, kernel, pad=(1, 1)), lambda t: upfirdn2d(t, kernel, up=2, pad=(2, 1)),
                         lambda t: upfirdn2d(t, kernel, down=2, pad=(1, 1)), fused_leaky_relu):
                with backend.use("plain"):
                    exact = call(x.double())
                with backend.use("native"):
                    ours = call(x)
                assert (ours.double() - exact).abs().max() <= tolerance * exact.abs().max()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_graph_gives_the_same_images():
    from models.stylegan2 import Generator, GeneratorConfig
    from pipeline.graphs import Graphed

    generator = Generator(GeneratorConfig.official(64)).eval().requires_grad_(False).cuda()
    noise = generator.fixed_noise()

    def images(z: torch.Tensor) -> torch.Tensor:
        return generator.synthesis(generator.broadcast(generator.mapping(z)), noise=noise)

    graphed = Graphed(images)
    for seed in range(3):
        z = torch.randn(2, 512, generator=torch.Generator().manual_seed(seed)).cuda()
        torch.testing.assert_close(graphed(z), images(z), rtol=1e-4, atol=1e-5)


def test_graphs_need_a_gpu():
    from pipeline.graphs import Graphed

    with pytest.raises(ValueError, match="need tensors on a GPU"):
        Graphed(torch.neg)(torch.zeros(1))
