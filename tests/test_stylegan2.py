"""Generator, discriminator and encoder: shapes, invariants and clear refusals."""

from __future__ import annotations

import pytest
import torch

from models.discriminator import Discriminator, DiscriminatorConfig, PatchDiscriminator, minibatch_stddev
from models.e4e import E4EConfig, E4EEncoder
from models.layers import ModulatedConv2d
from models.stylegan2 import Generator, GeneratorConfig, layer_at

CHANNELS = {4: 12, 8: 12, 16: 10, 32: 8, 64: 6}


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(0)
    return Generator(GeneratorConfig(size=64, style_dim=16, n_mlp=2, channels=CHANNELS)).requires_grad_(False)


def test_config_counts_and_round_trip():
    config = GeneratorConfig.official(1024)
    assert (config.n_latent, config.n_layers, layer_at(32), layer_at(64)) == (18, 17, 6, 8)
    assert GeneratorConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match="power of two"):
        GeneratorConfig(size=100)
    with pytest.raises(ValueError, match="channels must give"):
        GeneratorConfig(size=64, channels={4: 1})
    with pytest.raises(ValueError, match="power of two"):
        layer_at(33)


def test_truncation(generator):
    z, w_avg = torch.randn(3, 16), torch.randn(16)
    w = generator.mapping(z)
    assert torch.allclose(generator.mapping(z, truncation_psi=0.0, w_avg=w_avg), w_avg.expand(3, -1))
    assert torch.allclose(generator.mapping(z, truncation_psi=0.5, w_avg=w_avg), (w + w_avg) / 2, atol=1e-6)
    with pytest.raises(ValueError, match="needs w_avg"):
        generator.mapping(z, truncation_psi=0.5)
    with pytest.raises(ValueError, match="expected z"):
        generator.mapping(torch.zeros(3, 15))


def test_noise_kinds(generator):
    rng = torch.Generator().manual_seed(3)
    first = generator.random_noise(2, generator=rng)
    again = generator.random_noise(2, generator=torch.Generator().manual_seed(3))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert len(first) == len(generator.fixed_noise()) == generator.config.n_layers
    assert all(not noise.any() for noise in generator.zero_noise())


def test_synthesis_does_not_depend_on_the_batch_or_on_the_global_rng(generator):
    w_plus = torch.randn(3, generator.config.n_latent, 16)
    whole = generator.synthesis(w_plus, noise=generator.fixed_noise())
    torch.manual_seed(99)
    single = torch.cat([generator.synthesis(row[None], noise=generator.fixed_noise()) for row in w_plus])
    assert whole.shape == (3, 3, 64, 64) and torch.allclose(whole, single, atol=1e-5)


def test_feature_transforms_see_the_named_layer(generator):
    seen = {}
    transforms = {layer_at(32): lambda x: seen.setdefault(32, x), 0: lambda x: seen.setdefault(4, x)}
    w_plus = torch.randn(1, generator.config.n_latent, 16)
    generator.synthesis(w_plus, noise=generator.fixed_noise(), feature_transforms=transforms)
    assert seen[32].shape == (1, 8, 32, 32) and seen[4].shape == (1, 12, 4, 4)
    for transforms, message in (({99: lambda x: x}, "outside"), ({-1: lambda x: x}, "outside")):
        with pytest.raises(ValueError, match=message):
            generator.synthesis(w_plus, noise=generator.fixed_noise(), feature_transforms=transforms)
    with pytest.raises(ValueError, match="noise maps"):
        generator.synthesis(w_plus, noise=generator.fixed_noise()[:-1])
    with pytest.raises(ValueError, match="expected w_plus"):
        generator.synthesis(w_plus[:, 1:], noise=generator.fixed_noise())


@pytest.mark.parametrize("upsample", [False, True])
@pytest.mark.parametrize("demodulate", [False, True])
def test_shared_weight_form_equals_weights_per_sample(upsample, demodulate):
    layer = ModulatedConv2d(5, 7, 3, 4, demodulate=demodulate, upsample=upsample).double()
    x, w = torch.randn(3, 5, 8, 8, dtype=torch.double), torch.randn(3, 4, dtype=torch.double)
    fast = layer(x, w)
    layer.modulate_weights = True
    # The demodulation factor of the fast form is computed in float32.
    assert torch.allclose(fast, layer(x, w), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("upsample", [False, True])
def test_what_is_kept_of_a_weight_follows_it(upsample):
    layer = ModulatedConv2d(5, 7, 3, 4, upsample=upsample).requires_grad_(False)
    x, w = torch.randn(1, 5, 4, 4), torch.randn(1, 4)
    other = ModulatedConv2d(5, 7, 3, 4, upsample=upsample)
    for change in (lambda: None, lambda: layer.weight.mul_(0.5).add_(0.3), lambda: layer.load_state_dict(other.state_dict())):
        change()
        assert layer.keeps and torch.allclose(layer(x, w), layer.grouped(x, layer.modulation(w)), atol=1e-5)
        kept = layer.shared()
        assert all(one is again for one, again in zip(kept, layer.shared(), strict=True))
    layer.requires_grad_(True)
    assert not layer.keeps and layer.shared()[0].requires_grad


def test_discriminator_and_its_taps():
    network = Discriminator(DiscriminatorConfig(64, CHANNELS))
    image = torch.randn(3, 3, 64, 64)
    assert network(image).shape == (3, 1)
    patch = PatchDiscriminator(network)
    shapes = [tuple(patch(image, head=head).shape) for head in range(4)]
    assert shapes == [(3, 1, 32, 32), (3, 1, 32, 32), (3, 1, 16, 16), (3, 1, 16, 16)]
    assert patch.discriminator is network
    for bad, message in ((torch.zeros(1, 3, 32, 32), "expected images"),):
        with pytest.raises(ValueError, match=message):
            network(bad)
    with pytest.raises(ValueError, match="head must be"):
        patch(image, head=4)
    with pytest.raises(ValueError, match="above 32 px"):
        PatchDiscriminator(Discriminator(DiscriminatorConfig(32, {k: v for k, v in CHANNELS.items() if k <= 32})))


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 5, 6, 8])
def test_minibatch_stddev_takes_every_batch(batch):
    assert minibatch_stddev(torch.randn(batch, 4, 2, 2)).shape == (batch, 5, 2, 2)


def test_encoder_shapes_and_common_row():
    config = E4EConfig(input_size=64, n_styles=10, style_dim=16, stem=4, widths=(4, 6, 8, 8), units=(1, 1, 2, 1),
                       base_width=8, delta_width=4)
    encoder = E4EEncoder(config).eval()
    image = torch.randn(2, 3, 64, 64)
    codes = encoder(image)
    assert codes.shape == (2, 10, 16) and torch.allclose(codes[:, 0], encoder.base(image), atol=1e-6)
    assert E4EConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match="expected images"):
        encoder(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match="input_size"):
        E4EConfig(input_size=100)
