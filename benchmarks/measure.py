"""Time, memory and the unit that CPU figures are given in."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.cli import UserError


def synchronise(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """Return the wall-clock seconds of one call."""
    synchronise(device)
    start = time.perf_counter()
    call()
    synchronise(device)
    return time.perf_counter() - start


def alternate(calls: Mapping[str, Callable[[], object]], *, repeat: int, device: torch.device) -> dict[str, list[float]]:
    """Time functions in turn, ``repeat`` rounds after one that does not count, so that all meet the same disturbances."""
    for call in calls.values():
        seconds(call, device)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeat):
        for name, call in calls.items():
            times[name].append(seconds(call, device))
    return times


def unit_convolution(device: torch.device) -> Callable[[], Tensor]:
    """Return the unit c as a call: one float32 3x3 convolution, 512 to 512 channels, 64 px, batch 1, channels-last."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(1, 512, 64, 64, generator=rng).contiguous(memory_format=torch.channels_last).to(device)
    weight = torch.randn(512, 512, 3, 3, generator=rng).to(device)

    def call() -> Tensor:
        with torch.no_grad():
            return F.conv2d(x, weight, padding=1)

    return call


def median(values: Sequence[float]) -> float:
    """Return the median, which one disturbed round does not move."""
    return statistics.median(values)


def peak_rss_mb() -> float:
    """Return the high-water mark of this process's resident memory in MiB, NaN where the system does not tell."""
    try:
        # Not getrusage: a process that was just started inherits its parent's mark there.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**10
    except OSError:
        pass  # not Linux
    try:
        import resource
    except ImportError:
        return float("nan")
    value = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return value / (2**20 if sys.platform == "darwin" else 2**10)


def peak_gpu_mb(device: torch.device) -> float | None:
    """Return the most memory that torch has held on the GPU in MiB, None on a CPU."""
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None


def child_memory(argv: Sequence[str], way: str) -> dict[str, Any]:
    """Return the peak memory that benchmarks.bench prints when a new process runs one way with these arguments.

    Raises:
        UserError: if the process refuses the arguments, with its words.
        RuntimeError: if it fails; the message ends with what it said.
    """
    command = [sys.executable, "-m", "benchmarks.bench", *argv, "--memory-of", way]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 2:
        raise UserError(done.stderr.strip())
    if done.returncode:
        raise RuntimeError(f"measuring the memory of {way!r} failed: {done.stderr.strip()[-300:]}")
    return json.loads(done.stdout.splitlines()[-1])


def psnr(image: Tensor, reference: Tensor) -> float:
    """Return the peak signal-to-noise ratio in dB; the peak is the range of the reference."""
    error = float((image.double() - reference.double()).square().mean())
    span = float(reference.max() - reference.min())
    return float("inf") if error == 0 else 10 * float(torch.log10(torch.tensor(span**2 / error)))
