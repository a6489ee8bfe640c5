#!/usr/bin/env python3
"""Time and memory of the networks, optionally beside the published way of computing; prints one JSON line.

CPU figures are also given in c, the time of one float32 3x3 convolution, 512 to 512 channels at 64 px, batch 1, with the
same number of threads in the same run. Peak memory is read in a process of its own for each way.
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pipeline import cli

WHAT = ("generate", "encode", "train", "ops", "dino")
# side in px where --size is not given
SIZES = {"generate": 1024, "encode": 256, "train": 256, "ops": 256, "dino": 256}
TRAINING = ("train", "ops")  # measured with the memory settings of a training run
REGULARISED = 10  # one step in ten has R1 and path length


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = cli.ArgumentParser(prog="python -m benchmarks.bench", description=__doc__)
    parser.add_argument("what", choices=WHAT, help="latents to images; images to latents; fine-tuning steps; resampling "
                        "and activation alone; transformer tokens")
    parser.add_argument("--size", type=cli.positive_int, default=None,
                        help="side in px; without it 1024 for generate, 256 for the rest")
    parser.add_argument("--batch", type=cli.positive_int, default=1, help="samples per call")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto",
                        help="arithmetic; auto is bfloat16 on CPUs with matrix units, else float32")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute")
    parser.add_argument("--backend", choices=("auto", "plain", "native"), default="auto", help="operators")
    parser.add_argument("--random-weights", action="store_true",
                        help="official shapes with random weights; otherwise the bundled weights")
    parser.add_argument("--checkpointing", action="store_true", help="train: compute activations again, to save memory")
    parser.add_argument("--graphs", action="store_true", help="generate: as a CUDA graph")
    parser.add_argument("--repeat", type=cli.positive_int, default=3, help="measured calls; their median is printed")
    parser.add_argument("--threads", type=cli.non_negative_int, default=0, help="CPU threads; 0 leaves torch's choice")
    parser.add_argument("--against", choices=("published", "plain"), default=None,
                        help="measure this way too, in turn: the published way of computing, or the plain operators")
    parser.add_argument("--memory-of", choices=("ours", "published", "plain"), default=None,
                        help="run one way alone and print only its peak memory")
    return parser.parse_args(argv)


def settings_of(args: Namespace, way: str) -> Any:
    """Return the settings of "ours", "published" (float32 with plain operators) or "plain" (ours without compiled ones)."""
    import torch

    from benchmarks.workloads import Settings
    from training.mixed import training_dtype

    device = cli.resolve_device(args.device)
    cli.resolve_dtype(args.dtype, device)
    name = args.dtype if args.dtype != "auto" else training_dtype("auto", device)
    ours = Settings(args.size or SIZES[args.what], args.batch, getattr(torch, name), device, args.backend,
                    args.random_weights, checkpointing=args.checkpointing, graphs=args.graphs)
    if args.graphs and (device.type != "cuda" or args.what != "generate"):
        raise cli.UserError("--graphs: only generate on a GPU can run as a CUDA graph; leave the option out")
    if way == "published":
        return replace(ours, dtype=torch.float32, backend="plain", published=True, checkpointing=False, graphs=False)
    return replace(ours, backend="plain") if way == "plain" else ours


def memory_alone(args: Namespace) -> dict[str, Any]:
    """Run one way twice, or train one step with every term, and return its peak memory."""
    from benchmarks.measure import peak_gpu_mb, peak_rss_mb
    from benchmarks.workloads import WORKLOADS
    from training.memory import keep_freed_memory  # before anything allocates

    if args.what in TRAINING and args.memory_of != "published":
        keep_freed_memory()
    settings = settings_of(args, args.memory_of)
    call = WORKLOADS[args.what](settings)
    if args.what == "train":
        call(True)
    else:
        call(), call()
    return {"peak_rss_mb": round(peak_rss_mb(), 1), "peak_gpu_mb": peak_gpu_mb(settings.device)}


def time_ways(args: Namespace, ways: dict[str, Any]) -> dict[str, list[float]]:
    """Time the unit and every way in turn; a training step is the mean over ten, of which one is regularised."""
    from benchmarks.measure import alternate, unit_convolution
    from benchmarks.workloads import WORKLOADS

    device = ways["ours"].device
    calls: dict[str, Any] = {"unit": unit_convolution(device)}
    for way, settings in ways.items():
        call = WORKLOADS[args.what](settings)
        if args.what == "train":
            calls[f"{way} regularised"] = lambda call=call: call(True)
        calls[way] = call
    times = alternate(calls, repeat=args.repeat, device=device)
    for way in ways:
        for index, special in enumerate(times.pop(f"{way} regularised", [])):
            times[way][index] = (times[way][index] * (REGULARISED - 1) + special) / REGULARISED
    return times


def figures(args: Namespace, times: list[float], unit: float) -> dict[str, Any]:
    """Return the median time under the workload's name, images per second and the time in c."""
    from benchmarks.measure import median

    value = median(times)
    name = "s_per_iter" if args.what == "train" else "s_per_call"
    return {name: round(value, 5), "images_per_s": round(args.batch / value, 3), "c": round(value / unit, 2)}


def run(args: Namespace, argv: Sequence[str]) -> int:
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    if args.memory_of:
        print(json.dumps(memory_alone(args)))
        return 0
    from benchmarks.measure import child_memory, median
    from benchmarks.workloads import similarity
    from op import backend, native
    from training.memory import keep_freed_memory

    ours = settings_of(args, "ours")
    ways = {"ours": ours} | ({args.against: settings_of(args, args.against)} if args.against else {})
    # In processes of their own, and while this one is still small.
    memory = {way: child_memory(argv, way) for way in ways}
    if args.what in TRAINING:
        keep_freed_memory()
    times = time_ways(args, ways)
    unit = median(times.pop("unit"))
    result = {"what": args.what, "size": ours.size, "batch": ours.batch, "dtype": str(ours.dtype).removeprefix("torch."),
              "device": ours.device.type, "threads": torch.get_num_threads(), "weights": "random" if ours.random_weights
              else "bundled", "native": args.backend != "plain" and native.is_loaded() and backend.choice() != "plain",
              "unit_s": round(unit, 5), **figures(args, times["ours"], unit), **memory["ours"]}
    if (value := similarity(args.what, ours)) is not None:
        result["psnr_db"] = value
    if args.against:
        result[args.against] = {**figures(args, times[args.against], unit), **memory[args.against]}
        result["times_faster"] = round(median(times[args.against]) / median(times["ours"]), 2)
    print(json.dumps(result))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if argv is None else argv)
    return cli.run(lambda args: run(args, given), lambda: parse(given))


if __name__ == "__main__":
    raise SystemExit(main())
