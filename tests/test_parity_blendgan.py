"""BlendGAN's networks against reference numbers of the published implementation, all in float64.

``PARITY_SYSTEMS_DIR=FOLDER pytest tests/test_parity_blendgan.py`` checks any folder of the same form.
"""

from __future__ import annotations

import os
import re

import pytest
import torch
from parity_fill import ParityFolder, published_order, relative_error
from torch import Tensor

from models.blending import BlendGenerator, interpolation_weights
from models.discriminator import DiscriminatorConfig
from models.layers import EqualLinear
from models.projection_discriminator import ProjectionDiscriminator
from models.style_encoder import StyleEncoder, style_encoder_config_from_state
from models.stylegan2 import generator_config_from_state

TOLERANCE = 1e-5  # of the largest stored value; both sides in float64
FIRST = "embedder_mlp.0"
ROWS = 64


def expect(ours: Tensor, stored: Tensor, what: str) -> None:
    error = relative_error(ours, stored)
    assert error <= TOLERANCE, f"{what}: relative error {error:.2e} above {TOLERANCE:.0e}"


def shape_only(rules: dict) -> dict[str, Tensor]:
    """Key table -> tensors without memory, enough to read a config from."""
    return {key: torch.empty(rule["shape"], device="meta") for key, rule in rules.items()}


@pytest.fixture(scope="module")
def stored(parity_systems: ParityFolder) -> dict[str, Tensor]:
    return parity_systems.tensors("blendgan_128")


@pytest.fixture(scope="module")
def generator(parity_systems: ParityFolder) -> BlendGenerator:
    config = generator_config_from_state(shape_only(parity_systems.keys("blendgan_128")))
    return published_order(parity_systems.fill(BlendGenerator(config), "blendgan_128")).double()


def test_codes(parity_systems: ParityFolder, stored: dict[str, Tensor], generator: BlendGenerator) -> None:
    for name in ("z", "z_style"):
        expect(parity_systems.input(name, tuple(stored[name].shape)), stored[name], name)
    clamped = stored["add_weight"].clamp(0.0, 1.0)
    expect(generator.face_shares().detach(), clamped, "add_weight")
    expect(generator.mapping(stored["z"].double()), stored["face_w"], "face_w")
    expect(generator.map_style(stored["z_style"].double()), stored["style_w"], "style_w")


@torch.no_grad()
def test_images(parity_systems: ParityFolder, stored: dict[str, Tensor], generator: BlendGenerator) -> None:
    face_w, style_w = generator.mapping(stored["z"].double()), generator.map_style(stored["z_style"].double())
    rows, cases = generator.broadcast(face_w), {"image_face_only": generator.broadcast(face_w)}

    def blended(w_plus: Tensor, index: int) -> Tensor:
        return generator.blend(w_plus, style_w, shares=generator.face_shares(index))

    for key in stored:
        if (found := re.fullmatch(r"image_index_(None|\d+)", key)):
            cases[key] = blended(rows, 0 if found[1] == "None" else int(found[1]))
        elif (found := re.fullmatch(r"image_truncated_(.+)", key)):
            w = generator.mapping(stored["z"].double(), truncation_psi=float(found[1]), w_avg=face_w.mean(dim=0))
            cases[key] = blended(generator.broadcast(w), 6)
    dw = parity_systems.input("dw", tuple(rows.shape))
    expect(rows + 0.3 * dw, stored["w_plus"], "w_plus")
    cases["image_w_plus_index_6"] = blended(rows + 0.3 * dw, 6)
    assert set(cases) == {key for key in stored if key.startswith("image_")}
    drawn: list[tuple[Tensor, Tensor]] = []
    for number, (key, w_plus) in enumerate(cases.items()):
        # Each image takes seconds in float64: one sample per case in turn, but all of a folder that is asked for.
        part = slice(None) if os.environ.get("PARITY_SYSTEMS_DIR") else slice(number % len(w_plus), number % len(w_plus) + 1)
        image = next((image for latents, image in drawn if torch.equal(latents, w_plus[part])), None)
        if image is None:
            image = generator.synthesis(w_plus[part], noise=generator.fixed_noise())
            drawn.append((w_plus[part], image))
        step = image.shape[2] // stored[key].shape[2]
        expect(image[:, :, ::step, ::step], stored[key][part], key)


@torch.no_grad()
def test_style_encoder(parity_systems: ParityFolder) -> None:
    """The first linear layer has 312 million weights, so it is filled and applied some rows at a time."""
    name = "blendgan_style_encoder"
    stored, rules = parity_systems.tensors(name), parity_systems.keys(name)
    with torch.device("meta"):
        encoder = StyleEncoder(style_encoder_config_from_state(shape_only(rules)))
    shape, scale = rules[f"{FIRST}.weight"]["shape"], rules[f"{FIRST}.weight"]["fill"][1]
    assert {key: list(value.shape) for key, value in encoder.state_dict().items()} == {k: r["shape"] for k, r in rules.items()}
    assert all(rule["fill"][0] == 0.0 for rule in rules.values())
    weights = {key: rule["fill"][1] * parity_systems.noise(key, tuple(rule["shape"]))
               for key, rule in rules.items() if key != f"{FIRST}.weight"}
    encoder.load_state_dict({**weights, f"{FIRST}.weight": torch.empty(shape, device="meta")}, strict=True, assign=True)
    small = encoder.embedder.double(), encoder.embedder_mlp[1:].double()
    image = torch.tanh(parity_systems.input("style_image", (1, 3, 200, 200))).double()
    gram = small[0](image)
    assert list(gram.shape) == stored["gram_shape"].tolist()
    expect(gram[:, ::499], stored["gram_every_499th"], "Gram matrices")
    bits, hidden = parity_systems.random(f"{FIRST}.weight"), []
    for start in range(0, shape[0], ROWS):
        with torch.device("meta"):
            part = EqualLinear(shape[1], ROWS, activate=True)
        rows = bits.standard_normal((ROWS, shape[1]), dtype="float32")
        part.weight = torch.nn.Parameter((scale * torch.from_numpy(rows)).double())
        part.bias = torch.nn.Parameter(weights[f"{FIRST}.bias"][start:start + ROWS].double())
        hidden.append(part(gram))
    expect(small[1](torch.cat(hidden, dim=1)), stored["z_style"], "z_style")


def test_projection_discriminator(parity_systems: ParityFolder) -> None:
    name = "blendgan_projection_discriminator_128"
    stored, rules = parity_systems.tensors(name), parity_systems.keys(name)
    blocks = sorted({int(key.split(".")[1]) for key in rules if key.startswith("convs.")})
    size = 4 * 2 ** blocks[-1]
    channels = {size // 2**block: rules[f"convs.{block}.{'0' if block == 0 else 'conv2.1'}.weight"]["shape"][0]
                for block in blocks}
    critic = ProjectionDiscriminator(DiscriminatorConfig(size, channels), style_dim=rules["l_style.weight"]["shape"][1])
    critic = published_order(parity_systems.fill(critic, name)).double()
    images = torch.tanh(parity_systems.input("d_image", (4, 3, size, size))).double().requires_grad_(True)
    scores = critic(images, parity_systems.input("d_style", (4, critic.l_style.weight.shape[1])).double())
    expect(scores, stored["score"], "score")
    (gradient,) = torch.autograd.grad(scores.sum(), images)
    expect(gradient[:, :, ::4, ::4], stored["grad"], "gradient")


def test_interpolation_weights(parity_systems: ParityFolder) -> None:
    stored = parity_systems.tensors("blendgan_terms")["interpolation_weights"]
    assert len(stored) == 31
    expect(interpolation_weights(), stored, "interpolation weights")
