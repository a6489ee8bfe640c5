"""Every network and loss against reference numbers of the published implementations.

`PARITY_DIR=FOLDER pytest tests/test_parity.py` checks any folder of the same form; sizes are read from its files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from copy import deepcopy

import numpy as np
import pytest
import torch
from parity_fill import ParityFolder, published_order, relative_error
from PIL import Image
from torch import Tensor

from faces.align import align_face
from losses.adversarial import logistic_loss, nonsaturating_loss, r1_penalty
from losses.consistency import pair_consistency, reference_consistency
from losses.directional import directional_loss
from losses.warp import published_warp_loss
from models.deformable import DeformableGenerator
from models.dino import DinoFeatures, ViTConfig, build_vit, self_similarity
from models.discriminator import Discriminator, DiscriminatorConfig, PatchDiscriminator
from models.e4e import E4EConfig, E4EEncoder
from models.stylegan2 import Generator, GeneratorConfig, generator_config_from_state
from op import fused_leaky_relu, upfirdn2d

TENSOR_TOLERANCE = 1e-4  # of the largest stored value
FLOAT64_TOLERANCE = 1e-5  # where the reference was computed in float64, and ours is
SPLINE_TOLERANCE = 1e-3  # where it was computed through the published spline in float32, which is off by 5e-4 of itself
SCALAR_TOLERANCE = 1e-5  # relative


def expect(ours: Tensor, stored: Tensor, what: str, *, tolerance: float = TENSOR_TOLERANCE) -> None:
    error = relative_error(ours, stored)
    assert error <= tolerance, f"{what}: relative error {error:.2e} above {tolerance:.0e}"


def expect_scalar(ours: Tensor, stored: Tensor, what: str) -> None:
    expect(ours, stored, what, tolerance=SCALAR_TOLERANCE)


def shape_only(rules: dict) -> dict[str, Tensor]:
    """Key table -> tensors without memory, enough to read a config from."""
    return {key: torch.empty(rule["shape"], device="meta") for key, rule in rules.items()}


# ---------------------------------------------------------------------------------------------------------- operators
def test_upfirdn2d(parity: ParityFolder) -> None:
    stored = parity.tensors("ops")
    cases = [re.fullmatch(r"y_(\d+)_(\d+)_(-?\d+)_(-?\d+)", key) for key in stored]
    cases = [tuple(int(part) for part in case.groups()) for case in cases if case]
    assert cases
    for up, down, before, after in cases:
        name = f"{up}_{down}_{before}_{after}"
        x = stored["x"].clone().requires_grad_(True)
        y = upfirdn2d(x, stored["kernel"], up=up, down=down, pad=(before, after))
        expect(y, stored[f"y_{name}"], f"y {name}")
        cotangent = parity.input(f"upfirdn_g{up}{down}{(before, after)}", tuple(y.shape))
        (gradient,) = torch.autograd.grad(y, x, cotangent)
        expect(gradient, stored[f"gx_{name}"], f"gx {name}")


def test_fused_leaky_relu(parity: ParityFolder) -> None:
    stored = parity.tensors("ops")
    x, bias = stored["x"].clone().requires_grad_(True), stored["bias"].clone().requires_grad_(True)
    y = fused_leaky_relu(x, bias)
    expect(y, stored["flrelu_y"], "y")
    gradients = torch.autograd.grad(y, (x, bias), parity.input("flrelu_g", tuple(y.shape)))
    expect(gradients[0], stored["flrelu_gx"], "gx")
    expect(gradients[1], stored["flrelu_gb"], "gb")


# ---------------------------------------------------------------------------------------------------------- generator
@pytest.fixture(scope="module")
def deformable(parity: ParityFolder) -> Iterator[DeformableGenerator]:
    config = generator_config_from_state(shape_only(parity.keys("generator_128")))
    generator = parity.fill(Generator(config), "generator_128")
    published_order(generator)
    net = DeformableGenerator.for_generator(generator, mode="published")
    parity.fill(net.tps, "stns")
    parity.fill(net.affine, "rtstn")
    yield net.eval().requires_grad_(False)


def test_mapping(parity: ParityFolder, deformable: DeformableGenerator) -> None:
    stored = parity.tensors("generator_128")
    expect(parity.input("z", tuple(stored["z"].shape)), stored["z"], "z", tolerance=0.0)
    expect(deformable.mapping(stored["z"]), stored["w"], "w")


def test_generator(parity: ParityFolder, deformable: DeformableGenerator) -> None:
    stored, generator = parity.tensors("generator_128"), deformable.generator
    plain = generator.synthesis(stored["w_plus"], noise=generator.fixed_noise())
    expect(plain, stored["plain"], "plain")


def test_fast_order_equals_published_order(
    parity: ParityFolder, deformable: DeformableGenerator, patch_discriminator: PatchDiscriminator
) -> None:
    stored, generator = parity.tensors("generator_128"), Generator(deformable.generator.config)
    generator.load_state_dict(deformable.generator.state_dict())
    with torch.no_grad():
        image = generator.synthesis(stored["w_plus"], noise=generator.fixed_noise())
    expect(image, stored["plain"], "plain")
    discriminator = Discriminator(patch_discriminator.discriminator.config)
    discriminator.load_state_dict(patch_discriminator.discriminator.state_dict())
    stored = parity.tensors("discriminator_128")
    with torch.no_grad():
        expect(discriminator(stored["image"]), stored["full"], "full")


@pytest.fixture(scope="module")
def deformable64(parity: ParityFolder, deformable: DeformableGenerator) -> DeformableGenerator:
    """The same network in float64 with the spline's matrices of the reference.

    The published spline inverts its lattice in float32: the published code itself differs by 5e-4 between two processors.
    """
    net, stored = deepcopy(deformable).double(), parity.tensors("generator_128_float64")
    buffers = {key.removeprefix("buffer/stns:"): value.double() for key, value in stored.items() if "buffer/" in key}
    assert buffers
    assert not net.tps.load_state_dict(buffers, strict=False).unexpected_keys
    return net


def test_deformed(parity: ParityFolder, deformable64: DeformableGenerator) -> None:
    stored, noise = parity.tensors("generator_128_float64"), deformable64.generator.fixed_noise()
    alphas = [key.removeprefix("deformed_") for key in stored if key.startswith("deformed_")]
    assert alphas
    if not (os.environ.get("PARITY_DIR") or os.environ.get("NIGHTLY")):
        alphas = [alphas[0], alphas[len(alphas) // 2], alphas[-1]]
    for number, alpha in enumerate(alphas):
        # Each image takes seconds in float64: one sample per alpha in turn, but all of a folder that is asked for.
        part = slice(None) if os.environ.get("PARITY_DIR") else slice(number % 2, number % 2 + 1)
        image, grids = deformable64.synthesis(stored["w_plus"][part].double(), alpha=float(alpha), noise=noise)
        expect(image, stored[f"deformed_{alpha}"][part], f"image at alpha {alpha}", tolerance=FLOAT64_TOLERANCE)
        for size, grid in zip(deformable64.config.resolutions, grids, strict=True):
            expect(grid, stored[f"flow{size}_{alpha}"][part], f"grid {size} at alpha {alpha}", tolerance=FLOAT64_TOLERANCE)


def test_from_z(parity: ParityFolder, deformable64: DeformableGenerator) -> None:
    stored, noise = parity.tensors("generator_128"), deformable64.generator.fixed_noise()
    cases = [(key, *re.fullmatch(r"from_z_psi(.+)_alpha(.+)", key).groups()) for key in stored if "from_z" in key]
    assert cases
    w_avg = stored["w"].double().mean(dim=0, keepdim=True)
    for key, psi, alpha in cases:
        w = deformable64.mapping(stored["z"].double(), truncation_psi=float(psi), w_avg=w_avg)
        image = deformable64.synthesis(deformable64.broadcast(w), alpha=float(alpha), noise=noise).image
        expect(image, stored[key], key, tolerance=SPLINE_TOLERANCE)


def test_each_transformer_alone(parity: ParityFolder, deformable64: DeformableGenerator) -> None:
    stored, noise = parity.tensors("generator_128"), deformable64.generator.fixed_noise()
    for key, part, tolerance in (("tps_only", "tps", SPLINE_TOLERANCE), ("rt_only", "affine", TENSOR_TOLERANCE)):
        flags = {name: name == part for name in ("tps", "affine")}
        net = DeformableGenerator.for_generator(deformable64.generator, mode="published", **flags)
        setattr(net, part, getattr(deformable64, part))
        image = net.synthesis(stored["w_plus"].double(), noise=noise).image
        expect(image, stored[key], key, tolerance=tolerance)


# ------------------------------------------------------------------------------------------------------ discriminator
@pytest.fixture(scope="module")
def patch_discriminator(parity: ParityFolder) -> PatchDiscriminator:
    shapes = {key: rule["shape"] for key, rule in parity.keys("discriminator_128").items()}
    size = parity.tensors("discriminator_128")["image"].shape[2]
    channels, index = {size: shapes["convs.0.0.weight"][0]}, 1
    while (key := f"convs.{index}.conv2.1.weight") in shapes:
        channels[size // 2**index] = shapes[key][0]
        index += 1
    discriminator = published_order(Discriminator(DiscriminatorConfig(size, channels)))
    net = PatchDiscriminator(parity.fill(discriminator, "discriminator_128"))
    parity.fill(net.heads, "patch_heads")
    return net


def test_discriminator(parity: ParityFolder, patch_discriminator: PatchDiscriminator) -> None:
    stored = parity.tensors("discriminator_128")
    expect(patch_discriminator.discriminator(stored["image"]), stored["full"], "full")
    for head in range(4):
        expect(patch_discriminator(stored["image"], head=head), stored[f"patch_{head}"], f"patch {head}")


# --------------------------------------------------------------------------------------------------------------- DINO
@pytest.fixture(scope="module")
def dino(parity: ParityFolder) -> DinoFeatures:
    return DinoFeatures(parity.fill(build_vit(ViTConfig(224, 8, 96, 12, 3)), "vit_96_8"))


def test_dino_features(parity: ParityFolder, dino: DinoFeatures) -> None:
    stored = parity.tensors("dino_features")
    facets = [key.split("_")[1] for key in stored if re.fullmatch(r"features_._shape", key)]
    assert facets
    tokens = dino.tokens(stored["image"], layers=(5, 11), facets=facets)
    for facet in facets:
        features = torch.cat([tokens[facet, 5], tokens[facet, 11]], dim=1)
        assert list(features.shape) == stored[f"features_{facet}_shape"].tolist()
        expect(features[:, ::7], stored[f"features_{facet}_every7th"], f"features {facet}")
        similarity = self_similarity(tokens[facet, 5])
        assert list(similarity.shape) == stored[f"selfsim_{facet}_shape"].tolist()
        expect(similarity[:, ::28, ::28], stored[f"selfsim_{facet}_every28th"], f"self-similarity {facet}")


# ------------------------------------------------------------------------------------------------------ loss terms
def split_features(dino: DinoFeatures, images: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Features of layers 5 and 11 along tokens and self-similarity of layer 5, for each batch of images."""
    tokens = dino.tokens(torch.cat(images), layers=(5, 11), facets="f")
    counts = [len(batch) for batch in images]
    middle, last = tokens["f", 5].split(counts), tokens["f", 11].split(counts)
    features = [torch.cat(pair, dim=1) for pair in zip(middle, last, strict=True)]
    return features, [self_similarity(part) for part in middle]


def test_feature_losses(parity: ParityFolder, dino: DinoFeatures) -> None:
    stored = parity.tensors("training_terms")
    image = stored["img"].clone().requires_grad_(True)
    features, structures = split_features(dino, [stored["src_img"], image, stored["real"], stored["style"]])
    directional = directional_loss(features[0], features[1], reference_source=features[2],
                                   reference_target=features[3])
    expect_scalar(directional, stored["directional"], "directional")
    pairs = pair_consistency(structures[0], structures[1])
    reference = reference_consistency(structures[0], structures[1], reference_source=structures[2],
                                      reference_target=structures[3])
    expect_scalar(pairs, stored["consistency_pairs"], "consistency, pairs")
    expect_scalar(reference, stored["consistency_reference"], "consistency, reference")
    (gradient,) = torch.autograd.grad(directional, image, retain_graph=True)
    expect(gradient, stored["grad_directional"], "gradient of directional")
    (gradient,) = torch.autograd.grad(5e4 * (pairs + reference), image)
    expect(gradient, stored["grad_consistency_x5e4"], "gradient of consistency")


def test_warp_loss(parity: ParityFolder) -> None:
    stored = parity.tensors("training_terms")
    flows = [stored[key] for key in sorted(stored) if key.startswith("flow")]
    expect_scalar(published_warp_loss(flows), stored["warp"], "warp")


# Side in px of what a unit of the first patch head sees.
KINK_FIELD = 40


def test_adversarial_losses(parity: ParityFolder, patch_discriminator: PatchDiscriminator) -> None:
    stored = parity.tensors("training_terms")
    fake = stored["img_g"].clone().requires_grad_(True)
    logits = patch_discriminator(fake, head=0)
    generator_loss = nonsaturating_loss(logits)
    expect_scalar(generator_loss, stored["adv"], "adversarial")
    (gradient,) = torch.autograd.grad(generator_loss, fake)
    # In two of these images one unit lies within rounding of the leaky ReLU's kink, and processors round it to either side:
    # the gradient of the pixels that it sees may take the other branch. All others must agree.
    apart = (gradient - stored["grad_adv"]).abs() / stored["grad_adv"].abs().max()
    beyond = (apart > TENSOR_TOLERANCE).any(dim=1)  # [N, 3, H, W] -> [N, H, W]
    rows, columns = (beyond.any(dim=axis).sum(dim=1).max() for axis in (2, 1))
    assert rows <= KINK_FIELD and columns <= KINK_FIELD and int(beyond.any(dim=2).any(dim=1).sum()) <= 2
    assert float(apart.max()) < 0.02
    real = stored["style"].clone().requires_grad_(True)
    real_logits = patch_discriminator(real, head=0)
    expect_scalar(logistic_loss(real_logits, logits.detach()), stored["d_logistic"], "logistic")
    expect_scalar(r1_penalty(real_logits, real), stored["d_r1"], "R1")


# ----------------------------------------------------------------------------------------------------- e4e, alignment
def test_e4e_encoder(parity: ParityFolder) -> None:
    stored = parity.arrays("e4e_encoder_1024")
    name = str(stored["image_seed_name"])
    encoder = parity.fill(E4EEncoder(E4EConfig()), "e4e_encoder_1024")
    image = torch.tanh(parity.input(name, (1, 3, 256, 256)))
    with torch.no_grad():
        codes = encoder(image)
    expect(codes, torch.from_numpy(stored["codes"]), "codes")


def test_face_align(parity: ParityFolder) -> None:
    stored = parity.arrays("face_align")
    cases = [key.removesuffix("_image") for key in stored if key.endswith("_image")]
    assert cases
    for case in cases:
        expected = stored[f"{case}_aligned"].astype(int)
        image = Image.fromarray(stored[f"{case}_image"])
        aligned = align_face(image, stored[f"{case}_landmarks"], output_size=len(expected))
        difference = np.abs(np.asarray(aligned).astype(int) - expected)
        assert difference.max() <= 1, f"{case}: off by {difference.max()} levels"


def test_face_align_of_large_images(parity: ParityFolder) -> None:
    """Large images are stored as their size: waves sin(x / 17 + c) cos(y / (23 + 5 c)) under noise of 8 levels.

    The noise is not stored. Shrinking leaves about 2 levels of it per pixel and a fifth of that in the mean over
    8 x 8 pixels, where a crop that is off by one source pixel shows more.
    """
    stored = parity.arrays("face_align")
    for case in (key.removesuffix("_image_recipe") for key in stored if key.endswith("_image_recipe")):
        height, width = stored[f"{case}_image_recipe"].tolist()
        y, x = np.mgrid[:height, :width]
        waves = np.stack([128 + 100 * np.sin(x / 17 + c) * np.cos(y / (23 + 5 * c)) for c in range(3)], axis=2)
        expected = stored[f"{case}_aligned"].astype(float)
        aligned = align_face(Image.fromarray(waves.clip(0, 255).astype(np.uint8)), stored[f"{case}_landmarks"],
                             output_size=len(expected))
        difference = np.asarray(aligned).astype(float) - expected
        side = len(expected) // 8
        blocks = difference.reshape(side, 8, side, 8, 3).mean(axis=(1, 3))  # [S, S, 3] -> [S / 8, S / 8, 3]
        assert abs(difference.mean()) < 0.5 and difference.std() < 3, (case, difference.mean(), difference.std())
        assert np.abs(blocks).max() < 2.5, (case, np.abs(blocks).max())


# ------------------------------------------------------------------------------------------------ released key tables
def test_official_checkpoint_keys(parity: ParityFolder) -> None:
    tables = parity.keys("official_checkpoints")
    assert tables
    for file, parts in tables.items():
        states = {part: {key: torch.empty(shape, device="meta") for key, shape in table.items()}
                  for part, table in parts.items()}
        # On the meta device a 1024 px network costs nothing; loading still compares every key and shape.
        with torch.device("meta"):
            config = generator_config_from_state(states["g"] if "g" in states else states["g_ema"])
            generator = Generator(config)
            net = DeformableGenerator.for_generator(generator, mode="published")
            discriminator = Discriminator(DiscriminatorConfig.official(config.size))
        assert config == GeneratorConfig.official(config.size), file
        modules = {"g": generator, "g_ema": generator, "d": discriminator, "stns": net.tps, "rtstn": net.affine}
        for part, state in states.items():
            modules[part].load_state_dict(state, strict=True, assign=True)
