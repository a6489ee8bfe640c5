"""Second stage of the base generator: sharpen the autoencoder with a projected discriminator.

The discriminator sees frozen SqueezeNet features, randomly mixed over channels, at four scales (Projected GANs, Sauer
et al. 2021), so that some ten thousand images are enough, and the pixels themselves, because those features are blind
to the finest noise. Half of each batch are reconstructions, which keeps the encoder and the generator a pair; the other
half are samples through the mapping network. That network is not trained against the discriminator: left to itself it
moved away from the codes of faces, to where the discriminator was content and the images were not. It draws from the
Gaussian of the encoder's codes, fitted anew as they move. The stage runs at half the size first (progressive growing,
Karras et al. 2018), which is three times as fast per image, and then grows.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from models.e4e import E4EEncoder
from models.stylegan2 import Generator
from training.ema import update_average
from training.pretrain import parallel
from training.pretrain.autoencoder import (
    Autoencoder,
    AutoencoderConfig,
    all_codes,
    fit_mapping,
    moment_penalty,
    set_prior,
    starter_encoder_config,
    starter_generator_config,
)
from training.pretrain.common import (
    Clock,
    RandomFaces,
    half_precision,
    load_state,
    require_state,
    run_stage,
    starter_weights,
)
from training.pretrain.faces import FacePack
from training.pretrain.projected import ProjectedDiscriminator, differentiable_augment
from training.pretrain.teacher import SqueezeNetTeacher, feature_distance


@dataclass(frozen=True)
class GanConfig:
    """Hyper-parameters of the stage; ``size`` is the side of the images in px, ``refit_every`` counts images and
    ``warm_up`` the iterations of a new discriminator before generator and encoder are changed that are trained already.
    """

    size: int = 128
    reconstructions: int = 8
    samples: int = 8
    lr: float = 1e-3
    encoder_lr: float = 3e-4
    discriminator_lr: float = 1e-3
    adversarial_weight: float = 0.25
    l1_weight: float = 1.0
    perceptual_weight: float = 1.0
    code_noise: float = 0.1
    average: float = 0.998
    warm_up: int = 150
    refit_every: int = 4096
    compile: bool = True


def enlarged(image: Tensor, size: int = 128) -> Tensor:
    """Return images [N, 3, S, S] at ``size`` px, the size at which the teacher's features are compared."""
    if image.shape[2] == size:
        return image
    return F.interpolate(image, size=(size, size), mode="bilinear", align_corners=False)


@dataclass(frozen=True)
class Batch:
    """Faces to rebuild and other faces, [N, 3, S, S], and what ``GanTrainer.synthesize`` takes."""

    image: Tensor
    other: Tensor
    inputs: tuple[Tensor, Tensor, Tensor, list[Tensor]]


class GanTrainer:
    """Generator, encoder and projected discriminator with their averages, resumable.

    Args:
        config: hyper-parameters; the batches are per process.
        teacher: frozen perceptual network; it is moved to the device.
        device: where to train.
    """

    def __init__(self, config: GanConfig, teacher: SqueezeNetTeacher, *, device: torch.device | str = "cpu") -> None:
        torch.manual_seed(1)
        self.device = torch.device(device)
        self.config, self.teacher = config, teacher.to(self.device)
        self.generator = Generator(starter_generator_config(config.size)).to(self.device)
        self.generator.style.requires_grad_(False)
        self.encoder = E4EEncoder(starter_encoder_config()).to(self.device)
        self.discriminator = ProjectedDiscriminator(teacher).to(self.device)
        self.g_average, self.e_average = deepcopy(self.generator), deepcopy(self.encoder)
        heads = self.discriminator.heads
        self.g_optimizer = torch.optim.Adam(
            [{"params": self.generator.parameters(), "lr": config.lr},
             {"params": self.encoder.parameters(), "lr": config.encoder_lr}], betas=(0.0, 0.99))
        self.d_optimizer = torch.optim.Adam(heads.parameters(), lr=config.discriminator_lr, betas=(0.0, 0.99))
        self.seen = 0
        self.centre, self.spread = torch.zeros(512, device=self.device), torch.ones(512, device=self.device)
        # The autoencoder's full-size generator, whose last block is the start of the grown one.
        self.full = Generator(starter_generator_config()).state_dict()
        self.synthesize = torch.compile(self._synthesize) if config.compile else self._synthesize

    def start_from(self, autoencoder: dict, pack: FacePack) -> None:
        """Begin with the averages of a trained autoencoder and give the mapping network the prior of its codes."""
        model = Autoencoder(AutoencoderConfig(size=128), self.teacher).to(self.device)
        model.load(autoencoder)
        generator, encoder = model.averages[0], model.averages[1]
        train, _ = pack.split()
        codes = all_codes(encoder, pack, train)
        self.spread = codes.std(dim=0)
        self.centre = set_prior(generator, encoder, codes)
        self.full = generator.state_dict()
        for module in (self.generator, self.g_average):
            module.load_state_dict(self.full, strict=self.config.size == 128)
        for module in (self.encoder, self.e_average):
            module.load_state_dict(encoder.state_dict())

    def start_from_files(self, folder: Path, faces: RandomFaces) -> None:
        """Go on from starter files, which hold no discriminator: a new one learns to tell them from faces first."""
        weights = starter_weights(folder)
        self.full, self.seen = weights["g_average"], weights["seen"]
        for module in (self.generator, self.g_average):
            module.load_state_dict(self.full, strict=self.config.size == 128)
        for module in (self.encoder, self.e_average):
            module.load_state_dict(weights["e_average"])
        codes = all_codes(self.e_average, faces.pack, faces.train)
        self.centre, self.spread = codes.mean(dim=0), codes.std(dim=0)
        for _ in tqdm(range(self.config.warm_up), desc="discriminator", disable=not parallel.leads()):
            batch = self._draw(faces)
            with torch.no_grad(), half_precision(self.device):
                fake, _ = self.synthesize(*batch.inputs)
            self._judge(fake, batch.image, batch.other, faces.rng)

    def refit(self, pack: FacePack) -> None:
        """Make the mapping networks draw from the codes that the averaged encoder gives the training faces now."""
        train, _ = pack.split()
        codes = all_codes(self.e_average, pack, train)
        for generator in (self.generator, self.g_average):
            fit_mapping(generator, codes)

    def share(self) -> None:
        """Begin from the same weights in every process."""
        parallel.share(self.generator, self.encoder, self.discriminator.heads, self.g_average, self.e_average)

    def _synthesize(self, image: Tensor, z: Tensor, code_noise: Tensor, noise: list[Tensor]) -> tuple[Tensor, Tensor]:
        codes = self.encoder.base(image).float()
        w = torch.cat([codes + code_noise, self.generator.mapping(z).float()])
        return self.generator.synthesis(self.generator.broadcast(w), noise=noise), codes

    def _resized(self, image: Tensor) -> Tensor:
        return F.avg_pool2d(image, image.shape[2] // self.config.size) if image.shape[2] > self.config.size else image

    def _draw(self, faces: RandomFaces) -> Batch:
        config = self.config
        photo = faces(config.reconstructions)
        image, other = self._resized(photo), self._resized(faces(config.samples))
        z = faces.normal(config.samples, 512)
        code_noise = faces.normal(config.reconstructions, 512) * config.code_noise * self.spread
        noise = self.generator.random_noise(config.reconstructions + config.samples, generator=faces.rng)
        return Batch(image, other, (photo, z, code_noise, noise))

    def step(self, faces: RandomFaces) -> dict[str, float]:
        """Run one iteration and return its loss terms."""
        config, rng = self.config, faces.rng
        batch = self._draw(faces)
        image = batch.image
        with half_precision(self.device):
            fake, codes = self.synthesize(*batch.inputs)
            rebuilt = fake[: config.reconstructions]
            with torch.no_grad():
                goal = self.teacher(enlarged(image))
            perceptual = feature_distance(self.teacher(enlarged(rebuilt)), goal).mean()
            self.discriminator.heads.requires_grad_(False)
            adversarial = -self.discriminator(differentiable_augment(fake, rng)).mean()
        l1 = (rebuilt - image).abs().mean()
        loss = (config.adversarial_weight * adversarial + config.l1_weight * l1 + config.perceptual_weight * perceptual
                + 0.1 * moment_penalty((codes - self.centre) / self.spread))
        self.g_optimizer.zero_grad()
        loss.backward()
        parallel.average_step(self.generator, self.encoder)
        nn.utils.clip_grad_norm_(self.encoder.parameters(), 5.0)
        self.g_optimizer.step()
        d_loss = self._judge(fake.detach(), image, batch.other, rng)
        self.seen += len(fake) * parallel.count()
        decay = min(config.average, 1.0 - 16.0 / (self.seen + 16.0))
        update_average(self.g_average, self.generator, decay)
        update_average(self.e_average, self.encoder, decay)
        return {"adv": adversarial.item(), "d": d_loss.item(), "l1": l1.item(), "perc": perceptual.item()}

    def _judge(self, fake: Tensor, image: Tensor, other: Tensor, rng: torch.Generator) -> Tensor:
        """Run one iteration of the discriminator and return its loss."""
        self.discriminator.heads.requires_grad_(True)
        with half_precision(self.device):
            logits = self.discriminator(differentiable_augment(torch.cat([fake, image, other]), rng))
        d_fake, d_real = logits[: len(fake)], logits[len(fake):]
        loss = F.relu(1.0 + d_fake).mean() + F.relu(1.0 - d_real).mean()
        self.d_optimizer.zero_grad()
        loss.backward()
        parallel.average_step(self.discriminator.heads)
        self.d_optimizer.step()
        return loss.detach()

    def state(self) -> dict:
        parts = ("generator", "encoder", "g_average", "e_average", "g_optimizer", "d_optimizer")
        return {"heads": self.discriminator.heads.state_dict(), "seen": self.seen, "centre": self.centre,
                "spread": self.spread, "full": self.full, "size": self.config.size,
                **{name: getattr(self, name).state_dict() for name in parts}}

    def load(self, state: dict) -> None:
        """Load a state of the same or of half the size; what is new comes from the autoencoder."""
        same = state["size"] == self.config.size
        for name in ("generator", "g_average"):
            getattr(self, name).load_state_dict(state[name] if same else state["full"] | state[name])
        for name in ("encoder", "e_average", "d_optimizer", *(("g_optimizer",) if same else ())):
            getattr(self, name).load_state_dict(state[name])
        self.discriminator.heads.load_state_dict(state["heads"])
        self.full, self.seen = state["full"], state["seen"]
        self.centre, self.spread = (state[name].to(self.device) for name in ("centre", "spread"))


@torch.no_grad()
def gan_sheet(trainer: GanTrainer, pack: FacePack, path: Path) -> None:
    """Write held-out faces, their reconstructions, samples at psi 0.7 and samples at psi 1."""
    from torchvision.utils import save_image

    generator, encoder = trainer.g_average, trainer.e_average.eval()
    _, held = pack.split()
    images = pack.batch(held[:10]).to(trainer.device)
    rng = torch.Generator().manual_seed(5)
    z = torch.randn(20, 512, generator=rng).to(trainer.device)
    w_avg = generator.mean_w(4096, generator=rng)
    with half_precision(trainer.device):
        w = torch.cat([encoder.base(images).float(), generator.mapping(z[:10], truncation_psi=0.7, w_avg=w_avg).float(),
                       generator.mapping(z[10:]).float()])
        fake = generator.synthesis(generator.broadcast(w), noise=generator.fixed_noise())
    save_image(torch.cat([images, enlarged(fake)]).clamp(-1, 1) * 0.5 + 0.5, path, nrow=10)


def train_gan(
    pack: FacePack, teacher_path: Path, folder: Path, *, minutes: float, size: int = 128, start: Path | None = None,
    device: torch.device | str = "cpu",
) -> dict:
    """Train for ``minutes`` at ``size`` px from ``folder/autoencoder.pt``, saving ``folder/gan.pt``; resumes.

    ``start`` names a folder of starter files to begin with in place of the autoencoder.
    """
    trainer = GanTrainer(GanConfig(size=size), SqueezeNetTeacher(teacher_path), device=device)
    path = folder / "gan.pt"
    saved = load_state(path)
    if saved is not None:
        trainer.load(saved)
    elif start is not None:
        trainer.start_from_files(start, RandomFaces(pack, seed=999, device=device))
    else:
        autoencoder = require_state(folder / "autoencoder.pt")
        trainer.start_from(autoencoder, pack)
        if parallel.leads():
            gan_sheet(trainer, pack, folder / "gan_start.png")
    trainer.share()
    trainer.refit(pack)
    faces, clock = RandomFaces(pack, seed=1000 + trainer.seen, device=device), Clock(minutes)
    trainer.encoder.train()

    def step(fraction: float) -> dict[str, float]:
        before = trainer.seen
        terms = trainer.step(faces)
        if before // trainer.config.refit_every < trainer.seen // trainer.config.refit_every:
            trainer.refit(pack)
        return terms

    terms = run_stage(trainer, step, path, clock=clock, report=lambda: gan_sheet(trainer, pack, folder / "gan.png"),
                      finish=lambda: trainer.refit(pack))
    if parallel.leads():
        gan_sheet(trainer, pack, folder / "gan.png")
    return {"images": trainer.seen, **terms}
