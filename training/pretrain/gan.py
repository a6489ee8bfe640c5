"""Second stage of the base generator: sharpen the autoencoder with a projected discriminator.

The discriminator sees frozen SqueezeNet features, randomly mixed over channels, at four scales (Projected GANs, Sauer
et al. 2021), so that a few ten thousand images are enough. Half of each batch are reconstructions, which keeps the
encoder and the generator a pair; the other half are samples through the mapping network.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm
from tqdm import tqdm

from models.e4e import E4EEncoder
from models.stylegan2 import Generator
from training.pretrain.autoencoder import (
    Autoencoder, AutoencoderConfig, all_codes, moment_penalty, set_prior, starter_encoder_config,
    starter_generator_config,
)
from training.pretrain.common import Clock, RandomFaces, load_state, require_state, save_state, update_average
from training.pretrain.faces import FacePack
from training.pretrain.teacher import TAP_CHANNELS, SqueezeNetTeacher, feature_distance


@dataclass(frozen=True)
class GanConfig:
    """Hyper-parameters of the stage."""

    reconstructions: int = 8
    samples: int = 8
    lr: float = 1e-3
    encoder_lr: float = 3e-4
    discriminator_lr: float = 1e-3
    adversarial_weight: float = 0.25
    l1_weight: float = 1.0
    perceptual_weight: float = 1.0
    code_noise: float = 0.1
    blend: float = 0.6
    average: float = 0.995
    compile: bool = True


class ScaleHead(nn.Module):
    """Spectrally normalised convolutions from one mixed feature map to a map of logits."""

    mixer: Tensor

    def __init__(self, in_channels: int, width: int, downs: int, *, seed: int) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        mixer = torch.randn(width, in_channels, 1, 1, generator=rng) / in_channels**0.5
        self.register_buffer("mixer", mixer)
        layers: list[nn.Module] = []
        for _ in range(downs):
            layers += [spectral_norm(nn.Conv2d(width, width, 4, 2, 1)), nn.LeakyReLU(0.2)]
        layers += [spectral_norm(nn.Conv2d(width, width, 3, 1, 1)), nn.LeakyReLU(0.2)]
        self.net = nn.Sequential(*layers, spectral_norm(nn.Conv2d(width, 1, 3, 1, 1)))

    def forward(self, features: Tensor) -> Tensor:
        """features [N, C, H, W] -> logits [N, 1, h, w]."""
        # The norm brings ImageNet features of every tap to one scale.
        x = F.conv2d(features, self.mixer)
        return self.net(x / (x.detach().square().mean(dim=(1, 2, 3), keepdim=True).sqrt() + 1e-4))


class ProjectedDiscriminator(nn.Module):
    """One head per tap of a frozen feature network; the logits of all are concatenated.

    Args:
        teacher: the feature network, shared and never trained.
    """

    def __init__(self, teacher: SqueezeNetTeacher) -> None:
        super().__init__()
        self.teacher = teacher
        self.heads = nn.ModuleList(
            ScaleHead(c, w, d, seed=i) for i, (c, w, d) in enumerate(zip(TAP_CHANNELS, (64, 96, 128, 192), (2, 1, 1, 0)))
        )

    def forward(self, image: Tensor) -> Tensor:
        """images [N, 3, S, S] in [-1, 1] -> logits [N, M]."""
        return torch.cat([head(x).float().flatten(1) for head, x in zip(self.heads, self.teacher(image))], dim=1)


def differentiable_augment(image: Tensor, rng: torch.Generator) -> Tensor:
    """Change colour, shift by up to an eighth and cut out a quarter square (DiffAugment, Zhao et al. 2020)."""
    n, _, height, width = image.shape

    def uniform() -> Tensor:
        return torch.rand(n, 1, 1, 1, generator=rng)

    x = image + uniform() * 0.6 - 0.3
    grey = x.mean(dim=1, keepdim=True)
    x = (x - grey) * (uniform() * 1.4 + 0.3) + grey
    middle = x.mean(dim=(1, 2, 3), keepdim=True)
    x = (x - middle) * (uniform() * 0.8 + 0.6) + middle
    theta = torch.eye(2, 3).repeat(n, 1, 1)
    theta[:, :, 2] = torch.rand(n, 2, generator=rng) * 0.5 - 0.25
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, padding_mode="zeros", align_corners=False)
    rows = torch.arange(height)[None, None, :, None] / height - uniform()
    columns = torch.arange(width)[None, None, None, :] / width - uniform()
    return x * ~((rows.abs() < 0.17) & (columns.abs() < 0.17))


def blended(state: dict, part: str) -> dict[str, Tensor]:
    """Return the weights of "g" or "e" between the stage's start and its average, at ``state["blend"]``.

    Interpolating the weights of a network and of its adversarially sharpened version keeps the new detail and drops
    much of the noise that a short adversarial training leaves (network interpolation, ESRGAN, Wang et al. 2018).
    """
    start, average = state[f"{part}_start"], state[f"{part}_average"]
    return {key: torch.lerp(start[key].float(), value.float(), state["blend"]).to(value.dtype)
            for key, value in average.items()}


class GanTrainer:
    """Generator, encoder and projected discriminator with their averages, resumable."""

    def __init__(self, config: GanConfig, teacher: SqueezeNetTeacher) -> None:
        torch.manual_seed(1)
        self.config, self.teacher = config, teacher
        self.generator, self.encoder = Generator(starter_generator_config()), E4EEncoder(starter_encoder_config())
        self.discriminator = ProjectedDiscriminator(teacher)
        self.g_average, self.e_average = deepcopy(self.generator), deepcopy(self.encoder)
        heads = self.discriminator.heads
        self.g_optimizer = torch.optim.Adam(
            [{"params": self.generator.parameters(), "lr": config.lr},
             {"params": self.encoder.parameters(), "lr": config.encoder_lr}], betas=(0.0, 0.99))
        self.d_optimizer = torch.optim.Adam(heads.parameters(), lr=config.discriminator_lr, betas=(0.0, 0.99))
        self.seen = 0
        self.centre, self.spread = torch.zeros(512), torch.ones(512)
        self._keep_start()
        self.synthesize = torch.compile(self._synthesize) if config.compile else self._synthesize

    def start_from(self, autoencoder: dict, pack: FacePack) -> None:
        """Begin with the averages of a trained autoencoder and give the mapping network the prior of its codes."""
        model = Autoencoder(AutoencoderConfig(size=128), self.teacher)
        model.load(autoencoder)
        self.generator.load_state_dict(model.averages[0].state_dict())
        self.encoder.load_state_dict(model.averages[1].state_dict())
        train, _ = pack.split()
        codes = all_codes(self.encoder, pack, train)
        self.spread = codes.std(dim=0)
        self.centre = set_prior(self.generator, self.encoder, codes)
        self.g_average.load_state_dict(self.generator.state_dict())
        self.e_average.load_state_dict(self.encoder.state_dict())
        self._keep_start()

    def _keep_start(self) -> None:
        self.g_start = {key: value.clone() for key, value in self.g_average.state_dict().items()}
        self.e_start = {key: value.clone() for key, value in self.e_average.state_dict().items()}

    def _synthesize(self, image: Tensor, z: Tensor, code_noise: Tensor, noise: list[Tensor]) -> tuple[Tensor, Tensor]:
        codes = self.encoder.base(image).float()
        w = torch.cat([codes + code_noise, self.generator.mapping(z).float()])
        return self.generator.synthesis(self.generator.broadcast(w), noise=noise), codes

    def step(self, faces: RandomFaces) -> dict[str, float]:
        """Run one iteration and return its loss terms."""
        config, rng = self.config, faces.rng
        image = faces(config.reconstructions)
        other = faces(config.samples)
        z = torch.randn(config.samples, 512, generator=rng)
        code_noise = torch.randn(config.reconstructions, 512, generator=rng) * config.code_noise * self.spread
        noise = self.generator.random_noise(config.reconstructions + config.samples, generator=rng)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            fake, codes = self.synthesize(image, z, code_noise, noise)
            rebuilt = fake[: config.reconstructions]
            with torch.no_grad():
                goal = self.teacher(image)
            perceptual = feature_distance(self.teacher(rebuilt), goal).mean()
            self.discriminator.heads.requires_grad_(False)
            adversarial = -self.discriminator(differentiable_augment(fake, rng)).mean()
        l1 = (rebuilt - image).abs().mean()
        loss = (config.adversarial_weight * adversarial + config.l1_weight * l1 + config.perceptual_weight * perceptual
                + 0.1 * moment_penalty((codes - self.centre) / self.spread))
        self.g_optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.encoder.parameters(), 5.0)
        self.g_optimizer.step()
        self.discriminator.heads.requires_grad_(True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            both = torch.cat([fake.detach(), image, other])
            logits = self.discriminator(differentiable_augment(both, rng))
        d_fake, d_real = logits[: len(fake)], logits[len(fake):]
        d_loss = F.relu(1.0 + d_fake).mean() + F.relu(1.0 - d_real).mean()
        self.d_optimizer.zero_grad()
        d_loss.backward()
        self.d_optimizer.step()
        self.seen += len(fake)
        decay = min(config.average, 1.0 - 16.0 / (self.seen + 16.0))
        update_average(self.g_average, self.generator, decay)
        update_average(self.e_average, self.encoder, decay)
        return {"adv": adversarial.item(), "d": d_loss.item(), "l1": l1.item(), "perc": perceptual.item()}

    def state(self) -> dict:
        parts = ("generator", "encoder", "g_average", "e_average", "g_optimizer", "d_optimizer")
        return {"heads": self.discriminator.heads.state_dict(), "seen": self.seen, "centre": self.centre,
                "spread": self.spread, "g_start": self.g_start, "e_start": self.e_start, "blend": self.config.blend,
                **{name: getattr(self, name).state_dict() for name in parts}}

    def load(self, state: dict) -> None:
        for name in ("generator", "encoder", "g_average", "e_average", "g_optimizer", "d_optimizer"):
            getattr(self, name).load_state_dict(state[name])
        self.discriminator.heads.load_state_dict(state["heads"])
        self.seen, self.centre, self.spread = state["seen"], state["centre"], state["spread"]
        self.g_start, self.e_start = state["g_start"], state["e_start"]


@torch.no_grad()
def gan_sheet(trainer: GanTrainer, pack: FacePack, path: Path) -> None:
    """Write held-out faces, their reconstructions, samples at psi 0.7 and samples at psi 1."""
    from torchvision.utils import save_image

    generator, encoder = deepcopy(trainer.g_average), deepcopy(trainer.e_average).eval()
    generator.load_state_dict(blended(trainer.state(), "g"))
    encoder.load_state_dict(blended(trainer.state(), "e"))
    _, held = pack.split()
    images = pack.batch(held[:10])
    rng = torch.Generator().manual_seed(5)
    z = torch.randn(20, 512, generator=rng)
    w_avg = generator.mean_w(4096, generator=rng)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        w = torch.cat([encoder.base(images).float(), generator.mapping(z[:10], truncation_psi=0.7, w_avg=w_avg).float(),
                       generator.mapping(z[10:]).float()])
        fake = generator.synthesis(generator.broadcast(w), noise=generator.fixed_noise())
    save_image(torch.cat([images, fake]).clamp(-1, 1) * 0.5 + 0.5, path, nrow=10)


def train_gan(pack: FacePack, teacher_path: Path, folder: Path, *, minutes: float) -> dict:
    """Train for ``minutes`` from ``folder/autoencoder.pt``, saving ``folder/gan.pt`` and a sheet; resumes."""
    trainer = GanTrainer(GanConfig(), SqueezeNetTeacher(teacher_path))
    path = folder / "gan.pt"
    saved = load_state(path)
    if saved is not None:
        trainer.load(saved)
    else:
        autoencoder = require_state(folder / "autoencoder.pt")
        trainer.start_from(autoencoder, pack)
        gan_sheet(trainer, pack, folder / "gan_start.png")
    faces, clock = RandomFaces(pack, seed=1000 + trainer.seen), Clock(minutes)
    bar, averages = tqdm(desc="gan", unit="img"), {}
    trainer.encoder.train()
    while not clock.done():
        for name, value in trainer.step(faces).items():
            averages[name] = 0.95 * averages.get(name, value) + 0.05 * value
        bar.update(trainer.config.reconstructions + trainer.config.samples)
        bar.set_postfix({name: f"{value:.3f}" for name, value in averages.items()}, seen=trainer.seen)
        if clock.should_save():
            save_state(path, trainer.state())
            gan_sheet(trainer, pack, folder / "gan.png")
    save_state(path, trainer.state())
    gan_sheet(trainer, pack, folder / "gan.png")
    return {"images": trainer.seen, **averages}
