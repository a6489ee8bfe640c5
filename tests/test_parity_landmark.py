"""Landmark projection against reference numbers of the published implementations, in float64.

`PARITY_SYSTEMS_DIR=FOLDER` checks any folder of the same form.
"""

from __future__ import annotations

import re
from functools import partial

import pytest
import torch
from parity_fill import ParityFolder, relative_error
from torch import Tensor

from losses import heat_maps
from losses.noise import noise_regularization, ramped_rate
from models.fan import FAN, FANConfig, fan_input
from models.stylegan2 import Generator
from models.stylegan2_ada import convert_generator

TOLERANCE = 1e-5  # of the largest stored value: computed in float64
FLOAT32_TOLERANCE = 1e-4  # the stylegan2-ada-pytorch generator's reference was computed in float32


def expect(ours: Tensor, stored: Tensor, what: str, *, tolerance: float = TOLERANCE) -> None:
    error = relative_error(ours, stored)
    assert error <= tolerance, f"{what}: relative error {error:.2e} above {tolerance:.0e}"


def filled(folder: ParityFolder, name: str) -> dict[str, Tensor]:
    """Return the state dict that a keys file describes; filters, which it leaves as they are made, from their definition."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    taps = taps[:, None] * taps / 64.0
    state = {}
    for key, rule in folder.keys(name).items():
        offset, scale = rule["fill"] or (0.0, 0.0)
        state[key] = offset + scale * folder.noise(key, tuple(rule["shape"])) if rule["fill"] else taps
    return state


@pytest.fixture(scope="module")
def ada(parity_systems: ParityFolder) -> tuple[Generator, Tensor]:
    config, state, w_avg = convert_generator(filled(parity_systems, "landmark_nvlabs_generator_128"))
    generator = Generator(config)
    generator.load_state_dict(state, strict=True)
    return generator.double().requires_grad_(False), w_avg.double()


def test_nvlabs_mapping(parity_systems: ParityFolder, ada: tuple[Generator, Tensor]) -> None:
    stored, (generator, w_avg) = parity_systems.tensors("landmark_nvlabs_generator_128"), ada
    z = parity_systems.input("z", tuple(stored["z"].shape))
    expect(z, stored["z"], "z", tolerance=0.0)
    expect(generator.mapping(z.double()), stored["w"], "w", tolerance=FLOAT32_TOLERANCE)
    cases = [key for key in stored if re.fullmatch(r"truncated_.*_w", key)]
    assert cases
    for key in cases:
        w = generator.mapping(z.double(), truncation_psi=float(key.split("_")[1]), w_avg=w_avg)
        expect(w, stored[key], key, tolerance=FLOAT32_TOLERANCE)


def test_nvlabs_synthesis(parity_systems: ParityFolder, ada: tuple[Generator, Tensor]) -> None:
    stored, generator = parity_systems.tensors("landmark_nvlabs_generator_128"), ada[0]
    w_plus = stored["w"][:, None] + 0.3 * parity_systems.input("dw", tuple(stored["w_plus"].shape))
    expect(w_plus, stored["w_plus"], "w_plus")
    image = generator.synthesis(stored["w_plus"].double(), noise=generator.fixed_noise())
    expect(image, stored["image"], "image", tolerance=FLOAT32_TOLERANCE)


def test_fan(parity_systems: ParityFolder) -> None:
    stored = parity_systems.tensors("landmark_fan_2stacks")["heat_maps_every_2nd"]
    network = FAN(FANConfig.from_keys(parity_systems.keys("landmark_fan_2stacks"), points=stored.shape[1]))
    network = parity_systems.fill(network, "landmark_fan_2stacks").double()
    image = torch.tanh(parity_systems.input("fan_image", (1, 3, 300, 300)).double())
    with torch.no_grad():
        heat = network(fan_input(image))
    expect(heat[:, :, ::2, ::2], stored, "heat maps")


def test_released_fan_fits(parity_systems: ParityFolder) -> None:
    keys = parity_systems.keys("landmark_official")["2DFAN4 (face-alignment)"]
    with torch.device("meta"):
        state = FAN(FANConfig.from_keys(keys)).state_dict()
    assert {key: list(tensor.shape) for key, tensor in state.items()} == keys


def test_group_weights(parity_systems: ParityFolder) -> None:
    stored = parity_systems.tensors("landmark_terms")
    names = [key for key in stored if key.startswith("weights_")]
    assert names
    for name in names:
        nine = [float(stored[name][first]) for first, _ in heat_maps.GROUPS.values()]
        assert torch.equal(heat_maps.group_weights(nine), stored[name]), name


def test_heat_map_loss(parity_systems: ParityFolder) -> None:
    stored = parity_systems.tensors("landmark_terms")
    target, heat = (parity_systems.input(name, (1, 68, 64, 64)).abs().double()
                    for name in ("heat_target", "heat_synthesized"))
    names = [key.removeprefix("heat_map_loss_") for key in stored if key.startswith("heat_map_loss_")]
    assert names
    for name in names:
        leaf = heat.clone().requires_grad_(True)
        loss = heat_maps.heat_map_loss(leaf, target, stored[f"weights_{name}"].double())
        expect(loss, stored[f"heat_map_loss_{name}"], f"loss {name}")
        (gradient,) = torch.autograd.grad(loss, leaf)
        expect(gradient[:, :, ::4, ::4], stored[f"heat_map_grad_{name}_every_4th"], f"gradient {name}")


def test_noise_regularization(parity_systems: ParityFolder) -> None:
    stored = parity_systems.tensors("landmark_terms")
    maps = [parity_systems.input(f"noise_{side}", (1, 1, side, side)).double().requires_grad_(True)
            for side in (4, 8, 16, 32, 64, 128)]
    loss = noise_regularization(maps)
    expect(loss, stored["noise_regularization"], "loss")
    for level, gradient in zip(maps, torch.autograd.grad(loss, maps), strict=True):
        if (key := f"noise_regularization_grad_{level.shape[2]}") in stored:
            expect(gradient, stored[key], key)


def test_schedules(parity_systems: ParityFolder) -> None:
    stored = parity_systems.tensors("landmark_terms")
    for key, function in (("noise_scale", heat_maps.noise_scale), ("learning_rate", partial(ramped_rate, rate=0.1))):
        series = stored[f"{key}_1000_steps"]
        ours = torch.tensor([function(step, len(series)) for step in range(len(series))], dtype=torch.float64)
        expect(ours, series, key)


def test_smoothness(parity_systems: ParityFolder) -> None:
    stored = parity_systems.tensors("landmark_terms")
    shape = tuple(stored["smoothness_grad"].shape)
    w = parity_systems.input("w_opt", shape).double().requires_grad_(True)
    loss = heat_maps.smoothness(w, parity_systems.input("w_previous", shape).double())
    expect(loss, stored["smoothness"], "loss")
    (gradient,) = torch.autograd.grad(loss, w)
    expect(gradient, stored["smoothness_grad"], "gradient")
