"""What benchmarks/bench.py times: each workload is built once and returns a function that does it once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from benchmarks.measure import psnr
from models.discriminator import Discriminator, DiscriminatorConfig
from models.e4e import E4EConfig, E4EEncoder
from models.stylegan2 import Generator, GeneratorConfig
from op import backend, filtered_leaky_relu, fused_leaky_relu, upfirdn2d
from pipeline.cli import UserError
from pipeline.graphs import Graphed

if TYPE_CHECKING:
    # Its import of timm takes 200 MB, which are none of the generator's.
    from models.dino import DinoFeatures

PIXEL_WIDTHS = {8: 512, 16: 512, 32: 512, 64: 512, 128: 256, 256: 128, 512: 64, 1024: 32}


@dataclass(frozen=True)
class Settings:
    """What is computed: side in px, samples per call, arithmetic, device, operators and where the weights come from."""

    size: int
    batch: int
    dtype: torch.dtype
    device: torch.device
    backend: str = "auto"
    random_weights: bool = True
    published: bool = False
    checkpointing: bool = False
    graphs: bool = False

    @contextlib.contextmanager
    def around(self):
        """Compute without gradients, in the settings' arithmetic and with their operators."""
        half = self.dtype != torch.float32
        with torch.no_grad(), backend.use(self.backend), torch.autocast(self.device.type, self.dtype, enabled=half):
            yield


def random_network(make: Callable[[], torch.nn.Module], settings: Settings) -> Any:
    """Build a network with random weights from a fixed seed; the global random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return make().eval().requires_grad_(False).to(settings.device)


def generator_for(settings: Settings) -> Generator:
    """Return the generator at full width, or that of the bundled or official weights where they have the size."""
    if settings.random_weights:
        return random_network(lambda: Generator(GeneratorConfig.official(settings.size)), settings)
    from checkpoints.builders import load_base

    name = "official" if settings.size == 1024 else "starter"
    generator = load_base(name, device=settings.device).generator
    if generator.config.size != settings.size:
        raise UserError(f"--size {settings.size}: the {name} weights have {generator.config.size} px; use that size, or "
                        "--random-weights")
    return generator


def published(module: Any, settings: Settings) -> Any:
    """Return the network as it is, or its copy that computes the published way."""
    if not settings.published:
        return module
    from benchmarks.published import publish

    return publish(module)


def generate(settings: Settings) -> Callable[[], Tensor]:
    """Latents to images, with fixed noise."""
    generator = published(generator_for(settings), settings)
    z = torch.randn(settings.batch, generator.config.style_dim, generator=torch.Generator().manual_seed(0))
    noise, z = generator.fixed_noise(), z.to(settings.device)

    def images_of(z: Tensor) -> Tensor:
        return generator.synthesis(generator.broadcast(generator.mapping(z)), noise=noise)

    compute = Graphed(images_of) if settings.graphs else images_of

    def call() -> Tensor:
        with settings.around():
            return compute(z)

    return call


def encode(settings: Settings) -> Callable[[], Tensor]:
    """Images of 256 px (of the bundled encoder's side without random weights) to latents."""
    if settings.random_weights:
        encoder: Any = random_network(lambda: E4EEncoder(E4EConfig(input_size=settings.size)), settings)
    else:
        from checkpoints.builders import load_encoder

        encoder = load_encoder("starter", device=settings.device).module
    encoder = published(encoder, settings)
    image = images(settings, encoder.config.input_size)
    if not settings.published:
        image = image.contiguous(memory_format=torch.channels_last)

    def call() -> Tensor:
        with settings.around():
            return encoder(image)

    return call


def images(settings: Settings, size: int, count: int | None = None) -> Tensor:
    """Return smooth random images [N, 3, size, size] in [-1, 1]."""
    rng = torch.Generator().manual_seed(1)
    small = torch.rand(count or settings.batch, 3, 16, 16, generator=rng) * 2 - 1
    return torch.nn.functional.interpolate(small, size=(size, size), mode="bicubic").clamp(-1, 1).to(settings.device)


def vit_for(settings: Settings) -> DinoFeatures:
    """Return DINO's ViT-B/8 with random weights, or the bundled transformer."""
    if settings.random_weights:
        from models.dino import DinoFeatures, ViTConfig, build_vit

        return DinoFeatures(build_vit(ViTConfig())).to(settings.device)
    from checkpoints.builders import load_vit

    return load_vit("starter", device=settings.device)


def dino(settings: Settings) -> Callable[[], Any]:
    """What one side of a training step reads: layers 5 and 11 for the directions, layer 5 for the consistency."""
    network = vit_for(settings)
    image = images(settings, settings.size)
    last = network.depth - 1
    reads = [(layer, "f") for layer in (min(5, last), last, min(5, last))]

    def call() -> Any:
        with settings.around():
            if settings.published:
                from benchmarks.published import tokens_one_by_one

                return [tokens_one_by_one(network, image, layer=layer, facet=facet) for layer, facet in reads]
            return network.tokens(image, layers={layer for layer, _ in reads}, facets={"f"})

    return call


def ops(settings: Settings) -> Callable[[], None]:
    """What surrounds the convolutions of one generator and one discriminator layer per size in a step, there and back.

    The generator's filter, demodulation, noise, bias and activation, then the discriminator's bias, activation and
    filter. In the published way the demodulation is a part of the weights.
    """
    from benchmarks.published import zero_insertion

    smooth = torch.tensor([1.0, 3.0, 3.0, 1.0], device=settings.device)
    kernel, functional = smooth.outer(smooth) / 64, torch.nn.functional
    layout = torch.contiguous_format if settings.published else torch.channels_last
    cases = []
    for side, width in PIXEL_WIDTHS.items():
        if side > settings.size:
            continue
        maps, upstream = (torch.randn(settings.batch, width, side + 1, side + 1, device=settings.device,
                                      dtype=settings.dtype).contiguous(memory_format=layout) for _ in range(2))
        bias = torch.zeros(width, device=settings.device, requires_grad=True)
        noise = torch.randn(settings.batch, 1, side, side, device=settings.device)
        factor = torch.rand(settings.batch, width, device=settings.device, requires_grad=True)
        cases.append((maps.requires_grad_(True), noise, bias, factor, upstream))
    strength = torch.zeros(1, device=settings.device, requires_grad=True)

    def ours(maps: Tensor, noise: Tensor, bias: Tensor, factor: Tensor) -> Tensor:
        y = filtered_leaky_relu(maps, kernel, bias, pad=(1, 1), noise=noise, strength=strength, factor=factor)
        return upfirdn2d(fused_leaky_relu(y, bias), kernel, pad=(2, 2))

    def published(maps: Tensor, noise: Tensor, bias: Tensor, _factor: Tensor) -> Tensor:
        y = zero_insertion(maps, kernel, pad=(1, 1)) + strength * noise
        for _ in range(2):
            y = functional.leaky_relu(y + bias[None, :, None, None], 0.2) * 2**0.5
        return zero_insertion(y, kernel, pad=(2, 2))

    def call() -> None:
        with backend.use(settings.backend):
            for maps, noise, bias, factor, upstream in cases:
                y = (published if settings.published else ours)(maps, noise, bias, factor)
                torch.autograd.grad(y, (maps, bias, strength, factor), upstream, allow_unused=settings.published)

    return call


def tuner_for(settings: Settings) -> Any:
    """Return a fine-tuning run between two random images, with every tenth step's regularisation."""
    from checkpoints.features import load_landmark_net
    from training.finetune import FineTuneConfig, FineTuner, Pair

    dtype = str(settings.dtype).removeprefix("torch.")
    if dtype == "float16":
        raise UserError("--dtype float16 cannot train; use bfloat16 or float32")
    generator = generator_for(settings)
    config = FineTuneConfig.profile("published" if settings.random_weights else "starter", batch=settings.batch, dtype=dtype)
    shape = DiscriminatorConfig(settings.size, generator.config.channels)
    discriminator = random_network(lambda: Discriminator(shape), settings)
    network, picture = vit_for(settings), images(settings, settings.size, 2)
    if not settings.random_weights:
        last = network.depth - 1
        config = FineTuneConfig.from_dict(config.to_dict() | {
            "directional_layers": [min(5, last), last], "consistency_layers": [min(5, last)]})
    latents = torch.zeros(2, generator.config.n_latent, generator.config.style_dim)
    make: Any = FineTuner
    if settings.published:
        from benchmarks.published import PublishedFineTuner as make
    tuner = make(published(generator, settings), published(discriminator, settings), dino=network, config=config,
                 pair=Pair(picture[:1], picture[1:], picture[1:]), latents=latents,
                 landmark_net=None if settings.random_weights else load_landmark_net(device=settings.device).module)
    if settings.published:
        tuner.use_published_objective(network)
    if settings.checkpointing:
        tuner.save_memory()
    return tuner


def train(settings: Settings) -> Callable[[bool], None]:
    """One fine-tuning step; called with True the step has R1 and path length, as every tenth one has."""
    tuner = tuner_for(settings)
    period = tuner.config.r1_every

    def call(regularised: bool = False) -> None:
        tuner.step_count = 0 if regularised else 1 + tuner.step_count // period * period
        with backend.use(settings.backend):
            tuner.step()

    return call


WORKLOADS: dict[str, Callable[[Settings], Callable[..., Any]]] = {
    "generate": generate, "encode": encode, "train": train, "ops": ops, "dino": dino}


def similarity(what: str, settings: Settings) -> float | None:
    """Return the PSNR in dB of generated images against float32 with plain operators; None for other workloads."""
    if what != "generate":
        return None
    exact = generate(replace(settings, dtype=torch.float32, backend="plain"))()
    return round(psnr(generate(settings)(), exact), 2)
