"""DualStyleGAN's networks and terms against reference numbers of the published implementation, all in float64.

``PARITY_SYSTEMS_DIR=FOLDER pytest tests/test_parity_dualstylegan.py`` checks any folder of the same form.
"""

from __future__ import annotations

import os
import re

import pytest
import torch
from parity_fill import ParityFolder, relative_error
from torch import Tensor

from losses.contextual import contextual_loss, feature_mean_matching
from losses.exemplar import path_norm, row_spread
from losses.noise import noise_regularization, ramped_rate
from models.dualstylegan import CodeSampler, DualStyleGAN, ModRes, sampler_rows
from models.stylegan2 import Generator, generator_config_from_state

TOLERANCE = 1e-5  # of the largest stored value; both sides in float64
NAME = "dualstylegan_128"


def expect(ours: Tensor, stored: Tensor, what: str) -> None:
    error = relative_error(ours, stored)
    assert error <= TOLERANCE, f"{what}: relative error {error:.2e} above {TOLERANCE:.0e}"


@pytest.fixture(scope="module")
def stored(parity_systems: ParityFolder) -> dict[str, Tensor]:
    return {key: value.double() for key, value in parity_systems.tensors(NAME).items()}


@pytest.fixture(scope="module")
def terms(parity_systems: ParityFolder) -> dict[str, Tensor]:
    return {key: value.double() for key, value in parity_systems.tensors("dualstylegan_terms").items()}


@pytest.fixture(scope="module")
def modres(parity_systems: ParityFolder) -> ModRes:
    rules = parity_systems.keys("dualstylegan_modres")
    block = ModRes(rules["conv.1.bias"]["shape"][0], rules["norm.style.weight"]["shape"][1])
    return parity_systems.fill(block, "dualstylegan_modres").double()


@pytest.fixture(scope="module")
def network(parity_systems: ParityFolder) -> DualStyleGAN:
    shapes = {key.removeprefix("generator."): torch.empty(rule["shape"], device="meta")
              for key, rule in parity_systems.keys(NAME).items() if key.startswith("generator.")}
    config = generator_config_from_state(shapes)
    network = DualStyleGAN(Generator(config))
    return parity_systems.fill(network, NAME).double()


def cases(parity: ParityFolder, stored: dict[str, Tensor], network: DualStyleGAN) -> dict[str, tuple]:
    """Return (rows, codes, weights, fuse_index) of every stored image."""
    faces, codes = network.map_rows(stored["z_plus"]), network.map_rows(stored["exstyle_z_plus"])
    default, ones, zeros = (stored[f"weights_{name}"] for name in ("default", "ones", "zeros"))
    found = {key: (faces, codes, stored[key.replace("image", "weights")], None) for key in stored
             if key.startswith("image_") and key.replace("image", "weights") in stored}
    for key in stored:
        if (match := re.fullmatch(r"image_truncated_(.+)", key)):
            found[key] = (float(match[1]) * faces, codes, default, None)
        elif (match := re.fullmatch(r"image_fuse_index_(.+)", key)):
            found[key] = (faces, codes, ones, int(match[1]))
    found["image_z_and_one_exstyle"] = (network.map_rows(stored["z"]), network.map_rows(stored["exstyle_z"]), default, None)
    found["image_w_plus_content"] = (codes.flip(1), codes, ones, None)
    found["image_without_extrinsic"] = (faces, codes, zeros, None)
    return found


@torch.no_grad()
def test_codes(parity_systems: ParityFolder, stored: dict[str, Tensor], network: DualStyleGAN) -> None:
    for name in ("z", "z_plus", "exstyle_z_plus", "exstyle_z"):
        expect(parity_systems.input(name, tuple(stored[name].shape)), stored[name], name)
    expect(network.map_rows(stored["exstyle_z_plus"]), stored["exstyle_w_plus"], "exstyle_w_plus")


@torch.no_grad()
def test_images(parity_systems: ParityFolder, stored: dict[str, Tensor], network: DualStyleGAN) -> None:
    wanted = cases(parity_systems, stored, network)
    assert set(wanted) == {key for key in stored if key.startswith("image_")}
    drawn: dict[tuple, Tensor] = {}
    whole = bool(os.environ.get("PARITY_SYSTEMS_DIR") or os.environ.get("NIGHTLY"))
    for number, (key, (faces, codes, weights, fuse)) in enumerate(sorted(wanted.items())):
        if not whole and number % 2 and "weights" not in key and key.replace("image", "weights") in stored:
            continue  # of the images that differ by their weights alone every second
        # Each image takes seconds in float64: one sample per case in turn, but all of a folder that is asked for.
        part = slice(None) if os.environ.get("PARITY_SYSTEMS_DIR") else slice(number % 2, number % 2 + 1)
        same = (float(faces[part].sum()), tuple(weights.tolist()), fuse)
        if same not in drawn:
            drawn[same] = network.synthesis(faces[part], codes[part], weights=weights, fuse_index=fuse,
                                            noise=network.generator.fixed_noise())
        step = drawn[same].shape[2] // stored[key].shape[2]
        expect(drawn[same][:, :, ::step, ::step], stored[key][part], key)


def test_modres(parity_systems: ParityFolder, modres: ModRes) -> None:
    numbers = {key: value.double() for key, value in parity_systems.tensors("dualstylegan_modres").items()}
    cotangent = parity_systems.input("modres_g", tuple(numbers["x"].shape)).double()
    weights = [key.removeprefix("y_") for key in numbers if key.startswith("y_")]
    assert len(weights) == 3
    for weight in weights:
        x, s = numbers["x"].clone().requires_grad_(True), numbers["s"].clone().requires_grad_(True)
        y = modres(x, s, float(weight))
        expect(y, numbers[f"y_{weight}"], f"y at weight {weight}")
        for name, gradient in zip(("gx", "gs"), torch.autograd.grad(y, (x, s), cotangent), strict=True):
            if f"{name}_{weight}" in numbers:
                expect(gradient, numbers[f"{name}_{weight}"], f"{name} at weight {weight}")


def test_contextual_loss(terms: dict[str, Tensor]) -> None:
    widths = [key.removeprefix("cx_grad_") for key in terms if key.startswith("cx_grad_")]
    assert len(widths) == 2
    for width in widths:
        x = terms["cx_x"].clone().requires_grad_(True)
        loss = contextual_loss(x, terms["cx_y"], band_width=float(width))
        expect(loss, terms[f"cx_{width}"], f"contextual loss, band width {width}")
        expect(torch.autograd.grad(loss, x)[0], terms[f"cx_grad_{width}"], f"its gradient, band width {width}")


def test_noise_regularization(parity_systems: ParityFolder, terms: dict[str, Tensor]) -> None:
    sides = sorted(int(key.rpartition("_")[2]) for key in terms if key.startswith("noise_regularization_grad_"))
    maps = [parity_systems.input(f"noise_{side}", (1, 1, side, side)).double().requires_grad_(True) for side in sides]
    loss = noise_regularization(maps)
    expect(loss, terms["noise_regularization"], "noise regularisation")
    for side, gradient in zip(sides, torch.autograd.grad(loss, maps), strict=True):
        expect(gradient, terms[f"noise_regularization_grad_{side}"], f"its gradient at {side} px")


def test_learning_rate(terms: dict[str, Tensor]) -> None:
    wanted = terms["learning_rate_300_steps"]
    ours = [ramped_rate(step, len(wanted), rate=0.1) for step in range(len(wanted))]
    expect(torch.tensor(ours, dtype=torch.float64), wanted, "learning rate")


def test_row_spread(parity_systems: ParityFolder, terms: dict[str, Tensor]) -> None:
    rows = parity_systems.input("latent_reg", tuple(terms["latent_spread_grad"].shape)).double().requires_grad_(True)
    spread = row_spread(rows)
    expect(spread, terms["latent_spread"], "spread")
    expect(torch.autograd.grad(spread, rows)[0], terms["latent_spread_grad"], "its gradient")


def test_feature_mean_matching(parity_systems: ParityFolder, terms: dict[str, Tensor]) -> None:
    shape = tuple(terms["feature_mean_matching_grad_0"].shape)
    ours, theirs = ([parity_systems.input(f"{name}_{i}", shape).double().requires_grad_(True) for i in range(2)]
                    for name in ("fm", "fm_real"))
    loss = feature_mean_matching(ours, theirs)
    expect(loss, terms["feature_mean_matching"], "matching of means")
    expect(torch.autograd.grad(loss, ours[0])[0], terms["feature_mean_matching_grad_0"], "its gradient")


def test_path_norm(terms: dict[str, Tensor], modres: ModRes) -> None:
    expect(path_norm(modres.parameters()), terms["l2_of_residual_path"], "norm of the residual path")


@torch.no_grad()
def test_sampler(parity_systems: ParityFolder, terms: dict[str, Tensor]) -> None:
    name = "dualstylegan_sampler_color_128"
    shapes = {key: torch.empty(rule["shape"]) for key, rule in parity_systems.keys(name).items()}
    sampler = parity_systems.fill(CodeSampler(sampler_rows(shapes, style_dim=512)), name).double()
    codes = sampler(parity_systems.input("sampler", (len(terms["sampler_color"]), 128)).double())
    expect(codes.flatten(1), terms["sampler_color"], "codes")
