"""The rule that fills networks and inputs with deterministic numbers, so that any implementation can be compared."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from models.layers import Blur, ConvLayer, ModulatedConv2d


class ParityFolder:
    """A folder of reference numbers: `meta.json` with the seed, `*.keys.json` with fill rules, `*.npz` with results."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.seed = int(json.loads((root / "meta.json").read_text())["seed"])

    def keys(self, name: str) -> dict:
        """Return the content of `{name}.keys.json`."""
        return json.loads((self.root / f"{name}.keys.json").read_text())

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """Return all arrays of `{name}.npz`."""
        with np.load(self.root / f"{name}.npz", allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files}

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Return the numeric arrays of `{name}.npz` as tensors."""
        return {key: torch.from_numpy(value) for key, value in self.arrays(name).items() if value.dtype.kind in "fiu"}

    def random(self, name: str) -> np.random.Generator:
        """Return the random numbers of a name: Philox with key (crc32 of the name, seed)."""
        return np.random.Generator(np.random.Philox(key=[zlib.crc32(name.encode()), self.seed]))

    def noise(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Standard normal numbers keyed by a name."""
        return torch.from_numpy(self.random(name).standard_normal(shape, dtype=np.float32))

    def input(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Numbers of a named input."""
        return self.noise("input:" + name, shape)

    @torch.no_grad()
    def fill(self, module: nn.Module, name: str) -> nn.Module:
        """Check a module's keys and shapes against `{name}.keys.json` and fill it: null keeps, [o, s] is o + s noise.

        `["init", s]` adds s noise to what the constructor made; a running variance takes the absolute value.
        """
        rules, state = self.keys(name), module.state_dict()
        assert set(state) == set(rules), f"{name}: {sorted(set(state) ^ set(rules))}"
        for key, rule in rules.items():
            assert list(state[key].shape) == rule["shape"], (key, list(state[key].shape), rule["shape"])
            if rule["fill"] is None:
                continue
            offset, scale = rule["fill"]
            noise = self.noise(key, tuple(rule["shape"]))
            value = (state[key] if offset == "init" else offset) + scale * noise
            state[key].copy_(value.abs() if key.endswith("running_var") else value)
        return module.eval().requires_grad_(False)


def published_order(network: nn.Module) -> nn.Module:
    """Make a network multiply in the order of the published code, which is slower and equal up to rounding.

    Rounding matters twice: the float32 spline matrices turn one unit in the last place of a feature into 1e-5 of a
    grid, and a feature within rounding of a leaky ReLU's kink flips a patch of the gradient.
    """
    for layer in network.modules():
        if isinstance(layer, ModulatedConv2d):
            layer.modulate_weights = True
        elif isinstance(layer, ConvLayer) and isinstance(layer[0], Blur) and layer[0].down == 2:
            layer[0].down, layer[1].stride = 1, 2
    return network


def relative_error(ours: Tensor, stored: Tensor) -> float:
    """max |ours - stored| / max |stored|, infinite where shapes differ or a number is not finite."""
    ours, stored = ours.detach().double(), stored.detach().double()
    if ours.shape != stored.shape or not bool(torch.isfinite(ours).all()):
        return float("inf")
    return float((ours - stored).abs().max() / stored.abs().max().clamp_min(1e-300))
