"""First stage of the base generator on a CPU: encoder and synthesis together as an autoencoder in W.

A plain GAN needs far more images than two cores can make. Here the encoder's common row w reconstructs the face
through the synthesis network (L1 + perceptual); its batch statistics are held at zero mean and unit variance and noise
is added to it, so that a Gaussian fitted to the codes afterwards is a usable prior (regularised autoencoder, Ghosh et
al. 2020). ``set_prior`` then makes the mapping network draw from that Gaussian.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.e4e import E4EConfig, E4EEncoder
from models.layers import ModulatedConv2d
from models.stylegan2 import Generator, GeneratorConfig
from training.ema import update_average
from training.pretrain import parallel
from training.pretrain.common import Clock, RandomFaces, half_precision, resume, run_stage
from training.pretrain.faces import FacePack
from training.pretrain.teacher import SqueezeNetTeacher, feature_distance

STARTER_CHANNELS = {4: 256, 8: 256, 16: 256, 32: 256, 64: 128, 128: 64}


def starter_generator_config(size: int = 128) -> GeneratorConfig:
    """Return the starter's generator config; smaller ``size`` gives the same network without its last blocks."""
    return GeneratorConfig(size=size, channels={r: c for r, c in STARTER_CHANNELS.items() if r <= size})


def starter_encoder_config(n_styles: int = 12) -> E4EConfig:
    """Return the starter's encoder config: a lighter body of the same family."""
    return E4EConfig(input_size=128, n_styles=n_styles, stem=32, widths=(48, 96, 160, 256), units=(2, 2, 4, 2),
                     base_width=256, delta_width=64)


@dataclass(frozen=True)
class AutoencoderConfig:
    """Hyper-parameters of the stage; ``size`` is the resolution of the reconstruction in px."""

    size: int = 64
    batch: int = 8
    lr: float = 2e-3
    encoder_lr: float = 1e-3
    code_noise: float = 0.1
    l1_weight: float = 1.0
    perceptual_weight: float = 1.0
    moment_weight: float = 0.1
    average: float = 0.995
    compile: bool = True


def moment_penalty(codes: Tensor) -> Tensor:
    """Return mean(mean^2) + mean((var - 1)^2) of codes [N, D] over the batch."""
    var, mean = torch.var_mean(codes.float(), dim=0)
    return mean.square().mean() + (var - 1.0).square().mean()


class Autoencoder(nn.Module):
    """Encoder and generator with their running averages, resumable.

    Args:
        config: hyper-parameters.
        teacher: frozen perceptual network.
    """

    def __init__(self, config: AutoencoderConfig, teacher: SqueezeNetTeacher) -> None:
        super().__init__()
        self.config, self.teacher, self.seen = config, teacher, 0
        self.generator = Generator(starter_generator_config(config.size))
        self.encoder = E4EEncoder(starter_encoder_config())
        self.averages = nn.ModuleList([deepcopy(self.generator), deepcopy(self.encoder)]).requires_grad_(False)
        self.optimizer = torch.optim.Adam(
            [{"params": self.generator.parameters(), "lr": config.lr},
             {"params": self.encoder.parameters(), "lr": config.encoder_lr}], betas=(0.9, 0.99))

    def losses(self, image: Tensor, code_noise: Tensor) -> Tensor:
        """Return [L1, perceptual, moment] of images [N, 3, S, S] with ``code_noise`` [N, D] added to the codes."""
        codes = self.encoder.base(image)
        w_plus = self.generator.broadcast(codes.float() + code_noise)
        fake = self.generator.synthesis(w_plus, noise=self.generator.zero_noise())
        real = F.avg_pool2d(image, image.shape[2] // fake.shape[2])
        l1 = (fake - real).abs().mean()
        scale = 128 // fake.shape[2]
        with torch.no_grad():
            goal = self.teacher(F.interpolate(real, scale_factor=scale) if scale > 1 else real)
        seen = self.teacher(F.interpolate(fake, scale_factor=scale) if scale > 1 else fake)
        return torch.stack([l1, feature_distance(seen, goal).mean(), moment_penalty(codes)])

    def state(self) -> dict:
        return {"generator": self.generator.state_dict(), "encoder": self.encoder.state_dict(),
                "averages": self.averages.state_dict(), "optimizer": self.optimizer.state_dict(),
                "size": self.config.size, "seen": self.seen}

    def set_rates(self, share: float) -> None:
        """Set the learning rates to a share of the config's."""
        for group, rate in zip(self.optimizer.param_groups, (self.config.lr, self.config.encoder_lr), strict=True):
            group["lr"] = rate * share

    def load(self, state: dict) -> None:
        """Load a state of the same or of half the size; new blocks keep their initial weights."""
        same = state["size"] == self.config.size
        for module, key in ((self.generator, "generator"), (self.encoder, "encoder"), (self.averages, "averages")):
            unexpected = module.load_state_dict(state[key], strict=False).unexpected_keys
            if unexpected:
                raise ValueError(f"saved state has weights that this size lacks: {unexpected[:3]}")
        if same:
            self.optimizer.load_state_dict(state["optimizer"])
        self.seen = state["seen"]


def train_autoencoder(
    pack: FacePack, teacher_path: Path, folder: Path, *, minutes: float, size: int, device: torch.device | str = "cpu",
) -> dict:
    """Train for ``minutes`` at ``size`` px, saving ``folder/autoencoder.pt``; resumes, also from half size."""
    torch.manual_seed(0)
    config = replace(AutoencoderConfig(), size=size)
    model, path = Autoencoder(config, SqueezeNetTeacher(teacher_path)).to(device), folder / "autoencoder.pt"
    resume(model, path)
    parallel.share(model)
    faces = RandomFaces(pack, seed=model.seen, device=device)
    losses = torch.compile(model.losses) if config.compile else model.losses
    sheet = partial(autoencoder_sheet, model, pack, folder / "autoencoder.png")
    model.encoder.train()
    run_stage(model, partial(autoencoder_step, model, losses, faces), path, clock=Clock(minutes), report=sheet)
    if parallel.leads():
        sheet()
    return {"images": model.seen}


def autoencoder_step(
    model: Autoencoder, losses: Callable[[Tensor, Tensor], Tensor], faces: RandomFaces, spent: float
) -> dict[str, float]:
    """Run one iteration after a share of the budget and return its terms."""
    config = model.config
    model.set_rates(min(1.0, 4.0 * (1.0 - spent) + 0.05))
    image = faces(config.batch)
    noise = faces.normal(config.batch, model.encoder.config.style_dim) * config.code_noise
    with half_precision(image.device):
        terms = losses(image, noise)
    model.optimizer.zero_grad()
    (terms * terms.new_tensor([config.l1_weight, config.perceptual_weight, config.moment_weight])).sum().backward()
    parallel.average_step(model.generator, model.encoder)
    nn.utils.clip_grad_norm_(model.encoder.parameters(), 5.0)
    model.optimizer.step()
    model.seen += config.batch * parallel.count()
    decay = min(config.average, 1.0 - 10.0 * config.batch / (model.seen + 1.0)) if model.seen > 320 else 0.0
    update_average(model.averages[0], model.generator, decay)
    update_average(model.averages[1], model.encoder, decay)
    return dict(zip(("l1", "perc", "mom"), terms.tolist(), strict=True))


@torch.no_grad()
def all_codes(encoder: E4EEncoder, pack: FacePack, index: Tensor) -> Tensor:
    """Return the common row w [M, D] of the faces ``index``, float32."""
    encoder.eval()
    device = next(encoder.parameters()).device
    with half_precision(device):
        return torch.cat([encoder.base(pack.batch(part).to(device)).float() for part in index.split(64)])


@torch.no_grad()
def fit_mapping(generator: Generator, codes: Tensor, *, height: Tensor | None = None) -> None:
    """Make the mapping network draw from the Gaussian of ``codes`` [M, D].

    With z^ the pixel-normalised z and V diag(s) the principal axes and deviations of the codes, w becomes
    ``height`` + V diag(s) z^, with the mean of the codes for ``height`` [D] when none is given. This is exact where the
    height stays some deviations above zero, which keeps every leaky ReLU on its linear side: the first layer holds the
    whole map and the others pass it on.
    """
    mean = codes.mean(dim=0)
    height = mean if height is None else height
    transform = _principal_axes(codes)
    gain = 2.0**0.5
    for index, layer in enumerate(list(generator.style)[1:]):
        weight = transform.t() if index == 0 else torch.eye(mean.numel(), device=mean.device)
        layer.weight.copy_(weight / gain / layer.scale)
        layer.bias.copy_(height / gain / layer.lr_mul if index == 0 else torch.zeros_like(height))


def _principal_axes(codes: Tensor) -> Tensor:
    """Return rows s_i v_i [D, D] of ``codes`` [M, D], zero where there are fewer codes than dimensions."""
    _, deviation, axes = torch.linalg.svd(codes - codes.mean(dim=0), full_matrices=False)
    transform = (deviation / len(codes) ** 0.5)[:, None] * axes  # [K, D], K <= D
    return torch.cat([transform, transform.new_zeros(codes.shape[1] - len(transform), codes.shape[1])])


@torch.no_grad()
def set_prior(generator: Generator, encoder: E4EEncoder, codes: Tensor, *, margin: float = 6.0) -> Tensor:
    """Give the mapping network the Gaussian of ``codes`` [M, D], lifted above zero, and return the new w_avg [D].

    The mean moves to ``margin`` deviations above zero, where ``fit_mapping`` is exact. The constant this adds to w is
    taken out again by the biases of the modulations and given to the encoder's common row, so that images do not change.
    """
    height = margin * _principal_axes(codes).square().sum(dim=0).sqrt()  # [D]
    fit_mapping(generator, codes, height=height)
    shift = height - codes.mean(dim=0)
    for module in generator.modules():
        if isinstance(module, ModulatedConv2d):
            linear = module.modulation
            linear.bias.sub_(linear.weight @ shift * linear.scale / linear.lr_mul)
    encoder.styles[0].linear.bias.add_(shift)
    return height


@torch.no_grad()
def autoencoder_sheet(model: Autoencoder, pack: FacePack, path: Path) -> None:
    """Write held-out faces above their reconstructions."""
    from torchvision.utils import save_image

    train, held = pack.split()
    model.averages.eval()
    images = pack.batch(torch.cat([held[:8], train[:4]])).to(next(model.parameters()).device)
    generator, encoder = model.averages[0], model.averages[1]
    with half_precision(images.device):
        codes = encoder.base(images).float()
        fake = generator.synthesis(generator.broadcast(codes), noise=generator.zero_noise())
    real = F.avg_pool2d(images, images.shape[2] // fake.shape[2])
    save_image(torch.cat([real, fake]).clamp(-1, 1) * 0.5 + 0.5, path, nrow=12)
