"""``python -m benchmarks.gpu``: everything that is said of a GPU, measured in one run, as one Markdown table.

The compiled operators against the plain ones, images per second and their likeness in bfloat16, the generator against the
CPU's, and a run of fine-tuning with its time and memory, on networks of the official shapes with random weights.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline import cli


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu is for trying the command out, small")
    parser.add_argument("--size", type=cli.positive_int, default=1024, help="side in px")
    parser.add_argument("--batch", type=cli.positive_int, default=4, help="samples per call and step")
    parser.add_argument("--iterations", type=cli.positive_int, default=500, help="steps of fine-tuning")
    parser.add_argument("--repeat", type=cli.positive_int, default=10, help="timed calls of the generator")
    parser.add_argument("--starter", action="store_true",
                        help="the bundled 128 px weights in place of official shapes; --size 128")
    parser.add_argument("--output", type=Path, default=Path("outputs/gpu.md"), help="file of the table")
    return parser.parse_args(argv)


def parity(settings: Any) -> list[tuple[str, str]]:
    """Return how far the compiled operators are from the plain ones, forwards and backwards, over the largest value."""
    import torch

    from op import backend, filtered_leaky_relu, fused_leaky_relu, upfirdn2d

    rng, kernel = torch.Generator().manual_seed(0), torch.tensor([1.0, 3.0, 3.0, 1.0])
    kernel = (kernel.outer(kernel) / 64).to(settings.device)
    x = torch.randn(2, 32, 65, 65, generator=rng).to(settings.device).contiguous(memory_format=torch.channels_last)
    bias, noise = torch.randn(32, generator=rng).to(x), torch.randn(2, 1, 64, 64, generator=rng).to(x)
    strength, factor = torch.full((1,), 0.3, device=x.device), torch.rand(2, 32, generator=rng).to(x)
    cases: dict[str, Callable] = {
        "upfirdn2d, up 2": lambda x, bias: upfirdn2d(x, kernel, up=2, pad=(2, 1)),
        "upfirdn2d, down 2": lambda x, bias: upfirdn2d(x, kernel, down=2, pad=(1, 1)),
        "fused_leaky_relu": fused_leaky_relu,
        "filtered_leaky_relu": lambda x, bias: filtered_leaky_relu(x, kernel, bias, pad=(1, 1), noise=noise, strength=strength,
                                                                   factor=factor)}
    rows = []
    for name, call in cases.items():
        found = []
        for way in ("plain", "auto"):
            inputs = [tensor.clone().requires_grad_(True) for tensor in (x, bias)]
            with backend.use(way):
                y = call(*inputs)
                found.append([y, *torch.autograd.grad(y.square().sum(), inputs, allow_unused=True)])
        errors = [float((a - b).abs().max() / a.abs().max()) for a, b in zip(*found, strict=True) if a is not None]
        rows.append((f"{name}: compiled against plain", f"{max(errors):.1e} of the largest value, gradients too"))
    return rows


def drawing(args: Namespace, settings: Any) -> list[tuple[str, str]]:
    """Return images per second in both arithmetics, and how like float32 and the CPU they are."""
    from dataclasses import replace

    import torch

    from benchmarks.measure import median, psnr, seconds
    from benchmarks.workloads import generate

    rows, exact = [], generate(settings)()
    for dtype in (torch.float32, torch.bfloat16):
        call = generate(replace(settings, dtype=dtype))
        image = call()  # also the first call, which builds and chooses
        each = median([seconds(call, settings.device) for _ in range(args.repeat)]) / args.batch
        name = str(dtype).removeprefix("torch.")
        likeness = "" if dtype == torch.float32 else f", {psnr(image, exact):.1f} dB to float32"
        rows.append((f"images of {args.size} px, {name}, batch {args.batch}", f"{1 / each:.1f} a second{likeness}"))
    if settings.device.type == "cuda":
        one = replace(settings, batch=1)
        ours, theirs = (generate(replace(one, device=torch.device(name)))().float().cpu() for name in ("cuda", "cpu"))
        rows.append(("the same image on the CPU", f"{psnr(ours, theirs):.1f} dB"))
    return rows


def tuning(args: Namespace, settings: Any) -> list[tuple[str, str]]:
    """Return time and memory of a run of fine-tuning in bfloat16, and whether all its terms stayed finite."""
    import math
    from dataclasses import replace

    import torch

    from benchmarks.measure import peak_gpu_mb, peak_rss_mb, seconds
    from benchmarks.workloads import tuner_for

    dtype = torch.bfloat16 if settings.device.type == "cuda" else torch.float32
    tuner = tuner_for(replace(settings, dtype=dtype))

    def steps() -> None:
        for _ in range(args.iterations):
            tuner.step()

    took = seconds(steps, settings.device)
    finite = all(math.isfinite(value) or math.isnan(value) for row in tuner.history for value in row.values())
    memory = peak_gpu_mb(settings.device) or peak_rss_mb()
    what = f"fine-tuning at {args.size} px, batch {args.batch}, {str(dtype).removeprefix('torch.')}"
    return [(what, f"{args.iterations} steps in {took:.0f} s, {took / args.iterations:.2f} s a step, {memory / 1024:.1f} GiB, "
             + ("all terms finite" if finite else "terms that are not finite"))]


def run(args: Namespace) -> int:
    import torch

    from benchmarks.workloads import Settings
    from checkpoints.io import atomic_write

    device = cli.resolve_device(args.device)
    settings = Settings(args.size, args.batch, torch.float32, device, random_weights=not args.starter)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    rows = [*parity(settings), *drawing(args, settings), *tuning(args, settings)]
    text = "\n".join([f"| {name}, torch {torch.__version__} | |", "|---|---|",
                      *(f"| {what} | {value} |" for what, value in rows)])
    cli.ensure_dir(args.output.parent)
    with atomic_write(args.output) as temporary:
        temporary.write_text(text + "\n")
    print(text)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return cli.run(run, lambda: parse(argv))


if __name__ == "__main__":
    raise SystemExit(main())
